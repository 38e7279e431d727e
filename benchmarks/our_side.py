"""This project's side of a benchmark: its own classes, driven as its commands drive them."""

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from unittest.mock import patch

from benchmarks.measure import PHASES, TRAINING_BATCHES, EpochTime, clock
from benchmarks.settings import Settings
from datasets import LongTailedData
from models.folding import fold_batch_norm
from utils.errors import UserError
from utils.evaluation.evaluator import Evaluator, class_centroids, extract_features
from utils.machine.device import choose_machine, seed_everything
from utils.options.flags import Options
from utils.options.parse import parse_options
from utils.progress import Progress
from utils.runs import checkpoint
from utils.runs.folders import run_folder
from utils.runs.lookup import find_pretrained
from utils.training.phase import Phase
from utils.training.setup import Run, Stage
from utils.training.stage1 import pretraining
from utils.training.stage2 import finetuning
from utils.training.steps import Step, make_step
from utils.training.trainer import Trainer


class _FirstStepDone(Exception):
    pass


class OurSide:
    """Both stages of this project on given data.

    Args:
        settings: precision, step, network and batch size.
        data: training, test and held-out images.
        folder: where runs leave their files.
        repetitions: epochs of each phase in a visit.
        dropped: how many of these, the first, are warm-up (captured or compiled steps).
    """

    def __init__(
        self,
        settings: Settings,
        data: LongTailedData,
        folder: Path,
        repetitions: int = 1,
        dropped: int = 0,
    ) -> None:
        self.settings, self.data, self.folder = settings, data, folder
        self.repetitions, self.dropped = repetitions, dropped

    def visit(self) -> dict[str, list[EpochTime]]:
        """Trains both stages anew; the measured epochs of each phase.

        An epoch's seconds include its share of what a run does between epochs: records and
        checkpoints.
        """
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            roots = ["--root_log", name, "--root_model", name]
            found = self._train([*self._stage_1_flags(self.repetitions), *roots], pretraining)
            found |= self._train(*self._stage_2(name, roots))
        return {phase: found[phase][self.dropped :] for phase in PHASES}

    def _stage_1_flags(self, epochs: int) -> list[str]:
        flags = self.settings.training_flags()
        return [*flags, "--epochs", str(epochs), "--schedule", "scaled"]

    def _stage_2(self, root: str, roots: list[str]) -> tuple[list[str], Callable[[Run], Stage]]:
        (stage_1,) = Path(root).iterdir()
        lengths = self.repetitions, self.repetitions
        start = ["--pretrained", stage_1.name]
        flags = [*self.settings.stage_2_flags(*lengths), *start, *roots]
        path = find_pretrained(parse_options(flags))
        return flags, lambda run: finetuning(run, checkpoint.load(path), path)

    def _run(self, options: Options) -> Run:
        machine = choose_machine(options.gpu, options.precision, options.step)
        assert options.seed is not None  # the flags of the settings name one
        generator = seed_everything(options.seed)
        return Run(options, run_folder(options), machine, self.data, generator)

    def _train(
        self, flags: list[str], make_stage: Callable[[Run], Stage]
    ) -> dict[str, list[EpochTime]]:
        run = self._run(parse_options(flags))
        trainer = Trainer(run, make_stage(run))
        with run.folder.locked(), contextlib.redirect_stdout(io.StringIO()):
            began = clock(run.machine.device)
            trainer.run()
            seconds = clock(run.machine.device) - began
        lines = (run.folder.records / "log.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        between = max(0.0, seconds - sum(r["seconds"] for r in records)) / len(records)
        images = {p.name: len(p.loader.order) for p in trainer.phases}
        found: dict[str, list[EpochTime]] = {}
        for record in records:
            training_seconds = images[record["phase"]] / record["images_per_second"]
            time_of_epoch = EpochTime(record["seconds"] + between, training_seconds)
            found.setdefault(record["phase"], []).append(time_of_epoch)
        return found

    def first_step(self) -> None:
        """Stage 1's first: the training is left as soon as a step is counted."""

        def leave(*_: object) -> None:
            raise _FirstStepDone

        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            flags = [*self._stage_1_flags(1), "--root_log", name, "--root_model", name]
            with patch.object(Progress, "advance", leave), contextlib.suppress(_FirstStepDone):
                self._train(flags, pretraining)

    def prepared(self) -> "PreparedSide":
        """Networks and loaders for what is measured without whole epochs."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            roots = ["--root_log", name, "--root_model", name]
            run = self._run(parse_options([*self._stage_1_flags(1), *roots]))
            stage = pretraining(run)
            path = run.folder.best_checkpoint
            path.parent.mkdir(parents=True)
            checkpoint.save(path, {"state_dict": stage.model.state_dict()})
            flags, make_stage = self._stage_2(name, roots)
            run = self._run(parse_options(flags))
            return PreparedSide(run, stage, make_stage(run))


class PreparedSide:
    """Both stages of a run, before their first epochs."""

    def __init__(self, run: Run, stage_1: Stage, stage_2: Stage) -> None:
        self.machine, self.device, self.stage = run.machine, run.machine.device, stage_2
        self.evaluator = Evaluator(run.data, run.machine)
        self.images = sum(len(split) for split in run.data.evaluation_splits.values())
        self.stages = {"pretraining": stage_1, "features": stage_2}
        self.steps: dict[str, Step] = {}
        self.centroids = class_centroids(
            stage_2.model, self.evaluator.train_loader, run.data.num_classes, run.machine
        )

    def _phase(self, name: str) -> tuple[Stage, Phase]:
        stage = self.stages["features" if name == "classifier" else name]
        return stage, next(phase for phase in stage.phases if phase.name == name)

    def steps_an_epoch(self, name: str) -> int:
        return len(self._phase(name)[1].loader)

    def step_and_batches(self, name: str, most: int) -> tuple[Step, Iterator[tuple]]:
        """The step of a phase, made once, and its arguments in the first batches of an epoch, of
        which there are at most so many."""
        stage, phase = self._phase(name)
        stage.model.train(not phase.features_are_frozen)
        phase.free(stage.model)
        objective = phase.objective(phase.epochs.start).to(self.device)
        if name not in self.steps:
            network = stage.model if phase.features_are_frozen else stage.network
            self.steps[name] = make_step(network, phase, objective, self.machine)
        centroids = self.centroids if objective.uses_centroids else None
        batches = phase.loader.pixels()
        if phase.features_are_frozen:
            parts = phase.loader.batches(phase.loader.batch_size)
            network = fold_batch_norm(stage.model)
            batches = (
                extract_features(network, [part], self.machine) for part in islice(parts, most)
            )
        arguments = ((inputs, targets, centroids) for inputs, targets in batches)
        return self.steps[name], islice(arguments, most)

    def training_rate(self, name: str) -> float:
        """Images a second of the first steps of an epoch, its augmentation included."""
        step, batches = self.step_and_batches(name, TRAINING_BATCHES)
        began, images = clock(self.device), 0
        for batch in batches:
            step(*batch)
            images += len(batch[1])
        return images / (clock(self.device) - began)

    def evaluation_rate(self) -> float:
        """Images a second of the pass over the evaluated sets."""
        began = clock(self.device)
        self.evaluator.look(self.stage.model)
        self.evaluator.linear(self.stage.model)
        return self.images / (clock(self.device) - began)

    def augmentation_rate(self) -> float:
        """Images a second that the feature phase's loader brings to the network."""
        loader = self.stage.phases[0].loader
        began, images = clock(self.device), 0
        for inputs, _ in loader:
            images += len(inputs)
        return images / (clock(self.device) - began)


def native_precision(gpu: int | None, allowed: tuple[str, ...]) -> str:
    """`bf16` where the processor or GPU has it, else `float32`."""
    if "bf16" in allowed:
        with contextlib.suppress(UserError):
            choose_machine(gpu, "bf16")
            return "bf16"
    return "float32"

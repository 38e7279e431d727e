"""This project's side of a benchmark: its own classes, driven as its commands drive them."""

import contextlib
import io
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from benchmarks.settings import PHASES, Settings
from benchmarks.side import TRAINING_BATCHES, EpochTime, Side, clock
from datasets import LongTailedData
from models.folding import fold_batch_norm
from utils.evaluation.evaluator import Evaluator, class_centroids, extract_features
from utils.machine.device import choose_machine, seed_everything
from utils.options.flags import Options
from utils.options.parse import parse_stages
from utils.runs.folders import run_folder
from utils.runs.records import read_epochs
from utils.training.phase import Phase
from utils.training.setup import Run, Stage
from utils.training.stage1 import pretraining
from utils.training.stage2 import finetuning
from utils.training.steps import Step, make_step
from utils.training.trainer import Trainer


class OurSide(Side):
    """Both stages of this project on given data.

    Args:
        settings: of both sides.
        data: training, test and held-out images.
        folder: where runs leave their files.
    """

    def __init__(self, settings: Settings, data: LongTailedData, folder: Path) -> None:
        self.settings, self.data, self.folder = settings, data, folder
        options = settings.options
        self.machine = choose_machine(options.gpu, options.precision, options.step)
        self.device = self.machine.device
        # On a GPU an epoch is short, and its first one captures or compiles the step.
        is_warmed_up = self.device.type == "cuda" or options.step == "compile"
        self.epochs, self.dropped = (3, 1) if is_warmed_up else (1, 0)
        self.steps: dict[str, Step] = {}

    def _stages(self, root: str) -> Iterator[tuple[Run, Stage]]:
        """Yields stage 1, and then stage 2, which starts from the weights that stage 1 has by
        then."""
        lengths = dict.fromkeys(PHASES, self.epochs)
        first, second = parse_stages(self.settings.command(lengths, root))
        run = self._run(first)
        stage = pretraining(run)
        yield run, stage
        start = {"arch": first.arch, "state_dict": stage.model.state_dict()}
        run = self._run(second)
        yield run, finetuning(run, start, Path("stage 1"))

    def _run(self, options: Options) -> Run:
        assert options.seed is not None  # the command names one
        generator = seed_everything(options.seed)
        return Run(options, run_folder(options), self.machine, self.data, generator)

    def visit(self) -> dict[str, list[EpochTime]]:
        """Trains both stages anew; returns the times of the epochs of each phase but those that
        warm up.

        An epoch's seconds include its share of what a run does between epochs: records and
        checkpoints.
        """
        found: dict[str, list[EpochTime]] = {phase: [] for phase in PHASES}
        with TemporaryDirectory(dir=self.folder) as root:
            for run, stage in self._stages(root):
                for phase, time in self._train(run, Trainer(run, stage)):
                    found[phase].append(time)
        return {phase: times[self.dropped :] for phase, times in found.items()}

    def _train(self, run: Run, trainer: Trainer) -> Iterator[tuple[str, EpochTime]]:
        """Yields the phase and the time of each epoch of a stage."""
        with _quietly(run):
            began = clock(self.device)
            trainer.run()
            seconds = clock(self.device) - began
        records = read_epochs(run.folder.records)
        between = max(0.0, seconds - sum(r["seconds"] for r in records)) / len(records)
        images = {phase.name: len(phase.loader.order) for phase in trainer.phases}
        for record in records:
            training_seconds = images[record["phase"]] / record["images_per_second"]
            yield record["phase"], EpochTime(record["seconds"] + between, training_seconds)

    def first_step(self) -> None:
        """Trains until the first step of stage 1 is done."""
        with TemporaryDirectory(dir=self.folder) as root:
            run, stage = next(self._stages(root))
            with _quietly(run), contextlib.closing(Trainer(run, stage).steps()) as steps:
                next(steps)
                clock(self.device)

    @cached_property
    def _prepared(self) -> dict[str, tuple[Stage, Phase]]:
        """Both stages before their first epochs, by the names of their phases."""
        with TemporaryDirectory(dir=self.folder) as root:
            stages = [stage for _, stage in self._stages(root)]
        return {phase.name: (stage, phase) for stage in stages for phase in stage.phases}

    @cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self.data, self.machine)

    @cached_property
    def _centroids(self) -> Tensor:
        model, classes = self._prepared["features"][0].model, self.data.num_classes
        return class_centroids(model, self._evaluator.train_loader, classes, self.machine)

    def steps_an_epoch(self, name: str) -> int:
        return len(self._prepared[name][1].loader)

    def step_and_batches(self, name: str, most: int) -> tuple[Step, Iterator[tuple]]:
        """Returns the step of a phase, made once, and its arguments in the first batches of an
        epoch, of which there are at most so many."""
        stage, phase = self._prepared[name]
        stage.model.train(not phase.features_are_frozen)
        phase.free(stage.model)
        objective = phase.objective(phase.epochs.start).to(self.device)
        if name not in self.steps:
            network = stage.model if phase.features_are_frozen else stage.network
            self.steps[name] = make_step(network, phase, objective, self.machine)
        centroids = self._centroids if objective.uses_centroids else None
        batches = phase.loader.pixels()
        if phase.features_are_frozen:
            network, images = fold_batch_norm(stage.model, self.machine.conv_dtype), phase.loader
            batches = (extract_features(network, [batch], self.machine) for batch in images)
        arguments = ((inputs, targets, centroids) for inputs, targets in batches)
        return self.steps[name], islice(arguments, most)

    def training(self, phase: str) -> Callable[[], int]:
        step, batches = self.step_and_batches(phase, TRAINING_BATCHES)

        def train() -> int:
            images = 0
            for batch in batches:
                step(*batch)
                images += len(batch[1])
            return images

        return train

    def evaluate(self) -> int:
        model = self._prepared["features"][0].model
        self._evaluator.look(model)
        self._evaluator.linear(model)
        return sum(len(split) for split in self.data.evaluation_splits.values())

    def load(self, batches: int | None = None) -> int:
        loaded = islice(self._prepared["features"][1].loader, batches)
        return sum(len(images) for images, _ in loaded)


@contextlib.contextmanager
def _quietly(run: Run) -> Iterator[None]:
    """Inside, the run's folder is locked and what it prints is dropped."""
    with run.folder.locked(), contextlib.redirect_stdout(io.StringIO()):
        yield

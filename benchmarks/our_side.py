"""This project's side of a benchmark. It uses the classes that `main.py` uses."""

import contextlib
import io
from collections.abc import Generator, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from benchmarks.settings import PHASES, Settings
from benchmarks.side import TRAINING_BATCHES, EpochTime, Side, clock
from datasets import LongTailedData
from utils.evaluation.features import class_centroids
from utils.machine.device import choose_machine, seed_everything
from utils.options.flags import Options
from utils.options.parse import parse_stages
from utils.progress import Progress
from utils.runs.folders import run_folder
from utils.runs.records import read_epochs
from utils.training.phase import Phase
from utils.training.setup import Run
from utils.training.stage1 import stage_1
from utils.training.stage2 import stage_2
from utils.training.trainer import Trainer


class OurSide(Side):
    """This project.

    Args:
        settings: the settings of the benchmark.
        data: training, test and held-out images.
        folder: the folder for the files of runs.
    """

    def __init__(self, settings: Settings, data: LongTailedData, folder: Path) -> None:
        self.settings, self.data, self.folder = settings, data, folder
        options = settings.options
        self.machine = choose_machine(options.gpu, options.precision, options.step)
        self.device = self.machine.device
        # On a GPU an epoch is short, and the first epoch captures or compiles the step.
        has_warm_up = self.device.type == "cuda" or options.step == "compile"
        self.epochs, self.dropped = (3, 1) if has_warm_up else (1, 0)

    def _trainers(self, root: str) -> Iterator[Trainer]:
        """Yields the trainer of stage 1, then that of stage 2, which starts from the weights that
        stage 1 has by then."""
        lengths = dict.fromkeys(PHASES, self.epochs)
        first, second = parse_stages(self.settings.command(lengths, root))
        run = self._run(first)
        stage = stage_1(run)
        yield Trainer(run, stage)
        start = {"arch": first.arch, "state_dict": stage.model.state_dict()}
        run = self._run(second)
        yield Trainer(run, stage_2(run, start, Path("stage 1")))

    def _run(self, options: Options) -> Run:
        assert options.seed is not None  # the command has a seed
        generator = seed_everything(options.seed)
        return Run(options, run_folder(options), self.machine, self.data, generator)

    def epoch_times(self) -> dict[str, list[EpochTime]]:
        """Trains both stages anew; returns the times of the epochs of each phase, without those
        that warm up.

        The seconds of an epoch include its share of the time between epochs, in which a run writes
        records and checkpoints.
        """
        return {phase: t for stage in self.times_by_stage() for phase, t in stage.items()}

    def times_by_stage(self) -> Iterator[dict[str, list[EpochTime]]]:
        """Yields the part of `epoch_times` that belongs to each stage, when it is trained."""
        with TemporaryDirectory(dir=self.folder) as root:
            for trainer in self._trainers(root):
                with _quietly(trainer):
                    began = clock(self.device)
                    trainer.run()
                    seconds = clock(self.device) - began
                records = read_epochs(trainer.folder.records)
                between = max(0.0, seconds - sum(r["seconds"] for r in records)) / len(records)
                images = {phase.name: len(phase.loader.order) for phase in trainer.phases}
                times: dict[str, list[EpochTime]] = {phase: [] for phase in images}
                for record in records:
                    training_seconds = images[record["phase"]] / record["images_per_second"]
                    time = EpochTime(record["seconds"] + between, training_seconds)
                    times[record["phase"]].append(time)
                yield {phase: of_phase[self.dropped :] for phase, of_phase in times.items()}

    def first_step(self) -> None:
        """Takes the first training step of stage 1."""
        with TemporaryDirectory(dir=self.folder) as root:
            trainer = next(self._trainers(root))
            with _quietly(trainer), contextlib.closing(trainer.steps()) as steps:
                next(steps)
                clock(self.device)

    @cached_property
    def _phases(self) -> dict[str, tuple[Trainer, Phase]]:
        """Each phase and its trainer, by the name of the phase. No epoch has been trained yet."""
        with TemporaryDirectory(dir=self.folder) as root:
            trainers = list(self._trainers(root))
        return {phase.name: (trainer, phase) for trainer in trainers for phase in trainer.phases}

    @cached_property
    def _centroids(self) -> Tensor:
        trainer, _ = self._phases["features"]
        batches, classes = trainer.evaluator.train_loader, self.data.num_classes
        return class_centroids(trainer.model, batches, classes, self.machine)

    def batch_sizes(self, name: str) -> list[int]:
        """Returns the sizes of the batches in an epoch of a phase."""
        return self._phases[name][1].loader.batch_sizes

    def steps(self, name: str) -> Generator[None, None, None]:
        """Trains a phase, epoch after epoch, and yields after each step."""
        trainer, phase = self._phases[name]
        epoch = phase.epochs.start
        phase.free(trainer.model)
        centroids = self._centroids if phase.objective(epoch).uses_centroids else None
        while True:
            bar = Progress(name, len(phase.loader), every=10)
            yield from trainer.training.run(phase, epoch, centroids, bar)

    def train_batches(self, phase: str) -> int:
        sizes = self.batch_sizes(phase)
        if self.device.type != "cuda":  # there, the whole epoch is augmented before its first batch
            sizes = sizes[:TRAINING_BATCHES]
        for _ in islice(self.steps(phase), len(sizes)):
            pass
        return sum(sizes)

    def evaluate(self) -> int:
        trainer, _ = self._phases["features"]
        trainer.evaluator.extract(trainer.model)
        trainer.evaluator.linear(trainer.model)
        return sum(len(split) for split in self.data.evaluation_splits.values())

    def load(self, batches: int | None = None) -> int:
        loaded = islice(self._phases["features"][1].loader, batches)
        return sum(len(images) for images, _ in loaded)


@contextlib.contextmanager
def _quietly(trainer: Trainer) -> Iterator[None]:
    """Inside, the run's folder is locked, and the run prints nothing."""
    with trainer.folder.locked(), contextlib.redirect_stdout(io.StringIO()):
        yield

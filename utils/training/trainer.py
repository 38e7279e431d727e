"""The trainer: one loop that runs any phase of a stage."""

import sys
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from utils.errors import RunError, is_failure_to_compile, is_out_of_memory, warn
from utils.evaluation.evaluator import Evaluator
from utils.evaluation.features import class_centroids
from utils.machine import collectives
from utils.options.flags import OF_HELD_OUT, OF_LOGITS
from utils.progress import Pace, Progress, counted
from utils.runs import checkpoint
from utils.runs.epoch_log import EpochLog, console_line
from utils.training.keeper import Keeper
from utils.training.phase import Phase, Stage
from utils.training.selection import Selection, monitor_of
from utils.training.setup import Run
from utils.training.training_pass import TrainingPass


class Trainer:
    """Runs the phases of a stage, epoch after epoch. After each epoch it keeps what a resumed run
    needs.

    Args:
        run: options, data, machine and folder.
        stage: the network and its phases.
    """

    def __init__(self, run: Run, stage: Stage) -> None:
        self.options, self.folder, self.generator = run.options, run.folder, run.generator
        self.data, self.machine, self.world = run.data, run.machine, run.machine.world
        self.stage, self.model = stage, stage.model
        self.phases = [phase for phase in stage.phases if phase.epochs]
        self.evaluator = Evaluator(run.data, run.machine)
        self.selection = Selection([*self.evaluator.loaders, "last"])
        self.keeper = Keeper(run.folder, run.options)
        size, kept = self.evaluator.batch_size, self.keeper.what_is_left
        self.training = TrainingPass(stage, run.machine, size, kept)
        self.title = "" if run.options.seeds is None else f"seed {run.options.seed} | "
        self.epoch = 0
        self.seconds = 0.0
        self.results: dict = {}

    @property
    def last_epoch(self) -> int:
        return self.phases[-1].epochs[-1] if self.phases else 0

    def run(self) -> None:
        """Trains from the epoch after `self.epoch` to the last. Raises what `steps` raises."""
        for _ in self.steps():
            pass

    def steps(self) -> Generator[None, None, None]:
        """Trains as `run` does, but stops after each step (`yield`), so that several runs can take
        turns.

        Raises:
            RunError: a loss is not finite, memory runs out, or torch.compile fails.
            OSError: a file cannot be written; the files before it are whole.
            Interrupted: a signal came; the run folder has the checkpoint of a finished epoch.
        """
        log = collectives.together(self._open_log, self.world)
        try:
            if not self.phases:
                self._keep_untrained()
            yield from self._epochs(log)
            collectives.from_main(self.keeper.wait, self.world)
        except (RuntimeError, MemoryError, OSError) as error:
            if is_out_of_memory(error):
                raise self._shortage(error) from error
            if is_failure_to_compile(error):
                reason = " ".join(str(error).split("Set TORCHDYNAMO_VERBOSE")[0].split())[:300]
                raise RunError(f"--step compile: {reason}; use --step auto") from error
            raise
        finally:
            self.training.release()  # the next seed may need the memory
            try:
                self.keeper.close()
            finally:
                if log is not None:
                    log.close()

    def _epochs(self, log: EpochLog | None) -> Generator[None, None, None]:
        """Trains the epochs that are left, phase after phase, and keeps each of them; stops after
        each step."""
        began, seconds_before, pace = time.perf_counter(), self.seconds, Pace()
        for phase in self.phases:
            for epoch in phase.epochs:
                if epoch <= self.epoch:  # done before the run was resumed
                    continue
                if epoch == phase.epochs.start and phase is not self.phases[0]:
                    self._load_best_features()
                epoch_began = time.perf_counter()
                rate = phase.set_learning_rate(epoch)
                phase.free(self.model)
                centroids = self._centroids(phase, epoch)  # constant during the epoch
                bar = self._bar(phase, epoch)
                trained = yield from self.training.run(phase, epoch, centroids, bar)
                self.epoch, self.results = epoch, self._read_accuracies(phase, epoch)
                self.selection.offer(epoch, phase.name, self.results)
                now = time.perf_counter()
                pace.add(phase.name, now - epoch_began)
                record = self._record(phase, rate, trained, now - epoch_began)
                self.seconds = seconds_before + now - began
                collectives.from_main(partial(self._keep, log, record, phase), self.world)
                left = pace.seconds_of(self.last_epoch - epoch)
                tqdm.write(self.title + console_line(record, self.last_epoch, left), sys.stdout)

    def _shortage(self, error: Exception) -> RunError:
        """Returns the error of a run whose memory ran out in an epoch."""
        first_line = (str(error).strip() or type(error).__name__).split("\n")[0]
        return RunError(
            f"out of memory in epoch {self.epoch + 1} on {self.machine.device}: use a smaller -b "
            f"or a larger --accumulate; {self.keeper.what_is_left()} ({first_line[:200]})"
        )

    def _open_log(self) -> EpochLog | None:
        """Returns the log of the run in process 0, and None in the others, which do not write."""
        if not self.world.is_main:
            return None
        loss_names = dict.fromkeys(name for phase in self.phases for name in phase.loss_names)
        splits, layers = list(self.evaluator.loaders), self.stage.layer_names
        return EpochLog(self.folder.records, list(loss_names), splits, self.epoch, layers)

    def _load_best_features(self) -> None:
        """Loads the best features and their margins back, unless `--select_on` is `last`. Then no
        epoch and no accuracy of the feature phase counts any more."""
        if self.options.select_on != "last":
            best, path = collectives.from_main(self.keeper.best_features, self.world)
            self.warn_if_not_chosen(best, path, "the classifier phase starts from that file")
            checkpoint.load_weights(self.model, best["state_dict"], path)
            self._load_margins(best)
        self.selection.forget()
        self.evaluator.forget()

    def warn_if_not_chosen(self, best: dict[str, Any], path: Path, use: str) -> None:
        """Warns if the best checkpoint, read from `path`, is not of the epoch that is chosen now: a
        kill can leave there an epoch that is then trained again. `use` says what the file is for.
        """
        epoch = self.selection.best[self.options.select_on].epoch
        if best["epoch"] != epoch:
            warn(
                f"{path} is of epoch {best['epoch']} and not of the chosen epoch {epoch}: the run "
                f"was killed while it replaced its files; {use}"
            )

    def _centroids(self, phase: Phase, epoch: int) -> Tensor | None:
        """Returns the centroids of the classes ``[K, D]`` for the robust loss, None without it."""
        if not phase.objective(epoch).uses_centroids:
            return None
        # As in the released code, a separate pass over resampled, augmented images.
        batches = phase.loader.batches(self.evaluator.batch_size)
        title = f"{self.title}centroids {epoch}/{self.last_epoch}"
        batches = counted(batches, title, len(phase.loader.order))
        return class_centroids(self.stage.network, batches, self.data.num_classes, self.machine)

    def _bar(self, phase: Phase, epoch: int) -> Progress:
        title = f"{self.title}{phase.name} {epoch}/{self.last_epoch}"
        return Progress(title, len(phase.loader), self.options.print_freq)

    def _read_accuracies(self, phase: Phase, epoch: int) -> dict[str, dict]:
        """Returns the network's accuracies by split and classifier.

        NCM costs a pass over the training images. So it is measured only if it chooses the epoch,
        if the features are frozen (then it costs nothing), or if the epoch is kept.
        """
        results = self.evaluator.accuracies(self.model, phase.features_are_frozen)
        if (
            monitor_of(phase.name) == "ncm"
            or phase.features_are_frozen
            or epoch == self.last_epoch
            or set(self.selection.would_choose(epoch, phase.name, results)) - {"last"}
        ):
            self.evaluator.add_ncm(results)
        return results

    def _record(self, phase: Phase, rate: float, trained: dict, seconds: float) -> dict:
        """Returns the entry of `log.jsonl`."""
        return {
            "epoch": self.epoch,
            "phase": phase.name,
            "lr": rate,
            "seconds": round(seconds, 3),
            **trained,
            "results": self.results,
            **self.stage.margins_record(),
        }

    def _keep(self, log: EpochLog | None, record: dict, phase: Phase) -> None:
        """Adds the epoch to the log and keeps its checkpoints."""
        if log is not None:
            log.add(record)
        self._save(phase.name, is_due=self.epoch == phase.epochs[-1])

    def _keep_untrained(self) -> None:
        """Keeps the untrained network of a stage without epochs."""
        self.results = self.evaluator.accuracies(self.model)
        self.evaluator.add_ncm(self.results)
        self.selection.offer(self.epoch, "none", self.results)
        collectives.from_main(lambda: self._save("none", is_due=True), self.world)

    def _save(self, phase_name: str, is_due: bool) -> None:
        portable, chosen_by = self._portable(), self.selection.chosen_by(self.epoch)
        self.keeper.keep(portable, chosen_by, portable | self._rest(phase_name), is_due)

    def _rest(self, phase_name: str) -> dict[str, Any]:
        """Returns what a resumed run needs beside `_portable`. It has phases without epochs too,
        because a resumed run may have more epochs."""
        return {
            "selected_on": "last",
            "phase": phase_name,
            "optimizers": {p.name: p.optimizer.state_dict() for p in self.stage.phases},
            "orders": {p.name: p.loader.order.state_dict() for p in self.stage.phases},
            "generator": self.generator.get_state(),
            "best": self.selection.state_dict(),
            "seconds": self.seconds,
            **{name: module.state_dict() for name, module in self.stage.beside.items()},
        }

    def _portable(self) -> dict[str, Any]:
        """Returns what evaluation and the next stage need, in the released form of a checkpoint."""
        options, select_on = self.options, self.options.select_on
        # If no accuracy chooses the epoch, `best_acc1` is this epoch's.
        accuracy = self.results["test"]["linear"]["top1"]
        return {
            "arch": options.arch,
            "stage": options.stage,
            "dataset": options.dataset,
            **{name: getattr(options, name) for name in (*OF_LOGITS, *OF_HELD_OUT)},
            "class_counts": self.data.class_counts,
            "fingerprint": self.data.fingerprint,
            "data": self.data.description(),
            "epoch": self.epoch,
            "state_dict": self.model.state_dict(),
            "best_acc1": accuracy if select_on == "last" else self.selection.best[select_on].score,
            "selected_on": select_on,
            "results": self.results,
            "epsilons": None if self.stage.margins is None else self.stage.margins.values(),
        }

    def _load_margins(self, state: dict[str, Any]) -> None:
        if self.stage.margins is not None:
            self.stage.margins.load(state["epsilons"])

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        """Restores what `_save` kept; `path` is its file, for messages.

        Raises:
            UserError: the weights are those of another network, or not finite.
            KeyError, TypeError, ValueError, RuntimeError, AttributeError: `state` has another form.
        """
        checkpoint.load_weights(self.model, state["state_dict"], path)
        if type(state["epoch"]) is not int or not 0 <= state["epoch"] <= self.last_epoch:
            raise ValueError(f"epoch {state['epoch']!r} is not one of 0 to {self.last_epoch}")
        self._load_margins(state)
        for name, module in self.stage.beside.items():
            module.load_state_dict(state[name])
        for phase in self.phases:
            phase.load_optimizer(state["optimizers"][phase.name])
            phase.loader.order.load_state_dict(state["orders"][phase.name])
        self.generator.set_state(state["generator"])
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        if self.epoch:  # an untrained network does not compete with the epochs
            self.selection.load_state_dict(state["best"])
        self.results = state["results"]

"""Training: a stage is a sequence of phases, and one loop runs any phase."""

import sys
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from losses import Objective
from models.folding import fold_batch_norm
from utils.errors import RunError
from utils.evaluation.evaluator import Evaluator, class_centroids, extract_features
from utils.evaluation.shot_groups import class_mean
from utils.machine import collectives, signals
from utils.machine.device import Stopwatch
from utils.progress import Progress
from utils.runs import checkpoint
from utils.runs.epoch_log import RunLog, console_line
from utils.runs.folders import best_by
from utils.training.phase import Phase
from utils.training.setup import Run, Stage
from utils.training.steps import Step, make_step

STREAMED_BATCHES_A_PASS = 20
"""Batches of a streamed set whose features are held at once."""


@dataclass
class Best:
    """The best epoch so far of the phase, by one protocol."""

    score: float = float("-inf")
    epoch: int = 0
    results: dict = field(default_factory=dict)


class Trainer:
    """Runs the phases of a stage, epoch after epoch, and leaves after each what is needed to go on
    from there.

    Args:
        run: options, data, machine and folder.
        stage: the network and its phases.
    """

    def __init__(self, run: Run, stage: Stage) -> None:
        self.model, self.margins = stage.model, stage.margins
        self.layers = [] if stage.layers is None else list(stage.layers.columns)
        # What images go through on their way to the losses.
        self.network = stage.model if stage.layers is None else stage.layers
        self.phases = [phase for phase in stage.phases if phase.epochs]
        self.data, self.machine, self.folder = run.data, run.machine, run.folder
        self.world = run.machine.world
        self.generator = run.generator
        self.select_on = run.options.select_on
        self.checkpoint_every = run.options.checkpoint_every
        self.print_every = run.options.print_freq
        of_several = run.options.seeds is not None
        self.title = f"seed {run.options.seed} | " if of_several else ""
        self.header = {
            "arch": run.options.arch,
            "stage": run.options.stage,
            "dataset": run.options.dataset,
            "class_counts": run.data.class_counts,
            "fingerprint": run.data.fingerprint,
            "data": run.data.description(),
        }
        self.evaluator = Evaluator(run.data, run.machine)
        self.epoch = 0
        self.seconds = 0.0
        self.results: dict = {}
        self.best = self._no_best()
        self._steps: dict[Objective, Step] = {}
        self._unwritten: dict[Path, dict] = {}

    @property
    def last_epoch(self) -> int:
        return self.phases[-1].epochs[-1] if self.phases else 0

    def _no_best(self) -> dict[str, Best]:
        return {protocol: Best() for protocol in (*self.evaluator.loaders, "last")}

    def run(self) -> None:
        """Trains from the epoch after `self.epoch` to the last.

        Raises:
            As `steps`.
        """
        for _ in self.steps():
            pass

    def steps(self) -> Iterator[None]:
        """`run`, halting after every step, so that several runs can take turns.

        Raises:
            RunError: a loss that is not finite.
            OSError: a file cannot be written; those before it are whole.
            Interrupted: a signal came; the last finished epoch's checkpoint is in the folder.
        """
        log = collectives.together(self._open_log, self.world)
        began, first_epoch, seconds_before = time.perf_counter(), self.epoch, self.seconds
        try:
            if not self.phases:
                self._keep_untrained()
            for phase in self.phases:
                for epoch in phase.epochs:
                    if epoch <= self.epoch:
                        continue
                    if epoch == phase.epochs.start and phase is not self.phases[0]:
                        self._enter(phase)
                    record = yield from self._run_epoch(phase, epoch)
                    elapsed = time.perf_counter() - began
                    self.seconds = seconds_before + elapsed
                    keep = partial(self._keep, log, record, epoch == phase.epochs[-1])
                    collectives.from_main(keep, self.world)
                    seconds_left = elapsed / (epoch - first_epoch) * (self.last_epoch - epoch)
                    line = console_line(record, self.last_epoch, seconds_left)
                    tqdm.write(self.title + line, sys.stdout)
        finally:
            if log is not None:
                log.close()

    def _open_log(self) -> RunLog | None:
        """The run's records, which process 0 alone writes."""
        if not self.world.is_main:
            return None
        loss_names = dict.fromkeys(name for phase in self.phases for name in phase.loss_names)
        return RunLog(
            self.folder.records,
            list(loss_names),
            list(self.evaluator.loaders),
            self.epoch,
            self.layers,
        )

    def _keep(self, log: RunLog, record: dict, is_last_of_phase: bool) -> None:
        """Writes the epoch's record and checkpoints."""
        log.add(record)
        is_due = self.epoch % self.checkpoint_every == 0 or is_last_of_phase
        self._save(record["phase"], is_due)

    def _keep_untrained(self) -> None:
        """A stage without epochs: the network as it starts is also what is selected."""
        self.evaluator.look(self.model)
        linear, ncm = self.evaluator.linear(self.model), self.evaluator.ncm()
        self.results = {split: {"linear": linear[split], "ncm": ncm[split]} for split in linear}
        for protocol, score in self._scores(linear).items():
            self.best[protocol] = Best(score, self.epoch, self.results)
        collectives.from_main(lambda: self._save("none", is_due=True), self.world)

    def _enter(self, phase: Phase) -> None:
        """Before the classifier phase the best features are loaded back, margins included.

        They are kept in a file of their own, because the classifier's first checkpoint replaces
        the best one, and a run that is killed then must find the same features when it goes on.
        """
        if self.select_on != "last":
            path = self.folder.features_checkpoint
            best = collectives.from_main(self._best_features, self.world)
            checkpoint.load_weights(self.model, best["state_dict"], path)
            if self.margins is not None:
                self.margins.data.copy_(best["epsilons"])
        self.best = self._no_best()
        self.evaluator.forget()

    def _best_features(self) -> dict:
        path = self.folder.features_checkpoint
        if not path.exists():
            checkpoint.save(path, checkpoint.load(self.folder.best_checkpoint))
        return checkpoint.load(path)

    def _run_epoch(self, phase: Phase, epoch: int) -> Generator[None, None, dict]:
        rate = phase.set_learning_rate(epoch)
        phase.free(self.model)
        began = time.perf_counter()
        centroids = None
        if phase.uses_centroids:
            # From a pass of its own over the resampled, augmented images, as released.
            batches = phase.loader.batches(self.evaluator.batch_size)
            centroids = class_centroids(self.network, batches, self.data.num_classes, self.machine)
        stopwatch = Stopwatch(self.machine.device)
        total, losses, top1 = yield from self._train(phase, epoch, centroids)
        training_seconds = stopwatch.stop()
        self.epoch = epoch
        self._evaluate(phase)
        return {
            "epoch": epoch,
            "phase": phase.name,
            "lr": rate,
            "seconds": round(time.perf_counter() - began, 3),
            "images_per_second": round(len(phase.loader.order) / training_seconds, 1),
            "train_loss": total,
            "losses": losses,
            "train_top1": top1,
            "results": self.results,
            **self._margins_record(),
        }

    def _margins_record(self) -> dict:
        """The margins ``[K]``; of several layers those of the last named one, and all by layer."""
        if self.margins is None:
            return {"margins": None}
        values = self.margins.detach().cpu().tolist()
        if not self.layers:
            return {"margins": values}
        by_layer = dict(zip(self.layers, values, strict=True))
        return {"margins": values[-1], "layer_margins": by_layer}

    def _train(
        self, phase: Phase, epoch: int, centroids: Tensor | None
    ) -> Generator[None, None, tuple[float, dict[str, float], float]]:
        """One pass; the mean loss, its parts by name, and the training accuracy in percent."""
        self.model.train(not phase.features_are_frozen)
        objective = phase.objective(epoch).to(self.machine.device)
        if objective not in self._steps:
            network = self.model if phase.features_are_frozen else self.network
            self._steps[objective] = make_step(network, phase, objective, self.machine)
        step = self._steps[objective]
        batches = self._frozen_batches(phase) if phase.features_are_frozen else phase.loader
        steps = len(phase.loader)
        statistics = torch.zeros(steps, 2 + len(objective.names), device=self.machine.device)
        sizes = torch.full((steps,), float(phase.loader.batch_size))
        sizes[-1] = len(phase.loader.order) - (steps - 1) * phase.loader.batch_size
        with Progress(
            f"{self.title}{phase.name} {epoch}/{self.last_epoch}", steps, self.print_every
        ) as bar:
            for i, (inputs, targets) in enumerate(batches):
                statistics[i] = step(inputs, targets, centroids)
                bar.advance(statistics[i, 0])
                signals.check()
                yield
        # Batch-norm's running statistics are those of each process's own images.
        collectives.copy_from_main([*self.model.state_dict().values(), self.margins], self.world)
        # The epoch's only wait for the device.
        on_host = statistics.cpu()
        names = ["loss", *objective.names]
        require_finite = partial(self._require_finite, on_host, names, phase, epoch)
        collectives.from_main(require_finite, self.world)
        weighted = on_host * sizes.unsqueeze(1)
        total, *parts, correct = (weighted.sum(dim=0) / sizes.sum()).tolist()
        return total, dict(zip(objective.names, parts, strict=True)), round(100 * correct, 4)

    def _frozen_batches(self, phase: Phase) -> Iterable[tuple[Tensor, Tensor]]:
        """Batches of features: where nothing in front of the classifier trains, the whole epoch's
        features come from one pass without gradients; of a streamed set, whose features would be
        beyond memory too, from a pass over a part after the other."""
        size = phase.loader.batch_size
        batches_a_pass = None
        per_pass = self.evaluator.batch_size
        if self.data.is_streamed:
            batches_a_pass = STREAMED_BATCHES_A_PASS
            per_pass = max(1, per_pass // size) * size  # so that a part ends with a whole batch
        network = fold_batch_norm(self.model)
        batches = phase.loader.batches(per_pass)
        for first in batches:
            part = chain([first], islice(batches, batches_a_pass))
            features, targets = extract_features(network, part, self.machine)
            yield from zip(features.split(size), targets.split(size), strict=True)

    def _require_finite(
        self, statistics: Tensor, names: list[str], phase: Phase, epoch: int
    ) -> None:
        finite = torch.isfinite(statistics[:, :-1]).all(dim=1)
        if finite.all():
            return
        step = int((~finite).nonzero()[0])
        values = statistics[step].tolist()
        losses = ", ".join(f"{n} {v:.6g}" for n, v in zip(names, values, strict=False))
        last = self.folder.last_checkpoint
        kept = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint yet"
        raise RunError(
            f"the loss is not finite at step {step + 1} of epoch {epoch} ({phase.name}): {losses}; "
            f"{kept}"
        )

    def _evaluate(self, phase: Phase) -> None:
        """Reads the network on all splits and remembers by which protocols it is the best.

        Where the nearest class mean does not choose, it is read only of epochs that are kept: its
        centroids cost a pass over the training set.
        """
        if not (phase.features_are_frozen and self.evaluator.has_looked):
            self.evaluator.look(self.model)
        linear = self.evaluator.linear(self.model)
        ncm = self.evaluator.ncm() if phase.monitor == "ncm" else None
        monitored = linear if ncm is None else ncm
        scores = self._scores(monitored)
        improved = [p for p, score in scores.items() if score > self.best[p].score]
        must_know = self.epoch == self.last_epoch or set(improved) - {"last"}
        if ncm is None and (phase.features_are_frozen or must_know):
            ncm = self.evaluator.ncm()
        self.results = {
            split: {"linear": linear[split], "ncm": None if ncm is None else ncm[split]}
            for split in linear
        }
        for protocol in improved:
            self.best[protocol] = Best(scores[protocol], self.epoch, self.results)

    def _scores(self, monitored: dict[str, dict]) -> dict[str, float]:
        """What each protocol compares epochs by: percent, or the epoch's number."""
        scores = {split: _selection_score(split, record) for split, record in monitored.items()}
        return scores | {"last": float(self.epoch)}

    def state_dict(self, phase_name: str) -> dict[str, Any]:
        """Everything that going on from here needs, in the released form of a checkpoint."""
        portable = self._portable()
        return portable | {
            "selected_on": "last",
            "phase": phase_name,
            "optimizers": {p.name: p.optimizer.state_dict() for p in self.phases},
            "orders": {p.name: p.loader.order.state_dict() for p in self.phases},
            "generator": self.generator.get_state(),
            "best": {name: vars(best) for name, best in self.best.items()},
            "seconds": self.seconds,
        }

    def _portable(self) -> dict[str, Any]:
        """What evaluation and the next stage need."""
        return self.header | {
            "epoch": self.epoch,
            "state_dict": self.model.state_dict(),
            "best_acc1": self._best_accuracy(),
            "selected_on": self.select_on,
            "results": self.results,
            "epsilons": None if self.margins is None else self.margins.detach(),
        }

    def _best_accuracy(self) -> float:
        """In percent: the best monitored accuracy so far, or this epoch's where none chooses."""
        if self.select_on == "last":
            return self.results["test"]["linear"]["top1"]
        return self.best[self.select_on].score

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up the state that `state_dict` gave.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError, AttributeError: it is another state.
        """
        if type(state["epoch"]) is not int or not 0 <= state["epoch"] <= self.last_epoch:
            raise ValueError(f"epoch {state['epoch']!r}")
        self.model.load_state_dict(state["state_dict"])
        if self.margins is not None:
            self.margins.data.copy_(state["epsilons"])
        orders = {}
        for phase in self.phases:
            phase.load_optimizer(state["optimizers"][phase.name])
            orders[id(phase.loader.order)] = phase.loader.order, state["orders"][phase.name]
        for order, order_state in orders.values():
            order.load_state_dict(order_state)
        self.generator.set_state(state["generator"])
        self.best = {name: Best(**best) for name, best in state["best"].items()}
        self.epoch, self.seconds = state["epoch"], state["seconds"]
        self.results = state["results"]

    def _save(self, phase_name: str, is_due: bool) -> None:
        """Remembers the checkpoints that this epoch is the best of and, if due, writes them and the
        last one: what is on the disk belongs to one epoch."""
        for protocol, best in self.best.items():
            if best.epoch != self.epoch:
                continue
            if protocol == self.select_on:
                self._unwritten[self.folder.best_checkpoint] = self._snapshot()
            elif protocol != "last":
                path = self.folder.models / best_by(protocol)
                self._unwritten[path] = self._snapshot() | {"selected_on": protocol}
        if is_due:
            for path, content in self._unwritten.items():
                checkpoint.save(path, content)
            self._unwritten.clear()
            checkpoint.save(self.folder.last_checkpoint, self.state_dict(phase_name))

    def _snapshot(self) -> dict[str, Any]:
        """`_portable`, with weights and margins of its own, which training does not touch."""
        content = self._portable()
        weights = {name: weight.clone() for name, weight in content["state_dict"].items()}
        margins = None if self.margins is None else self.margins.detach().clone()
        return content | {"state_dict": weights, "epsilons": margins}


def _selection_score(split: str, record: dict) -> float:
    """In percent: top-1 on the test set, the mean over classes on held-out images, of which some
    classes have few or none."""
    if split == "test":
        return record["top1"]
    return class_mean(record["per_class"])

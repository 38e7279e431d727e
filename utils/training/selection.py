"""Selection: which epoch of each phase a protocol chooses."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from utils.evaluation.shot_groups import balanced_accuracy

Results = Mapping[str, Mapping[str, Any]]
"""Accuracies of an epoch: by split, then by classifier (`linear`, `ncm`), a record of
`accuracy_record` or None."""


def monitor_of(phase: str) -> str:
    """Returns the classifier by which epochs of the phase are compared: `ncm` for `features`,
    whose own classifier is frozen, and `linear` for every other phase."""
    return "ncm" if phase == "features" else "linear"


def score(protocol: str, epoch: int, phase: str, results: Results) -> float:
    """Returns what a protocol compares epochs by, the larger the better.

    For `last` it is the epoch's number; for `test` and `heldout` the balanced accuracy (the mean
    of the per-class accuracies) on these images, in percent.
    """
    if protocol == "last":
        return float(epoch)
    balanced = balanced_accuracy(results[protocol][monitor_of(phase)])
    return float("-inf") if balanced is None else balanced


@dataclass
class Best:
    """The best epoch of a phase so far by one protocol, and its accuracies."""

    score: float = float("-inf")
    epoch: int = 0
    results: dict = field(default_factory=dict)


class Selection:
    """The best epoch of the current phase by each protocol. Of epochs that are equally good, the
    first is the best.

    Args:
        protocols: of `test`, `heldout` and `last`.
    """

    def __init__(self, protocols: Iterable[str]) -> None:
        self.best = {protocol: Best() for protocol in protocols}

    def forget(self) -> None:
        """Begins a new phase."""
        self.best = {protocol: Best() for protocol in self.best}

    def would_choose(self, epoch: int, phase: str, results: Results) -> list[str]:
        """Returns the protocols by which the epoch is better than all before it."""
        return [p for p, b in self.best.items() if score(p, epoch, phase, results) > b.score]

    def offer(self, epoch: int, phase: str, results: Results) -> None:
        """Takes the epoch as the best by each protocol by which it is."""
        for protocol in self.would_choose(epoch, phase, results):
            value = score(protocol, epoch, phase, results)
            self.best[protocol] = Best(value, epoch, dict(results))

    def chosen_by(self, epoch: int) -> list[str]:
        """Returns the protocols that so far choose this epoch."""
        return [protocol for protocol, best in self.best.items() if best.epoch == epoch]

    def state_dict(self) -> dict[str, dict]:
        """Returns plain values from which `load_state_dict` restores the selection."""
        return {protocol: vars(best) for protocol, best in self.best.items()}

    def load_state_dict(self, state: Mapping[str, Mapping]) -> None:
        """Takes up what `state_dict` returned.

        Raises:
            TypeError, AttributeError: it is something else.
        """
        self.best = {protocol: Best(**best) for protocol, best in state.items()}


def chosen_epochs(records: Iterable[Mapping], protocol: str) -> list[int]:
    """Returns the epoch that the protocol chooses in each phase, by the records of a whole
    `log.jsonl`."""
    phases: dict[str, Selection] = {}
    for record in records:
        selection = phases.setdefault(record["phase"], Selection([protocol]))
        selection.offer(record["epoch"], record["phase"], record["results"])
    return [selection.best[protocol].epoch for selection in phases.values()]

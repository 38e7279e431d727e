"""Selection: which epoch of each phase a protocol chooses."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from utils.evaluation.accuracy_records import balanced_accuracy

Results = Mapping[str, Mapping[str, Any]]
"""Accuracies of an epoch, by split and then by classifier (`linear`, `ncm`): a record of
`accuracy_record` or None."""


def monitor_of(phase: str) -> str:
    """Returns the classifier by which epochs of a phase are compared: `ncm` for `features`, because
    the network's own classifier is frozen there, and `linear` for all other phases."""
    return "ncm" if phase == "features" else "linear"


def score(protocol: str, epoch: int, phase: str, results: Results) -> float:
    """Returns the number by which a protocol compares epochs; the largest is the best.

    For `last` it is the epoch's number. For `test` and `heldout` it is the balanced accuracy (the
    mean of the per-class accuracies) on these images, in percent, or −∞ if it is unknown.
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
    """The best epoch of the current phase by each protocol. If several epochs are equally good, the
    first of them is the best.

    Args:
        protocols: one or more of `test`, `heldout` and `last`.
    """

    def __init__(self, protocols: Iterable[str]) -> None:
        self.best = {protocol: Best() for protocol in protocols}

    def forget(self) -> None:
        """Forgets all epochs, because a new phase begins."""
        self.best = {protocol: Best() for protocol in self.best}

    def would_choose(self, epoch: int, phase: str, results: Results) -> list[str]:
        """Returns the protocols by which the epoch is better than all before it."""
        return [p for p, b in self.best.items() if score(p, epoch, phase, results) > b.score]

    def offer(self, epoch: int, phase: str, results: Results) -> None:
        """Stores the epoch as the best by each protocol that `would_choose` it."""
        for protocol in self.would_choose(epoch, phase, results):
            value = score(protocol, epoch, phase, results)
            self.best[protocol] = Best(value, epoch, dict(results))

    def chosen_by(self, epoch: int) -> list[str]:
        """Returns the protocols that so far choose this epoch."""
        return [protocol for protocol, best in self.best.items() if best.epoch == epoch]

    def state_dict(self) -> dict[str, dict]:
        """Returns the selection as plain values, for `load_state_dict`."""
        return {protocol: vars(best) for protocol, best in self.best.items()}

    def load_state_dict(self, state: Mapping[str, Mapping]) -> None:
        """Restores what `state_dict` returned.

        Raises:
            TypeError, AttributeError: `state` has another form.
        """
        self.best = {protocol: Best(**best) for protocol, best in state.items()}


def chosen_epochs(records: Iterable[Mapping], protocol: str) -> list[int]:
    """Returns the epoch that the protocol chooses in each phase, from all records of a
    `log.jsonl`."""
    phases: dict[str, Selection] = {}
    for record in records:
        selection = phases.setdefault(record["phase"], Selection([protocol]))
        selection.offer(record["epoch"], record["phase"], record["results"])
    return [selection.best[protocol].epoch for selection in phases.values()]

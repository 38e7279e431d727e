"""Runs that differ in their seed alone, and what is said of them together."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from utils.runs.records import SUBSET_FLAGS, MissingRecord, RecordedRun

Found = TypeVar("Found")


@dataclass(frozen=True)
class SettingsGroup:
    """Runs of the same settings.

    Args:
        number: from 0, in the order of the command line.
        runs: one or more.
        differing: the settings in which the groups of this stage are not all alike.
    """

    number: int
    runs: list[RecordedRun]
    differing: dict

    @property
    def letter(self) -> str:
        """A, B, ..., Z, AA, AB, ..."""
        letters, rest = "", self.number + 1
        while rest:
            rest, digit = divmod(rest - 1, 26)
            letters = chr(ord("A") + digit) + letters
        return letters

    @property
    def stage(self) -> int:
        return self.runs[0].stage

    @property
    def finished(self) -> list[RecordedRun]:
        return [run for run in self.runs if run.is_finished]

    @property
    def unfinished(self) -> list[RecordedRun]:
        return [run for run in self.runs if not run.is_finished]

    @property
    def by_rank(self) -> list[RecordedRun]:
        """Finished runs first: figures of one run per group show the first that can be shown."""
        return self.finished + self.unfinished

    @property
    def description(self) -> str:
        parts = [f"{name.replace('_', ' ')} {value}" for name, value in self.differing.items()]
        return ", ".join([f"stage {self.stage}", *parts])


def group_runs(runs: Sequence[RecordedRun]) -> list[SettingsGroup]:
    """Runs by their settings, in the order in which they are given."""
    by_settings: dict[str, list[RecordedRun]] = {}
    for run in runs:
        by_settings.setdefault(json.dumps(run.settings(), sort_keys=True), []).append(run)
    firsts = [members[0] for members in by_settings.values()]
    return [
        SettingsGroup(number, members, _differing(members[0], firsts))
        for number, members in enumerate(by_settings.values())
    ]


def _differing(run: RecordedRun, firsts: Sequence[RecordedRun]) -> dict:
    """The run's settings that not all groups of its stage share; data and network are compared over
    all groups."""

    def peers(name: str) -> list[RecordedRun]:
        is_common = name in (*SUBSET_FLAGS, "data_root", "arch")
        return [other for other in firsts if is_common or other.stage == run.stage]

    return {
        name: value
        for name, value in run.settings().items()
        if any(other.settings().get(name) != value for other in peers(name)) and name != "stage"
    }


def class_counts(run: RecordedRun, others: Sequence[RecordedRun]) -> np.ndarray:
    """Training images per class ``[K]``: from the run's arguments or summary, from those of a run
    on the same subset, or from its training outputs.

    Raises:
        MissingRecord: none of these is there.
    """

    def is_same_subset(other: RecordedRun) -> bool:
        ours, theirs = run.settings(), other.settings()
        return all(theirs.get(f) == ours.get(f) for f in (*SUBSET_FLAGS, "data_root"))

    candidates = [run, *filter(is_same_subset, [*filter(None, [run.parent]), *others])]
    for candidate in candidates:
        for record in (candidate.arguments, candidate.summary or {}):
            if "class_counts" in record:
                return np.array(record["class_counts"], dtype=int)
    shown = run.shown
    try:
        labels = run.arrays("outputs_train.npz", ["labels"])["labels"]
    except MissingRecord:
        raise MissingRecord("the class sizes are known when the run is finished") from None
    return np.bincount(labels, minlength=len(shown["test"]["linear"]["per_class"]) if shown else 0)


def first_that_can(
    group: SettingsGroup, attempt: Callable[[RecordedRun], Found]
) -> tuple[RecordedRun, Found]:
    """The first run of the group for which `attempt` finds what it needs, and what it found.

    Raises:
        MissingRecord: there is none; the reason is the first run's.
    """
    reasons = []
    for run in group.by_rank:
        try:
            return run, attempt(run)
        except MissingRecord as reason:
            reasons.append(reason)
    raise reasons[0]

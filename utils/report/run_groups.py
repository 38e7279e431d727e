"""Groups of runs that differ only in their seed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.options.flags import NATURAL_DATASETS, with_role
from utils.options.roles import Role
from utils.runs.contents import RECORD
from utils.runs.records import MissingRecord, RecordedRun, wrong_types_as_user_errors

OF_IMAGES = {*with_role(Role.DATA), "data_root", "fingerprint"}
"""The entries of `settings_of` that say which images are trained on."""
OF_CHECKPOINT = ("image_size", "normalisation", "stream", "test_fraction")
"""Flags that a stage 2 takes from its checkpoint if it is not given them."""


@dataclass(frozen=True)
class SettingsGroup:
    """Runs of the same settings.

    Args:
        number: number of the group, from 0, in the order of the command line.
        runs: one run or more.
        differing: those settings that are not the same in all groups of this stage.
    """

    number: int
    runs: list[RecordedRun]
    differing: dict

    @property
    def letter(self) -> str:
        """The name of the group: A, B, ..., Z, AA, AB, ..."""
        letters, rest = "", self.number + 1
        while rest:
            rest, digit = divmod(rest - 1, 26)
            letters = chr(ord("A") + digit) + letters
        return letters

    @property
    def stage(self) -> int:
        return self.runs[0].stage

    @property
    def settings(self) -> dict:
        """What decides the results of its runs, as `settings_of`."""
        return settings_of(self.runs[0])

    @property
    def finished(self) -> list[RecordedRun]:
        return [run for run in self.runs if run.is_finished]

    @property
    def unfinished(self) -> list[RecordedRun]:
        return [run for run in self.runs if not run.is_finished]

    @property
    def by_rank(self) -> list[RecordedRun]:
        """All runs, finished ones first. A figure with one run per group shows the first of them
        that has what the figure needs."""
        return self.finished + self.unfinished

    @property
    def description(self) -> str:
        """The stage and the differing settings, as text."""
        parts = [f"{name.replace('_', ' ')} {value}" for name, value in self.differing.items()]
        return ", ".join([f"stage {self.stage}", *parts])


def group_runs(runs: Sequence[RecordedRun]) -> list[SettingsGroup]:
    """Returns the groups of runs with the same settings, in the order of their first runs.

    Raises:
        UserError: a setting in the records of a run or of its stage 1 has a wrong type.
    """
    by_settings: dict[str, list[RecordedRun]] = {}
    for run in runs:
        with wrong_types_as_user_errors(run.folder):
            key = json.dumps(settings_of(run), sort_keys=True)
        by_settings.setdefault(key, []).append(run)
    firsts = [members[0] for members in by_settings.values()]
    return [
        SettingsGroup(number, members, _differing(members[0], firsts))
        for number, members in enumerate(by_settings.values())
    ]


def _differing(run: RecordedRun, firsts: Sequence[RecordedRun]) -> dict:
    """Returns the run's settings that are not the same in all groups of its stage. Data and network
    are compared over the groups of both stages."""

    def peers(name: str) -> list[RecordedRun]:
        is_common = name in OF_IMAGES | {"arch"}
        return [other for other in firsts if is_common or other.stage == run.stage]

    return {
        name: value
        for name, value in settings_of(run).items()
        if any(settings_of(other).get(name) != value for other in peers(name)) and name != "stage"
    }


def settings_of(run: RecordedRun) -> dict:
    """Returns what decides a run's result except for the seed. For a stage 2 this includes the
    settings of its stage 1; which images that was trained on only where they are others."""
    options = run.options
    settings = {name: getattr(options, name) for name in options.decisive() if name != "seed"}
    # The place of data or of a file decides nothing.
    if options.dataset in NATURAL_DATASETS:
        settings["data_root"] = _data_root(run)
    for name, digest in run.arguments.get(RECORD, {}).items():
        settings[name] = f"{Path(settings[name]).name} (sha256 {digest[:8]})"
    fingerprint = run.arguments.get("fingerprint")
    if fingerprint is not None:  # runs of earlier versions have none
        settings["fingerprint"] = fingerprint[:8]
    if run.parent:
        of_parent = settings_of(run.parent)
        settings |= {name: of_parent[name] for name in OF_CHECKPOINT if options.is_at_default(name)}
        settings |= {
            f"stage-1 {name}": value
            for name, value in of_parent.items()
            if name not in OF_IMAGES or value != settings.get(name)
        }
    return {"stage": run.stage} | settings


def _data_root(run: RecordedRun) -> str:
    """Returns the name of the data with digests of the test and the held-out images; the whole
    path if an early version recorded none. `fingerprint` tells the training images apart."""
    digests = (run.arguments.get("data") or {}).get("evaluation_fingerprints")
    if not digests:
        return run.options.data_root
    marks = [f"{split} images {digests[split][:8]}" for split in sorted(digests, reverse=True)]
    return f"{Path(run.options.data_root).name} ({', '.join(marks)})"


def class_counts(run: RecordedRun) -> np.ndarray:
    """Returns the number of training images of each class ``[K]``.

    Raises:
        MissingRecord: the run is not finished, and its `args.json`, of an early version, lacks it.
    """
    for record in (run.arguments, run.summary or {}):
        if "class_counts" in record:
            return np.array(record["class_counts"], dtype=int)
    raise MissingRecord("the class sizes are known when the run is finished")


def class_names(arguments: Mapping, number: int) -> list[str]:
    """Returns the names of the classes that an `args.json` records, ``[K]``; their numbers if an
    early version recorded none.

    Args:
        arguments: the content of `args.json`.
        number: number of classes K.
    """
    data = arguments.get("data")
    names = data.get("class_names") if isinstance(data, Mapping) else None
    if not isinstance(names, list) or len(names) != number:
        names = range(number)
    return [str(name) for name in names]

"""The runs of a training command: which they are, and their folders."""

import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from datasets import LongTailedData
from utils.errors import UserError, warn
from utils.files import read_json, write_json
from utils.machine.device import Machine
from utils.options.data_paths import expanded
from utils.options.flags import Options
from utils.runs import checkpoint
from utils.runs.backbone import check_backbone
from utils.runs.contents import RECORD, contents_of
from utils.runs.folders import digest_of, run_folder
from utils.runs.lookup import checkpoint_of_flag
from utils.runs.resuming import check_holds_no_run, prepare
from utils.runs.run_folder import RunFolder, recorded_options


@dataclass(frozen=True)
class Job:
    """The run of one stage and seed.

    Args:
        options: its options, with a seed.
        folder: its folder.
        action: what to do, from `resuming.prepare`.
        digested: the flags that the digest in its name stands for, as text.
        written: when the last checkpoint in the folder was written; None if there is none.
        recorded: the options that the run recorded when it began; None if it begins or is replaced.
    """

    options: Options
    folder: RunFolder
    action: str
    digested: str
    written: int | None
    recorded: dict | None = None

    @classmethod
    def of(cls, options: Options) -> "Job":
        """Returns the job of these options; draws a seed if a new run has none.

        Raises:
            UserError: the run cannot begin or go on as the options say.
        """
        if options.stage == 2 and options.pretrain_epochs is None:
            checkpoint_of_flag(options, "pretrained")
        folder = run_folder(options)
        written = folder.written()
        action, digested = prepare(options, folder), digest_of(options, folder)
        has_weights = action == "finished" or (options.resume and written is not None)
        if options.backbone is not None and not has_weights:
            check_backbone(expanded(options.backbone))
        recorded = recorded_options(folder) if action in ("continue", "finished") else None
        seed = options.seed if recorded is None else recorded["seed"]
        options = replace(options, seed=secrets.randbits(32) if seed is None else seed)
        return cls(options, folder, action, digested, written, recorded)

    @property
    def is_open(self) -> bool:
        return self.action != "finished"

    @property
    def has_data_elsewhere(self) -> bool:
        """True if the run began with another `--data_root`, where other images may be."""
        before = (self.recorded or {}).get("data_root")
        given = self.options.data_root
        return before is not None and os.path.realpath(before) != os.path.realpath(given)

    def check_same_images(self, data: LongTailedData) -> None:
        """Checks that a run which is resumed or finished began with the same images.

        Raises:
            UserError: it did not.
        """
        if self.recorded is None:
            return
        names = {"test": "test", "heldout": "held-out"}
        changed = [names[split] for split in data.changed_splits(self.recorded) or []]
        if not data.has_fingerprint(self.recorded.get("fingerprint")):
            changed.insert(0, "training")
        if changed:
            raise UserError(
                f"--resume True: the run in {self.folder.records} has other "
                f"{' and '.join(changed)} images: --data_root {self.options.data_root} (recorded: "
                f"{self.recorded.get('data_root')})"
            )

    def record(self, machine: Machine, data: LongTailedData, began: Mapping[str, str]) -> None:
        """Writes the options of a new run. For a run that is resumed with another number of epochs,
        removes the results of the other length first and then writes the new number. If a run is
        resumed on another processor, a warning says so.

        Args:
            machine: the machine of the run.
            data: its data.
            began: what a stage 2 records of the weights that it begins with, also one that is
                resumed without a checkpoint; empty if it goes on, and for a stage 1.
        """
        if not self.folder.arguments.exists():
            of_run = {
                "class_counts": data.class_counts,
                "fingerprint": data.fingerprint,
                "data": data.description(),
                "machine": machine.description(),
            }
            if contents := contents_of(self.options):
                of_run[RECORD] = contents
            write_json(self.folder.arguments, self.options.as_dict() | of_run | dict(began))
            return
        recorded = recorded_options(self.folder)
        before = (recorded.get("machine") or {}).get("processor")
        now = machine.description()["processor"]
        if before not in (None, now):
            warn(
                f"{self.folder.records}: this run began on {before} and goes on on {now}; "
                "args.json names only the first"
            )
        if recorded["epochs"] != self.options.epochs:
            for name in ("summary.json", "report.png", "predictions.npz"):
                (self.folder.records / name).unlink(missing_ok=True)
        changed = recorded | dict(began) | {"epochs": self.options.epochs}
        if changed != recorded:
            write_json(self.folder.arguments, changed)


def plan(stages: Sequence[Options]) -> tuple[list[list[Job]], dict | None]:
    """Returns the jobs of each stage, and the record of the data of the run that is resumed or of
    the stage before. All jobs are checked before the first begins, which may take hours.

    Raises:
        UserError: a run cannot begin or go on as the options say.
    """
    for stage in stages:
        if stage.seeds is not None:
            check_holds_no_run(run_folder(stage))
    jobs = [[Job.of(options) for options in stage.by_seed()] for stage in stages]
    remembered = None
    recorded = [job.recorded for job in jobs[0] if job.recorded]
    if recorded:
        remembered = recorded[0]
    elif stages[0].stage == 2:
        remembered = checkpoint.load(checkpoint_of_flag(jobs[0][0].options, "pretrained"))
    return jobs, remembered and {"data": remembered.get("data")}


def open_folders(
    stack: ExitStack,
    jobs: Sequence[Job],
    begun: Sequence[Mapping[str, str]],
    machine: Machine,
    data: LongTailedData,
) -> None:
    """Locks the runs' folders until the stack closes, deletes the files of runs that are replaced,
    of earlier evaluations and exports, and the mean over seeds of which one trains again or goes
    on, and writes the options of new runs. `begun` has `began` of `Job.record` for each job.

    Raises:
        UserError: another process has locked a folder, or has begun or continued a run there since
            the jobs were planned; or a path is too long for the system.
    """
    for job in jobs:
        job.folder.check_path_length()
        stack.enter_context(job.folder.locked())
        has_begun = job.action == "start" and job.folder.holds_a_run()
        if has_begun or job.folder.written() != job.written:
            raise UserError(
                f"another run has {'begun' if has_begun else 'gone on'} in {job.folder.records} "
                "while this one loaded its data: --resume True continues it"
            )
    for job, began in zip(jobs, begun, strict=True):
        combined = job.folder.records.parent / "summary.json"
        if job.options.seeds and job.options.seed in read_json(combined).get("seeds", []):
            combined.unlink(missing_ok=True)  # the mean of the runs that there were
        job.folder.delete_parts()
        if job.action == "replace":
            for path in job.folder.own_files():
                path.unlink()
        # They are of the epochs that there were, or of a shipped checkpoint.
        outdated = job.folder.outdated_files()
        for path in outdated:
            path.unlink()
        if outdated:
            names = ", ".join(path.name for path in outdated)
            print(f"removed the files of an earlier evaluation or export: {names}")
        job.record(machine, data, began)
        print(
            f"{len(data.train)} training images of {data.num_classes} classes, {machine.device}, "
            f"seed {job.options.seed}; records in {job.folder.records}"
        )
        if job.digested:
            print(f"the digest in its name stands for {job.digested}")
        if job.options.stage == 2:
            print(f"starts from {checkpoint_of_flag(job.options, 'pretrained')}")

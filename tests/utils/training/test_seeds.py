"""Several seeds in one command, and both stages in one command."""

import contextlib
import gc
import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch

from tests.support.faults import interrupted_at_check
from tests.support.helpers import (
    RELEASED_NAME,
    STAGE_1_NAME,
    call,
    common,
    differences_of_runs,
    load,
    read_summary,
    snapshot,
    stage_1,
    stage_1_folder,
    stage_2,
    stage_2_folder,
    succeed,
    without,
)
from utils.commands.jobs import Job
from utils.commands.train import _summarise_seeds
from utils.errors import RunError
from utils.options.parse import parse_options, parse_stages
from utils.options.run_names import run_name
from utils.runs.folders import run_folder
from utils.runs.records import place_of, read_run
from utils.training import training_pass
from utils.training.seeds import side_by_side, summarise_seeds

pytestmark = pytest.mark.usefixtures("no_figures")


def without_seed(argv):
    return without(argv, "--seed")


SEEDS_NAME = run_name(parse_options([*map(str, without_seed(stage_1(".", "."))), "--seeds", "1"]))
"""The folder of a stage 1 with several seeds, which none of them decides."""


def both_stages(tree, root, *extra):
    """Returns `stage_1` and `stage_2` as one command."""
    argv = without(stage_2(tree, root), "--pretrained")
    return [*argv, "--pretrain_epochs", 2, "--schedule", "scaled", *extra]


def test_each_of_several_seeds_is_its_own_single_run(tree, finished, tmp_path):
    """Both stages are compared; the shared runs have seed 3."""
    root = tmp_path / "root"
    seeds = ("--seeds", "4,3")
    outcome = succeed([*without_seed(stage_1(tree, root)), *seeds])
    assert "mean ± sample standard deviation over seeds 4,3" in outcome.out
    start = stage_1_folder(root)
    succeed([*without_seed(stage_2(tree, root)), "--pretrained", start.name, *seeds])
    stages = (finished / STAGE_1_NAME, start)
    stages_2 = (stage_2_folder(finished), stage_2_folder(root))
    for single, several in (stages, stages_2):
        assert not differences_of_runs(single, several / "seed3")
        summaries = [read_summary(several / f"seed{seed}") for seed in (4, 3)]
        combined = read_summary(several)
        assert combined["seeds"] == [4, 3] and "seed" not in combined
        top1s = [summary["test"]["last"]["linear"]["top1"] for summary in summaries]
        top1 = combined["test"]["last"]["linear"]["top1"]
        assert top1["mean"] == pytest.approx(sum(top1s) / 2, abs=1e-4)
        assert top1["std"] == pytest.approx(abs(top1s[0] - top1s[1]) / 2**0.5, abs=1e-4)
        assert combined["seconds"] == pytest.approx(sum(s["seconds"] for s in summaries))


def test_no_step_of_a_finished_seed_is_left_when_the_next_begins(tree, tmp_path, monkeypatch):
    """A captured step keeps the memory of its activations, which the next seed needs. The gradients
    lie in this memory."""
    make_step, steps, left = training_pass.make_step, weakref.WeakSet(), []
    trained = []

    def make(model, *others):
        gc.collect()
        left.append(len(steps) + sum(p.grad is not None for p in trained))
        step = make_step(model, *others)
        steps.add(step)
        trained.extend(model.parameters())
        return step

    monkeypatch.setattr(training_pass, "make_step", make)
    succeed([*without_seed(stage_1(tree, tmp_path, "--epochs", 1)), "--seeds", "1,2"])
    assert left == [0, 0]


def test_a_stage_2_of_one_seeds_stage_1_goes_into_its_folder(tree, tmp_path):
    """It must not go into the folder of another stage 1 with the same seed."""
    for name in ("a", "b"):
        argv = without_seed(stage_1(tree, tmp_path, "--epochs", 1, "--exp_str", name))
        succeed([*argv, "--seeds", "1,2"])
    folders = []
    for name in ("a", "b"):
        (of_seed,) = tmp_path.glob(f"{RELEASED_NAME.removesuffix('0')}{name}-*/seed1")
        argv = [*stage_2(tree, tmp_path, "--epochs", 1), "--pretrained", of_seed]
        outcome = succeed([*argv, "--resume", "True"])
        assert "finished" not in outcome.out
        [folder] = of_seed.glob("robust_*")
        folders.append(folder)
        run = read_run(folder)
        assert run.parent.folder == of_seed and (folder / "summary.json").exists()
        assert place_of(folder, stage=2) == folder.relative_to(tmp_path)


def test_the_records_of_one_of_several_seeds_know_its_stage_1(tree, finished, tmp_path):
    root = shutil.copytree(finished, tmp_path / "root")
    single = stage_2_folder(root)
    for stage, several in ((single, single / "seed3"), (single.parent, single.parent / "seed3")):
        several.mkdir()
        for file in filter(Path.is_file, list(stage.iterdir())):
            file.rename(several / file.name)
    assert read_run(single / "seed3").parent.folder == single.parent / "seed3"
    for file in (single.parent / "seed3").iterdir():  # one stage 1 that all seeds started from
        file.rename(single.parent / file.name)
    assert read_run(single / "seed3").parent.folder == single.parent


@pytest.mark.parametrize(("is_parallel", "seconds"), [(False, 5.0), (True, 3.0)])
def test_the_seconds_of_seeds_beside_each_other_are_counted_once(is_parallel, seconds, tmp_path):
    paths = []
    for seed, taken in ((1, 2.0), (2, 3.0)):
        paths.append(tmp_path / f"{seed}.json")
        paths[-1].write_text(json.dumps({"seed": seed, "seconds": taken}))
    assert summarise_seeds(tmp_path / "all.json", paths, is_parallel)["seconds"] == seconds


@pytest.mark.parametrize(
    ("is_open", "seeds", "seconds"),
    [(False, [1, 2], 3.0), (True, [1, 2], 5.0), (False, [1, 3], 5.0)],
    ids=["finished", "trained now", "other seeds"],
)
def test_a_finished_run_of_several_seeds_keeps_its_summary(
    is_open, seeds, seconds, tmp_path, monkeypatch
):
    roots = ["--root_log", str(tmp_path), "--root_model", str(tmp_path)]
    options = parse_options(["--seeds", "1,2", *roots])
    folder = run_folder(options)
    jobs = []
    for of_seed, taken in zip(options.by_seed(), (2.0, 3.0), strict=True):
        own = run_folder(of_seed)
        own.records.mkdir(parents=True)
        own.summary.write_text(json.dumps({"seed": of_seed.seed, "seconds": taken}))
        jobs.append(Job(of_seed, own, "start" if is_open else "finished", "", None))
    # On a GPU the seeds were trained side by side, so their longest time was recorded.
    folder.summary.write_text(json.dumps({"seeds": seeds, "seconds": 3.0}))
    monkeypatch.setattr("utils.commands.train.final_table", str)
    _summarise_seeds(options, jobs, is_parallel=False)
    assert read_summary(folder.records) | {"seeds": [1, 2]} == {"seeds": [1, 2], "seconds": seconds}


def test_several_seeds_are_evaluated_one_by_one_and_together(tree, tmp_path):
    argv = [*without_seed(stage_1(tree, tmp_path, "--epochs", 1)), "--seeds", "1,2"]
    succeed(argv)
    outcome = succeed([*argv, "--evaluation", "True"])
    assert "mean ± sample standard deviation over seeds 1,2" in outcome.out and " ± " in outcome.out
    for seed in (1, 2):
        assert (tmp_path / SEEDS_NAME / f"seed{seed}" / "outputs_test.npz").exists()


def test_an_evaluation_writes_nothing_if_a_later_seed_was_not_trained(tree, tmp_path):
    argv = [*without_seed(stage_1(tree, tmp_path, "--epochs", 0)), "--seeds"]
    succeed([*argv, "1"])
    before = snapshot(tmp_path)
    outcome = call([*argv, "1,2", "--evaluation", "True"])
    assert outcome.status == 2 and "no checkpoint" in outcome.err
    assert snapshot(tmp_path) == before


def test_an_interruption_keeps_finished_seeds_and_a_seed_can_be_added(tree, tmp_path):
    undisturbed, root = tmp_path / "a", tmp_path / "b"
    argv = without_seed(stage_1(tree, undisturbed, "--epochs", 1))
    succeed([*argv, "--seeds", "1,2,3"])
    argv = [*without_seed(stage_1(tree, root, "--epochs", 1)), "--resume", "True"]
    with interrupted_at_check(10**9) as checks:
        succeed([*argv, "--seeds", "1"])
    first = snapshot(root / SEEDS_NAME / "seed1")
    with interrupted_at_check(checks() // 2):
        assert call([*argv, "--seeds", "1,2"]).status == 143
    assert snapshot(root / SEEDS_NAME / "seed1") == first
    succeed([*argv, "--seeds", "1,2,3"])
    assert snapshot(root / SEEDS_NAME / "seed1") == first
    for seed in (1, 2, 3):
        folders = [r / SEEDS_NAME / f"seed{seed}" for r in (undisturbed, root)]
        assert not differences_of_runs(*folders)
    ours, theirs = (read_summary(r / SEEDS_NAME) for r in (root, undisturbed))
    for summary in (ours, theirs):
        del summary["seconds"]
    assert ours == theirs


def test_the_mean_of_shorter_runs_does_not_stay_when_one_of_them_goes_on(tree, tmp_path):
    argv = without_seed(stage_1(tree, tmp_path, "--schedule", "absolute", "--resume", "True"))
    succeed([*argv, "--epochs", 0, "--seeds", "1,2"])
    [combined] = tmp_path.glob("*/summary.json")
    with interrupted_at_check(1):  # a seed that is added changes nothing of the others
        assert call([*argv, "--epochs", 0, "--seeds", "1,2,3"]).status == 143
    assert combined.exists()
    with interrupted_at_check(1):
        assert call([*argv, "--epochs", 1, "--seeds", "2"]).status == 143
    assert not combined.exists()


def test_seeds_do_not_go_into_the_folder_of_a_single_run(tree, tmp_path):
    """A run whose seed was drawn has the name that several seeds share."""
    argv = without_seed(stage_1(tree, tmp_path, "--epochs", 1))
    succeed(argv)
    before = snapshot(tmp_path)
    outcome = call([*argv, "--seeds", "1,2", "--resume", "True"])
    assert outcome.status == 2
    assert "--seeds" in outcome.err and "single seed" in outcome.err
    assert snapshot(tmp_path) == before


def test_seeds_without_stage_1_runs_of_their_own_share_the_checkpoint(tree, pretrained):
    argv = without_seed(stage_2(tree, pretrained, "--epochs", 1, "--balanced_clf_nepochs", 1))
    succeed([*argv, "--seeds", "5,6"])
    folder = stage_2_folder(pretrained)
    assert {path.name for path in folder.iterdir()} == {"seed5", "seed6", "summary.json"}


def test_both_stages_by_one_command_are_the_two_commands(tree, finished, tmp_path):
    argv = both_stages(tree, tmp_path)
    succeed(argv)
    pairs = (
        (finished / STAGE_1_NAME, tmp_path / STAGE_1_NAME),
        (stage_2_folder(finished), stage_2_folder(tmp_path)),
    )
    for single, chained in pairs:
        assert not differences_of_runs(single, chained)
    before = snapshot(tmp_path)
    assert "already holds a run" in call(argv).err
    succeed([*argv, "--resume", "True"])
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("check", "stage"), [(8, 1), (24, 2)])
def test_a_chain_goes_on_where_it_was_interrupted(check, stage, tree, finished, tmp_path):
    argv = [*both_stages(tree, tmp_path), "--resume", "True"]
    with interrupted_at_check(check):
        assert call(argv).status == 143
    assert len(list(tmp_path.glob("*/robust_*"))) == stage - 1
    succeed(argv)
    assert not differences_of_runs(stage_2_folder(finished), stage_2_folder(tmp_path))


def test_a_chain_looks_at_both_folders_before_it_begins(tree, both, tmp_path):
    """A stage 2 that must not be replaced is reported before hours of stage 1."""
    shutil.move(stage_2_folder(both), tmp_path / "kept")
    shutil.rmtree(both / STAGE_1_NAME)
    argv = both_stages(tree, both)
    name = stage_2_folder_name(argv)
    target = both / STAGE_1_NAME / name
    target.parent.mkdir()
    shutil.move(tmp_path / "kept", target)
    before = snapshot(both)
    outcome = call(argv)
    assert outcome.status == 2 and name in outcome.err
    assert snapshot(both) == before


def stage_2_folder_name(argv):
    from utils.runs.folders import run_folder

    return run_folder(parse_options([str(part) for part in argv])).records.name


def test_the_stages_of_a_chain_have_their_own_options():
    flags = "--pretrain_epochs 200 --epochs 100 --feat_loss ce --cls_loss ce --wd 2e-4 --margin 1"
    first, second = parse_stages(flags.split())
    assert (first.stage, first.epochs, first.augment) == (1, 200, "crop_flip")
    assert (second.stage, second.epochs, second.augment) == (2, 100, "autoaugment")
    assert first.weight_decay == second.weight_decay == 2e-4
    assert first.feat_loss is None and first.margin == 0.1 and second.margin == 1
    first, second = parse_stages([*flags.split(), "--augment", "none"])
    assert first.augment == second.augment == "none"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--seeds 1,1", ("--seeds", "twice")),
        ("--seeds 1,x", ("--seeds", "'x'")),
        ("--seeds -1", ("--seeds", "'-1'")),
        ("--seeds 1,", ("--seeds",)),
        ("--seeds 1,2 --seed 3", ("--seeds 1,2", "--seed 3")),
        ("--pretrain_epochs 0 --feat_loss ce", ("--pretrain_epochs", "'0'")),
        ("--pretrain_epochs 2 --pretrained x", ("--pretrain_epochs", "--pretrained")),
        ("--pretrain_epochs 2 --start-epoch 1", ("--pretrain_epochs", "--start-epoch")),
        ("--pretrain_epochs 2", ("--feat_loss",)),
    ],
)
def test_contradictions_are_one_line(flags, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = call(flags.split())
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert all(word in outcome.err for word in words), outcome.err
    assert not list(tmp_path.iterdir())


class FakeStream:
    def wait_stream(self, other):
        pass


@pytest.fixture
def current_streams(monkeypatch):
    """Gives the stream that is current, as a list of one; streams do nothing."""
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    current = []

    @contextlib.contextmanager
    def on(stream):
        current.append(stream)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "stream", on)
    return current


def test_runs_take_turns_until_each_is_over(current_streams):
    taken = []

    def run(name, steps):
        for i in range(steps):
            taken.append((name, i, current_streams[-1]))
            yield

    side_by_side([run("a", 3), run("b", 1), run("c", 2)], torch.device("cuda"))
    assert [step[:2] for step in taken] == [
        *(("a", 0), ("b", 0), ("c", 0)),
        *(("a", 1), ("c", 1)),
        ("a", 2),
    ]
    streams = {name: {s for n, _, s in taken if n == name} for name in "abc"}
    assert all(len(of_run) == 1 for of_run in streams.values())
    assert len(set.union(*streams.values())) == 3


def test_a_run_that_fails_closes_the_others(current_streams):
    """Their checkpoints must be written before their folders are unlocked."""
    closed = []

    def run(name, steps):
        try:
            yield from range(steps)
            raise RunError("no memory")
        finally:
            closed.append(name)

    runs = [run("a", 5), run("b", 2), run("c", 5)]
    with pytest.raises(RunError, match="no memory"):
        side_by_side(runs, torch.device("cuda"))
    assert sorted(closed) == ["a", "b", "c"]


def test_seeds_side_by_side_on_a_gpu_are_their_single_runs(cuda, tree, tmp_path):
    """They train 20 float32 steps of stage 1 with deterministic kernels."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        argv = [*common(tree, tmp_path / "s"), "--epochs", 4, "--schedule", "scaled"]
        succeed([*without_seed(argv), "--seeds", "1,2,3"], on_gpu=True)
        for seed in (1, 2, 3):
            single = [*common(tree, tmp_path / f"{seed}"), "--epochs", 4, "--schedule", "scaled"]
            succeed([*single, "--seed", seed], on_gpu=True)
            folders = (
                stage_1_folder(tmp_path / f"{seed}"),  # the seed is in its name
                tmp_path / "s" / SEEDS_NAME / f"seed{seed}",
            )
            weights = [load(f / "ckpt.pth.tar")["state_dict"] for f in folders]
            for name, value in weights[0].items():
                torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-4)
    finally:
        torch.use_deterministic_algorithms(False)


def test_the_arguments_of_each_seed_are_those_of_a_single_run(tree, tmp_path):
    argv = without_seed(stage_1(tree, tmp_path, "--epochs", 1))
    succeed([*argv, "--seeds", "8"])
    arguments = json.loads((tmp_path / SEEDS_NAME / "seed8" / "args.json").read_text())
    assert arguments["seed"] == 8 and arguments["seeds"] == "8"

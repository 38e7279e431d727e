"""Runs that are repeated, interrupted, resumed or replaced end with the same bits."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.faults import disk_full_for, interrupted_at_check, spoil
from tests.support.helpers import (
    STAGE_1_NAME,
    call,
    differences,
    differences_of_runs,
    load,
    read_csv,
    read_summary,
    snapshot,
    stage_1,
    stage_1_folder,
    stage_2,
    stage_2_folder,
    succeed,
    weights_of,
)
from utils.errors import Interrupted
from utils.runs import checkpoint
from utils.training.summary import summarise

pytestmark = pytest.mark.usefixtures("no_figures")


def test_two_runs_of_one_seed_are_equal_to_the_last_bit(tree, finished, tmp_path):
    succeed(stage_1(tree, tmp_path))
    succeed(stage_2(tree, tmp_path))
    assert not differences_of_runs(finished / STAGE_1_NAME, tmp_path / STAGE_1_NAME)
    assert not differences_of_runs(stage_2_folder(finished), stage_2_folder(tmp_path))


def test_another_seed_gives_other_weights(tree, finished, tmp_path):
    succeed(stage_1(tree, tmp_path, "--seed", 4))
    other = weights_of(stage_1_folder(tmp_path))
    assert differences(weights_of(finished / STAGE_1_NAME), other)


def test_a_finished_stage_1_goes_on_with_more_epochs(tree, tmp_path):
    """The absolute rate steps stay at their epochs, so the finished epochs are those of the longer
    run."""
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    flags = ("--schedule", "absolute", "--epochs")
    assert "resumes" not in succeed(stage_1(tree, grown, *flags, 1)).out
    names = ("model.onnx", "outputs_test.npz", "readings.json")
    outdated = [stage_1_folder(grown) / name for name in names]
    for path in outdated:
        path.touch()
    outcome = succeed(stage_1(tree, grown, *flags, 3, "--resume", "True"))
    assert "2/3" in outcome.out and "1/3" not in outcome.out
    said = "resumes after epoch 1 of 3, from "
    assert f"{said}{stage_1_folder(grown) / 'ckpt.pth.tar'}" in outcome.out.splitlines()
    removed = f"removed the files of an earlier evaluation or export: {', '.join(names)}"
    assert removed in outcome.out.splitlines() and not any(path.exists() for path in outdated)
    succeed(stage_1(tree, whole, *flags, 3))
    folder = stage_1_folder(grown)
    assert not differences(weights_of(folder), weights_of(stage_1_folder(whole)))
    assert read_summary(folder)["epochs"] == 3
    results = {folder / name for name in ("summary.json", "report.png", "predictions.npz")}
    assert results <= {*folder.iterdir()}
    with interrupted_at_check(1):
        assert call(stage_1(tree, grown, *flags, 4, "--resume", "True")).status == 143
    assert not results & {*folder.iterdir()}


def test_a_stage_1_without_epochs_goes_on_with_some(tree, tmp_path):
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    flags = ("--schedule", "absolute", "--epochs")
    succeed(stage_1(tree, grown, *flags, 0))
    outcome = succeed(stage_1(tree, grown, *flags, 2, "--resume", "True"))
    assert "resumes after epoch 0 of 2" in outcome.out
    succeed(stage_1(tree, whole, *flags, 2))
    assert not differences_of_runs(stage_1_folder(grown), stage_1_folder(whole))


def test_a_finished_run_without_its_log_stays_whole_if_more_epochs_are_refused(tree, tmp_path):
    argv = stage_1(tree, tmp_path, "--schedule", "absolute", "--epochs")
    succeed([*argv, 1])
    (stage_1_folder(tmp_path) / "log.jsonl").write_text("")
    before = snapshot(tmp_path)
    outcome = call([*argv, 2, "--resume", "True"])
    assert outcome.status == 2 and "the finished epoch 1 is not in it" in outcome.errors[0]
    assert snapshot(tmp_path) == before


def test_resume_starts_a_run_that_is_not_there(tree, finished, tmp_path):
    succeed(stage_1(tree, tmp_path, "--resume", "True"))
    assert not differences_of_runs(finished / STAGE_1_NAME, tmp_path / STAGE_1_NAME)


@pytest.mark.parametrize("make", [stage_1, stage_2])
def test_resume_leaves_a_finished_run_as_it_is(make, tree, both):
    before = snapshot(both)
    outcome = succeed(make(tree, both, "--resume", "True"))
    assert "finished" in outcome.out
    assert snapshot(both) == before


@pytest.fixture(scope="module")
def checks(tree, finished, tmp_path_factory) -> dict[int, int]:
    """Gives how often each stage looks for signals."""
    root = tmp_path_factory.mktemp("counted")
    counts = {}
    for stage, make in ((1, stage_1), (2, stage_2)):
        with interrupted_at_check(-1) as count:
            succeed(make(tree, root))
        counts[stage] = count()
    return counts


@pytest.mark.parametrize("at", [0.0, 0.3, 0.55, 0.85, 1.0])
@pytest.mark.parametrize("stage", [1, 2])
def test_an_interrupted_run_goes_on_to_the_same_bits(
    stage, at, tree, finished, pretrained, tmp_path, checks
):
    root = tmp_path / "fresh" if stage == 1 else pretrained
    make = stage_1 if stage == 1 else stage_2
    with interrupted_at_check(1 + round(at * (checks[stage] - 1))):
        outcome = call(make(tree, root))
    assert outcome.status == 143
    folder = root / STAGE_1_NAME if stage == 1 else stage_2_folder(root)
    assert not (folder / "summary.json").exists()
    rows = read_csv(folder)
    if rows:
        assert load(folder / "ckpt.pth.tar")["epoch"] == len(rows)

    succeed(make(tree, root, "--resume", "True"))

    reference = finished / STAGE_1_NAME if stage == 1 else stage_2_folder(finished)
    assert not differences_of_runs(folder, reference)


@pytest.fixture(scope="module")
def four_epochs(tree, tmp_path_factory) -> Path:
    """The folder of an uninterrupted stage 1 of four epochs."""
    root = tmp_path_factory.mktemp("four")
    succeed(stage_1(tree, root, "--epochs", 4))
    return root / STAGE_1_NAME


@pytest.mark.parametrize("extra", [(), ("--checkpoint_every", 2)], ids=["every", "every second"])
def test_a_run_interrupted_again_and_again_goes_on_to_the_same_bits(
    extra, tree, four_epochs, tmp_path
):
    argv = stage_1(tree, tmp_path, "--epochs", 4, "--resume", "True", *extra)
    statuses = []
    for number in (5, 11, 17, 18, 19, 20, 1000):
        with interrupted_at_check(number):
            statuses.append(call(argv).status)
        if statuses[-1] == 0:
            break
    assert statuses[-1] == 0
    assert set(statuses[:-1]) == {143}
    assert len(statuses) >= 4
    assert not differences_of_runs(tmp_path / STAGE_1_NAME, four_epochs)


@pytest.mark.parametrize("moment", ["before the reload", "after the reload"])
def test_a_run_interrupted_between_its_phases_goes_on_to_the_same_bits(
    moment, tree, finished, pretrained
):
    """Although checkpoints are rare, those of the feature phase are on the disk."""
    from utils.training.trainer import Trainer

    original, rarely = Trainer._load_best_features, ("--checkpoint_every", 10)

    def load_best(self):
        if moment == "after the reload":
            original(self)
        raise Interrupted(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_load_best_features", load_best)
        assert call(stage_2(tree, pretrained, *rarely)).status == 143
    assert load(stage_2_folder(pretrained) / "ckpt.pth.tar")["epoch"] == 2
    succeed(stage_2(tree, pretrained, "--resume", "True", *rarely))
    assert not differences_of_runs(stage_2_folder(pretrained), stage_2_folder(finished))


def test_a_signal_in_the_summary_of_stage_1_ends_the_run_before_stage_2_trains(
    tree, tmp_path, monkeypatch
):
    def summarise_and_signal(*arguments):
        summarise(*arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("utils.commands.train.summarise", summarise_and_signal)
    both = ("--pretrain_epochs", 1, "--epochs", 1, "--balanced_clf_nepochs", 0, "--feat_loss", "ce")
    assert call(stage_1(tree, tmp_path, *both)).status == 143
    assert (stage_1_folder(tmp_path) / "summary.json").exists()
    assert read_csv(stage_2_folder(tmp_path)) == []


@pytest.fixture
def unsummarised(tree, tmp_path) -> Path:
    """The folder of a stage 1 that has trained its only epoch and has no summary."""
    with disk_full_for("summary.json"):
        assert call(stage_1(tree, tmp_path, "--epochs", 1)).status == 1
    return tmp_path / STAGE_1_NAME


def resumed(tree, folder):
    return succeed(stage_1(tree, folder.parent, "--epochs", 1, "--resume", "True"))


def test_a_run_that_goes_on_on_another_processor_says_so(tree, unsummarised):
    path = unsummarised / "args.json"
    recorded = json.loads(path.read_text())
    began_on = recorded["machine"]["processor"]
    assert not resumed(tree, unsummarised).warnings
    (unsummarised / "summary.json").unlink()
    recorded["machine"]["processor"] = "abacus"
    path.write_text(json.dumps(recorded))
    [warning] = resumed(tree, unsummarised).warnings
    assert f"began on abacus and goes on on {began_on}" in warning
    assert json.loads(path.read_text()) == recorded


def test_a_best_checkpoint_of_an_epoch_that_was_not_chosen_is_named(tree, unsummarised):
    path = unsummarised / "ckpt.best.pth.tar"
    checkpoint.save(path, load(path) | {"epoch": 2})
    [warning] = resumed(tree, unsummarised).warnings
    assert f"{path} is of epoch 2 and not of the chosen epoch 1" in warning


def test_best_features_of_an_epoch_that_was_not_chosen_are_named(tree, pretrained, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("utils.training.trainer.Trainer._load_best_features", interrupt)
        assert call(stage_2(tree, pretrained)).status == 143
    path = stage_2_folder(pretrained) / "ckpt.best.pth.tar"
    chosen = load(path)["epoch"]
    checkpoint.save(path, load(path) | {"epoch": 7})
    [warning] = succeed(stage_2(tree, pretrained, "--resume", "True")).warnings
    assert f"is of epoch 7 and not of the chosen epoch {chosen}" in warning
    assert "ckpt.best_features.pth.tar" in warning and "the classifier phase starts" in warning


def interrupt(*_: object) -> None:
    raise Interrupted(signal.SIGTERM)


@pytest.mark.parametrize("name", ["ckpt.pth.tar", "outputs_train.npz"])
def test_resuming_deletes_what_a_kill_left_of_a_file(name, tree, tmp_path):
    with interrupted_at_check(12):
        call(stage_1(tree, tmp_path))
    left = stage_1_folder(tmp_path) / f".{name}.0123abcd.tmp"
    left.write_bytes(b"half")
    succeed(stage_1(tree, tmp_path, "--resume", "True"))
    assert not left.exists()


def test_overwriting_a_stage_1_replaces_it_alone(tree, both, finished):
    folder, inner = both / STAGE_1_NAME, stage_2_folder(both)
    spoil(folder)
    before = snapshot(inner)
    succeed(stage_1(tree, both, "--overwrite", "True"))
    assert snapshot(inner) == before
    assert not differences_of_runs(folder, finished / STAGE_1_NAME)


def test_overwriting_a_stage_2_gives_what_a_fresh_run_gives(tree, both, finished):
    spoil(stage_2_folder(both))
    succeed(stage_2(tree, both, "--overwrite", "True"))
    assert not differences_of_runs(stage_2_folder(both), stage_2_folder(finished))
    events = [len(list(stage_2_folder(root).glob("events.*"))) for root in (both, finished)]
    assert events[0] == events[1], "events of the replaced run are left"


@pytest.mark.parametrize("stage", [1, 2])
def test_an_overwriting_run_that_is_interrupted_at_once_never_takes_up_the_replaced_one(
    stage, tree, both, finished
):
    make = stage_1 if stage == 1 else stage_2
    spoil(both / STAGE_1_NAME if stage == 1 else stage_2_folder(both))
    with interrupted_at_check(2):
        assert call(make(tree, both, "--overwrite", "True")).status == 143
    succeed(make(tree, both, "--resume", "True"))
    folder_of = stage_1_folder if stage == 1 else stage_2_folder
    assert not differences_of_runs(folder_of(both), folder_of(finished))

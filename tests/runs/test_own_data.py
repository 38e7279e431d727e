"""Whole runs on a user's own images."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from datasets import load_data
from tests.support.helpers import (
    REPOSITORY,
    STAGE_1_NAME,
    call,
    load,
    read_summary,
    snapshot,
    stage_1,
    succeed,
    without,
    write_tree,
)
from tests.support.own_images import folder_data, write_folder, write_npz
from tests.support.pictures import noise, options, save
from tests.support.small_images import SIDE
from utils.options.parse import parse_options
from utils.runs.folders import run_folder
from utils.runs.resuming import prepare
from utils.training.starting_point import warn_of_other_data


def both_stages(root, data, epochs=2, arch="resnet8"):
    """Returns the flags of stage 1 and of stage 2 from it, and the folder of stage 2's records."""
    common = ["--root_log", root, "--root_model", root, "--seed", 1, "-b", 16, "-a", arch, *data]
    common = [str(flag) for flag in common]
    first = [*common, "--epochs", str(epochs), "--schedule", "cosine"]
    pretrained = run_folder(parse_options(first)).models.name
    second = [
        *(*common, "--pretrained", pretrained, "--epochs", "2", "--balanced_clf_nepochs", "1"),
        *("--feat_loss", "ce_lt,robust_loss", "--feat_sampler", "resample,2", "--cls_loss", "ce"),
        *("--temperature", "1", "--margin", "1"),
    ]
    return first, second, run_folder(parse_options(second)).records


def train_and_evaluate(root, *data, arch="resnet8"):
    """Trains both stages and evaluates; returns the folder of stage 2's records."""
    first, second, records = both_stages(root, data, arch=arch)
    succeed(first)
    succeed(second)
    succeed([*second, "--evaluation", "True"])
    assert (records / "outputs_test.npz").exists()
    return records


def test_a_run_is_finished_and_evaluated_under_names_that_are_not_utf_8(tree, tmp_path, no_figures):
    command = stage_1(tree, tmp_path / "caf\udce9", "--epochs", 1, "--exp_str", "caf\udce9")
    succeed(command)
    succeed([*command, "--evaluation", "True"])
    assert list(tmp_path.glob("*/*/summary.json")) and list(tmp_path.glob("*/*/outputs_test.npz"))


def test_a_tree_trains_and_evaluates_with_its_own_normalisation(tmp_path, no_figures):
    tree = write_folder(tmp_path / "own")
    records = train_and_evaluate(tmp_path, "--dataset", "folder", "--data_root", tree)
    assert records.parent.name.startswith("folder_resnet8_CE_None_natural_0.01_0-")
    summary = read_summary(records)
    assert (summary["dataset"], summary["class_counts"]) == ("folder", [6, 3, 2])
    arguments = json.loads((records / "args.json").read_text())
    remembered = load(records.parent / "ckpt.best.pth.tar")["data"]["normalisation"]
    data = folder_data(tree)
    assert remembered == data.normalisation.as_dict()
    assert arguments["normalisation"] == "auto"
    assert arguments["data"]["normalisation"] == remembered
    assert arguments["imb_type"] == "natural" and arguments["data"]["image_size"] == 32


def test_an_npz_file_trains_and_evaluates_and_stage_2_takes_stage_1s_normalisation(
    tmp_path, no_figures
):
    path = tmp_path / "own.npz"
    write_npz(path)
    first, second, records = both_stages(tmp_path, ["--dataset", "npz", "--data_root", path])
    succeed(first)
    remembered = load(records.parent / "ckpt.best.pth.tar")["data"]["normalisation"]
    write_npz(path, train_images=noise(13, 28, 28, seed=7))
    assert any("another subset" in w for w in succeed(second).warnings)
    assert not records.exists()
    records = run_folder(parse_options(second)).records
    assert load(records / "ckpt.best.pth.tar")["data"]["normalisation"] == remembered
    succeed([*second, "--evaluation", "True"])
    assert read_summary(records)["heldout"]["images"] == 5


def test_a_run_goes_on_with_a_copy_of_its_images_and_never_with_others(tmp_path, no_figures):
    path, copy = tmp_path / "own.npz", tmp_path / "elsewhere" / "copy.npz"
    write_npz(path)
    copy.parent.mkdir()
    shutil.copy(path, copy)
    first, *_ = both_stages(tmp_path, ["--dataset", "npz", "--data_root", path])
    succeed(first)
    folder = run_folder(parse_options(first)).records
    before = snapshot(folder)
    assert "finished" in succeed([*first, "--resume", "True", "--data_root", str(copy)]).out
    write_npz(path, train_images=noise(13, 28, 28, seed=7))
    assert run_folder(parse_options(first)).records != folder
    [warning] = succeed([*first, "--resume", "True"]).warnings
    assert f"the data in --data_root {path} have changed since the run in {folder} began" in warning
    assert snapshot(folder) == before
    assert len(list(tmp_path.glob("npz_*"))) == 2
    assert not succeed([*first, "--resume", "True"]).warnings  # it finds the second one finished


def test_a_seed_that_is_left_out_is_no_change_of_the_data(tmp_path, no_figures, capsys):
    tree = write_folder(tmp_path / "own")
    first, *_ = both_stages(tmp_path / "runs", ["--dataset", "folder", "--data_root", tree])
    succeed(first)
    without_seed = without(first, "--seed")

    def prepared(argv):
        options = parse_options([*argv, "--resume", "True"])
        return prepare(options, run_folder(options)), "have changed" in capsys.readouterr().err

    assert prepared(without_seed) == ("start", False)
    save(tree / "train" / "ant" / "added.png", noise(32, 32, 3, seed=77))
    assert prepared(first) == prepared(without_seed) == ("start", True)


def test_no_new_run_begins_in_the_place_of_an_unfinished_one_whose_images_have_changed(
    tmp_path, no_figures
):
    tree = write_folder(tmp_path / "own")
    first, *_ = both_stages(tmp_path / "runs", ["--dataset", "folder", "--data_root", tree])
    succeed(first)
    folder = run_folder(parse_options(first)).records
    (folder / "summary.json").unlink()
    added = tree / "train" / "ant" / "added.png"
    save(added, noise(32, 32, 3, seed=77))
    before = snapshot(tmp_path)
    outcome = call([*first, "--resume", "True"])
    assert outcome.status == 2 and len(outcome.errors) == 1
    assert f"the data in --data_root {tree} have changed" in outcome.err
    assert str(folder) in outcome.err and snapshot(tmp_path) == before
    # Other data begin a run of their own, and so do other options.
    for flags in (["--data_root", str(tmp_path / "copy")], ["--wd", "0.5"]):
        shutil.copytree(tree, tmp_path / "copy", dirs_exist_ok=True)
        options = parse_options([*first, "--resume", "True", *flags])
        assert prepare(options, run_folder(options)) == "start"
    added.unlink()
    assert "resumes after epoch 2" in succeed([*first, "--resume", "True"]).out


def test_after_stage_1_changed_images_make_both_stages_begin_anew_in_other_folders(
    tmp_path, no_figures
):
    tree, root = write_folder(tmp_path / "own"), tmp_path / "runs"
    _, second, _ = both_stages(root, ["--dataset", "folder", "--data_root", tree])
    argv = [*without(second, "--pretrained"), "--pretrain_epochs", 1, "--resume", "True"]
    succeed(argv)
    (summary,) = root.glob("*/robust_*/summary.json")
    summary.unlink()
    save(tree / "train" / "ant" / "added.png", noise(32, 32, 3, seed=77))
    before = snapshot(root)
    assert "resumes" not in succeed(argv).out
    assert before.items() <= snapshot(root).items()
    (summary,) = root.glob("*/robust_*/summary.json")
    assert summary.parents[1].name not in before


@pytest.mark.parametrize(
    ("state", "place", "said"),
    [
        ("finished", "train/class_0", "training"),
        ("unfinished", "train/class_0", "training"),
        ("unfinished", "train/class_9", "held-out"),
        ("unfinished", "test/class_0", "test"),
    ],
)
def test_another_data_root_with_other_images_is_an_error_that_names_it(
    state, place, said, tree, finished, tmp_path, no_figures
):
    """With other test images, too: the best epoch would be chosen among accuracies of both."""
    root, other = tmp_path / "root", write_tree(tmp_path / "other", 24, 4)
    shutil.copytree(finished, root, ignore=shutil.ignore_patterns("robust_*"))
    first = other / "cifar10" / place / "000.png"
    Image.new("RGB", (SIDE, SIDE)).save(first)
    if state == "unfinished":
        (root / STAGE_1_NAME / "summary.json").unlink()
    before = snapshot(root)
    outcome = call(stage_1(other, root, "--resume", "True"))
    assert outcome.status == 2 and f"has other {said} images" in outcome.err
    assert str(tree) in outcome.err and str(other) in outcome.err
    assert snapshot(root) == before


def equal_to_cifar(cifar, tree, side=32):
    """Asserts that both data sets have the same subset, held-out and test images."""
    flags = (
        "--image_size",
        side,
        "--imb_type",
        "exp",
        "--normalisation",
        "cifar",
        "--data_root",
        tree,
    )
    own = load_data(options("--dataset", "folder", *flags, "--imb_factor", cifar[1]))
    theirs = load_data(
        options("--dataset", cifar[0], "--data_root", tree.parent, "--imb_factor", cifar[1])
    )
    assert (own.fingerprint, own.class_counts) == (theirs.fingerprint, theirs.class_counts)
    assert (own.class_names, own.normalisation) == (theirs.class_names, theirs.normalisation)
    for split in ("train", "test", "heldout"):
        ours, expected = getattr(own, split), getattr(theirs, split)
        assert torch.equal(ours.images, expected.images), split
        assert torch.equal(ours.labels, expected.labels), split


def test_a_tree_of_cifar_gives_cifars_subset_and_results(tmp_path, no_figures, small_cifar):
    tree = write_tree(tmp_path / "data", 15, 2) / "cifar10"
    equal_to_cifar(("cifar10", 0.1), tree, SIDE)
    own = ["--dataset", "folder", "--data_root", tree, "--image_size", SIDE]
    own += ["--imb_type", "exp", "--normalisation", "cifar"]
    theirs = ["--dataset", "cifar10", "--data_root", tree.parent]
    results = []
    for data in (own, theirs):
        flags = [*data, "--imb_factor", 0.1]
        first, second, records = both_stages(tmp_path / data[1], flags, epochs=1)
        succeed(first)
        succeed(second)
        summary = read_summary(records)
        results.append([summary[key] for key in ("test", "heldout", "class_counts", "seed")])
    assert results[0] == results[1]


def test_the_real_cifar_100_as_a_plain_tree_gives_the_same_subset():
    tree = REPOSITORY / "data" / "cifar100"
    if not (tree / "train").is_dir():
        pytest.skip(f"no PNG files of CIFAR-100 in {tree}")
    equal_to_cifar(("cifar100", 0.01), tree)


def test_evaluation_takes_the_image_size_from_the_checkpoint(tmp_path, no_figures):
    tree = write_folder(tmp_path / "own")
    flags = ["--dataset", "folder", "--data_root", tree, "-a", "resnet8", "--epochs", 1, "-b", 16]
    flags += ["--root_log", tmp_path / "runs", "--root_model", tmp_path / "runs", "--seed", 0]
    succeed([*flags, "--image_size", 16])
    evaluation = [str(flag) for flag in (*flags, "--evaluation", "True")]
    succeed(evaluation)
    outcome = call([*evaluation, "--image_size", "32"])
    assert outcome.status == 2 and "--image_size 32 contradicts the checkpoint" in outcome.err


def test_an_evaluation_on_other_images_may_have_a_place_of_its_own(tmp_path, no_figures):
    tree, other = write_folder(tmp_path / "own"), write_folder(tmp_path / "other")
    save(other / "test" / "ant" / "more.png", noise(32, 32, 3, seed=77))
    flags = ["--dataset", "folder", "-a", "resnet8", "--epochs", 1, "-b", 16, "--seed", 0]
    flags += ["--root_model", tmp_path / "runs"]
    first = [*flags, "--data_root", tree, "--root_log", tmp_path / "runs"]
    succeed(first)
    succeed([*first, "--evaluation", "True"])
    before = snapshot(tmp_path / "runs")
    place = ["--data_root", other, "--root_log", tmp_path / "second season"]
    outcome = succeed([*flags, *place, "--evaluation", "True"])
    assert "7 test (test/)" in outcome.out
    (outputs,) = (tmp_path / "second season").glob("*/outputs_test.npz")
    assert outputs.parent.name == next((tmp_path / "runs").iterdir()).name
    assert snapshot(tmp_path / "runs") == before


TOO_HIGH = "it was trained on some of them: their accuracies are too high"


def warning_of(before, now, capsys, **recorded):
    start = {"class_counts": before.class_counts, "fingerprint": before.fingerprint} | recorded
    warn_of_other_data(start, Path("ckpt.best.pth.tar"), now)
    return capsys.readouterr().err


def test_a_warning_says_that_a_changed_tree_tests_on_training_images(tmp_path, capsys):
    def warned(root, splits):
        write_folder(root, counts=(30, 20, 10), splits=splits)
        before = folder_data(root)
        save(root / splits[0] / "ant" / "added.png", noise(32, 32, 3, seed=77))
        data = folder_data(root)
        warning = warning_of(before, data, capsys, data=before.description())
        return set(before.train.files) & set(data.test.files), warning

    trained, warning = warned(tmp_path / "split off", splits=("",))
    assert trained and warning.count("\n") == 1 and TOO_HIGH in warning
    trained, warning = warned(tmp_path / "own", splits=("train", "test"))
    assert not trained and "another subset" in warning and TOO_HIGH not in warning


@pytest.mark.parametrize("stream", [False, True])
def test_a_warning_says_that_a_changed_tree_holds_out_training_images(stream, tmp_path, capsys):
    def warned(root, splits, *flags):
        write_folder(root, counts=(30, 20, 10), splits=splits)
        flags = (*flags, "--stream", stream, "-j", 0)
        before = folder_data(root, *flags)
        save(root / "train" / "ant" / "added.png", noise(32, 32, 3, seed=77))
        data = folder_data(root, *flags)
        warning = warning_of(before, data, capsys, data=before.description())
        return set(before.train.files) & set(data.heldout.files), warning

    says = "it may have been trained on this run's held-out images"
    trained, warning = warned(tmp_path / "drawn", ("train", "test"), "--heldout_fraction", 0.3)
    assert trained and warning.count("\n") == 1 and says in warning and TOO_HIGH not in warning
    trained, warning = warned(tmp_path / "own", ("train", "test", "val"))
    assert not trained and "another subset" in warning and says not in warning


def test_a_warning_knows_from_the_record_that_the_test_images_are_the_same(tmp_path, capsys):
    root = write_folder(tmp_path / "own", counts=(30, 20, 10), splits=("train",)) / "train"
    before, data = folder_data(root), folder_data(root, "--heldout_fraction", 0.2)
    assert data.test.files == before.test.files and data.class_counts != before.class_counts
    assert TOO_HIGH not in warning_of(before, data, capsys, data=before.description())
    assert TOO_HIGH in warning_of(before, data, capsys)  # an earlier version recorded nothing


def test_streamed_images_are_not_compared_with_those_in_memory(tmp_path):
    root = write_folder(tmp_path / "own")
    record = {"data": folder_data(root, "--stream", "False").description()}
    assert folder_data(root, "--stream", "False").changed_splits(record) == []
    assert folder_data(root, "--stream", "True", "-j", 0).changed_splits(record) is None


def test_a_class_of_a_name_that_is_not_utf_8_trains_and_evaluates(tmp_path, no_figures):
    """The tree has no splits."""
    tree = write_folder(tmp_path / "own", counts=(4, 3, 2), splits=("",))
    folder = os.fsencode(tree)
    os.rename(folder + b"/ant", folder + b"/\xe9t\xe9")
    flags = ["--dataset", "folder", "--data_root", tree, "-a", "resnet8", "--epochs", 1, "-b", 16]
    flags += ["--root_log", tmp_path / "runs", "--root_model", tmp_path / "runs", "--seed", 0]
    outcome = succeed([str(flag) for flag in flags])
    assert "0.2 of each class (--test_fraction)" in outcome.out
    outcome = succeed([str(flag) for flag in (*flags, "--evaluation", "True")])
    assert "\\xe9t\\xe9" in outcome.out

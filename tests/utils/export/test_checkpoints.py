"""Checkpoints that come with the code: they are small, and found right after cloning."""

import json
import shutil

import pytest
import torch

from tests.support.helpers import (
    RELEASED_NAME,
    REPOSITORY,
    STAGE_1_NAME,
    call,
    differences,
    load,
    read_summary,
    snapshot,
    stage_1,
    stage_2,
    stage_2_folder,
    succeed,
    weights_of,
)
from tests.support.table_records import frame_of
from utils.export.__main__ import main
from utils.export.checkpoints import KEPT
from utils.options.parse import parse_options
from utils.options.run_names import digested, run_name

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture
def clone(finished, tmp_path, monkeypatch):
    """Gives a working folder that has only both stages' checkpoints, below `pretrained`."""
    monkeypatch.chdir(tmp_path)
    assert main([str(finished / STAGE_1_NAME), "--last"]) == 0
    assert main([str(stage_2_folder(finished))]) == 0
    return tmp_path


def test_a_slim_checkpoint_keeps_the_weights_and_what_they_are(finished, clone):
    source, target = finished / STAGE_1_NAME, clone / "pretrained" / STAGE_1_NAME
    names = {"ckpt.best.pth.tar", "ckpt.best_heldout.pth.tar", "ckpt.pth.tar"}
    assert {path.name for path in target.glob("*.tar")} == names
    for name in names:
        whole, slim = load(source / name), load(target / name)
        assert set(slim) == {key for key in KEPT if key in whole}
        # The best checkpoints have no more than evaluation and the next stage need.
        assert name == "ckpt.pth.tar" or set(whole) == set(slim)
        whole["state_dict"] = dict(whole["state_dict"])  # saved ordered, read plain
        assert not differences({key: whole[key] for key in slim}, slim)
    smaller = (target / "ckpt.pth.tar").stat().st_size / (source / "ckpt.pth.tar").stat().st_size
    assert smaller < 0.6


@pytest.mark.parametrize("protocol", ["test", "heldout", "last"])
def test_the_best_checkpoint_says_its_runs_protocol_and_the_last_that_nothing_chose_it(
    protocol, finished, tmp_path
):
    """Earlier versions may have written something else into the latter."""
    run = tmp_path / STAGE_1_NAME
    shutil.copytree(finished / STAGE_1_NAME, run, ignore=shutil.ignore_patterns("robust_*"))
    arguments = json.loads((run / "args.json").read_text()) | {"select_on": protocol}
    (run / "args.json").write_text(json.dumps(arguments))
    torch.save(load(run / "ckpt.pth.tar") | {"selected_on": "test"}, run / "ckpt.pth.tar")
    assert main([str(run), "--last", "--output", str(tmp_path / "out")]) == 0
    exported = tmp_path / "out" / STAGE_1_NAME
    chosen = {"ckpt.pth.tar": "last", "ckpt.best.pth.tar": protocol}
    assert {name: load(exported / name)["selected_on"] for name in chosen} == chosen


def test_a_stage_2_goes_into_the_folder_of_its_stage_1(finished, clone):
    name = stage_2_folder(finished).name
    target = clone / "pretrained" / STAGE_1_NAME / name
    assert (target / "ckpt.best.pth.tar").is_file() and not (target / "ckpt.pth.tar").exists()
    assert not differences(
        load(target / "ckpt.best.pth.tar")["epsilons"],
        load(stage_2_folder(finished) / "ckpt.best.pth.tar")["epsilons"],
    )


def test_a_checkpoint_says_by_which_protocol_it_was_chosen(clone):
    folder = clone / "pretrained" / STAGE_1_NAME
    names = {"ckpt.best.pth.tar": "test", "ckpt.best_heldout.pth.tar": "heldout"}
    for name, protocol in (names | {"ckpt.pth.tar": "last"}).items():
        assert load(folder / name)["selected_on"] == protocol


def test_a_run_made_earlier_is_exported_with_the_right_protocols(both, tmp_path):
    """In earlier versions the last epoch's checkpoint had the run's protocol, and a stage 2 kept a
    checkpoint by held-out images although test images had chosen its start and features."""
    folders = both / STAGE_1_NAME, stage_2_folder(both)
    shutil.copy(folders[0] / "ckpt.best_heldout.pth.tar", folders[1])
    for folder in folders:
        last = load(folder / "ckpt.pth.tar")
        torch.save(last | {"selected_on": "test"}, folder / "ckpt.pth.tar")
        assert main([str(folder), "--output", str(tmp_path / "out"), "--last"]) == 0
    exported = sorted((tmp_path / "out").rglob("*.tar"))
    assert [path.name for path in exported if path.parent.name == STAGE_1_NAME] == [
        "ckpt.best.pth.tar",
        "ckpt.best_heldout.pth.tar",
        "ckpt.pth.tar",
    ]
    assert [path.name for path in exported if path.parent.name != STAGE_1_NAME] == [
        "ckpt.best.pth.tar",
        "ckpt.pth.tar",
    ]
    for path in exported:
        if path.name == "ckpt.pth.tar":
            assert load(path)["selected_on"] == "last"


SHIPPED = {
    "CE_None_exp_0.01_0": "cifar100_r100_4428a04c/ce/200_bf16_s0",
    "CE_None_exp_0.1_0": "cifar100_r10_806503dd/ce/200_float32_s0",
    "BS_None_exp_0.01_0": "cifar100_r100_4428a04c/bs/200_float32_s0",
    "feat-ce_lt,robust_loss": "cifar100_r100_4428a04c/dro_lt/200+80+20_bf16+float32_s0_from0",
    "feat-ce_lt-": "cifar100_r100_4428a04c/control/200+80+20_bf16_s0_from0",
}
"""Records below results/runs, by a part of the names of their runs in `pretrained`."""


def test_the_checkpoints_that_come_with_the_code_are_those_of_the_records():
    """As pretrained/README.md says; a stage 2 keeps no best checkpoint of another protocol."""
    protocols = {
        "ckpt.best.pth.tar": "test",
        "ckpt.best_heldout.pth.tar": "heldout",
        "ckpt.pth.tar": "last",
    }
    lines = {
        (line["cell"].record.as_posix(), line["protocol"]): line
        for line in frame_of(REPOSITORY / "results").to_dict("records")
    }
    paths = list((REPOSITORY / "pretrained").rglob("*.pth.tar"))
    assert {path.name for path in paths} == set(protocols)
    for path in paths:
        content = load(path)
        assert content["selected_on"] == protocols[path.name], path
        assert content["stage"] == 1 or path.name != "ckpt.best_heldout.pth.tar", path
        [record] = [record for part, record in SHIPPED.items() if part in path.parent.name]
        line = lines[record, protocols[path.name]]
        found = content["epoch"], content["results"]["test"]["linear"]["top1"]
        assert found == (line["epoch"], line["top1"]), path


def test_fine_tuning_starts_right_after_cloning(tree, finished, clone):
    succeed(stage_2(tree, clone / "checkpoint", "--resume", "True"))
    ours, theirs = stage_2_folder(clone / "checkpoint"), stage_2_folder(finished)
    assert not differences(weights_of(ours), weights_of(theirs))


def test_select_on_last_starts_from_the_last_epoch(tree, clone):
    outcome = succeed(stage_2(tree, clone / "checkpoint", "--select_on", "last"))
    (said,) = (line for line in outcome.out.splitlines() if line.startswith("starts from "))
    assert said.endswith(f"{STAGE_1_NAME}/ckpt.pth.tar") and not outcome.warnings


@pytest.mark.parametrize("make", [stage_1, stage_2])
def test_evaluation_works_right_after_cloning(make, tree, finished, clone):
    before = snapshot(clone / "pretrained")
    outcome = succeed(make(tree, clone / "checkpoint", "--evaluation", "True"))
    assert "pretrained/" in outcome.out
    folder = finished / STAGE_1_NAME if make is stage_1 else stage_2_folder(finished)
    top1 = read_summary(folder)["test"]["selected"]["linear"]["top1"]
    assert f"{top1:.2f}" in next(li for li in outcome.out.splitlines() if "test, linear" in li)
    assert len(list((clone / "checkpoint").rglob("outputs_test.npz"))) == 1
    assert snapshot(clone / "pretrained") == before


def test_an_exported_checkpoint_says_what_it_was_trained_on(finished, clone):
    """Own data are normalised as in training, and streamed or not."""
    slim = load(clone / "pretrained" / STAGE_1_NAME / "ckpt.best.pth.tar")
    assert {"mean", "std"} <= set(slim["data"]["normalisation"]) and "streamed" in slim["data"]


def test_a_run_is_evaluated_in_another_precision_than_it_was_trained_in(tree, finished, clone):
    [run] = (clone / "pretrained" / STAGE_1_NAME).glob("robust_*")
    argv = stage_2(tree, clone / "checkpoint", "--precision", "bf16")
    options = parse_options([str(flag) for flag in argv])
    run.rename(run.with_name(run_name(options, digested(options, STAGE_1_NAME))))
    outcome = succeed(stage_2(tree, clone / "checkpoint", "--evaluation", "True"))
    assert "/ckpt.best.pth.tar, epoch" in outcome.out


def test_evaluating_a_shipped_checkpoint_does_not_count_as_its_run(tree, clone):
    argv = stage_1(tree, clone / "checkpoint")
    succeed([*argv, "--evaluation", "True", "--readings", "linear"])
    assert (clone / "checkpoint" / STAGE_1_NAME / "readings.json").exists()
    succeed(argv)


@pytest.mark.parametrize(
    ("protocol", "name"),
    [
        ("test", "ckpt.best.pth.tar"),
        ("heldout", "ckpt.best_heldout.pth.tar"),
        ("last", "ckpt.pth.tar"),
    ],
)
def test_a_stage_1_is_evaluated_as_the_protocol_chooses(protocol, name, tree, finished, clone):
    flags = ("--evaluation", "True", "--select_on", protocol)
    outcome = succeed(stage_1(tree, clone / "checkpoint", *flags))
    assert f"pretrained/{STAGE_1_NAME}/{name}, epoch" in outcome.out


def test_a_users_own_run_is_evaluated_before_a_shipped_checkpoint(tree, finished, clone):
    shutil.copytree(finished, clone / "checkpoint")
    outcome = succeed(stage_1(tree, clone / "checkpoint", "--evaluation", "True"))
    assert "pretrained/" not in outcome.out


def test_without_any_checkpoint_the_error_names_the_runs_own(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = call(stage_1(tree, tmp_path / "checkpoint", "--evaluation", "True"))
    assert outcome.status == 2 and f"no checkpoint {tmp_path / 'checkpoint'}" in outcome.err


def test_where_the_run_is_missing_the_ones_beside_it_are_named(tree, finished, clone):
    command = stage_2(tree, clone / "checkpoint", "--evaluation", "True", "--feat_lr", 0.125)
    outcome = call(command)
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert f"; the runs there are pretrained/{STAGE_1_NAME}/robust_" in outcome.err
    assert stage_2_folder(finished).name in outcome.err


def test_only_finished_runs_are_exported(finished, tmp_path, capsys):
    shutil.copytree(finished / STAGE_1_NAME, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    assert main([str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 2
    assert main([str(tmp_path / "nothing"), "--output", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "not finished" in lines[0] and "no such run" in lines[1] and len(lines) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("last", [[], ["--last"]])
def test_checkpoints_with_which_a_run_can_be_resumed_are_never_replaced(
    last, both, tmp_path, capsys
):
    """Neither those of the exported run, which a link may lead to, nor those of another."""
    shutil.copytree(both, tmp_path / "other", ignore=shutil.ignore_patterns("args.json"))
    (tmp_path / "link").symlink_to(both)
    before = snapshot(tmp_path)
    for run in (both / STAGE_1_NAME, stage_2_folder(both)):
        for output in (both, tmp_path / "link", tmp_path / "other"):
            assert main([str(run), "--output", str(output), *last]) == 2
            err = capsys.readouterr().err
            assert err.startswith(f"export: error: {output}") and err.count("\n") == 1
            assert err.endswith("give another --output\n")
    assert snapshot(tmp_path) == before


def test_earlier_exported_checkpoints_are_replaced(finished, tmp_path):
    for _ in range(2):
        assert main([str(finished / STAGE_1_NAME), "--output", str(tmp_path), "--last"]) == 0


@pytest.mark.parametrize("lacks", [False, True], ids=["other weights", "none of this name"])
def test_another_runs_exported_checkpoints_are_never_replaced(lacks, finished, tmp_path, capsys):
    """Else the checkpoints that come with the code would be lost, or mixed with those of a run."""
    run, name = tmp_path / STAGE_1_NAME, "ckpt.best_heldout.pth.tar"
    shutil.copytree(finished / STAGE_1_NAME, run, ignore=shutil.ignore_patterns("robust_*"))
    assert main([str(run), "--output", str(tmp_path / "out")]) == 0
    if lacks:
        (run / name).unlink()
    else:
        content = load(run / name)
        content["state_dict"]["linear.bias"] += 1
        torch.save(content, run / name)
    before = snapshot(tmp_path)
    assert main([str(run), "--output", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert f"out/{STAGE_1_NAME}/{name} is there already, and its weights are not" in err
    assert err.count("\n") == 1 and snapshot(tmp_path) == before


def test_a_stage_2_is_not_put_below_another_stage_1(finished, tmp_path, capsys):
    """`--pretrained` would name a network that it did not start from."""
    shutil.copytree(finished, tmp_path / "runs")
    stage_2_run, output = stage_2_folder(tmp_path / "runs"), ["--output", str(tmp_path / "out")]
    assert main([str(finished / STAGE_1_NAME), *output]) == 0
    assert main([str(stage_2_run), *output]) == 0
    path = tmp_path / "out" / STAGE_1_NAME / "ckpt.best.pth.tar"
    content = load(path)
    content["state_dict"]["linear.bias"] += 1
    torch.save(content, path)
    before = snapshot(tmp_path)
    assert main([str(stage_2_run), *output]) == 2
    err = capsys.readouterr().err
    assert f"{path} is there already, and it is not the stage 1 of" in err
    assert err.count("\n") == 1 and snapshot(tmp_path) == before


def test_a_run_is_looked_up_as_for_a_prediction(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "checkpoint", ignore=shutil.ignore_patterns("robust_*"))
    monkeypatch.chdir(tmp_path)
    folder = f"checkpoint/{STAGE_1_NAME}"
    for i, run in enumerate(
        (STAGE_1_NAME, RELEASED_NAME, "checkpoint", folder, f"{folder}/ckpt.best.pth.tar")
    ):
        assert main([run, "--output", f"out{i}"]) == 0, run
        assert (tmp_path / f"out{i}" / STAGE_1_NAME / "ckpt.best.pth.tar").is_file()


def test_a_file_in_the_place_of_the_folder_is_one_line(finished, tmp_path, capsys):
    occupied = tmp_path / "mine"
    occupied.write_text("a file")
    assert main([str(finished / STAGE_1_NAME), "--output", str(occupied)]) == 2
    err = capsys.readouterr().err
    assert "not a writable folder" in err and err.count("\n") == 1
    assert occupied.read_text() == "a file"

"""Stages 2 that are resumed while their stage 1 has moved, changed or been replaced."""

import json
import shutil

import pytest
import torch

from tests.support.faults import interrupted_at_check, spoil
from tests.support.helpers import (
    STAGE_1_NAME,
    call,
    differences_of_runs,
    load,
    read_summary,
    stage_2,
    stage_2_folder,
    succeed,
    weights_of,
)
from utils.export.checkpoints import export_checkpoints
from utils.runs import checkpoint

pytestmark = pytest.mark.usefixtures("no_figures")


def test_a_run_may_be_resumed_under_another_spelling_of_its_checkpoint(tree, pretrained, finished):
    with interrupted_at_check(20):
        assert call(stage_2(tree, pretrained)).status == 143
    path = pretrained / STAGE_1_NAME
    last = stage_2_folder(pretrained) / "ckpt.pth.tar"
    torch.save(load(last) | {"seconds": 1000.0}, last)
    outcome = succeed(stage_2(tree, pretrained, "--resume", "True", "--pretrained", path))
    assert "resumes after epoch 1 of 3" in outcome.out
    # The time before the interruption counts too.
    assert 1000 < read_summary(stage_2_folder(pretrained))["seconds"] < 1100
    assert not differences_of_runs(stage_2_folder(pretrained), stage_2_folder(finished))


def test_a_stage_2_whose_stage_1_has_changed_says_so_and_a_small_copy_is_no_change(
    tree, pretrained, tmp_path
):
    export_checkpoints(pretrained / STAGE_1_NAME, tmp_path / "small", with_last=False)
    argv = stage_2(tree, pretrained, "--resume", "True")
    succeed(argv)
    from_copy = [*argv, "--pretrained", tmp_path / "small" / STAGE_1_NAME]
    outcome = succeed(from_copy)
    assert "this run is finished" in outcome.out and not outcome.warnings
    spoil(pretrained / STAGE_1_NAME, "ckpt.best.pth.tar")
    [warning] = succeed(argv).warnings
    best = pretrained / STAGE_1_NAME / "ckpt.best.pth.tar"
    folder = stage_2_folder(pretrained)
    assert f"{best} has other weights than when the run in {folder} began" in warning
    assert not succeed(from_copy).warnings
    spoil(tmp_path / "small" / STAGE_1_NAME, "ckpt.best.pth.tar")
    outcome = call(from_copy)
    assert outcome.status == 2 and f"began with {best}, and --pretrained" in outcome.errors[0]
    succeed([*from_copy, "--evaluation", "True"])
    best.write_bytes(b"damaged")
    outcome = succeed(argv)
    assert "this run is finished" in outcome.out and not outcome.warnings


def test_a_stage_2_from_a_shipped_checkpoint_does_not_go_on_from_a_stage_1_of_ones_own(
    tree, pretrained, tmp_path, monkeypatch
):
    shutil.copytree(pretrained, tmp_path / "shipped")
    monkeypatch.setattr("utils.runs.lookup.PRETRAINED", tmp_path / "shipped")
    argv = stage_2(tree, tmp_path / "runs", "--resume", "True")
    succeed(argv)
    own = tmp_path / "runs" / STAGE_1_NAME
    shutil.copytree(pretrained / STAGE_1_NAME, own, dirs_exist_ok=True)
    assert not succeed(argv).warnings  # it has the same weights
    spoil(own, "ckpt.best.pth.tar")
    outcome = call(argv)
    shipped = tmp_path / "shipped" / STAGE_1_NAME / "ckpt.best.pth.tar"
    assert outcome.status == 2
    assert f"began with {shipped}, and --pretrained {STAGE_1_NAME} is {own}" in outcome.errors[0]


def test_a_stage_2_that_was_stopped_before_its_first_checkpoint_records_what_it_begins_with_now(
    tree, pretrained
):
    argv = stage_2(tree, pretrained, "--resume", "True")
    with interrupted_at_check(2):
        assert call(argv).status == 143
    folder = stage_2_folder(pretrained)
    before = json.loads((folder / "args.json").read_text())
    assert not (folder / "ckpt.pth.tar").exists()
    spoil(pretrained / STAGE_1_NAME, "ckpt.best.pth.tar")
    for said in ("starts from", "this run is finished"):
        outcome = succeed(argv)
        assert said in outcome.out and not outcome.warnings
    start = checkpoint.weights_digest(weights_of(pretrained / STAGE_1_NAME, "ckpt.best.pth.tar"))
    recorded = json.loads((folder / "args.json").read_text())
    assert recorded == before | {"start": start} != before

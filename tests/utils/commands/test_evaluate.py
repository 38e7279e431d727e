"""Evaluation of finished runs: what it writes, prints and warns of."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.support.helpers import (
    CLASS_COUNTS,
    NOTHING,
    STAGE_1_NAME,
    load,
    read_summary,
    snapshot,
    stage_1,
    stage_2,
    stage_2_folder,
    succeed,
    weights_of,
)

pytestmark = pytest.mark.usefixtures("no_figures")


def accuracy(preds: np.ndarray, labels: np.ndarray) -> float:
    return 100 * float((preds == labels).mean())


@pytest.mark.parametrize("stage", [1, 2])
def test_evaluation_writes_outputs_that_give_the_accuracies_of_the_summary(stage, tree, both):
    make, folder = (stage_1, both / STAGE_1_NAME) if stage == 1 else (stage_2, stage_2_folder(both))
    before = snapshot(both)

    outcome = succeed(make(tree, both, "--evaluation", "True"))

    written = {f"{folder.relative_to(both)}/outputs_{split}.npz" for split in ("train", "test")}
    after = snapshot(both)
    assert set(after) - set(before) == written
    assert {path: after[path] for path in before} == before
    selected = read_summary(folder)["test"]["selected"]
    arrays = {}
    for split in ("train", "test"):
        with np.load(folder / f"outputs_{split}.npz", allow_pickle=False) as outputs:
            assert {"feats", "labels", "preds"} <= set(outputs.files)
            arrays[split] = {name: outputs[name] for name in outputs.files}
    assert np.bincount(arrays["train"]["labels"]).tolist() == CLASS_COUNTS
    assert arrays["test"]["feats"].shape == (40, 64)
    test = arrays["test"]
    top1 = accuracy(test["preds"], test["labels"])
    assert top1 == pytest.approx(selected["linear"]["top1"], abs=1e-3)
    for label, recorded in enumerate(selected["linear"]["per_class"]):
        members = test["labels"] == label
        assert accuracy(test["preds"][members], label) == pytest.approx(recorded, abs=1e-3)
    (linear,) = [row for row in outcome.out.splitlines() if row.startswith("test, linear")]
    (ncm,) = [row for row in outcome.out.splitlines() if row.startswith("test, NCM")]
    for row, reading in ((linear, "linear"), (ncm, "ncm")):
        shown = row.split(",")[1].split()[1:]
        names = ("top1", "top5", "balanced", "macro_f1", "many", "medium", "few")
        values = [selected[reading][name] for name in names]
        assert shown == ["n/a" if value is None else f"{value:.2f}" for value in values]
    centroids = [
        arrays["train"]["feats"][arrays["train"]["labels"] == c].mean(0) for c in range(10)
    ]
    directions = F.normalize(torch.tensor(np.stack(centroids)), dim=1)
    nearest = (F.normalize(torch.tensor(test["feats"]), dim=1) @ directions.T).argmax(1).numpy()
    assert accuracy(nearest, test["labels"]) == pytest.approx(selected["ncm"]["top1"], abs=1e-3)
    assert np.array_equal(
        test["preds"],
        load(folder / "ckpt.best.pth.tar")["state_dict"]["linear.bias"]
        .add(
            torch.tensor(test["feats"]) @ weights_of(folder, "ckpt.best.pth.tar")["linear.weight"].T
        )
        .argmax(1)
        .numpy(),
    )


def test_evaluation_shows_the_size_of_every_group(tree, both):
    outcome = succeed(stage_1(tree, both, "-e"))
    assert "many (0)" in outcome.out
    assert "medium (2)" in outcome.out
    assert "few (8)" in outcome.out


@pytest.mark.parametrize(
    "flags", [("--rand_number", 1), ("--imb_factor", 0.3)], ids=["other images", "other counts"]
)
def test_a_checkpoint_of_another_subset_warns(flags, tree, both):
    def warned(outcome) -> list[str]:
        return [warning for warning in outcome.warnings if "another subset" in warning]

    path = both / STAGE_1_NAME
    outcome = succeed(stage_2(tree, both, *flags, "--pretrained", path, *NOTHING))
    assert len(warned(outcome)) == 1
    other = path.with_name(STAGE_1_NAME.replace("0.2", "0.3"))
    shutil.copytree(path, other, ignore=shutil.ignore_patterns("robust_*"))
    outcome = succeed(stage_1(tree, both, *flags, "--evaluation", "True"))
    assert len(warned(outcome)) == 1
    assert not warned(succeed(stage_1(tree, both, "--evaluation", "True")))

"""Runs whose records have no `balanced` and no macro F1, because earlier versions made them, stay
usable."""

import json

import pytest
import torch

from tests.support.helpers import (
    STAGE_1_NAME,
    load,
    read_csv,
    read_records,
    read_summary,
    stage_1,
    stage_2,
    stage_2_folder,
    succeed,
)
from utils.runs.records import accuracies_of, read_run

pytestmark = pytest.mark.usefixtures("no_figures")
NEW = ("balanced", "macro_f1", "precision", "recall")


def as_made_earlier(content):
    """Returns nested records without what they did not have."""
    if isinstance(content, dict):
        return {k: as_made_earlier(v) for k, v in content.items() if k not in NEW}
    return content


def rewrite(folder):
    """Changes the records and the checkpoints in the folder into those of an earlier version."""
    for path in folder.glob("ckpt*.pth.tar"):
        torch.save(as_made_earlier(load(path)), path)
    records = [as_made_earlier(record) for record in read_records(folder)]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "log.jsonl").write_text(text)
    summary = folder / "summary.json"
    if summary.exists():
        earlier = {k: v for k, v in read_summary(folder).items() if k != "features"}
        summary.write_text(json.dumps(as_made_earlier(earlier)))


def test_a_run_without_a_summary_takes_them_up(tree, tmp_path, pretrained):
    """The run ends with the summary, log and choices of a run that had all records from the
    start."""
    argv = stage_2(tree, pretrained, "--select_on", "heldout")
    succeed(argv)
    folder = stage_2_folder(pretrained)
    expected, expected_rows = read_summary(folder), read_csv(folder)
    last = load(folder / "ckpt.pth.tar")
    rewrite(folder)
    assert "balanced" not in str(load(folder / "ckpt.pth.tar")["best"])
    (folder / "summary.json").unlink()

    succeed([*argv, "--resume", "True"])

    assert load(folder / "ckpt.pth.tar")["epoch"] == last["epoch"]
    summary = read_summary(folder)
    for split in ("test", "heldout"):
        for which in ("selected", "last"):
            found, wanted = summary[split][which], expected[split][which]
            assert found["epoch"] == wanted["epoch"]
            for reading in ("linear", "ncm"):
                assert found[reading] == as_made_earlier(wanted[reading])
    assert [features["epoch"] for features in summary["features"].values()] == [
        features["epoch"] for features in expected["features"].values()
    ]
    for row, wanted in zip(read_csv(folder), expected_rows, strict=True):
        for column in ("test_ncm_balanced", "heldout_linear_balanced"):
            assert float(row[column]) == pytest.approx(float(wanted[column]), abs=1e-3)


def test_a_finished_one_is_read_and_evaluated(tree, both):
    before = accuracies_of(read_run(both / STAGE_1_NAME).results("selected"))
    rewrite(both / STAGE_1_NAME)
    after = accuracies_of(read_run(both / STAGE_1_NAME).results("selected"))
    assert after == pytest.approx(before | {"macro_f1": None}, abs=1e-3)
    succeed(stage_1(tree, both, "--evaluation", "True"))

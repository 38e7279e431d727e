"""The demonstration trains and evaluates on the handwritten digits: all of its runs, but short."""

import json

from utils import demo


def test_the_demonstration_trains_every_run_of_its_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "STAGE_1", f"{demo.STAGE_1} -a resnet8 --epochs 1")
    short = "-a resnet8 --epochs 2 --balanced_clf_nepochs 1"
    monkeypatch.setattr(demo, "STAGE_2", f"{demo.STAGE_2} {short}")

    assert demo.demo(0, tmp_path) == 0

    rows = capsys.readouterr().out.split("one seed\n")[1]
    assert f"{demo.DRO_LT}, NCM" in rows
    summaries = [json.loads(path.read_text()) for path in tmp_path.rglob("summary.json")]
    assert sorted(summary["stage"] for summary in summaries) == [1, 2, 2]
    assert {(s["dataset"], s["arch"]) for s in summaries} == {("digits", "resnet8")}
    (outputs,) = tmp_path.rglob("outputs_test.npz")
    assert "robust_loss" in outputs.parent.name

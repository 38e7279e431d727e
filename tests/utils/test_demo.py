"""The demonstration's commands and table."""

import json

import pytest

from utils import demo
from utils.options.parse import parse_options
from utils.runs.folders import run_folder


def test_the_control_differs_from_dro_lt_in_the_robust_loss_alone(tmp_path):
    runs = {name: parse_options(flags) for name, flags in demo.commands(0, tmp_path).items()}
    control, dro_lt = (runs[name].as_dict() for name in (demo.CONTROL, demo.DRO_LT))
    different = {name for name in control if control[name] != dro_lt[name]}
    assert different == {"feat_loss", "recipe"} and control["feat_loss"] == "ce_lt"
    assert all(options.select_on == "last" for options in runs.values())
    first = run_folder(runs[demo.CROSS_ENTROPY]).models
    assert all(run_folder(runs[n]).models.parent == first for n in (demo.CONTROL, demo.DRO_LT))


def test_every_run_has_the_seed(tmp_path):
    runs = demo.commands(3, tmp_path).values()
    assert [parse_options(flags).seed for flags in runs] == [3, 3, 3]


def test_the_table_has_every_run_by_both_classifiers(tmp_path, monkeypatch, capsys):
    called = []

    def main(argv):
        """Writes the records of a run without training it."""
        called.append(argv)
        options = parse_options(argv)
        if options.evaluation:
            return 0
        top1 = 60.0 + len(called)
        record = dict.fromkeys(("top1", "top5", "balanced", "many", "medium", "few"), top1)
        result = {"linear": record, "ncm": record | {"top1": top1 + 0.25}}
        records = run_folder(options).records
        records.mkdir(parents=True, exist_ok=True)
        summary = {"class_counts": [30, 20, 10], "test": {"last": result}}
        (records / "summary.json").write_text(json.dumps(summary))
        return 0

    monkeypatch.setattr(demo, "main", main)
    assert demo.demo(0, tmp_path) == 0
    out = capsys.readouterr().out
    assert len(called) == 4 and called[-1][-2:] == ["--evaluation", "True"]
    assert all(argv[-2:] == ["--overwrite", "True"] for argv in called[:3])
    for top1, method in enumerate((demo.CROSS_ENTROPY, demo.CONTROL, demo.DRO_LT), start=61):
        for classifier, decimals in (("linear", "00"), ("NCM", "25")):
            [row] = [line for line in out.splitlines() if f"{method}, {classifier}" in line]
            assert f" {top1}.{decimals} " in row
    assert out.rstrip().endswith("report.png")


def test_a_run_that_fails_ends_the_demonstration(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "main", lambda argv: 2)
    assert demo.demo(0, tmp_path) == 2


def test_a_folder_may_have_a_space_in_its_name(tmp_path):
    folder = tmp_path / "my demo"
    options = [parse_options(flags) for flags in demo.commands(0, folder).values()]
    assert {(run.root_log, run.root_model) for run in options} == {(str(folder), str(folder))}


@pytest.mark.parametrize("flags", [["--seed", "-1"], ["--seed", "x"], ["--sed", "1"]])
def test_bad_input_is_one_line(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert demo.run(flags) == 2
    err = capsys.readouterr().err
    assert err.startswith("demo: error: ") and err.count("\n") == 1
    assert not list(tmp_path.iterdir())

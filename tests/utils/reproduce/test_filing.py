"""Runs that main.py made by itself, filed as a row's."""

import json

import numpy as np
import pytest

from tests.support.table_records import cell_of, write_run
from utils.errors import UserError
from utils.reproduce.filing import file_run, read_records
from utils.reproduce.plan import Length

CUT = Length(200, 2, 1)


def chain(root, row="dro_lt", **of_cell):
    """A stage 1 and, below it, a stage 2; the folder of the latter."""
    start = {"length": CUT, "seed": of_cell.get("start_seed") or 0, "precision": "bf16"}
    write_run(root, "ce", [1.0] * 200, folder=root / "stage1", **start)
    of_cell = {"length": CUT, "precision": "bf16"} | of_cell
    return write_run(root, row, [1.0, 1.0, 5.0], folder=root / "stage1" / "robust", **of_cell)


@pytest.mark.parametrize(
    "of_cell",
    [{}, {"seed": 2, "start_seed": 0}, {"protocol": "last"}, {"precision": "bf16+float32"}],
    ids=str,
)
def test_a_run_is_filed_at_its_cells_place(of_cell, tmp_path):
    folder = chain(tmp_path, **of_cell)
    expected = cell_of("dro_lt", **{"length": CUT, "precision": "bf16"} | of_cell)
    assert file_run(folder, "dro_lt", tmp_path / "filed") == expected
    assert read_records(tmp_path / "filed").keys() == {expected}


def test_a_stage_1_is_filed(tmp_path):
    folder = chain(tmp_path).parent
    expected = cell_of("ce", CUT, precision="bf16")
    assert file_run(folder, "ce", tmp_path / "filed") == expected


@pytest.mark.parametrize("name", ["summary.json", "log.jsonl"])
def test_the_summary_and_the_log_of_thousands_of_classes_are_filed_too(name, tmp_path):
    folder = chain(tmp_path)
    with open(folder / name, "a") as file:
        file.write(" " * 2**20)
    cell = file_run(folder, "dro_lt", tmp_path / "filed")
    [run] = read_records(tmp_path / "filed").values()
    assert read_records(tmp_path / "filed").keys() == {cell} and len(run.epochs) == 3


def test_a_record_of_another_run_is_not_replaced(tmp_path):
    kept = chain(tmp_path / "one")
    np.savez(kept / "predictions.npz", labels=[0], preds=[0])
    cell = file_run(kept, "dro_lt", tmp_path / "filed")
    (kept / "readings.json").write_text("{}")  # an evaluation of the same run
    file_run(kept, "dro_lt", tmp_path / "filed")
    before = {path: path.read_bytes() for path in (tmp_path / "filed" / cell.record).iterdir()}
    assert len(before) == 5
    other = chain(tmp_path / "two")
    summary = json.loads((other / "summary.json").read_text()) | {"seconds": 11.0}
    (other / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match="has the records of another run; delete them"):
        file_run(other, "dro_lt", tmp_path / "filed")
    assert {path: path.read_bytes() for path in before} == before


def test_a_distilled_run_is_filed_if_its_teacher_has_the_options_of_the_teachers_row(tmp_path):
    def distilled_from(teacher, folder):
        teacher = write_run(tmp_path, teacher, [1.0] * 200, length=CUT, folder=tmp_path / teacher)
        return write_run(
            tmp_path, "bs_distilled", [1.0] * 200, length=CUT, folder=folder, teacher=teacher
        )

    folder = distilled_from("bs_resnet56", tmp_path / "right")
    assert file_run(folder, "bs_distilled", tmp_path / "filed") == cell_of("bs_distilled", CUT)
    folder = distilled_from("bs", tmp_path / "wrong")
    with pytest.raises(UserError, match=r"not a run of bs_resnet56: --arch resnet32"):
        file_run(folder, "bs_distilled", tmp_path / "others")
    assert not (tmp_path / "others").exists()


def test_a_run_with_the_options_of_another_row_is_refused_and_they_are_named(tmp_path):
    folder = chain(tmp_path, "dro_lt_temperature")
    said = r"not a run of dro_lt: --temperature 10\.0 \(the row: 1\.0\)"
    with pytest.raises(UserError, match=said):
        file_run(folder, "dro_lt", tmp_path / "filed")
    with pytest.raises(UserError, match="is a stage 2; ce is the other stage"):
        file_run(folder, "ce", tmp_path / "filed")
    with pytest.raises(UserError, match="'x' is not a row"):
        file_run(folder, "x", tmp_path / "filed")
    assert not (tmp_path / "filed").exists()


def with_arguments(folder, **arguments):
    """Changes options in a run's record."""
    recorded = json.loads((folder / "args.json").read_text())
    (folder / "args.json").write_text(json.dumps(recorded | arguments))


def test_flags_are_named_as_the_command_line_spells_them(tmp_path):
    folder = chain(tmp_path)
    with_arguments(folder, batch_size=64)
    with pytest.raises(UserError, match=r"dro_lt: --batch-size 64 \(the row: 128\)$"):
        file_run(folder, "dro_lt", tmp_path / "filed")


@pytest.mark.parametrize("imb_type", ["natural", "step"])
def test_a_run_on_other_data_than_an_exponential_subset_is_refused_by_that_reason(
    imb_type, tmp_path
):
    folder = chain(tmp_path).parent
    with_arguments(folder, imb_type=imb_type)
    said = rf"has --imb_type {imb_type}; only runs on exponential subsets can be added"
    with pytest.raises(UserError, match=said):
        file_run(folder, "ce", tmp_path / "filed")
    assert not (tmp_path / "filed").exists()


def test_a_stage_2_may_start_only_from_the_rows_checkpoint(tmp_path):
    folder = chain(tmp_path)
    for start in (
        *("stage1", "some/where/stage1", str(tmp_path / "stage1")),
        *("stage1/ckpt.best_test.pth.tar", "stage1/ckpt.best.pth.tar"),
    ):
        with_arguments(folder, pretrained=start)
        assert file_run(folder, "dro_lt", tmp_path / "filed").row == "dro_lt"
    for start in ("stage1/ckpt.pth.tar", "stage1/ckpt.best_heldout.pth.tar"):
        with_arguments(folder, pretrained=start)
        said = rf"dro_lt: --pretrained {start} \(the row: the folder of ce\)$"
        with pytest.raises(UserError, match=said):
            file_run(folder, "dro_lt", tmp_path / "others")
    assert not (tmp_path / "others").exists()


@pytest.mark.parametrize("schedule", ["scaled", "absolute", "cosine"])
def test_steps_of_the_rate_at_full_length_are_those_of_the_row_but_a_cosine_is_not(
    schedule, tmp_path
):
    folder = chain(tmp_path).parent
    with_arguments(folder, schedule=schedule)
    if schedule == "cosine":
        with pytest.raises(UserError, match="not a run of ce: --schedule cosine"):
            file_run(folder, "ce", tmp_path / "filed")
    else:
        file_run(folder, "ce", tmp_path / "filed")


def test_the_stage_1_of_a_stage_2_has_the_options_of_its_own_row(tmp_path):
    folder = chain(tmp_path, protocol="heldout")
    with_arguments(folder.parent, select_on="heldout")
    assert file_run(folder, "dro_lt", tmp_path / "filed").protocol == "heldout"
    with_arguments(folder.parent, weight_decay=2e-4)
    said = r"stage1 is not a run of ce: --wd 0\.0002 \(the row: 0\.0001\)$"
    with pytest.raises(UserError, match=said):
        file_run(folder, "dro_lt", tmp_path / "others")
    assert not (tmp_path / "others").exists()


def test_an_unfinished_run_and_one_without_its_stage_1_are_refused(tmp_path):
    folder = chain(tmp_path)
    (folder / "summary.json").rename(folder / "kept.json")
    with pytest.raises(UserError, match="no finished run"):
        file_run(folder, "dro_lt", tmp_path / "filed")
    (folder / "kept.json").rename(folder / "summary.json")
    alone = folder.rename(tmp_path / "alone")
    with pytest.raises(UserError, match="no records of the stage 1"):
        file_run(alone, "dro_lt", tmp_path / "filed")


def test_a_stage_1_that_is_filed_already_is_found_by_its_name_and_images(tmp_path):
    folder = chain(tmp_path)
    file_run(folder.parent, "ce", tmp_path / "filed")
    alone = folder.rename(tmp_path / "alone")
    with_arguments(alone, pretrained="somewhere/stage1")
    expected = cell_of("dro_lt", CUT, precision="bf16")
    assert file_run(alone, "dro_lt", tmp_path / "filed") == expected
    with_arguments(alone, fingerprint=8 * "beef0123")
    with pytest.raises(UserError, match="no records of the stage 1"):
        file_run(alone, "dro_lt", tmp_path / "filed")

"""Frames and entries of the table against numbers worked by hand, from made-up records."""

import json
import math

import numpy as np
import pytest

from tests.support.helpers import REPOSITORY
from tests.support.table_records import (
    CIFAR100,
    cell_of,
    frame_of,
    predictions,
    without_ncm,
    write_run,
)
from utils.errors import UserError
from utils.reproduce.filing import check_options, file_records, read_records
from utils.reproduce.plan import DataSet, Length
from utils.reproduce.results import (
    CHAINS,
    as_json,
    tabulate,
)
from utils.reproduce.results import predictions as predictions_of
from utils.runs.records import read_run

LENGTH = Length(3, 3, 2)
FULL = Length(200, 80, 20)


def found(root, row="ce", seed=0):
    """Epoch and top-1 by protocol, of those that there are."""
    frame = frame_of(root)
    lines = frame[(frame["row"] == row) & (frame["seed"] == seed)]
    return {line["protocol"]: (line["epoch"], line["top1"]) for _, line in lines.iterrows()}


def entries(root, **wanted):
    table = as_json(tabulate(frame_of(root)))
    return [entry for entry in table if all(entry[name] == value for name, value in wanted.items())]


def stage_1(root, tops=(1.0, 3.0, 2.0), heldout=(5.0, 1.0, 1.0), **settings):
    return write_run(root, "ce", list(tops), heldout=list(heldout), length=LENGTH, **settings)


def test_one_stage_1_serves_all_protocols(tmp_path):
    stage_1(tmp_path)
    assert found(tmp_path) == {"test": (2, 3.0), "last": (3, 2.0), "heldout": (1, 1.0)}


def test_of_equal_epochs_the_first_is_chosen(tmp_path):
    stage_1(tmp_path, tops=(3.0, 3.0, 2.0), heldout=(1.0, 5.0, 5.0))
    assert found(tmp_path)["heldout"] == (2, 3.0)


def test_classes_without_held_out_images_do_not_count(tmp_path):
    folder = stage_1(tmp_path)
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for record, known in zip(records, (1.0, 9.0, 2.0), strict=True):
        record["results"]["heldout"]["linear"]["per_class"] = [None, known]
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert found(tmp_path)["heldout"] == (2, 3.0)


def test_without_a_log_the_summary_gives_what_it_has(tmp_path):
    (stage_1(tmp_path) / "log.jsonl").unlink()
    assert found(tmp_path) == {"test": (2, 3.0), "last": (3, 2.0)}


def test_without_held_out_images_there_is_no_such_result(tmp_path):
    write_run(tmp_path, "ce", [1.0, 3.0, 2.0], length=LENGTH)
    assert found(tmp_path).keys() == {"test", "last"}


def test_a_stage_2_is_a_result_of_its_own_protocol_alone(tmp_path):
    tops = [1.0, 2.0, 3.0, 5.0, 4.0]
    write_run(tmp_path, "dro_lt", tops, length=LENGTH)
    assert found(tmp_path, "dro_lt") == {"test": (4, 5.0)}
    write_run(tmp_path, "dro_lt", tops, length=LENGTH, protocol="last")
    assert found(tmp_path, "dro_lt") == {"test": (4, 5.0), "last": (5, 4.0)}


def test_an_unfinished_run_is_no_result(tmp_path):
    (stage_1(tmp_path) / "summary.json").unlink()
    assert found(tmp_path) == {}


@pytest.mark.parametrize("damage", ["{", "[]", '{"test": 1}'])
def test_damaged_records_are_an_error(damage, tmp_path):
    (stage_1(tmp_path) / "summary.json").write_text(damage)
    with pytest.raises(UserError, match=r"summary\.json"):
        read_records(tmp_path / "runs")


def test_an_entry_has_means_deviation_and_the_published_number(tmp_path):
    for seed, top1 in ((0, 38.0), (1, 40.0)):
        tops = [1.0] * 198 + [top1, 36.0 + seed]
        write_run(tmp_path, "ce", tops, length=FULL, seed=seed)
    [entry] = entries(tmp_path, protocol="test")
    assert (entry["method"], entry["dataset"], entry["ratio"]) == ("ce", "cifar100", 100)
    assert entry["top1_mean"] == 39.0
    assert entry["top1_std"] == pytest.approx(math.sqrt(2), abs=1e-4)
    assert (entry["seeds"], entry["seed_list"]) == (2, [0, 1])
    assert (entry["many"], entry["medium"], entry["few"]) == (44.0, None, 34.0)
    assert (entry["balanced"], entry["ncm"]) == (39.0, 39.0)
    assert (entry["published"], entry["difference"]) == (38.3, 0.7)
    assert (entry["length"], entry["is_full_length"]) == ("200", True)
    assert (entry["epochs"], entry["final_epoch_top1"]) == ([199, 199], 36.5)
    assert (entry["seconds"], entry["subset"], entry["precision"]) == (10.0, "0123abcd", "float32")


def test_an_entry_of_one_seed_has_no_deviation_and_is_marked_where_cut_short(tmp_path):
    write_run(tmp_path, "dro_lt", [1.0, 2.0, 3.0], length=Length(200, 2, 1))
    [entry] = entries(tmp_path)
    assert entry["top1_std"] is None
    assert (entry["length"], entry["is_full_length"]) == ("200, 2+1", False)


def test_a_mean_is_unknown_where_one_seed_lacks_the_value(tmp_path):
    """The mean over the other seeds alone would stand beside means over all seeds."""
    stage_1(tmp_path)
    without_ncm(stage_1(tmp_path, seed=1))
    [entry] = entries(tmp_path, protocol="test")
    assert (entry["ncm"], entry["top1_mean"], entry["seeds"]) == (None, 3.0, 2)


def test_the_true_last_feature_epoch_stands_beside_what_was_chosen(tmp_path):
    """With features of epoch 2 loaded back, the classifier phase reads theirs."""
    write_run(tmp_path, "dro_lt", [1.0, 2.0, 3.0, 5.0, 4.0], ncm=[7, 9, 8, 9, 9], length=LENGTH)
    [entry] = entries(tmp_path)
    assert (entry["ncm"], entry["last_features_ncm"]) == (9.0, 8.0)


def test_lengths_precisions_and_images_are_never_averaged(tmp_path):
    stage_1(tmp_path)
    stage_1(tmp_path, seed=1)
    write_run(tmp_path, "ce", [1.0, 3.0], length=Length(2))
    stage_1(tmp_path, precision="bf16")
    stage_1(tmp_path, data=DataSet("cifar100", 100, "beefbeef"), seed=2)
    stage_1(tmp_path, data=DataSet("cifar100", 50, "0123abcd"), seed=3)
    kinds = {
        (c["length"], c["precision"], c["subset"], c["ratio"]): c["seed_list"]
        for c in entries(tmp_path, protocol="test")
    }
    assert kinds == {
        ("3", "float32", "0123abcd", 100): [0, 1],
        ("2", "float32", "0123abcd", 100): [0],
        ("3", "bf16", "0123abcd", 100): [0],
        ("3", "float32", "beefbeef", 100): [2],
        ("3", "float32", "0123abcd", 50): [3],
    }


def test_seeds_of_stage_2_from_one_start_are_a_line_beside_the_chains(tmp_path):
    for seed, top1 in ((0, 10.0), (1, 20.0), (2, 60.0)):
        tops = [1.0, 1.0, top1]
        write_run(tmp_path, "dro_lt", tops, length=Length(200, 2, 1), seed=seed, start_seed=0)
    lines = {e["of_seeds"]: (e["seed_list"], e["top1_mean"]) for e in entries(tmp_path)}
    assert lines == {CHAINS: ([0], 10.0), "stage 2 from seed 0": ([0, 1, 2], 30.0)}
    # The published number is one of whole chains.
    published = {e["of_seeds"]: (e["published"], e["difference"]) for e in entries(tmp_path)}
    assert published == {CHAINS: (47.3, -37.3), "stage 2 from seed 0": (None, None)}
    write_run(tmp_path, "dro_lt", [1.0, 1.0, 50.0], length=Length(200, 2, 1), seed=1)
    lines = {e["of_seeds"]: (e["seed_list"], e["top1_mean"]) for e in entries(tmp_path)}
    assert lines[CHAINS] == ([0, 1], 30.0)
    assert lines["stage 2 from seed 0"] == ([0, 1, 2], 30.0)


def test_chains_alone_make_no_second_line(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path, "dro_lt", [1.0, 2.0, 3.0], length=Length(200, 2, 1), seed=seed)
    assert [e["of_seeds"] for e in entries(tmp_path)] == [CHAINS]


def test_cells_are_in_the_order_of_the_table(tmp_path):
    for data in (DataSet("cifar10", 100, "a"), CIFAR100):
        for row in ("dro_lt", "control", "ce"):
            tops = [1.0] * (2 if row == "ce" else 3)
            write_run(tmp_path, row, tops, data=data)
    write_run(tmp_path, "control", [1.0] * 4, length=Length(200, 3, 1))
    order = [(e["dataset"], e["method"], e["length"]) for e in entries(tmp_path, protocol="test")]
    assert order == [
        *(("cifar100", "ce", "2"), ("cifar100", "control", "200, 3+1")),
        *(("cifar100", "control", "2, 2+1"), ("cifar100", "dro_lt", "2, 2+1")),
        *(
            ("cifar10", "ce", "2"),
            ("cifar10", "control", "2, 2+1"),
            ("cifar10", "dro_lt", "2, 2+1"),
        ),
    ]


def test_predictions_are_those_of_the_epoch_however_many_are_right(tmp_path):
    first, last = predictions(45), predictions(45)[::-1]
    of_run = {"length": Length(4), "preds": first, "others": {"last_preds": last}}
    folder = write_run(tmp_path, "ce", [1.0, 46.0, 45.0, 45.0], **of_run)
    run = read_run(folder)
    for epoch, preds in ((2, first), (4, last)):
        labels, correct = predictions_of(run, epoch)
        assert (labels == 0).all() and (correct == (preds == 0)).all()
    assert predictions_of(run, 3) is None
    np.savez(folder / "predictions.npz", labels=np.zeros(100, int), preds=first)
    assert predictions_of(run, 2) is not None and predictions_of(run, 4) is None
    (folder / "predictions.npz").unlink()
    assert predictions_of(run, 2) is None


def test_predictions_of_a_selected_last_epoch_have_either_name(tmp_path):
    folder = write_run(tmp_path, "ce", [1.0, 45.0], preds=predictions(45))
    for name in ("preds", "last_preds"):
        arrays = {"labels": np.zeros(100, int), name: predictions(45)}
        np.savez(folder / "predictions.npz", **arrays)
        assert predictions_of(read_run(folder), 2)[1].mean() == 0.45


def test_records_are_filed_without_the_paths_of_the_machine(tmp_path):
    made = write_run(tmp_path, "ce", [1.0, 2.0], folder=tmp_path / "root" / "cifar100_name")
    arguments = json.loads((made / "args.json").read_text())
    arguments["data_root"] = str(tmp_path / "images")
    arguments["machine"]["command"] = ["main.py", "--data_root", str(tmp_path / "images")]
    (made / "args.json").write_text(json.dumps(arguments))
    (made / "ckpt.pth.tar").write_bytes(b"large")
    target = tmp_path / "kept" / cell_of("ce").record
    for _ in range(2):  # the second time all are there
        file_records(read_run(made), target)
    assert {path.name for path in target.iterdir()} == {"args.json", "log.jsonl", "summary.json"}
    kept = json.loads((target / "args.json").read_text())
    assert kept["data_root"] == "images" and kept["folder"] == "cifar100_name"
    assert str(tmp_path) not in (target / "args.json").read_text()
    assert read_records(tmp_path / "kept").keys() == {cell_of("ce")}


def test_no_records_give_an_empty_table(tmp_path):
    assert as_json(tabulate(frame_of(tmp_path))) == []


def test_the_committed_table_is_that_of_the_committed_records():
    folder = REPOSITORY / "results"
    table = as_json(tabulate(frame_of(folder)))
    assert table == json.loads((folder / "table.json").read_text())


def test_the_committed_records_have_the_options_of_their_rows():
    records = read_records(REPOSITORY / "results" / "runs")
    one_of_each_row = {cell.row: (cell, run) for cell, run in records.items()}
    assert len(one_of_each_row) > 20
    for cell, run in one_of_each_row.values():
        if cell.teacher is None:  # its records would have to lie beside the checkpoint
            check_options(run, cell)

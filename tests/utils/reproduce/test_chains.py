"""What a recorded run gives by each protocol: every link of a chain is chosen by it."""

import json
import shutil

import pytest

from tests.support.table_records import write_run
from utils.errors import UserError
from utils.reproduce.archive import keep_records
from utils.reproduce.chains import collect, tabulate
from utils.reproduce.recipes import Length, Row

CE, ROW = Row("cifar100", 100, "ce"), Row("cifar100", 100, "dro_lt")
LENGTH = Length(3, 3, 2)


def results(folder, row=ROW, seed=0):
    """Epoch and top-1 by protocol, of those that there are."""
    table = tabulate(collect([folder]).chains)
    cells = {cell.protocol: found[seed] for cell, found in table.items() if cell.row == row}
    return {protocol: (result.epoch, result.top1) for protocol, result in cells.items()}


def stage_1(root, tops=(1.0, 3.0, 2.0), heldout=(5.0, 1.0, 1.0), **settings):
    return write_run(root, CE, list(tops), heldout=list(heldout), length=LENGTH, **settings)


def stage_2(root, tops=(1.0, 2.0, 3.0, 5.0, 4.0), **settings):
    return write_run(root, ROW, list(tops), length=LENGTH, **settings)


def test_one_stage_1_serves_all_protocols(tmp_path):
    stage_1(tmp_path)
    assert results(tmp_path, CE) == {"test": (2, 3.0), "last": (3, 2.0), "heldout": (1, 1.0)}


def test_of_equal_epochs_the_first_is_chosen(tmp_path):
    stage_1(tmp_path, tops=(3.0, 3.0, 2.0), heldout=(1.0, 5.0, 5.0))
    assert results(tmp_path, CE)["heldout"] == (2, 3.0)


def test_classes_without_held_out_images_do_not_count(tmp_path):
    folder = stage_1(tmp_path)
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for record, known in zip(records, (1.0, 9.0, 2.0), strict=True):
        record["results"]["heldout"]["linear"]["per_class"] = [None, known]
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert results(tmp_path, CE)["heldout"] == (2, 3.0)


def test_without_a_log_the_summary_gives_what_it_has(tmp_path):
    (stage_1(tmp_path) / "log.jsonl").unlink()
    assert results(tmp_path, CE) == {"test": (2, 3.0), "last": (3, 2.0)}


def test_without_held_out_images_there_is_no_such_result(tmp_path):
    write_run(tmp_path, CE, [1.0, 3.0, 2.0], length=LENGTH)
    assert results(tmp_path, CE).keys() == {"test", "last"}


def test_a_stage_2_counts_for_its_own_protocol_alone_where_the_chains_differ(tmp_path):
    stage_1(tmp_path)
    stage_2(tmp_path, ncm=[1, 3, 2, 9, 9], heldout=[1, 9, 1, 1, 1])
    assert results(tmp_path) == {"test": (4, 5.0)}
    stage_2(tmp_path, tops=(1.0, 2.0, 3.0, 7.0, 6.0), protocol="last")
    assert results(tmp_path) == {"test": (4, 5.0), "last": (5, 6.0)}


def test_chains_that_coincide_before_the_last_phase_share_a_run(tmp_path):
    """Stage 1 and features are chosen alike by all; the classifier's epoch is each one's own."""
    stage_1(tmp_path, tops=(1.0, 2.0, 3.0), heldout=(1.0, 2.0, 3.0))
    stage_2(tmp_path, ncm=[1, 2, 3, 9, 9], heldout=[1, 2, 3, 4, 5])
    assert results(tmp_path) == {"test": (4, 5.0), "last": (5, 4.0), "heldout": (5, 4.0)}


def test_the_stage_1_checkpoint_is_a_link_of_the_chain(tmp_path):
    """Features alike, but the stage-1 epoch differs by held-out images and is the last by test."""
    stage_1(tmp_path, tops=(1.0, 2.0, 3.0), heldout=(3.0, 2.0, 1.0))
    stage_2(tmp_path, ncm=[1, 2, 3, 9, 9], heldout=[1, 2, 3, 4, 5])
    assert results(tmp_path).keys() == {"test", "last"}


def test_the_features_are_a_link_of_the_chain(tmp_path):
    stage_1(tmp_path, tops=(1.0, 2.0, 3.0), heldout=(1.0, 2.0, 3.0))
    stage_2(tmp_path, ncm=[1, 3, 2, 9, 9], heldout=[1, 3, 2, 4, 5])
    assert results(tmp_path) == {"test": (4, 5.0), "heldout": (5, 4.0)}


def test_a_run_of_the_protocols_own_comes_before_one_that_coincides(tmp_path):
    stage_1(tmp_path, tops=(1.0, 2.0, 3.0))
    stage_2(tmp_path, ncm=[1, 2, 3, 9, 9])
    assert results(tmp_path)["last"] == (5, 4.0)
    stage_2(tmp_path, tops=(1.0, 2.0, 3.0, 4.0, 8.0), protocol="last")
    assert results(tmp_path)["last"] == (5, 8.0)


def test_seeds_share_a_cell_and_lengths_and_precisions_do_not(tmp_path):
    for seed in (0, 1):
        stage_1(tmp_path, seed=seed)
    write_run(tmp_path, CE, [1.0, 3.0], seed=0)
    stage_1(tmp_path / "b", tops=(1.0, 4.0, 2.0), flags="--precision bf16")
    table = tabulate(collect([tmp_path]).chains)
    found = {
        (c.length, c.precision): sorted(seeds) for c, seeds in table.items() if c.protocol == "test"
    }
    assert found == {
        **{(Length(3), "float32"): [0, 1], (Length(2), "float32"): [0]},
        (Length(3), "bf16"): [0],
    }


def test_an_unfinished_run_is_no_result(tmp_path):
    (stage_1(tmp_path) / "summary.json").unlink()
    assert results(tmp_path, CE) == {}


def test_records_found_twice_count_once(tmp_path):
    stage_1(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert len(collect([tmp_path / "a", tmp_path / "b"]).chains) == 1


def test_runs_of_one_name_are_kept_beside_each_other(tmp_path):
    """Two machines may each have made a run under the name that another has elsewhere."""
    for number in (1, 2):
        stage_1(tmp_path / f"made{number}", tops=(1.0, 2.0, 10.0 * number))
        stage_2(tmp_path / f"made{number}", tops=(1.0, 2.0, 3.0, 4.0, 20.0 * number))
    found = collect([tmp_path / "made1", tmp_path / "made2"])
    for _ in range(2):  # the second time all are there
        keep_records(found.chains, tmp_path / "kept")
    kept = collect([tmp_path / "kept"])
    assert len(list((tmp_path / "kept").rglob("args.json"))) == 4
    pairs = {
        (c.start.summary["test"]["last"]["linear"]["top1"], c.result("test")["linear"]["top1"])
        for c in kept.chains
        if c.start
    }
    assert pairs == {(10.0, 20.0), (20.0, 40.0)}


@pytest.mark.parametrize("damage", ["{", "[]", '{"test": 1}'])
def test_damaged_records_are_an_error(damage, tmp_path):
    (stage_1(tmp_path) / "summary.json").write_text(damage)
    with pytest.raises(UserError, match=r"summary\.json"):
        collect([tmp_path])

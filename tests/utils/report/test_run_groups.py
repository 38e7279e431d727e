"""The page's table: which runs are one row, and the numbers of a row."""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.made_up_runs import write_run
from utils.report.run_groups import group_runs, settings_of
from utils.runs.records import RecordedRun, read_run


def test_seeds_of_the_same_settings_are_one_row_with_mean_and_sample_deviation(
    tmp_path, compare_numbers
):
    accuracies = (40.0, 43.0, 41.0)
    folders = [
        write_run(tmp_path / f"run{seed}", seed, base=base, heldout=True)
        for seed, base in enumerate(accuracies)
    ]
    rows = compare_numbers(*folders).rows
    assert rows[0] == [
        *("Epoch", "Top-1", "Balanced", "Macro F1", "Many", "Medium", "Few", "NCM", "Held-out"),
        "Seconds",
    ]
    assert rows[1] == ["A: stage 1 — 3 runs, seeds 0, 1, 2"]
    deviation = f"{statistics.stdev(accuracies):.2f}"
    assert deviation == "1.53"
    # Balanced and held-out are means over classes: 10 - 3 * 3 = 1 above the base.
    expected = ["41.33", "42.33", "39.33", "51.33", "41.83", "31.33", "46.33", "42.33"]
    assert rows[2] == [
        "selected on test (3)",
        *(f"{mean} ± 1.53" for mean in expected),
        "11.0 ± 1.0",
    ]
    assert rows[3][:2] == ["last epoch (4)", "40.33 ± 1.53"]
    assert len(rows) == 4


def test_a_single_run_has_no_deviation_and_no_held_out_images_are_not_available(
    tmp_path, compare_numbers
):
    rows = compare_numbers(write_run(tmp_path / "run")).rows
    assert rows[1] == ["A: stage 1 — 1 run, seed 0"]
    values = ["40.00", "41.00", "38.00", "50.00", "40.50", "30.00", "45.00", "n/a", "10.0"]
    assert rows[2][1:] == values


def test_other_settings_are_another_row_and_are_named(tmp_path, compare_numbers):
    folders = [
        write_run(tmp_path / "a", 0),
        write_run(tmp_path / "b", 1, lr=0.05),
        write_run(tmp_path / "c", 2),
    ]
    rows = compare_numbers(*folders).rows
    assert [rows[1], rows[4]] == [
        ["A: stage 1, lr 0.1 — 2 runs, seeds 0, 2"],
        ["B: stage 1, lr 0.05 — 1 run, seed 1"],
    ]


def test_runs_on_other_images_are_another_row(tmp_path, compare_numbers):
    folders = [
        write_run(tmp_path / name, seed, fingerprint=fingerprint)
        for seed, (name, fingerprint) in enumerate((("a", "0123abcd" * 8), ("b", "beef" * 16)))
    ]
    rows = compare_numbers(*folders).rows
    assert rows[1] == ["A: stage 1, fingerprint 0123abcd — 1 run, seed 0"]
    assert rows[4] == ["B: stage 1, fingerprint beefbeef — 1 run, seed 1"]


def test_copies_of_the_same_images_are_one_row(tmp_path):
    def run(name, root, digest, **others):
        data = {"evaluation_fingerprints": {"test": digest} | others} if digest else {}
        flags = {"dataset": "folder", "fingerprint": "0123abcd" * 8, "data": data}
        return read_run(write_run(tmp_path / name, data_root=root, **flags))

    runs = [
        run("a", "photos", "beef" * 16),
        run("b", "/scratch/4711/photos", "beef" * 16),
        run("c", "photos", "feed" * 16),
        run("other_heldout", "photos", "beef" * 16, heldout="cafe" * 16),
        run("d", "photos", None),
        run("e", "/scratch/4711/photos", None),
    ]
    groups = group_runs(runs)
    assert [len(group.runs) for group in groups] == [2, 1, 1, 1, 1]
    assert groups[0].description == "stage 1, data root photos (test images beefbeef)"


def test_a_file_counts_by_its_content_and_not_by_its_place(tmp_path):
    files = [("a", "beef" * 16), ("b", "beef" * 16), ("b", "cafe" * 16)]
    runs = []
    for seed, (place, digest) in enumerate(files):
        flags = {"teacher": f"{place}/ckpt.pth.tar", "contents": {"teacher": digest}}
        runs.append(read_run(write_run(tmp_path / str(seed), seed, **flags)))
    groups = group_runs(runs)
    assert [[run.seed for run in group.runs] for group in groups] == [[0, 1], [2]]
    assert groups[0].description == "stage 1, teacher ckpt.pth.tar (sha256 beefbeef)"


def settings(**arguments):
    run = RecordedRun(Path("run"), {"data_root": "mine"} | arguments, [], None, None)
    return settings_of(run)


@pytest.mark.parametrize("dataset", ["folder", "csv", "npz", "imagenet_lt"])
def test_where_own_images_lie_sets_runs_apart(dataset):
    assert settings(dataset=dataset)["data_root"] == "mine"


@pytest.mark.parametrize("arguments", [{"dataset": "cifar100"}, {"dataset": "digits"}, {}])
def test_where_a_known_data_set_lies_does_not(arguments):
    """A record without a data set means the default, CIFAR-10."""
    assert "data_root" not in settings(**arguments)


def test_the_age_of_a_record_and_its_filing_make_no_other_row(tmp_path):
    """Earlier versions recorded fewer flags and no class sizes; a filed record has its folder."""
    run = read_run(write_run(tmp_path / "run"))
    earlier = {name: value for name, value in run.arguments.items() if name != "class_counts"}
    records = [
        run.arguments,
        earlier | {"seed": 1},
        run.arguments | {"seed": 2, "folder": "digits_resnet8"},
        run.arguments | {"seed": 3, "head": "linear", "warmup": 5},
    ]
    [group] = group_runs([replace(run, arguments=arguments) for arguments in records])
    assert [member.seed for member in group.runs] == [0, 1, 2, 3]
    assert group.description == "stage 1"


def test_a_stage_2_from_another_stage_1_is_other_settings(tmp_path):
    runs = []
    for seed, rate in ((0, 0.1), (1, 0.1), (2, 0.5)):
        parent = write_run(tmp_path / f"parent{seed}", seed, lr=rate)
        runs.append(read_run(write_run(parent / "robust", seed, stage=2)))
    groups = group_runs(runs)
    assert [[run.seed for run in group.runs] for group in groups] == [[0, 1], [2]]
    assert [group.description for group in groups] == [
        "stage 2, stage-1 lr 0.1",
        "stage 2, stage-1 lr 0.5",
    ]


def test_images_of_the_two_stages_are_named_where_they_differ(tmp_path):
    parents = [write_run(tmp_path / f"{part}", heldout_fraction=part) for part in (0.0, 0.3)]
    same, other = (read_run(write_run(parent / "robust", stage=2)) for parent in parents)
    assert not {"stage-1 stream", "stage-1 imb_factor", "stage-1 data_root"} & set(
        settings_of(same)
    )
    assert settings_of(other) == settings_of(same) | {"stage-1 heldout_fraction": 0.3}
    assert len(group_runs([same, other])) == 2
    of_both_stages = group_runs([read_run(parents[1]), same])
    assert [group.description for group in of_both_stages] == [
        "stage 1, heldout fraction 0.3",
        "stage 2, heldout fraction 0.0",
    ]


def test_what_a_stage_2_took_from_its_checkpoint_is_no_difference(tmp_path):
    flags = {"dataset": "folder", "test_fraction": 0.3, "image_size": 64, "stream": "True"}
    parent = write_run(tmp_path / "parent", **flags)
    given = read_run(write_run(parent / "robust_given", stage=2, **flags))
    taken = read_run(write_run(parent / "robust_taken", stage=2, dataset="folder"))
    descriptions = [group.description for group in group_runs([read_run(parent), given, taken])]
    assert descriptions == ["stage 1", "stage 2"]


@pytest.mark.parametrize("protocol", ["test", "heldout", "last"])
def test_the_last_epoch_of_a_stage_2_says_whether_its_features_were_chosen(
    protocol, tmp_path, compare_numbers
):
    parent = write_run(tmp_path / "parent", select_on=protocol)
    chosen = "" if protocol == "last" else " of chosen features"
    for epochs, title in ((4, f"last epoch{chosen} (4)"), (3, f"last epoch{chosen} so far (3)")):
        run = write_run(parent / f"robust{epochs}", 0, 2, epochs, epochs == 4, select_on=protocol)
        assert compare_numbers(run).rows[-1][0] == title
    in_features = write_run(parent / "robust2", 0, 2, epochs=2, finished=False)
    assert compare_numbers(in_features).rows[-1][0] == "last epoch so far (2)"
    assert compare_numbers(parent).rows[-1][0] == "last epoch (4)"


def test_a_run_that_is_named_twice_counts_once(tmp_path, compare_numbers):
    folder = write_run(tmp_path / "run")
    assert compare_numbers(folder, tmp_path / "." / "run").rows[1] == ["A: stage 1 — 1 run, seed 0"]


def test_the_folder_of_several_seeds_stands_for_its_runs(tmp_path, compare_numbers):
    for seed in (10, 0, 2):
        write_run(tmp_path / "run" / f"seed{seed}", seed)
    write_run(tmp_path / "run" / "seedling", 7)
    rows = compare_numbers(tmp_path / "run", tmp_path / "run" / "seed0").rows
    assert rows[1] == ["A: stage 1 — 3 runs, seeds 0, 2, 10"]


def test_an_unfinished_run_is_shown_from_its_last_epoch_and_not_averaged(tmp_path, compare_numbers):
    finished = write_run(tmp_path / "a", 0)
    unfinished = write_run(tmp_path / "b", 1, epochs=2, finished=False, base=20.0)
    rows = compare_numbers(finished, unfinished).rows
    assert rows[2][1] == "40.00"
    assert rows[4] == ["A: stage 1 — 1 run, seed 1, after epoch 2 of 4 unfinished"]
    values = ["20.00", "21.00", "18.00", "30.00", "20.50", "10.00", "25.00", "n/a", "5.0"]
    assert rows[5] == ["last epoch so far (2)", *values]


def test_a_run_without_an_epoch_is_a_row_without_numbers(tmp_path, compare_numbers):
    shown = compare_numbers(write_run(tmp_path / "run", epochs=0, finished=False))
    assert shown.rows[1] == ["A: stage 1 — 1 run, seed 0, after epoch 0 of 4 unfinished"]
    assert shown.rows[2] == ["last epoch so far (0)", *["n/a"] * 8, "0.0"]
    assert "there is no epoch in its log.jsonl; train it" in shown.text
    assert not shown.all("img")


def test_a_group_that_runs_do_not_have_is_not_averaged_and_at_last_not_available(
    tmp_path, compare_numbers
):
    folders = [write_run(tmp_path / f"run{k}", k, base=40.0 + 2 * k) for k in range(3)]
    found = []
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        summary["test"]["selected"]["linear"]["few"] = None
        (folder / "summary.json").write_text(json.dumps(summary))
        found.append(compare_numbers(*folders).rows[2][6])
    assert found == ["33.00 ± 1.41 (of 2)", "34.00 (of 1)", "n/a"]


def test_letters_go_on_after_z(tmp_path):
    base = read_run(write_run(tmp_path / "run"))
    runs = [
        type(base)(base.folder, base.arguments | {"lr": k}, base.epochs, base.summary, None)
        for k in range(28)
    ]
    letters = [group.letter for group in group_runs(runs)]
    assert letters[0] == "A" and letters[25:] == ["Z", "AA", "AB"]

"""Which method for these images? Estimates, held-out images and commands on other data than the
paper's. `tests/slow/test_comparison.py` has whole comparisons."""

import json
import os
import shlex
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.own_images import write_folder
from tests.support.pictures import noise, save
from tests.support.table_records import write_run
from utils.errors import UserError
from utils.machine import signals
from utils.options.digests import forget_digests
from utils.options.parse import parse_options, parse_stages
from utils.options.recipes import RECIPES
from utils.reproduce.plan import Cell, DataSet, Length
from utils.reproduce.running import Runner, few_steps, measured_seconds, users_commands
from utils.reproduce.sharing import _of_own_data, check_passed_on, with_subset
from utils.runs.folders import run_folder


@pytest.mark.parametrize(
    ("images", "batch", "epochs", "wanted"),
    [(257, 128, 30, 334), (1000, 10, 10, None), (1000, 10, 9, 10), (10_000, 128, 30, None)],
)
def test_steps_are_whole_batches_and_a_thousand_are_enough(images, batch, epochs, wanted):
    run = SimpleNamespace(summary={"images_seen": images}, arguments={"batch_size": batch})
    warning = few_steps(run, epochs)
    assert (warning is None) == (wanted is None)
    assert wanted is None or f"--stage1 {wanted} gives 1000" in warning


def test_held_out_images_are_set_aside_where_there_are_none(tmp_path):
    write_folder(tmp_path, counts=(20, 20, 10))
    flags = ["--data_root", str(tmp_path)]
    data, extra = with_subset(DataSet("folder"), flags, Path("none"))
    assert extra == [*flags, "--heldout_fraction", "0.1"] and len(data.subset) == 8
    write_folder(tmp_path / "more", counts=(20, 20, 10), splits=("train", "val", "test"))
    flags = ["--data_root", str(tmp_path / "more")]
    assert with_subset(DataSet("folder"), flags, Path("none"))[1] == flags


def subset_of(root, *flags) -> str:
    data, _ = with_subset(DataSet("folder"), ["--data_root", str(root), *flags], Path("none"))
    return data.subset


def test_other_images_in_any_split_are_another_comparison(tmp_path):
    write_folder(tmp_path, splits=("train", "val", "test"))
    subsets = {subset_of(tmp_path)}
    for number, split in enumerate(("train", "val", "test"), 2):
        save(tmp_path / split / "ant" / "added.png", noise(32, 32, 3, seed=number))
        subsets.add(subset_of(tmp_path))
        assert len(subsets) == number, split


@pytest.mark.parametrize(
    ("flag", "default", "row"),
    [("augment", "crop_flip", "bs"), ("arch", "resnet32", "bs_resnet56")],
)
def test_a_default_that_is_given_overrides_recipes_so_it_is_another_comparison(
    flag, default, row, tmp_path
):
    given = [f"--{flag}", default]
    assert getattr(parse_options([]), flag) == default
    assert getattr(parse_options(["--recipe", row]), flag) != default
    write_folder(tmp_path, splits=("train", "val", "test"))
    assert subset_of(tmp_path) != subset_of(tmp_path, *given)
    assert subset_of(tmp_path) == subset_of(tmp_path, "--batch-size", "128")  # no recipe sets it


def test_no_recipe_sets_a_shared_option_that_the_recipe_of_the_digest_leaves():
    def changed(name):
        plain = parse_options([])
        stages = parse_stages(
            ["--recipe", name, *(["--teacher", "x"] * bool(RECIPES[name].teacher))]
        )
        return {n for s in stages for n in _of_own_data() if getattr(s, n) != getattr(plain, n)}

    is_in_digest = {"arch", "augment"}
    left_out = set().union(*map(changed, RECIPES)) - is_in_digest
    assert not left_out, "let _digest in utils/reproduce/sharing.py count these options too"
    assert changed("bs_resnet56") == is_in_digest


def test_a_backbone_counts_by_its_content(tmp_path):
    write_folder(tmp_path, splits=("train", "val", "test"))
    (tmp_path / "b.pth").write_bytes(b"one")
    (tmp_path / "moved.pth").write_bytes(b"one")
    first = subset_of(tmp_path, "--backbone", str(tmp_path / "b.pth"))
    assert subset_of(tmp_path, "--backbone", str(tmp_path / "moved.pth")) == first
    (tmp_path / "b.pth").write_bytes(b"two")
    forget_digests()
    assert subset_of(tmp_path, "--backbone", str(tmp_path / "b.pth")) != first


@pytest.mark.parametrize(
    ("dataset", "flags"),
    [
        ("folder", ["--image_size", "64", "--stream", "True"]),
        ("imagenet_lt", ["--list_root", "lists"]),
    ],
)
def test_flags_are_judged_for_the_data_set_of_the_rows(dataset, flags):
    check_passed_on(flags, dataset)
    with pytest.raises(UserError, match=flags[0]):
        check_passed_on(flags, "digits")


def test_the_time_of_a_teachers_epochs_is_scaled_to_its_network(monkeypatch):
    """An epoch of each kind takes a second, of the network that all rows share."""

    stages = []

    def one_second_each(argv):
        stages[:] = [options.stage for options in parse_stages(argv)]
        folder = Path(argv[argv.index("--root_log") + 1])
        for phase in ("pretraining", "features", "classifier"):
            (folder / phase).mkdir()
            record = {"epoch": 1, "phase": phase, "seconds": 1.0}
            (folder / phase / "log.jsonl").write_text(json.dumps(record) + "\n")
        return 0

    monkeypatch.setattr("utils.reproduce.running.run_main", one_second_each)
    length, digits = Length(30, 8, 2), DataSet("digits")
    chain = [
        Cell(digits, "ce", Length(30), "float32", 0),
        Cell(digits, "dro_lt", length, "float32", 0, 0, "last"),
    ]
    assert measured_seconds(chain, []) == 40 and stages == [1, 2]
    student = Cell(digits, "bs_distilled", Length(30), "float32", 0)
    teacher = measured_seconds([student.teacher], [])
    assert stages == [1]  # an epoch of a stage 2 that nothing needs may take hours
    # By He et al., table 6, the networks have 6n + 2 layers, n = 5 and 9: about 9/5 of the work.
    assert teacher == pytest.approx(30 * 9 / 5, rel=0.05)
    # The student does its own steps and the teacher's forward passes.
    assert measured_seconds([student], []) == pytest.approx(30 + teacher / 3)
    assert stages == [1]
    contrastive = Cell(digits, "bs_contrastive", Length(30), "float32", 0)
    assert measured_seconds([contrastive], []) == 3 * 30  # three views of each image


def test_an_epoch_for_the_estimate_that_fails_is_told_with_its_status(monkeypatch):
    monkeypatch.setattr("utils.reproduce.running.run_main", lambda argv: 1)
    cell = Cell(DataSet("digits"), "ce", Length(30), "float32", 0)
    with pytest.raises(UserError, match="the estimate ended with exit status 1"):
        measured_seconds([cell], [])


def test_a_row_that_needs_images_in_memory_is_refused_before_anything_is_trained(tmp_path):
    write_folder(tmp_path, splits=("train", "val", "test"))
    flags, rows = ["--data_root", str(tmp_path), "--stream", "True"], ["ce", "bs_contrastive"]
    with_subset(DataSet("folder"), flags, Path("none"), ["ce", "bs"])
    with pytest.raises(UserError, match=r"bs_contrastive needs .* in memory: add --stream False"):
        with_subset(DataSet("folder"), flags, Path("none"), rows)
    with_subset(DataSet("folder"), [*flags[:2], "--stream", "False"], Path("none"), rows)


def test_a_recorded_run_without_checkpoints_counts_among_those_to_train(tmp_path):
    digits, length = DataSet("digits", 0, "beef0123"), Length(2, 2, 1)
    first, again = (Cell(digits, "ce", Length(2), "float32", seed) for seed in (0, 1))
    for cell in (first, again):
        write_run(tmp_path, "ce", [1.0, 2.0], data=digits, seed=cell.seed)
    runner = Runner(tmp_path / "root", tmp_path / "runs", [])
    stages_2 = [Cell(digits, "control", length, "float32", s, s, "last") for s in (0, 1)]
    there = run_folder(parse_options(runner.command(first))).models
    there.mkdir(parents=True)
    for name in ("ckpt.pth.tar", "summary.json"):
        (there / name).touch()
    assert runner.to_train([first, again]) == []
    assert runner.to_train([first, again, *stages_2]) == [stages_2[0], again, stages_2[1]]


def test_the_time_that_is_left_is_judged_by_whole_runs(tmp_path, monkeypatch, capsys):
    """The run is finished in its folder and only has to be filed."""
    digits = DataSet("digits", 0, "beef0123")
    runner = Runner(tmp_path / "root", tmp_path / "runs", [])
    cells = [Cell(digits, "ce", Length(2), "float32", seed) for seed in (0, 1)]
    folder = run_folder(parse_options(runner.command(cells[0]))).records
    write_run(tmp_path, "ce", [1.0, 2.0], data=digits, folder=folder)
    monkeypatch.setattr("utils.reproduce.running.run_main", lambda argv: 130 * ("1" in argv))
    runner.run(cells)
    assert "1 left, about 00:10" in capsys.readouterr().out


def test_a_signal_while_a_run_writes_its_last_files_ends_the_table(tmp_path, monkeypatch, capsys):
    begun = []

    def finish(argv):
        begun.append(argv)
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
        return 0

    monkeypatch.setattr("main.main", finish)
    runner = Runner(tmp_path / "root", tmp_path / "runs", [])
    cells = [Cell(DataSet("digits"), "ce", Length(2), "float32", seed) for seed in (0, 1)]
    assert runner.run(cells) == 143 and len(begun) == 1
    assert "[1/2]" in (said := capsys.readouterr().err) and "the same command goes on" in said


def test_the_users_commands_of_a_distilled_row_train_the_teacher_first():
    cell = Cell(DataSet("digits"), "bs_distilled", Length(1), "float32", 0)
    first, second = users_commands(cell, ["--augment", "none"]).splitlines()
    teacher, student = (parse_options(shlex.split(line)[2:]) for line in (first, second))
    assert (teacher.recipe, teacher.arch) == ("bs_resnet56", "resnet56")
    assert student.teacher == str(run_folder(teacher).models / "ckpt.pth.tar")
    assert teacher.select_on == student.select_on == "last"

"""Cells: their commands, the places of their records, and the order in which they are run."""

import json
from pathlib import Path

import pytest

from tests.support.table_records import CIFAR100, cell_of, write_run
from utils.errors import UserError
from utils.options.parse import parse_options, parse_stages
from utils.options.recipes import RECIPES
from utils.reproduce.plan import FULL_LENGTH, PROTOCOLS, Cell, DataSet, Length, plan
from utils.reproduce.rows import GRID, ROWS, select_recipes, select_rows
from utils.reproduce.running import Runner
from utils.runs.folders import run_folder

CELLS = [
    cell_of(row, length, seed=3, protocol=protocol, start_seed=start)
    for row in RECIPES
    for length in (FULL_LENGTH, Length(20, 9, 3))
    for protocol in PROTOCOLS
    for start in (None, 0)
]


def test_a_cell_is_found_again_by_the_place_of_its_records():
    for cell in CELLS:
        record = cell.record
        assert Cell.of_record(record) == cell, record
        assert len(str(Path("results", "runs", record, "predictions.npz")).encode()) < 200, record


def test_different_cells_have_different_places():
    cells = set(CELLS)
    assert len({cell.record for cell in cells}) == len(cells)


def test_other_data_and_mixed_precisions_have_places_too():
    own = Cell(DataSet("folder", 0, "beef0123"), "ce", Length(30), "float32", 0)
    capitals = Cell(DataSet("My-Set", 0, "beef0123"), "ce", Length(30), "float32", 0)
    mixed = cell_of("dro_lt", FULL_LENGTH, precision="bf16+float32")
    for cell in (own, capitals, mixed):
        assert Cell.of_record(cell.record) == cell
    assert mixed.start is not None and mixed.start.precision == "bf16"
    assert "float32" in mixed.command(Path("X"))


def test_a_row_may_have_a_hyphen_in_its_name(monkeypatch):
    monkeypatch.setitem(RECIPES, "bs-mine", RECIPES["bs"])
    cell = cell_of("bs-mine", Length(30))
    assert Cell.of_record(cell.record) == cell
    assert list(select_rows("cifar100/100/bs-mine").values()) == [["bs-mine"]]


@pytest.mark.parametrize(
    "path",
    [
        "cifar100_r100_0123abcd/nothing/200_bf16_s0",
        "cifar100_r100_0123abcd/dro_lt/200_bf16_s0",
        "cifar100_r100_0123abcd/ce/200+9+3_bf16_s0",
        "somewhere/else/here",
    ],
)
def test_other_folders_are_no_cells(path):
    assert Cell.of_record(Path(path)) is None


def test_the_command_of_a_full_stage_1_has_the_papers_settings():
    options = parse_options(cell_of("ce", FULL_LENGTH, seed=2).command())
    assert (options.dataset, options.imb_factor, options.epochs) == ("cifar100", 0.01, 200)
    assert (options.schedule, options.seed) == ("absolute", 2)


def test_the_rates_of_a_short_stage_1_move_with_its_length():
    options = parse_options(cell_of("ce", Length(20, 9, 3)).command())
    assert (options.schedule, options.epochs) == ("scaled", 20)


def test_the_command_of_a_stage_2():
    cell = cell_of("dro_lt", Length(200, 9, 3), protocol="last", precision="bf16")
    options = parse_options(cell.command(Path("root/start"), ["--gpu", "0"]))
    assert (options.epochs, options.balanced_clf_nepochs, options.gpu) == (12, 3, 0)
    assert (options.pretrained, options.select_on) == ("root/start", "last")
    assert (options.precision, options.temperature, options.margin) == ("bf16", 1.0, 1.0)
    alone = cell_of("classifier_only", Length(200, 9, 3))
    options = parse_options(alone.command(Path("root/start")))
    assert (options.epochs, options.balanced_clf_nepochs) == (3, 3)


def test_cells_have_folders_of_their_own():
    """Of one root: seeds, lengths, precisions and protocols never meet."""
    cells = {cell_of(row, length) for row in RECIPES for length in (FULL_LENGTH, Length(20, 9, 3))}
    cells |= {
        cell_of(row, length, seed, start, protocol, precision=precision)
        for row in ("ce", "dro_lt", "control")
        for length in (FULL_LENGTH, Length(20, 9, 3))
        for seed in (0, 1)
        for start in (None, 0)
        for protocol in PROTOCOLS
        for precision in ("float32", "bf16")
    }

    runner = Runner(Path("root"), Path("none"), [])
    folders = {run_folder(parse_options(runner.command(cell))).records for cell in cells}
    assert len(folders) == len(cells)


@pytest.mark.parametrize(
    ("there", "files", "chosen"),
    [
        ({}, ["summary.json"], "root"),
        ({}, [], "pretrained"),
        ({"seed": 5}, ["summary.json"], "pretrained"),
        ({"precision": "bf16"}, ["summary.json"], "pretrained"),
        ({"epochs": 3}, ["summary.json"], "pretrained"),
        ({"fingerprint": "beef"}, ["summary.json"], "pretrained"),
    ],
    ids=[
        *("the run", "half of it"),
        *("another seed", "another precision", "another length", "other images"),
    ],
)
def test_a_stage_2_starts_from_the_recorded_run_and_from_no_other_of_its_name(
    there, files, chosen, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    record = write_run(tmp_path, "ce", [1.0, 2.0]) / "args.json"
    arguments = json.loads(record.read_text()) | {"folder": "name"}
    record.write_text(json.dumps(arguments))
    for base in ("root", "pretrained"):
        Path(base, "name").mkdir(parents=True)
        Path(base, "name", "ckpt.pth.tar").touch()
    Path("root", "name", "args.json").write_text(json.dumps(arguments | there))
    for name in files:
        Path("root", "name", name).touch()
    command = Runner(Path("root"), Path("runs"), []).command(cell_of("control"))
    assert parse_options(command).pretrained == str(Path(chosen, "name"))


def test_the_users_command_trains_both_stages():
    cell = cell_of("dro_lt_from_decay", Length(30, 8, 2), protocol="last")
    first, second = parse_stages(cell.command(None, ["--data_root", "D"]))
    assert (first.epochs, first.weight_decay, first.schedule) == (30, 2e-4, "scaled")
    assert (second.epochs, second.balanced_clf_nepochs, second.select_on) == (10, 2, "last")
    assert first.data_root == second.data_root == "D"
    [only] = parse_stages(cell_of("ce", FULL_LENGTH).command())
    assert (only.epochs, only.stage) == (200, 1)


@pytest.mark.parametrize("backbone", [["--backbone", "b.pth"], ["--backbone=b.pth"]])
def test_a_backbone_starts_stage_1_alone(backbone):
    """The run that is ranked is the one that the user's command trains."""
    cell = cell_of("dro_lt", Length(30, 8, 2), protocol="last")
    flags = ["--gpu", "0", *backbone, "--backbone_lr", "0.1"]
    first, second = parse_stages(cell.command(None, flags))
    assert cell.start is not None
    alone = [parse_options(cell.start.command(None, flags))]
    alone += [parse_options(cell.command(Path("root/start"), flags))]
    for ranked, told in zip(alone, (first, second), strict=True):
        assert (ranked.backbone, ranked.backbone_lr, ranked.gpu) == (told.backbone, 0.1, 0)
    assert (first.backbone, second.backbone) == ("b.pth", None)


def test_a_plan_has_every_run_once_and_a_stage_1_before_what_starts_from_it():
    rows = [(CIFAR100, ["dro_lt", "control", "ce"])]
    cells = plan(rows, [0, 1], ["test", "last"], FULL_LENGTH, "float32")
    assert len(cells) == len(set(cells)) == 2 * (1 + 2 * 2)
    for number, cell in enumerate(cells):
        assert cell.start is None or cell.start in cells[:number]
        assert cell.start_seed in (None, cell.seed)


def test_a_teacher_is_planned_once_for_each_seed_and_before_its_student():
    length = Length(20, 9, 3)
    cells = plan([(CIFAR100, ["bs_distilled", "bs_resnet56"])], [0, 1], ["test"], length, "bf16")
    assert [(c.row, c.seed) for c in cells] == [
        *(("bs_resnet56", 0), ("bs_distilled", 0), ("bs_resnet56", 1), ("bs_distilled", 1))
    ]
    assert cells[1].before == cells[0] and cells[0].before is None
    teacher = parse_options(cells[0].command())
    student = parse_options(cells[1].command(Path("root/deep")))
    assert (teacher.arch, teacher.teacher, teacher.epochs) == ("resnet56", None, 20)
    # The last epoch: a teacher chosen by test images would be a choice in the student too.
    assert (student.arch, student.teacher) == ("resnet32", "root/deep/ckpt.pth.tar")
    differing = {k for k, v in student.as_dict().items() if teacher.as_dict()[k] != v}
    assert differing == {"recipe", "arch", "teacher"}


def test_seeds_of_stage_2_start_from_one_stage_1():
    cells = plan([(CIFAR100, ["dro_lt"])], [0, 1, 2], ["test"], FULL_LENGTH, "bf16", start_seed=0)
    stages_1 = [cell for cell in cells if cell.start is None]
    assert [(c.row, c.seed) for c in stages_1] == [("ce", 0)]
    assert [(c.seed, c.start_seed) for c in cells if c.start] == [(0, 0), (1, 0), (2, 0)]


def test_a_length_has_of_each_row_what_the_row_has():
    length = Length(200, 9, 3)
    parts = {row: str(length.of(RECIPES[row])) for row in ("ce", "classifier_only", "dro_lt")}
    assert parts == {"ce": "200", "classifier_only": "200, 0+3", "dro_lt": "200, 9+3"}
    assert FULL_LENGTH.of(RECIPES["classifier_only"]).is_full(RECIPES["classifier_only"])
    assert not length.is_full(RECIPES["dro_lt"]) and length.of(RECIPES["ce"]).is_full(RECIPES["ce"])


def test_the_table_has_the_papers_rows_on_all_six_data_sets():
    assert {(data.name, data.ratio) for data in ROWS} == {
        (name, ratio) for name in ("cifar100", "cifar10") for ratio in (100, 50, 10)
    }
    wanted = {
        *("ce", "ce_autoaugment", "ldam_drw", "control", "dro_lt"),
        *("dro_lt_shared", "dro_lt_sample_count", "dro_lt_released"),
    }
    assert all(wanted <= set(rows) for rows in ROWS.values())


def test_rows_are_selected_by_every_kind_of_name():
    assert select_rows(None) == ROWS
    assert select_rows("cifar10") == {data: ROWS[data] for data in GRID if data.name == "cifar10"}
    assert list(select_rows("dro_lt")) == GRID
    assert select_rows("cifar100/100,cifar100/100/ce") == {GRID[0]: ROWS[GRID[0]]}
    assert select_rows("digits/7/ce") == {DataSet("digits", 7): ["ce"]}
    assert "dro_lt_squared" not in select_rows("digits/7")[DataSet("digits", 7)]


@pytest.mark.parametrize(
    "name",
    [
        *("", "x", "cifar100/100/x", "cifar100/0", "cifar100/x", "cifar100/100/ce/1", "digits"),
        pytest.param(f"cifar100/{5000 * '9'}", id="a ratio too long for a number"),
    ],
)
def test_names_of_no_row_are_refused(name):
    with pytest.raises(UserError, match="is not a row"):
        select_rows(name)


def test_rows_for_other_data():
    assert select_recipes("dro_lt,ce,dro_lt") == ["dro_lt", "ce"]
    assert {"ce", "control", "dro_lt"} <= set(select_recipes(None))
    with pytest.raises(UserError, match="'x' is not a row"):
        select_recipes("ce,x")

"""Rows of the table: their names, their commands, and which row a recorded run belongs to."""

import json

import pytest

from tests.support.table_records import write_run
from tests.test_project import PAPERS_COMMANDS
from utils.errors import UserError
from utils.options.parse import parse_options
from utils.options.run_names import stage_2_name
from utils.reproduce.chains import collect
from utils.reproduce.recipes import (
    FULL_LENGTH,
    METHODS,
    ROWS,
    Length,
    Row,
    command,
    select_rows,
)
from utils.reproduce.running import check_passed_on
from utils.runs.folders import run_folder

REQUIRED = {
    *("ce", "ce_autoaugment", "ldam_drw", "control", "classifier_only", "dro_lt"),
    *("dro_lt_shared", "dro_lt_sample_count", "dro_lt_bounded", "dro_lt_no_decay"),
    "dro_lt_released",
}


def test_the_table_has_every_method_on_both_sets_and_all_ratios():
    for dataset in ("cifar100", "cifar10"):
        for ratio in (100, 50, 10):
            methods = {row.method for row in ROWS if (row.dataset, row.ratio) == (dataset, ratio)}
            assert methods >= REQUIRED
    assert (ROWS[0].dataset, ROWS[0].ratio) == ("cifar100", 100)
    assert len(set(ROWS)) == len(ROWS)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cifar100/100/dro_lt", ["cifar100/100/dro_lt"]),
        ("cifar10/50/ce,cifar10/50/ce", ["cifar10/50/ce"]),
        ("cifar10/7/control", ["cifar10/7/control"]),
        ("ldam_drw", [f"{d}/{r}/ldam_drw" for d in ("cifar100", "cifar10") for r in (100, 10, 50)]),
    ],
)
def test_rows_are_selected_by_name(text, names):
    assert [str(row) for row in select_rows(text)] == names


def test_a_ratio_or_a_data_set_selects_its_rows_of_the_table():
    assert select_rows(None) == ROWS
    assert select_rows("cifar100,cifar10") == ROWS
    of_one = [row for row in ROWS if (row.dataset, row.ratio) == ("cifar100", 100)]
    assert select_rows("cifar100/100") == of_one and len(of_one) > len(REQUIRED)
    assert {row.method for row in select_rows("digits/5")} == REQUIRED


@pytest.mark.parametrize(
    "text", ["", "x", "cifar100/", "cifar100/0", "cifar100/1.5", "cifar100/100/x", "digits", "a/1"]
)
def test_an_unknown_row_is_an_error_that_names_it(text):
    with pytest.raises(UserError, match="is no row"):
        select_rows(text)


def options_of(method, length=FULL_LENGTH, **settings):
    row = Row("cifar100", 100, method)
    pretrained = "cifar100_resnet32_CE_None_exp_0.01_0" if row.start else None
    return parse_options(command(row, 0, length.of(row), "test", pretrained, **settings))


def test_dro_lt_is_the_papers_second_command():
    ours, papers = options_of("dro_lt"), parse_options(PAPERS_COMMANDS[1].split())
    free = {"seed": 0, "gpu": None, "resume": False}
    assert ours.as_dict() == papers.as_dict() | free


def test_cross_entropy_is_the_papers_first_command():
    ours, papers = options_of("ce"), parse_options(PAPERS_COMMANDS[0].split())
    assert ours.as_dict() == papers.as_dict() | {"seed": 0, "gpu": None, "exp_str": "seed0"}


def test_what_the_methods_change():
    dro_lt = options_of("dro_lt").as_dict()
    changes = {
        method: {k: v for k, v in options_of(method).as_dict().items() if dro_lt[k] != v}
        for method in METHODS
        if METHODS[method].start == "ce"
    }
    assert changes == {
        "classifier_only": {"epochs": 20},
        "control": {"feat_loss": "ce_lt"},
        "dro_lt": {},
        "dro_lt_shared": {"margin_type": "shared"},
        "dro_lt_sample_count": {"margin_type": "sample_count"},
        "dro_lt_bounded": {"margin_min": 0.0},
        "dro_lt_no_decay": {"margin_wd": 0.0},
        "dro_lt_released": {"as_released": True},
        "dro_lt_weight": {"robust_weight": 0.1},
        "dro_lt_temperature": {"temperature": 10.0},
        "dro_lt_layers": {"feat_layers": "layer2,layer3"},
        "dro_lt_normalised": {
            "robust_distance": "normalised",
            "temperature": 0.07,
            "margin": 0.1,
            "margin_type": "shared",
        },
        "dro_lt_squared": {"robust_distance": "squared", "temperature": 20.0},
        "dro_lt_instance": {"cls_sampler": "instance"},
    }
    assert options_of("ce_autoaugment").augment == "autoaugment"
    assert options_of("ldam_drw").loss_type == "LDAM" and options_of("ldam_drw").train_rule == "DRW"


def test_no_two_runs_share_a_folder():
    short = Length(20, 9, 3)
    first = [m for m in METHODS if METHODS[m].start is None]
    cases = [(FULL_LENGTH, "float32"), (FULL_LENGTH, "bf16"), (short, "float32")]
    names = [
        run_folder(options_of(method, length, precision=precision)).models
        for method in first
        for length, precision in cases
    ]
    assert len(set(names)) == len(names)
    second = [m for m in METHODS if METHODS[m].start == "ce"]
    names = [stage_2_name(options_of(m, length)) for m in second for length in (FULL_LENGTH, short)]
    assert len(set(names)) == len(names)


def test_a_shorter_stage_1_moves_its_rate_steps():
    assert options_of("ce").schedule == "absolute"
    assert options_of("ce", Length(40)).schedule == "scaled"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("length", [Length(2, 2, 1), Length(200, 2, 1)], ids=str)
def test_every_run_is_recognised_by_its_arguments(method, length, tmp_path):
    row = Row("cifar100", 50, method)
    if row.start:
        write_run(tmp_path, row.start, [1.0] * length.stage_1, length=length)
    epochs = length.of(row)
    write_run(
        tmp_path,
        row,
        [1.0] * (epochs.features + epochs.classifier or epochs.stage_1),
        length=length,
        # It goes by what args.json says, and not by names.
    ).rename(tmp_path / "elsewhere" if not row.start else next(tmp_path.glob("*")) / "elsewhere")
    found = collect([tmp_path])
    assert found.others == []
    [chain] = [chain for chain in found.chains if chain.row == row]
    assert chain.length == epochs and chain.precision == "float32" and chain.seed == 0
    assert (chain.start is None) == (row.start is None)


ROW, CE = Row("cifar10", 100, "dro_lt"), Row("cifar10", 100, "ce")


@pytest.mark.parametrize(
    "flags",
    [
        "--temperature 2",
        "--feat_lr 0.01",
        "--augment crop_flip",
        "-b 64",
        "--wd 2e-4",
        "-a resnet20",
    ],
)
def test_a_run_with_other_flags_belongs_to_no_row(flags, tmp_path):
    write_run(tmp_path, CE, [1.0, 2.0])
    folder = write_run(tmp_path, ROW, [1.0, 2.0, 3.0], flags=flags)
    found = collect([tmp_path])
    assert found.others == [(folder, "no row of the table has its flags")]
    assert [chain.row for chain in found.chains] == [CE]


def test_flags_that_decide_nothing_do_not_matter(tmp_path):
    write_run(tmp_path, CE, [1.0, 2.0], flags="--temperature 3 --print-freq 2 --gpu 3")
    write_run(
        tmp_path, Row("cifar10", 100, "control"), [1.0] * 3, flags="--temperature 3 --margin 9"
    )
    classifier = Row("cifar10", 100, "classifier_only")
    write_run(tmp_path, classifier, [1.0], flags="--feat_lr 7 --margin_type shared")
    assert {c.row.method for c in collect([tmp_path]).chains} == {
        "ce",
        "control",
        "classifier_only",
    }


def test_a_record_that_lacks_newer_flags_belongs_to_its_row(tmp_path):
    folder = write_run(tmp_path, CE, [1.0, 2.0])
    arguments = json.loads((folder / "args.json").read_text())
    for name in ("margin_min", "margin_wd", "readings"):
        del arguments[name]
    (folder / "args.json").write_text(json.dumps(arguments))
    assert [chain.row for chain in collect([tmp_path]).chains] == [CE]


def test_a_stage_2_of_another_or_no_stage_1_is_left_out_with_the_reason(tmp_path):
    lonely = write_run(tmp_path / "a", ROW, [1.0] * 3)
    write_run(tmp_path / "b", CE, [1.0] * 2)
    path = write_run(tmp_path / "b", ROW, [1.0] * 3) / "args.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 5'))
    assert collect([tmp_path / "a"]).others == [(lonely, "there is no record of its stage 1")]
    assert collect([tmp_path / "b"]).others == [(path.parent, "its stage 1 has another seed")]


def test_seeds_in_sub_folders_find_their_stage_1(tmp_path):
    """As `--seeds` lays them out: the run's folder holds one folder for each seed."""
    for seed in (0, 1):
        for row, tops in ((CE, [1.0, 2.0]), (ROW, [1.0, 2.0, 3.0])):
            folder = write_run(tmp_path / f"made{seed}", row, tops, seed=seed)
            parts = ["stage1", "stage2"][: 1 + bool(row.start)]
            target = tmp_path.joinpath("all", *parts, f"seed{seed}")
            target.mkdir(parents=True)
            for file in folder.iterdir():
                if file.is_file():
                    (target / file.name).write_bytes(file.read_bytes())
    found = collect([tmp_path / "all"])
    assert found.others == []
    assert sorted((c.row.method, c.seed) for c in found.chains) == [
        *(("ce", 0), ("ce", 1), ("dro_lt", 0), ("dro_lt", 1))
    ]


def test_flags_of_the_machine_are_passed_on():
    assert check_passed_on([]) == "float32"
    flags = ["--gpu", "0", "--data_root", "D", "-j", "3", "--precision=bf16"]
    assert check_passed_on(flags) == "bf16"


@pytest.mark.parametrize(
    "flags", ["--epochs 3", "--seed 1", "--imb_factor=0.1", "-b 3", "--resume"]
)
def test_flags_that_rows_decide_are_refused(flags):
    with pytest.raises(UserError, match="decided by the rows"):
        check_passed_on(flags.split())


def test_unknown_flags_are_refused():
    with pytest.raises(UserError, match="--nonsense"):
        check_passed_on(["--nonsense"])

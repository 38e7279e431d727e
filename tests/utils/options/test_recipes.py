"""`--recipe NAME` stands for the flags of a method; flags on the command line win over it."""

import json

import pytest

from main import main
from tests.test_project import PAPERS_COMMANDS, ROOT
from utils.errors import UserError
from utils.options.parse import build_parser, parse_options, parse_stages
from utils.options.recipes import RECIPES
from utils.options.run_names import run_name

NAMES_AND_PLACES = {"recipe", "pretrained", "pretrain_epochs", "gpu", "resume"}


def decisive(options):
    return {k: v for k, v in options.as_dict().items() if k not in NAMES_AND_PLACES}


def command(name):
    """Returns the shortest command of a recipe."""
    return ["--recipe", name, *(["--teacher", "X"] if RECIPES[name].teacher else [])]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_a_command(name):
    stages = parse_stages(command(name))
    assert [options.stage for options in stages] == ([1, 2] if RECIPES[name].start else [1])
    assert {options.recipe for options in stages} == {name}


def test_no_two_recipes_are_the_same():
    texts = [str([decisive(o) for o in parse_stages(command(name))]) for name in RECIPES]
    assert len(set(texts)) == len(RECIPES)


def test_the_papers_commands_are_recipes():
    stage_1, stage_2 = (command.split() for command in PAPERS_COMMANDS)
    data = ["--dataset", "cifar100", "--imb_type", "exp", "--imb_factor", "0.01"]
    assert decisive(parse_options([*data, "--recipe", "ce"])) == decisive(parse_options(stage_1))
    start = stage_2[stage_2.index("--pretrained") :][:2]
    ours = parse_options([*data, "--recipe", "dro_lt", *start])
    assert decisive(ours) == decisive(parse_options(stage_2))
    assert ours.pretrain_epochs is None


@pytest.mark.parametrize("flags", ["--recipe bs", "--recipe ce --imb_factor 0.1"])
def test_a_recipe_names_the_run_that_comes_with_the_code(flags):
    options = parse_options([*flags.split(), "--dataset", "cifar100", "--seed", "0"])
    assert (ROOT / "pretrained" / run_name(options)).is_dir()


@pytest.mark.parametrize("name", ["dro_lt_normalised_from_bs", "control_from_bs"])
def test_after_a_cosine_the_rate_of_the_features_falls_too(name):
    first, second = parse_stages(["--recipe", name])
    assert (first.schedule, second.feat_schedule) == ("cosine", "cosine")


def test_flags_beside_a_recipe_win():
    given = ["--temperature", "3", "--batch-size", "7", "--epochs", "30", "--pretrained", "X"]
    options = parse_options(["--recipe", "dro_lt", *given])
    assert (options.temperature, options.batch_size, options.epochs) == (3.0, 7, 30)
    assert parse_options([*given, "--recipe=dro_lt"]) == options
    assert options.feat_loss == "ce_lt,robust_loss"


def test_each_stage_has_its_own_flags_of_a_recipe():
    first, second = parse_stages(["--recipe", "dro_lt_from_decay", "--pretrain_epochs", "9"])
    assert (first.weight_decay, second.weight_decay) == (2e-4, 1e-4)
    assert (first.epochs, second.epochs, second.balanced_clf_nepochs) == (9, 100, 20)
    first, second = parse_stages(["--recipe", "dro_lt_from_autoaugment"])
    assert (first.augment, first.epochs, first.feat_loss) == ("autoaugment", 200, None)


def test_a_given_flag_wins_in_both_stages():
    first, second = parse_stages(["--recipe", "dro_lt_from_decay", "--wd", "0.01"])
    assert (first.weight_decay, second.weight_decay) == (0.01, 0.01)


def test_a_stage_1_recipe_starts_from_nothing():
    for flags in (["--pretrained", "X"], ["--pretrain_epochs", "3"]):
        with pytest.raises(UserError, match="--recipe ce is a stage 1"):
            parse_stages(["--recipe", "ce", *flags])


def test_a_distilled_recipe_says_which_teacher_it_needs(capsys):
    assert main(["--recipe", "bs_distilled"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "--teacher" in message and "bs_resnet56" in message


def test_an_unknown_recipe_is_one_line(capsys):
    assert main(["--recipe", "dro"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "--recipe" in message and "dro_lt" in message


def test_help_describes_every_recipe():
    text = build_parser().format_help()
    for name, recipe in RECIPES.items():
        assert f"{name} " in text and recipe.description in text


def test_a_run_records_its_recipe_and_what_it_stands_for(tmp_path):
    argv = "--dataset digits -a resnet8 --recipe ce_decay --augment none --epochs 0 --seed 0"
    roots = ["--root_log", str(tmp_path), "--root_model", str(tmp_path)]
    assert main([*argv.split(), *roots]) == 0
    [path] = tmp_path.rglob("args.json")
    recorded = json.loads(path.read_text())
    assert (recorded["recipe"], recorded["weight_decay"]) == ("ce_decay", 2e-4)
    assert recorded["augment"] == "none"

"""Which checkpoint an evaluation reads."""

from pathlib import Path

import pytest

from tests.support.helpers import REPOSITORY
from tests.support.named_runs import FLAGS, STAGE_2, made, options_of
from utils.errors import UserError
from utils.runs.evaluated import find_evaluated

NAME = "digits_resnet20_CE_None_exp_0.01_0"


@pytest.mark.parametrize("losses", ["ce_lt,robust_loss", "ce_lt"])
@pytest.mark.parametrize("more", ["", "--seed 0", "--precision bf16"])
def test_the_stages_2_that_come_with_the_code_are_found(losses, more, monkeypatch):
    flags = (
        "--dataset cifar100 --resume True --epochs 100 --pretrained "
        "cifar100_resnet32_CE_None_exp_0.01_0 --feat_sampler resample,4 --feat_lr 0.005 "
        f"--feat_loss {losses} --cls_sampler none --cls_loss ce --temperature 1 --margin 1 "
        f"--root_log nowhere --root_model nowhere --evaluation True {more}"
    )
    monkeypatch.chdir(REPOSITORY)
    path, folder = find_evaluated(options_of(flags))
    assert path.parts[0] == "pretrained" and f"feat-{losses}-" in path.parent.name
    assert folder.records.parts[0] == "nowhere"


@pytest.mark.parametrize(
    "flags",
    [
        "--recipe ce_autoaugment",
        "--wd 2e-4",
        "--recipe dro_lt --pretrained cifar100_resnet32_CE_None_exp_0.01_0/ckpt.pth.tar",
        "--recipe dro_lt --pretrained cifar100_resnet32_CE_None_exp_0.01_0 --feat_schedule cosine",
    ],
)
def test_a_run_of_other_options_is_not_taken_for_one_that_comes_with_the_code(flags, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    roots = "--root_log nowhere --root_model nowhere"
    with pytest.raises(UserError, match="no checkpoint nowhere/cifar100"):
        find_evaluated(options_of(f"{flags} --dataset cifar100 {roots} --evaluation True"))


def test_an_evaluation_needs_no_flag_that_the_only_run_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = made(f"{FLAGS} --lr 0.2")
    short = "--dataset digits -a resnet20 --evaluation True"
    assert find_evaluated(options_of(short))[1].models == folder
    assert find_evaluated(options_of(short, "-b 64"))[1].records == folder
    with pytest.raises(UserError, match="no checkpoint"):
        find_evaluated(options_of(short, "--seed 1"))
    made(f"{FLAGS} --lr 0.3")
    for logs in ("checkpoint", "evaluations"):
        with pytest.raises(UserError, match=r"(--lr 0\.[23].*){2}"):
            find_evaluated(options_of(short, f"--root_log {logs}"))
    assert find_evaluated(options_of(short, "--lr 0.2"))[1].models == folder


@pytest.mark.parametrize("logs", ["checkpoint", "logs"])
def test_the_error_of_an_evaluation_says_in_what_the_nearest_run_differs(
    logs, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    one, other = made(f"{FLAGS} --epochs 9"), made(f"{FLAGS} --lr 0.2 --wd 0.5")
    for folder in (one, other):
        arguments = Path(logs, folder.name, "args.json")
        arguments.parent.mkdir(parents=True, exist_ok=True)
        (folder / "args.json").rename(arguments)
    runs = ", ".join(sorted(map(str, (one, other))))
    for asked, near, there in (("", one, 0.0001), ("--lr 0.2", other, 0.5)):
        flags = f"--wd 0.3 --precision bf16 --evaluation True --root_log {logs}"
        with pytest.raises(UserError) as error:
            find_evaluated(options_of(FLAGS, flags, asked))
        assert str(error.value).endswith(
            f"; the runs there are {runs}; the nearest is {near} (--wd 0.3, there {there})"
        )


@pytest.mark.parametrize("logs", ["checkpoint", "evaluations"])
def test_the_nearest_run_of_an_evaluation_without_a_seed_may_differ_in_its_epochs_alone(
    logs, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    short = "--dataset digits -a resnet20"
    run = made(f"{short} --epochs 2 --seed 0")
    with pytest.raises(UserError) as error:
        find_evaluated(options_of(short, f"--epochs 3 --evaluation True --root_log {logs}"))
    assert str(error.value).endswith(f"; the nearest is {run} (--epochs 3, there 2)")


def test_the_nearest_run_of_an_evaluation_may_differ_in_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made(FLAGS)
    run = Path("checkpoint").rename("pretrained") / f"{NAME}-01234567"
    next(run.parent.iterdir()).rename(run)
    with pytest.raises(UserError) as error:
        find_evaluated(options_of(FLAGS.replace("--seed 0", "--evaluation True")))
    assert str(error.value).endswith(f"; the nearest is {run}")


def test_an_evaluation_takes_the_run_of_exactly_these_flags_whatever_others_there_are(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = made(FLAGS)
    made(f"{FLAGS} --lr 0.2")
    assert find_evaluated(options_of(FLAGS, "--evaluation True"))[1].models == folder


def test_of_runs_that_differ_in_precision_alone_that_of_the_flag_is_evaluated(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folders = {flag: made(f"{FLAGS} --precision {flag}") for flag in ("float32", "bf16")}
    for flag, folder in folders.items():
        options = options_of(FLAGS, f"--precision {flag} --evaluation True")
        assert find_evaluated(options)[1].models == folder


def test_an_evaluation_need_not_know_how_long_stage_1_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = made(f"{FLAGS} {STAGE_2} --pretrain_epochs 20 --margin_min 0")
    asked = options_of(FLAGS, STAGE_2, "--pretrain_epochs 200 --evaluation True")
    assert find_evaluated(asked)[1].models == folder


def test_an_evaluation_may_look_at_other_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = made(FLAGS)
    options = options_of("--dataset digits -a resnet20 --rand_number 3 --evaluation True")
    assert find_evaluated(options)[1].models == folder


def test_the_folder_of_records_goes_with_that_of_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = made(FLAGS)
    arguments = Path("logs", folder.name, "args.json")
    arguments.parent.mkdir(parents=True)
    (folder / "args.json").rename(arguments)
    short = "--dataset digits -a resnet20 --evaluation True --root_log logs"
    path, found = find_evaluated(options_of(short))
    assert path.parent == folder and found.records == arguments.parent

"""Which run a command means: by its name, its earlier name, or its name without the digest."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.support.helpers import REPOSITORY
from tests.support.trained import write_checkpoint
from utils.errors import UserError
from utils.options.parse import parse_options
from utils.options.run_names import released_name
from utils.runs.checkpoint import weights_digest
from utils.runs.evaluated import find_evaluated
from utils.runs.folders import differences, digest_of, run_folder
from utils.runs.lookup import checkpoint_of_flag, checkpoint_of_run
from utils.runs.resuming import prepare

EARLIER = Path(__file__).parent / "earlier"
"""Records of a stage 1 and a stage 2 that an earlier version made, without their checkpoints."""

FLAGS = "--dataset digits -a resnet20 --augment none --seed 0 -b 64"
STAGE_2 = "--epochs 2 --balanced_clf_nepochs 1 --feat_loss ce,robust_loss --cls_loss ce"
NAME = "digits_resnet20_CE_None_exp_0.01_0"


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EARLIER, tmp_path / "checkpoint")
    for arguments in (tmp_path / "checkpoint").rglob("args.json"):
        for name in ("ckpt.pth.tar", "ckpt.best.pth.tar"):
            (arguments.parent / name).touch()
    return Path("checkpoint")


def options_of(*flags):
    return parse_options(" ".join(flags).split())


def made(flags, root="checkpoint", **recorded):
    """Makes the folder of a run, with a record of its options and an empty checkpoint."""
    options = options_of(flags)
    folder = run_folder(options).models
    folder.mkdir(parents=True)
    arguments = options.as_dict() | {"seed": 5 if options.seed is None else options.seed}
    (folder / "args.json").write_text(json.dumps(arguments | recorded))
    (folder / "ckpt.best.pth.tar").touch()
    return folder


def test_an_earlier_run_keeps_its_folder(earlier):
    folder = run_folder(options_of(FLAGS, "--epochs 1")).models
    assert folder == earlier / NAME
    assert run_folder(options_of(FLAGS, "--epochs 9")).models == folder
    stage_2 = run_folder(options_of(FLAGS, STAGE_2, f"--pretrained {NAME}")).models
    assert stage_2.parent == folder and stage_2.name.endswith("_augment=none")
    assert (stage_2 / "summary.json").exists()


@pytest.mark.parametrize("flags", ["--lr 0.2", "--seed 1", "-b 32", "--rand_number 1"])
def test_a_run_that_differs_from_an_earlier_one_has_a_folder_of_its_own(flags, earlier):
    assert run_folder(options_of(FLAGS, "--epochs 1", flags)).models != earlier / NAME
    folder = run_folder(options_of(FLAGS, STAGE_2, f"--pretrained {NAME}", flags)).models
    assert flags.startswith("--lr") == folder.exists()


def test_an_earlier_run_is_found_as_the_start_of_a_stage_2_and_evaluated(earlier):
    options = options_of(FLAGS, STAGE_2, f"--pretrained {NAME}", "--evaluation True")
    assert checkpoint_of_flag(options, "pretrained") == earlier / NAME / "ckpt.best.pth.tar"
    path, folder = find_evaluated(options)
    assert path.parent == folder.models == run_folder(options).models
    path, folder = find_evaluated(options_of(FLAGS, "--evaluation True"))
    assert path.parent == folder.records == earlier / NAME


def test_a_stage_1_below_the_home_folder_is_found(earlier, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    options = options_of(FLAGS, STAGE_2, f"--pretrained=~/checkpoint/{NAME}")
    found = checkpoint_of_flag(options, "pretrained")
    assert found == tmp_path / earlier / NAME / "ckpt.best.pth.tar"


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


def test_the_beginning_of_a_name_is_enough_where_it_is_the_only_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = made(f"{FLAGS} --epochs 3")
    assert folder.name.startswith(f"{NAME}-") and len(folder.name) == len(NAME) + 9
    options = options_of(FLAGS, STAGE_2, f"--pretrained {NAME}")
    assert checkpoint_of_flag(options, "pretrained") == folder / "ckpt.best.pth.tar"
    assert run_folder(options).models.parent == folder
    options = options_of(FLAGS, STAGE_2, f"--pretrained checkpoint/{NAME}")
    assert checkpoint_of_flag(options, "pretrained") == folder / "ckpt.best.pth.tar"


def test_a_run_of_exactly_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made(FLAGS)
    plain = made("--dataset digits -a resnet20")
    options = options_of(FLAGS, STAGE_2, f"--pretrained {NAME}")
    assert checkpoint_of_flag(options, "pretrained").parent == plain


def test_a_folder_without_a_run_does_not_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("checkpoint", NAME).mkdir(parents=True)
    options = options_of(FLAGS, STAGE_2, f"--pretrained {NAME}")
    with pytest.raises(UserError, match=r"no ckpt\.best\.pth\.tar in"):
        checkpoint_of_flag(options, "pretrained")
    folder = made(FLAGS)
    Path("checkpoint", f"{NAME}-notdigit").mkdir()
    Path("checkpoint", f"{NAME}-01234567").mkdir()
    assert checkpoint_of_flag(options, "pretrained").parent == folder


def test_the_error_for_several_runs_says_how_they_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [made(f"{FLAGS} --lr {lr} --gpu {i}") for i, lr in enumerate((0.2, 0.3))]
    with pytest.raises(UserError) as error:
        run_folder(options_of(FLAGS, STAGE_2, f"--pretrained {NAME}"))
    text = str(error.value)
    for folder, lr in zip(folders, (0.2, 0.3), strict=True):
        assert f"{folder} (--lr {lr})" in text
    assert "--gpu" not in text and "--seed" not in text


def test_each_place_is_searched_whole_before_the_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    in_root = made(FLAGS)
    here = Path(NAME)
    here.mkdir()
    options = options_of(FLAGS, STAGE_2, f"--pretrained {NAME}")
    assert checkpoint_of_flag(options, "pretrained").parent == in_root
    (here / "ckpt.best.pth.tar").touch()
    assert checkpoint_of_flag(options, "pretrained").parent == here


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


def test_stages_2_from_different_checkpoints_of_a_run_share_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = made(FLAGS)
    (start / "ckpt.pth.tar").touch()
    (start / "ckpt.best_heldout.pth.tar").touch()

    def options(file, *more):
        return options_of(FLAGS, STAGE_2, f"--pretrained {start}{file}", *more)

    def name(file, *more):
        return run_folder(options(file, *more)).models.name

    assert name("/ckpt.best.pth.tar") == name("")
    assert len({name(""), name("/ckpt.pth.tar"), name("/ckpt.best_heldout.pth.tar")}) == 3
    for protocol, chosen in (("last", "ckpt.pth.tar"), ("heldout", "ckpt.best_heldout.pth.tar")):
        assert name(f"/{chosen}", f"--select_on {protocol}") == name("", f"--select_on {protocol}")
        # In a run that was selected on test, this is another checkpoint.
        assert name("/ckpt.best.pth.tar", f"--select_on {protocol}") != (
            name("", f"--select_on {protocol}")
        )
    (start / "ckpt.best_heldout.pth.tar").unlink()  # of a run that was selected on held-out images
    heldout = "--select_on heldout"
    assert name("/ckpt.best.pth.tar", heldout) == name("", heldout)
    last = options("/ckpt.pth.tar")
    assert "--pretrained ckpt.pth.tar" in digest_of(last, run_folder(last))


def test_a_stage_2_does_not_go_on_from_a_longer_stage_1(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def options(epochs):
        return options_of(FLAGS, STAGE_2, f"--pretrain_epochs {epochs} --resume True")

    made(f"{FLAGS} {STAGE_2} --pretrain_epochs 20")
    assert prepare(options(20), run_folder(options(20))) == "continue"
    with pytest.raises(UserError, match=r"--pretrain_epochs 40 \(recorded: 20\)"):
        prepare(options(40), run_folder(options(40)))
    alone = options_of(FLAGS, STAGE_2, f"--pretrained {NAME} --resume True")
    assert "pretrain_epochs" not in differences(alone, options(20).as_dict())


@pytest.mark.parametrize("more", ["", "--backbone public.pth"])
def test_a_stage_2_that_an_earlier_version_started_from_another_checkpoint_is_found(
    more, tmp_path, monkeypatch
):
    """Earlier versions gave it the folder of a stage 2 from the best checkpoint."""
    monkeypatch.chdir(tmp_path)
    Path("public.pth").write_bytes(b"weights")
    start = made(FLAGS)
    (start / "ckpt.pth.tar").touch()
    flags = f"{FLAGS} {STAGE_2} {more} --pretrained {start}"
    last = f"{flags}/ckpt.pth.tar"
    folder = made(flags, pretrained=f"{start}/ckpt.pth.tar")
    assert run_folder(options_of(last)).models == folder
    assert prepare(options_of(last, "--resume True"), run_folder(options_of(last))) == "continue"
    from_best = options_of(flags, "--resume True")
    with pytest.raises(UserError, match=r"other options: --pretrained .*\(recorded: .*ckpt\.pth"):
        prepare(from_best, run_folder(from_best))


def test_a_stage_2_is_not_taken_for_that_of_another_file_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digests = {}
    for value, name in enumerate(("a", "b", "c")):
        weights = {"linear.weight": torch.full((2, 3), min(value, 1))}
        Path(name).mkdir()
        torch.save({"state_dict": weights, "epoch": value}, Path(name, "model.pth"))
        digests[name] = weights_digest(weights)
    flags = f"{FLAGS} {STAGE_2} --pretrained"
    folder = made(f"{flags} b/model.pth", start=digests["b"], start_file="b/model.pth")

    def prepared(file):
        options = options_of(flags, file, "--resume True")
        return prepare(options, run_folder(options))

    # Without a checkpoint, it has not begun with any weights.
    assert prepared("a/model.pth") == "continue"
    (folder / "ckpt.pth.tar").touch()
    with pytest.raises(UserError, match=r"began with b/model.pth, and --pretrained a/model.pth is"):
        prepared("a/model.pth")
    # The third has the weights of the second, and nothing else of it.
    assert prepared("b/model.pth") == prepared("c/model.pth") == "continue"


@pytest.mark.parametrize(
    ("file", "parent"),
    [
        ("model.pth", "model"),
        ("other.pth.tar", "other"),
        ("weights.safetensors", "weights"),
        ("bare", "bare_run"),
        (f"{NAME}/ckpt.best.pth.tar", NAME),
    ],
)
def test_a_stage_2_from_a_file_goes_below_the_name_of_the_file_or_its_run(
    file, parent, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = Path("checkpoint", file)
    path.parent.mkdir(parents=True)
    path.touch()
    for given in (file, path, path.absolute()):
        options = options_of(FLAGS, STAGE_2, f"--pretrained {given}")
        assert checkpoint_of_flag(options, "pretrained").samefile(path)
        assert run_folder(options).models.parent == Path("checkpoint", parent)


def test_the_run_says_what_its_digest_stands_for():
    options = options_of(FLAGS, "--epochs 3")
    text = digest_of(options, run_folder(options))
    assert set(text.split(", ")) == {"--batch-size 64", "--augment none", "--seed 0"}
    options = options_of("--dataset digits --epochs 3")
    assert digest_of(options, run_folder(options)) == ""


@pytest.mark.parametrize("root", [".", "checkpoint", "pretrained"])
def test_a_run_is_found_by_its_name(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_checkpoint(tmp_path / root / "my_run")
    assert checkpoint_of_run("my_run").resolve() == path


def test_a_name_without_its_digest_is_enough_if_it_fits_one_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_checkpoint(tmp_path / "checkpoint" / "my_run[1]-0123abcd")
    write_checkpoint(tmp_path / "checkpoint" / "my_run[1]-other")
    assert checkpoint_of_run("my_run[1]").resolve() == path
    write_checkpoint(tmp_path / "checkpoint" / "my_run[1]-4567abcd")
    with pytest.raises(UserError, match=r"may mean .*-0123abcd.*-4567abcd.*: name one of them"):
        checkpoint_of_run("my_run[1]")


def test_a_folder_without_a_checkpoint_hides_no_run_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("checkpoint", "my_run").mkdir(parents=True)
    path = write_checkpoint(tmp_path / "pretrained" / "my_run")
    assert checkpoint_of_run("my_run").resolve() == path
    path = write_checkpoint(tmp_path / "checkpoint" / "my_run-0123abcd")
    Path("checkpoint", "my_run-4567abcd").mkdir()
    assert checkpoint_of_run("my_run").resolve() == path


def test_a_file_is_taken_as_it_is_and_a_folder_gives_its_best(tmp_path):
    best = write_checkpoint(tmp_path)
    last = tmp_path / "ckpt.pth.tar"
    best.rename(last)
    assert checkpoint_of_run(tmp_path) == last
    best = write_checkpoint(tmp_path)
    assert checkpoint_of_run(tmp_path) == best
    assert checkpoint_of_run(last) == last


def test_the_error_for_a_missing_run_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"looked for nothing, checkpoint/nothing, pretrained/"):
        checkpoint_of_run("nothing")
    (tmp_path / "root").mkdir()
    with pytest.raises(UserError, match=r"root: no ckpt.best.pth.tar in this folder$"):
        checkpoint_of_run("root")


def test_a_folder_above_a_single_run_stands_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_checkpoint(tmp_path / "root" / "stage_1")
    assert checkpoint_of_run("root").resolve() == path
    stage_2 = write_checkpoint(tmp_path / "root" / "stage_1" / "stage_2")
    assert checkpoint_of_run("root").resolve() == stage_2
    assert checkpoint_of_run("root/stage_1").resolve() == path
    write_checkpoint(tmp_path / "root" / "other")
    runs = "below it are root/other, root/stage_1/stage_2"
    with pytest.raises(UserError, match=f"{runs}$"):
        checkpoint_of_run("root")
    (tmp_path / "root" / "other" / "args.json").touch()
    with pytest.raises(UserError, match=f"{runs}; python -m utils.runs root says what they are$"):
        checkpoint_of_run("root")


@pytest.mark.parametrize("letter", ["a", "é"], ids=["one byte", "two bytes"])
def test_a_name_that_was_cut_is_found_without_its_digest(letter, tmp_path, monkeypatch):
    """A name is cut at a number of bytes."""
    monkeypatch.chdir(tmp_path)
    flags = f"{FLAGS} --loss_type Focal --train_rule Reweight --exp_str {100 * letter}"
    folder = made(f"{flags} --lr 0.2")
    assert len(folder.name.encode()) in (142, 143)
    released = released_name(options_of(flags))
    stage_2 = options_of(FLAGS, STAGE_2, f"--pretrained {released}")
    assert checkpoint_of_flag(stage_2, "pretrained").parent == folder

"""Which checkpoint a path or a name means."""

from pathlib import Path

import pytest

from tests.support.named_runs import FLAGS, STAGE_2, made, options_of
from tests.support.trained import write_checkpoint
from utils.errors import UserError
from utils.options.run_names import released_name
from utils.runs.folders import run_folder
from utils.runs.lookup import checkpoint_of_flag, checkpoint_of_run

NAME = "digits_resnet20_CE_None_exp_0.01_0"


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

"""Files that flags name count by their content, in the names of runs and when a run is resumed."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.helpers import call, load, snapshot, succeed
from utils.errors import UserError
from utils.options.digests import forget_digests
from utils.options.parse import parse_options, parse_stages
from utils.options.run_names import name_by_paths
from utils.runs.contents import contents_of
from utils.runs.evaluated import find_evaluated
from utils.runs.folders import differences, digest_of, linked, run_folder
from utils.runs.resuming import prepare

FLAGS = "--dataset digits -a resnet8 --augment none --seed 0"
STAGE_2 = "--epochs 2 --balanced_clf_nepochs 1 --feat_loss ce,robust_loss --cls_loss ce"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def options_of(*flags):
    return parse_options(" ".join(flags).split())


def write(path, content=b"weights"):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def begun(*flags, name=None, is_recorded=True):
    """Returns the folder of a run that has begun."""
    options = options_of(*flags)
    folder = run_folder(options).models if name is None else Path("checkpoint", name)
    folder.mkdir(parents=True)
    record = options.as_dict()
    if is_recorded:
        record["contents"] = contents_of(options)
    (folder / "args.json").write_text(json.dumps(record))
    (folder / "ckpt.best.pth.tar").touch()
    return folder


@pytest.mark.parametrize("flag", ["--backbone", "--teacher"])
def test_a_copy_gives_the_same_name_and_another_content_another(flag):
    first, copy = write("a/weights.pth.tar"), write("b/copied.pth.tar")
    other = write("c/weights.pth.tar", b"other weights")
    names = [run_folder(options_of(FLAGS, flag, str(path))).models for path in (first, copy, other)]
    assert names[0] == names[1] != names[2]
    write(first, b"changed")
    assert run_folder(options_of(FLAGS, flag, str(first))).models not in names


def test_a_teacher_that_is_a_run_counts_by_the_checkpoint_that_the_protocol_chooses():
    write("checkpoint/deep/ckpt.best.pth.tar", b"best")
    write("checkpoint/deep/ckpt.pth.tar", b"last")
    write("elsewhere/ckpt.best.pth.tar", b"best")
    names = [
        run_folder(options_of(FLAGS, "--teacher", name)).models for name in ("deep", "elsewhere")
    ]
    assert names[0] == names[1]
    last = [
        run_folder(options_of(FLAGS, "--select_on last --teacher", f"checkpoint/deep{end}")).models
        for end in ("", "/ckpt.pth.tar")
    ]
    assert last[0] == last[1] != names[0]


def test_the_teachers_of_several_seeds_count_together():
    for seed in (0, 1):
        write(f"checkpoint/deep/seed{seed}/ckpt.best.pth.tar", b"%d" % seed)
    flags = "--dataset digits -a resnet8 --teacher deep --seeds 0,1"
    options = options_of(flags)
    folder = run_folder(options).models
    for of_seed in options.by_seed():
        assert run_folder(of_seed).models == folder / f"seed{of_seed.seed}"
    write("checkpoint/deep/seed1/ckpt.best.pth.tar", b"2")
    assert run_folder(options_of(flags)).models != folder


@pytest.mark.parametrize("stage", ["", f"{STAGE_2} --pretrained start"])
def test_a_run_is_found_when_the_file_is_gone(stage):
    write("checkpoint/start/ckpt.best.pth.tar")
    path = write("weights.pth")
    flags = (FLAGS, stage, "--backbone weights.pth")
    folder = begun(*flags)
    begun(FLAGS, stage, "--backbone weights.pth --wd 0.5")
    path.unlink()
    assert run_folder(options_of(*flags)).models == folder
    assert find_evaluated(options_of(*flags, "--evaluation True"))[1].models == folder
    options = options_of(*flags, "--resume True")
    assert prepare(options, run_folder(options)) == "continue"
    assert not differences(options, json.loads((folder / "args.json").read_text()))
    assert run_folder(options_of(FLAGS, stage, "--backbone other.pth")).models != folder


def test_of_several_runs_by_a_file_that_is_gone_the_error_names_each():
    folders = []
    for content in (b"one", b"two"):
        path = write("weights.pth", content)
        folders.append(begun(FLAGS, "--backbone weights.pth"))
    path.unlink()
    with pytest.raises(UserError) as error:
        run_folder(options_of(FLAGS, "--backbone weights.pth"))
    assert all(str(folder) in str(error.value) for folder in folders)


def test_resume_refuses_a_changed_file():
    write("weights.pth")
    flags = (FLAGS, "--backbone weights.pth")
    folder = begun(*flags)
    write("weights.pth", b"changed")
    options = options_of(*flags, "--resume True")
    with pytest.raises(UserError, match=r"--backbone weights\.pth has changed since") as error:
        prepare(options, run_folder(options))
    assert str(folder) in str(error.value)
    # A new run may begin, and a run that differs in more is another run.
    assert prepare(options_of(*flags), run_folder(options_of(*flags))) == "start"
    options = options_of(*flags, "--wd 0.5 --resume True")
    assert prepare(options, run_folder(options)) == "start"


def test_a_folder_that_was_named_by_the_path_is_still_found():
    write("weights.pth")
    flags = (FLAGS, "--backbone weights.pth")
    name = name_by_paths(options_of(*flags))
    folder = begun(*flags, name=name, is_recorded=False)
    assert run_folder(options_of(*flags)).models == folder
    other = options_of(FLAGS, "--backbone", str(write("b/weights.pth")))
    assert run_folder(other).models != folder


def test_the_run_says_which_content_its_digest_stands_for():
    write("weights.pth")
    options = options_of(FLAGS, "--backbone weights.pth")
    text = digest_of(options, run_folder(options))
    digest = contents_of(options)["backbone"]
    assert len(digest) == 64 and f"--backbone weights.pth (sha256 {digest[:8]})" in text


def test_by_one_command_stage_2_starts_from_the_folder_that_stage_1_has():
    path = write("weights.pth")
    argv = f"{FLAGS} {STAGE_2} --backbone weights.pth --pretrain_epochs 1".split()
    first, second = linked(parse_stages(argv))
    assert second.pretrained == str(run_folder(first).models)
    folder = begun(FLAGS, "--backbone weights.pth --epochs 1")
    path.unlink()
    first, second = linked(parse_stages(argv))
    assert second.pretrained == str(folder)


def write_table(folder, sizes):
    for i, size in enumerate(sizes):
        write(folder / f"{i}.png", b"." * size)
    lines = "".join(f"{i}.png,{i % 2}\n" for i in range(len(sizes)))
    return write(folder / "table.csv", f"Path, Label\n{lines}".encode())


def test_a_table_counts_with_the_images_that_it_lists(tmp_path):
    def folder_of(table):
        forget_digests()
        return run_folder(options_of(f"--dataset csv --seed 0 --data_root {table}")).models

    first = write_table(tmp_path / "a", [3, 4, 5])
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    other = write_table(tmp_path / "other", [3, 4, 6])
    folder = folder_of(first)
    assert folder_of(tmp_path / "copy" / "table.csv") == folder != folder_of(other)
    (tmp_path / "a" / "2.png").unlink()
    assert folder_of(first) != folder
    flags = f"--dataset csv --seed 0 --data_root {other}"
    earlier = name_by_paths(options_of(flags))
    begun(flags, name=earlier)
    assert folder_of(other).name == earlier


def test_a_file_that_is_no_table_is_refused_in_one_line(tmp_path):
    path = write("table.csv", b"path,label," + b"x" * 200_000)  # longer than a cell may be
    before = snapshot(tmp_path)
    outcome = call(f"--dataset csv --data_root {path}".split())
    assert outcome.status == 2 and len(outcome.errors) == 1 and "not a table" in outcome.err
    assert snapshot(tmp_path) == before


def test_a_whole_run_by_a_backbone_that_is_moved_then_lost(tmp_path, no_figures):
    import torch

    from models import resnet8

    path = tmp_path / "weights.pth"
    torch.save(resnet8(7).state_dict(), path)
    argv = f"{FLAGS} -b 64 --epochs 1 --imb_factor 0.1 --resume True --backbone".split()
    outcome = succeed([*argv, path])
    [folder] = (tmp_path / "checkpoint").glob("digits_*")
    recorded = json.loads((folder / "args.json").read_text())["contents"]["backbone"]
    assert f"--backbone {path} (sha256 {recorded[:8]})" in outcome.out
    before = snapshot(tmp_path / "checkpoint")
    moved = path.rename(tmp_path / "moved.pth")
    assert "finished" in succeed([*argv, moved]).out
    torch.save(load(moved) | {"conv1.weight": torch.ones(16, 3, 3, 3)}, path)
    outcome = call([*argv, path])
    assert outcome.status == 2 and len(outcome.errors) == 1 and "has changed since" in outcome.err
    path.unlink()
    assert "finished" in succeed([*argv, path]).out
    assert snapshot(tmp_path / "checkpoint") == before

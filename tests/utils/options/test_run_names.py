"""Names of runs: the released ones, with a digest if those lack an option."""

import os
import re
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.options.digests import content_digest
from utils.options.parse import parse_options
from utils.options.run_names import digested, earlier_name, run_name

STAGE_2 = (
    "--pretrained cifar10_resnet32_CE_None_exp_0.01_0 --feat_loss ce,robust_loss --cls_loss ce"
)
PLAIN_1 = "cifar10_resnet32_CE_None_exp_0.01_0"
PLAIN_2 = run_name(parse_options(STAGE_2.split()))


def options_of(flags):
    return parse_options(flags.split())


def name_of(flags):
    return run_name(options_of(flags))


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--epochs 3",
        "--gpu 1 --resume True --workers 0 --print-freq 1 --checkpoint_every 5 --step eager",
        "--root_log elsewhere --root_model elsewhere --data_root elsewhere",
        "--momentum 0.9 --schedule absolute --precision float32",
        "--evaluation True --readings all",
        "--temperature 1 --margin 1 --feat_lr 0.5 --balanced_clf_nepochs 3",
        "--seeds 1,2",
    ],
)
def test_what_decides_nothing_in_stage_1_leaves_the_released_name(flags):
    assert name_of(flags) == PLAIN_1


@pytest.mark.parametrize(
    "flags",
    [
        *("--seed 0", "--seed 1", "--wd 2e-4", "--momentum 0.5", "--lr 0.2", "-b 64"),
        *("--schedule scaled", "--precision bf16", "--augment none", "--rand_number 1"),
        *("--start-epoch 5", "--select_on last", "--heldout_fraction 0.1", "--accumulate 2"),
        "--warmup 3",
    ],
)
def test_what_decides_the_result_of_stage_1_gives_it_a_name_of_its_own(flags):
    name = name_of(flags)
    assert re.fullmatch(re.escape(PLAIN_1) + "-[0-9a-f]{8}", name)
    assert name == name_of(flags)


def test_different_flags_have_different_digests():
    flags = [
        "--seed 0",
        "--seed 1",
        "--lr 0.2",
        "--wd 0.2",
        "--seed 0 --lr 0.2",
        "--seed 0 --wd 0.2",
    ]
    names = {name_of(f) for f in flags}
    assert len(names) == len(flags)
    assert name_of("--lr 0.2 --seed 0") == name_of("--seed 0 --lr 0.2")


@pytest.mark.parametrize(
    "flags",
    [
        "--lr 0.5 --schedule cosine --train_rule DRW --loss_type LDAM --exp_str x",
        "--gpu 1 --resume True",
        "--augment autoaugment",
    ],
)
def test_what_decides_stage_1_alone_leaves_the_name_of_stage_2(flags):
    assert name_of(f"{STAGE_2} {flags}") == PLAIN_2


@pytest.mark.parametrize(
    "flags",
    [
        *("--seed 0", "--balanced_clf_nepochs 10", "--wd 2e-4", "--augment none", "--as_released"),
        *("--margin_min 0", "--robust_distance squared", "--robust_weight 0.5", "--rand_number 2"),
        *("--imb_factor 0.02", "--dataset cifar100", "-a resnet20", "--margin_wd 0"),
        *("--select_on last", "--precision bf16", "--robust_distance normalised"),
    ],
)
def test_what_decides_stage_2_and_is_not_in_its_name_is_in_its_digest(flags):
    name = name_of(f"{STAGE_2} {flags}")
    assert re.fullmatch(re.escape(PLAIN_2) + "-[0-9a-f]{8}", name)


def test_the_stage_1_says_on_which_data_stage_2_works():
    data = "--dataset cifar100 --imb_factor 0.02 -a resnet20"
    flags = STAGE_2.replace(PLAIN_1, "some/where/cifar100_resnet20_CE_None_exp_0.02_0-12345678/")
    assert name_of(f"{flags} {data}") == PLAIN_2


def test_a_stage_1_of_a_factor_that_begins_alike_is_on_other_data():
    flags = STAGE_2.replace("0.01_0", "0.025_0")
    assert name_of(f"{flags} --imb_factor 0.025") == PLAIN_2
    assert name_of(f"{flags} --imb_factor 0.02") != PLAIN_2


def test_flags_of_the_robust_loss_decide_nothing_where_there_is_none():
    plain = STAGE_2.replace("ce,robust_loss", "ce")
    assert name_of(f"{plain} --as_released True") == name_of(plain)


@settings(deadline=None, max_examples=60, derandomize=True, database=None)
@given(st.text(min_size=1, max_size=100).filter(lambda t: not set(t) & set("/\0\ud800")))
def test_no_name_is_longer_than_any_file_system_allows(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    for flags in ([], ["--seed", "1"]):
        options = parse_options([f"--exp_str={text}", *flags])
        name = run_name(options)
        assert len(name.encode()) <= 143
        released = f"{PLAIN_1[:-1]}{text}"
        fits = len(released.encode()) <= (134 if flags else 143)
        assert name.startswith(released) if fits else released.startswith(name[:-9])


def test_long_names_that_begin_alike_differ():
    names = {name_of(f"--dataset cifar100 --exp_str {'é' * 90}{end}") for end in ("a", "b")}
    assert len(names) == 2


def test_long_names_of_stage_2_are_cut_and_differ():
    losses = "--feat_loss ce_lt,ce_bal,robust_loss_lt --cls_loss ce,ce_lt,ce_bal,bs"
    names = {name_of(f"{STAGE_2} {losses} --cls_lr 0.0123456789{end}") for end in (1, 2)}
    assert [len(name.encode()) for name in names] == [143, 143]
    assert len({name[:-8] for name in names}) == 1


def test_the_digest_says_what_it_stands_for():
    assert digested(options_of("--seed 0 -b 64 --epochs 3")) == {"seed": 0, "batch_size": 64}


def test_the_earlier_name_spells_our_own_flags_out():
    flags = f"{STAGE_2} --augment none --as_released True --seed 3 --balanced_clf_nepochs 4"
    assert earlier_name(options_of(flags)) == f"{PLAIN_2}_augment=none_as_released=True"
    assert earlier_name(options_of("--augment none --seed 3")) == PLAIN_1


def own_data(tmp_path, name, words=("one", "two")):
    for word in words:
        folder = tmp_path / name / "train" / word
        folder.mkdir(parents=True)
        (folder / "image.png").write_bytes(word.encode())
    return tmp_path / name


def own_name(data, *flags):
    return run_name(parse_options(["--dataset", "folder", "--data_root", str(data), *flags]))


def test_own_data_are_known_by_what_they_are_and_not_by_where(tmp_path, monkeypatch):
    first = own_data(tmp_path, "first")
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    monkeypatch.chdir(tmp_path)
    other = own_data(tmp_path, "other", ("one", "three"))
    name = own_name(first)
    assert name == own_name(copy) == own_name("first") == own_name(f"{first}/")
    assert name != own_name(other)
    assert name.startswith("folder_resnet32_CE_None_natural_0.01_0-")


def test_an_image_of_another_size_makes_other_data(tmp_path):
    data = own_data(tmp_path, "data")
    before = content_digest(str(data))
    (data / "train" / "one" / "image.png").write_bytes(b"a larger one")
    content_digest.cache_clear()
    assert content_digest(str(data)) != before


def test_own_data_have_the_same_name_on_windows(tmp_path, monkeypatch):
    data, relpath = own_data(tmp_path, "data"), os.path.relpath
    before = content_digest(str(data))
    monkeypatch.setattr(os, "sep", "\\")
    monkeypatch.setattr(os.path, "relpath", lambda *paths: relpath(*paths).replace("/", "\\"))
    content_digest.cache_clear()
    assert content_digest(str(data)) == before


def test_what_runs_leave_among_own_data_does_not_change_them(tmp_path):
    data = own_data(tmp_path, "data")
    flags = ["--root_log", str(data / "checkpoint"), "--root_model", str(data / "checkpoint")]
    name = own_name(data, *flags)
    (data / "checkpoint" / "run").mkdir(parents=True)
    (data / "checkpoint" / "run" / "args.json").write_text("{}")
    (data / "decoded.npz").write_bytes(b"cache")
    content_digest.cache_clear()
    assert own_name(data, *flags) == name


@pytest.mark.parametrize("flag", ["--root_log", "--root_model"])
def test_the_folder_of_runs_is_no_class_whatever_else_is_in_it(flag, tmp_path):
    data = own_data(tmp_path, "data") / "train"  # with folders of classes
    runs = data / "checkpoint"
    name = own_name(data, flag, str(runs))
    (runs / "run").mkdir(parents=True)
    (runs / "run" / "weights.zip").write_bytes(b"mine")
    assert own_name(data, flag, str(runs)) == name


@pytest.mark.parametrize("name", [".thumbnails", "@eaDir", "__MACOSX", "#recycle"])
def test_what_systems_put_beside_own_data_does_not_change_them(name, tmp_path):
    data = own_data(tmp_path, "data")
    before = content_digest(str(data))
    for folder in (data, *(entry for entry in data.iterdir() if entry.is_dir())):
        (folder / name).mkdir()
        (folder / name / "thumbnail.png").write_bytes(b"not loaded")
    content_digest.cache_clear()
    assert content_digest(str(data)) == before


@pytest.mark.parametrize("name", ["Thumbs.db", "desktop.ini", "IMG_1.AAE", "notes.txt"])
def test_what_programs_put_beside_images_does_not_change_them(name, tmp_path):
    data = own_data(tmp_path, "data")
    before = content_digest(str(data))
    (data / "train" / "one" / name).write_bytes(b"no image")
    content_digest.cache_clear()
    assert content_digest(str(data)) == before


def test_a_class_with_the_name_of_a_split_is_a_class(tmp_path):
    """Then images of the other classes are images of the data too."""
    for name in ("train/a.png", "bus/red/b.png", "car/c.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"image")
    before = content_digest(str(tmp_path))
    (tmp_path / "bus" / "red" / "d.png").write_bytes(b"image")
    content_digest.cache_clear()
    assert content_digest(str(tmp_path)) != before

"""A long-tailed set packed into one file is the set itself."""

import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets import load_data
from datasets.pack import main, pack
from tests.support.helpers import (
    REPOSITORY,
    STAGE_1_NAME,
    call,
    differences_of_runs,
    stage_1,
    succeed,
)
from utils.errors import RunError, UserError, run_program
from utils.options.parse import parse_options

pytestmark = pytest.mark.usefixtures("small_cifar", "no_figures")
SUBSET = ["--dataset", "cifar10", "--imb_factor", "0.2"]


@pytest.fixture(scope="module")
def packed(tree, small_cifar, tmp_path_factory) -> Path:
    return pack([*SUBSET, "--data_root", str(tree), "--output", str(tmp_path_factory.mktemp("p"))])


def load(root, *flags):
    return load_data(parse_options([*SUBSET, "--data_root", str(root), *flags]))


def assert_same(ours, theirs):
    assert ours.fingerprint == theirs.fingerprint
    assert ours.class_names == theirs.class_names and ours.name == theirs.name
    assert ours.class_counts == theirs.class_counts
    assert ours.normalisation == theirs.normalisation
    assert ours.evaluation_splits.keys() == theirs.evaluation_splits.keys()
    for name, split in ours.evaluation_splits.items():
        assert torch.equal(split.images, theirs.evaluation_splits[name].images)
        assert torch.equal(split.labels, theirs.evaluation_splits[name].labels)


def test_a_packed_set_is_the_set_itself(packed, tree):
    assert packed.name == "cifar10_exp_0.2_0.npz"
    assert_same(load(packed.parent), load(tree))


@pytest.mark.parametrize(
    "flags", [("--imb_type", "step"), ("--rand_number", "7"), ("--imb_type", "natural")]
)
def test_other_subsets_are_packed_too(flags, tree, tmp_path):
    path = pack([*SUBSET, *flags, "--data_root", str(tree), "--output", str(tmp_path / "new")])
    assert_same(load(path.parent, *flags), load(tree, *flags))


def test_images_beyond_one_stack_keep_their_order(packed, tree, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.sources.packed.STACKED", 16)
    path = pack([*SUBSET, "--data_root", str(tree), "--output", str(tmp_path)])
    assert_same(load(path.parent), load(tree))


def test_training_on_a_packed_set_gives_the_same_bits(packed, finished, tmp_path):
    succeed(stage_1(packed.parent, tmp_path))
    assert not differences_of_runs(finished / STAGE_1_NAME, tmp_path / STAGE_1_NAME)


@pytest.mark.parametrize(
    "flags", [("--imb_factor", "0.5"), ("--imb_type", "step"), ("--rand_number", "1")]
)
def test_another_subset_than_the_packed_one_is_refused(flags, packed, monkeypatch):
    refused = UserError("no download here")
    monkeypatch.setattr("datasets.load.load_cifar", lambda *_: (_ for _ in ()).throw(refused))
    with pytest.raises(UserError, match=r"holds cifar10_exp_0\.2_0\.npz and not cifar10_"):
        load(packed.parent, *flags)


def test_a_renamed_pack_is_refused(packed, tmp_path):
    (tmp_path / "cifar10_exp_0.5_0.npz").write_bytes(packed.read_bytes())
    with pytest.raises(UserError, match=r"was packed with --imb_factor 0\.2, not 0\.5"):
        load(tmp_path, "--imb_factor", "0.5")


def test_a_packed_set_says_where_its_held_out_images_are_from(packed, tree):
    line = load(packed.parent).account()
    # The subset takes the largest class whole.
    assert "held out in 9 of 10 classes (left out by the subset)" in line
    assert line == load(tree).account()


def test_a_fraction_is_not_packed(tree, small_cifar, tmp_path):
    flags = ["--dataset", "cifar10", "--data_root", str(tree), "--heldout_fraction", "0.3"]
    with pytest.raises(UserError, match="leave the flag out"):
        pack([*flags, "--output", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_failure(tree, tmp_path, monkeypatch):
    def full(path, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(RunError, match="No space left on device"):
        pack([*SUBSET, "--data_root", str(tree), "--output", str(tmp_path)])


def test_other_held_out_images_are_refused(packed):
    with pytest.raises(UserError, match="--heldout_fraction"):
        load(packed.parent, "--heldout_fraction", "0.1")


@pytest.mark.parametrize("damage", ["cut", "pickled", "missing", "stack"])
def test_a_damaged_pack_is_bad_input(damage, packed, tmp_path):
    path = tmp_path / packed.name
    if damage == "cut":
        path.write_bytes(packed.read_bytes()[:-400])
    else:
        with np.load(packed) as file:
            arrays = dict(file)
        if damage == "pickled":
            arrays["class_names"] = np.array([{}], dtype=object)
        elif damage == "missing":
            del arrays["test_bytes"]
        else:
            arrays["train_bytes"] = arrays["train_bytes"][::-1]
        np.savez(path, **arrays)
    outcome = call([*SUBSET, "--data_root", tmp_path, "--root_log", tmp_path / "r"])
    assert outcome.status == 2 and "not a readable packed set" in outcome.errors[0]
    assert len(outcome.errors) == 1 and not (tmp_path / "r").exists()


def test_a_pack_beyond_memory_is_not_called_damaged(packed, monkeypatch):
    def allocate(*_, **__):
        raise MemoryError

    monkeypatch.setattr(np, "load", allocate)
    with pytest.raises(RunError, match="the images do not fit into memory"):
        load(packed.parent)


def test_the_command_names_what_it_cannot_do(tmp_path, monkeypatch, capsys):
    argv = ["datasets.pack", "--dataset", "digits", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", argv)
    assert run_program("datasets.pack", main) == 2 and not list(tmp_path.iterdir())
    assert capsys.readouterr().err == (
        "datasets.pack: error: --dataset digits cannot be packed; cifar10 and cifar100 can\n"
    )


def test_the_real_set_packs_below_64_mib(tmp_path):
    tree = REPOSITORY / "data" / "cifar100" / "train"
    if not tree.exists():
        pytest.skip("no CIFAR-100 below data")
    flags = ["--dataset", "cifar100", "--data_root", str(REPOSITORY / "data")]
    path = pack([*flags, "--output", str(tmp_path)])
    assert path.stat().st_size < 64 * 2**20
    whole = load_data(parse_options([*flags[:3], str(REPOSITORY / "data")]))
    assert_same(load_data(parse_options([*flags[:3], str(tmp_path)])), whole)

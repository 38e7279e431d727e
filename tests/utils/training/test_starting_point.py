"""Whether the images of a checkpoint suit those of the run that starts from it."""

import json
from pathlib import Path

import pytest

from datasets import load_data
from tests.support.own_images import write_folder
from tests.support.pictures import options
from utils.errors import UserError
from utils.training.starting_point import check_not_trained_on, warn_of_other_data

IN_MEMORY, STREAMED = ("--stream", "False"), ("--stream", "True", "-j", 0)
HELD_OUT = ("--heldout_fraction", 0.25)
WARNS = "was trained on images that this holds out"


@pytest.fixture
def load(tmp_path):
    """Gives `load(*flags)`: options on a tree without held-out images, and their data."""
    tree = write_folder(tmp_path / "own", counts=(12, 10, 4))

    def of(*flags):
        roots = ("--root_model", tmp_path / "models", "--root_log", tmp_path / "logs")
        found = options("--dataset", "folder", "--data_root", tree, *roots, *flags)
        return found, load_data(found)

    return of


def checkpoint_of(made, data):
    """What a checkpoint records of the data that it was trained on."""
    return {
        "class_counts": data.class_counts,
        "fingerprint": data.fingerprint,
        "data": data.description(),
        "heldout_fraction": made.heldout_fraction,
        "rand_number": made.rand_number,
    }


@pytest.mark.parametrize(
    ("trained", "given", "says"),
    [
        (STREAMED, (*IN_MEMORY, *HELD_OUT), "with --heldout_fraction 0)"),
        (IN_MEMORY, (*STREAMED, *HELD_OUT), "with --heldout_fraction 0)"),
        (HELD_OUT, (*HELD_OUT, "--rand_number", 1), "0.25 --rand_number 0)"),
        (HELD_OUT, ("--heldout_fraction", 0.5), "with --heldout_fraction 0.25)"),
    ],
    ids=["streamed before", "streamed now", "another seed", "a larger part"],
)
def test_images_that_a_checkpoint_was_trained_on_are_not_held_out(trained, given, says, load):
    start = checkpoint_of(*load(*trained))
    with pytest.raises(UserError, match=WARNS) as error:
        check_not_trained_on(*checked(load(*given), start))
    assert says in str(error.value)


def checked(now, start, path=Path("ckpt.best.pth.tar")):
    made, data = now
    return made, start, path, data


@pytest.mark.parametrize("given", [(), HELD_OUT, ("--heldout_fraction", 0.1)])
def test_a_smaller_part_of_the_same_seed_may_be_held_out(given, load):
    check_not_trained_on(*checked(load(*given), checkpoint_of(*load(*HELD_OUT))))


def test_a_record_that_contradicts_the_data_is_of_other_images(load):
    """A teacher need not have the test images of its student."""
    start = checkpoint_of(*load())
    start["data"]["class_names"] = ["x", "y", "z"]
    check_not_trained_on(*checked(load(*HELD_OUT), start))


def test_an_earlier_checkpoints_flags_are_those_of_its_records(load, tmp_path):
    """They may be below `--root_log`."""
    start = checkpoint_of(*load(*HELD_OUT))
    (tmp_path / "logs" / "run").mkdir(parents=True)
    record = {name: start.pop(name) for name in ("heldout_fraction", "rand_number")}
    (tmp_path / "logs" / "run" / "args.json").write_text(json.dumps(record))
    path = tmp_path / "models" / "run" / "ckpt.best.pth.tar"
    with pytest.raises(UserError, match=WARNS):
        check_not_trained_on(*checked(load("--heldout_fraction", 0.5), start, path))


def test_streamed_images_are_not_said_to_be_others_than_those_in_memory(load, capsys):
    _, now = load(*IN_MEMORY)
    start = checkpoint_of(*load(*STREAMED))
    warn_of_other_data(start, Path("ckpt.best.pth.tar"), now)
    assert capsys.readouterr().err == ""
    warn_of_other_data(start | {"class_counts": [1, 1, 1]}, Path("ckpt.best.pth.tar"), now)
    assert "another subset (other class counts)" in capsys.readouterr().err

"""Any flags and any bytes give a result that is checked, or one clear refusal."""

import io
import os
import pickle
import zipfile
from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.bad_input.checkpoints import Hostile
from utils.errors import UserError
from utils.options.flags import (
    ARCHITECTURES,
    CLASSIFICATION_LOSSES,
    DATASETS,
    FEATURE_LOSSES,
    Options,
)
from utils.options.parse import build_parser, parse_options
from utils.runs import checkpoint

fuzz = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=400,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

FLAGS = [name for a in build_parser()._actions if a.dest != "help" for name in a.option_strings]
WORDS = [
    *("True", "False", "None", "none", "nan", "inf", "-inf", "-0.0", "1e400", "1e-400", "0", "1"),
    *(
        "-1",
        "0.5",
        "1_000",
        "0x10",
        "²",
        "٣",
        "9" * 400,
        "9" * 5000,
        "",
        " ",
        "--",
        "-",
        "\n",
        "\0",
    ),
    *("\ud800", "CE", "LDAM", "ce,robust_loss", "robust_loss_lt", "resample,4", "resample,", "x"),
    *("learned", "exp", "cifar100", "resnet32", "heldout", "last", "bf16", "autoaugment"),
]
RIGHT = [
    *(["--resume"], ["--lr", "0.5"], ["--epochs", "50"]),
    *(["-b", "7"], ["--seed=3"], ["--wd", "0"]),
]
"""Flags that are right: without these, 7 of 400 command lines are taken."""

values = st.one_of(
    st.sampled_from(WORDS),
    st.floats().map(str),
    st.integers().map(str),
    st.text(max_size=12),
)
pieces = st.one_of(
    *map(st.just, RIGHT),
    st.tuples(st.sampled_from(FLAGS), values).map(list),
    st.tuples(st.sampled_from(FLAGS), values).map(lambda pair: [f"{pair[0]}={pair[1]}"]),
    st.sampled_from(FLAGS).map(lambda name: [name]),
    st.sampled_from(FLAGS).map(lambda name: [name[:-1]]),
    values.map(lambda value: [value]),
)
command_lines = st.lists(pieces, max_size=6).map(lambda parts: list(chain(*parts)))


def assert_consistent(options: Options) -> None:
    """Asserts all bounds of the interface."""
    finite = torch.isfinite
    rates = (options.lr, options.feat_lr, options.cls_lr, options.weight_decay, options.margin)
    assert all(rate >= 0 and finite(torch.tensor(rate, dtype=torch.float64)) for rate in rates)
    assert 0 <= options.momentum < 1
    assert 0 < options.temperature < float("inf")
    assert 0 < options.imb_factor <= 1
    assert 0 <= options.heldout_fraction < 1
    assert options.batch_size >= 1
    assert options.print_freq >= 1
    assert options.checkpoint_every >= 1
    assert options.workers >= 0
    assert 0 <= options.start_epoch <= options.epochs
    assert options.seed is None or 0 <= options.seed < 2**32
    assert options.gpu in (None, "cpu") or options.gpu >= 0
    assert options.dataset in DATASETS
    assert options.arch in ARCHITECTURES
    assert options.augment in ("none", "crop_flip", "autoaugment")
    assert options.select_on in ("test", "heldout", "last")
    flags = (options.resume, options.overwrite, options.evaluation, options.as_released)
    assert all(type(flag) is bool for flag in flags)
    assert not (options.resume and options.overwrite)
    assert "/" not in options.exp_str
    assert options.stage == (1 if options.pretrained is None else 2)
    for sampler in (options.feature_sampler, options.classifier_sampler):
        assert sampler.samples_per_class is None or sampler.samples_per_class >= 1
    for text, known in (
        (options.feat_loss, FEATURE_LOSSES),
        (options.cls_loss, CLASSIFICATION_LOSSES),
    ):
        assert text is None or set(text.split(",")) <= set(known)
    if options.stage == 1:
        assert options.feat_loss is None
        assert options.cls_loss is None
    else:
        assert 0 <= options.balanced_clf_nepochs <= options.epochs
        assert options.feat_loss or options.feature_epochs == 0
        assert options.cls_loss or options.balanced_clf_nepochs == 0


STAGE_2 = [
    *("--pretrained", "x", "--epochs", "3", "--balanced_clf_nepochs", "1"),
    *("--feat_loss", "ce,robust_loss", "--cls_loss", "ce"),
]


def parse(argv: list[str]) -> bool:
    """Returns True if the command line is taken, and False if it is refused in words."""
    try:
        options = parse_options(argv)
    except UserError as error:
        assert str(error).strip()
    except SystemExit as end:
        # Only a request for help ends here, with success.
        assert end.code == 0
        assert {"-h", "--help"} & set(argv)
    else:
        assert_consistent(options)
        return True
    return False


def test_random_flags_give_consistent_options_or_a_refusal():
    taken = []

    @fuzz
    @given(command_lines)
    @example(["--epochs", "9" * 400])
    @example(["--seed", "9" * 400])
    @example(["--feat_sampler", "resample," + "9" * 5000])
    def look(argv):
        taken.append(parse(argv))

    look()
    assert sum(taken) >= 20 and not all(taken)


def test_random_flags_of_stage_2_give_consistent_options_or_a_refusal():
    taken = []

    @fuzz
    @given(command_lines)
    def look(argv):
        taken.append(parse([*STAGE_2, *argv]))

    look()
    assert sum(taken) >= 20 and not all(taken)


@fuzz
@given(
    st.fixed_dictionaries(
        {
            "--lr": st.floats(0, 1e30),
            "--momentum": st.floats(0, 1, exclude_max=True),
            "--wd": st.floats(0, 1e30),
            "--temperature": st.floats(0, 1e30, exclude_min=True),
            "--margin": st.floats(0, 1e30),
            "--imb_factor": st.floats(0, 1, exclude_min=True),
            "--batch-size": st.integers(1, 2**31),
            "--epochs": st.integers(20, 10**6),
            "--seed": st.integers(0, 2**32 - 1),
        }
    )
)
def test_flags_within_their_bounds_are_taken_as_given(flags):
    names = {"--wd": "weight_decay"}
    options = parse_options([f"{flag}={value}" for flag, value in flags.items()])
    for flag, value in flags.items():
        name = names.get(flag, flag.strip("-").replace("-", "_"))
        assert getattr(options, name) == value


def serialised(content: object, **how: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


def good_checkpoint() -> dict:
    weights = {"module.linear.weight": torch.arange(12.0).reshape(3, 4), "module.b": torch.zeros(3)}
    return {"epoch": 7, "arch": "resnet8", "state_dict": weights, "best_acc1": 12.5}


GOOD = {
    "zip": serialised(good_checkpoint()),
    "legacy": serialised(good_checkpoint(), _use_new_zipfile_serialization=False),
    "hostile zip": serialised(good_checkpoint() | {"epoch": Hostile()}),
    "hostile legacy": serialised(
        good_checkpoint() | {"epoch": Hostile()}, _use_new_zipfile_serialization=False
    ),
    "hostile pickle": pickle.dumps(good_checkpoint() | {"epoch": Hostile()}, protocol=2),
}


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "ckpt.pth.tar"


def read(path: Path, content: bytes) -> dict | None:
    """Returns the checkpoint of these bytes, or None if it is refused in one line. Code in it never
    runs, and the file does not change."""
    path.write_bytes(content)
    try:
        loaded = checkpoint.load(path)
    except UserError as error:
        assert "ckpt.pth.tar" in str(error)
        loaded = None
    assert os.listdir(path.parent) == [path.name]
    assert path.read_bytes() == content
    if loaded is not None:
        assert isinstance(loaded, dict)
        assert isinstance(loaded["state_dict"], dict)
        assert all(type(name) is str for name in loaded["state_dict"])
        assert all(isinstance(w, torch.Tensor) for w in loaded["state_dict"].values())
    return loaded


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_an_undamaged_checkpoint_loads(form, path):
    loaded = read(path, GOOD[form])
    assert loaded["epoch"] == 7
    assert set(loaded["state_dict"]) == {"linear.weight", "b"}
    assert torch.equal(loaded["state_dict"]["linear.weight"], torch.arange(12.0).reshape(3, 4))


@pytest.mark.parametrize("form", [form for form in GOOD if form.startswith("hostile")])
def test_a_checkpoint_with_code_in_it_is_refused(form, path):
    assert read(path, GOOD[form]) is None


damages = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.integers(0, 10**6), st.integers(1, 255)),
        st.tuples(st.just("cut"), st.integers(0, 10**6), st.just(0)),
        st.tuples(st.just("remove"), st.integers(0, 10**6), st.integers(1, 64)),
        st.tuples(st.just("insert"), st.integers(0, 10**6), st.binary(min_size=1, max_size=16)),
        st.tuples(st.just("blank"), st.integers(0, 10**6), st.integers(1, 512)),
    ),
    min_size=1,
    max_size=4,
)


def damaged(content: bytes, steps: list[tuple]) -> bytes:
    data = bytearray(content)
    for kind, where, how in steps:
        at = where % (len(data) + 1)
        if kind == "flip" and data:
            data[at % len(data)] ^= how
        elif kind == "cut":
            del data[at:]
        elif kind == "remove":
            del data[at : at + how]
        elif kind == "insert":
            data[at:at] = how
        elif kind == "blank":
            end = min(at + how, len(data))
            data[at:end] = bytes(end - at)
    return bytes(data)


@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_are_refused_or_give_a_checkpoint_and_never_run(path):
    taken = []

    @fuzz
    @given(st.sampled_from(sorted(GOOD)), damages)
    def look(form, steps):
        taken.append(read(path, damaged(GOOD[form], steps)) is not None)

    look()
    assert any(taken) and not all(taken)


def test_a_single_flipped_bit_never_changes_a_weight_unnoticed(path):
    expected, taken = good_checkpoint(), []
    weights = {n.removeprefix("module."): w for n, w in expected["state_dict"].items()}

    @settings(fuzz, max_examples=200)
    @given(st.integers(0, len(GOOD["zip"]) - 1), st.integers(0, 7))
    def look(position, bit):
        content = bytearray(GOOD["zip"])
        content[position] ^= 1 << bit
        loaded = read(path, bytes(content))
        taken.append(loaded is not None)
        if loaded is not None:
            assert loaded["epoch"] == 7
            assert set(loaded["state_dict"]) == set(weights)
            for name, weight in weights.items():
                assert torch.equal(loaded["state_dict"][name], weight)

    look()
    assert any(taken) and not all(taken)


@fuzz
@given(st.binary(max_size=300))
@example(b"")
@example(b"PK\x03\x04")
@example(b"\x80\x02.")
@example(pickle.dumps(None))
def test_random_bytes_are_refused(path, content):
    assert read(path, content) is None


def with_member(name: str, replace: bytes) -> bytes:
    """Returns the good archive with another content of one member, with the right checksum."""
    buffer = io.BytesIO()
    source = zipfile.ZipFile(io.BytesIO(GOOD["zip"]))
    with source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        for member in source.namelist():
            content = replace if member.endswith(name) else source.read(member)
            target.writestr(member, content)
    return buffer.getvalue()


def pickle_of_good() -> bytes:
    with zipfile.ZipFile(io.BytesIO(GOOD["zip"])) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("data.pkl")]
        return archive.read(name)


PICKLE = pickle_of_good()


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_pickle_inside_a_sound_archive_is_refused_or_gives_a_checkpoint(path):
    taken = []

    @fuzz
    @given(damages)
    def look(steps):
        taken.append(read(path, with_member("data.pkl", damaged(PICKLE, steps))) is not None)

    look()
    assert sum(taken) >= 15 and not all(taken)


plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**40), 2**40),
        st.floats(),
        st.text(max_size=5),
        st.just(torch.zeros(2)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=5), st.integers(0, 9)), inner, max_size=3),
    ),
    max_leaves=6,
)


def holds_weights(content: object) -> bool:
    """Returns True if there are tensors by name: under `state_dict`, or without that key in the
    whole file or under another one."""

    def are_weights(part: object) -> bool:
        values = part.values() if isinstance(part, dict) else [None]
        return all(isinstance(value, torch.Tensor) for value in values)

    if not isinstance(content, dict):
        return False
    if "state_dict" in content:
        return are_weights(content["state_dict"])
    parts = [part for part in (content, *content.values()) if isinstance(part, dict) and part]
    return any(map(are_weights, parts))


@settings(fuzz, max_examples=200)
@given(plain, st.booleans())
@example({1: torch.zeros(2)}, True)
@example({"linear.weight": torch.zeros(2)}, False)
def test_any_plain_content_is_refused_or_holds_weights(path, content, is_state):
    content = {"state_dict": content} if is_state else content
    loaded = read(path, serialised(content))
    assert (loaded is not None) == holds_weights(content)

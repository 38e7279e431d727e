"""Bad input of every kind ends with status 2 and one clear line, and leaves the disk as it was."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import pytest

from tests.support.bad_input.cases import CASES, Scene
from tests.support.bad_input.checkpoints import Hostile
from tests.support.helpers import REPOSITORY, call, snapshot


@pytest.fixture(scope="module")
def pretrained_root(finished, tmp_path_factory) -> Path:
    """Gives a root with a finished stage 1, to be copied."""
    root = tmp_path_factory.mktemp("pretrained") / "root"
    return shutil.copytree(finished, root, ignore=shutil.ignore_patterns("robust_*"))


@pytest.fixture
def scene(tmp_path, tree, pretrained_root, monkeypatch) -> Scene:
    monkeypatch.chdir(tmp_path)
    return Scene(tmp_path, tree, pretrained_root)


@pytest.fixture
def offline(monkeypatch) -> None:
    """Makes downloads fail at once, with and without a network."""

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def assert_refused(outcome, says: tuple[str, ...]) -> None:
    assert outcome.status == 2, outcome.err
    (line,) = outcome.errors
    assert line.startswith("main.py: error: ")
    for fragment in says:
        assert fragment in line
    assert "Traceback" not in outcome.out + outcome.err
    assert "usage:" not in outcome.out + outcome.err


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: bad.id)
def test_bad_input_ends_with_status_2_and_one_clear_line_and_changes_nothing(bad, scene, offline):
    argv = bad.argv(scene)
    before = snapshot(scene.tmp), snapshot(scene.tree)

    outcome = call(argv)

    assert_refused(outcome, bad.says)
    assert (snapshot(scene.tmp), snapshot(scene.tree)) == before


def test_what_is_refused_after_the_images_are_read_leaves_their_cache_alone_behind(scene):
    root = scene.own_tree()
    before = snapshot(scene.tmp)
    outcome = call(scene.stage_1("--data_root", root, "--imb_factor", 0.04))
    assert_refused(outcome, ("--imb_factor 0.04",))
    after = snapshot(scene.tmp)
    assert after.items() >= before.items()
    assert after.keys() - before.keys() == {"data/cifar10/decoded-32.npz"}


def in_a_process(argv: list[object], folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, REPOSITORY / "main.py", *map(str, argv)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda scene: ["--lr", "fast"], "'fast' is not a finite number >= 0"),
        (lambda scene: ["--dataset", "mnist"], "'mnist'"),
        (lambda scene: scene.stage_2("--balanced_clf_nepochs", 9), "--epochs 3"),
        (lambda scene: scene.stage_2_from(pickle.dumps(Hostile())), "strange.pth.tar"),
    ],
    ids=["malformed number", "unknown data set", "contradiction", "hostile checkpoint"],
)
def test_a_real_process_refuses_bad_input_likewise(prepare, says, scene):
    argv = prepare(scene)
    before = snapshot(scene.tmp)

    done = in_a_process(argv, scene.tmp)

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("main.py: error: ")
    assert says in line
    assert done.stdout == ""
    assert snapshot(scene.tmp) == before


@pytest.mark.parametrize(
    "argv",
    [
        *(["--lr", "-1"], ["--frobnicate"], ["--pretrained", "x", "--epochs", "3"]),
        ["--dataset", "folder", "--data_root", "/nowhere/no"],
    ],
    ids=["bound", "unknown flag", "contradiction", "no such folder"],
)
def test_bad_flags_and_paths_are_refused_without_importing_torch(argv):
    code = (
        "import sys, main\n"
        f"status = main.main({argv!r})\n"
        "heavy = {'torch', 'numpy', 'torchvision', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "print(status, sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "2 []\n"

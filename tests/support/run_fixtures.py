"""Runs that several test files share; each is made only once."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tests.support.helpers import make_data, stage_1, stage_2, succeed
from tests.support.small_images import images_of_any_side


@pytest.fixture(scope="module")
def small_cifar() -> Iterator[None]:
    """For tests that load `tree` themselves; whole runs need no fixture."""
    with images_of_any_side():
        yield


@pytest.fixture(scope="session")
def tree(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def finished(tree, tmp_path_factory) -> Path:
    """Gives a root with a finished stage 1 of two epochs and in it a finished stage 2 of three.
    Tests must not change it."""
    root = tmp_path_factory.mktemp("finished")
    succeed(stage_1(tree, root))
    succeed(stage_2(tree, root))
    return root


@pytest.fixture
def no_figures(monkeypatch) -> None:
    """Makes runs draw no panels and save an empty picture, because drawing takes longer than
    training here. Only the shared runs are drawn."""

    def savefig(self, file, **_: object) -> None:
        Image.new("RGB", (1, 1)).save(file, "png")

    class WithoutPanels(Figure):
        def subplots(self, *_: object, **__: object) -> np.ndarray:
            return np.array([])

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)
    monkeypatch.setattr("utils.report.run_figure.Figure", WithoutPanels)


@pytest.fixture
def pretrained(finished, tmp_path) -> Path:
    """Gives a root with a copy of only the finished stage 1."""
    root = tmp_path / "root"
    ignored = shutil.ignore_patterns("robust_*", "report.png", "events.*")
    shutil.copytree(finished, root, ignore=ignored)
    return root


@pytest.fixture
def both(finished, tmp_path) -> Path:
    """Gives a root with a copy of both finished stages."""
    root = tmp_path / "root"
    shutil.copytree(finished, root)
    return root

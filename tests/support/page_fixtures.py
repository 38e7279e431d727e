"""The page that compares made-up runs, and how tests read it."""

from dataclasses import astuple
from html.parser import HTMLParser

import pytest

from tests.support.helpers import outcome_of
from tests.support.made_up_runs import write_outputs, write_run
from utils.report import __main__ as command
from utils.report import page


class Reader(HTMLParser):
    """Collects a page's text, the rows of its table, and its tags with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        self.words.append(data)
        if self.rows and self.rows[-1] and self.tags[-1][0] in ("td", "th", "span", "b"):
            self.rows[-1][-1] += data.strip("\n")

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def call(*argv):
    """Runs the command in this process and returns status, standard output and standard error."""
    return astuple(outcome_of(command.main, argv))


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """Gives a function that writes the page of some runs and reads it. Its figures are coarse and
    no PDF files, so that it is quick."""
    monkeypatch.setattr(page, "FIGURE_DPI", 20)
    monkeypatch.setattr(page, "FORMATS", {"png": {}})

    def write(*folders):
        output = tmp_path / "out" / "page.html"
        status, out, err = call(*folders, "--output", output)
        assert (status, out, err) == (0, f"{output}\n", "")
        return Reader(output.read_text())

    return write


@pytest.fixture
def compare_numbers(compare, monkeypatch):
    """Gives the same as `compare`, but the page has no pictures."""
    monkeypatch.setattr(page, "_picture", lambda figure, pictures: "")
    return compare


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """Gives the page of two evaluated seeds of both stages and of an unfinished stage 2."""
    root = tmp_path_factory.mktemp("complete")
    folders = []
    for seed in (0, 1):
        parent = write_run(root / f"stage1_{seed}", seed, base=40.0 + seed, heldout=True)
        child = write_run(parent / "robust", seed, stage=2, base=50.0 + 3 * seed, heldout=True)
        for folder in (parent, child):
            write_outputs(folder)
        folders += [parent, child]
    folders.append(
        write_run(root / "stage1_0" / "other", 5, stage=2, epochs=2, finished=False, margin=0.5)
    )
    output = root / "page.html"
    status, _, err = call(*folders, "--output", output)
    assert (status, err) == (0, "")
    return output

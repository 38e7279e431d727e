"""The figures of one run: report.png."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tests.support.helpers import REPOSITORY
from tests.support.made_up_records import COUNTS, EMPTY_GROUP_COUNTS, record, write_log
from utils.report import figures, run_figure
from utils.report.run_figure import write_report


@pytest.fixture
def drawn(monkeypatch):
    """Gives the titles of the panels that `write_report` drew, and their axes."""
    panels = {}

    class Kept(Figure):
        def savefig(self, *args, **settings):
            panels.clear()
            panels.update({a.get_title(): a for a in self.axes if a.get_title()})
            super().savefig(*args, **settings)

    monkeypatch.setattr(run_figure, "Figure", Kept)
    return panels


@pytest.fixture
def unrendered(monkeypatch):
    """Makes pages be laid out and drawn, but not turned into pixels, which takes a second."""
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **settings: file.write(b"pixels"))


def finished_run(folder, counts=COUNTS, **settings):
    write_log(folder, [record(epoch, counts=counts, **settings) for epoch in range(1, 6)])
    labels = np.repeat(np.arange(6), 10)
    preds = np.where(np.arange(60) % 3 == 0, 0, labels)
    np.savez(folder / "predictions.npz", labels=labels, preds=preds)
    selected = record(4, counts=counts)["results"]["test"]
    return {"epoch": 4, **selected}


def check_png(path, rows):
    """Asserts that the file is a page of three columns with something on it."""
    assert path.name == "report.png"
    with Image.open(path) as image:
        assert image.format == "PNG"
        width, height = image.size
        pixels = np.asarray(image.convert("RGB"))
    assert (width, height) == (1650, pytest.approx(484 * rows, abs=2))
    assert 0.01 < (pixels != 255).any(axis=2).mean() < 0.9
    assert 20_000 < path.stat().st_size < 1_000_000


OKABE_ITO = {
    *("#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"),
}


def test_figures_are_legible_for_colour_blind_readers_and_without_colour():
    assert {*figures.PALETTE, *figures.COLOURS.values(), figures.NCM_COLOUR} <= OKABE_ITO
    for by_group in (figures.COLOURS, figures.LINES, figures.MARKERS):
        assert len(set(by_group.values())) == len(by_group)
    for number in range(len(figures.PALETTE)):
        a, b = figures._style(number), figures._style(number + 1)
        assert all(a[key] != b[key] for key in ("color", "linestyle", "marker"))


@pytest.mark.parametrize("page", ["report/templates/page.html.jinja", "predict/page.html"])
def test_pages_have_rules_for_print(page):
    assert "@media print" in (REPOSITORY / "utils" / page).read_text()


TRAINING = {"Losses", "Accuracy on the test set"}
BY_SIZE = "Accuracy of each class against its size"
MARGINS = {"Margins: mean and range of each group", "Margins against class size, epoch 5"}
CONFUSION = "Confusion on the test set, classes by size"


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_report_of_a_finished_run_shows_everything(tmp_path, drawn):
    selected = finished_run(tmp_path)
    path = write_report(tmp_path, COUNTS, selected)
    check_png(path, rows=2)
    assert drawn.keys() == {*TRAINING, BY_SIZE, *MARGINS, CONFUSION}
    assert legend_of(drawn["Losses"]) == [
        "train ce_lt",
        "train robust_loss",
        "train ce",
        "test cross-entropy",
    ]
    assert legend_of(drawn[BY_SIZE]) == ["many (2)", "medium (2)", "few (2)"]
    robust = drawn["Losses"].get_lines()[1]
    np.testing.assert_allclose(robust.get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(robust.get_ydata(), [2, 1, 2 / 3])
    test = drawn["Losses"].get_lines()[3]
    np.testing.assert_allclose(test.get_ydata(), [2 / epoch for epoch in range(1, 6)])
    lines = drawn["Accuracy on the test set"].get_lines()
    accuracies = {line.get_label(): line.get_ydata() for line in lines}
    firsts = {"linear, all": 31, "linear, many": 41, "linear, medium": 31.5, "linear, few": 21}
    for label, first in (firsts | {"NCM, all": 32}).items():
        np.testing.assert_allclose(accuracies[label], first + np.arange(5))
    many = drawn[BY_SIZE].collections[0].get_offsets()
    np.testing.assert_allclose(many, [[150, 44], [120, 41]])  # of the selected epoch, 4
    few = drawn["Margins: mean and range of each group"].get_lines()[2]
    expected = [np.mean(record(epoch)["margins"][4:]) for epoch in range(1, 6)]
    np.testing.assert_allclose(few.get_ydata(), expected)
    shares = drawn[CONFUSION].images[0].get_array()
    assert shares.shape == (6, 6)
    np.testing.assert_allclose(shares.sum(axis=1), 100)
    np.testing.assert_allclose(shares[0, 0], 100)
    assert shares[1, 0] + shares[1, 1] == pytest.approx(100)


def test_the_confusion_matrix_is_ordered_by_class_size(tmp_path, drawn, unrendered):
    selected = finished_run(tmp_path, counts=COUNTS[::-1])
    write_report(tmp_path, COUNTS[::-1], selected)
    shares = drawn[CONFUSION].images[0].get_array()
    assert shares[5, 5] == 100  # class 0, the smallest here, is always right
    assert (shares[:5, 5] > 0).all()


def test_neighbours_by_size_share_a_cell_of_a_large_confusion_matrix():
    """Of 450 classes, a cell has two or three. Class 0 is the smallest; it is always right."""
    axes, counts = Figure().subplots(), np.arange(450)
    labels = np.repeat(np.arange(450), 2)
    preds = np.where(labels < 3, labels, 449 - labels)
    figures.confusion(axes, labels, preds, counts, [""] * 450)
    shares = np.asarray(axes.images[0].get_array())
    assert shares.shape == (200, 200)
    np.testing.assert_allclose(shares.sum(axis=1), 100)
    assert shares[199, 199] == 100
    assert shares[0, 199] == pytest.approx(200 / 3)  # classes 449 to 447, taken for 0 to 2
    assert axes.get_title() == "Confusion on the test set, 200 groups by size"


def test_few_classes_are_named(tmp_path, drawn, unrendered):
    selected = finished_run(tmp_path, counts=COUNTS[::-1])
    names = ["cat $1", "\u732b", "\u0642\u0637", "ant"]  # the second is Chinese, the third Arabic
    names += ["housing_front_left_scratch", "housing_front_right_scratch"]
    (tmp_path / "args.json").write_text(json.dumps({"data": {"class_names": names}}))
    write_report(tmp_path, COUNTS[::-1], selected)
    axes = drawn[CONFUSION]
    ticks = [
        [tick.get_text() for tick in labels]
        for labels in (axes.get_xticklabels(), axes.get_yticklabels())
    ]
    assert ticks[0] == ticks[1]
    # The largest class is first. What the font cannot show, or shows in a wrong order, is a number.
    assert ticks[0] == [
        *("5 housin…t_scratch", "4 housin…t_scratch", "ant", "2", "1", r"cat \$1"),
    ]


def test_the_report_of_a_run_without_margins_has_no_margins(tmp_path, drawn):
    selected = finished_run(tmp_path, margins=False)
    check_png(write_report(tmp_path, COUNTS, selected), rows=2)
    assert drawn.keys() == {*TRAINING, BY_SIZE, CONFUSION}


def test_the_report_of_a_run_with_an_empty_group_leaves_it_out(tmp_path, drawn):
    counts = EMPTY_GROUP_COUNTS
    selected = finished_run(tmp_path, counts=counts)
    check_png(write_report(tmp_path, counts, selected), rows=2)
    assert legend_of(drawn[BY_SIZE]) == ["many (2)", "medium (4)"]
    accuracies = legend_of(drawn["Accuracy on the test set"])
    assert accuracies == ["linear, all", "linear, many", "linear, medium", "NCM, all"]
    assert legend_of(drawn["Margins: mean and range of each group"]) == ["many", "medium"]


def test_the_report_of_a_class_without_test_images_leaves_it_out(tmp_path, drawn, unrendered):
    selected = finished_run(tmp_path)
    selected["linear"]["per_class"][0] = None
    write_report(tmp_path, COUNTS, selected)
    points = drawn[BY_SIZE].collections[0].get_offsets()
    assert np.isnan(np.ma.filled(points, np.nan)[0, 1]) and points[1, 1] == 41


def test_the_report_of_a_run_without_epochs_shows_what_was_tested(tmp_path, drawn):
    """`--epochs 0` trains nothing, but tests the network."""
    selected = finished_run(tmp_path)
    (tmp_path / "log.jsonl").write_text("")
    check_png(write_report(tmp_path, COUNTS, selected), rows=1)
    assert drawn.keys() == {BY_SIZE, CONFUSION}


def test_the_same_records_give_the_same_report(tmp_path):
    selected = finished_run(tmp_path)
    first = write_report(tmp_path, COUNTS, selected).read_bytes()
    assert write_report(tmp_path, COUNTS, selected).read_bytes() == first

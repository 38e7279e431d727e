"""The page that compares runs, from made-up files: `python -m utils.report RUN ...`."""

import base64
import errno
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tests.support.browser import CHROMIUM, browse
from tests.support.helpers import REPOSITORY
from tests.support.made_up_runs import COUNTS, write_outputs, write_run
from tests.support.page_fixtures import Reader, call
from utils.evaluation.calibration import expected_calibration_error, reliability_bins
from utils.report import figures, output_sections, sections
from utils.report.page import TITLE
from utils.report.run_groups import class_counts, group_runs
from utils.runs.records import MissingRecord, read_run


def test_the_complete_page_has_every_figure_inside_and_as_a_file(complete):
    shown = Reader(complete.read_text())
    pictures = complete.with_name("page_figures")
    curves = {"linear", "ncm", "test_loss", "train_loss_1", "train_loss_2", "train_loss_3"}
    of_group = {
        "A": {"accuracy_by_size", "reliability", "confusion"},
        "B": {
            *("accuracy_by_size", "reliability", "confusion", "margins_over_time"),
            *("margins_by_size", "features_before_stage_2", "features_after_stage_2"),
        },
        "C": {"accuracy_by_size", "margins_over_time", "margins_by_size"},
    }
    expected = curves | {f"{group}_{name}" for group, names in of_group.items() for name in names}
    assert {path.stem for path in pictures.iterdir()} == expected
    assert {attributes["id"] for attributes in shown.all("figure")} == expected
    ids = [attributes["id"] for attributes in shown.all("figure")]
    for name, image in zip(ids, shown.all("img"), strict=True):
        kind, data = image["src"].split(",")
        assert kind == "data:image/png;base64"
        content = base64.b64decode(data)
        assert content == (pictures / f"{name}.png").read_bytes()
        assert (pictures / f"{name}.pdf").read_bytes().startswith(b"%PDF-")
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.size == (int(image["width"]), int(image["height"]))
            pixels = np.asarray(picture.convert("RGB"))
        assert 0.005 < (pixels != 255).any(axis=2).mean() < 0.95, name
        assert len(image["alt"]) > 20


def test_the_page_is_self_contained(complete):
    text = complete.read_text()
    assert TITLE in text[:1000]  # so another page may replace it
    shown = Reader(text)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in shown.tags}
    for _, attributes in shown.tags:
        for name in ("src", "href", "srcset", "action"):
            assert re.match(r"data:image/png;base64,|#[a-z]+$|$", attributes.get(name) or "")
    assert "url(" not in text and "@import" not in text
    targets = {a["href"][1:] for a in shown.all("a")}
    assert targets <= {attributes.get("id") for _, attributes in shown.tags}
    assert "Comparison of 5 long-tail runs" in re.search(r"<title>(.*)</title>", text)[1]
    assert len(shown.all("h1")) == 1 and len(shown.all("h2")) == 8
    assert len(shown.all("caption")) == 1


def test_figures_of_an_earlier_page_are_removed_and_other_files_stay(tmp_path, compare):
    compare(write_run(tmp_path / "a"), write_run(tmp_path / "b", lr=0.5))
    pictures = tmp_path / "out" / "page_figures"
    assert (pictures / "B_accuracy_by_size.png").exists()
    for name in ("B_margins_over_time.pdf", "mine.pdf", "B_accuracy_by_size.tex"):
        (pictures / name).write_text("")
    shown = compare(tmp_path / "a")
    drawn = {f"{figure['id']}.png" for figure in shown.all("figure")}
    assert {path.name for path in pictures.iterdir()} == drawn | {
        *("mine.pdf", "B_accuracy_by_size.tex")
    }


def test_what_is_missing_is_explained_with_what_to_run(tmp_path, compare):
    parent = write_run(tmp_path / "stage1")
    child = write_run(parent / "robust", stage=2)
    evaluate = "there is no outputs_test.npz; run its command (listed under Runs) with --eval"
    write_outputs(child)
    shown = compare(parent, child)
    assert shown.text.count(f"Left out for A (stage 1): {evaluate}") == 2
    assert "Left out for A (stage 1): there is no predictions.npz; continue it" in shown.text
    assert "Left out for A (stage 1): no epoch of it has the robust loss; train a" in shown.text
    assert "python main.py --seed 0" in shown.text
    assert "the features before stage 2, because of its stage 1 there is no" in shown.text
    assert "B_features_after_stage_2" in {figure["id"] for figure in shown.all("figure")}


def test_classes_have_their_names(tmp_path, compare):
    names = [*"abcdef", "<b>$x"]
    folder = write_run(tmp_path / "run", data={"class_names": names})
    write_outputs(folder)
    shown = compare(folder)
    # Every fourth image of a class, 3 of 12, is taken for the first class.
    text = "; ".join(f"{name} for a, 25 % (3 of 12)" for name in names[1:])
    assert f"A (stage 1, seed 0). Most often mistaken: {text}." in shown.text
    clouds = output_sections._clouds(read_run(folder))
    assert [cloud.name for cloud in clouds] == [
        *("a (150)", "b (110)", "c (60)", "e (19)", "f (8)", r"<b>\$x (4)"),
    ]


def test_the_most_mistaken_classes_have_test_images_enough():
    labels = np.repeat([0, 1, 2], [4, 5, 10])
    names = ["few", "five", "ten"]
    preds = np.where(np.arange(19) % 2, 0, labels)
    text = output_sections._most_mistaken(labels, preds, names)
    assert text == "Most often mistaken: ten for few, 50 % (5 of 10); five for few, 40 % (2 of 5)."
    assert output_sections._most_mistaken(labels, labels, names) == ""


def test_evaluation_without_confidences_or_with_damaged_files_is_explained(tmp_path, compare):
    folder = write_run(tmp_path / "run")
    write_outputs(folder, with_confs=False)
    (folder / "predictions.npz").write_bytes(b"PK\x03\x04 cut off")
    (folder / "outputs_train.npz").write_bytes(b"")
    shown = compare(folder)
    assert "outputs_test.npz has no array confs; run its command" in shown.text
    # Evaluation has left the same predictions; without training features there are no centroids.
    names = {figure["id"] for figure in shown.all("figure")}
    assert {"A_confusion", "A_features_of_stage_1"} <= names
    assert "Without centroids" in shown.text


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": np.array([0, 1, None], dtype=object)}, "cannot be read"),
        ({"labels": np.zeros((2, 2), int)}, "wrong shape"),
        ({"labels": np.array([0.5, 1])}, "wrong type"),
        ({"labels": np.array([-1, 1])}, "out of range"),
        ({"labels": np.array([], int)}, "wrong shape"),
        ({"preds": np.array([1])}, "has no array labels"),
    ],
)
def test_arrays_that_cannot_be_what_they_should_are_refused(tmp_path, arrays, message):
    folder = write_run(tmp_path / "run")
    np.savez(folder / "predictions.npz", **arrays)
    with pytest.raises(MissingRecord, match=message):
        read_run(folder).arrays("predictions.npz", ["labels"])


@pytest.mark.parametrize("place", ["data", "method"])
def test_a_damaged_byte_makes_an_array_unreadable(place, tmp_path):
    folder = write_run(tmp_path / "run")
    path = folder / "predictions.npz"
    np.savez_compressed(path, labels=np.arange(1000) % 7)
    content = bytearray(path.read_bytes())
    # Behind the name and its 20 bytes of sizes; of the entry in the table at the end.
    places = {"data": content.index(b".npy") + 24, "method": content.index(b"PK\1\2") + 10}
    content[places[place]] = 255
    path.write_bytes(content)
    with pytest.raises(MissingRecord, match="cannot be read"):
        read_run(folder).arrays("predictions.npz", ["labels"])


def test_class_sizes_are_in_the_options_or_in_the_summary(tmp_path):
    """Early versions did not record them with the options."""

    def without_them(run):
        others = {name: v for name, v in run.arguments.items() if name != "class_counts"}
        return replace(run, arguments=others)

    finished = read_run(write_run(tmp_path / "a"))
    unfinished = read_run(write_run(tmp_path / "b", epochs=1, finished=False))
    assert class_counts(unfinished).tolist() == COUNTS
    assert class_counts(without_them(finished)).tolist() == COUNTS
    with pytest.raises(MissingRecord, match="class sizes"):
        class_counts(without_them(unfinished))


def test_margins_are_those_of_the_epoch_that_is_shown(tmp_path):
    finished = read_run(write_run(tmp_path / "a" / "robust", stage=2))
    assert finished.margin_record["epoch"] == 3
    unfinished = read_run(write_run(tmp_path / "b" / "robust", stage=2, epochs=2, finished=False))
    assert unfinished.margin_record["epoch"] == 2
    assert read_run(write_run(tmp_path / "c")).margin_record is None


def test_margins_that_no_loss_reads_are_not_shown(tmp_path, compare_numbers):
    """Earlier versions recorded them for every stage 2."""
    control = read_run(write_run(tmp_path / "a" / "robust", stage=2, feat_loss="ce_lt"))
    assert control.epochs[0]["margins"] and control.margin_record is None
    alone = {"feat_loss": "ce_lt,robust_loss", "balanced_clf_nepochs": 4}
    classifier = read_run(write_run(tmp_path / "b" / "robust", stage=2, **alone))
    assert classifier.margin_record is None
    shown = compare_numbers(control.folder, write_run(tmp_path / "joint", robust_weight=0.5))
    names = {figure["id"] for figure in shown.all("figure")}
    assert {name for name in names if "margins" in name} == {
        *("B_margins_over_time", "B_margins_by_size")
    }


@pytest.mark.parametrize(
    ("flags", "has_circles"),
    [
        ({"robust_distance": "squared"}, True),
        ({"robust_distance": "normalised"}, False),
        ({"feat_layers": "layer3,layer2"}, False),
    ],
)
def test_only_margins_of_the_features_in_the_map_are_radii(flags, has_circles, tmp_path):
    folder = write_run(tmp_path / "start" / "robust", stage=2, **flags)
    write_outputs(folder)
    radii = [cloud.margin for cloud in output_sections._clouds(read_run(folder))]
    assert all((radius is not None) == has_circles for radius in radii)


def test_centroids_and_radii_of_a_map_are_those_of_its_classes(tmp_path):
    folder = write_run(tmp_path / "start" / "robust", stage=2)
    write_outputs(folder)
    run = read_run(folder)
    clouds, largest_and_smallest = output_sections._clouds(run), (0, 1, 2, 4, 5, 6)
    margins = run.margin_record["margins"]
    assert [cloud.margin for cloud in clouds] == [margins[label] for label in largest_and_smallest]
    train = run.arrays("outputs_train.npz", ["feats", "labels"])
    for cloud, label in zip(clouds, largest_and_smallest, strict=True):
        mean = train["feats"][train["labels"] == label].mean(axis=0)
        np.testing.assert_allclose(cloud.centroid, mean, atol=1e-6)


def test_a_run_of_another_stage_2_is_no_parent(tmp_path):
    outer = write_run(tmp_path / "outer", stage=2)
    assert read_run(write_run(outer / "inner", stage=2)).parent is None


def test_calibration_by_hand():
    confs = np.array([1 / 15, 0.1, 0.5, 0.52, 1.0])
    correct = np.array([True, False, True, False, True])
    shares, confidence, accuracy = reliability_bins(confs, correct)
    # A bin's upper edge belongs to it: 1/15 is in the first, 1 in the last.
    filled = np.flatnonzero(shares)
    assert filled.tolist() == [0, 1, 7, 14]
    np.testing.assert_allclose(shares[filled], [0.2, 0.2, 0.4, 0.2])
    np.testing.assert_allclose(confidence[filled], [1 / 15, 0.1, 0.51, 1])
    np.testing.assert_allclose(accuracy[filled], [1, 0, 0.5, 1])
    expected = (14 / 15 + 0.1 + 2 * 0.01 + 0) / 5
    assert expected_calibration_error(confs, correct) == pytest.approx(expected)


def test_reliability_compares_predictions_with_labels_and_accuracy_with_confidence(tmp_path):
    folder = write_run(tmp_path / "run")
    arrays = {"labels": [0, 0, 0, 0], "preds": [0, 0, 0, 1], "confs": [0.95, 0.95, 0.95, 0.55]}
    np.savez(folder / "outputs_test.npz", **arrays)
    [figure] = output_sections.reliability(group_runs([read_run(folder)])).figures
    assert figure.caption.endswith("Expected calibration error: 17.50 % (seed 0).")
    axes = Figure().subplots()
    figure.draw(axes)
    _, line = axes.get_lines()
    accuracy = dict(zip(line.get_xdata().round(2), line.get_ydata(), strict=True))
    assert (accuracy[0.95], accuracy[0.55]) == (100, 0)


def test_the_map_shows_centroids_with_circles_of_their_margins():
    generator = np.random.default_rng(0)
    clouds = [
        figures.ClassCloud(f"class {k}", generator.normal(0, 1, (9, 5)), np.full(5, k), margin)
        for k, margin in enumerate((0.5, 2.0, -0.1, None))
    ]
    canvas = Figure(layout="constrained")
    axes = canvas.subplots()
    figures.feature_map(axes, clouds, "Map")
    canvas.draw_without_rendering()
    assert [circle.radius for circle in axes.patches] == [0.5, 2.0]
    assert axes.get_aspect() == 1
    for circle in axes.patches:
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        x, y = circle.center
        assert left < x - circle.radius and x + circle.radius < right
        assert bottom < y - circle.radius and y + circle.radius < top


def test_each_curve_has_the_numbers_of_its_log(tmp_path):
    run = read_run(write_run(tmp_path / "start" / "robust", stage=2))
    found = {}
    for figure in sections.training_curves(group_runs([run])).figures:
        [curve] = figure.draw.keywords["curves"]
        found[figure.name] = dict(zip(curve.epochs, curve.values, strict=True))
    assert found == {
        "linear": {1: 40, 2: 40, 3: 40, 4: 39},
        "ncm": {1: 45, 2: 45, 3: 45, 4: 44},
        "test_loss": {1: 2, 2: 2, 3: 2, 4: 2},
        "train_loss_1": {1: 1, 2: 0.5},
        "train_loss_2": {1: 5, 2: 2.5},
        "train_loss_3": {3: 1, 4: 1},
    }


def test_figures_show_the_finished_runs_of_a_group_or_their_mean(tmp_path):
    runs = [
        read_run(write_run(tmp_path / "a", 0, epochs=2, finished=False, base=20.0)),
        read_run(write_run(tmp_path / "b", 1, base=40.0)),
        read_run(write_run(tmp_path / "c", 2, base=44.0)),
    ]
    [group] = group_runs(runs)
    assert [run.seed for run in group.by_rank] == [1, 2, 0]
    [figure] = sections.accuracy_by_class([group]).figures
    assert figure.draw.keywords["per_class"] == [52 - 3 * k for k in range(len(COUNTS))]
    assert figure.caption.endswith("selected epoch, mean over 2 runs.")


def test_the_legend_has_one_entry_for_all_runs_of_the_same_settings():
    curves = [
        figures.Curve("A: stage 1", 0, [1, 2], [3, 4]),
        figures.Curve(None, 0, [1, 2], [4, 5]),
        figures.Curve("B: stage 2", 1, [1], [4], is_finished=False),
    ]
    canvas = Figure(layout="constrained")
    axes = canvas.subplots()
    figures.compare(axes, curves, "Losses", "loss")
    (legend,) = canvas.legends
    assert [text.get_text() for text in legend.get_texts()] == ["A: stage 1", "B: stage 2"]
    lines = axes.get_lines()
    assert len(lines) == 4 and lines[3].get_marker() == "x"
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    assert lines[0].get_linestyle() != lines[2].get_linestyle()


def test_text_from_files_is_escaped(tmp_path, compare):
    attack = '<script>alert("1")</script> & $x_$'
    folders = [
        write_run(tmp_path / "a<b>", 0, arch=attack),
        write_run(tmp_path / "b", 1, machine={"command": ["main.py", attack]}),
    ]
    arguments = json.loads((folders[0] / "args.json").read_text())
    (folders[0] / "args.json").write_text(json.dumps(arguments | {"seed": '"><i id=x>'}))
    shown = compare(*folders)
    tags = {tag for tag, _ in shown.tags}
    assert not {"script", "i"} & tags
    assert f"A: stage 1, arch {attack}" in shown.text
    assert str(folders[0]) in shown.text


def check_error(argv, message):
    status, out, err = call(*argv)
    assert (status, out) == (2, "")
    assert err.startswith("report: error: ") and err.count("\n") == 1
    assert message in err


def test_a_folder_that_holds_no_run_is_an_error(tmp_path):
    good = write_run(tmp_path / "good")
    output = tmp_path / "out.html"
    (tmp_path / "empty").mkdir()
    end = ("--output", output)
    check_error([good, tmp_path / "none", *end], f"{tmp_path / 'none'}: no such folder")
    (tmp_path / "link").symlink_to("link")
    check_error([good, tmp_path / "link", *end], f"{tmp_path / 'link'}: no such folder")
    check_error([good, tmp_path / "empty", *end], "not the folder of a run (no args.json")
    check_error([good, good / "args.json", *end], "no such folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "good", "link"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("args.json", "{"),
        ("args.json", "[]"),
        pytest.param("args.json", "[" * 100_000, id="args.json-nested"),
        ("summary.json", "\x00"),
        ("summary.json", "{}"),
        ("summary.json", '{"test": 3, "heldout": null}'),
        ("log.jsonl", "7\n"),
        ("log.jsonl", '{"epoch": 1}\n'),
    ],
)
def test_records_of_another_kind_are_an_error(tmp_path, name, content):
    folder = write_run(tmp_path / "run")
    (folder / name).write_text(content)
    check_error([folder, "--output", tmp_path / "out.html"], str(folder / name))


@pytest.mark.parametrize(
    "changes",
    [
        {"feat_loss": 5},
        {"contents": ["feat_loss"]},
        {"contents": {"pretrained": 5}},
        {"fingerprint": 5},
        {"dataset": "folder", "data": {"evaluation_fingerprints": {"test": 5}}},
    ],
    ids=lambda changes: next(reversed(changes)),
)
def test_settings_of_another_type_are_an_error(tmp_path, changes):
    folder = write_run(tmp_path / "start" / "robust", stage=2, **changes)
    check_error([folder, "--output", tmp_path / "out.html"], f"{folder}: not the records of a run")


@pytest.mark.parametrize(("name", "value"), [("per_class", ["a"] * 4), ("macro_f1", "a")])
def test_accuracies_that_are_no_numbers_are_an_error(tmp_path, name, value):
    path = write_run(tmp_path / "run") / "summary.json"
    summary = json.loads(path.read_text())
    summary["test"]["selected"]["linear"][name] = value
    path.write_text(json.dumps(summary))
    check_error([path.parent, "--output", tmp_path / "out.html"], f"{path}: not a record of a run")


def test_a_last_line_that_was_cut_off_is_ignored(tmp_path, compare_numbers):
    folder = write_run(tmp_path / "run", epochs=2, finished=False)
    with open(folder / "log.jsonl", "a") as file:
        file.write('{"epoch": 3, "pha')
    assert compare_numbers(folder).rows[2][0] == "last epoch so far (2)"


def test_an_output_that_cannot_be_written_is_an_error(tmp_path):
    folder = write_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "taken_figures").write_text("")
    check_error([folder, "--output", tmp_path / "file" / "out.html"], "cannot write")
    check_error([folder, "--output", tmp_path / "folder.html"], "it is a folder")
    check_error([folder, "--output", tmp_path / "taken.html"], "cannot write")
    check_error([folder, "--output", folder / "log.jsonl"], "must end in .html")
    (tmp_path / "mine.html").write_text("<title>Mine</title>")
    check_error([folder, "--output", tmp_path / "mine.html"], "no page of a comparison")
    assert (tmp_path / "mine.html").read_text() == "<title>Mine</title>"
    assert not list(tmp_path.glob("**/*.png"))


def test_a_full_disk_is_a_failure_of_the_page(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run")

    def full(path, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "mkdir", full)
    status, out, err = call(folder, "--output", tmp_path / "out.html")
    assert (status, out) == (1, "")
    assert err == f"report: error: cannot write {tmp_path}/out.html: No space left on device\n"


def test_wrong_options_are_an_error(tmp_path):
    check_error([], "RUN")
    check_error([tmp_path, "--out", "x.html"], "--out")


def test_the_command_ends_with_two_and_one_line_on_standard_error(tmp_path):
    """A user calls it in its own process."""
    command = [sys.executable, "-m", "utils.report", tmp_path / "none"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"report: error: {tmp_path / 'none'}: no such folder\n"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_chromium_builds_the_page(tmp_path, complete):
    shown = Reader(browse(tmp_path / "profile", complete, "--dump-dom"))
    assert ["A: stage 1 — 2 runs, seeds 0, 1"] in shown.rows
    assert ["B: stage 2, margin 1.0 — 2 runs, seeds 0, 1"] in shown.rows
    assert len(shown.all("img")) == 19


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_chromium_shows_the_page_at_both_widths(tmp_path, complete, width):
    path = tmp_path / "page.png"
    browse(tmp_path / "profile", complete, f"--window-size={width},4000", f"--screenshot={path}")
    with Image.open(path) as image:
        assert image.size == (width, 4000)
        pixels = np.asarray(image.convert("RGB"))
    assert 0.02 < (pixels != 255).any(axis=2).mean() < 0.9
    # Nothing is wider than the window: the margins of the page stay white.
    assert (pixels[:, -8:] == 255).all() and (pixels[:, :8] == 255).all()
    # The curves have their colours, so the figures are there.
    blue = np.abs(pixels.astype(int) - (0, 114, 178)).sum(axis=2) < 60
    assert blue.sum() > 50

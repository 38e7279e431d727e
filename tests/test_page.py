"""The page that compares runs, from made-up record files: `python -m utils.report RUN ...`."""

import base64
import contextlib
import io
import json
import re
import shutil
import statistics
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils import report
from utils.report import __main__ as command
from utils.report import figures, page
from utils.report.records import MissingRecord, accuracies_of, read_run
from utils.report.run_groups import class_counts, group_runs, mean_and_deviation

COUNTS = [150, 110, 60, 25, 19, 8, 4]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
HEADLESS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--hide-scrollbars",
)


# -------- made-up runs --------


def reading(base, few=True):
    return {
        "top1": base,
        "top5": base + 20,
        "many": base + 10,
        "medium": base + 0.5,
        "few": base - 10 if few else None,
        "per_class": [base + 10 - 3 * k for k in range(len(COUNTS))],
    }


def splits(base, ncm=True, heldout=False):
    result = {"linear": {**reading(base), "loss": 2.0}, "ncm": reading(base + 5) if ncm else None}
    return {"test": result} | ({"heldout": result} if heldout else {})


def write_run(folder, seed=0, stage=1, epochs=4, finished=True, heldout=False, base=40.0, **args):
    """A run whose accuracy is `base` at the selected epoch, one before the last, and one percent
    lower at the last."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = {
        "dataset": "digits",
        "data_root": f"/data/{seed}",
        "imb_factor": 0.05,
        "arch": "resnet20",
        "lr": 0.1,
        "exp_str": f"run{seed}",
        "seed": seed,
        "epochs": 4,
        "pretrained": folder.parent.name if stage == 2 else None,
        "margin": 1.0,
        "root_log": str(folder.parent),
        "machine": {"device": "cpu", "command": ["main.py", "--seed", str(seed)]},
    } | args
    records = []
    for epoch in range(1, epochs + 1):
        in_features = stage == 2 and epoch <= 2
        losses = {"ce_lt": 1 / epoch, "robust_loss": 5 / epoch} if in_features else {"ce": 1.0}
        margins = [1 - 0.1 * epoch + 0.01 * k for k in range(len(COUNTS))]
        accuracy = base - 1 if epoch == 4 else base
        records.append(
            {
                "epoch": epoch,
                "phase": "features" if in_features else "classifier",
                "seconds": 2.5,
                "losses": losses,
                "results": splits(accuracy, ncm=stage == 2 or epoch % 2 == 0, heldout=heldout),
                "margins": margins if stage == 2 else None,
            }
        )
    (folder / "args.json").write_text(json.dumps(arguments))
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if finished:
        write_summary(folder, arguments, stage, base, heldout)
    return folder


def write_summary(folder, arguments, stage, base, heldout):
    chosen = {"selected": (3, base), "last": (4, base - 1)}

    def of_split(split):
        return {
            which: {"epoch": epoch, **splits(accuracy, heldout=True)[split]}
            for which, (epoch, accuracy) in chosen.items()
        }

    summary = {
        "dataset": "digits",
        "arch": "resnet20",
        "stage": stage,
        "selected_on": "test",
        "epochs": 4,
        "seconds": 10.0 + arguments["seed"],
        "seed": arguments["seed"],
        "class_counts": COUNTS,
        "test": of_split("test"),
        "heldout": {"images": 9, "classes": 7, **of_split("heldout")} if heldout else None,
    }
    (folder / "summary.json").write_text(json.dumps(summary))


def write_outputs(folder, with_confs=True):
    """What training and evaluation leave in npz files: every class around a corner of its own."""
    generator = np.random.default_rng(0)
    for split, counts in (("train", COUNTS), ("test", [12] * len(COUNTS))):
        labels = np.repeat(np.arange(len(COUNTS)), counts)
        feats = 3 * np.eye(len(COUNTS), 16)[labels] + generator.normal(0, 0.3, (len(labels), 16))
        preds = np.where(np.arange(len(labels)) % 4 == 0, 0, labels)
        confs = generator.uniform(0.3, 1, len(labels))
        arrays = {"feats": feats.astype(np.float32), "labels": labels, "preds": preds}
        np.savez(
            folder / f"outputs_{split}.npz", **arrays, **({"confs": confs} if with_confs else {})
        )
    np.savez(folder / "predictions.npz", labels=labels, preds=preds)


# -------- reading the page --------


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
    """Status, standard output and standard error of the command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = command.main([str(argument) for argument in argv])
    return status, out.getvalue(), err.getvalue()


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """The page of some runs, read; its figures are coarse, which is quicker."""
    monkeypatch.setattr(page, "FIGURE_DPI", 20)

    def write(*folders):
        output = tmp_path / "out" / "page.html"
        status, out, err = call(*folders, "--output", output)
        assert (status, out, err) == (0, f"{output}\n", "")
        return Reader(output.read_text())

    return write


@pytest.fixture
def compare_numbers(compare, monkeypatch):
    """As `compare`, without pictures."""
    monkeypatch.setattr(page, "_figure", lambda figure, pictures: "")
    return compare


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """The page of two evaluated seeds of both stages and of an unfinished stage 2."""
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


# -------- the table --------


def test_seeds_of_the_same_settings_are_one_row_with_mean_and_sample_deviation(
    tmp_path, compare_numbers
):
    accuracies = (40.0, 43.0, 41.0)
    folders = [
        write_run(tmp_path / f"run{seed}", seed, base=base, heldout=True)
        for seed, base in enumerate(accuracies)
    ]
    rows = compare_numbers(*folders).rows
    assert rows[0] == ["Epoch", "Top-1", "Many", "Medium", "Few", "NCM", "Held-out", "Seconds"]
    assert rows[1] == ["A: stage 1 — 3 runs, seeds 0, 1, 2"]
    deviation = f"{statistics.stdev(accuracies):.2f}"
    assert deviation == "1.53"
    # Held-out is the mean over classes: 10 - 3 * 3 = 1 above the base.
    expected = ["41.33", "51.33", "41.83", "31.33", "46.33", "42.33"]
    assert rows[2] == [
        "selected on test (3)",
        *(f"{mean} ± 1.53" for mean in expected),
        "11.0 ± 1.0",
    ]
    assert rows[3][:2] == ["last epoch (4)", "40.33 ± 1.53"]
    assert len(rows) == 4


def test_a_single_run_has_no_deviation_and_no_held_out_images_are_not_available(
    tmp_path, compare_numbers
):
    rows = compare_numbers(write_run(tmp_path / "run")).rows
    assert rows[1] == ["A: stage 1 — 1 run, seed 0"]
    assert rows[2][1:] == ["40.00", "50.00", "40.50", "30.00", "45.00", "n/a", "10.0"]


def test_other_settings_are_another_row_and_are_named(tmp_path, compare_numbers):
    folders = [
        write_run(tmp_path / "a", 0),
        write_run(tmp_path / "b", 1, lr=0.05),
        write_run(tmp_path / "c", 2),
    ]
    rows = compare_numbers(*folders).rows
    assert [rows[1], rows[4]] == [
        ["A: stage 1, lr 0.1 — 2 runs, seeds 0, 2"],
        ["B: stage 1, lr 0.05 — 1 run, seed 1"],
    ]


def test_a_stage_2_from_another_stage_1_is_other_settings(tmp_path):
    runs = []
    for seed, rate in ((0, 0.1), (1, 0.1), (2, 0.5)):
        parent = write_run(tmp_path / f"parent{seed}", seed, lr=rate)
        runs.append(read_run(write_run(parent / "robust", seed, stage=2)))
    groups = group_runs(runs)
    assert [[run.seed for run in group.runs] for group in groups] == [[0, 1], [2]]
    assert [group.description for group in groups] == [
        "stage 2, stage-1 lr 0.1",
        "stage 2, stage-1 lr 0.5",
    ]


def test_a_run_that_is_named_twice_counts_once(tmp_path, compare_numbers):
    folder = write_run(tmp_path / "run")
    assert compare_numbers(folder, tmp_path / "." / "run").rows[1] == ["A: stage 1 — 1 run, seed 0"]


def test_an_unfinished_run_is_shown_from_its_last_epoch_and_not_averaged(tmp_path, compare_numbers):
    finished = write_run(tmp_path / "a", 0)
    unfinished = write_run(tmp_path / "b", 1, epochs=2, finished=False, base=20.0)
    rows = compare_numbers(finished, unfinished).rows
    assert rows[2][1] == "40.00"
    assert rows[4] == ["A: stage 1 — 1 run, seed 1, after epoch 2 of 4 unfinished"]
    values = ["20.00", "30.00", "20.50", "10.00", "25.00", "n/a", "5.0"]
    assert rows[5] == ["last epoch so far (2)", *values]


def test_a_run_without_an_epoch_is_a_row_without_numbers(tmp_path, compare_numbers):
    shown = compare_numbers(write_run(tmp_path / "run", epochs=0, finished=False))
    assert shown.rows[1] == ["A: stage 1 — 1 run, seed 0, after epoch 0 of 4 unfinished"]
    assert shown.rows[2] == ["last epoch so far (0)", *["n/a"] * 6, "0.0"]
    assert "there is no epoch in its log.jsonl; train it" in shown.text
    assert not shown.all("img")


def test_an_empty_group_is_not_available(tmp_path):
    results = {"epoch": 1, **splits(40.0), "heldout": None}
    results["test"]["linear"] = {**reading(40.0, few=False), "loss": 1.0}
    assert accuracies_of(results)["few"] is None
    assert mean_and_deviation([None, None]) is None
    mean, deviation = mean_and_deviation([None, 3.0])
    assert mean == 3 and np.isnan(deviation)


def test_letters_go_on_after_z(tmp_path):
    base = read_run(write_run(tmp_path / "run"))
    runs = [
        type(base)(base.folder, base.arguments | {"lr": k}, base.epochs, base.summary, None)
        for k in range(28)
    ]
    letters = [group.letter for group in group_runs(runs)]
    assert letters[0] == "A" and letters[25:] == ["Z", "AA", "AB"]


# -------- the figures --------


def test_the_complete_page_has_every_figure_in_itself_and_beside_it(complete):
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
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.size == (int(image["width"]), int(image["height"]))
            pixels = np.asarray(picture.convert("RGB"))
        assert 0.005 < (pixels != 255).any(axis=2).mean() < 0.95, name
        assert len(image["alt"]) > 20


def test_the_page_is_whole_in_itself(complete):
    text = complete.read_text()
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


def test_what_is_missing_is_explained_with_what_to_run(tmp_path, compare):
    parent = write_run(tmp_path / "stage1")
    child = write_run(parent / "robust", stage=2)
    evaluate = "there is no outputs_test.npz; run its command (listed under Runs) with --eval"
    write_outputs(child)
    shown = compare(parent, child)
    assert shown.text.count(f"Left out for A (stage 1): {evaluate}") == 2
    assert "Left out for A (stage 1): there is no predictions.npz; continue it" in shown.text
    assert "Left out for A (stage 1): stage 1 has no margins; train a stage 2" in shown.text
    assert "python main.py --seed 0" in shown.text
    assert "the features before stage 2, because of its stage 1 there is no" in shown.text
    assert "B_features_after_stage_2" in {figure["id"] for figure in shown.all("figure")}


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


def test_class_sizes_of_an_unfinished_run_are_those_of_a_run_on_the_same_images(tmp_path):
    unfinished = read_run(write_run(tmp_path / "a", 1, epochs=1, finished=False))
    same = read_run(write_run(tmp_path / "b", 1))
    other = read_run(write_run(tmp_path / "c", 1, imb_factor=0.5))
    assert class_counts(unfinished, [other, same]).tolist() == COUNTS
    with pytest.raises(MissingRecord, match="class sizes"):
        class_counts(unfinished, [other])
    write_outputs(unfinished.folder)
    assert class_counts(unfinished, [other]).tolist() == COUNTS


def test_margins_are_those_of_the_epoch_that_is_shown(tmp_path):
    finished = read_run(write_run(tmp_path / "a" / "robust", stage=2))
    assert finished.margin_record["epoch"] == 3
    unfinished = read_run(write_run(tmp_path / "b" / "robust", stage=2, epochs=2, finished=False))
    assert unfinished.margin_record["epoch"] == 2
    assert read_run(write_run(tmp_path / "c")).margin_record is None


def test_a_run_of_another_stage_2_is_no_parent(tmp_path):
    outer = write_run(tmp_path / "outer", stage=2)
    assert read_run(write_run(outer / "inner", stage=2)).parent is None


def test_calibration_by_hand():
    confs = np.array([1 / 15, 0.1, 0.5, 0.52, 1.0])
    correct = np.array([True, False, True, False, True])
    shares, confidence, accuracy = figures.reliability_bins(confs, correct)
    # A bin's upper edge belongs to it: 1/15 is in the first, 1 in the last.
    filled = np.flatnonzero(shares)
    assert filled.tolist() == [0, 1, 7, 14]
    np.testing.assert_allclose(shares[filled], [0.2, 0.2, 0.4, 0.2])
    np.testing.assert_allclose(confidence[filled], [1 / 15, 0.1, 0.51, 1])
    np.testing.assert_allclose(accuracy[filled], [1, 0, 0.5, 1])
    expected = (14 / 15 + 0.1 + 2 * 0.01 + 0) / 5
    assert figures.calibration_error(confs, correct) == pytest.approx(expected)


def test_the_map_shows_centroids_with_circles_of_their_margins():
    generator = np.random.default_rng(0)
    clouds = [
        figures.ClassCloud(f"class {k}", generator.normal(0, 1, (9, 5)), np.full(5, k), margin)
        for k, margin in enumerate((0.5, 2.0, -0.1, None))
    ]
    canvas, axes = report.plt.subplots(layout="constrained")
    figures.feature_map(axes, clouds, "Map")
    canvas.canvas.draw()
    assert [circle.radius for circle in axes.patches] == [0.5, 2.0]
    assert axes.get_aspect() == 1
    for circle in axes.patches:
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        x, y = circle.center
        assert left < x - circle.radius and x + circle.radius < right
        assert bottom < y - circle.radius and y + circle.radius < top
    report.plt.close(canvas)


def test_the_legend_has_one_entry_for_all_runs_of_the_same_settings():
    curves = [
        figures.Curve("A: stage 1", 0, [1, 2], [3, 4]),
        figures.Curve(None, 0, [1, 2], [4, 5]),
        figures.Curve("B: stage 2", 1, [1], [4], is_finished=False),
    ]
    canvas, axes = report.plt.subplots(layout="constrained")
    figures.compare(axes, curves, "Losses", "loss")
    (legend,) = canvas.legends
    assert [text.get_text() for text in legend.get_texts()] == ["A: stage 1", "B: stage 2"]
    lines = axes.get_lines()
    assert len(lines) == 4 and lines[3].get_marker() == "x"
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    assert lines[0].get_linestyle() != lines[2].get_linestyle()
    report.plt.close(canvas)


# -------- what files say is text --------


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


# -------- bad input --------


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
    check_error([good, tmp_path / "empty", *end], "not the folder of a run (no args.json")
    check_error([good, good / "args.json", *end], "no such folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "good"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("args.json", "{"),
        ("args.json", "[]"),
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
    check_error([folder, "--output", folder / "log.jsonl"], "has to end in .html")
    assert not list(tmp_path.glob("**/*.png"))


def test_wrong_options_are_an_error(tmp_path):
    check_error([], "RUN")
    check_error([tmp_path, "--out", "x.html"], "--out")


def test_the_command_ends_with_two_and_one_line_on_standard_error(tmp_path):
    """As a user calls it, in a process of its own."""
    command = [sys.executable, "-m", "utils.report", tmp_path / "none"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"report: error: {tmp_path / 'none'}: no such folder\n"


# -------- in a browser --------


def browse(tmp_path, complete, *flags):
    profile = tmp_path / "profile"
    command = [CHROMIUM, *HEADLESS, f"--user-data-dir={profile}", *flags, complete.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_chromium_builds_the_page(tmp_path, complete):
    shown = Reader(browse(tmp_path, complete, "--dump-dom"))
    assert ["A: stage 1 — 2 runs, seeds 0, 1"] in shown.rows
    assert ["B: stage 2, margin 1.0 — 2 runs, seeds 0, 1"] in shown.rows
    assert len(shown.all("img")) == 19


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_chromium_shows_the_page_at_both_widths(tmp_path, complete, width):
    path = tmp_path / "page.png"
    browse(tmp_path, complete, f"--window-size={width},4000", f"--screenshot={path}")
    with Image.open(path) as image:
        assert image.size == (width, 4000)
        pixels = np.asarray(image.convert("RGB"))
    assert 0.02 < (pixels != 255).any(axis=2).mean() < 0.9
    # Nothing is wider than the window: the margins of the page stay white.
    assert (pixels[:, -8:] == 255).all() and (pixels[:, :8] == 255).all()
    # The curves have their colours, so the figures are there.
    blue = np.abs(pixels.astype(int) - (0, 114, 178)).sum(axis=2) < 60
    assert blue.sum() > 50

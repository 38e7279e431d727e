"""`python -m utils.predict`: from images to classes and confidences."""

import csv
import io
import os
import shutil
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import build_model
from tests.support.helpers import (
    STAGE_1_NAME,
    outcome_of,
    read_summary,
    snapshot,
    stage_1,
    stage_1_folder,
    stage_2,
    stage_2_folder,
    succeed,
)
from tests.support.made_up_runs import write_run
from tests.support.pictures import noise, save, write_images
from tests.support.trained import MEAN, NAMES, STD, write_checkpoint
from utils.evaluation.classifiers import Classifier
from utils.predict.__main__ import main
from utils.predict.network import load_network
from utils.runs.classifier_files import save_classifiers


@pytest.fixture
def run(tmp_path):
    write_checkpoint(tmp_path / "run")
    return tmp_path / "run"


def predict(*argv):
    """Runs the command in this process and returns status, standard output and standard error."""
    return astuple(outcome_of(main, argv))


def predictions(run, *places, output, flags=()):
    """Returns the rows of the CSV file."""
    status, out, err = predict(run, *places, "--output", output, *flags)
    assert status == 0, err
    with open(output, newline="", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert out.startswith(f"{output}: {len(rows)} images, by ")
    return rows


def linked(path, to):
    """Makes a link. Devices are reached by one, so that a fault would not replace them."""
    path.symlink_to(to)
    return path


def test_classes_and_confidences_are_the_networks(run, tmp_path):
    folder = write_images(tmp_path / "images", 70)
    rows = predictions(run, folder, output=tmp_path / "p.csv")
    plain = build_model("resnet8", len(NAMES)).eval()
    content = torch.load(run / "ckpt.best.pth.tar", weights_only=True)
    plain.load_state_dict(content["state_dict"])
    images = np.stack([noise(8, 8, 3, seed=i) for i in range(70)]) / 255
    normalised = (images - MEAN) / STD
    with torch.no_grad():
        _, logits = plain(torch.tensor(normalised).permute(0, 3, 1, 2).float())
    probabilities = torch.softmax(logits, dim=1).numpy()

    assert list(rows[0]) == [
        *("file", "class", "confidence"),
        *(f"{kind}_{i}" for i in range(1, 6) for kind in ("class", "probability")),
    ]
    assert {row["file"] for row in rows} == {str(folder / f"{i:04}.png") for i in range(70)}
    for row in rows:
        expected = probabilities[int(Path(row["file"]).stem)]
        order = np.argsort(-expected)[:5]
        assert [row[f"class_{i}"] for i in range(1, 6)] == [NAMES[label] for label in order]
        shares = [float(row[f"probability_{i}"]) for i in range(1, 6)]
        assert shares == pytest.approx(expected[order], abs=2e-6)
        assert (row["class"], row["confidence"]) == (row["class_1"], row["probability_1"])


@pytest.mark.parametrize("dataset", ["npz", "folder"])
def test_images_of_a_run_on_whole_images_are_not_cropped(dataset, tmp_path):
    write_checkpoint(tmp_path / "run", side=64, dataset=dataset)
    folder = write_images(tmp_path / "images", 1, side=128)
    with Image.open(folder / "0000.png") as image:
        image.resize((64, 64), Image.Resampling.BILINEAR).save(folder / "whole.png")
    rows = predictions(tmp_path / "run", folder, output=tmp_path / "p.csv")
    one, other = ({**row, "file": None} for row in rows)
    assert (one == other) == (dataset == "npz")


def test_predictions_of_the_test_images_are_as_good_as_the_evaluation_says(
    tree, finished, tmp_path
):
    run = finished / STAGE_1_NAME
    folder = tree / "cifar10" / "test"
    rows = predictions(run, folder, output=tmp_path / "p.csv")
    right = [
        Path(row["file"]).parent.name in (row["class"], f"class_{row['class']}") for row in rows
    ]
    top1 = read_summary(run)["test"]["selected"]["linear"]["top1"]
    assert len(rows) == 40 and 100 * np.mean(right) == pytest.approx(top1, abs=1e-3)


@pytest.mark.parametrize("name", ["ncm_euclidean", "logit_adjustment"])
def test_a_classifier_that_an_evaluation_fitted_predicts(name, run, tmp_path):
    trained = load_network(run)
    centres = torch.rand(len(NAMES), 64)
    classifiers = {
        "ncm_euclidean": Classifier("distance", centres),
        "logit_adjustment": Classifier("linear", centres, bias=torch.arange(6.0)),
    }
    save_classifiers(run / "classifiers.pth", classifiers, trained.network, 3, NAMES)
    folder = write_images(tmp_path / "images", 9)
    output = tmp_path / "p.csv"
    page = tmp_path / "p.html"
    argv = ("--output", output, "--classifier", name, "--html", page)
    status, out, err = predict(run, folder, *argv)
    assert (status, err) == (0, "") and f"classifier {name}" in out
    for text in (out, page.read_text()):
        assert ("not a probability" in text) == (name == "ncm_euclidean")
    images = torch.tensor(np.stack([noise(8, 8, 3, seed=i) for i in range(9)]) / 255)
    with torch.no_grad():
        network = trained.with_normalisation()
        features, _ = network(images.permute(0, 3, 1, 2).float())
    if name == "ncm_euclidean":
        scores = -(features[:, None] - centres).square().sum(dim=2).sqrt()
    else:
        scores = features @ centres.T + torch.arange(6)
    expected = {f"{i:04}.png": NAMES[label] for i, label in enumerate(scores.argmax(dim=1))}
    with open(output, newline="") as file:
        found = {Path(row["file"]).name: row["class"] for row in csv.DictReader(file)}
    assert found == expected


@pytest.mark.parametrize("make", [stage_1, stage_2])
def test_a_classifier_is_found_below_a_root_of_records_of_its_own(make, tree, finished, tmp_path):
    logs, output = tmp_path / "logs", tmp_path / "p.csv"
    flags = ("--root_log", logs, "--evaluation", "True", "--readings", "ncm_cosine")
    succeed(make(tree, finished, *flags))
    [saved] = logs.rglob("classifiers.pth")
    run = stage_1_folder(finished) if make is stage_1 else stage_2_folder(finished)
    folder = write_images(tmp_path / "images", 2)
    argv = (run, folder, "--output", output, "--classifier", "ncm_cosine")
    status, _, err = predict(*argv)
    assert status == 2 and "--root_log" in err
    assert predict(*argv, "--root_log", logs)[0] == 0
    assert len(output.read_text().splitlines()) == 3
    saved.unlink()
    status, _, err = predict(*argv, "--root_log", logs)
    assert status == 2 and f"{saved}: no such file" in err


@pytest.mark.parametrize("place", ["logs", "."])
def test_an_unfinished_run_is_told_with_its_records_apart_or_beside(place, run, tmp_path):
    write_run(tmp_path / place / "run", epochs=2, finished=False)
    (tmp_path / "logs" / "run").mkdir(parents=True, exist_ok=True)  # maybe of an evaluation
    folder = write_images(tmp_path / "images", 1)
    argv = (run, folder, "--output", tmp_path / "p.csv", "--root_log", tmp_path / "logs")
    assert "not finished: 2 of 4 epochs are done" in predict(*argv)[2]


def test_a_run_that_comes_with_the_code_is_found_by_its_name_after_an_evaluation(
    tree, finished, tmp_path, monkeypatch
):
    """The evaluation puts its records into a folder of that name, which has no checkpoint."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(stage_1_folder(finished), Path("pretrained", STAGE_1_NAME))
    flags = ("--evaluation", "True", "--readings", "ncm_cosine")
    succeed(stage_1(tree, Path("checkpoint"), *flags))
    assert Path("checkpoint", STAGE_1_NAME, "classifiers.pth").is_file()
    folder = write_images(tmp_path / "images", 2)
    predictions(STAGE_1_NAME, folder, output="p.csv")
    predictions(STAGE_1_NAME, folder, output="q.csv", flags=("--classifier", "ncm_cosine"))


def test_a_classifier_that_no_evaluation_fitted_is_refused(run, tmp_path):
    folder = write_images(tmp_path / "images", 1)
    status, out, err = predict(run, folder, "--output", tmp_path / "p.csv", "--classifier", "crt")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert f"{run / 'classifiers.pth'}: no such file" in err and "--readings crt" in err
    assert not (tmp_path / "p.csv").exists()


def test_with_few_classes_all_are_listed(tmp_path):
    write_checkpoint(tmp_path / "run", names=["yes", "no"])
    folder = write_images(tmp_path / "images", 2)
    rows = predictions(tmp_path / "run", folder, output=tmp_path / "p.csv")
    assert list(rows[0])[3:] == ["class_1", "probability_1", "class_2", "probability_2"]
    total = sum(float(rows[0][f"probability_{i}"]) for i in (1, 2))
    assert total == pytest.approx(1, abs=2e-6)


def test_images_are_read_as_training_reads_them(run, tmp_path):
    """The images are grey, have palettes, other sizes and other suffixes."""
    folder = tmp_path / "images"
    save(folder / "grey.png", noise(20, 9))
    save(folder / "large.bmp", noise(40, 90, 3))
    Image.fromarray(noise(8, 8)).convert("P").save(folder / "palette.gif")
    Image.fromarray(noise(8, 8, 3)).save(folder / "no_suffix", "jpeg")
    rows = predictions(run, folder, output=tmp_path / "p.csv")
    assert {Path(row["file"]).name for row in rows} == set(os.listdir(folder))


def test_images_are_upright_and_transparent_pixels_are_white(run, tmp_path):
    pixels = noise(12, 8, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown, the picture is a quarter turn clockwise
    opaque = np.full((12, 8, 1), 255, np.uint8)
    opaque[:, :3] = 0
    white = np.where(opaque == 0, 255, pixels).astype(np.uint8)
    folder = tmp_path / "images"
    save(folder / "a_turned.png", np.ascontiguousarray(np.rot90(pixels, -1)))
    Image.fromarray(pixels).save(folder / "a_by_exif.png", exif=exif)
    save(folder / "b_white.png", white)
    save(folder / "b_by_alpha.png", np.concatenate([pixels, opaque], axis=2))
    rows = predictions(run, folder, output=tmp_path / "p.csv")
    found = {Path(row["file"]).stem: [*row.values()][1:] for row in rows}
    assert found["a_turned"] == found["a_by_exif"]
    assert found["b_white"] == found["b_by_alpha"] != found["a_turned"]


def test_unreadable_files_are_listed_counted_and_skipped(run, tmp_path):
    folder = write_images(tmp_path / "images", 3)
    (folder / "notes.txt").write_text("no image")
    (folder / "cut.png").write_bytes((folder / "0000.png").read_bytes()[:60])
    (folder / "huge.ppm").write_bytes(b"P5 300000000 1 255\n")  # Pillow raises MemoryError
    status, out, err = predict(run, folder, "--output", tmp_path / "p.csv")
    *listed, warning = err.splitlines()
    assert status == 0 and ": 3 images" in out
    assert {line.split(": ")[0] for line in listed} == {
        f"skipped {folder / name}" for name in ("notes.txt", "cut.png", "huge.ppm")
    }
    assert f"skipped {folder / 'huge.ppm'}: out of memory while it was read" in listed
    assert warning.startswith("predict: warning: 3 of 6 files could not be read")


def test_where_no_file_is_an_image_nothing_is_written(run, tmp_path, capfd):
    """One line says so, with the first reason; the earlier table stays."""
    (tmp_path / "images").mkdir()
    for name in ("a.heic", "b.heic"):
        (tmp_path / "images" / name).write_text("no image")
    (tmp_path / "p.csv").write_text("file,class,confidence\nearlier")
    before = snapshot(tmp_path)
    output = linked(tmp_path / "output", "/dev/stdout")
    for flags in (
        ("--output", tmp_path / "p.csv", "--html", tmp_path / "p.html"),
        ("--output", output),
    ):
        assert main([*map(str, (run, tmp_path / "images", *flags))]) == 2
        out, err = capfd.readouterr()
        *listed, error = err.splitlines()
        assert out == "" and len(listed) == 2
        says = "no file could be read as an image (2 skipped); the first: "
        assert error == f"predict: error: {says}{listed[0].removeprefix('skipped ')}"
    output.unlink()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["table.csv", "own.NPZ"])
def test_tables_and_arrays_are_said_not_to_be_read(name, run, tmp_path):
    (tmp_path / name).write_text("path,label")
    status, _, err = predict(run, tmp_path / name, "--output", tmp_path / "p.csv")
    assert status == 2 and f"{name}: not an image that Pillow can read; tables and arrays" in err


def test_a_pipe_is_passed_over_and_a_link_to_nowhere_is_listed(run, tmp_path):
    folder = write_images(tmp_path / "images", 1)
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to(tmp_path / "nowhere")
    status, _, err = predict(run, folder, "--output", tmp_path / "p.csv")
    assert status == 0 and "1 of 2 files" in err
    assert err.startswith(f"skipped {folder / 'link.png'}: ")


def test_a_link_to_itself_is_listed(run, tmp_path):
    folder = write_images(tmp_path / "images", 1)
    linked(folder / "loop", "loop")
    status, _, err = predict(run, folder, "--output", tmp_path / "p.csv")
    assert status == 0 and "1 of 2 files" in err
    assert err.startswith(f"skipped {folder / 'loop'}: Too many levels of symbolic links")


def test_names_that_are_not_utf8_keep_their_bytes(run, tmp_path):
    folder = write_images(tmp_path / "images", 1)
    name = os.fsencode(folder) + b"/caf\xe9, \xff.png"
    os.rename(os.fsencode(folder / "0000.png"), name)
    flags = ("--html", tmp_path / "page.html")
    [row] = predictions(run, folder, output=tmp_path / "p.csv", flags=flags)
    assert os.fsencode(row["file"]) == name
    assert "caf\N{REPLACEMENT CHARACTER}" in (tmp_path / "page.html").read_text()


def test_the_runs_folder_may_have_a_name_that_is_not_utf8(run, tmp_path):
    folder = write_images(tmp_path / "images", 1)
    strange = run.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    predictions(strange, folder, output=tmp_path / "p.csv", flags=("--html", tmp_path / "p.html"))
    assert "Predictions by caf\\xe9" in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["RUN", "nothing"], "nothing: no such image or folder"),
        (["nothing", "images"], "nothing: no such run or checkpoint"),
        (["RUN", "empty"], "no files in empty"),
        (["RUN", ""], "'' is not a path"),
        (["RUN"], "required: IMAGE_OR_FOLDER"),
        (["RUN", "images", "--output", "no/p.csv"], "no folder no"),
        (["RUN", "images", "--output", "images"], "it is a folder"),
        (["RUN", "images", "--html", "no/p.html"], "no folder no"),
        (["RUN", "--output", "images/0000.png", "images"], "images/0000.png: it is there"),
        (["RUN", "images", "--output", "photo.csv"], "neither a table nor a page"),
        (["RUN", "images", "--html", "notes"], "give a new name"),
        (["RUN", "images", "--output", "labels.csv"], "neither a table nor a page"),
        (["RUN", "images", "--output", "corrected.csv"], "neither a table nor a page"),
        (["RUN", "images", "--html", "saved.html"], "neither a table nor a page"),
        (["RUN", "images", "--output", "loop"], "loop: it is there"),
        (["RUN", "images", "--output", "x", "--html", "./x"], "write x and x: they are the same"),
        (["RUN", "images", "--output", "x", "--html", "to_x"], "they are the same file"),
        (["RUN", "images", "--output", "to_photo"], "to_photo: it is there"),
        (["RUN", "images", "--gpu", "-3"], "--gpu"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(argv, says, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", 1)
    (tmp_path / "empty").mkdir()
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "photo.csv", "png")
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "labels.csv").write_text("path,label\n0000.png,ant\n")
    (tmp_path / "corrected.csv").write_text(
        "file,class,confidence,class_1,probability_1,right\n0000.png,ant,0.9,ant,0.9,bee\n"
    )
    (tmp_path / "saved.html").write_text("<!DOCTYPE html>\n<title>Ants</title>\n")
    for name, to in {"loop": "loop", "to_x": "x", "to_photo": "images/0000.png"}.items():
        linked(tmp_path / name, to)
    before = snapshot(tmp_path)
    status, out, err = predict(*(str(run) if word == "RUN" else word for word in argv))
    assert (status, out) == (2, "")
    assert err.startswith("predict: error: ") and says in err and err.count("\n") == 1
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("flag", ["--output", "--html"])
def test_a_folder_that_is_not_writable_is_refused_at_once(flag, run, tmp_path, monkeypatch):
    folder, sealed = write_images(tmp_path / "images", 1), tmp_path / "sealed"
    sealed.mkdir()
    # Root may write everywhere.
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != sealed)
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    status, out, err = predict(run, folder, flag, sealed / "p")
    assert (status, out, snapshot(tmp_path)) == (2, "", before)
    says = f"cannot write {sealed / 'p'}: {sealed} is not a writable folder"
    assert err == f"predict: error: {says}\n"


def test_an_earlier_table_and_page_are_replaced_whatever_their_names(run, tmp_path):
    folder = write_images(tmp_path / "images", 2)
    for names in (("table", "page"), ("p.csv", "p.html"), ("empty", "page.txt")):
        (tmp_path / "empty").touch()
        output, page = (tmp_path / name for name in names)
        for _ in range(2):
            assert len(predictions(run, folder, output=output, flags=("--html", page))) == 2
        assert page.read_text().startswith("<!DOCTYPE html>")


def test_an_earlier_table_and_page_among_the_images_are_no_images(run, tmp_path):
    folder = write_images(tmp_path / "images", 2)
    for _ in range(2):
        flags = ("--output", folder / "p.csv", "--html", folder / "p.html")
        status, out, err = predict(run, folder, *flags)
        assert (status, err) == (0, "") and ": 2 images, by " in out


def test_a_link_stays_and_the_file_that_it_leads_to_is_written(run, tmp_path):
    folder = write_images(tmp_path / "images", 2)
    (tmp_path / "far").mkdir()
    link = linked(tmp_path / "p.csv", "far/p.csv")
    for _ in range(2):
        assert len(predictions(run, folder, output=link)) == 2
        assert link.is_symlink() and os.listdir(tmp_path / "far") == ["p.csv"]


def test_a_pipe_and_a_device_are_written_to(run, tmp_path):
    folder = write_images(tmp_path / "images", 2)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    null = linked(tmp_path / "null", "/dev/null")
    status, _, err = predict(run, folder, "--output", pipe, "--html", null)
    assert status == 0, err
    assert os.read(reader, 1 << 16).count(b"\n") == 3 and pipe.is_fifo()
    assert null.is_char_device()
    os.close(reader)


def test_standard_output_gets_the_table_alone(run, tmp_path, capfd):
    folder = write_images(tmp_path / "images", 2)
    output = linked(tmp_path / "output", "/dev/stdout")
    assert main([str(run), str(folder), "--output", str(output)]) == 0
    out, err = capfd.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert {row["file"] for row in rows} == {str(folder / f"{i:04}.png") for i in range(2)}
    assert f"{output}: 2 images, by " in err


def test_an_earlier_table_is_kept_where_the_run_fails(run, tmp_path, monkeypatch):
    folder = write_images(tmp_path / "images", 2)
    (tmp_path / "p.csv").write_text("file,class,confidence\nearlier")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    status, _, err = predict(run, folder, "--output", tmp_path / "p.csv")
    assert (status, err) == (1, f"predict: error: {tmp_path / 'p.csv'}: No space left\n")
    assert (tmp_path / "p.csv").read_text() == "file,class,confidence\nearlier"

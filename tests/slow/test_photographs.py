"""From a folder of photographs to predictions by the three commands that README shows."""

import csv
import json
import shlex

import numpy as np
from PIL import Image, ImageOps

from tests.support.helpers import REPOSITORY, call, snapshot, succeed
from tests.support.photographs import EXIF_ORIENTATION, SHAPES, TURNED, write_photographs
from utils.predict.__main__ import main as predict
from utils.runs.__main__ import main as list_runs

COUNTS = (12, 10, 8, 6, 5, 4, 3, 3, 2, 2)


def commands_below(heading: str, document: str) -> list[str]:
    """The lines of the first block of commands below a heading."""
    text = (REPOSITORY / document).read_text().split(f"## {heading}\n")[1]
    return text.split("```sh\n")[1].split("```")[0].splitlines()


COMMANDS = commands_below("Your own images", "README.md")


def test_the_commands_are_short_and_the_same_in_both_places():
    assert len(COMMANDS) == 3 and max(map(len, COMMANDS)) <= 120
    assert commands_below("From your photographs to predictions", "docs/data.md") == COMMANDS


def test_three_commands_lead_from_photographs_to_predictions(
    tmp_path, monkeypatch, capsys, no_figures
):
    monkeypatch.chdir(tmp_path)
    photos = write_photographs(tmp_path / "photos", COUNTS)
    new = write_photographs(tmp_path / "new_photos", [1] * 10, seed=1, is_flat=True)
    (photos / "disc" / "notes.txt").write_text("taken in spring")
    cut_off = (photos / "square" / "IMG_0001.JPG").read_bytes()[:400]
    (new / "broken.jpg").write_bytes(cut_off)
    train, look, classify = (shlex.split(command)[1:] for command in COMMANDS)
    assert (train[0], look, classify[:2]) == (
        "main.py",
        ["-m", "utils.runs"],
        ["-m", "utils.predict"],
    )

    broken = photos / "square" / "IMG_9999.jpg"
    broken.write_bytes(cut_off)
    before = snapshot(tmp_path)
    outcome = call([*train[1:], "--epochs", 1])
    assert outcome.status == 2 and len(outcome.errors) == 1 and str(broken.name) in outcome.err
    assert snapshot(tmp_path) == before
    broken.unlink()

    outcome = succeed([*train[1:], "--epochs", 1])
    assert "10 classes, 55 images: " in outcome.out and "photos/disc/notes.txt" in outcome.out
    assert list_runs(look[2:]) == 0
    assert "1 run below checkpoint" in capsys.readouterr().out
    assert predict(classify[2:]) == 0
    out, err = capsys.readouterr()
    assert "predictions.csv: 10 images" in out and "1 of 11 files could not be read" in err
    with open("predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} <= set(SHAPES)
    [run] = (tmp_path / "checkpoint").iterdir()
    recorded = json.loads((run / "args.json").read_text())
    assert recorded["data"]["class_names"] == sorted(SHAPES)


def test_what_a_camera_turned_is_upright_again(tmp_path):
    """The made-up photographs are what they should be: the same picture, turned and marked so."""
    for orientation, way in TURNED.items():
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        upright = Image.new("RGB", (8, 4), "white")
        upright.putpixel((0, 0), (0, 0, 0))
        path = tmp_path / f"{orientation}.png"
        upright.transpose(way).save(path, exif=exif)
        with Image.open(path) as image:
            assert np.array_equal(ImageOps.exif_transpose(image), upright)

"""The page of pictures, the least certain first."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from tests.support.browser import CHROMIUM, browse
from tests.support.page_fixtures import Reader
from tests.support.pictures import noise, save
from utils.predict.page import thumbnail, write_page
from utils.predict.predictions import Prediction
from utils.predict.table import write_table

SCRIPT = "<script>document.title='run'</script>"


def prediction(file, confidence, classes=("ant", "bee")):
    rest = (1 - confidence) / 2
    return Prediction(str(file), list(classes), [confidence, rest])


@pytest.mark.parametrize(("shown", "files"), [(3, "143"), (1, "1")])
def test_the_least_certain_are_kept_in_order(shown, files, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.predict.table.SHOWN", shown)
    confidences = (0.9, 0.3, 0.7, 0.5, 0.3, 0.8)
    results = [*(prediction(i, share) for i, share in enumerate(confidences)), "x: no image"]
    kept, count, skipped = write_table(tmp_path / "p.csv", results, 2, [tmp_path])
    assert ("".join(p.file for p in kept), count, skipped) == (files, 6, 1)


def pixels_of(uri):
    kind, data = uri.split(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    ("size", "shown"),
    [((300, 900), (53, 160)), ((32, 32), (128, 128)), ((60, 80), (120, 160)), ((100, 1), (100, 1))],
)
def test_pictures_fit_their_place(size, shown, tmp_path):
    save(tmp_path / "image.png", noise(*size, 3))
    assert pixels_of(thumbnail(str(tmp_path / "image.png"))).shape == (*shown, 3)


@pytest.fixture
def page(tmp_path):
    """A page of three pictures, one of them gone, with names that are markup."""
    kept = []
    for i, confidence in ((1, 0.41), (2, 0.6), (0, 0.95)):
        file = tmp_path / f"{i} & <b>.png"
        save(file, np.full((40, 40, 3), (200, 30, 40), np.uint8))
        kept.append(prediction(file, confidence, (SCRIPT, "bee")))
    (tmp_path / "2 & <b>.png").unlink()
    path = tmp_path / "page.html"
    write_page(path, kept, count=3, skipped=1, title=f"Predictions by {SCRIPT}")
    return path


def test_the_page_shows_pictures_classes_and_confidences(page):
    shown = Reader(page.read_text())
    assert "3 images, the least certain first. 1 file could not be read." in shown.text
    assert len(shown.all("img")) == 2 and "no picture" in shown.text
    assert all(pixels_of(image["src"]).shape == (160, 160, 3) for image in shown.all("img"))
    shares = re.findall(r"([\d.]+) %", shown.text.replace("\xa0", " "))
    assert shares == ["41.0", "29.5", "60.0", "20.0", "95.0", "2.5"]
    assert shown.all("img")[0]["alt"] == f"{page.parent}/1 & <b>.png"


def test_names_are_escaped_and_the_page_is_self_contained(page):
    shown = Reader(page.read_text())
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in shown.tags}
    assert SCRIPT in shown.text
    for _, attributes in shown.tags:
        assert (attributes.get("src") or "data:").startswith("data:")
    assert "url(" not in page.read_text()


def test_a_path_may_break_behind_its_folders_and_is_still_text_in_its_order(page):
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert f"<bdi>{page.parent.name}</bdi>/<wbr><bdi>1 &amp; &lt;b&gt;.png</bdi></p>" in text


@pytest.mark.parametrize("note", ["", "ncm_cosine: no <probability>"])
def test_what_is_no_confidence_is_said_and_marks_nothing_as_doubtful(note, tmp_path):
    path = tmp_path / "page.html"
    write_page(path, [prediction(0, 0.1)], count=1, skipped=0, title="Predictions", note=note)
    shown = Reader(path.read_text())
    bars = [span for span in shown.all("span") if "bar" in span.get("class", "")]
    assert ("doubtful" in bars[0]["class"]) == (not note)
    assert (f"{note}. The numbers below are that softmax." in shown.text) == bool(note)


def test_a_long_class_name_is_shown_whole(tmp_path):
    kept = [prediction(0, 0.5, ("front_left", "bee"))]
    write_page(tmp_path / "page.html", kept, count=1, skipped=0, title="Predictions")
    text = (tmp_path / "page.html").read_text()
    assert '<span class="name"><span>front</span>_<wbr><span>left</span></span>' in text
    assert "ellipsis" not in text


def test_a_long_list_says_how_many_are_shown(tmp_path):
    kept = [prediction(i, 0.5) for i in range(2)]
    write_page(tmp_path / "page.html", kept, count=5, skipped=0, title="Predictions")
    text = Reader((tmp_path / "page.html").read_text()).text
    assert "5 images; the 2 least certain are shown, the least certain first." in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_chromium_builds_the_page_and_runs_nothing_in_it(tmp_path, page):
    shown = Reader(browse(tmp_path / "profile", page, "--dump-dom"))
    assert len(shown.all("img")) == 2 and SCRIPT in shown.text
    assert not shown.all("script")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_chromium_shows_the_page_at_both_widths(tmp_path, page, width):
    path = tmp_path / "page.png"
    browse(tmp_path / "profile", page, f"--window-size={width},900", f"--screenshot={path}")
    with Image.open(path) as image:
        assert image.size == (width, 900)
        pixels = np.asarray(image.convert("RGB")).astype(int)
    # Nothing is wider than the window: the margins of the page stay white.
    assert (pixels[:, -8:] == 255).all() and (pixels[:, :8] == 255).all()
    red = np.abs(pixels - (200, 30, 40)).sum(axis=2) < 40
    assert red.sum() > 2 * 130**2

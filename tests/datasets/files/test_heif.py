"""HEIC, in which many phones save photographs, with and without the package that reads it."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, features

from datasets.files.images import read_pixels
from tests.support.helpers import REPOSITORY
from tests.support.own_images import folder_data, write_folder
from tests.support.pictures import noise
from utils.errors import UserError

WITHOUT_PACKAGE = """
import sys
sys.modules["pillow_heif"] = None  # its import fails
from datasets.files.images import read_pixels
print(read_pixels(sys.argv[1], lambda image: image))
"""


def test_without_the_package_the_message_names_it(tmp_path):
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic")
    command = [sys.executable, "-c", WITHOUT_PACKAGE, str(path)]
    ran = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    install = "python -m pip install pillow-heif"
    assert ran.stdout == f"{path}: needs the package pillow-heif: {install}\n"


@pytest.mark.parametrize("stream", [False, True])
def test_a_photograph_that_cannot_be_read_stops_the_run(tmp_path, stream):
    write_folder(tmp_path)
    (tmp_path / "train" / "ant" / "IMG_0001.HEIC").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"IMG_0001\.HEIC: "):
        folder_data(tmp_path, "--stream", stream)


def test_with_the_package_photographs_are_read(tmp_path):
    pytest.importorskip("pillow_heif", reason="no pillow-heif")
    picture = np.kron(noise(8, 8, 3), np.ones((8, 8, 1), np.uint8))
    Image.fromarray(picture).save(tmp_path / "x.heic", quality=-1)  # without loss
    pixels = read_pixels(str(tmp_path / "x.heic"), lambda image: image)
    assert pixels.shape == picture.shape
    # The colours go through YCbCr, whose rounding stays.
    assert np.abs(pixels.astype(int) - picture).max() <= 4


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read_by_pillow(tmp_path):
    picture = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    Image.fromarray(picture).save(tmp_path / "x.avif", quality=100)
    pixels = read_pixels(str(tmp_path / "x.avif"), lambda image: image)
    assert np.abs(pixels.astype(int) - picture).max() <= 4

"""`--check_images True`: every image that cannot be read has its line, and nothing is trained."""

import pytest

from tests.support.helpers import call, snapshot, succeed
from tests.support.own_images import write_folder
from tests.support.pictures import noise, save

DAMAGED = 5
FLAGS = ("--dataset", "folder", "--data_root", "own")


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_folder(tmp_path / "own")


@pytest.fixture
def damaged(own):
    """Paths of images that are cut off behind their headers."""
    paths = [own / "train" / "ant" / f"{i:02}.png" for i in range(DAMAGED)]
    for path in paths:
        save(path, noise(64, 64, 3, seed=7))
        path.write_bytes(path.read_bytes()[:2000])
    return paths


@pytest.mark.parametrize("stream", ["True", "False"])
def test_every_damaged_image_has_a_line(stream, own, damaged):
    before = snapshot(own.parent)
    found = call([*FLAGS, "--stream", stream, "--check_images", "True"])
    assert found.status == 2
    lines = found.out.splitlines()
    assert len(lines) == DAMAGED
    for line, path in zip(lines, damaged, strict=True):
        assert line.startswith(f"{path.relative_to(own.parent)}: ") and "runcated" in line
    assert found.err == ("main.py: error: --data_root own: 5 faults, listed on standard output\n")
    assert snapshot(own.parent) == before


@pytest.mark.parametrize("stream", ["True", "False"])
def test_an_image_beyond_memory_is_listed_beside_the_others(stream, own, damaged):
    damaged[0].unlink()
    huge = damaged[0].with_suffix(".ppm")
    huge.write_bytes(b"P5 300000000 1 255\n")  # Pillow raises MemoryError
    found = call([*FLAGS, "--stream", stream, "--check_images", "True"])
    assert found.status == 2 and len(found.out.splitlines()) == DAMAGED
    path = huge.relative_to(own.parent)
    assert f"{path}: out of memory while it was read" in found.out.splitlines()


def test_a_run_that_stops_says_how_to_see_all_faults(own, damaged):
    found = call(FLAGS)
    assert found.status == 2 and found.err.count("\n") == 1
    assert found.err.endswith(" and 2 more; --check_images True lists them all\n")


def test_with_three_faults_the_message_has_them_all(own, damaged):
    for path in damaged[3:]:
        path.unlink()
    found = call(FLAGS)
    assert found.status == 2 and "3 faults" in found.err
    assert all(path.name in found.err for path in damaged[:3])
    assert "--check_images" not in found.err


@pytest.mark.parametrize("stream", ["True", "False"])
def test_whole_images_are_counted_and_nothing_is_trained(stream, own):
    found = succeed([*FLAGS, "--stream", stream, "--check_images", "True"])
    assert "11 training" in found.out and found.out.endswith("every image can be read\n")
    assert {path.name for path in own.parent.iterdir()} == {"own"}


def test_one_fault_is_not_many(own, damaged):
    for path in damaged[1:]:
        path.unlink()
    found = call([*FLAGS, "--check_images", "True"])
    assert found.err == "main.py: error: --data_root own: 1 fault, listed on standard output\n"


@pytest.mark.parametrize("stream", ["True", "False"])
@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["ant/00.png,ant,dev", "bee/00.png,bee,train"], ["line 2: split 'dev'"]),
        (["ant/00.png,ant,test", "bee/00.png,bee,test"], ["no line of the split train"]),
        (["ant/00.png,ant,train"], ["label 'cat' has no training images"]),
    ],
)
def test_the_files_of_a_table_are_read_beside_the_faults_of_its_lines(stream, rows, says, own):
    table = own / "train" / "table.csv"
    rows = ["path,label,split", *rows, "lost.png,cat,test", "lost too.png,cat,val"]
    table.write_text("\n".join(rows))
    before = snapshot(own)
    flags = ("--dataset", "csv", "--data_root", table, "--stream", stream)
    found = call([*flags, "--check_images", "True"])
    assert found.status == 2 and f"{len(says) + 2} faults, listed" in found.err
    *lines, first, second = found.out.splitlines()
    assert all(line.startswith(part) for line, part in zip(lines, says, strict=True))
    assert "lost.png: no such file" in first and "lost too.png: no such file" in second
    assert snapshot(own) == before


def test_every_line_of_a_table_with_a_fault_is_listed(own):
    table = own / "table.csv"
    table.write_text("path,label\n" + "train/ant/00.png,\n" * 5)
    found = call(["--dataset", "csv", "--data_root", table, "--check_images", "True"])
    assert found.status == 2
    lines = found.out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"line {i}" for i in range(2, 7)]

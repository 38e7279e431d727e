"""Which files of folders are images to predict, and how they are read."""

import os
from pathlib import Path

from tests.support.pictures import noise, save, write_images
from utils.predict.images import decoded, image_paths


def test_each_file_is_found_once_at_any_depth(tmp_path):
    folder = tmp_path / "images"
    for name in (
        "a.png",
        "deep/er/b.png",
        ".hidden.png",
        ".cache/c.png",
        "deep/d.txt",
        "p.csv",
        "__MACOSX/f.png",
        "deep/@eaDir/g.png",
        "#recycle/deleted/h.png",
        "decoded-32.npz",
        "table.decoded-32.npz",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    (folder / "deep" / "loop").symlink_to(folder)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "e.png").write_bytes(b"")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    found = list(image_paths([folder, folder / ".hidden.png"], without=[folder / "p.csv"]))
    expected = ["a.png", "deep/er/b.png", "deep/d.txt", "linked/e.png", ".hidden.png"]
    assert sorted(found) == sorted(str(folder / name) for name in expected)
    assert found[-1] == str(folder / ".hidden.png")


def test_no_link_to_a_folder_above_is_followed(tmp_path, monkeypatch):
    save(tmp_path / "a.png", noise(8, 8, 3))
    folder = write_images(tmp_path / "images" / "new", 1)
    other = write_images(tmp_path / "others" / "old", 1)
    links = {"up": "..", "further": "../..", "root": "/", "other": other}
    for name, to in links.items():
        (folder / name).symlink_to(to)
    (other / "up").symlink_to("..")
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    for place in ("images/new", "link"):
        found = sorted(image_paths([Path(place)]))
        assert found == [f"{place}/0000.png", f"{place}/other/0000.png"]


def test_the_pictures_of_runs_are_no_photographs(tmp_path):
    """A folder with only one of a run's files is none; a run's folder may be asked for."""
    run = tmp_path / "checkpoint" / "run"
    for name in ("checkpoint/run/seed0", "checkpoint/run", "records", "weights", "."):
        save(tmp_path / name / "report.png", noise(8, 8, 3))
    for folder in (run, run / "seed0", tmp_path / "records"):
        (folder / "args.json").write_text("{}")
    for folder in (run, run / "seed0", tmp_path / "weights"):
        (folder / "ckpt.best.pth.tar").write_bytes(b"")
    found = {os.path.relpath(path, tmp_path) for path in image_paths([tmp_path])}
    assert {name for name in found if name.endswith(".png")} == {
        *("report.png", "records/report.png", "weights/report.png")
    }
    assert str(run / "report.png") in image_paths([run])


def test_a_folder_that_cannot_be_listed_is_skipped(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.png").write_bytes(b"")
    listed = os.scandir

    def scandir(folder):
        if folder == str(tmp_path / "closed"):
            raise PermissionError
        return listed(folder)

    monkeypatch.setattr("os.scandir", scandir)
    assert sorted(image_paths([tmp_path])) == [str(tmp_path / "a.png"), str(tmp_path / "closed")]


def test_only_so_many_files_are_decoded_ahead(tmp_path):
    taken = []

    def paths():
        for i in range(100):
            taken.append(i)
            yield str(tmp_path / f"{i}.png")

    results = decoded(paths(), lambda image: image, ahead=5)
    assert next(results)[0] == str(tmp_path / "0.png")
    assert len(taken) == 6
    results.close()

"""A user's own images as a tree: what is read, and what is refused."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import datasets.files.decode
from datasets.files.images import fit, to_rgb
from tests.support.own_images import CLASSES, folder_data, refused, write_folder
from tests.support.pictures import noise, options, pixels_of, save
from utils.errors import UserError
from utils.options.data_paths import holds_outputs
from utils.options.digests import content_digest, forget_digests


def test_a_tree_keeps_its_own_imbalance_and_its_pixels(tmp_path):
    data = folder_data(write_folder(tmp_path))
    assert (data.class_counts, data.class_names) == ([6, 3, 2], list(CLASSES))
    assert (len(data.test), data.heldout) == (6, None)
    expected = {
        noise(32, 32, 3, seed=100 * k + i).tobytes()
        for k, n in enumerate((6, 3, 2))
        for i in range(n)
    }
    assert {image.tobytes() for image in pixels_of(data.train)} == expected
    np.testing.assert_array_equal(pixels_of(data.test)[0], noise(32, 32, 3, seed=1000))


def test_every_image_of_a_subset_keeps_its_file_and_its_label(tmp_path):
    """The subset shuffles each class. Evaluation names the files of its outputs by these names."""
    tree = write_folder(tmp_path, counts=(12, 9, 7))
    data = folder_data(
        tree, "--imb_type", "exp", "--imb_factor", 0.25, "--heldout_fraction", 0.25, "--seed", 0
    )
    assert data.train.files != sorted(data.train.files)
    for split in (data.train, data.test, data.heldout):
        named = zip(split.files, split.labels.tolist(), pixels_of(split), strict=True)
        for name, label, pixels in named:
            assert name.split("/")[-2] == CLASSES[label]
            np.testing.assert_array_equal(pixels, np.asarray(Image.open(tree / name)))


@pytest.mark.parametrize(
    ("splits", "test_seed", "heldout_seed"),
    [(("train", "test"), 1, None), (("train", "val"), 1, None), (("train", "test", "val"), 1, 2)],
)
def test_val_is_held_out_beside_test_and_is_the_test_set_without_it(
    tmp_path, splits, test_seed, heldout_seed
):
    data = folder_data(write_folder(tmp_path, splits=splits))
    np.testing.assert_array_equal(pixels_of(data.test)[0], noise(32, 32, 3, seed=1000 * test_seed))
    assert (data.heldout is None) == (heldout_seed is None)
    if heldout_seed:
        first = noise(32, 32, 3, seed=1000 * heldout_seed)
        np.testing.assert_array_equal(pixels_of(data.heldout)[0], first)


@pytest.mark.parametrize(
    "suffix", ["JPG", "jpeg", "Png", "bmp", "gif", "webp", "TIF", "tiff", "ppm"]
)
def test_every_common_format_is_read_as_pillow_reads_it(tmp_path, suffix):
    name = f"a.{suffix}"
    write_folder(tmp_path, counts=(1, 1, 1))
    save(tmp_path / "train" / "ant" / name, noise(32, 32, 3, seed=9))
    data = folder_data(tmp_path)
    assert data.class_counts == [2, 1, 1]
    with Image.open(tmp_path / "train" / "ant" / name) as image:
        expected = np.asarray(image.convert("RGB"))
    assert any(np.array_equal(image, expected) for image in pixels_of(data.train)[:2])


@pytest.mark.parametrize("size", [(50, 40), (20, 33), (32, 31), (7, 90)])
def test_images_of_other_sizes_are_resized_by_the_shorter_side_and_cropped_in_the_centre(size):
    image = Image.fromarray(noise(*size[::-1], 3))
    scale = 32 / min(size)
    resized = image.resize([max(32, int(x * scale)) for x in size], Image.Resampling.BILINEAR)
    left, top = (round((x - 32) / 2) for x in resized.size)
    expected = resized.crop((left, top, left + 32, top + 32))
    np.testing.assert_array_equal(fit(image, 32), expected)


def test_large_images_are_prepared_as_imagenets_test_images_are():
    from torchvision import transforms

    image = Image.fromarray(noise(301, 417, 3))
    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    np.testing.assert_array_equal(fit(image, 224), theirs(image))


@pytest.mark.parametrize("side", [32, 64])
def test_an_image_of_the_asked_size_is_unchanged(side):
    pixels = noise(side, side, 3)
    np.testing.assert_array_equal(fit(Image.fromarray(pixels), side), pixels)


def test_grey_palette_and_16_bit_images_become_rgb(tmp_path):
    grey = noise(32, 32)
    expected = np.repeat(grey[..., None], 3, axis=2)
    wide = Image.fromarray(grey.astype(np.uint16) * 256 + 77)
    for image in (Image.fromarray(grey), Image.fromarray(grey).convert("P"), wide):
        np.testing.assert_array_equal(to_rgb(image), expected)
    wide.save(tmp_path / "wide.png")
    with Image.open(tmp_path / "wide.png") as image:
        np.testing.assert_array_equal(to_rgb(image), expected)
    with pytest.raises(ValueError, match="32-bit"):
        to_rgb(Image.fromarray(grey.astype(np.float32)))


def test_hidden_and_other_files_are_no_images(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "ant" / "._00.png").write_bytes(b"resource fork")
    (tmp_path / "train" / "ant" / "labels.csv").write_text("no image")
    data = folder_data(tmp_path)
    assert data.class_counts == [6, 3, 2] and "hidden name" not in data.account()


def test_images_in_a_hidden_folder_are_left_out_and_named(tmp_path):
    """A class called `.5 mm` would otherwise be gone without a word."""
    write_folder(tmp_path)
    save(tmp_path / "train" / ".5 mm" / "a.png", noise(32, 32, 3))
    data = folder_data(tmp_path)
    assert data.class_names == list(CLASSES)
    assert f"1 folder with a hidden name ({tmp_path / 'train' / '.5 mm'})" in data.account()


def test_a_tree_is_decoded_once_for_each_size(tmp_path, monkeypatch):
    write_folder(tmp_path)
    first, small = folder_data(tmp_path), folder_data(tmp_path, "--image_size", 16)
    assert small.train.images.shape == (11, 3, 16, 16)

    def refuse(*args, **kwargs):
        raise AssertionError("decoded again")

    monkeypatch.setattr(datasets.files.decode, "read_pixels", refuse)
    assert torch.equal(folder_data(tmp_path).train.images, first.train.images)
    assert torch.equal(folder_data(tmp_path, "--image_size", 16).test.images, small.test.images)


def test_exp_caps_every_class_by_what_it_has_and_holds_out_the_rest(tmp_path):
    write_folder(tmp_path, counts=(10, 9, 9))
    data = folder_data(tmp_path, "--imb_type", "exp", "--imb_factor", 0.2)
    assert data.class_counts == [10, 4, 2]
    assert torch.bincount(data.heldout.labels).tolist() == [0, 5, 7]
    write_folder(tmp_path, counts=(10, 9, 9), splits=("train", "test", "val"))
    own = folder_data(tmp_path, "--imb_type", "exp", "--imb_factor", 0.2)
    assert own.class_counts == [10, 4, 2] and len(own.heldout) == 6


@pytest.mark.parametrize("stream", [False, True])
def test_all_faults_are_collected_counted_and_the_first_few_named(tmp_path, stream):
    write_folder(tmp_path)
    (tmp_path / "train" / "dog").mkdir()
    save(tmp_path / "test" / "eel" / "0.png", noise(32, 32, 3))
    for name in ("00.png", "01.png", "02.png"):
        (tmp_path / "train" / "ant" / name).write_bytes(b"no image")
    message = refused(tmp_path, "--stream", stream)
    assert message.startswith(f"--data_root {tmp_path}: 5 faults: ")
    assert f"{tmp_path}/train/dog: no images" in message
    assert f"{tmp_path}/test/eel: a class without a folder in {tmp_path}/train" in message
    assert f"{tmp_path}/train/ant/00.png: " in message and " and 2 more; " in message
    assert not list(tmp_path.glob("*.npz"))


@pytest.mark.parametrize("splits", [("train", "test"), ("",)], ids=["splits", "flat"])
def test_a_class_of_files_that_pillow_cannot_open_is_not_said_to_be_empty(splits, tmp_path):
    write_folder(tmp_path, splits=splits)
    for folder in ("scan", "scans"):
        (tmp_path / splits[0] / folder).mkdir()
    for name in ("scan/1.dcm", "scan/2.dcm", "scans/3.dcm"):
        (tmp_path / splits[0] / name).write_bytes(b"DICM")
    place = tmp_path / splits[0] / "scan"
    assert (
        f"{place}: no images, but files that Pillow cannot open ({place}/1.dcm and 1 more)"
    ) in refused(tmp_path)


def test_a_tree_without_training_images_is_refused_with_what_is_there(tmp_path):
    assert "neither train and test nor class folders" in refused(tmp_path)
    (tmp_path / "test").mkdir()
    assert "no folder train (or training) beside test" in refused(tmp_path)
    (tmp_path / "train").mkdir()
    assert f"no class folders in {tmp_path}/train (if a table has the" in refused(tmp_path)


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_split_without_class_folders_is_refused_by_name(split, tmp_path):
    write_folder(tmp_path)
    shutil.rmtree(tmp_path / "test")
    save(tmp_path / split / "loose.png", noise(32, 32, 3))
    assert f"no class folders in {tmp_path}/{split} (images without labels" in refused(tmp_path)


def write_folders(root, *folders):
    for seed, folder in enumerate(folders):
        for i in range(2):
            save(root / folder / f"{i}.png", noise(32, 32, 3, seed=2 * seed + i))
    return root


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (("train/2021", "train/2022", "bus", "car"), "the 4 images of bus, car are not used"),
        (("train/a", "train/b", "dev/a", "dev/b"), "if a test set is among dev, rename it to test"),
        (("test/2021", "bus", "car"), "no folder train (or training) beside test; if these are "),
    ],
    ids=["a class train", "a test set of another name", "a class test"],
)
def test_a_split_that_may_be_a_class_is_told(folders, says, tmp_path, capsys):
    """The other classes, or a test set made by hand, are not used."""
    root = write_folders(tmp_path, *folders)
    if folders[0].startswith("train"):
        assert folder_data(root).class_names == [folder.split("/")[1] for folder in folders[:2]]
        message = capsys.readouterr().err
    else:
        message = refused(root)
    assert says in message and "move all class folders into a new folder train" in message
    wrapped = tmp_path / "wrapped"
    for name in {folder.split("/")[0] for folder in folders}:
        (wrapped / "train").mkdir(parents=True, exist_ok=True)
        (tmp_path / name).rename(wrapped / "train" / name)
    classes = sorted(path.name for path in (wrapped / "train").iterdir())
    assert folder_data(wrapped).class_names == classes
    assert not capsys.readouterr().err


def test_folders_beside_the_splits_are_mentioned_with_their_images(tmp_path, monkeypatch):
    def refuse(path):
        raise AssertionError(f"{path} is opened")

    monkeypatch.setattr("datasets.files.trees.is_image", refuse)
    root = write_folders(tmp_path, "train/a", "train/b")
    (root / "notes").mkdir()
    save(root / "notes" / ".trash" / "x.png", noise(32, 32, 3))
    (root / "notes" / "up").symlink_to("..")
    (root / "notes" / "boxes.xml").touch()
    assert folder_data(root).account().endswith("; ignored: folder notes (0 images)")
    write_folders(root, "test/a", "test/b", "all/deep")
    save(root / "one" / "x.png", noise(32, 32, 3))
    told = folder_data(root).account()
    assert "folder all (2 images), folder notes (0 images), folder one (1 image)" in told


def test_images_beside_the_splits_are_mentioned(tmp_path):
    write_folder(tmp_path)
    for name in ("a.png", "b.png"):
        save(tmp_path / name, noise(32, 32, 3))
    (tmp_path / "decoded-32.npz").write_bytes(b"a cache")
    outside = f"2 files outside the class folders (such as {tmp_path / 'a.png'})"
    assert outside in folder_data(tmp_path).account()


@pytest.mark.parametrize("splits", [False, True], ids=["flat", "splits"])
def test_the_folder_of_runs_is_no_class(splits, tmp_path, monkeypatch):
    """`cd photos; python main.py --data_root .` leaves `checkpoint` among the photos."""
    root = tmp_path / "photos"
    write_folder(root)
    if not splits:
        shutil.rmtree(root / "test")
        root = (root / "train").rename(tmp_path / "flat")
    save(root / "checkpoint" / "run" / "report.png", noise(32, 32, 3))
    monkeypatch.chdir(root)
    data = folder_data(".")
    assert data.class_names == list(CLASSES) and "ignored" not in data.account()
    monkeypatch.chdir(tmp_path.parent)
    if not splits:  # runs are elsewhere, so it is a folder as any other
        assert "checkpoint" in folder_data(root).class_names


@pytest.mark.parametrize(
    "files",
    [
        ("checkpoint/a/args.json", "checkpoint/a/log.csv", "checkpoint/b/ckpt.pth.tar"),
        ("comparison/table.json", "comparison/RESULTS.md"),
        ("comparison/runs/ce/args.json", "comparison/runs/ce/summary.json"),
        ("cat/old/args.json", "cat/old/ckpt.best.pth.tar"),
    ],
    ids=["runs", "a comparison", "an unfinished comparison", "a run in a class"],
)
@pytest.mark.parametrize("splits", [False, True], ids=["flat", "splits"])
def test_runs_of_another_time_are_left_out_and_named(files, splits, tmp_path):
    """Whoever called the program with other folders for its output has runs among the photos."""
    root = place = write_folder(tmp_path / "photos")
    if splits:
        place = root / "train"
    else:
        root = place = (root / "train").rename(tmp_path / "flat")
    before = folder_data(root), content_digest(str(root))
    for name in files:
        file = place / name
        save(file.with_name("report.png"), noise(32, 32, 3))
        file.touch()
    if files[-1].endswith("b/ckpt.pth.tar"):
        (place / "checkpoint/b/args.json").touch()
    forget_digests()
    data = folder_data(root)
    assert (data.class_names, data.class_counts) == (before[0].class_names, before[0].class_counts)
    folder = files[0].rpartition("/")[0].removesuffix("/a").removesuffix("/runs/ce")
    assert f"1 folder with runs ({place / folder})" in data.account()
    assert content_digest(str(root)) == before[1]


def test_runs_that_lie_deeper_are_left_out_too(tmp_path):
    """Those of several seeds, and those of a stage 2 whose stage 1 is elsewhere."""
    root = write_folder(tmp_path / "photos", splits=("",))
    before = folder_data(root).class_counts, content_digest(str(root))
    for run in ("bs/run/seed0", "bs/run/seed1", "later/stage 1/stage 2"):
        save(root / run / "report.png", noise(32, 32, 3))
        for name in ("args.json", "log.csv"):
            (root / run / name).touch()
    (root / "bs" / "run" / "summary.json").touch()
    forget_digests()
    data = folder_data(root)
    assert (data.class_counts, content_digest(str(root))) == before
    assert f"2 folders with runs (such as {root / 'bs'})" in data.account()


def test_a_link_to_the_folder_above_is_no_folder_of_runs(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "up").symlink_to("..")
    assert not holds_outputs(tmp_path) and not holds_outputs(tmp_path / "cat")


def test_one_file_of_a_run_makes_no_run(tmp_path):
    """A folder of photographs may have any file."""
    root = write_folder(tmp_path)
    for folder, name in (("cat", "args.json"), ("bee", "ckpt.pth.tar")):
        (root / "train" / folder / name).touch()
    (root / "train" / "cat" / "inside" / "run").mkdir(parents=True)
    data = folder_data(root)
    assert data.class_names == list(CLASSES) and "with runs" not in data.account()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", [np.float32, np.int16])
def test_32_bit_and_signed_grey_are_refused_by_name(kind, stream, tmp_path):
    write_folder(tmp_path)
    for split in ("train", "test"):
        path = tmp_path / split / "ant" / "x.tif"
        if kind == np.int16:
            Image.fromarray(noise(32, 32).astype(np.uint16)).save(path, tiffinfo={339: 2})
        else:
            save(path, noise(32, 32).astype(kind))
    message = refused(tmp_path, "--stream", stream)
    assert "train/ant/x.tif: 32-bit or signed grey" in message
    assert "test/ant/x.tif: 32-bit or signed grey" in message


def test_12_bit_values_in_16_bits_warn(tmp_path, capsys):
    """They keep 4 bits. Pictures of a few bright points are as dark, but not damaged."""

    def warned(root, picture):
        for i in range(4):
            save(root / "ab"[i % 2] / f"{i}.png", picture(i))
        folder_data(root)
        return capsys.readouterr().err

    values = np.random.default_rng(0).integers(0, 4096, (4, 32, 32), dtype=np.uint16)
    points = np.where(noise(4, 32, 32) < 4, 255, 0).astype(np.uint8)
    warning = warned(tmp_path / "12 bits", lambda i: values[i])
    assert "nearly black (mean 7." in warning and "; of 16 bits only the upper 8" in warning
    assert not warned(tmp_path / "16 bits", lambda i: values[i] * 16)
    assert not warned(tmp_path / "points", lambda i: points[i])


def test_too_many_pixels_are_named_by_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)
    write_folder(tmp_path)
    save(tmp_path / "train" / "ant" / "scan.png", np.zeros((1500, 1400), np.uint8))
    assert "scan.png: more than 2 megapixels" in refused(tmp_path)


def test_a_part_that_holds_no_image_out_is_refused(tmp_path):
    write_folder(tmp_path)
    message = refused(tmp_path, "--heldout_fraction", 0.1, "--select_on", "heldout")
    assert "holds out no image" in message and "at least 1/6" in message
    data = folder_data(tmp_path, "--heldout_fraction", 0.17)
    assert len(data.heldout) == 1
    assert "1 held out in 1 of 3 classes (0.17 of each class (--heldout_fr" in data.account()
    whole = folder_data(tmp_path, "--heldout_fraction", 0.5).account()
    assert whole.endswith("6 test (test/), 5 held out (0.5 of each class (--heldout_fraction))")


def test_classes_without_test_images_are_named(tmp_path):
    write_folder(tmp_path)
    assert "without test images" not in folder_data(tmp_path).account()
    for name in ("ant", "cat"):
        shutil.rmtree(tmp_path / "test" / name)
    told = folder_data(tmp_path).account()
    assert told.endswith("2 test (test/), none held out; 2 classes without test images (ant, cat)")


def test_class_folders_that_differ_only_in_case_or_spaces_are_told(tmp_path):
    write_folders(tmp_path, "a", "a ", "b")
    told = folder_data(tmp_path).account()
    assert told.endswith("none held out; the classes 'a' and 'a ' differ only in case or spaces")


def test_control_characters_of_names_are_kept_and_escaped_in_the_account(tmp_path):
    write_folders(tmp_path, "a\nb", "\x1b[31mred")
    (tmp_path / "a\nb" / "no\timage").touch()
    data = folder_data(tmp_path)
    assert data.class_names == ["\x1b[31mred", "a\nb"]
    assert data.account().isprintable() and r"(\x1b[31mred 1 to a\nb 1)" in data.account()


def test_a_held_out_fraction_and_val_contradict_each_other(tmp_path):
    write_folder(tmp_path, splits=("train", "test", "val"))
    assert "--heldout_fraction 0.5" in refused(tmp_path, "--heldout_fraction", 0.5)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--dataset", "cifar10", "--image_size", 16), "--image_size"),
        (("--dataset", "npz", "--stream", "True"), "--stream True"),
        (("--dataset", "folder", "--list_root", "x"), "--list_root"),
        (("--dataset", "folder", "--image_size", 7), "8 <= x <= 1024"),
        (("--stream", "maybe"), "'maybe'"),
    ],
)
def test_flags_that_do_not_belong_to_the_data_are_refused(flags, says):
    with pytest.raises(UserError, match=says):
        options(*flags)


def test_a_factor_without_an_effect_warns(tmp_path, capsys):
    write_folder(tmp_path)
    assert folder_data(tmp_path, "--imb_factor", 0.5).class_counts == [6, 3, 2]
    assert "--imb_factor 0.5 has no effect with --imb_type natural" in capsys.readouterr().err
    folder_data(tmp_path)
    folder_data(tmp_path, "--imb_type", "exp", "--imb_factor", 0.5)
    assert capsys.readouterr().err == ""

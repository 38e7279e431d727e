"""One's own images, as a tree or in an npz file: what is read, what is refused, and whole runs."""

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image

import datasets.image_files
from datasets import load_data, normalisation
from datasets.image_files import fit, to_rgb
from tests.helpers import REPOSITORY, call, load, read_summary, succeed, write_tree
from utils.command_line import parse_options
from utils.errors import UserError
from utils.folders import run_folder

CLASSES = ("ant", "bee", "cat")


def options(*flags):
    return parse_options([str(flag) for flag in flags])


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_folder(root, counts=(6, 3, 2), splits=("train", "test"), side=32):
    """A tree of noise with these numbers of training images, and two of each class elsewhere."""
    for seed, split in enumerate(splits):
        for label, (name, count) in enumerate(zip(CLASSES, counts, strict=True)):
            for i in range(count if split == "train" else 2):
                pixels = noise(side, side, 3, seed=1000 * seed + 100 * label + i)
                save(root / split / name / f"{i:02}.png", pixels)
    return root


def pixels_of(split):
    return split.images.permute(0, 2, 3, 1).numpy()


def folder_data(root, *flags):
    return load_data(options("--dataset", "folder", "--data_root", root, *flags))


# -------- trees --------


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


@pytest.mark.parametrize(
    ("splits", "test_seed", "heldout_seed"),
    [(("train", "test"), 1, None), (("train", "val"), 1, None), (("train", "test", "val"), 1, 2)],
)
def test_val_is_held_out_beside_test_and_else_the_test_set(
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


def test_grey_palette_transparent_and_16_bit_images_become_rgb(tmp_path):
    grey = noise(32, 32)
    expected = np.repeat(grey[..., None], 3, axis=2)
    wide = Image.fromarray(grey.astype(np.uint16) * 256 + 77)
    for image in (Image.fromarray(grey), Image.fromarray(grey).convert("P"), wide):
        np.testing.assert_array_equal(to_rgb(image), expected)
    wide.save(tmp_path / "wide.png")
    with Image.open(tmp_path / "wide.png") as image:
        np.testing.assert_array_equal(to_rgb(image), expected)
    rgba = np.dstack([expected, noise(32, 32, seed=1)])
    np.testing.assert_array_equal(to_rgb(Image.fromarray(rgba)), expected)
    with pytest.raises(ValueError, match="32-bit"):
        to_rgb(Image.fromarray(grey.astype(np.float32)))


def test_hidden_and_other_files_are_no_images(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "ant" / "._00.png").write_bytes(b"resource fork")
    (tmp_path / "train" / "ant" / "labels.csv").write_text("no image")
    assert folder_data(tmp_path).class_counts == [6, 3, 2]


def test_a_tree_is_decoded_once_for_each_size(tmp_path, monkeypatch):
    write_folder(tmp_path)
    first, small = folder_data(tmp_path), folder_data(tmp_path, "--image_size", 16)
    assert small.train.images.shape == (11, 3, 16, 16)

    def refuse(*args, **kwargs):
        raise AssertionError("decoded again")

    monkeypatch.setattr(datasets.image_files, "read_pixels", refuse)
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


# -------- what is wrong with a tree --------


def refused(root, *flags):
    with pytest.raises(UserError) as raised:
        folder_data(root, *flags)
    return str(raised.value)


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
    assert f"{tmp_path}/test/eel: a class that {tmp_path}/train lacks" in message
    assert f"{tmp_path}/train/ant/00.png: " in message and message.endswith(" and 2 more")
    assert not list(tmp_path.glob("*.npz"))


def test_a_tree_without_train_or_without_test_is_refused(tmp_path):
    assert "neither of the folders test and val" in refused(tmp_path)
    (tmp_path / "test").mkdir()
    assert f"no folder {tmp_path}/train" in refused(tmp_path)
    (tmp_path / "train").mkdir()
    assert "no class folders" in refused(tmp_path)


def test_32_bit_grey_is_refused_by_name(tmp_path):
    write_folder(tmp_path)
    save(tmp_path / "train" / "ant" / "x.tif", noise(32, 32).astype(np.float32))
    assert "x.tif: 32-bit grey" in refused(tmp_path)


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


# -------- npz --------


def write_npz(path, counts=(6, 4, 3), side=28, colour=False, flat_labels=False, **changes):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.uint8)
    labels = np.random.default_rng(0).permutation(labels)
    arrays = {}
    for seed, split in enumerate(("train", "val", "test")):
        found = labels if split == "train" else labels[:5]
        shape = (len(found), side, side, 3) if colour else (len(found), side, side)
        centre = 60 + 60 * found.reshape(-1, *[1] * (len(shape) - 1))
        arrays[f"{split}_images"] = (centre + noise(*shape, seed=seed) // 8).astype(np.uint8)
        arrays[f"{split}_labels"] = found if flat_labels else found[:, None]
    arrays |= changes
    np.savez_compressed(path, **{name: a for name, a in arrays.items() if a is not None})
    return arrays


def npz_data(path, *flags):
    return load_data(options("--dataset", "npz", "--data_root", path, *flags))


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("side", [28, 64])
def test_an_npz_file_gives_its_images_in_three_channels_with_val_held_out(tmp_path, colour, side):
    path = tmp_path / "own.npz"
    arrays = write_npz(path, side=side, colour=colour, flat_labels=colour)
    data = npz_data(path)
    assert data.class_counts == [6, 4, 3] and data.class_names == ["0", "1", "2"]
    for split, key in ((data.test, "test"), (data.heldout, "val")):
        images = arrays[f"{key}_images"]
        expected = images if colour else np.repeat(images[..., None], 3, axis=3)
        np.testing.assert_array_equal(pixels_of(split), expected)
        np.testing.assert_array_equal(split.labels, arrays[f"{key}_labels"].ravel())


def test_an_npz_file_is_resized_where_a_side_is_asked_for(tmp_path):
    arrays = write_npz(tmp_path / "own.npz")
    data = npz_data(tmp_path / "own.npz", "--image_size", 32)
    first = Image.fromarray(arrays["test_images"][0]).convert("RGB").resize((32, 32), 2)
    np.testing.assert_array_equal(pixels_of(data.test)[0], first)


def test_val_is_the_test_set_of_an_npz_file_without_one(tmp_path):
    arrays = write_npz(tmp_path / "own.npz", test_images=None, test_labels=None)
    data = npz_data(tmp_path / "own.npz")
    assert data.heldout is None
    np.testing.assert_array_equal(pixels_of(data.test)[..., 0], arrays["val_images"])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train_labels": None}, ["no train_labels"]),
        ({"train_images": None, "train_labels": None}, ["no train_images"]),
        ({"test_images": None, "val_labels": None}, ["no test_images", "no val_labels"]),
        ({"train_images": np.zeros((13, 28, 28), np.float32)}, ["float32 [13, 28, 28]"]),
        ({"train_images": noise(13, 28, 20)}, ["[13, 28, 20]"]),
        ({"train_images": noise(13, 4, 4)}, ["[13, 4, 4]", "from 8 to 1024"]),
        ({"train_images": np.uint8(3)}, ["train_images are uint8 []"]),
        ({"test_labels": np.int64(3)}, ["test_labels are int64 []"]),
        ({"train_labels": 2**40 * np.arange(13)}, ["[1, 2, 3, 4, 5] of train_labels"]),
        ({"test_images": noise(5, 28, 28, 28)}, ["test_images", "[5, 28, 28, 28]"]),
        ({"train_labels": np.zeros((13, 14), np.uint8)}, ["[13, 14]", "each of 13 images"]),
        ({"train_labels": np.zeros(12, np.int64)}, ["[12]"]),
        ({"train_labels": np.arange(13) - 1}, ["train_labels go down to -1"]),
        ({"train_labels": 2 * np.arange(13)}, ["[1, 3, 5, 7, 9] of train_labels"]),
        (
            {"test_labels": np.array([0, 1, 2, 7, 0]), "val_labels": np.array([0, 9, 2, 1, 0])},
            ["[7] of test_labels", "[9] of val_labels"],
        ),
        ({"test_images": noise(0, 28, 28), "test_labels": noise(0)}, ["test_images are none"]),
    ],
)
def test_what_is_wrong_with_an_npz_file_is_named(tmp_path, changes, says):
    write_npz(tmp_path / "own.npz", **changes)
    with pytest.raises(UserError) as raised:
        npz_data(tmp_path / "own.npz")
    assert all(part in str(raised.value) for part in [str(tmp_path / "own.npz"), *says])


@pytest.mark.parametrize("damage", ["missing", "folder", "garbage", "cut off", "pickle"])
def test_an_npz_file_that_cannot_be_read_is_named_and_nothing_in_it_runs(tmp_path, damage):
    path = tmp_path / "own.npz"
    if damage == "folder":
        path.mkdir()
    elif damage == "garbage":
        path.write_bytes(b"no archive")
    elif damage == "cut off":
        write_npz(path)
        path.write_bytes(path.read_bytes()[:500])
    elif damage == "pickle":
        write_npz(path, train_images=np.array([random], dtype=object)[:0])
    with pytest.raises(UserError, match=f"--data_root {path}"):
        npz_data(path)


# -------- normalisation --------


def test_own_data_are_normalised_by_their_training_images(tmp_path):
    write_npz(tmp_path / "own.npz", colour=True)
    data = npz_data(tmp_path / "own.npz")
    scaled = pixels_of(data.train).reshape(-1, 3) / 255.0
    np.testing.assert_allclose(data.mean, scaled.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(data.std, scaled.std(axis=0), rtol=1e-12)
    for name, constants in normalisation.CONSTANTS.items():
        chosen = npz_data(tmp_path / "own.npz", "--normalisation", name)
        assert (chosen.mean, chosen.std) == (constants.mean, constants.std)
    assert load_data(options("--dataset", "digits")).mean == normalisation.CIFAR.mean


def test_a_channel_without_deviation_is_only_centred():
    images = torch.full((2, 3, 4, 4), 51, dtype=torch.uint8)
    found = normalisation.of_images([images])
    assert found.mean == pytest.approx((0.2,) * 3) and found.std == (1.0,) * 3


def test_the_recorded_normalisation_counts_where_none_is_asked_for(tmp_path):
    write_npz(tmp_path / "own.npz")
    remembered = {"data": {"normalisation": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}}
    chosen = options("--dataset", "npz", "--data_root", tmp_path / "own.npz")
    assert load_data(chosen, remembered).mean == (0.1, 0.2, 0.3)
    for damaged in (
        {},
        {"mean": [0.1], "std": [1.0] * 3},
        {"mean": [0.1] * 3, "std": [0.0] * 3},
        3,
    ):
        with pytest.raises(UserError, match="recorded normalisation"):
            load_data(chosen, {"data": {"normalisation": damaged}})


# -------- whole runs --------


def both_stages(root, data, epochs=2, arch="resnet20"):
    """Flags of stage 1 and of stage 2 from it, and stage 2's records."""
    common = ["--root_log", root, "--root_model", root, "--seed", 1, "-b", 16, "-a", arch, *data]
    common = [str(flag) for flag in common]
    first = [*common, "--epochs", str(epochs), "--schedule", "cosine"]
    pretrained = run_folder(parse_options(first)).models.name
    second = [
        *(*common, "--pretrained", pretrained, "--epochs", "2", "--balanced_clf_nepochs", "1"),
        *("--feat_loss", "ce_lt,robust_loss", "--feat_sampler", "resample,2", "--cls_loss", "ce"),
        *("--temperature", "1", "--margin", "1"),
    ]
    return first, second, run_folder(parse_options(second)).records


def train_and_evaluate(root, *data, arch="resnet20"):
    """Stage 2's records after both stages and the evaluation."""
    first, second, records = both_stages(root, data, arch=arch)
    succeed(first)
    succeed(second)
    succeed([*second, "--evaluation", "True"])
    assert (records / "outputs_test.npz").exists()
    return records


def test_a_tree_trains_and_evaluates_with_its_own_normalisation(tmp_path, no_figures):
    tree = write_folder(tmp_path / "own")
    records = train_and_evaluate(tmp_path, "--dataset", "folder", "--data_root", tree)
    assert records.parent.name == "folder_resnet20_CE_None_natural_0.01_0"
    summary = read_summary(records)
    assert (summary["dataset"], summary["class_counts"]) == ("folder", [6, 3, 2])
    arguments = json.loads((records / "args.json").read_text())
    remembered = load(records.parent / "ckpt.best.pth.tar")["data"]["normalisation"]
    data = folder_data(tree)
    assert remembered == {"mean": list(data.mean), "std": list(data.std)}
    assert arguments["normalisation"] == "auto"
    assert arguments["data"]["normalisation"] == remembered
    assert arguments["imb_type"] == "natural" and arguments["image_size"] == 32


def test_an_npz_file_trains_and_evaluates_and_stage_2_takes_stage_1s_normalisation(
    tmp_path, no_figures
):
    path = tmp_path / "own.npz"
    write_npz(path)
    first, second, records = both_stages(tmp_path, ["--dataset", "npz", "--data_root", path])
    succeed(first)
    remembered = load(records.parent / "ckpt.best.pth.tar")["data"]["normalisation"]
    write_npz(path, train_images=noise(13, 28, 28, seed=7))
    assert any("another subset" in w for w in succeed(second).warnings)
    assert load(records / "ckpt.best.pth.tar")["data"]["normalisation"] == remembered
    succeed([*second, "--evaluation", "True"])
    assert read_summary(records)["heldout"]["images"] == 5


def test_going_on_with_other_images_is_refused(tmp_path, no_figures):
    path, other = tmp_path / "own.npz", tmp_path / "other.npz"
    write_npz(path)
    write_npz(other)
    first, *_ = both_stages(tmp_path, ["--dataset", "npz", "--data_root", path])
    succeed(first)
    outcome = call([*first, "--resume", "True", "--data_root", str(other)])
    assert outcome.status == 2 and f"--data_root {other} (recorded: {path})" in outcome.err
    folder = run_folder(parse_options(first)).records
    (folder / "summary.json").unlink()
    write_npz(path, train_images=noise(13, 28, 28, seed=7))
    outcome = call([*first, "--resume", "True"])
    assert outcome.status == 2 and "other training images" in outcome.err


def equal_to_cifar(cifar, tree):
    """The same subset, held-out and test images by both data sets."""
    flags = ("--imb_type", "exp", "--normalisation", "cifar", "--data_root", tree)
    own = load_data(options("--dataset", "folder", *flags, "--imb_factor", cifar[1]))
    theirs = load_data(
        options("--dataset", cifar[0], "--data_root", tree.parent, "--imb_factor", cifar[1])
    )
    assert (own.fingerprint, own.class_counts) == (theirs.fingerprint, theirs.class_counts)
    assert (own.class_names, own.mean, own.std) == (theirs.class_names, theirs.mean, theirs.std)
    for split in ("train", "test", "heldout"):
        ours, expected = getattr(own, split), getattr(theirs, split)
        assert torch.equal(ours.images, expected.images), split
        assert torch.equal(ours.labels, expected.labels), split


def test_a_tree_of_cifar_gives_cifars_subset_and_results(tmp_path, no_figures):
    tree = write_tree(tmp_path / "data", 15, 2) / "cifar10"
    equal_to_cifar(("cifar10", 0.1), tree)
    own = [
        "--dataset",
        "folder",
        "--data_root",
        tree,
        "--imb_type",
        "exp",
        "--normalisation",
        "cifar",
    ]
    theirs = ["--dataset", "cifar10", "--data_root", tree.parent]
    results = []
    for data in (own, theirs):
        flags = [*data, "--imb_factor", 0.1]
        first, second, records = both_stages(tmp_path / data[1], flags, epochs=1)
        succeed(first)
        succeed(second)
        summary = read_summary(records)
        results.append([summary[key] for key in ("test", "heldout", "class_counts", "seed")])
    assert results[0] == results[1]


def test_the_real_cifar_100_as_a_plain_tree_gives_the_same_subset():
    tree = REPOSITORY / "data" / "cifar100"
    if not (tree / "train").is_dir():
        pytest.skip(f"no PNG files of CIFAR-100 in {tree}")
    equal_to_cifar(("cifar100", 0.01), tree)

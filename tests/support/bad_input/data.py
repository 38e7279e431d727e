"""Data that are missing, damaged, or too few."""

import shutil

import numpy as np
from PIL import Image

from tests.support.bad_input.cases import case
from tests.support.own_images import write_npz


@case("--dataset cifar10", "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "nowhere")
def data_that_are_missing_and_cannot_be_downloaded(scene):
    return scene.stage_1("--data_root", scene.tmp / "nowhere")


@case("--dataset cifar10", "cifar-10-python.tar.gz")
def data_missing_below_a_folder_that_is_missing_too(scene):
    return scene.stage_1("--data_root", scene.tmp / "nowhere" / "at" / "all")


@case("--dataset cifar100", "cifar-100-python.tar.gz")
def the_other_data_set_is_missing(scene):
    return scene.stage_1("--dataset", "cifar100", "--data_root", scene.own_tree())


@case("file.txt")
def a_data_root_that_is_a_file(scene):
    (scene.tmp / "file.txt").write_text("no folder")
    return scene.stage_1("--data_root", scene.tmp / "file.txt")


@case("10 class folders", "9")
def a_missing_class_folder(scene):
    return scene.stage_1("--data_root", scene.own_tree(classes=9))


@case("10 class folders", "11")
def a_class_folder_too_many(scene):
    return scene.stage_1("--data_root", scene.own_tree(classes=11))


@case("class_3", "train")
def a_class_without_files(scene):
    root = scene.own_tree()
    for path in (root / "cifar10" / "train" / "class_3").iterdir():
        path.unlink()
    return scene.stage_1("--data_root", root)


@case("class_4", "class_x")
def a_class_that_only_training_has(scene):
    root = scene.own_tree()
    (root / "cifar10" / "test" / "class_4").rename(root / "cifar10" / "test" / "class_x")
    return scene.stage_1("--data_root", root)


@case("test")
def training_images_without_test_images(scene):
    root = scene.own_tree()
    shutil.rmtree(root / "cifar10" / "test")
    return scene.stage_1("--data_root", root)


@case("class_2/001.png")
def a_png_that_is_text(scene):
    root = scene.own_tree()
    (root / "cifar10" / "train" / "class_2" / "001.png").write_text("not an image")
    return scene.stage_1("--data_root", root)


@case("class_5/000.png")
def a_png_that_is_cut_off(scene):
    root = scene.own_tree()
    path = root / "cifar10" / "test" / "class_5" / "000.png"
    path.write_bytes(path.read_bytes()[:900])
    return scene.stage_1("--data_root", root)


@case("class_5/002.png")
def a_png_that_is_empty(scene):
    root = scene.own_tree()
    (root / "cifar10" / "train" / "class_5" / "002.png").write_bytes(b"")
    return scene.stage_1("--data_root", root)


@case("class_7/002.png", "28x30", "32x32")
def a_png_of_another_size(scene):
    root = scene.own_tree()
    image = Image.fromarray(np.zeros((30, 28, 3), np.uint8))
    image.save(root / "cifar10" / "train" / "class_7" / "002.png")
    return scene.stage_1("--data_root", root)


@case("cifar-10-python.tar.gz")
def an_official_archive_that_is_damaged(scene):
    folder = scene.tmp / "official"
    folder.mkdir()
    (folder / "cifar-10-python.tar.gz").write_bytes(b"not the archive")
    return scene.stage_1("--data_root", folder)


@case("--select_on heldout", "digits", "--heldout_fraction")
def selection_on_heldout_images_that_do_not_exist(scene):
    return scene.stage_1("--dataset", "digits", "--select_on", "heldout")


@case("--select_on heldout", "cifar10")
def selection_on_heldout_images_where_the_subset_leaves_none_out(scene):
    return scene.stage_1("--imb_type", "natural", "--select_on", "heldout")


@case("--imb_factor 0.001", "class 7", "123")
def an_imbalance_factor_that_empties_a_class_of_digits(scene):
    return scene.stage_1("--dataset", "digits", "--imb_factor", 0.001)


@case("--imb_factor 0.04", "class class_9", "24")
def an_imbalance_factor_that_empties_a_class_of_cifar(scene):
    return scene.stage_1("--imb_factor", 0.04)


@case("--imb_factor 0.02", "class class_5")
def a_step_that_empties_half_the_classes(scene):
    return scene.stage_1("--imb_type", "step", "--imb_factor", 0.02)


def of_table(scene, *rows):
    """Returns the command of a run on a table with these rows."""
    table = scene.tmp / "table.csv"
    table.write_text("\n".join(["path,label,split", *rows, ""]))
    return scene.stage_1("--dataset", "csv", "--data_root", table)


@case("table.csv", "lines 3 to 4", "quotation mark")
def a_quotation_mark_that_is_left_open_in_a_table(scene):
    return of_table(scene, "a.png,x,train", 'b.png,"y,train', "c.png,y,train")


@case("table.csv", "line 2", "'train' is in no column", "quotation marks")
def a_label_with_a_comma_in_a_table(scene):
    return of_table(scene, "a.png,Smith, Ann,train")


@case("table.csv", "line 3", "./a.png is already listed in line 2")
def an_image_that_a_table_lists_twice_in_two_spellings(scene):
    return of_table(scene, "a.png,x,train", "./a.png,x,test")


@case("table.csv", "x is the only class", "two classes or more")
def a_table_of_one_class(scene):
    return of_table(scene, "a.png,x,train", "b.png,x,test")


@case("--test_fraction 0.3", "test_images", "leave the flag out")
def a_test_fraction_for_an_npz_file(scene):
    write_npz(scene.tmp / "own.npz")
    flags = ("--dataset", "npz", "--data_root", scene.tmp / "own.npz")
    return scene.stage_1(*flags, "--test_fraction", 0.3)

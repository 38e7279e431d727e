"""Data that are missing, damaged, or too few."""

from tests.support.bad_input.cases import case
from tests.support.own_images import write_folder, write_npz


@case("--dataset cifar10", "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "nowhere")
def data_that_are_missing_and_cannot_be_downloaded(scene):
    return scene.stage_1("--data_root", scene.tmp / "nowhere")


@case("--dataset cifar10", "cifar-10-python.tar.gz")
def data_missing_below_a_folder_that_is_missing_too(scene):
    return scene.stage_1("--data_root", scene.tmp / "nowhere" / "at" / "all")


@case("--dataset cifar100", "cifar-100-python.tar.gz")
def the_other_data_set_is_missing(scene):
    return scene.stage_1("--dataset", "cifar100", "--data_root", scene.own_tree())


@case("file.txt is a file; --dataset cifar10 needs a folder")
def a_data_root_that_is_a_file(scene):
    (scene.tmp / "file.txt").write_text("no folder")
    return scene.stage_1("--data_root", scene.tmp / "file.txt")


@case("no cifar10 there, but folders of images", "--dataset folder")
def photographs_for_cifar(scene):
    return scene.stage_1("--data_root", write_folder(scene.tmp / "photos"))


@case("class_5/000.png")
def a_png_that_is_cut_off(scene):
    root = scene.own_tree()
    path = root / "cifar10" / "test" / "class_5" / "000.png"
    path.write_bytes(path.read_bytes()[:900])
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


@case("--test_fraction 0.3", "test_images", "leave the flag out")
def a_test_fraction_for_an_npz_file(scene):
    write_npz(scene.tmp / "own.npz")
    flags = ("--dataset", "npz", "--data_root", scene.tmp / "own.npz")
    return scene.stage_1(*flags, "--test_fraction", 0.3)

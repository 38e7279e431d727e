"""Whole runs of stage 2 on tiny data: its phases, margins, losses and samplers."""

import io
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tqdm import tqdm

from tests.support.faults import interrupted_at_check
from tests.support.helpers import (
    CLASS_COUNTS,
    CLASSIFIER_ONLY,
    NOTHING,
    STAGE_1_NAME,
    call,
    common,
    differences,
    differences_of_runs,
    features_of,
    head_of,
    load,
    read_csv,
    read_records,
    stage_1,
    stage_1_folder,
    stage_2,
    stage_2_folder,
    succeed,
    weights_of,
    without,
)
from utils.evaluation.features import class_centroids
from utils.training import selection
from utils.training.training_pass import TrainingPass

pytestmark = pytest.mark.usefixtures("no_figures")


def margins_expected(margin_type: str) -> list[float]:
    if margin_type == "sample_count":
        return [0.5 / math.sqrt(n) for n in CLASS_COUNTS]
    return [0.5] * 10


FEW_VISITS = (
    "does not visit every class in every epoch; the largest k that does is 17 (or 24, the size of "
    "the largest class)"
)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--feat_sampler", "resample,20"), f"resample,20 {FEW_VISITS}"),
        (("--cls_sampler", "resample,20"), f"resample,20 {FEW_VISITS}"),
        (("--cls_sampler", "resample,25"), "resample,25 takes more images at a visit than the"),
        (("--feat_layers", "layer4"), "layer4 (it has layer1, layer2, layer3)"),
    ],
)
def test_a_stage_2_that_cannot_train_is_refused_before_its_stage_1_trains(
    flags, says, tree, tmp_path
):
    argv = without(stage_2(tree, tmp_path / "root", *flags), "--pretrained")
    outcome = call([*argv, "--pretrain_epochs", 2, "--schedule", "scaled"])
    assert outcome.status == 2 and says in outcome.err and len(outcome.errors) == 1
    assert not list(tmp_path.iterdir())


def test_the_feature_rate_falls_along_a_cosine_and_a_resumed_run_has_the_same_bits(
    tree, pretrained, tmp_path
):
    parts = tmp_path / "parts"
    shutil.copytree(pretrained, parts)
    flags = ("--epochs", 5, "--feat_schedule", "cosine", "--resume", "True")
    succeed(stage_2(tree, pretrained, *flags))
    with interrupted_at_check(20):  # in the second feature epoch
        assert call(stage_2(tree, parts, *flags)).status == 143
    assert len(read_csv(stage_2_folder(parts))) == 1
    succeed(stage_2(tree, parts, *flags))
    assert not differences_of_runs(stage_2_folder(pretrained), stage_2_folder(parts))
    rates = [record["lr"] for record in read_records(stage_2_folder(parts))]
    # 0.05 (1 + cos(π t / 4)) / 2 for t = 0, 1, 2, 3, and the classifier's constant rate.
    cosine = [0.05, 0.05 * (2 + 2**0.5) / 4, 0.025, 0.05 * (2 - 2**0.5) / 4]
    assert rates == pytest.approx([*cosine, 0.01])


@pytest.mark.parametrize("margin_type", ["learned", "shared", "sample_count"])
def test_only_learned_margins_train(margin_type, tree, pretrained):
    flags = ("--margin_type", margin_type, "--margin", 0.5)
    succeed(stage_2(tree, pretrained, *flags, "--epochs", 2, "--balanced_clf_nepochs", 0))
    folder = stage_2_folder(pretrained)
    start = torch.tensor(margins_expected(margin_type))
    logged = [torch.tensor(record["margins"]) for record in read_records(folder)]
    saved = load(folder / "ckpt.pth.tar")["epsilons"]
    if margin_type == "learned":
        # The loss grows with every margin, so that training lowers them all.
        assert (logged[0] < start).all()
        assert (logged[1] < logged[0]).all()
    else:
        for margins in (*logged, saved):
            torch.testing.assert_close(margins, start, rtol=1e-6, atol=0)


def test_the_parts_of_the_loss_are_summed_without_weights(tree, pretrained):
    flags = ("--feat_loss", "ce_bal,robust_loss_bal", "--cls_loss", "ce_bal,ce_lt")
    succeed(stage_2(tree, pretrained, *flags, "--epochs", 2))
    features, classifier = read_csv(stage_2_folder(pretrained))
    for row, names in (
        (features, ("ce_bal", "robust_loss_bal")),
        (classifier, ("ce_bal", "ce_lt")),
    ):
        parts = [float(row[f"train_{name}"]) for name in names]
        assert float(row["train_loss"]) == pytest.approx(sum(parts), rel=1e-5)


def test_the_logged_loss_and_accuracy_are_means_over_images_not_over_batches(tree, pretrained):
    """At the rate 0 the classifier stays as it is, so the epoch's mean is that of all 117 images.
    Its last batch has 21 of them."""
    flags = ("--cls_lr", 0, "--cls_sampler", "instance", "--augment", "none", *CLASSIFIER_ONLY)
    argv = stage_2(tree, pretrained, *flags)
    succeed(argv)
    succeed([*argv, "--evaluation", "True"])
    folder = stage_2_folder(pretrained)
    head = {name: w.double() for name, w in head_of(weights_of(folder)).items()}
    with np.load(folder / "outputs_train.npz") as outputs:
        features, labels = torch.from_numpy(outputs["feats"]), torch.from_numpy(outputs["labels"])
    logits = features.double() @ head["linear.weight"].T + head["linear.bias"]
    [row] = read_csv(folder)
    loss = F.cross_entropy(logits, labels).item()
    assert float(row["train_loss"]) == float(row["train_ce"]) == pytest.approx(loss, rel=1e-5)
    top1 = 100 * (logits.argmax(dim=1) == labels).double().mean().item()
    assert float(row["train_top1"]) == pytest.approx(top1, abs=1e-3)


def test_the_centroids_of_each_feature_epoch_are_of_its_own_pass_over_resampled_augmented_images(
    tree, pretrained, monkeypatch
):
    passes, used = [], []

    def centroids_of(network, batches, num_classes, machine):
        batches = list(batches)
        centroids = class_centroids(network, batches, num_classes, machine)
        images, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
        passes.append((images, targets, centroids))
        return centroids

    def run(self, phase, epoch, centroids, bar):
        used.append(centroids)
        return original(self, phase, epoch, centroids, bar)

    original = TrainingPass.run
    monkeypatch.setattr("utils.training.trainer.class_centroids", centroids_of)
    monkeypatch.setattr(TrainingPass, "run", run)
    succeed(stage_2(tree, pretrained))
    assert len(passes) == 2 and used[2] is None  # the classifier phase needs none
    for (_, targets, centroids), given in zip(passes, used, strict=False):
        assert given is centroids
        assert torch.bincount(targets).tolist() == [max(CLASS_COUNTS)] * 10
    of_smallest = [images[targets == 9] for images, targets, _ in passes]
    # Four images of the class are drawn six times each, and cropped and flipped anew.
    assert all(len(images.flatten(1).unique(dim=0)) > 2 * 4 for images in of_smallest)
    assert not torch.equal(*of_smallest)
    assert not torch.equal(used[0], used[1])


def test_a_sampler_of_its_own_counts_in_the_classifier_phase(tree, pretrained):
    found = {}
    for name in ("none", "instance"):
        succeed(stage_2(tree, pretrained, *CLASSIFIER_ONLY, "--cls_sampler", name))
        (folder,) = pretrained.glob(f"*/robust_*cls-ce-{name}-*")
        found[name] = weights_of(folder)["linear.weight"]
    assert not torch.equal(found["none"], found["instance"])


def test_the_feature_phase_leaves_the_classifier_as_it_was(tree, finished):
    before = weights_of(finished / STAGE_1_NAME, "ckpt.best.pth.tar")
    after = weights_of(stage_2_folder(finished), "ckpt.best_features.pth.tar")
    assert not differences(head_of(before), head_of(after))
    unchanged = [name for name, w in features_of(before).items() if torch.equal(w, after[name])]
    assert unchanged == []


def test_the_classifier_phase_leaves_features_and_batch_norm_as_they_were(tree, finished):
    before = load(stage_2_folder(finished) / "ckpt.best_features.pth.tar")
    after = load(stage_2_folder(finished) / "ckpt.pth.tar")
    assert not differences(features_of(before["state_dict"]), features_of(after["state_dict"]))
    assert torch.equal(before["epsilons"], after["epsilons"])
    for name, weight in head_of(before["state_dict"]).items():
        assert not torch.equal(weight, after["state_dict"][name])


def test_without_classifier_epochs_the_best_features_are_the_result(tree, pretrained):
    succeed(stage_2(tree, pretrained, "--epochs", 2, "--balanced_clf_nepochs", 0))
    folder = stage_2_folder(pretrained)
    assert [row["phase"] for row in read_csv(folder)] == ["features", "features"]
    before = weights_of(pretrained / STAGE_1_NAME, "ckpt.best.pth.tar")
    assert not differences(head_of(before), head_of(weights_of(folder)))


def test_classifier_epochs_alone_start_from_the_stage_1_checkpoint(tree, pretrained):
    flags = ("--epochs", 2, "--balanced_clf_nepochs", 2)
    succeed(stage_2(tree, pretrained, *flags))
    folder = stage_2_folder(pretrained)
    assert [row["phase"] for row in read_csv(folder)] == ["classifier", "classifier"]
    before = weights_of(pretrained / STAGE_1_NAME, "ckpt.best.pth.tar")
    assert not differences(features_of(before), features_of(weights_of(folder)))
    assert differences(head_of(before), head_of(weights_of(folder)))


def test_a_classifier_alone_needs_no_feature_loss(tree, pretrained):
    argv = [*common(tree, pretrained), "--pretrained", STAGE_1_NAME, *CLASSIFIER_ONLY]
    succeed([*argv, "--cls_loss", "ce"])
    assert [row["phase"] for row in read_csv(stage_2_folder(pretrained))] == ["classifier"]


def test_the_best_features_and_their_margins_are_loaded_before_the_classifier_phase(
    tree, pretrained, monkeypatch
):
    """The second of four feature epochs is made the best, whatever its features are worth."""
    accuracies = {1: 20.0, 2: 40.0, 3: 30.0, 4: 40.0}

    def score(protocol, epoch, phase, results):
        is_given = phase == "features" and protocol == "test"
        return accuracies[epoch] if is_given else original(protocol, epoch, phase, results)

    original = selection.score
    monkeypatch.setattr(selection, "score", score)
    succeed(stage_2(tree, pretrained, "--epochs", 5))
    folder = stage_2_folder(pretrained)
    records = read_records(folder)
    kept, final = load(folder / "ckpt.best_features.pth.tar"), load(folder / "ckpt.pth.tar")
    assert (kept["epoch"], kept["best_acc1"], final["epoch"]) == (2, 40.0, 5)
    assert not differences(features_of(kept["state_dict"]), features_of(final["state_dict"]))
    assert final["epsilons"].tolist() == records[1]["margins"] == records[4]["margins"]
    assert records[1]["margins"] != records[3]["margins"]
    # Accuracies of the classifier phase are of these features too.
    geometry = [record["results"]["test"]["geometry"] for record in records]
    assert geometry[4] == geometry[1] != geometry[3]


def test_selection_by_the_last_epoch_loads_nothing_back(tree, pretrained):
    flags = ("--feat_lr", 0.3, "--temperature", 0.2, "--select_on", "last")
    succeed(stage_2(tree, pretrained, *flags, "--epochs", 2, "--balanced_clf_nepochs", 0))
    succeed(stage_2(tree, pretrained, *flags, "--epochs", 3, "--balanced_clf_nepochs", 1))
    (features,) = pretrained.glob("*/robust_nepochs=2*")
    (whole,) = pretrained.glob("*/robust_nepochs=3*")
    assert not differences(features_of(weights_of(features)), features_of(weights_of(whole)))


def test_stage_2_from_ldam_keeps_its_cosine_head_and_scales_it_by_30(tree, tmp_path):
    succeed(stage_1(tree, tmp_path, "--loss_type", "LDAM", "--epochs", 1))
    name = stage_1_folder(tmp_path).name
    argv = stage_2(tree, tmp_path, "--pretrained", name, "--loss_type", "LDAM", *CLASSIFIER_ONLY)
    succeed(argv)
    succeed([*argv, "--evaluation", "True"])
    folder = stage_2_folder(tmp_path)
    weight = weights_of(folder, "ckpt.best.pth.tar")["linear.weight"]
    assert weight.shape == (64, 10)
    with np.load(folder / "outputs_test.npz") as outputs:
        features, labels = torch.from_numpy(outputs["feats"]), torch.from_numpy(outputs["labels"])
    logits = 30 * F.normalize(features, dim=1) @ F.normalize(weight, dim=0)
    recorded = read_records(folder)[0]["results"]["test"]["linear"]["loss"]
    assert recorded == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)


def test_a_checkpoint_in_the_released_form_starts_the_same_stage_2(tree, pretrained, tmp_path):
    succeed(stage_2(tree, pretrained, *CLASSIFIER_ONLY))
    original = load(pretrained / STAGE_1_NAME / "ckpt.best.pth.tar")
    for prefix in ("", "module."):
        weights = {prefix + name: weight for name, weight in original["state_dict"].items()}
        released = {"epoch": original["epoch"], "arch": "resnet8", "state_dict": weights}
        released["best_acc1"] = torch.tensor([original["best_acc1"]])
        root = tmp_path / f"released{prefix}"
        (root / STAGE_1_NAME).mkdir(parents=True)
        torch.save(released, root / STAGE_1_NAME / "ckpt.best.pth.tar")
        outcome = succeed(stage_2(tree, root, *CLASSIFIER_ONLY))
        assert outcome.warnings == []
        assert not differences_of_runs(stage_2_folder(root), stage_2_folder(pretrained))


@pytest.mark.parametrize(
    "given",
    [
        "{root}/{name}",
        "{root}/{name}/ckpt.best.pth.tar",
        "{root}/{name}/ckpt.pth.tar",
        "{root}/{name}/ckpt.best_heldout.pth.tar",
        "{name}",
        "{name}/ckpt.best.pth.tar",
        "local/{name}",
        "here_{name}",
        "there_{name}",
        ".",
        "..",
    ],
)
def test_the_stage_1_checkpoint_is_found_where_the_interface_says(
    given, tree, pretrained, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    source = taken = pretrained / STAGE_1_NAME
    name = STAGE_1_NAME
    if given.startswith("local"):
        taken = shutil.copytree(source, tmp_path / "local" / STAGE_1_NAME)
    elif given.startswith("here"):
        name = f"here_{STAGE_1_NAME}"
        taken = shutil.copytree(source, tmp_path / name)
    elif given.startswith("there"):
        name = f"there_{STAGE_1_NAME}"
        taken = shutil.copytree(source, tmp_path / "pretrained" / name)
    elif given == ".":
        monkeypatch.chdir(source)
    elif given == "..":
        (source / "inner").mkdir()
        monkeypatch.chdir(source / "inner")
    text = given.format(root=pretrained, name=STAGE_1_NAME)

    outcome = succeed(stage_2(tree, pretrained, "--pretrained", text, *NOTHING))

    file = Path(text).name if text.endswith(".tar") else "ckpt.best.pth.tar"
    (said,) = (line for line in outcome.out.splitlines() if line.startswith("starts from "))
    assert Path(said.removeprefix("starts from ")).samefile(taken / file)
    # Test images choose this run's epochs; the other two files were not chosen by them.
    warned = ["so the chain is not --select_on test" in line for line in outcome.warnings]
    assert sum(warned) == (file != "ckpt.best.pth.tar")
    (summary,) = tmp_path.rglob("robust_*/summary.json")
    assert summary.parent.parent == pretrained / name


def test_a_long_epoch_is_announced_and_its_pass_for_the_centroids_has_a_bar(
    tree, pretrained, monkeypatch
):
    bars = []

    def make_bar(**arguments):
        bars.append(tqdm(**{**arguments, "disable": False, "file": io.StringIO()}))
        return bars[-1]

    monkeypatch.setattr("utils.progress.tqdm", make_bar)
    monkeypatch.setattr("datasets.loading.resident.BLOCK_BYTES", 1)  # blocks of one batch
    said = succeed(stage_2(tree, pretrained, "--cls_sampler", "resample,4")).out.splitlines()
    of_centroids = [bar for bar in bars if bar.desc.startswith("centroids")]
    assert [bar.desc for bar in of_centroids] == ["centroids 1/3", "centroids 2/3"]
    assert [(bar.n, bar.total) for bar in of_centroids] == [(240, 240)] * 2
    length = "an epoch has 240 images, 2.1 times the training images"
    assert f"features: {length}, and as many again for the centroids" in said
    assert f"classifier: {length}" in said


def test_an_epoch_of_each_image_once_is_not_announced(tree, pretrained):
    flags = (*CLASSIFIER_ONLY, "--cls_sampler", "instance")
    said = succeed(stage_2(tree, pretrained, *flags)).out
    assert "an epoch has" not in said

"""Objectives of stage 1 with more than a classification loss: mixed images, the joint loss."""

import pytest
import torch
from torch.testing import assert_close

from losses import ContrastiveBranch, DistillationLoss, DROLoss, stage_1_objective

COUNTS = [500, 120, 60, 20, 5]


def outputs(size=10):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(size, 8, generator=generator)
    logits = torch.rand(size, 5, generator=generator)
    centroids = torch.randn(5, 8, generator=generator)
    return features, logits, torch.arange(size) % 5, centroids


@pytest.mark.parametrize("loss_type", ["CE", "Focal", "LDAM", "BS"])
@pytest.mark.parametrize("reweighted", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_loss_of_mixed_images_is_that_of_both_targets_by_their_shares(
    loss_type, reweighted, share
):
    features, logits, targets, _ = outputs()
    others = targets.flip(0)
    objective = stage_1_objective(loss_type, COUNTS, reweighted)
    mixed = (others, torch.tensor(share))
    loss, parts = objective(features, logits, targets, mixed=mixed)
    first, second = (objective(features, logits, t)[0] for t in (targets, others))
    assert_close(loss, share * first + (1 - share) * second)
    assert_close(parts, loss.view(1))


def test_distillation_of_mixed_images_does_not_ask_for_targets():
    features, logits, targets, _ = outputs()
    teacher = logits.flip(0)
    objective = stage_1_objective("CE", COUNTS, distillation=(DistillationLoss(), 0.5))
    mixed = (targets.flip(0), torch.tensor(0.3))
    _, parts = objective(features, logits, targets, mixed=mixed, teacher_logits=teacher)
    assert_close(parts[1], DistillationLoss()(logits, teacher))


def test_the_robust_loss_takes_one_target_an_image():
    features, logits, targets, centroids = outputs()
    objective = stage_1_objective("CE", COUNTS, robust=(DROLoss(1.0), 0.5))
    mixed = (targets.flip(0), torch.tensor(0.3))
    with pytest.raises(ValueError, match="one target an image"):
        objective(features, logits, targets, centroids, mixed=mixed)


def test_the_joint_loss_adds_the_weighted_robust_loss():
    features, logits, targets, centroids = outputs()
    robust = DROLoss(0.07, distance="normalised")
    objective = stage_1_objective("BS", COUNTS, robust=(robust, 0.2))
    loss, parts = objective(features, logits, targets, centroids)
    assert objective.names == ["BS", "robust_loss"] and objective.uses_centroids
    plain = stage_1_objective("BS", COUNTS)
    assert not plain.uses_centroids
    expected = [
        plain(features, logits, targets)[0],
        robust.to_centroids(features, targets, centroids),
    ]
    assert_close(parts, torch.stack(expected))
    assert_close(loss, expected[0] + 0.2 * expected[1])


def test_a_teacher_takes_its_weight_from_the_classification_loss_alone():
    features, logits, targets, centroids = outputs()
    parts_of = {"robust": (DROLoss(1.0), 0.2), "distillation": (DistillationLoss(), 0.3)}
    objective = stage_1_objective("CE", COUNTS, **parts_of)
    teacher = logits.flip(0)
    loss, parts = objective(features, logits, targets, centroids, teacher_logits=teacher)
    assert objective.names == ["CE", "robust_loss", "distillation"]
    assert_close(loss, 0.7 * parts[0] + 0.2 * parts[1] + 0.3 * parts[2])


@pytest.mark.parametrize(
    "others", [{"robust": (DROLoss(1.0), 0.5)}, {"distillation": (DistillationLoss(), 0.5)}]
)
def test_a_contrastive_branch_excludes_the_robust_loss_and_distillation(others):
    with pytest.raises(ValueError, match="neither a robust loss nor distillation"):
        stage_1_objective("CE", COUNTS, contrast=ContrastiveBranch(8), **others)

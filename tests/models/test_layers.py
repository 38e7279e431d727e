"""The robust loss on several layers."""

import pytest
import torch
from torch.testing import assert_close

from losses import DROLoss, Margins, stage_2_objective
from models import build_model
from models.folding import fold_batch_norm
from models.layers import LayerFeatures
from tests.support.helpers import call, load, snapshot, stage_2, stage_2_folder, succeed
from utils.options.values import parse_losses

COUNTS = [9, 7, 5, 3, 1]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model("resnet20", 5).eval()


def test_layers_are_pooled_side_by_side_and_the_last_is_the_features(model):
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = LayerFeatures(model, ["layer3", "layer1"])
    representations, logits = network(images)
    features, expected_logits = model(images)
    assert representations.shape == (4, 64 + 16)
    assert torch.equal(representations[:, network.columns["layer3"]], features)
    assert torch.equal(logits, expected_logits)
    stem = torch.relu(model.bn1(model.conv1(images)))
    assert_close(representations[:, network.columns["layer1"]], model.layer1(stem).mean((2, 3)))
    assert torch.equal(network.features(images), representations)
    assert not model.layer1._forward_hooks  # or every later pass would keep its outputs
    assert_close(fold_batch_norm(network).features(images), representations, rtol=1e-3, atol=1e-4)


def test_the_objective_is_the_sum_of_the_losses_of_the_layers():
    generator = torch.Generator().manual_seed(1)
    features, centroids = torch.randn(6, 5, generator=generator), torch.randn(5, 5)
    logits, targets = torch.randn(6, 5, generator=generator), torch.arange(6) % 5
    margins = Margins("learned", 1.0, COUNTS, num_layers=2)
    columns = {"layer2": slice(0, 2), "layer3": slice(2, 5)}
    objective = stage_2_objective(
        parse_losses("ce,robust_loss_lt"), COUNTS, epsilons=list(margins.epsilons), columns=columns
    )
    assert objective.names == ["ce", "robust_loss_lt@layer2", "robust_loss_lt@layer3"]
    total, parts = objective(features, logits, targets, centroids)
    assert_close(total.detach(), parts.sum())
    weights = torch.tensor(COUNTS) / 9
    for part, (layer, where) in zip(parts[1:], columns.items(), strict=True):
        alone = DROLoss(1.0, class_weights=weights, epsilons=torch.ones(5))
        expected = alone.to_centroids(features[:, where], targets, centroids[:, where])
        assert_close(part, expected, msg=layer)
    total.backward()
    assert all((vector.grad != 0).any() for vector in margins.parameters())


def test_layers_without_margins_have_margins_of_zero():
    features, centroids = torch.randn(6, 5), torch.randn(5, 5)
    targets, columns = torch.arange(6) % 5, {"layer2": slice(0, 2), "layer3": slice(2, 5)}

    def loss(epsilons):
        terms = parse_losses("robust_loss")
        made = stage_2_objective(terms, COUNTS, epsilons=epsilons, columns=columns)
        return made(features, features, targets, centroids)[0]

    assert_close(loss(None), loss([torch.zeros(5), torch.zeros(5)]))


def test_the_last_layer_by_name_trains_as_the_features(pretrained, tree, tmp_path):
    flags = ("--epochs", 1, "--balanced_clf_nepochs", 0)
    succeed(stage_2(tree, pretrained, *flags))
    plain = load(stage_2_folder(pretrained) / "ckpt.pth.tar")
    (folder,) = pretrained.glob("*/robust_*")
    folder.rename(tmp_path / "plain")
    succeed(stage_2(tree, pretrained, *flags, "--feat_layers", "layer3"))
    named = load(stage_2_folder(pretrained) / "ckpt.pth.tar")
    assert_close(named["state_dict"], plain["state_dict"], rtol=0, atol=0)
    assert torch.equal(named["epsilons"], plain["epsilons"].unsqueeze(0))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--feat_layers", "layer4"], "layer4 (it has layer1, layer2, layer3)"),
        (["--feat_layers", "conv1"], "conv1"),
        (["--feat_layers", "layer2", "--feat_loss", "robust_loss"], "layer3"),
        (["--feat_layers", "layer2", "--feat_loss", "ce"], "--feat_loss, which is 'ce'"),
        (["--feat_layers", "layer2", "--step", "compile"], "compile"),
    ],
)
def test_layers_that_cannot_be_trained_are_refused(pretrained, tree, flags, says):
    before = snapshot(pretrained)
    outcome = call(stage_2(tree, pretrained, *flags))
    assert outcome.status == 2 and len(outcome.errors) == 1 and says in outcome.errors[0]
    assert snapshot(pretrained) == before

"""Classifiers on the same features: formulas, independent fits, and where values are tuned."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from torch import nn

from models import NormedLinear
from utils.evaluation.classifiers import (
    Classifier,
    SavedClassifier,
    accuracies,
    apply_classifier,
    calibration_error,
    has_confidence,
)
from utils.evaluation.fitting import FITTERS, TAUS, TUNED, FeatureBank, fit
from utils.export.__main__ import CLASSIFIERS
from utils.options.flags import READINGS

COUNTS = [60, 25, 8, 4]
HEADS = {
    "linear": lambda: nn.Linear(6, 4),
    "cosine": lambda: NormedLinear(6, 4, scale=30.0),
}


def blobs(counts, seed, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    centres = 1.5 * torch.randn(len(counts), 6, generator=torch.Generator().manual_seed(7))
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    noise = torch.randn(len(labels), 6, generator=generator)
    return centres[labels] + spread * noise + 0.5, labels


def trained(head, features, labels):
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(head(features), labels).backward()
        optimizer.step()
    return head


@pytest.fixture
def head():
    torch.manual_seed(3)
    return nn.Linear(6, len(COUNTS))


@pytest.fixture
def bank(head):
    return FeatureBank(*blobs(COUNTS, 0), head, COUNTS, heldout=blobs([10] * 4, 1))


@pytest.fixture
def test_set():
    return blobs([25] * 4, 2)


def test_the_flag_offers_every_reading():
    assert tuple(FITTERS) == READINGS


def test_ncm_by_euclidean_distance_is_scikit_learns_nearest_centroid(bank, test_set):
    features, _ = test_set
    oracle = NearestCentroid().fit(bank.features.numpy(), bank.labels.numpy())
    preds = FITTERS["ncm_euclidean"](bank)(features).argmax(dim=1)
    assert (preds.numpy() == oracle.predict(features.numpy())).all()


def test_ncm_by_cosine_is_nearest_centroid_of_normalised_means(bank, test_set):
    features, _ = test_set
    means = np.stack([bank.features[bank.labels == c].numpy().mean(axis=0) for c in range(4)])
    normalised = means / np.linalg.norm(means, axis=1, keepdims=True)
    oracle = NearestCentroid().fit(normalised, np.arange(4))
    points = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)
    preds = FITTERS["ncm_cosine"](bank)(features).argmax(dim=1)
    assert (preds.numpy() == oracle.predict(points)).all()


def test_centred_ncm_does_not_change_when_all_features_are_shifted(bank, head, test_set):
    features, _ = test_set
    shift = torch.full((6,), 25.0)
    shifted = FeatureBank(bank.features + shift, bank.labels, head, COUNTS)
    torch.testing.assert_close(
        FITTERS["ncm_centred"](bank)(features),
        FITTERS["ncm_centred"](shifted)(features + shift),
        atol=1e-4,
        rtol=0,
    )


def test_centred_ncm_is_the_cosine_to_the_means_of_centred_directions(bank, head, test_set):
    """The features' lengths differ by a factor of ten, and each direction counts as much."""
    features, _ = test_set
    lengths = torch.linspace(0.2, 2, len(bank.features)).unsqueeze(1)
    stretched = FeatureBank(lengths * bank.features, bank.labels, head, COUNTS)
    inputs, labels = stretched.features.double().numpy(), bank.labels.numpy()
    mean = inputs.mean(axis=0)
    directions = (inputs - mean) / np.linalg.norm(inputs - mean, axis=1, keepdims=True)
    means = np.stack([directions[labels == c].mean(axis=0) for c in range(4)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    points = features.double().numpy() - mean
    expected = points @ means.T / np.linalg.norm(points, axis=1, keepdims=True)
    scores = FITTERS["ncm_centred"](stretched)(features)
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5)


def test_crt_is_a_class_balanced_logistic_regression(bank, test_set):
    features, _ = test_set
    inputs, labels = bank.features.double().numpy(), bank.labels.numpy()
    # scikit-learn minimises C · Σ w_i ℓ_i + ½‖W‖²; our weights sum to 1.
    weights = 1.0 / (np.array(COUNTS)[labels] * len(COUNTS))
    oracle = LogisticRegression(C=1 / 5e-4, tol=1e-10, max_iter=10_000)
    oracle.fit(inputs, labels, sample_weight=weights)
    ours = torch.softmax(FITTERS["crt"](bank)(features), dim=1).numpy()
    np.testing.assert_allclose(ours, oracle.predict_proba(features.numpy()), atol=2e-3)


def test_lws_scales_are_a_minimum_of_the_balanced_cross_entropy(bank, head):
    logits = head(bank.features).detach()
    scores = FITTERS["lws"](bank)(bank.features)
    scales = (scores / logits).median(dim=0).values
    torch.testing.assert_close(scores, scales * logits, atol=1e-4, rtol=1e-4)

    def balanced(candidate):
        losses = F.cross_entropy(candidate * logits, bank.labels, reduction="none")
        return torch.stack([losses[bank.labels == c].mean() for c in range(4)]).mean()

    best = balanced(scales)
    assert best < balanced(torch.ones(4))
    for c in range(4):
        for change in (0.9, 1.1):
            moved = scales.clone()
            moved[c] *= change
            assert balanced(moved) > best


def test_tau_norm_divides_by_the_norms_and_drops_the_bias(bank, head, test_set):
    features, _ = test_set
    expected = [features.numpy() @ (w / np.linalg.norm(w)) for w in head.weight.detach().numpy()]
    scores = FITTERS["tau_norm"](bank)(features)
    np.testing.assert_allclose(scores.numpy(), np.stack(expected, axis=1), rtol=1e-4, atol=1e-5)


def test_the_tuned_tau_is_the_best_of_the_grid_on_heldout_images(bank, head):
    features, labels = bank.heldout

    def score(tau):
        weight = head.weight.detach() / head.weight.detach().norm(dim=1, keepdim=True) ** tau
        preds = (features @ weight.T).argmax(dim=1)
        return np.mean([(preds[labels == c] == c).float().mean().item() for c in range(4)])

    scores = [score(tau) for tau in TAUS]
    assert score(FITTERS["tau_norm_tuned"](bank).tuned["tau"]) == max(scores)
    assert max(scores) > min(scores)


def test_tau_is_tuned_for_balanced_accuracy_and_of_equals_the_smallest_is_taken():
    """Of unbalanced held-out images, the share that is right prefers another τ."""
    torch.manual_seed(3)
    training = blobs(COUNTS, 0, spread=2.5)
    features, labels = blobs([100, 30, 10, 10], 1, spread=2.5)
    head = trained(nn.Linear(6, 4), *training)
    weight = head.weight.detach().double()
    balanced, shares = [], []
    for tau in TAUS:
        scaled = weight / weight.norm(dim=1, keepdim=True) ** tau
        right = ((features.double() @ scaled.T).argmax(dim=1) == labels).double()
        balanced.append(round(np.mean([right[labels == c].mean().item() for c in range(4)]), 6))
        shares.append(right.mean().item())
    best = balanced.index(max(balanced))
    assert balanced.count(max(balanced)) > 1 and shares[best] < max(shares)
    bank = FeatureBank(*training, head, COUNTS, (features, labels))
    assert FITTERS["tau_norm_tuned"](bank).tuned["tau"] == TAUS[best]


def test_the_tuned_tau_does_not_depend_on_the_test_set(bank, test_set):
    features, targets = test_set
    fitted = fit(["tau_norm_tuned"], bank)
    one = accuracies(fitted, features, targets, COUNTS)["tau_norm_tuned"]
    other = accuracies(fitted, features, targets.flip(0), COUNTS)["tau_norm_tuned"]
    assert one["tau"] == other["tau"] == fitted["tau_norm_tuned"].tuned["tau"]
    assert one["top1"] != other["top1"]


@pytest.mark.parametrize("make_head", HEADS.values(), ids=HEADS)
def test_the_temperature_is_where_the_heldout_cross_entropy_is_stationary(make_head, test_set):
    """d/dβ of the mean of log Σ exp(β z) − β z_y, with β = 1 / T, is the mean of Σ p z − z_y."""
    torch.manual_seed(3)
    training = blobs(COUNTS, 0)
    heldout = blobs([50] * 4, 1)
    bank = FeatureBank(*training, trained(make_head(), *training), COUNTS, heldout)
    own, scaled = FITTERS["linear"](bank), FITTERS["temperature_scaling"](bank)
    logits, labels = own(heldout[0]).double().numpy(), heldout[1].numpy()
    shares = np.exp(logits / scaled.tuned["temperature"])
    shares /= shares.sum(axis=1, keepdims=True)
    slopes = (shares * logits).sum(axis=1) - logits[np.arange(len(labels)), labels]
    assert abs(slopes.mean()) < 1e-3 * np.abs(slopes).mean()
    features, targets = test_set
    expected = own(features) / scaled.tuned["temperature"]
    torch.testing.assert_close(scaled(features), expected, rtol=1e-4, atol=1e-4)
    # The held-out images here are many and like those of the test set.
    records = accuracies({"own": own, "scaled": scaled}, features, targets, COUNTS)
    assert records["own"]["per_class"] == records["scaled"]["per_class"]
    assert records["scaled"]["temperature"] == scaled.tuned["temperature"]


def test_the_temperature_of_sharpened_logits_is_found():
    """Labels drawn from softmax(z), and logits 3 z: the temperature is 3."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(20_000, 5, generator=generator)
    drawn = torch.multinomial(features.softmax(dim=1), 1, generator=generator).squeeze(1)
    head = nn.Linear(5, 5)
    with torch.no_grad():
        head.weight.copy_(3 * torch.eye(5))
        head.bias.zero_()
    bank = FeatureBank(features[:5], torch.arange(5), head, [1] * 5, (features, drawn))
    scaled = FITTERS["temperature_scaling"](bank)
    assert scaled.tuned["temperature"] == pytest.approx(3, rel=0.03)
    assert calibration_error([(head(features).detach(), drawn)]) > 0.15
    assert calibration_error([(scaled(features), drawn)]) < 0.02


@pytest.mark.parametrize("right", [True, False])
def test_a_temperature_of_heldout_images_that_are_all_right_has_a_warning(bank, capsys, right):
    features = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    labels = bank.head(features).argmax(dim=1)
    labels[0] = labels[0] if right else (labels[0] + 1) % 4
    scaled = FITTERS["temperature_scaling"](replace(bank, heldout=(features, labels)))
    told = "warning: temperature_scaling: all 12 held-out images are classified right"
    assert (told in capsys.readouterr().err) == right
    assert (scaled.tuned["temperature"] < 0.1) == right


@pytest.mark.parametrize("make_head", HEADS.values(), ids=HEADS)
def test_classifiers_and_their_accuracies_do_not_depend_on_parts(make_head, test_set, monkeypatch):
    """Of 97 training, 40 held-out and 100 test images, a part has 12: 50 scores of four classes."""
    torch.manual_seed(3)
    training = blobs(COUNTS, 0, spread=1.5)
    head = trained(make_head(), *training)
    bank = FeatureBank(*training, head, COUNTS, blobs([10] * 4, 1, spread=1.5))
    whole = fit(READINGS, bank)
    records = accuracies(whole, *test_set, COUNTS)
    monkeypatch.setattr("utils.evaluation.parts.VALUES_AT_ONCE", 50)
    calls, score = [], Classifier.__call__

    def counted(classifier, features):
        calls.append(len(features))
        return score(classifier, features)

    monkeypatch.setattr(Classifier, "__call__", counted)
    in_parts = fit(READINGS, bank)
    assert accuracies(whole, *test_set, COUNTS) == records
    assert max(calls) == 12
    for name, classifier in in_parts.items():
        own, other = (c(test_set[0]).softmax(dim=1) for c in (classifier, whole[name]))
        torch.testing.assert_close(own, other, atol=2e-3, rtol=0)


def test_without_heldout_images_nothing_is_tuned(bank):
    assert set(fit(READINGS, replace(bank, heldout=None))) == set(READINGS) - set(TUNED)


@pytest.mark.parametrize("make_head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("name", READINGS)
def test_every_classifier_reads_every_head(name, make_head, test_set):
    """Each is better than chance on blobs that overlap little, and the same after it was saved."""
    torch.manual_seed(3)
    training = blobs(COUNTS, 0, spread=0.3)
    bank = FeatureBank(*training, trained(make_head(), *training), COUNTS, blobs([9] * 4, 1, 0.3))
    features, targets = blobs([25] * 4, 2, spread=0.3)
    classifier = fit([name], bank)[name]
    scores = classifier(features)
    assert scores.shape == (100, 4) and torch.isfinite(scores).all()
    assert not scores.requires_grad
    assert (scores.argmax(dim=1) == targets).double().mean() > 0.8
    assert torch.equal(apply_classifier(classifier.saved(), features), scores)
    assert torch.equal(SavedClassifier(classifier.saved())(features), scores)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_crt_on_a_cosine_head_is_a_class_balanced_logistic_regression_of_directions(
    scale, test_set
):
    features, _ = test_set
    bank = FeatureBank(*blobs(COUNTS, 0), NormedLinear(6, 4, scale=scale), COUNTS)
    directions, labels = F.normalize(bank.features, dim=1).double().numpy(), bank.labels.numpy()
    weights = 1.0 / (np.array(COUNTS)[labels] * len(COUNTS))
    oracle = LogisticRegression(C=1 / 5e-4, tol=1e-10, max_iter=10_000)
    oracle.fit(directions, labels, sample_weight=weights)
    ours = torch.softmax(FITTERS["crt"](bank)(features), dim=1).numpy()
    expected = oracle.predict_proba(F.normalize(features, dim=1).numpy())
    np.testing.assert_allclose(ours, expected, atol=2e-3)


def test_lws_and_logit_adjustment_of_a_cosine_head_scale_and_shift_its_logits(test_set):
    features, _ = test_set
    torch.manual_seed(0)
    cosine = NormedLinear(6, 4, scale=30.0)
    bank = FeatureBank(*blobs(COUNTS, 0), cosine, COUNTS)
    logits = cosine(features).detach()
    ratios = FITTERS["lws"](bank)(features) / logits
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios), atol=1e-3, rtol=1e-3)
    priors = torch.tensor(COUNTS) / sum(COUNTS)
    adjusted = FITTERS["logit_adjustment"](bank)(features)
    torch.testing.assert_close(adjusted, logits - priors.log(), atol=1e-4, rtol=1e-4)


def test_only_classifiers_with_logits_have_a_calibration_error(bank, test_set):
    records = accuracies(fit(READINGS, bank), *test_set, COUNTS)
    for name, record in records.items():
        assert (record["ece"] is None) == name.startswith("ncm"), name
        assert has_confidence(name) == (record["ece"] is not None), name


def test_distances_are_no_confidences_and_are_not_exported(bank):
    kinds = {name: classifier.kind for name, classifier in fit(READINGS, bank).items()}
    distances = [name for name, kind in kinds.items() if kind == "distance"]
    assert distances and not [name for name in distances if has_confidence(name)]
    assert not {*distances} & {*CLASSIFIERS}, "leave it out in utils/export/__main__.py"


def test_the_calibration_error_and_the_worst_class_of_a_record_are_in_percent(head, bank, test_set):
    features, targets = test_set
    record = accuracies({"linear": FITTERS["linear"](bank)}, features, targets, COUNTS)["linear"]
    logits = head(features).detach().double()
    confidence, preds = logits.softmax(dim=1).max(dim=1)
    right, error = (preds == targets).double(), 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        error += abs((right - confidence)[inside].sum().item())
    assert record["ece"] == pytest.approx(100 * error / len(targets), abs=1e-3)
    worst = min(right[targets == c].mean().item() for c in range(4))
    assert record["worst"] == pytest.approx(100 * worst, abs=1e-3)


def test_a_saved_classifier_follows_the_type_of_the_features(bank, test_set):
    features, _ = test_set
    saved = fit(["crt"], bank)["crt"].saved()
    assert set(saved) == {"kind", "weight", "bias"}
    scores = apply_classifier(saved, features.double())
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores.float(), apply_classifier(saved, features))


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="linear, cosine, distance, not 'forest'"):
        Classifier("forest", torch.zeros(2, 2))


def test_logit_adjustment_subtracts_the_log_proportions(bank, head, test_set):
    features, _ = test_set
    priors = torch.tensor(COUNTS) / sum(COUNTS)
    expected = head(features).detach() - priors.log()
    torch.testing.assert_close(FITTERS["logit_adjustment"](bank)(features), expected)


def test_a_cosine_head_is_read_through_normalised_features(test_set):
    features, _ = test_set
    torch.manual_seed(0)
    cosine = NormedLinear(6, 4, scale=30.0)
    bank = FeatureBank(*blobs(COUNTS, 0), cosine, COUNTS)
    torch.testing.assert_close(FITTERS["linear"](bank)(features), cosine(features).detach())
    scores = FITTERS["tau_norm"](bank)(features)
    torch.testing.assert_close(scores, cosine(features).detach() / 30, atol=1e-5, rtol=1e-4)


def test_calibration_error_by_hand():
    # Confidences 0.9, 0.9, 0.6 in bins (13/15, 14/15] and (8/15, 9/15]; two of three right.
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]], dtype=torch.float64)
    targets = torch.tensor([0, 1, 1])
    expected = (2 * abs(0.5 - 0.9) + 1 * abs(1.0 - 0.6)) / 3
    assert calibration_error([(probabilities.log(), targets)]) == pytest.approx(expected, abs=1e-12)


def test_a_confidence_on_a_bound_belongs_to_the_bin_below():
    # 2/3 lies in (9/15, 10/15] with 0.62.
    probabilities = torch.tensor([[2 / 3, 1 / 3, 0], [0.62, 0.2, 0.18]], dtype=torch.float64)
    error = calibration_error([((probabilities + 1e-300).log(), torch.tensor([0, 1]))])
    assert error == pytest.approx(abs((1 - 2 / 3) + (0 - 0.62)) / 2, abs=1e-9)


def test_perfectly_calibrated_scores_have_no_error_and_sure_errors_have_all():
    sure = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
    assert calibration_error([(sure, torch.tensor([0, 1]))]) == pytest.approx(0, abs=1e-6)
    assert calibration_error([(sure, torch.tensor([1, 0]))]) == pytest.approx(1, abs=1e-6)

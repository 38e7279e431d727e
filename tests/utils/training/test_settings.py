"""What the flags of a stage reach: the losses, the updates, the images."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from datasets.normalisation import Normalisation
from datasets.samplers import EffectiveNumberOrder, ShuffledOrder
from tests.support import stages
from tests.support.dro_reference import reference_loss
from tests.support.helpers import noise, seeded
from tests.support.stages import CASES, CLASSES, STAGE_2, make_stage, small_data
from utils.errors import UserError
from utils.machine.device import Machine
from utils.machine.processes import World
from utils.training.stage1 import stage_1
from utils.training.teacher import Teacher

MACHINE = Machine(torch.device("cpu"), "float32")
COUNTS = [9, 7, 5, 4, 4]
"""The class counts of `small_data`."""


def stage_of(flags, head_scale=None):
    return make_stage(flags, MACHINE, small_data(), head_scale=head_scale)[1]


def outputs():
    """Returns features, logits, targets and centroids of a batch of 12."""
    features, logits, centroids = (
        torch.randn(*shape, generator=seeded(seed))
        for seed, shape in enumerate([(12, 64), (12, CLASSES), (CLASSES, 64)])
    )
    return features, logits, torch.arange(12) % CLASSES, centroids


def balanced_softmax(logits, targets, tau):
    prior = torch.tensor(COUNTS).double() / sum(COUNTS)
    return F.cross_entropy(logits.double() + tau * prior.log(), targets).item()


def test_without_the_robust_loss_there_are_no_margins_but_the_groups_that_checkpoints_have():
    stages = [stage_of(flags) for flags in (STAGE_2, STAGE_2.replace(",robust_loss", ""))]
    groups = [stage.phases[0].optimizer.state_dict()["param_groups"] for stage in stages]
    assert groups[0] == groups[1]
    assert stages[0].margins_record()["margins"] and stages[1].margins is None


@pytest.mark.parametrize("flags", ["", STAGE_2], ids=["stage 1", "stage 2"])
def test_networks_have_the_memory_layout_in_which_convolutions_are_fastest(flags):
    kernels = [weight for weight in stage_of(flags).model.parameters() if weight.dim() == 4]
    assert kernels and all(k.is_contiguous(memory_format=torch.channels_last) for k in kernels)


@pytest.mark.parametrize("case", CASES)
def test_each_phase_trains_its_own_parameters_once(case):
    flags, head_scale = CASES[case]
    stage = stage_of(flags, head_scale)
    head = list(stage.model.linear.parameters())
    of_head = set(map(id, head))
    features = [p for p in stage.model.parameters() if id(p) not in of_head]
    beside = [] if stage.margins is None else stage.margins.trained
    for module in stage.beside.values():
        beside = [*beside, *module.parameters()]
    expected = {
        "pretraining": [*features, *head, *beside],
        "features": [*features, *beside],
        "classifier": head,
    }
    for phase in stage.phases:
        trained = [p for group in phase.optimizer.param_groups for p in group["params"]]
        assert sorted(map(id, trained)) == sorted(map(id, expected[phase.name]))


@pytest.mark.parametrize("first", ["--robust_weight 0.5", STAGE_2], ids=["stage 1", "stage 2"])
@pytest.mark.parametrize("margin_wd", [None, 0.5])
def test_updates_have_the_momentum_and_the_weight_decays_of_the_flags(first, margin_wd):
    """Two updates with constant gradients, by hand: v ← μ v + g + λ w, w ← w − r v."""
    flags = f"{first} --momentum 0.8 --wd 0.25 --backbone_lr 0.5 --margin 2"
    stage = stage_of(flags if margin_wd is None else f"{flags} --margin_wd {margin_wd}")
    margins = set(map(id, stage.margins.trained))
    head = set(map(id, stage.model.linear.parameters()))
    for phase in stage.phases:
        rate = phase.set_learning_rate(phase.epochs[len(phase.epochs) // 2])
        expected = {}
        for group in phase.optimizer.param_groups:
            for parameter in group["params"]:
                is_margin = id(parameter) in margins
                decay = margin_wd if is_margin and margin_wd is not None else 0.25
                own_rate = rate if is_margin or id(parameter) in head else 0.5 * rate
                weight, velocity = parameter.detach().double(), 0.0
                for _ in range(2):
                    velocity = 0.8 * velocity + 1.5 + decay * weight
                    weight = weight - own_rate * velocity
                parameter.grad = torch.full_like(parameter, 1.5)
                expected[parameter] = weight
        for _ in range(2):
            phase.optimizer.step()
        for parameter, weight in expected.items():
            assert_close(parameter.detach().double(), weight, rtol=1e-5, atol=1e-6)


def test_a_loaded_optimiser_keeps_its_own_rate_decay_and_way_of_updating():
    """The state may come from a GPU."""
    phase = stage_of("--wd 0.25").phases[0]
    own = phase.optimizer.state_dict()["param_groups"]
    of_gpu = {"lr": torch.tensor(9.0), "weight_decay": 9.0, "fused": True}
    phase.load_optimizer({"state": {}, "param_groups": [group | of_gpu for group in own]})
    assert phase.optimizer.state_dict()["param_groups"] == own


@pytest.mark.parametrize("first", ["--robust_weight 0.5", STAGE_2], ids=["stage 1", "stage 2"])
def test_after_each_update_margins_are_raised_to_the_bound_of_the_flag(first):
    stage = stage_of(f"{first} --margin 1 --margin_min 0.25")
    stage.margins.load(torch.tensor([-1.0, 0.0, 0.25, 0.5, 1.0]))
    stage.phases[0].after_update()
    assert stage.margins.values().tolist() == [0.25, 0.25, 0.25, 0.5, 1.0]
    assert stage_of(first).phases[0].after_update is None


def test_of_several_layers_the_log_has_the_margins_of_each_and_those_of_the_last():
    stage = stage_of(f"{STAGE_2} --feat_layers layer2,layer3")
    first, last = [0.0, 1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0, 9.0]
    stage.margins.load(torch.tensor([first, last]))
    by_layer = {"layer2": first, "layer3": last}
    assert stage.margins_record() == {"margins": last, "layer_margins": by_layer}


@pytest.mark.parametrize("distance", ["euclidean", "squared", "normalised"])
@pytest.mark.parametrize("released", [False, True], ids=["aligned", "released"])
@pytest.mark.parametrize("stage", [1, 2])
def test_the_robust_loss_is_the_one_of_the_flags(stage, released, distance):
    """The released margins start at 1 and go to other samples."""
    first = "--loss_type BS" if stage == 1 else f"{STAGE_2} --feat_loss bs,robust_loss"
    phase = stage_of(
        f"{first} --robust_weight 0.25 --temperature 0.5 --margin 0.4 --margin_type sample_count "
        f"--robust_distance {distance} --as_released {released}"
    ).phases[0]
    features, logits, targets, centroids = outputs()
    margins = torch.tensor([(1 if released else 0.4) / count**0.5 for count in COUNTS])
    problem = (features.double(), targets, centroids.double(), 0.5)
    robust = reference_loss(*problem, epsilons=margins, released=released, distance=distance)
    classification = balanced_softmax(logits, targets, 1.0)
    total, parts = phase.objective(1)(features, logits, targets, centroids)
    assert parts.tolist() == pytest.approx([classification, robust], rel=1e-5)
    share = 1.0 if stage == 1 else 0.75
    assert total.item() == pytest.approx(share * classification + 0.25 * robust, rel=1e-5)


def test_the_robust_weight_leaves_the_classifier_phase_as_it_is():
    phase = stage_of(f"{STAGE_2} --robust_weight 0.25").phases[1]
    features, logits, targets, _ = outputs()
    total, _ = phase.objective(3)(features, logits, targets)
    assert_close(total, F.cross_entropy(logits, targets))


@pytest.mark.parametrize(
    "flags", ["--loss_type BS", f"{STAGE_2} --feat_loss bs --cls_loss bs"], ids=["stage 1", "2"]
)
def test_balanced_softmax_takes_the_weight_of_the_prior_from_the_flag(flags):
    features, logits, targets, _ = outputs()
    for phase in stage_of(f"{flags} --prior_weight 0.5").phases:
        total, _ = phase.objective(1)(features, logits, targets)
        assert total.item() == pytest.approx(balanced_softmax(logits, targets, 0.5), rel=1e-5)


def test_distillation_is_the_one_of_the_flags_and_of_the_teachers_own_prior(monkeypatch):
    offsets = torch.tensor([0.3, -0.2, 0.0, 1.0, -1.5])
    untrained = stages.untrained_teacher
    monkeypatch.setattr(
        stages, "untrained_teacher", lambda run: Teacher(untrained(run).network, offsets)
    )
    phase = stage_of(
        "--teacher x --loss_type BS --prior_weight 0.5 --teacher_weight 0.2 "
        "--teacher_temperature 3 --teacher_power 0.7"
    ).phases[0]
    features, logits, targets, _ = outputs()
    teacher_logits = logits.flip(0)
    prior = torch.tensor(COUNTS).double() / sum(COUNTS)
    student = torch.softmax((logits.double() + 0.5 * prior.log()) / 3, dim=1)
    raised = torch.softmax((teacher_logits.double() + offsets) / 3, dim=1) ** 0.7
    teacher = raised / raised.sum(dim=1, keepdim=True)
    distillation = 9 * (teacher * (teacher / student).log()).sum(dim=1).mean().item()
    classification = balanced_softmax(logits, targets, 0.5)
    total, parts = phase.objective(1)(features, logits, targets, teacher_logits=teacher_logits)
    assert parts.tolist() == pytest.approx([classification, distillation], rel=1e-5)
    assert total.item() == pytest.approx(0.8 * classification + 0.2 * distillation, rel=1e-5)


@pytest.mark.parametrize(
    ("start", "features", "classifier"),
    [(0, [1, 2], [3, 4, 5]), (1, [2], [3, 4, 5]), (2, [], [3, 4, 5]), (4, [], [5]), (5, [], [])],
)
def test_a_later_start_leaves_out_epochs_of_both_phases(start, features, classifier):
    flags = f"{STAGE_2} --epochs 5 --balanced_clf_nepochs 3 --start-epoch {start}"
    found = {phase.name: list(phase.epochs) for phase in stage_of(flags).phases}
    assert found == {"features": features, "classifier": classifier}


@pytest.mark.parametrize(
    ("sampler", "goes_on"), [("none", True), ("resample,2", True), ("instance", False)]
)
def test_the_order_of_the_feature_phase_goes_on_in_the_classifier_phase(sampler, goes_on):
    stage = stage_of(f"{STAGE_2} --feat_sampler resample,2 --cls_sampler {sampler}")
    features, classifier = stage.phases
    assert (classifier.loader is features.loader) == goes_on


@pytest.mark.parametrize("flags", ["--mixup 0.2 --seed 0", "--contrastive bcl"])
def test_what_needs_whole_batches_is_refused_with_several_processes(flags):
    machine = replace(MACHINE, world=World(0, 2))
    method = " ".join(flags.split()[:2])
    with pytest.raises(UserError, match=f"{method} works with one process, not with several"):
        make_stage(flags, machine, small_data())


@pytest.mark.parametrize(
    ("rule", "order"), [("None", ShuffledOrder), ("Resample", EffectiveNumberOrder)]
)
def test_resample_draws_by_the_effective_number_of_images(rule, order):
    assert type(stage_of(f"--train_rule {rule}").phases[0].loader.order) is order


def test_a_rule_without_an_order_of_its_own_is_no_shuffling():
    run, _ = make_stage("", MACHINE, small_data())
    with pytest.raises(ValueError, match="--train_rule Mine has no order of images"):
        stage_1(replace(run, options=replace(run.options, train_rule="Mine")))


def test_mixup_draws_by_the_runs_own_seed():
    mixups = [stage_of(f"--mixup 0.2 --seed {seed}").phases[0].mixup for seed in (7, 8)]
    assert [(mixup.alpha, mixup.seed) for mixup in mixups] == [(0.2, 7), (0.2, 8)]


@pytest.mark.parametrize("flags", ["", STAGE_2], ids=["stage 1", "stage 2"])
def test_training_images_are_normalised_as_their_data_say(flags):
    mean, std = (0.1, 0.5, 0.3), (0.2, 0.3, 0.6)
    data = replace(small_data(), normalisation=Normalisation(mean, std))
    images = noise(3)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    for phase in make_stage(flags, MACHINE, data)[1].phases:
        assert_close(phase.loader.normalise(images), (images / 255 - mean) / std)

"""Which checkpoints a chain takes, with each of the three protocols."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.helpers import (
    CLASSIFIER_ONLY,
    STAGE_1_NAME,
    differences,
    features_of,
    head_of,
    load,
    read_records,
    read_summary,
    stage_1,
    stage_1_folder,
    stage_2,
    stage_2_folder,
    succeed,
    weights_of,
)
from tests.support.stages import make_stage, small_data
from utils.evaluation.evaluator import Evaluator
from utils.machine.device import Machine
from utils.training import selection
from utils.training.selection import Selection
from utils.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("no_figures")


CHOSEN = {"test": 1, "heldout": 2, "last": 3}
SCORES = {"test": 70.0, "heldout": 80.0}


@pytest.fixture
def different_choices(monkeypatch) -> None:
    """Makes each protocol choose another epoch of a phase: the one in `CHOSEN`, in the classifier
    phase three epochs later. The scores of the chosen epochs are `SCORES`."""

    def score(protocol, epoch, phase, results):
        if protocol == "last":
            return original(protocol, epoch, phase, results)
        before = 3 if phase == "classifier" else 0
        return SCORES[protocol] - abs(epoch - before - CHOSEN[protocol])

    original = selection.score
    monkeypatch.setattr(selection, "score", score)


def logged(accuracies: dict) -> dict:
    """Returns the accuracies of a summary as `log.jsonl` has them, without two lists."""
    return {k: v for k, v in accuracies.items() if k not in ("precision", "recall")}


def assert_predictions_have_the_accuracies_of(summary: dict, folder: Path) -> None:
    """Asserts that `predictions.npz` is of the chosen and of the last epoch."""
    with np.load(folder / "predictions.npz") as arrays:
        for split, start in (("test", ""), ("heldout", "heldout_")):
            labels = arrays[f"{start}labels"]
            for which, name in (("selected", "preds"), ("last", "last_preds")):
                is_right = arrays[f"{start}{name}"] == labels
                for label, accuracy in enumerate(summary[split][which]["linear"]["per_class"]):
                    if accuracy is not None:
                        found = 100 * is_right[labels == label].mean()
                        assert found == pytest.approx(accuracy, abs=1e-3)


def accuracies(balanced: float, top1: float = 0.0) -> dict:
    """Returns a record of two classes with images and one without."""
    return {"top1": top1, "balanced": balanced, "per_class": [balanced - 1, None, balanced + 1]}


def readings(linear: float, ncm: float | None = None, heldout: float = 0.0) -> dict:
    of_ncm = None if ncm is None else accuracies(ncm)
    return {
        "test": {"linear": accuracies(linear), "ncm": of_ncm},
        "heldout": {"linear": accuracies(heldout), "ncm": of_ncm and accuracies(heldout)},
    }


def test_epochs_are_compared_by_balanced_accuracy_and_not_by_the_share_of_images():
    results = {"test": {"linear": accuracies(60.0, top1=10.0), "ncm": None}}
    assert selection.score("test", 3, "pretraining", results) == 60.0
    assert selection.score("last", 3, "pretraining", results) == 3.0


def test_records_without_balanced_accuracy_are_compared_by_its_definition():
    old = accuracies(60.0, top1=10.0)
    del old["balanced"]
    assert selection.score("test", 1, "pretraining", {"test": {"linear": old}}) == 60.0


@pytest.mark.parametrize(
    ("phase", "monitor"),
    [("features", "ncm"), ("classifier", "linear"), ("pretraining", "linear"), ("none", "linear")],
)
def test_features_are_compared_by_ncm_and_all_else_by_the_networks_classifier(phase, monitor):
    assert selection.monitor_of(phase) == monitor
    assert (
        selection.score("test", 1, phase, readings(linear=1.0, ncm=2.0))
        == {
            "linear": 1.0,
            "ncm": 2.0,
        }[monitor]
    )


def test_each_protocol_has_its_own_best_epoch_and_of_equals_the_first():
    chosen = Selection(["test", "heldout", "last"])
    offers = [(40, 10), (50, 10), (50, 20), (45, 5)]
    for epoch, (test, heldout) in enumerate(offers, start=1):
        chosen.offer(epoch, "pretraining", readings(test, heldout=heldout))
    assert {protocol: best.epoch for protocol, best in chosen.best.items()} == {
        "test": 2,
        "heldout": 3,
        "last": 4,
    }
    assert chosen.best["test"].score == 50
    assert chosen.best["test"].results == readings(50, heldout=10)
    assert [chosen.chosen_by(epoch) for epoch in (1, 2, 3, 4)] == [
        [],
        ["test"],
        ["heldout"],
        ["last"],
    ]


def test_asking_whether_an_epoch_would_be_chosen_changes_nothing():
    chosen = Selection(["test", "last"])
    chosen.offer(1, "pretraining", readings(40))
    before = copy.deepcopy(chosen.state_dict())
    assert chosen.would_choose(2, "pretraining", readings(41)) == ["test", "last"]
    assert chosen.would_choose(2, "pretraining", readings(40)) == ["last"]
    assert chosen.state_dict() == before


@pytest.mark.parametrize(
    ("name", "frozen", "epoch", "linear", "is_measured"),
    [
        ("features", False, 2, 40, True),
        ("classifier", True, 2, 40, True),
        ("pretraining", False, 3, 40, True),
        ("pretraining", False, 2, 41, True),
        ("pretraining", False, 2, 40, False),
    ],
    ids=["it chooses", "it costs nothing", "the epoch is the last", "it is better", "else not"],
)
def test_the_nearest_class_mean_is_measured_if(
    name, frozen, epoch, linear, is_measured, monkeypatch
):
    trainer = Trainer(
        *make_stage("--epochs 3", Machine(torch.device("cpu"), "float32"), small_data())
    )
    trainer.selection.offer(1, name, readings(40, ncm=40))
    phase, measured = replace(trainer.phases[0], name=name, features_are_frozen=frozen), []
    monkeypatch.setattr(Evaluator, "accuracies", lambda *_: readings(linear))
    monkeypatch.setattr(Evaluator, "add_ncm", lambda _, results: measured.append(results))
    results = trainer._read_accuracies(phase, epoch)
    assert results == readings(linear)
    assert measured == ([results] if is_measured else [])


def test_a_new_phase_is_compared_with_its_own_epochs_alone():
    chosen = Selection(["test", "last"])
    chosen.offer(1, "features", readings(10, ncm=90))
    chosen.forget()
    chosen.offer(2, "classifier", readings(20))
    assert [best.epoch for best in chosen.best.values()] == [2, 2]


def test_a_selection_goes_on_from_its_state():
    chosen, other = Selection(["test", "last"]), Selection(["test", "last"])
    chosen.offer(1, "pretraining", readings(40))
    other.load_state_dict(copy.deepcopy(chosen.state_dict()))
    for epoch, test in ((2, 39), (3, 41)):
        for one in (chosen, other):
            one.offer(epoch, "pretraining", readings(test))
    assert other.state_dict() == chosen.state_dict()
    assert other.best["test"].epoch == 3
    with pytest.raises((TypeError, AttributeError)):
        other.load_state_dict({"test": {"unknown": 1}})


@pytest.mark.parametrize(
    ("protocol", "expected"), [("test", [1, 4]), ("heldout", [2, 3]), ("last", [2, 4])]
)
def test_a_whole_log_says_which_epoch_of_each_phase_a_protocol_chooses(protocol, expected):
    offers = [
        ("features", readings(1, ncm=50, heldout=1)),
        ("features", readings(9, ncm=40, heldout=2)),
        ("classifier", readings(30, ncm=60, heldout=9)),
        ("classifier", readings(31, ncm=60, heldout=8)),
    ]
    records = [
        {"epoch": epoch, "phase": phase, "results": results}
        for epoch, (phase, results) in enumerate(offers, start=1)
    ]
    assert selection.chosen_epochs(records, protocol) == expected


@pytest.mark.parametrize("protocol", CHOSEN)
def test_a_runs_log_says_what_its_own_protocol_has_chosen(protocol, finished):
    for folder in (finished / STAGE_1_NAME, stage_2_folder(finished)):
        best = load(folder / "ckpt.pth.tar")["best"][protocol]
        assert selection.chosen_epochs(read_records(folder), protocol)[-1] == best["epoch"]


@pytest.mark.parametrize("stage", [1, 2])
def test_a_stage_2_keeps_no_best_checkpoint_of_another_protocol(stage, finished):
    """Such a checkpoint would belong to a chain whose start and features the run's own protocol has
    chosen."""
    folder = finished / STAGE_1_NAME if stage == 1 else stage_2_folder(finished)
    kept = {path.name for path in folder.glob("ckpt.best*")}
    others = {1: {"ckpt.best_heldout.pth.tar"}, 2: {"ckpt.best_features.pth.tar"}}
    assert kept == {"ckpt.best.pth.tar"} | others[stage]


@pytest.mark.usefixtures("different_choices")
@pytest.mark.parametrize("protocol", CHOSEN)
def test_a_protocol_chooses_every_link_of_the_chain(protocol, tree, tmp_path):
    succeed(stage_1(tree, tmp_path, "--epochs", 3, "--select_on", protocol))
    start = stage_1_folder(tmp_path)
    flags = ("--select_on", protocol, "--epochs", 6, "--balanced_clf_nepochs", 3)
    outcome = succeed(stage_2(tree, tmp_path, "--pretrained", start.name, *flags))
    assert outcome.warnings == []

    chosen, end, links = CHOSEN[protocol], stage_2_folder(tmp_path), []
    for folder, selected, last in ((start, chosen, 3), (end, 3 + chosen, 6)):
        summary, kept = read_summary(folder), load(folder / "ckpt.best.pth.tar")
        logs = {record["epoch"]: record["results"] for record in read_records(folder)}
        assert summary["selected_on"] == kept["selected_on"] == protocol
        for which, epoch in (("selected", selected), ("last", last)):
            for split in ("test", "heldout"):
                found = summary[split][which]
                assert found["epoch"] == epoch
                for classifier in ("linear", "ncm"):
                    assert logged(found[classifier]) == logs[epoch][split][classifier]
        assert_predictions_have_the_accuracies_of(summary, folder)
        assert kept["epoch"] == selected
        # What the protocol compares; where nothing is compared, the accuracy on the test images.
        value = SCORES.get(protocol, logs[selected]["test"]["linear"]["top1"])
        assert kept["best_acc1"] == pytest.approx(value, abs=1e-3)
        links.append(kept["state_dict"])
    assert read_summary(end)["features"]["selected"]["epoch"] == chosen
    if protocol != "last":
        kept = load(end / "ckpt.best_features.pth.tar")
        assert kept["epoch"] == chosen
        # Its frozen classifier is that of the chosen stage-1 epoch; the chain ends with its
        # features.
        assert not differences(head_of(kept["state_dict"]), head_of(links[0]))
        assert not differences(features_of(kept["state_dict"]), features_of(links[1]))


@pytest.mark.usefixtures("different_choices")
@pytest.mark.parametrize(
    ("protocol", "name"),
    [
        ("test", "ckpt.best.pth.tar"),
        ("heldout", "ckpt.best_heldout.pth.tar"),
        ("last", "ckpt.pth.tar"),
    ],
)
def test_a_stage_1_selected_on_test_starts_the_chain_of_any_protocol(
    protocol, name, tree, tmp_path
):
    succeed(stage_1(tree, tmp_path, "--epochs", 3))
    link = load(stage_1_folder(tmp_path) / name)
    assert link["epoch"] == CHOSEN[protocol]

    outcome = succeed(stage_2(tree, tmp_path, "--select_on", protocol, *CLASSIFIER_ONLY))

    started = weights_of(stage_2_folder(tmp_path))
    assert not differences(features_of(started), features_of(link["state_dict"]))
    assert outcome.warnings == [], "every link is the protocol's own"

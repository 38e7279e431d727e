"""Which checkpoints a chain takes, by each of the three protocols."""

import shutil

import pytest

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
    stage_2,
    stage_2_folder,
    succeed,
    weights_of,
)

pytestmark = pytest.mark.usefixtures("no_figures")


def score(split: str, record: dict, reading: str) -> float:
    """Returns what selection compares, on test as on held-out images: the mean over the classes
    that have any."""
    result = record["results"][split][reading]
    known = [accuracy for accuracy in result["per_class"] if accuracy is not None]
    return sum(known) / len(known)


def logged(accuracies: dict) -> dict:
    """Returns the accuracies of a summary as `log.jsonl` has them, without two lists."""
    return {k: v for k, v in accuracies.items() if k not in ("precision", "recall")}


@pytest.mark.parametrize("protocol", ["test", "heldout", "last"])
def test_a_protocol_chooses_every_link_of_the_chain(protocol, tree, tmp_path):
    succeed(stage_1(tree, tmp_path, "--epochs", 3, "--select_on", protocol))
    flags = ("--select_on", protocol, "--epochs", 4, "--balanced_clf_nepochs", 2)
    outcome = succeed(stage_2(tree, tmp_path, *flags))
    assert outcome.warnings == []

    def chosen(records: list[dict], reading: str) -> dict:
        if protocol == "last":
            return records[-1]
        return max(records, key=lambda record: score(protocol, record, reading))

    links = []
    folders = (tmp_path / STAGE_1_NAME, stage_2_folder(tmp_path))
    for folder in folders:
        records = [r for r in read_records(folder) if r["phase"] != "features"]
        summary, best = read_summary(folder), chosen(records, "linear")
        assert summary["selected_on"] == protocol
        for split in ("test", "heldout"):
            selected, last = summary[split]["selected"], summary[split]["last"]
            assert selected["epoch"] == best["epoch"]
            assert logged(selected["linear"]) == best["results"][split]["linear"]
            assert logged(selected["ncm"]) == best["results"][split]["ncm"]
            assert last["epoch"] == records[-1]["epoch"]
            assert logged(last["linear"]) == records[-1]["results"][split]["linear"]
        kept = load(folder / "ckpt.best.pth.tar")
        assert kept["epoch"] == best["epoch"]
        assert kept["selected_on"] == protocol
        links.append(kept)
    if protocol != "last":
        features = [r for r in read_records(folders[1]) if r["phase"] == "features"]
        kept = load(folders[1] / "ckpt.best_features.pth.tar")
        assert kept["epoch"] == chosen(features, "ncm")["epoch"]
        # Its frozen classifier is that of the chosen stage-1 epoch.
        assert not differences(head_of(kept["state_dict"]), head_of(links[0]["state_dict"]))


@pytest.mark.parametrize("protocol", ["test", "heldout", "last"])
def test_a_stage_1_selected_on_test_starts_the_chain_of_any_protocol(
    protocol, tree, six_epochs, tmp_path
):
    folder = tmp_path / STAGE_1_NAME
    shutil.copytree(six_epochs, folder)
    records = read_records(folder)
    epoch = 6
    if protocol != "last":
        epoch = max(records, key=lambda record: score(protocol, record, "linear"))["epoch"]
    name = {"test": "ckpt.best.pth.tar", "heldout": "ckpt.best_heldout.pth.tar"}
    link = load(folder / name.get(protocol, "ckpt.pth.tar"))
    assert link["epoch"] == epoch

    outcome = succeed(stage_2(tree, tmp_path, "--select_on", protocol, *CLASSIFIER_ONLY))

    started = weights_of(stage_2_folder(tmp_path))
    assert not differences(features_of(started), features_of(link["state_dict"]))
    assert outcome.warnings == [], "every link is the protocol's own"

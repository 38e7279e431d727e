"""The summary of a run, and its table."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.helpers import (
    CLASS_COUNTS,
    read_summary,
    stage_1_folder,
    stage_2_folder,
    weights_of,
)
from tests.support.made_up_records import COUNTS, reading, record
from utils.evaluation.statistics import combine
from utils.training.phase import Phase
from utils.training.summary import feature_epochs, final_table


def summary_of(protocol, with_classifier_phase=True):
    """Returns the summary of a stage 2 with three feature epochs, the first of which is the best,
    and one classifier epoch."""
    records = [record(epoch) for epoch in (1, 2, 3)]
    for split in ("test", "heldout"):
        records[0]["results"][split]["ncm"] = reading(60.0)
    if with_classifier_phase:
        records.append(record(4))
    last = {"epoch": records[-1]["epoch"], **records[-1]["results"]["test"]}
    return {
        "selected_on": protocol,
        "class_counts": COUNTS,
        "test": {"selected": last, "last": last},
        "features": feature_epochs(records, protocol),
    }


@pytest.mark.parametrize("protocol", ["test", "heldout"])
def test_the_last_epoch_of_chosen_features_is_called_so_and_the_last_features_are_shown(protocol):
    summary = summary_of(protocol)
    assert summary["features"]["selected"] == {"epoch": 1, **record(1)["results"]["test"]} | {
        "ncm": reading(60.0)
    }
    rows = {line.split("  ")[0]: line for line in final_table(summary).splitlines()[1:]}
    *named, note = rows
    assert named == [
        f"selected on {protocol} (4), linear",
        f"selected on {protocol} (4), NCM",
        "last epoch (4) of chosen features (1), linear",
        "last epoch (4) of chosen features (1), NCM",
        "last feature epoch (3), linear",
        "last feature epoch (3), NCM",
    ]
    assert rows["last feature epoch (3), linear"].split()[5] == "33.00"
    assert rows["last feature epoch (3), NCM"].split()[5] == "34.00"
    assert f"features that {protocol} images chose" in note


@pytest.mark.parametrize(
    "summary",
    [summary_of("last"), summary_of("test", with_classifier_phase=False)],
    ids=["nothing chosen", "no classifier phase"],
)
def test_a_last_epoch_that_depends_on_no_choice_has_no_note(summary):
    names = [line.split("  ")[0] for line in final_table(summary).splitlines()[1:]]
    epoch = summary["test"]["last"]["epoch"]
    assert names[2:] == [f"last epoch ({epoch}), linear", f"last epoch ({epoch}), NCM"]


def test_the_table_of_several_seeds_says_so_too():
    both = combine([summary_of("test"), summary_of("test")])
    assert "last feature epoch (3), NCM" in final_table(both)


def test_stage_1_and_summaries_made_earlier_have_no_feature_epochs():
    assert feature_epochs([record(1, phase="pretraining")], "test") is None
    earlier = {k: v for k, v in summary_of("test").items() if k != "features"}
    assert len(final_table(earlier).splitlines()) == 5


def test_a_summary_tells_the_parameters_and_the_images_of_all_training_steps(finished):
    """Resumed and grown runs have the same numbers: tests/runs/test_resuming.py compares whole
    summaries."""
    first, second = stage_1_folder(finished), stage_2_folder(finished)
    weights = weights_of(first)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    of_network = [w.numel() for name, w in weights.items() if not name.endswith(statistics)]
    summaries = [read_summary(folder) for folder in (first, second)]
    assert [summary["parameters"] for summary in summaries] == [sum(of_network)] * 2
    # Two epochs of all images; three epochs in which the sampler shows each class alike.
    class_aware = max(CLASS_COUNTS) * len(CLASS_COUNTS)
    assert [summary["images_seen"] for summary in summaries] == [
        2 * sum(CLASS_COUNTS),
        3 * class_aware,
    ]


def test_each_view_of_an_image_counts_and_seeds_share_both_numbers():
    loader = SimpleNamespace(order=range(7), views=3)
    unused: Any = None
    phase = Phase("pretraining", range(3, 6), cast(Any, loader), unused, unused, unused)
    assert phase.images_seen == 3 * 7 * 3
    same = {"parameters": 464154, "images_seen": 63}
    assert combine([same, same]) == same

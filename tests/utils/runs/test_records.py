"""What can be read from the record files of a run."""

from pathlib import Path

import pytest

from utils.runs.records import RecordedRun


def settings(**arguments):
    run = RecordedRun(Path("run"), {"data_root": "mine"} | arguments, [], None, None)
    return run.settings()


@pytest.mark.parametrize("dataset", ["folder", "csv", "npz", "imagenet_lt"])
def test_where_own_images_lie_sets_runs_apart(dataset):
    assert settings(dataset=dataset)["data_root"] == "mine"


@pytest.mark.parametrize("arguments", [{"dataset": "cifar100"}, {"dataset": "digits"}, {}])
def test_where_a_known_data_set_lies_does_not(arguments):
    """A record without a data set means the default, CIFAR-10."""
    assert "data_root" not in settings(**arguments)

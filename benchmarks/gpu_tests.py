"""The tests that need CUDA, with a record that grows with each of them."""

import os
from collections.abc import Sequence
from typing import Any

from benchmarks.own_process import Take
from utils.errors import optional_module
from utils.machine.provenance import REPOSITORY

CUDA_TESTS = (
    "tests/utils/training/test_steps.py",
    *("tests/datasets/loading/test_augmentation.py", "tests/datasets/loading/test_resident.py"),
    *("tests/datasets/loading/test_autoaugment.py", "tests/datasets/loading/test_operations.py"),
    "tests/datasets/loading/test_streamed.py::"
    "test_batches_are_normalised_float32_channels_last_on_the_device",
    "tests/utils/training/test_backbone.py::test_a_group_has_its_own_part_of_the_rate",
    *("tests/losses", "tests/models", "tests/utils/evaluation/test_metrics.py"),
    *("tests/utils/training/test_mixup.py", "tests/utils/training/test_trajectory.py"),
    "tests/utils/training/test_seeds.py::test_seeds_side_by_side_on_a_gpu_are_their_single_runs",
    "tests/utils/training/test_on_cuda.py",
    "tests/benchmarks/test_gpu_check.py::test_on_a_gpu_kernels_are_counted",
)


def run_tests(tests: Sequence[str], take: Take) -> None:
    """Runs those of the tests that take a GPU, in this process. It must be a new one: a test may
    crash or break it.

    The record counts the tests that passed, failed or were skipped, and errors outside of the test
    itself. It has the end of the message of each failure and error, and the running test or, when
    all are over, pytest's status.

    Raises:
        UserError: pytest is not installed.
    """
    pytest = optional_module("pytest", "pytest", "gpu_check")
    os.chdir(REPOSITORY)
    outcomes = _Outcomes(take)
    flags = ("--tb=short", "--continue-on-collection-errors")
    status = pytest.main([*flags, *tests], plugins=[outcomes])
    outcomes.record.pop("running", None)
    take(outcomes.record | {"status": int(status)})


class _Outcomes:
    """A plugin of pytest, which calls its methods."""

    def __init__(self, take: Take) -> None:
        self.take = take
        self.record: dict = {"failures": {}}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Leaves out the tests that take no GPU, and would find none (tests/conftest.py)."""
        items[:] = [
            item
            for item in items
            if "cuda" in item.fixturenames or "cuda" in item.name.partition("[")[2]
        ]

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._count("error", report)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.take(self.record | {"running": nodeid})

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self._count("failed" if report.when == "call" else "error", report)
        elif report.when == "call" or report.skipped:
            self._count(report.outcome, report)

    def _count(self, outcome: str, report: Any) -> None:
        self.record[outcome] = self.record.get(outcome, 0) + 1
        if report.failed:
            self.record["failures"][report.nodeid] = report.longreprtext[-500:]

"""`python -m benchmarks.gpu_check`, mostly on machines without a GPU."""

import ast
import json
import pickle
import time
from contextlib import closing, nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_check, gpu_kinds
from benchmarks.data import benchmark_data
from benchmarks.gpu_tests import CUDA_TESTS, run_tests
from benchmarks.our_side import OurSide
from benchmarks.own_process import in_own_process
from benchmarks.settings import PHASES, settings_of
from benchmarks.side import EpochTime
from tests.support.helpers import REPOSITORY, without_gpus
from utils.errors import RunError, UserError


def test_without_a_gpu_it_says_so_in_one_line_and_writes_nothing(tmp_path, capsys):
    with without_gpus():
        assert gpu_check.main(["--output", str(tmp_path / "found.json")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == "gpu_check: error: no CUDA device here: nothing to check\n"
    assert not list(tmp_path.iterdir())


PASSED = {"passed": 3, "failures": {}, "status": 0}
FAILED = {"passed": 2, "failed": 1, "failures": {"a::b": "assert 1\n == 2"}, "status": 1}


@pytest.fixture
def checked(monkeypatch, tmp_path):
    """Gives `checked(part=replacement, ...)`: the status and the record of a check on a CPU. Its
    measurements run in this process and find nothing, unless they are replaced."""
    output = tmp_path / "found.json"

    def in_this_process(measure, seconds, take):
        assert len(pickle.dumps(measure)) < 10_000  # a tensor would take room in /dev/shm
        try:
            function, given = getattr(measure, "func", measure), getattr(measure, "args", ())
            replacements[function.__name__](*given, take)
        except (UserError, RunError):
            raise
        except Exception as error:
            raise RunError(f"{type(error).__name__}: {error}") from error

    def run(**measurements):
        replacements.update(measurements)
        with without_gpus():
            monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
            status = gpu_check.main(["--output", str(output)])
        return status, json.loads(output.read_text())

    replacements = {
        "run_tests": lambda tests, take: take(PASSED),
        "describe_machine": lambda take: take({"device": "cuda:0"}),
        "measure_kind": lambda settings, folder, take: None,
        "compare_with_plain": lambda settings, take: None,
    }
    monkeypatch.setattr(gpu_check, "in_own_process", in_this_process)
    monkeypatch.setattr(gpu_check, "benchmark_data", lambda settings: (None, "made-up"))
    return run


def failing(*_):
    raise OSError("no space")


@pytest.mark.parametrize(
    ("tests", "failures", "status"),
    [
        (PASSED, {}, 0),
        (PASSED, {"compare_with_plain": failing}, 1),
        (FAILED, {}, 1),
        ({"passed": 3, "failures": {}, "running": "a::b"}, {}, 1),
        ({"skipped": 9, "failures": {}, "status": 0}, {}, 1),
    ],
)
def test_its_status_is_0_only_if_all_tests_passed_and_nothing_failed(
    tests, failures, status, checked
):
    found = checked(run_tests=lambda _, take: take(tests), **failures)
    assert (found[0], found[1]["tests"]) == (status, tests)


def test_failures_end_the_report(checked, capsys):
    checked(run_tests=lambda _, take: take(FAILED), compare_with_plain=failing)
    assert capsys.readouterr().out.endswith(
        "no kind was measured\n\ntests on CUDA: 2 passed, 1 failed\n"
        "failed: images_per_second: OSError: no space\nfailed: a::b: assert 1 == 2\n"
    )


def test_if_no_kind_is_measured_it_still_compares_with_the_plain_loop(checked):
    def refused(settings, folder, take):
        raise UserError("no such precision")

    compared = []
    status, record = checked(
        measure_kind=refused,
        compare_with_plain=lambda settings, take: compared.append(settings.options.precision),
    )
    assert status == 0 and record["kinds"] == {} and compared == ["float32"]
    kinds = [f"{precision}, {step}" for precision, step in gpu_check.KINDS]
    assert record["left_out"] == [f"{kind}: no such precision" for kind in kinds]


def test_a_kind_that_fails_costs_neither_the_others_nor_what_it_had_measured(checked):
    def measured(settings, folder, take):
        take({"pretraining": {"projected_seconds": 2.0}})
        if settings.options.precision == "tf32":
            raise RuntimeError("operation not permitted")

    status, record = checked(measure_kind=measured, compare_with_plain=failing)
    assert status == 1 and record["left_out"] == [] and record["images_per_second"] == {}
    assert list(record["kinds"]) == ["bf16, graph", "bf16, eager", "float32, graph", "tf32, graph"]
    for found in record["kinds"].values():
        assert found == {"pretraining": {"projected_seconds": 2.0}}
    assert record["failures"] == {
        "tf32, graph": "RuntimeError: operation not permitted",
        "images_per_second": "OSError: no space",
    }


def test_what_was_measured_is_in_the_file_before_an_interruption(checked, capsys):
    def interrupted(settings, folder, take):
        if settings.options.step == "eager":
            raise KeyboardInterrupt
        take({"features": {"step_ms": 1.5}})

    assert gpu_check.KINDS[1] == ("bf16", "eager")
    status, record = checked(measure_kind=interrupted)
    assert status == 130 and record["tests"] == PASSED
    assert record["kinds"] == {"bf16, graph": {"features": {"step_ms": 1.5}}}
    assert "bf16, graph     | features" in capsys.readouterr().out


def test_input_that_the_plain_loop_refuses_does_not_cost_the_kinds(checked):
    def refused(settings, take):
        raise UserError("no such worker")

    status, record = checked(
        measure_kind=lambda settings, folder, take: take({"features": {}}),
        compare_with_plain=refused,
    )
    assert status == 0 and len(record["kinds"]) == len(gpu_check.KINDS)
    assert record["left_out"] == ["images_per_second: no such worker"]


def test_a_kind_that_hangs_leaves_time_for_the_others(checked, monkeypatch):
    now, limits = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def hanging(measure, seconds, take):
        limits.append(seconds)
        now[0] += seconds
        raise RunError(f"not within {seconds:.0f} s")

    monkeypatch.setattr(gpu_check, "in_own_process", hanging)
    status, record = checked()
    assert status == 1 and now[0] == gpu_check.SECONDS
    # The third kind would have 13.75 s. The last need leave nothing for other kinds.
    assert limits == pytest.approx([220, 60, 55, 27.5, 27.5, 60])
    assert gpu_check.LEAST_SECONDS == 20 and record["left_out"] == ["float32, graph"]
    kinds = [f"{precision}, {step}" for precision, step in gpu_check.KINDS]
    assert sorted([*kinds, "tests", "machine", "images_per_second"]) == sorted(
        [*record["failures"], *record["left_out"]]
    )


WITH_CUDA = "import os, pytest\n@pytest.fixture(autouse=True)\ndef cuda(): pass\n"
"""The beginning of a file all of whose tests take a GPU."""


def test_every_test_is_counted_and_every_failure_has_its_message(tmp_path):
    """Each runs in the options of the project; those of a file that cannot be read do not run."""
    (tmp_path / "test_small.py").write_text(
        WITH_CUDA + "def test_passes(): pass\n"
        "def test_fails(): assert [3] == [4]\n"
        "def test_is_skipped(): pytest.skip('no GPU')\n"
        "def test_has_an_error(no_such_fixture): pass\n"
    )
    (tmp_path / "test_unreadable.py").write_text("import no_such_module\n")
    records = []
    in_own_process(partial(run_tests, [str(tmp_path)]), 100, records.append)
    found = records[-1]
    failures = {name.split("test_")[-1]: text for name, text in found.pop("failures").items()}
    assert found == {"passed": 1, "failed": 1, "skipped": 1, "error": 2, "status": 1}
    assert "[3] == [4]" in failures["fails"] and "no_such_fixture" in failures["has_an_error"]
    assert "no_such_module" in failures["unreadable.py"] and len(failures) == 3


def test_a_test_that_crashes_is_named_beside_those_before_it(tmp_path):
    path = tmp_path / "test_small.py"
    path.write_text(f"{WITH_CUDA}def test_a(): pass\ndef test_b(): os._exit(3)\n")
    records = []
    with pytest.raises(RunError, match="its process ended with status 3"):
        in_own_process(partial(run_tests, [str(path)]), 100, records.append)
    assert records[-1]["passed"] == 1 and records[-1]["running"].endswith("::test_b")


def test_only_the_tests_that_take_a_gpu_run(tmp_path):
    """Here they are the last three of five."""
    (tmp_path / "test_small.py").write_text(
        "import pytest\n"
        "devices = pytest.mark.parametrize('where', ['cpu', 'on cuda'])\n"
        "@pytest.fixture\n"
        "def cuda(): pass\n"
        "@pytest.fixture\n"
        "def deterministic(cuda): pass\n"
        "def test_on_cuda(): assert False\n"
        "@devices\n"
        "def test_both(where): assert where == 'on cuda'\n"
        "def test_one(cuda): pass\n"
        "def test_other(deterministic): pass\n"
    )
    records = []
    in_own_process(partial(run_tests, [str(tmp_path)]), 100, records.append)
    assert records[-1] == {"passed": 3, "failures": {}, "status": 0}


def test_the_tests_on_cuda_are_there():
    for name in CUDA_TESTS:
        path, _, test = name.partition("::")
        assert (REPOSITORY / path).exists()
        assert not test or f"def {test}(" in (REPOSITORY / path).read_text()


def test_every_test_that_asks_for_a_gpu_is_among_them():
    asks, missing = {"cuda", "device", "deterministic"}, []
    for path in (REPOSITORY / "tests").rglob("test_*.py"):
        functions = (f for f in ast.parse(path.read_text()).body if isinstance(f, ast.FunctionDef))
        taken = {f.name: {argument.arg for argument in f.args.args} for f in functions}
        known = asks | {name for name, own in taken.items() if own & asks}  # the file's fixtures
        for name in (n for n, own in taken.items() if n.startswith("test_") and own & known):
            test = f"{path.relative_to(REPOSITORY).as_posix()}::{name}"
            if not any(f"{test}/".startswith((f"{c}/", f"{c}::")) for c in CUDA_TESTS):
                missing.append(test)
    assert missing == []


def test_the_comparison_with_the_plain_loop_warms_up_once_and_asks_two_sides(monkeypatch):
    class Asked:
        def __init__(self, name, rates):
            self.name, self.rates = name, iter(rates)

        def ask(self, method, phase, part, persistent_workers):
            assert (method, part, persistent_workers) == ("rate", 1.0, True)
            return next(self.rates)

    sides = [Asked("plain float32", [1, 10, 2, 20]), Asked("ours float32", [])]
    sides.append(Asked("ours bf16", [3, 30, 4, 40]))
    monkeypatch.setattr(gpu_check, "both_sides", lambda settings: nullcontext(sides))
    records = []
    gpu_check.compare_with_plain(settings_of([]), lambda found: records.append(dict(found)))
    pretraining = {"pretraining": {"plain float32": 10, "ours bf16": 30}}
    features = {"features": {"plain float32": 20, "ours bf16": 40}}
    assert records == [pretraining, pretraining | features]


class StandIn:
    """In the place of `OurSide`: a stage 1, and a stage 2 that may fail."""

    device = torch.device("cpu")
    stage_2_fails = False

    def __init__(self, settings, data, folder):
        pass

    def times_by_stage(self):
        yield {"pretraining": [EpochTime(3.0, 2.0)]}
        if self.stage_2_fails:
            raise RuntimeError("stage 2")
        yield {"features": [EpochTime(5.0, 4.0)], "classifier": [EpochTime(7.0, 6.0)]}

    def steps(self, phase):
        while True:
            yield

    def batch_sizes(self, phase):
        return [16, 13]


@pytest.fixture
def stand_in(monkeypatch):
    """Gives the record of a kind of step of `StandIn`, as it is when the measurement ends."""

    def measured():
        settings, records = settings_of(["--gpu", "cpu"], quick=True), []
        with pytest.raises(RuntimeError, match=r"no profiler|stage 2"):
            gpu_kinds.measure_kind(settings, None, lambda found: records.append(json.dumps(found)))
        return json.loads(records[-1])

    monkeypatch.setattr(gpu_kinds, "OurSide", StandIn)
    return measured


def test_a_profiler_that_fails_costs_no_times(stand_in, monkeypatch):
    def profile(activities):
        raise RuntimeError("no profiler")

    monkeypatch.setattr(gpu_kinds, "profile", profile)
    found = stand_in()
    seconds = {phase: of_phase["projected_seconds"] for phase, of_phase in found.items()}
    assert seconds == {"pretraining": 600, "features": 400, "classifier": 140}
    assert found["pretraining"]["step_ms"] > 0 and "kernels" not in found["pretraining"]
    record = {"kinds": {"tf32, graph": found}, "images_per_second": {}, "tests": {}}
    lines = gpu_check.report(record | {"left_out": [], "failures": {}}).splitlines()
    assert len(lines[2].split("|")) == len(lines[0].split("|"))
    assert lines[5].rstrip(" |").endswith("1140")


def test_a_stage_2_that_fails_costs_no_stage_1(stand_in, monkeypatch):
    monkeypatch.setattr(StandIn, "stage_2_fails", True)
    found = stand_in()
    assert found["pretraining"]["projected_seconds"] == 600 and len(found) == 1
    record = {"kinds": {"tf32, graph": found}, "images_per_second": {}, "tests": {}}
    assert "recipe" not in gpu_check.report(record | {"left_out": [], "failures": {}})


def test_kernels_and_busy_milliseconds_are_those_of_a_step(monkeypatch):
    def event(is_user_annotation):
        return SimpleNamespace(
            device_type=gpu_kinds.DeviceType.CUDA,
            is_user_annotation=is_user_annotation,
            time_range=SimpleNamespace(elapsed_us=lambda: 500.0),
        )

    events = [event(False)] * (2 * gpu_kinds.STEPS) + [event(True)]
    profiler = SimpleNamespace(events=lambda: events)
    monkeypatch.setattr(gpu_kinds, "profile", lambda activities: nullcontext(profiler))
    _, found = gpu_kinds.measure_steps(StandIn(None, None, None), "features")
    assert found == {"kernels": 2.0, "busy_ms": 1.0}


def test_batches_are_counted_as_in_training(tmp_path):
    """All batch-norm layers but one leave the count to the end of an epoch. The count of a step
    would otherwise have more kernels than a step of training."""
    settings = settings_of(["--gpu", "cpu"], quick=True)
    data, _ = benchmark_data(settings)
    side = OurSide(settings, data, tmp_path)
    model = side._phases["pretraining"][0].model
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with closing(side.steps("pretraining")) as steps:
        next(steps)
        assert [norm.num_batches_tracked for norm in norms] == [1] + [None] * (len(norms) - 1)
    assert [norm.num_batches_tracked for norm in norms] == [1] * len(norms)


def test_a_rate_of_ours_counts_every_image(tmp_path):
    settings = settings_of(["--gpu", "cpu"], quick=True)
    side = OurSide(settings, benchmark_data(settings)[0], tmp_path)
    assert [*map(side.train_batches, PHASES), side.load()] == [25, 40, 40, 40]
    assert side.evaluate() == sum(map(len, side.data.evaluation_splits.values()))


def test_on_a_gpu_kernels_are_counted(cuda, tmp_path):
    settings = settings_of(["--gpu", "0", "--step", "graph"], quick=True)
    records = []
    gpu_kinds.measure_kind(settings, tmp_path, records.append)
    features = records[-1]["features"]
    assert features["kernels"] > 50 and features["busy_ms"] > 0

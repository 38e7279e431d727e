"""What a precision and kind of step take: epochs, and single steps under the profiler."""

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from statistics import median

from torch.autograd import (  # torch's hints do not list it as exported
    DeviceType,  # pyright: ignore[reportPrivateImportUsage]
)
from torch.profiler import ProfilerActivity, profile

from benchmarks.data import benchmark_data
from benchmarks.our_side import OurSide
from benchmarks.own_process import Take
from benchmarks.settings import RECIPE, Settings
from benchmarks.side import clock

WARM_UP_STEPS, STEPS = 3, 20


def measure_kind(settings: Settings, folder: Path, take: Take) -> None:
    """Measures, by phase, what the precision and kind of step of these settings take: the median of
    the epochs that do not warm up, then single steps. The record grows with each of them.

    The idle seconds are those of training in which no kernel of a step runs; the augmentation is
    among them. In stage 1 the other seconds of an epoch have a pass over the training images, which
    most of its 200 epochs lack, so its projected seconds are too many.
    """
    side, found, training = OurSide(settings, benchmark_data(settings)[0], folder), {}, {}
    for of_stage in side.times_by_stage():
        for phase, times in of_stage.items():
            seconds = median(t.seconds for t in times)
            training[phase] = median(t.training_seconds for t in times)
            found[phase] = {
                "epoch_seconds": seconds,
                "other_seconds": seconds - training[phase],
                "projected_seconds": seconds * RECIPE[phase],
            }
        take(found)
    for phase, of_phase in found.items():
        for of_step in measure_steps(side, phase):
            of_phase |= of_step
            take(found)
        of_phase["steps"] = len(side.batch_sizes(phase))
        busy_seconds = of_phase["steps"] * of_phase["busy_ms"] / 1000
        of_phase["idle_seconds"] = max(0.0, training[phase] - busy_seconds)
        take(found)


def measure_steps(side: OurSide, phase: str) -> Iterator[dict]:
    """Yields what a training step of a phase takes: milliseconds by the clock; then, by the
    profiler, kernels (with copies and fills) and busy milliseconds of the device.

    Raises:
        RuntimeError: the profiler saw no kernel of a GPU.
    """
    activities = [ProfilerActivity.CPU]
    if side.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with closing(side.steps(phase)) as steps:
        list(islice(steps, WARM_UP_STEPS))
        began = clock(side.device)
        list(islice(steps, STEPS))
        yield {"step_ms": 1000 * (clock(side.device) - began) / STEPS}
        with profile(activities=activities) as profiler:
            list(islice(steps, STEPS))
            clock(side.device)
    # The profiler also gives the device the named ranges of the host, such as the optimiser's step.
    kernels = [
        event
        for event in profiler.events() or []
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]
    if side.device.type == "cuda" and not kernels:
        raise RuntimeError("the profiler saw no kernel")
    busy = sum(event.time_range.elapsed_us() for event in kernels) / 1000
    yield {"kernels": round(len(kernels) / STEPS, 1), "busy_ms": busy / STEPS}

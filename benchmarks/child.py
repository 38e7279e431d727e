"""One side of a benchmark in a process of its own: when its first step is done, and the most memory
that it takes.

    python -m benchmarks.child SIDE SETTINGS

SETTINGS are those of `benchmarks.settings.Settings` as JSON, with `"memory": true` to go on after
the first step. Prints a line of JSON.
"""

import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.settings import Settings

MEBIBYTE = 2**20


class FirstStepDone(Exception):
    """Ends a training that has shown when it began."""


def run_child(side: str, settings: Settings, memory: bool, part: float) -> dict:
    """Starts a child; `start_up_seconds` from the start of its process to the end of its first
    step and, if `memory`, `peak_mib` of its process, of its largest worker and of the device.

    Memory is that of whole epochs on a `part` of the data, with all data loaded.

    Raises:
        subprocess.CalledProcessError: it failed; what it said is on standard error.
    """
    told = json.dumps({**asdict(settings), "memory": memory, "part": part})
    command = [sys.executable, "-m", "benchmarks.child", side, told]
    began = time.time()
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(result.stdout.splitlines()[-1])
    return {"start_up_seconds": found["first_step"] - began, "peak_mib": found["peak_mib"]}


def main(side: str, told: dict) -> None:
    # Imported here, because importing it starts no training but torch, which takes its time.
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from benchmarks.data import benchmark_data
    from benchmarks.measure import clock
    from benchmarks.sides import PLAIN, Sides, peak_device_memory

    memory, part = told.pop("memory"), told.pop("part")
    settings = Settings(**told)
    data, _ = benchmark_data(settings)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(settings, Path(folder))

        def stop(*_: object) -> None:
            clock(sides.device)
            found["first_step"] = time.time()
            raise FirstStepDone

        hook = register_optimizer_step_post_hook(stop)
        if side == PLAIN:
            loop = sides.plain(data)
            with contextlib.suppress(FirstStepDone):
                loop.train("pretraining", loop.pretraining_loader, None)
        else:
            sides.ours(side, data).pretrain_until(FirstStepDone)
        hook.remove()
        if memory:
            _use_memory(sides, side, data, part)
        sides.close()
        found["peak_mib"] = _peak(peak_device_memory(sides.device)) if memory else None
    print(json.dumps(found))


def _use_memory(sides, side: str, data, part: float) -> None:
    """A block of stage 2's images in full, and all phases on a part of the data."""
    from benchmarks.data import scaled
    from benchmarks.sides import PLAIN

    if side == PLAIN:
        next(iter(sides.plain(data).feature_loader))
    else:
        next(iter(sides.ours(side, data).prepared().stage.phases[0].loader))
    sides.visit(side, scaled(data, part))


def _peak(device_bytes: int | None) -> dict[str, float | None]:
    def peak(who: int) -> float:
        kilobyte = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(who).ru_maxrss * kilobyte / MEBIBYTE

    return {
        "process": peak(resource.RUSAGE_SELF),
        "largest worker": peak(resource.RUSAGE_CHILDREN),
        "device": None if device_bytes is None else device_bytes / MEBIBYTE,
    }


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))

"""One side of a benchmark in a process of its own: when its first step is done, and the most memory
that it takes.

    python -m benchmarks.child SIDE SETTINGS

SETTINGS are those of `benchmarks.settings.Settings` as JSON, with `"memory": true` to go on after
the first step. Prints a line of JSON.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.settings import Settings
from utils.errors import RunError


def run_child(side: str, settings: Settings, memory: bool, part: float) -> dict:
    """Starts a child; `start_up_seconds` from the start of its process to the end of its first
    step and, if `memory`, `peak_mib` of its process with its workers and of the device.

    Memory is that of whole epochs on a `part` of the data, with all data loaded.

    Raises:
        RunError: it failed; what it said is on standard error.
    """
    told = json.dumps({**asdict(settings), "memory": memory, "part": part})
    command = [sys.executable, "-m", "benchmarks.child", side, told]
    began = time.time()
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        raise RunError(f"{side}, in a process of its own: exit status {result.returncode}")
    found = json.loads(result.stdout.splitlines()[-1])
    return {"start_up_seconds": found["first_step"] - began, "peak_mib": found["peak_mib"]}


def main(side: str, told: dict) -> None:
    # Not imported with this module, which the parent imports without a need for torch.
    from benchmarks.data import benchmark_data
    from benchmarks.sides import Sides

    memory, part = told.pop("memory"), told.pop("part")
    settings = Settings(**told)
    data, _ = benchmark_data(settings)
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(settings, Path(folder))
        sides.first_step(side, data)
        first_step = time.time()
        peak = _peak_memory(sides, side, data, part) if memory else None
        sides.close()
    print(json.dumps({"first_step": first_step, "peak_mib": peak}))


def _peak_memory(sides, side: str, data, part: float) -> dict[str, float | None]:
    """MiB of the process with its workers, and of the device: in all phases on a part of the data,
    and for a first block of stage 2's images in full."""
    from benchmarks.data import scaled
    from benchmarks.memory import MEBIBYTE, PeakMemory
    from benchmarks.sides import PLAIN, peak_device_memory

    peak = PeakMemory()
    peak.start()
    if side == PLAIN:
        next(iter(sides.plain(data).feature_loader))
    else:
        next(iter(sides.ours(side, data).prepared().stage.phases[0].loader))
    sides.visit(side, scaled(data, part))
    on_device = peak_device_memory(sides.device)
    return {
        "process and workers": peak.stop(),
        "device": None if on_device is None else on_device / MEBIBYTE,
    }


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))

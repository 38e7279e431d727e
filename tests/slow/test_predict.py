"""The memory of `python -m utils.predict`."""

import os
import subprocess
import sys

from tests.support.helpers import REPOSITORY
from tests.support.pictures import noise, save
from tests.support.trained import write_checkpoint

MEASURE = """
import resource, sys
from utils.predict.__main__ import main
for folder in sys.argv[2:]:
    assert main([sys.argv[1], folder, "--output", folder + ".csv"]) == 0
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_files(tmp_path):
    write_checkpoint(tmp_path / "run")
    for number in (200, 5000):
        folder = tmp_path / str(number)
        save(folder / "0000.png", noise(8, 8, 3, seed=0))
        for i in range(1, number):
            os.link(folder / "0000.png", folder / f"{i:04}.png")
    command = [sys.executable, "-c", MEASURE, tmp_path / "run", tmp_path / "200", tmp_path / "5000"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    few, many = (
        int(line.split()[1]) for line in ran.stdout.splitlines() if line.startswith("peak")
    )
    assert (tmp_path / "5000.csv").read_text().count("\n") == 5001
    assert many - few < 16 * 1024  # KiB; the interpreter and torch take 300 MiB

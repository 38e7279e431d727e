"""Memory that a process frees stays with it."""

import os
import platform
import subprocess
import sys

import pytest

from tests.support.helpers import REPOSITORY
from utils.machine import memory
from utils.machine.device import choose_machine

ROUNDS, BLOCKS, BLOCK = 10, 8, 2**23

PROGRAM = f"""
import resource, sys
from utils.machine.memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "kept" else None
faults = []
for _ in range({ROUNDS}):
    blocks = [bytearray({BLOCK}) for _ in range({BLOCKS})]
    del blocks
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(kept, faults[-1] - faults[1])
"""
SETTINGS = ("MALLOC_", "GLIBC_TUNABLES")
"""How the names of variables begin by which a user sets glibc's memory."""


def pages_of(mode: str) -> tuple[str, int]:
    """Returns what the program prints: what the function returned, and how many pages the system
    gave once the program was warm. The size of a page depends on the system's settings."""
    command = [sys.executable, "-c", PROGRAM, mode]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(SETTINGS)}
    streams = {"capture_output": True, "text": True, "check": True}
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, **streams)
    kept, pages = ran.stdout.split()
    return kept, int(pages)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_a_step_gets_no_memory_from_the_system_again():
    kept, pages = pages_of("kept")
    assert kept == "True" and pages < pages_of("by default")[1] / 10


def test_other_systems_and_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    assert not memory.keep_freed_memory()
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    monkeypatch.delattr(memory.ctypes, "CDLL")
    assert not memory.keep_freed_memory()


def test_the_limit_of_older_versions_is_respected(monkeypatch):
    """Of the threshold above which memory is mapped."""
    accepted = {}

    class OldLibrary:
        def mallopt(self, parameter: int, value: int) -> int:
            if parameter == memory.M_MMAP_THRESHOLD and value > 2**25:
                return 0
            accepted[parameter] = value
            return 1

    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: OldLibrary())
    assert memory.keep_freed_memory()
    assert accepted[memory.M_MMAP_THRESHOLD] == 2**25 and memory.M_TRIM_THRESHOLD in accepted


def test_a_machine_keeps_the_memory_of_its_steps(monkeypatch):
    calls = []
    monkeypatch.setattr("utils.machine.device.keep_freed_memory", lambda: calls.append(1))
    choose_machine("cpu", "float32")
    assert calls == [1]

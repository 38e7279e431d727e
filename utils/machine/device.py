"""The machine that a run uses: device, precision, random state."""

import platform
import random
import sys
import time
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch

from utils.errors import UserError, warn
from utils.machine.cores import usable_cores
from utils.machine.memory import keep_freed_memory
from utils.machine.processes import ALONE, World
from utils.machine.provenance import commit


@dataclass(frozen=True)
class Machine:
    """What a run computes on and how.

    Args:
        device: the device of this process.
        precision: of convolutions, `float32`, `tf32` or `bf16`; with `bf16` also of
            matrix products.
        step: `eager`, `graph` or `compile`.
        micro_batches: number of parts in which a step takes a batch.
        world: the processes that share the work; each has its own device.
    """

    device: torch.device
    precision: str
    step: str = "eager"
    micro_batches: int = 1
    world: World = ALONE

    def autocast(self) -> AbstractContextManager:
        """Returns the context in which convolutions and matrix products are in bfloat16, if the
        precision is `bf16`."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @property
    def conv_dtype(self) -> torch.dtype | None:
        """The type to which `autocast` casts the weights of convolutions, or None if it casts
        nothing."""
        return torch.bfloat16 if self.precision == "bf16" else None

    def description(self) -> dict:
        """Returns what `args.json` records about the machine."""
        is_cuda = self.device.type == "cuda"
        return {
            "device": str(self.device),
            "processor": torch.cuda.get_device_name(self.device) if is_cuda else cpu_name(),
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "native_bf16": has_native_bf16(self.device),
            "step": self.step,
            "processes": self.world.size,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "commit": commit(),
            "command": sys.argv,
        }


class Stopwatch:
    """Measures the seconds of the device's work from its construction on. The construction does not
    wait for the device."""

    def __init__(self, device: torch.device) -> None:
        is_cuda = device.type == "cuda"
        self.began: torch.cuda.Event | float = self._event() if is_cuda else time.perf_counter()

    @staticmethod
    def _event() -> "torch.cuda.Event":
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def stop(self) -> float:
        """Waits until the device has finished its work, and returns the seconds."""
        if not isinstance(self.began, torch.cuda.Event):
            return time.perf_counter() - self.began
        ended = self._event()
        ended.synchronize()
        return self.began.elapsed_time(ended) / 1000


def cpu_name() -> str:
    """Returns the processor's name and the number of cores that this process may use."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        lines = []
    name = lines[0] if lines else platform.processor() or platform.machine()
    return f"{name}, {usable_cores()} cores"


def choose_machine(
    gpu: int | str | None,
    precision: str,
    step: str = "auto",
    micro_batches: int = 1,
    world: World = ALONE,
) -> Machine:
    """Returns the machine of this process, and sets torch and the C library up for it.

    Args:
        gpu: the value of `--gpu`. None is the first CUDA device, or the CPU if there is none. With
            several processes, each has the CUDA device of its local rank. A device for which torch
            has no kernels is replaced by the CPU, with a warning.
        precision: `float32`, `tf32` or `bf16`.
        step: `eager`, `graph`, `compile` or `auto`. `auto` is `graph` if one process takes whole
            batches on CUDA, else `eager`; both compute the same numbers.
        micro_batches: number of parts in which a step takes a batch.
        world: the processes that share the work.

    Raises:
        UserError: there is no such device, or it does not have the precision or the step.
    """
    device = _choose_device(gpu, world)
    if device.type == "cuda" and not _has_kernels(device):
        warn(
            f"{device} ({torch.cuda.get_device_name(device.index)}) is too old for this torch, "
            "using the CPU; a torch for CUDA 12.6 has kernels from compute capability 5.0 on"
        )
        device = torch.device("cpu")
    is_split = micro_batches > 1 or world.size > 1
    _check(device, precision, step, is_split)
    _set_up(device, precision)
    if step == "auto":
        step = "graph" if device.type == "cuda" and not is_split else "eager"
    return Machine(device, precision, step, micro_batches, world)


def _choose_device(gpu: int | str | None, world: World) -> torch.device:
    if isinstance(gpu, str):
        return torch.device(gpu)
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if world.size > 1:
        return _device_of_rank(world, gpu, available)
    if available == 0:
        if gpu is not None:
            warn(f"--gpu {gpu}: no CUDA device, using the CPU")
        return torch.device("cpu")
    if gpu is None or gpu < available:
        return torch.device("cuda", gpu or 0)
    if available == 1:
        warn(f"--gpu {gpu}: the only CUDA device is 0, using it")
        return torch.device("cuda", 0)
    names = ", ".join(f"{i} ({torch.cuda.get_device_name(i)})" for i in range(available))
    raise UserError(f"--gpu {gpu}: the CUDA devices are {names}")


def _device_of_rank(world: World, gpu: int | None, available: int) -> torch.device:
    """Returns the device of one of several processes, of `available` CUDA devices."""
    if gpu is not None:
        warn(
            f"--gpu {gpu} is ignored: each of {world.size} processes takes the device of its local "
            "rank"
        )
    if available == 0:
        return torch.device("cpu")
    if not torch.distributed.is_nccl_available():
        raise UserError(
            f"{world.size} processes on GPUs need NCCL, which this torch lacks (Windows has none); "
            "use one process, or --gpu cpu"
        )
    if world.local_rank < available:
        return torch.device("cuda", world.local_rank)
    raise UserError(
        f"process {world.rank} has the local rank {world.local_rank} (from 0) on a machine with "
        f"{available} CUDA devices; torchrun's --nproc_per_node must not be larger than that"
    )


def _has_kernels(device: torch.device) -> bool:
    """Returns False if torch was compiled for newer CUDA devices only."""
    names = [name for name in torch.cuda.get_arch_list() if name.startswith("sm_")]
    oldest = min((int(name[3:].rstrip("af")) for name in names), default=0)
    major, minor = _capability(device)
    return 10 * major + minor >= oldest


def _check(device: torch.device, precision: str, step: str, is_split: bool) -> None:
    """Checks that the device has the precision and the step.

    Raises:
        UserError: it does not.
    """
    is_cuda = device.type == "cuda"
    if precision == "bf16" and not has_native_bf16(device):
        raise UserError(
            f"--precision bf16: {device} has no native bfloat16; float32 is faster there"
        )
    if precision == "tf32" and not (is_cuda and _capability(device) >= (8, 0)):
        raise UserError(
            f"--precision tf32: {device} has no TF32, which needs an NVIDIA GPU of compute "
            "capability 8.0 or more; use float32"
        )
    if step == "graph" and not is_cuda:
        raise UserError(
            f"--step graph: {device} has no CUDA graphs; use --step auto, eager or compile"
        )
    if step == "graph" and is_split:
        raise UserError(
            "--step graph works with one process and --accumulate 1; use --step auto or eager"
        )


def _set_up(device: torch.device, precision: str) -> None:
    """Sets torch and the C library up for the device."""
    if device.type != "cuda":
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
        keep_freed_memory()
        return
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = True
    with warnings.catch_warnings():
        # Some versions of torch warn that these switches have newer names.
        warnings.simplefilter("ignore", UserWarning)
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        # Some containers set a variable that switches TF32 on for matrix products.
        torch.backends.cuda.matmul.allow_tf32 = False
    # The CPU draws random numbers and launches kernels. If its threads waited for each other on
    # busy cores, the device would wait too.
    torch.set_num_threads(1)


def has_native_bf16(device: torch.device) -> bool:
    """Returns True if the processor or GPU has instructions for bfloat16."""
    if device.type == "cuda":
        return _capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def seed_everything(seed: int) -> torch.Generator:
    """Seeds Python, NumPy and torch, and returns the CPU generator of orders and augmentation."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)

"""The machine that a run uses: device, precision, random state."""

import os
import platform
import random
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch

from utils.errors import UserError
from utils.provenance import commit


@dataclass(frozen=True)
class Machine:
    """The device, and the precision of convolutions on it (`float32` or `bf16`)."""

    device: torch.device
    precision: str

    def autocast(self) -> AbstractContextManager:
        """bfloat16 for convolutions and matrix products where the precision asks for it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def description(self) -> dict:
        """What `args.json` records of it."""
        is_cuda = self.device.type == "cuda"
        return {
            "device": str(self.device),
            "processor": torch.cuda.get_device_name(self.device) if is_cuda else cpu_name(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "commit": commit(),
            "command": sys.argv,
        }


def cpu_name() -> str:
    """The processor's name and the number of its cores that this process may use."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        lines = []
    name = lines[0] if lines else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def choose_machine(gpu: int | None, precision: str) -> Machine:
    """The device that `--gpu` names, or the first CUDA device, or the CPU.

    Raises:
        UserError: no such device among several, or a precision the device does not have natively.
    """
    device = _choose_device(gpu)
    if precision == "bf16" and not _has_native_bf16(device):
        raise UserError(
            f"--precision bf16: {device} has no native bfloat16, float32 is faster there"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32
    return Machine(device, precision)


def _choose_device(gpu: int | None) -> torch.device:
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if available == 0:
        if gpu is not None:
            print(f"main.py: warning: --gpu {gpu}: no CUDA device, using the CPU", file=sys.stderr)
        return torch.device("cpu")
    if gpu is None or gpu < available:
        return torch.device("cuda", gpu or 0)
    if available == 1:
        print(
            f"main.py: warning: --gpu {gpu}: the only CUDA device is 0, using it", file=sys.stderr
        )
        return torch.device("cuda", 0)
    names = ", ".join(f"{i} ({torch.cuda.get_device_name(i)})" for i in range(available))
    raise UserError(f"--gpu {gpu}: the CUDA devices are {names}")


def _has_native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def seed_everything(seed: int) -> torch.Generator:
    """Seeds Python, NumPy and torch, and gives the generator of orders and augmentation."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)

"""Communication between the processes of a run. With one process, nothing here communicates.

Tensors on a GPU go over NCCL. Tensors on the CPU, and decisions, go over gloo. Processes could
differ in files, clocks, signals and rounding. So process 0 decides about these, or all agree on
them, and all processes take the same steps.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from utils.errors import LostContact, RunError, UserError
from utils.machine.processes import World, world_of_environment

Result = TypeVar("Result")
PATIENCE = timedelta(days=1)
"""How long processes wait for each other. Process 0 may decode a data set for hours before the
others begin. One that ends keeps them no longer: with gloo its connections close, and torchrun ends
the others. One that hangs does."""


@contextmanager
def joined() -> Iterator[World]:
    """Gives the processes that torchrun started; inside, they can communicate.

    Raises:
        LostContact: another process ended while this one waited for it.
    """
    world = world_of_environment()
    if world.size == 1:
        yield world
        return
    # Its functions have the group of all processes as a default argument. Torch imports it at the
    # first optimizer step; such an import would keep the group, whose threads would then live until
    # the interpreter ends, and could abort it.
    importlib.import_module("torch.distributed.nn.functional")
    has_nccl = torch.cuda.is_available() and dist.is_nccl_available()
    backends = "cpu:gloo,cuda:nccl" if has_nccl else "gloo"
    dist.init_process_group(backends, timeout=PATIENCE)
    try:
        yield world
    except RuntimeError as error:
        # Gloo's errors have no type of their own, but their text names a source file of gloo.
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise LostContact(world.rank) from error
        raise
    dist.destroy_process_group()


def from_main(function: Callable[[], Result], world: World) -> Result:
    """Calls the function only in process 0, and returns its result, which must be picklable, in all
    processes.

    Raises:
        UserError, RunError, OSError: the function raised it in process 0; all processes raise it.
    """
    if world.size == 1:
        return function()
    told: list = [None, None]
    if world.is_main:
        try:
            told[0] = function()
        except (UserError, RunError, OSError) as error:
            told[1] = _shared(error)
    dist.broadcast_object_list(told, src=0)
    result, error = told
    if error is not None:
        raise _shared(error)
    return result


def together(function: Callable[[], Result], world: World) -> Result:
    """Calls the function, which must not communicate, in all processes, and returns this process's
    result. If it fails in one process, all fail.

    Raises:
        UserError, RunError, OSError: the error of the first process in which the function failed.
    """
    if world.size == 1:
        return function()
    result, own_error = None, None
    try:
        result = function()
    except (UserError, RunError, OSError) as error:
        own_error = error
    errors: list = [None] * world.size
    dist.all_gather_object(errors, own_error)
    for error in errors:
        if error is not None:
            raise _shared(error)
    return cast(Result, result)


def main_first(function: Callable[[], Result], world: World) -> Result:
    """Does what `together` does, but in process 0 first, so that the others find the files that it
    has written."""
    on_main = together(lambda: function() if world.is_main else None, world)
    on_others = together(lambda: None if world.is_main else function(), world)
    return cast(Result, on_main if world.is_main else on_others)


def _shared(error: Exception) -> Exception:
    """Returns the error, marked as raised in all processes, so that only one of them reports it."""
    vars(error)["is_shared"] = True
    return error


def gather(rows: Tensor, count: int, world: World) -> Tensor:
    """Returns all rows of a batch ``[count, ...]``, in order, from the share of each process. The
    result is not differentiable. Nothing waits for a device, because shapes follow from `count`.

    Args:
        rows: the rows of this process, ``[len(world.share(count)), ...]``.
        count: size of the whole batch.
        world: the processes.
    """
    if not world.divides(count):
        return rows
    sizes = [len(range(count)[world.share(count, rank)]) for rank in range(world.size)]
    padded = rows.new_zeros(sizes[0], *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = rows.new_empty(world.size * sizes[0], *rows.shape[1:])
    dist.all_gather(list(gathered.chunk(world.size)), padded)
    if sizes[0] == sizes[-1]:
        return gathered
    parts = gathered.split(sizes[0])
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def add_up(tensor: Tensor, world: World) -> Tensor:
    """Adds up the processes' tensors in place, and returns the sum."""
    if world.size > 1:
        dist.all_reduce(tensor)
    return tensor


def copy_from_main(tensors: Iterable[Tensor | None], world: World) -> None:
    """Gives the tensors the values that they have in process 0, in place. None is skipped."""
    if world.size == 1:
        return
    for tensor in tensors:
        if tensor is not None:
            told = tensor.detach().contiguous()
            dist.broadcast(told, src=0)
            tensor.detach().copy_(told)


def largest(number: int, world: World) -> int:
    """Returns the largest of the processes' numbers, without waiting for a GPU."""
    if world.size == 1:
        return number
    told = torch.tensor(number)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return int(told)

"""What the processes of a run tell each other. With one process nothing here does anything.

Tensors on a GPU go over NCCL; tensors on the CPU, and decisions, over gloo. Everything that a
process could do differently from the others (files, clocks, signals, roundings) is decided by
process 0 or agreed upon, so that all of them take the same steps.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from utils.errors import LostContact, RunError, UserError
from utils.machine.processes import World, world_of_environment

Result = TypeVar("Result")


@contextmanager
def joined() -> Iterator[World]:
    """The world of torchrun's environment; inside, its processes can communicate.

    Raises:
        LostContact: another process ended while this one waited for it.
    """
    world = world_of_environment()
    if world.size == 1:
        yield world
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield world
    except RuntimeError as error:
        # Gloo's errors are of no type of their own, but name the source file that they come from.
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise LostContact(world.rank) from error
        raise
    dist.destroy_process_group()


def from_main(function: Callable[[], Result], world: World) -> Result:
    """What the function gives in process 0, where alone it is called; picklable.

    Raises:
        UserError, RunError, OSError: as the function, in all processes.
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
    """What the function gives in this process. It is called in all of them, must not communicate,
    and where it fails in one, all fail.

    Raises:
        UserError, RunError, OSError: as the function in the first process that it fails in.
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
    """As `together`, process 0 before the others, which find the files that it has written."""
    on_main = together(lambda: function() if world.is_main else None, world)
    on_others = together(lambda: None if world.is_main else function(), world)
    return cast(Result, on_main if world.is_main else on_others)


def _shared(error: Exception) -> Exception:
    """The error, known to have been raised in all processes, so that one of them reports it."""
    vars(error)["is_shared"] = True
    return error


def gather(rows: Tensor, count: int, world: World) -> Tensor:
    """All rows ``[count, ...]`` of a batch of which each process has its share, in order.

    Not differentiable; shapes follow from `count`, so that nothing waits for a device.
    """
    if not world.divides(count):
        return rows
    sizes = [len(range(count)[world.share(count, rank)]) for rank in range(world.size)]
    padded = rows.new_zeros(sizes[0], *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = rows.new_empty(world.size * sizes[0], *rows.shape[1:])
    dist.all_gather_into_tensor(gathered, padded)
    if sizes[0] == sizes[-1]:
        return gathered
    parts = gathered.split(sizes[0])
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def add_up(tensor: Tensor, world: World) -> Tensor:
    """The sum of the processes' tensors, in place."""
    if world.size > 1:
        dist.all_reduce(tensor)
    return tensor


def copy_from_main(tensors: Iterable[Tensor | None], world: World) -> None:
    """Gives the tensors the values that they have in process 0, in place; None is passed over."""
    if world.size == 1:
        return
    for tensor in tensors:
        if tensor is not None:
            told = tensor.detach().contiguous()
            dist.broadcast(told, src=0)
            tensor.detach().copy_(told)


def largest(number: int, world: World) -> int:
    """The largest of the processes' numbers; it does not wait for a GPU."""
    if world.size == 1:
        return number
    told = torch.tensor(number)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return int(told)

"""The processes that torchrun starts for one run, and the share of a batch that each computes."""

import os
from dataclasses import dataclass

from utils.errors import UserError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them.

    Args:
        rank: the number of this process, from 0. Only rank 0 writes files.
        size: the number of processes.
        local_rank: the number of this process on its machine, from 0.
        local_size: the number of processes on its machine.

    Example:
        >>> [World(rank, size=3).share(8) for rank in range(3)]
        [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None)]
        >>> World(rank=2, size=3).share(2)
        slice(0, 2, None)
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def divides(self, count: int) -> bool:
        """Returns True if a batch of `count` images is divided among the processes. A batch with
        fewer images than processes is not: each process computes all of it."""
        return self.size > 1 and count >= self.size

    def share(self, count: int, rank: int | None = None) -> slice:
        """Returns the rows of a batch of `count` that this process (or process `rank`) computes.
        The shares follow each other in the order of ranks; their sizes differ by at most one."""
        if not self.divides(count):
            return slice(0, count)
        rank = self.rank if rank is None else rank
        quotient, remainder = divmod(count, self.size)
        start = rank * quotient + min(rank, remainder)
        return slice(start, start + quotient + (rank < remainder))


ALONE = World()


def world_of_environment() -> World:
    """Returns the processes that torchrun's environment variables describe. If a variable is
    missing or empty, there is only this process.

    Raises:
        UserError: a variable is not a number.
    """
    if not all(os.environ.get(name) for name in VARIABLES):
        return ALONE
    # Launchers other than torchrun may not set the last one.
    told = {name: os.environ.get(name) or "1" for name in (*VARIABLES[:3], "LOCAL_WORLD_SIZE")}
    try:
        rank, size, local_rank, local_size = map(int, told.values())
    except ValueError:
        listed = ", ".join(f"{name}={text}" for name, text in told.items())
        raise UserError(f"{listed}: torchrun sets these variables to whole numbers") from None
    return World(rank, size, local_rank, local_size) if size > 1 else ALONE

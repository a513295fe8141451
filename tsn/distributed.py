"""The processes of a run: which one this is, and the few collectives that training and testing need.

Every function takes a `World` and works without a process group where there is only one rank.
"""

import gc
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tsn.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among all processes of a run."""

    rank: int
    """0 <= rank < world_size, over all machines."""
    local_rank: int
    """The rank on this machine; also the index of this process's GPU."""
    world_size: int
    """Processes of the run over all machines."""
    local_world_size: int = 1
    """Processes of the run on this machine."""

    @property
    def is_main(self) -> bool:
        """True on the one rank that prints and writes files."""
        return self.rank == 0


def start_world() -> World:
    """Join the processes that torchrun started; without torchrun this process is the whole world.

    CPU tensors travel through gloo and GPU tensors through NCCL, so that a flag or a small object never waits
    for the GPU.
    """
    if "RANK" not in os.environ:
        return World(rank=0, local_rank=0, world_size=1)
    world = World(
        rank=int(os.environ["RANK"]),
        local_rank=int(os.environ["LOCAL_RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        local_world_size=int(os.environ["LOCAL_WORLD_SIZE"]),
    )
    if torch.cuda.is_available():
        torch.cuda.set_device(world.local_rank)
        dist.init_process_group("cpu:gloo,cuda:nccl")
    else:
        dist.init_process_group("gloo")
    return world


def stop_world() -> None:
    """Leave the process group, if there is one.

    DDP must be gone before: the group would end together with it, holding Python's lock, for which threads of
    the group may wait that it waits for.
    """
    if dist.is_initialized():
        gc.collect()  # DDP refers to itself
        dist.destroy_process_group()


def pick_device(world: World) -> torch.device:
    """This rank's GPU, or the CPU where there is none."""
    return torch.device("cuda", world.local_rank) if torch.cuda.is_available() else torch.device("cpu")


def barrier(world: World) -> None:
    """Wait until every rank is here."""
    max_over_ranks(world, 0)


def any_rank(world: World, flag: bool) -> bool:
    """True on every rank if `flag` is true on at least one."""
    return max_over_ranks(world, int(flag)) > 0


def max_over_ranks(world: World, value: int) -> int:
    """The largest `value` of all ranks, on every rank.  Touches no GPU."""
    if world.world_size == 1:
        return value
    votes = torch.tensor([value])
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return int(votes.item())


def sum_over_ranks(world: World, values: Tensor) -> Tensor:
    """The elementwise sum of `values` over all ranks, on every rank."""
    if world.world_size == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def gather_to_main(world: World, value: T) -> list[T] | None:
    """Every rank's `value` in the order of ranks, on rank 0; None elsewhere."""
    if world.world_size == 1:
        return [value]
    gathered: list[T] | None = [value] * world.world_size if world.is_main else None
    dist.gather_object(value, gathered)
    return gathered


def from_main(world: World, value: T) -> T:
    """Rank 0's `value`, on every rank."""
    if world.world_size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def on_main(world: World, task: Callable[[], T]) -> T:
    """What `task` gives on rank 0, which alone runs it, on every rank.

    Raises:
        UserError: that of `task`, on every rank.
    """
    if world.world_size == 1:
        return task()
    outcome: Any = None
    if world.is_main:
        try:
            outcome = task(), None
        except UserError as error:
            outcome = None, str(error)
    value, fault = from_main(world, outcome)
    if fault is not None:
        raise UserError(fault)
    return value


def check_equal(world: World, facts: Mapping[str, Any]) -> None:
    """Make sure that these facts, by name, are the same on every rank.

    Raises:
        UserError: they are not, on every rank; each that differs is named.
    """
    if world.world_size == 1:
        return
    everywhere: list[Any] = [None] * world.world_size
    dist.all_gather_object(everywhere, dict(facts))
    first = everywhere[0]
    faults = [
        f"{name}: {own.get(name)} on rank {rank}, {first.get(name)} on rank 0"
        for rank, own in enumerate(everywhere)
        for name in sorted(own.keys() | first.keys())
        if own.get(name) != first.get(name)
    ]
    if faults:
        remedy = "all ranks must run the same command line on the same files, or on equal copies"
        raise UserError("\n".join([*faults, remedy]))


def broadcast_buffers(world: World, model: nn.Module) -> None:
    """Copy rank 0's buffers (BatchNorm's running statistics) to every rank."""
    if world.world_size == 1:
        return
    for buffer in model.buffers():
        dist.broadcast(buffer, src=0)

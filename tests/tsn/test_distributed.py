"""Collectives, on two processes started as torchrun starts them."""

import os
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as mp
from test_train import free_port
from torch import nn

from tsn.distributed import (
    World,
    any_rank,
    broadcast_buffers,
    check_equal,
    from_main,
    gather_to_main,
    max_over_ranks,
    on_main,
    start_world,
    stop_world,
    sum_over_ranks,
)
from tsn.engine import evaluate
from tsn.errors import UserError


def use_every_collective(rank: int, port: int) -> None:
    """Runs in a process of its own; an assertion that fails ends it with an error."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    world = start_world()
    assert world == World(rank=rank, local_rank=rank, world_size=2, local_world_size=2)
    assert world.is_main == (rank == 0)
    assert any_rank(world, rank == 1)
    assert not any_rank(world, False)
    assert max_over_ranks(world, 10 * rank) == 10
    assert sum_over_ranks(world, torch.tensor([1.0, rank])).tolist() == [2.0, 1.0]
    assert gather_to_main(world, f"of {rank}") == (["of 0", "of 1"] if rank == 0 else None)
    assert from_main(world, {"rank": rank}) == {"rank": 0}
    assert on_main(world, lambda: world.rank) == 0
    with pytest.raises(UserError, match=r"^no rank 0$"):
        on_main(world, lambda: refuse(f"no rank {world.rank}"))
    check_equal(world, {"a": 1, "b": [2]})
    with pytest.raises(
        UserError, match=r"^b: 2 on rank 1, None on rank 0\nc: 1 on rank 1, 0 on rank 0\nall ranks"
    ):
        check_equal(world, {"a": 1, "c": rank} | ({"b": 2} if rank else {}))
    norm = nn.BatchNorm1d(3)
    norm.running_mean.fill_(float(rank + 5))
    broadcast_buffers(world, norm)
    assert norm.running_mean.tolist() == [5.0] * 3
    check_that_all_are_tested_with_the_statistics_of_rank_0(world)
    stop_world()


def refuse(reason: str) -> None:
    raise UserError(reason)


def check_that_all_are_tested_with_the_statistics_of_rank_0(world: World) -> None:
    norm = nn.BatchNorm1d(2, affine=False)
    norm.running_mean.fill_(10.0 * world.rank)
    batch = SimpleNamespace(
        clips=torch.full((1, 2), 3.0), labels=torch.tensor([0]), sample_ids=torch.tensor([world.rank])
    )

    class OneVideo(list):
        num_samples = 2

    predictions = evaluate(norm, OneVideo([batch]), world=world, amp=False)
    if world.is_main:
        assert predictions.scores[0].tolist() == predictions.scores[1].tolist()
        assert predictions.scores[0, 0] == pytest.approx(3.0, abs=1e-3)
    else:
        assert predictions is None


def test_two_ranks_agree():
    mp.spawn(use_every_collective, args=(free_port(),), nprocs=2)


@pytest.fixture
def alone(monkeypatch) -> World:
    monkeypatch.delenv("RANK", raising=False)
    return start_world()


def test_without_torchrun_one_process_is_the_whole_world(alone):
    assert alone == World(rank=0, local_rank=0, world_size=1, local_world_size=1)
    assert (any_rank(alone, True), max_over_ranks(alone, 3), from_main(alone, "x")) == (True, 3, "x")
    assert gather_to_main(alone, 7) == [7]
    assert on_main(alone, lambda: 7) == 7
    check_equal(alone, {"a": 1})
    assert sum_over_ranks(alone, torch.ones(2)).tolist() == [1.0, 1.0]

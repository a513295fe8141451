import pytest

from dali_pipes.partition import eval_partition, train_partition


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 4, 13])
@pytest.mark.parametrize("num_samples", [1, 7, 53, 104, 1000])
def test_eval_batches_add_up_to_every_sample(num_samples, batch_size, world_size):
    total = 0
    for rank in range(world_size):
        part = eval_partition(num_samples, batch_size=batch_size, rank=rank, world_size=world_size)
        own = max(part.num_batches - 1, 0) * batch_size + part.last_batch_size
        assert part.num_batches <= part.num_drawn
        assert (own == 0) == (part.num_batches == 0) == (rank >= part.world_size)
        total += own
    assert total == num_samples


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 4, 13])
def test_train_batches_leave_out_less_than_a_global_batch(batch_size, world_size):
    for num_samples in range(world_size * batch_size, 400, 7):
        parts = {
            train_partition(num_samples, batch_size=batch_size, rank=rank, world_size=world_size).num_batches
            for rank in range(world_size)
        }
        assert len(parts) == 1
        left_out = num_samples - parts.pop() * batch_size * world_size
        assert 0 <= left_out < batch_size * world_size


def test_fewer_samples_than_a_global_batch_are_refused():
    with pytest.raises(
        ValueError, match=r"31 samples are fewer than one global batch of 32 .*batch_size 16 x 2"
    ):
        train_partition(31, batch_size=16, rank=0, world_size=2)

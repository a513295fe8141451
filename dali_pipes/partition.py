"""Which samples a rank reads and how many batches that makes, as DALI's reader divides them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Partition:
    """One rank's part of an epoch.

    Attributes:
        rank, world_size: what DALI's reader is told; a rank without samples (no batches) reads nothing.
        num_batches: batches that this rank yields.
        num_drawn: batches that its pipeline makes in an epoch of its own; what is drawn beyond `num_batches`
            is discarded, so that the next epoch starts at its first sample.
        last_batch_size: samples of the last yielded batch that are not padding.
    """

    rank: int
    world_size: int
    num_batches: int
    num_drawn: int
    last_batch_size: int


def train_partition(num_samples: int, *, batch_size: int, rank: int, world_size: int) -> Partition:
    """The same number of full batches on every rank; fewer samples than a global batch are left out of an
    epoch.

    Raises:
        ValueError: there are fewer samples than one global batch.
    """
    num_batches = num_samples // (world_size * batch_size)
    if num_batches == 0:
        raise ValueError(
            f"data.train.shards: {num_samples} samples are fewer than one global batch of "
            f"{world_size * batch_size} (batch_size {batch_size} x {world_size} ranks): "
            "lower data.train.batch_size"
        )
    most = -(-num_samples // world_size)  # the reader pads every rank to the largest part
    return Partition(rank, world_size, num_batches, -(-most // batch_size), batch_size)


def eval_partition(num_samples: int, *, batch_size: int, rank: int, world_size: int) -> Partition:
    """Each sample exactly once over all ranks; a rank beyond the number of samples gets none."""
    readers = min(world_size, num_samples)
    if rank >= readers:
        return Partition(rank, readers, 0, 0, 0)
    own = num_samples * (rank + 1) // readers - num_samples * rank // readers
    most = -(-num_samples // readers)
    num_batches = -(-own // batch_size)
    return Partition(rank, readers, num_batches, -(-most // batch_size), own - (num_batches - 1) * batch_size)

"""What the engine needs of a loader; `dali_pipes` provides one.  The engine knows nothing else about data."""

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor


class Batch(Protocol):
    """Some videos, ready for the model."""

    @property
    def clips(self) -> Tensor:
        """(N, V, H, W, C) uint8 on the loader's device; V frames a video.  Of flow (N, V, C, H, W), uint8 or
        float32 on the same scale."""
        ...

    @property
    def labels(self) -> Tensor:
        """(N,) int64 class ids, or (N, num_classes) uint8 multi-hot; on the device of `clips`."""
        ...

    @property
    def sample_ids(self) -> Tensor:
        """(N,) int64 on the CPU: which videos of the shard set these are."""
        ...


class Loader(Protocol):
    """Batches of one rank, epoch after epoch."""

    @property
    def num_samples(self) -> int:
        """Videos in the whole set, over all ranks."""
        ...

    def __len__(self) -> int:
        """Batches per epoch on this rank; in training the same on every rank."""
        ...

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the current epoch that have not been yielded yet; exhausting it begins the next
        epoch."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Where this rank is, as plain data; also in the middle of an epoch."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        ...

    def close(self) -> None:
        """Free threads and memory."""
        ...

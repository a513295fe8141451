"""Further sources of training (OmniSource, arXiv:2003.13042): batches without end, and their sums."""

from collections.abc import Iterator
from typing import Any

import torch

from tsn.data import Batch, Loader
from tsn.engine import Tally


class Auxiliary:
    """One further source on this rank.

    Attributes:
        name: of the config.
        num_batches: how many are trained on each time, each with an update of its own.
        batches: the loader's, epoch after epoch.
        tally: sums since the last log record.
    """

    def __init__(self, name: str, loader: Loader, *, num_batches: int, device: torch.device) -> None:
        self.name, self.num_batches = name, num_batches
        self.tally = Tally(device)
        self.batches = _without_end(loader)
        self.loader = loader

    def state(self) -> dict[str, Any]:
        """Where it is, as plain data."""
        return {"loader": self.loader.state_dict(), "tally": self.tally.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            ValueError: the loader reads another set, or reads it otherwise.
        """
        self.loader.load_state_dict(state["loader"])
        self.tally.restore(state["tally"])


def _without_end(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader

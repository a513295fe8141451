"""Packing a whole list: plan, resume, and the order in which shards come into being.

The list is shuffled by a hash of seed and name, so that any prefix of the shards is a fair sample of the split. Shard k
holds the videos at positions [k * samples_per_shard, (k + 1) * samples_per_shard) of that order, without the rejected
ones. Each finished shard leaves a record in `.progress/`; what has no record is packed again, whatever lies there. The
manifest is written last, then `.progress/` goes.
"""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from shards.encoding import EncodingOptions, PackedSample, Rejected, Task, pack_video
from shards.files import to_json, write_atomically
from shards.manifest import FILE_NAME, Manifest, ShardError, ShardFile, load_manifest, write_manifest
from shards.pool import Died, run_in_order
from shards.sources import Source, SourceList
from shards.writing import ShardWriter

PROGRESS = ".progress"
REJECTED = "rejected.jsonl"
_TASKS_PER_WORKER = 4  # begun but not yet written: they wait in memory for a slow one before them


@dataclass(frozen=True)
class Plan:
    """What is packed into which directory; equal plans give equal bytes.

    Attributes:
        sources: all videos, in the order in which they are packed.
    """

    directory: Path
    dataset: str
    split: str
    sources: tuple[Source, ...]
    classes: tuple[str, ...]
    encoding: EncodingOptions
    samples_per_shard: int
    options: dict[str, Any]

    def tasks_of_shard(self, number: int) -> list[Task]:
        """The videos of shard `number`."""
        first = number * self.samples_per_shard
        sources = self.sources[first : first + self.samples_per_shard]
        return [Task(first + i, source, self.split, self.encoding) for i, source in enumerate(sources)]

    @property
    def num_shards(self) -> int:
        return -(-len(self.sources) // self.samples_per_shard)

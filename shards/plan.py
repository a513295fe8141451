"""Which videos go into which shard, and under which id.

The list is shuffled by a hash of seed and name, which no library version can change: any prefix of the
shards is a fair sample of the split. Shard k holds the videos at positions [k * samples_per_shard, (k + 1) *
samples_per_shard) of that order, without those that could not be packed; the position is the sample id.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.encoding import EncodingOptions, Task
from shards.sources import Source, SourceList


@dataclass(frozen=True)
class Plan:
    """What is packed into which directory. Equal options and equal videos give equal bytes.

    Attributes:
        directory: where the shards go.
        dataset, split: names for people.
        sources: all videos, in the order in which they are packed.
        classes: class names.
        encoding: what a video is stored as.
        samples_per_shard: videos to a shard.
        options: everything that shapes the content, for the manifest and for recognising the same command.
    """

    directory: Path
    dataset: str
    split: str
    sources: tuple[Source, ...]
    classes: tuple[str, ...]
    encoding: EncodingOptions
    samples_per_shard: int
    options: dict[str, Any]

    @property
    def num_shards(self) -> int:
        return -(-len(self.sources) // self.samples_per_shard)

    def tasks_of_shard(self, number: int) -> list[Task]:
        """The videos of shard `number`."""
        first = number * self.samples_per_shard
        sources = self.sources[first : first + self.samples_per_shard]
        return [Task(first + i, source, self.split, self.encoding) for i, source in enumerate(sources)]


def make_plan(
    directory: Path,
    source_list: SourceList,
    *,
    encoding: EncodingOptions,
    samples_per_shard: int,
    seed: int,
    dataset: str,
    split: str,
) -> Plan:
    """Shuffle the list and fix everything that the result depends on.

    Raises:
        ValueError: `samples_per_shard` is not positive.
    """
    if samples_per_shard < 1:
        raise ValueError(f"--samples-per-shard {samples_per_shard}: expected 1 or more")
    options = encoding.that_count() | {
        "samples_per_shard": samples_per_shard,
        "seed": seed,
        "dataset": dataset,
        "split": split,
        "list_sha256": source_list.list_sha256,
        "sources_sha256": _sources_sha256(source_list.sources),
        "category": source_list.category,
        "classes_sha256": source_list.classes_sha256,
    }
    return Plan(
        directory=directory,
        dataset=dataset,
        split=split,
        sources=tuple(sorted(source_list.sources, key=lambda source: _shuffle_key(seed, source.name))),
        classes=source_list.classes,
        encoding=encoding,
        samples_per_shard=samples_per_shard,
        options=options,
    )


def shard_name(number: int) -> str:
    """File name of a tar."""
    return f"shard-{number:06d}.tar"


def _sources_sha256(sources: Iterable[Source]) -> str:
    """Checksum of names and sizes: other files are recognised, and the same ones wherever they lie."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{source.name}\0{source.size_bytes}\n".encode())
    return digest.hexdigest()


def _shuffle_key(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()

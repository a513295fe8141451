"""Class-balanced sampling: an index that names samples as often as they were drawn.

DALI's reader takes the samples that the index of a tar lists, in any order and any number of times.  So an
epoch of weighted draws with replacement is a set of indices, written for that epoch; the tars stay as is.
"""

import os
from pathlib import Path

import numpy as np

from shards.index import Index, format_index, load_index
from shards.manifest import Manifest, ShardError

LABEL_BYTES = 8  # the last bytes of a label.npy that holds one int64


class ClassBalance:
    """Draws the samples of an epoch: class c with a chance proportional to (n_c / N) ** power.

    Within a class all samples are equally likely.  power 1: as they occur.  power 0: all classes alike.
    OmniSource, arXiv:2003.13042, uses 0.5.
    """

    def __init__(self, directory: Path, manifest: Manifest, power: float):
        """Read the labels of all samples.

        Raises:
            ShardError: a sample has several labels.
            ValueError: an index is damaged.
        """
        if manifest.multi_label:
            raise ShardError(f"{directory}: class_balance needs one label a sample; leave it unset")
        self._directory = directory
        self._shards = manifest.shards
        self._indices = [load_index(directory / shard.index_name) for shard in manifest.shards]
        labels = np.concatenate(
            [
                _read_labels(directory / shard.name, index)
                for shard, index in zip(manifest.shards, self._indices, strict=True)
            ]
        )
        counts = np.bincount(labels)
        weights = np.zeros(len(counts))
        weights[counts > 0] = (counts[counts > 0] / len(labels)) ** power
        self._chances = weights[labels] / weights.sum() / counts[labels]

    def write(self, target: Path, *, seed: int, epoch: int) -> list[tuple[Path, Path]]:
        """Tars and indices of an epoch, as many samples as there are; the same for all ranks.

        The tars come in another order each time, because each rank reads a part of them.
        """
        generator = np.random.default_rng([seed, epoch])
        times = generator.multinomial(len(self._chances), self._chances)
        files, start = [], 0
        for shard, index in zip(self._shards, self._indices, strict=True):
            drawn = np.repeat(np.arange(len(index)), times[start : start + len(index)])
            start += len(index)
            if len(drawn):
                path = target / shard.index_name
                entries = list(index.items())
                path.write_text(format_index([entries[i] for i in generator.permutation(drawn)]))
                files.append((self._directory / shard.name, path))
        return [files[i] for i in generator.permutation(len(files))]


def _read_labels(tar: Path, index: Index) -> np.ndarray:
    """The label of each sample of a tar, int64."""
    labels = np.empty(len(index), np.int64)
    with open(tar, "rb") as file:
        for number, members in enumerate(index.values()):
            member = next(m for m in members if m.name == "label.npy")
            end = member.offset + member.size_bytes
            labels[number] = np.frombuffer(os.pread(file.fileno(), LABEL_BYTES, end - LABEL_BYTES), np.int64)[
                0
            ]
    return labels

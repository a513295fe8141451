"""Random access to the samples of a directory of shards, through their indices: no tar is walked."""

import json
import os
from functools import lru_cache
from pathlib import Path

from shards.index import Index, Member, load_index
from shards.manifest import Manifest, ShardError, load_manifest
from shards.sample import Sample, from_members, stream_crc32


class ShardDataset:
    """The samples of a directory of shards.

    Attributes:
        directory: where they lie.
        manifest: what it says of them.
    """

    def __init__(self, directory: str | Path) -> None:
        """Read the manifest; the indices follow when they are needed.

        Raises:
            ShardError: as `load_manifest`.
        """
        self.directory = Path(directory)
        self.manifest: Manifest = load_manifest(directory)
        self._load_index = lru_cache(maxsize=None)(self._read_index)

    def keys_and_names(self) -> list[tuple[str, str]]:
        """Key and source name of every sample, in the order of the shards.

        Raises:
            ShardError: an index or a `json` member cannot be read.
        """
        pairs = []
        for shard in self.manifest.shards:
            with open(self.directory / shard.name, "rb") as tar:
                for key, members in self._load_index(shard.name).items():
                    where = f"{self.directory / shard.name}:{key}"
                    content = _read_members(tar.fileno(), members, where, only="json")
                    pairs.append((key, _source_name(content, where)))
        return pairs

    def find_shard(self, key: str) -> str:
        """Name of the tar that holds the sample.

        Raises:
            ShardError: none does.
        """
        for shard in self.manifest.shards:
            if key in self._load_index(shard.name):
                return shard.name
        raise ShardError(f"{self.directory}: no sample with key {key}")

    def read_sample(self, key: str) -> Sample:
        """Read one sample whole and compare its checksum.

        Raises:
            ShardError: no such sample, a member is missing or damaged; names tar and key.
        """
        name = self.find_shard(key)
        where = f"{self.directory / name}:{key}"
        with open(self.directory / name, "rb") as tar:
            contents = _read_members(tar.fileno(), self._load_index(name)[key], where)
        try:
            sample = from_members(contents)
        except ValueError as error:
            raise ShardError(f"{where}: {error}") from error
        if stream_crc32(sample.stream.data) != sample.info.get("stream_crc32"):
            raise ShardError(
                f"{where}: {sample.stream.codec}: damaged, its checksum differs; copy the tar again"
            )
        return sample

    def _read_index(self, shard_name: str) -> Index:
        path = (self.directory / shard_name).with_suffix(".idx")
        try:
            return load_index(path)
        except (OSError, ValueError) as error:
            raise ShardError(f"{path}: cannot be read as an index ({error}); copy it again") from error


def _read_members(
    tar: int, members: tuple[Member, ...], where: str, *, only: str | None = None
) -> dict[str, bytes]:
    contents = {}
    for member in members:
        if only in (None, member.name):
            contents[member.name] = os.pread(tar, member.size_bytes, member.offset)
            if len(contents[member.name]) != member.size_bytes:
                raise ShardError(f"{where}: {member.name} lies beyond the end of the tar; copy the tar again")
    return contents


def _source_name(contents: dict[str, bytes], where: str) -> str:
    try:
        return json.loads(contents["json"])["name"]
    except (KeyError, ValueError) as error:
        raise ShardError(f"{where}: json: missing or not readable; run scripts/verify_shards.py") from error

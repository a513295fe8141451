"""`manifest.json`: what a directory of shards holds. It is written last, so that its presence means
complete."""

import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from shards.files import file_sha256, to_json, write_atomically

FILE_NAME = "manifest.json"
REJECTED = "rejected.jsonl"
FORMAT, VERSION = "tsn-shards", 2


class ShardError(Exception):
    """A directory of shards that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class ShardFile:
    """One tar and its index.

    Attributes:
        name: e.g. "shard-000000.tar"; its index has the suffix .idx.
        num_samples: samples inside.
        size_bytes: length of the tar.
        sha256, index_sha256: checksums of the tar and of its index, hexadecimal.
    """

    name: str
    num_samples: int
    size_bytes: int
    sha256: str
    index_sha256: str

    @property
    def index_name(self) -> str:
        return str(Path(self.name).with_suffix(".idx"))


@dataclass(frozen=True)
class Manifest:
    """The whole of a packed split; sizes are those of the visible stored frames, in pixels.

    Attributes:
        dataset, split: names for people.
        codec: "mjpeg" or "h264".
        modality: "rgb", or "flow": a frame is two grey pictures, x and y of optical flow.
        has_parts: whether the samples are untrimmed videos with a `parts.npy`.
        num_samples, num_rejected: videos packed, and left out (see rejected.jsonl).
        num_classes, classes: how many, and their names in the order of the labels (None: not known).
        multi_label: whether a sample has a number of labels other than one.
        num_frames, size_bytes: sums over all samples, and over all tars.
        max_num_frames: of one sample.
        min_short_side .. max_padded_height: extremes over the samples; padded: with the rows added for the
            codec.
        mcu_height: rows that a coded height is a multiple of.
        options: every option that shaped the content, and checksums of list, class file and the names and
            sizes of the sources.
        shards: the tars in order.
        rejected_sha256: checksum of rejected.jsonl, hexadecimal, which `write_manifest` takes (None: no such
            file).
    """

    dataset: str
    split: str
    codec: str
    modality: str
    has_parts: bool
    num_samples: int
    num_rejected: int
    num_classes: int
    classes: tuple[str, ...] | None
    multi_label: bool
    num_frames: int
    size_bytes: int
    max_num_frames: int
    min_width: int
    max_width: int
    min_height: int
    max_height: int
    min_short_side: int
    max_short_side: int
    max_padded_height: int
    mcu_height: int
    options: dict[str, Any]
    shards: tuple[ShardFile, ...]
    rejected_sha256: str | None = None

    @property
    def digest(self) -> str:
        """Tells sets of samples apart: a checksum of the tars' checksums, hexadecimal."""
        return f"{zlib.crc32(','.join(shard.sha256 for shard in self.shards).encode()):08x}"


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into `directory`, with checksums of `rejected.jsonl` and of itself."""
    rejected = directory / REJECTED
    manifest = replace(manifest, rejected_sha256=file_sha256(rejected) if rejected.is_file() else None)
    content = asdict(manifest)
    envelope = {"format": FORMAT, "version": VERSION, "sha256": _checksum(content)}
    write_atomically(directory / FILE_NAME, to_json(envelope | content))


def _checksum(content: dict[str, Any]) -> str:
    """SHA-256 of a manifest's fields, hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def size_extremes(sizes: Iterable[tuple[int, int, int]]) -> dict[str, Any]:
    """`min_width` to `max_padded_height`, from (width, height, padded height) of each sample."""
    widths, heights, padded_heights = zip(*sizes, strict=True)
    short_sides = [min(size) for size in zip(widths, heights, strict=True)]
    extremes = {"max_padded_height": max(padded_heights)}
    for side, values in (("width", widths), ("height", heights), ("short_side", short_sides)):
        extremes |= {f"min_{side}": min(values), f"max_{side}": max(values)}
    return extremes


def load_manifest(directory: str | Path) -> Manifest:
    """Read the manifest of a directory of shards.

    Raises:
        ShardError: no such directory, packing has not finished, another format or version, or fields are
            missing.
    """
    path = Path(directory) / FILE_NAME
    if not path.parent.is_dir():
        raise ShardError(
            f"{path.parent}: no such directory; pack it with scripts/make_shards.py --out {path.parent}"
        )
    if not path.is_file():
        begun = (path.parent / ".progress").is_dir()
        remedy = (
            "its packing has not finished: run the same make_shards.py again"
            if begun
            else "not a shard directory"
        )
        raise ShardError(f"{path}: no such file; {remedy}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ShardError(f"{path}: not JSON ({error}); pack the directory again") from error
    if not isinstance(content, dict):
        raise ShardError(f"{path}: not a manifest of shards; pack the directory again")
    return _parse(path, content)


def _parse(path: Path, content: dict[str, Any]) -> Manifest:
    if content.pop("format", None) != FORMAT:
        raise ShardError(f'{path}: not a manifest of shards: "format" is not "{FORMAT}"')
    version = content.pop("version", None)
    if version != VERSION:
        raise ShardError(
            f"{path}: version {version}, this program reads version {VERSION}; pack the directory again"
        )
    checksum, found = content.pop("sha256", None), _checksum(content)
    expected = {field.name for field in fields(Manifest)}
    if set(content) != expected:
        differing = ", ".join(sorted(set(content) ^ expected))
        raise ShardError(f"{path}: fields that are missing or unknown: {differing}; pack the directory again")
    try:
        shards = tuple(ShardFile(**shard) for shard in content.pop("shards"))
        classes = None if content["classes"] is None else tuple(content.pop("classes"))
        manifest = Manifest(**content | {"classes": classes, "shards": shards})
    except TypeError as error:
        raise ShardError(f"{path}: {error}; pack the directory again") from error
    listed = sum(shard.num_samples for shard in shards)
    if listed != manifest.num_samples:
        raise ShardError(
            f"{path}: num_samples is {manifest.num_samples}, and the listed shards hold {listed}; "
            "copy it again, or pack the directory again"
        )
    if checksum != found:
        raise ShardError(
            f"{path}: damaged, or changed by hand: its sha256 is not that of its fields; copy it again, or "
            "pack the directory again"
        )
    return manifest


def check_contents(directory: str | Path, shards: Sequence[ShardFile]) -> None:
    """Read whole tars and compare their checksums: finds what no decoder notices.

    Raises:
        ShardError: lists every tar whose bytes are not those that were packed.
    """
    faults = []
    for shard in shards:
        tar = Path(directory) / shard.name
        if file_sha256(tar) != shard.sha256:
            faults.append(f"{tar}: damaged, its sha256 differs from the manifest's")
    if faults:
        raise ShardError(
            "\n".join([*faults, "scripts/verify_shards.py names the samples; copy the tars again"])
        )


def check_files(directory: str | Path, manifest: Manifest) -> None:
    """Cheap check that the files are those of the manifest: each tar's length, each index's checksum.

    Raises:
        ShardError: lists every file that is missing or differs.
    """
    faults = []
    for shard in manifest.shards:
        tar, index = Path(directory) / shard.name, Path(directory) / shard.index_name
        if not tar.is_file():
            faults.append(f"{tar}: no such file")
        elif tar.stat().st_size != shard.size_bytes:
            faults.append(f"{tar}: {tar.stat().st_size} bytes, the manifest says {shard.size_bytes}")
        if not index.is_file():
            faults.append(f"{index}: no such file")
        elif file_sha256(index) != shard.index_sha256:
            faults.append(f"{index}: not the index of its tar (sha256 differs from the manifest's)")
    if faults:
        raise ShardError("\n".join([*faults, "copy these files again, or pack the directory again"]))

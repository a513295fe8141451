"""Checking a directory of shards thoroughly: every checksum, member and index, and every frame decoded."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards import jpeg
from shards.files import file_sha256
from shards.index import Index, Member, load_index
from shards.manifest import REJECTED, Manifest, ShardFile
from shards.pool import Died, WorkerPool
from shards.sample import Sample, expected_members, from_members, stream_crc32
from shards.stream import VideoError
from shards.wording import counted

_SAMPLES_PER_CHECK = 32


@dataclass(frozen=True)
class ShardCheck:
    """Some samples of a shard to check: the argument of `check_shard`.

    `first` is the position of the first of them; the check that begins with 0 is that of the files, too.
    """

    directory: Path
    shard: ShardFile
    first: int
    manifest: Manifest


@dataclass(frozen=True)
class ShardReport:
    """What `check_shard` found; a fault reads `shard-000003.tar:00000123: what`."""

    faults: tuple[str, ...]
    num_samples: int
    num_frames: int


def iter_reports(directory: Path, manifest: Manifest, pool: WorkerPool) -> Iterator[ShardReport]:
    """Check a directory in the processes of `pool`, which apply `check_shard`: reports on a few samples each,
    in order, and one on the whole."""
    checks = [
        ShardCheck(directory, shard, first, manifest)
        for shard in manifest.shards
        for first in range(0, max(1, shard.num_samples), _SAMPLES_PER_CHECK)
    ]
    num_samples = num_frames = 0
    for check, result in zip(checks, pool.run_in_order(checks), strict=True):
        report = ShardReport((f"{check.shard.name}: {result}",), 0, 0) if isinstance(result, Died) else result
        num_samples += report.num_samples
        num_frames += report.num_frames
        yield report
    faults = list(_rejected_faults(directory / REJECTED, manifest))
    if num_samples != manifest.num_samples:
        faults.append(f"manifest.json: num_samples is {manifest.num_samples}, the shards hold {num_samples}")
    if num_frames != manifest.num_frames:
        faults.append(f"manifest.json: num_frames is {manifest.num_frames}, the shards hold {num_frames}")
    known = {name for shard in manifest.shards for name in (shard.name, shard.index_name)}
    strangers = sorted(path.name for path in directory.glob("shard-*") if path.name not in known)
    yield ShardReport((*faults, *(f"{name}: not in the manifest" for name in strangers)), 0, 0)


def _rejected_faults(path: Path, manifest: Manifest) -> Iterator[str]:
    found = file_sha256(path) if path.is_file() else None
    if found != manifest.rejected_sha256:
        yield f"{path.name}: " + ("sha256 differs from the manifest's" if found else "no such file")


def check_shard(check: ShardCheck) -> ShardReport:
    """Check a tar and its index, as far as `check` goes; every fault, not the first."""
    path = check.directory / check.shard.name
    if not path.is_file():
        faults = () if check.first else (f"{check.shard.name}: no such file",)
        return ShardReport(faults, 0, 0)
    index, broken = _walk(path)
    faults = [] if check.first else list(_shard_faults(path, check.shard, index, broken))
    is_last = check.first + _SAMPLES_PER_CHECK >= check.shard.num_samples
    keys = list(index)[check.first : None if is_last else check.first + _SAMPLES_PER_CHECK]
    num_frames, size_bytes = 0, path.stat().st_size
    with open(path, "rb") as tar:
        for key in keys:
            contents = {}
            for member in index[key]:
                tar.seek(member.offset)
                contents[member.name] = tar.read(min(member.size_bytes, size_bytes))
            sample_faults, frames = _check_sample(key, contents, check.manifest)
            faults += [f"{check.shard.name}:{key}: {fault}" for fault in sample_faults]
            num_frames += frames
    return ShardReport(tuple(faults), len(keys), num_frames)


def _shard_faults(path: Path, shard: ShardFile, index: Index, broken: str | None) -> Iterator[str]:
    """What is wrong with the files; `index` and `broken` as `_walk` gives them."""
    yield from (f"{shard.name}: {fault}" for fault in _file_faults(path, shard))
    if broken:
        yield f"{shard.name}: {broken}"
    yield from (f"{shard.index_name}: {fault}" for fault in _index_faults(path.with_suffix(".idx"), index))
    if len(index) != shard.num_samples:
        yield f"{shard.name}: {counted(len(index), 'sample')}, the manifest says {shard.num_samples}"


def _file_faults(path: Path, shard: ShardFile) -> Iterator[str]:
    size_bytes = path.stat().st_size
    if size_bytes != shard.size_bytes:
        yield f"{size_bytes} bytes, the manifest says {shard.size_bytes}"
    if file_sha256(path) != shard.sha256:
        yield "sha256 differs from the manifest's"
    index = path.with_suffix(".idx")
    if index.is_file() and file_sha256(index) != shard.index_sha256:
        yield f"sha256 of {index.name} differs from the manifest's"


def _walk(path: Path) -> tuple[Index, str | None]:
    """What really lies in the tar, as far as it can be read, and why not further."""
    found: dict[str, list[Member]] = {}
    fault = None
    try:
        with tarfile.open(path, "r:") as tar:
            for entry in tar:
                key, _, name = entry.name.partition(".")
                found.setdefault(key, []).append(Member(name, entry.offset_data, entry.size))
    except (tarfile.TarError, ValueError, OverflowError) as error:  # the last two of sizes beyond any file
        fault = f"broken tar: {error}"
    return {key: tuple(members) for key, members in found.items()}, fault


def _index_faults(path: Path, truth: Index) -> Iterator[str]:
    try:
        index = load_index(path)
    except FileNotFoundError:
        yield "no such file"
        return
    except ValueError as error:
        yield f"not an index: {error}"
        return
    differing = [key for key in sorted(index.keys() | truth.keys()) if index.get(key) != truth.get(key)]
    if differing:
        others = f" and {counted(len(differing) - 1, 'other')}" if differing[1:] else ""
        yield f"does not fit its tar at sample {differing[0]}{others}"
    elif list(index) != list(truth):
        yield "its samples stand in another order than in the tar"


def _check_sample(key: str, contents: dict[str, bytes], manifest: Manifest) -> tuple[list[str], int]:
    """Faults of one sample, and its number of frames."""
    try:
        sample = from_members(contents)
    except ValueError as error:
        return [str(error)], 0
    try:
        return _check_content(key, contents, sample, manifest)
    except Exception as error:  # unforeseen damage is a fault of this sample, not the end of the check
        return [f"cannot be checked: {type(error).__name__}: {error}"], sample.stream.num_frames


def _check_content(
    key: str, contents: dict[str, bytes], sample: Sample, manifest: Manifest
) -> tuple[list[str], int]:
    """Of a sample whose members can be read."""
    faults = list(_sample_faults(key, contents, sample, manifest))
    units_fault = _units_fault(sample)
    if units_fault:
        return [*faults, f"frames.npy: {units_fault}"], sample.stream.num_frames
    try:
        faults += _decode_faults(sample)
        parts_fault = _parts_fault(sample.parts, sample.stream.num_frames)
        faults += [f"parts.npy: {parts_fault}"] if parts_fault else []
    except (VideoError, ValueError) as error:
        faults.append(f"{sample.stream.codec}: {error}")
    return faults, sample.stream.num_frames


def _sample_faults(key: str, contents: dict[str, bytes], sample: Sample, manifest: Manifest) -> Iterator[str]:
    stream, labels = sample.stream, sample.labels
    if stream.codec != manifest.codec:
        yield f"{stream.codec}: the manifest says {manifest.codec}"
    if (stream.channels == 2) != (manifest.modality == "flow"):
        yield f"head: {'grey' if stream.channels == 2 else 'RGB'} pictures in shards of {manifest.modality}"
    names = expected_members(stream.codec, len(labels), has_parts=manifest.has_parts)
    if tuple(contents) != names:
        yield f"members {', '.join(contents)}; expected {', '.join(names)}"
    if sample.key != key:
        yield f"meta.npy: sample_id {sample.sample_id} does not belong to this key"
    if stream_crc32(stream.data) != sample.info.get("stream_crc32"):
        yield f"{stream.codec}: damaged, its checksum differs from stream_crc32 in json"
    if list(labels) != sample.info.get("labels"):
        yield f"label.npy: {list(labels)}, json says {sample.info.get('labels')}"
    if len(labels) == 1 and contents["cls"] != str(labels[0]).encode():
        yield f"cls: {contents['cls']!r}, label.npy says {labels[0]}"
    if not all(0 <= label < manifest.num_classes for label in labels):
        yield f"label.npy: {list(labels)}, the manifest has {manifest.num_classes} classes"


def _units_fault(sample: Sample) -> str | None:
    """Why the table cannot be right for this stream, or None."""
    stream, units = sample.stream, sample.stream.units
    sizes = (stream.num_frames, stream.frames_per_unit, stream.width, stream.height)
    if min(sizes) < 1 or stream.padded_height < stream.height:
        return "meta.npy has impossible sizes"
    num_units = -(-stream.num_frames // stream.frames_per_unit) * stream.pictures_per_frame
    if units.shape != (num_units, 2):
        return f"shape {units.shape}, expected {(num_units, 2)}"
    starts, ends = units[:, 0].astype(np.int64), units.astype(np.int64).sum(axis=1)
    if (units < 0).any() or (starts[1:] < ends[:-1]).any() or ends[-1] > len(stream.data):
        return f"units that overlap or lie outside of the stream of {len(stream.data)} bytes"
    return None


def _parts_fault(parts: np.ndarray | None, num_frames: int) -> str | None:
    """Why the table cannot be right for a sample of this length, or None."""
    if parts is None:
        return None
    if parts.ndim != 2 or parts.shape[1] != 3 or not len(parts):
        return f"shape {parts.shape}, expected a row of 3 for each part"
    starts, lengths, positive = parts.T
    by_start = np.argsort(starts, kind="stable")
    ends = np.cumsum(lengths[by_start])
    if (lengths < 1).any() or ends[-1] != num_frames or (starts[by_start] != ends - lengths[by_start]).any():
        return f"its parts do not follow one another from 0 to {num_frames}"
    if not np.isin(positive, (0, 1)).all() or (np.diff(positive) > 0).any():
        return "the positive parts (1) do not stand before the others (0)"
    return None


def _decode_faults(sample: Sample) -> Iterator[str]:
    stream = sample.stream
    if stream.codec == "mjpeg":
        start, length = stream.units[0].tolist()
        header, _ = jpeg.split_picture(stream.data[: start + length + 2])
        if jpeg.stitchable_head(header) != (stream.head, stream.height_offset):
            yield "head: does not belong to the pictures of the stream"
    expected = (stream.height, stream.width, stream.channels)
    for frames in sample.iter_stacks():
        if frames.shape[1:] != expected:
            yield f"{stream.codec}: frames decode to {frames.shape[1:]}, meta.npy says {expected}"

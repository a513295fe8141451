"""A few invented samples of any kind, packed like real ones: to try a recipe where its data set is not."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.jpeg import encode_pictures, rows_per_mcu
from shards.manifest import Manifest, size_extremes, write_manifest
from shards.sample import Sample, stream_crc32, to_members
from shards.stream import EncodedStream, Modality
from shards.writing import ShardWriter

_QUALITY, _SUBSAMPLING = 85, "422"
_TEXTURE_PIXELS = 8  # side of a square of one colour


@dataclass(frozen=True)
class SyntheticKind:
    """What the samples are like.

    Attributes:
        num_classes: of which the samples have the first ones.
        modality: "rgb", or "flow".
        multi_label: two labels a sample, not one.
        num_parts: of untrimmed videos, the first of them positive; 0: not in parts.
        num_frames: of each sample; 1 is an image.
        width, height: pixels.
    """

    num_classes: int
    modality: Modality = "rgb"
    multi_label: bool = False
    num_parts: int = 0
    num_frames: int = 70
    width: int = 64
    height: int = 48


def write_synthetic(directory: Path, kind: SyntheticKind, *, num_samples: int) -> Path:
    """Pack `num_samples` of a kind into one shard with index and manifest; `directory`.

    A sample is a texture of its own that moves on from frame to frame.  Equal arguments give equal bytes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    writer = ShardWriter(directory, "shard-000000.tar")
    streams = []
    for sample_id in range(num_samples):
        sample = _make_sample(sample_id, kind)
        streams.append(sample.stream)
        writer.add(sample.key, to_members(sample))
    write_manifest(directory, _describe(writer, streams, kind))
    return directory


def _make_sample(sample_id: int, kind: SyntheticKind) -> Sample:
    frames = _moving_texture(sample_id, kind)
    stream = encode_pictures(frames, quality=_QUALITY, subsampling=_SUBSAMPLING)
    labels = [sample_id % kind.num_classes]
    if kind.multi_label and kind.num_classes > 1:
        labels.append((sample_id + 1) % kind.num_classes)
    info = {"name": f"synthetic_{sample_id}", "labels": labels, "stream_crc32": stream_crc32(stream.data)}
    return Sample(sample_id, tuple(labels), stream, info, _part_table(kind) if kind.num_parts else None)


def _moving_texture(sample_id: int, kind: SyntheticKind) -> list[np.ndarray]:
    """Frames (height, width, channels) uint8."""
    channels = 2 if kind.modality == "flow" else 3
    rows, columns = (-(-side // _TEXTURE_PIXELS) for side in (kind.height, kind.width))
    squares = np.random.default_rng(sample_id).integers(0, 256, (rows, columns, channels), np.uint8)
    texture = squares.repeat(_TEXTURE_PIXELS, axis=0).repeat(_TEXTURE_PIXELS, axis=1)
    texture = texture[: kind.height, : kind.width]
    return [np.roll(texture, number, axis=1) for number in range(kind.num_frames)]


def _part_table(kind: SyntheticKind) -> np.ndarray:
    bounds = np.linspace(0, kind.num_frames, kind.num_parts + 1).astype(np.int32)
    is_positive = np.arange(kind.num_parts) == 0
    return np.stack([bounds[:-1], np.diff(bounds), is_positive], axis=1).astype(np.int32)


def _describe(writer: ShardWriter, streams: list[EncodedStream], kind: SyntheticKind) -> Manifest:
    """Close the shard and say what it holds."""
    shard = writer.close()
    assert shard is not None, "no sample"
    return Manifest(
        dataset="synthetic",
        split="any",
        codec="mjpeg",
        modality=kind.modality,
        has_parts=kind.num_parts > 0,
        num_samples=len(streams),
        num_rejected=0,
        num_classes=kind.num_classes,
        classes=None,
        multi_label=kind.multi_label,
        num_frames=sum(stream.num_frames for stream in streams),
        size_bytes=shard.size_bytes,
        max_num_frames=kind.num_frames,
        mcu_height=rows_per_mcu(_QUALITY, _SUBSAMPLING, channels=2 if kind.modality == "flow" else 3),
        options={},
        shards=(shard,),
        **size_extremes((stream.width, stream.height, stream.padded_height) for stream in streams),
    )

"""From one source to the members of one sample; what runs in the worker processes."""

import time
from dataclasses import dataclass

from shards import h264, jpeg
from shards.opening import Frames, open_source
from shards.parts import PartedVideo
from shards.sample import Sample, stream_crc32, to_members
from shards.size import parse_size
from shards.source_format import VIDEOS, SourceFormat
from shards.sources import Source
from shards.stream import Codec, EncodedStream, VideoError


@dataclass(frozen=True)
class EncodingOptions:
    """How a source is read, and what it is stored as.

    Attributes:
        source_format: what the sources are.
        codec: "mjpeg" or "h264".
        size: as `parse_size` reads it.
        frame_stride: every how many-th frame is kept.
        quality, subsampling: of mjpeg, see `jpeg.encode_pictures`.
        gop, crf: of h264, see `h264.encode_gops`.
    """

    source_format: SourceFormat = VIDEOS
    codec: Codec = "mjpeg"
    size: str = "source"
    frame_stride: int = 1
    quality: int = 85
    subsampling: str = "422"
    gop: int = 1
    crf: int = 18

    def __post_init__(self) -> None:
        parse_size(self.size)
        if self.codec not in ("mjpeg", "h264"):
            raise ValueError(f"--codec {self.codec}: expected mjpeg or h264")
        if self.codec == "h264" and self.source_format.kind in ("flow", "images"):
            raise ValueError(
                f"--codec h264: not for --source {self.source_format.kind}: "
                "H.264 packs moving pictures in colour; take --codec mjpeg"
            )
        if self.subsampling not in jpeg.SUBSAMPLINGS:
            raise ValueError(
                f"--subsampling {self.subsampling}: expected one of {', '.join(jpeg.SUBSAMPLINGS)}"
            )
        ranges = {"frame_stride": (1, 10_000), "quality": (1, 100), "gop": (1, 250), "crf": (0, 51)}
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} {getattr(self, name)}: expected {low} to {high}")

    def that_count(self) -> dict[str, str | int]:
        """The options that shape the content; those of the other codec do not, nor has grey a subsampling."""
        own = ("quality", "subsampling") if self.codec == "mjpeg" else ("gop", "crf")
        if self.source_format.modality == "flow":
            own = ("quality",)
        names = ("codec", "size", "frame_stride", *own)
        return self.source_format.options() | {name: getattr(self, name) for name in names}

    @property
    def mcu_height(self) -> int:
        """Rows that a coded height is a multiple of."""
        if self.codec == "h264":
            return 2
        channels = 2 if self.source_format.modality == "flow" else 3
        return jpeg.rows_per_mcu(self.quality, self.subsampling, channels=channels)


@dataclass(frozen=True)
class PackedSample:
    """A sample ready for the tar, and the figures that are kept of it (sizes in pixels)."""

    key: str
    members: dict[str, bytes]
    num_frames: int
    width: int
    height: int
    padded_height: int
    num_labels: int
    duration_s: float | None
    cpu_s: float

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.members.values()))


@dataclass(frozen=True)
class Rejected:
    """A video that could not be packed."""

    reason: str
    cpu_s: float = 0.0


@dataclass(frozen=True)
class Task:
    """One video to pack: the argument of `pack_video`."""

    sample_id: int
    source: Source
    split: str
    options: EncodingOptions


def pack_video(task: Task) -> PackedSample | Rejected:
    """Decode, encode and check one video. What is wrong with the video makes a `Rejected`, never an
    exception: decoders raise what they like on damaged files, and one file must not stop a whole list."""
    started_s = time.process_time()
    try:
        sample = _encode(task)
        _check(sample)
    except VideoError as error:
        return Rejected(str(error), time.process_time() - started_s)
    except MemoryError:
        return Rejected("not enough memory for it", time.process_time() - started_s)
    except AssertionError:  # ours, not the video's
        raise
    except Exception as error:
        return Rejected(f"{type(error).__name__}: {error}", time.process_time() - started_s)
    stream = sample.stream
    return PackedSample(
        key=sample.key,
        members=to_members(sample),
        num_frames=stream.num_frames,
        width=stream.width,
        height=stream.height,
        padded_height=stream.padded_height,
        num_labels=len(sample.labels),
        duration_s=sample.info["duration_s"],
        cpu_s=time.process_time() - started_s,
    )


def _encode(task: Task) -> Sample:
    with open_source(task.source, task.options.source_format) as frames:
        stream = _encode_frames(frames, task.options)
        parts = frames.table(task.source.positive) if isinstance(frames, PartedVideo) else None
        fps = frames.fps / task.options.frame_stride if frames.fps else None
        original = [frames.width, frames.height]
    info = {
        "name": task.source.name,
        "split": task.split,
        "labels": task.source.labels,
        "num_frames": stream.num_frames,
        "fps": round(fps, 6) if fps else None,
        "duration_s": round(stream.num_frames / fps, 6) if fps else None,
        "original_size": original,
        "stored_size": [stream.width, stream.height],
        "options": task.options.that_count(),
        "stream_crc32": stream_crc32(stream.data),
    }
    return Sample(task.sample_id, task.source.labels, stream, info, parts)


def _encode_frames(source: Frames, options: EncodingOptions) -> EncodedStream:
    frames = source.iter_frames(parse_size(options.size).apply, options.frame_stride)
    if options.codec == "mjpeg":
        return jpeg.encode_pictures(frames, quality=options.quality, subsampling=options.subsampling)
    return h264.encode_gops(frames, gop=options.gop, crf=options.crf)


def _check(sample: Sample) -> None:
    """Decode every unit once, the way that training does."""
    stream = sample.stream
    decoded = 0
    for frames in sample.iter_stacks():
        expected = (stream.height, stream.width, stream.channels)
        if frames.shape[1:] != expected:
            raise VideoError(f"its stored frames decode to {frames.shape[1:]}, not to {expected}")
        decoded += len(frames)
    assert decoded == stream.num_frames, "a sample without all of its frames"

"""From one video file to the members of one sample; what runs in the worker processes."""

import time
from dataclasses import dataclass

from shards import h264, jpeg
from shards.sample import Sample, stream_crc32, to_members
from shards.size import parse_size
from shards.sources import Source
from shards.stream import Codec, EncodedStream, VideoError
from shards.video import Video, open_video


@dataclass(frozen=True)
class EncodingOptions:
    """What a video is stored as.

    Attributes:
        codec: "mjpeg" or "h264".
        size: as `parse_size` reads it.
        frame_stride: every how many-th frame is kept.
        quality, subsampling: of mjpeg, see `jpeg.encode_pictures`.
        gop, crf: of h264, see `h264.encode_gops`.
    """

    codec: Codec = "mjpeg"
    size: str = "source"
    frame_stride: int = 1
    quality: int = 85
    subsampling: str = "422"
    gop: int = 8
    crf: int = 20

    def __post_init__(self) -> None:
        parse_size(self.size)
        if self.codec not in ("mjpeg", "h264"):
            raise ValueError(f"--codec {self.codec}: expected mjpeg or h264")
        if self.subsampling not in jpeg.SUBSAMPLINGS:
            raise ValueError(
                f"--subsampling {self.subsampling}: expected one of {', '.join(jpeg.SUBSAMPLINGS)}"
            )
        ranges = {"frame_stride": (1, 10_000), "quality": (1, 100), "gop": (1, 250), "crf": (0, 51)}
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} {getattr(self, name)}: expected {low} to {high}")

    def of_codec(self) -> dict[str, str | int]:
        """The options that shape the content; those of the other codec do not."""
        own = ("quality", "subsampling") if self.codec == "mjpeg" else ("gop", "crf")
        return {name: getattr(self, name) for name in ("codec", "size", "frame_stride", *own)}


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
    exception."""
    started_s = time.process_time()
    try:
        sample = _encode(task)
        _check(sample)
    except VideoError as error:
        return Rejected(str(error), time.process_time() - started_s)
    except MemoryError:
        return Rejected("not enough memory for it", time.process_time() - started_s)
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
    with open_video(task.source.path) as video:
        stream = _encode_frames(video, task.options)
        fps = video.fps / task.options.frame_stride if video.fps else None
        original = [video.width, video.height]
    info = {
        "name": task.source.name,
        "split": task.split,
        "labels": task.source.labels,
        "num_frames": stream.num_frames,
        "fps": round(fps, 6) if fps else None,
        "duration_s": round(stream.num_frames / fps, 6) if fps else None,
        "original_size": original,
        "stored_size": [stream.width, stream.height],
        "options": task.options.of_codec(),
        "stream_crc32": stream_crc32(stream.data),
    }
    return Sample(sample_id=task.sample_id, labels=task.source.labels, stream=stream, info=info)


def _encode_frames(video: Video, options: EncodingOptions) -> EncodedStream:
    frames = video.iter_frames(parse_size(options.size).apply, options.frame_stride)
    if options.codec == "mjpeg":
        return jpeg.encode_pictures(frames, quality=options.quality, subsampling=options.subsampling)
    return h264.encode_gops(frames, gop=options.gop, crf=options.crf)


def _check(sample: Sample) -> None:
    """Decode every unit once, the way that training does."""
    stream = sample.stream
    decoded = 0
    for frames in sample.iter_stacks():
        if frames.shape[1:] != (stream.height, stream.width, 3):
            raise VideoError(
                f"its stored frames decode to {frames.shape[1:]}, not to {(stream.height, stream.width, 3)}"
            )
        decoded += len(frames)
    assert decoded == stream.num_frames, "a sample without all of its frames"

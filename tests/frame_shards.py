"""Small shard directories made straight from frames, without a video file and without the packing program."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from video_factory import numbered_frame

from shards.h264 import encode_gops
from shards.jpeg import encode_pictures
from shards.manifest import Manifest, size_extremes, write_manifest
from shards.sample import Sample, stream_crc32, to_members
from shards.stream import EncodedStream
from shards.writing import ShardWriter

Video = Sequence[np.ndarray]


def numbered_videos(num_videos: int, *, num_frames: int = 4, size: tuple[int, int] = (64, 48)) -> list[Video]:
    """Videos whose frames show their number."""
    video = [numbered_frame(number, size) for number in range(num_frames)]
    return [video] * num_videos


def position_video(num_frames: int, size: tuple[int, int]) -> Video:
    """Frames that tell where a pixel comes from: red grows by 1 every 2 columns, green every 2 rows."""
    width, height = size
    frame = np.zeros((height, width, 3), np.uint8)
    frame[..., 0] = np.arange(width) // 2
    frame[..., 1] = np.arange(height)[:, None] // 2
    return [frame] * num_frames


def flow_video(num_frames: int, size: tuple[int, int]) -> Video:
    """Optical flow (H, W, 2): all of x is 4 times the frame's number, all of y 200 minus that."""
    width, height = size
    planes = [np.full((height, width, 1), value, np.uint8) for value in range(256)]
    return [np.concatenate([planes[4 * n], planes[200 - 4 * n]], axis=2) for n in range(num_frames)]


def smooth_video(num_frames: int, size: tuple[int, int], channels: int = 3, seed: int = 0) -> Video:
    """Gradients that move: natural enough that decoders and ways to scale differ by little."""
    width, height = size
    x, y = np.arange(width), np.arange(height)[:, None]
    phases = np.random.default_rng(seed).uniform(0, 6, (num_frames, channels))
    wave_x, wave_y = max(9, width / 15), max(7, height / 8)
    return [
        np.stack([127 + 100 * np.sin(x / wave_x + y / wave_y + phase) for phase in row], axis=-1).astype(
            np.uint8
        )
        for row in phases
    ]


def write_shards(
    directory: Path,
    videos: Sequence[Video],
    *,
    labels: Sequence[Sequence[int]] | None = None,
    num_classes: int = 5,
    samples_per_shard: int = 10,
    codec: str = "mjpeg",
    subsampling: str = "422",
    quality: int = 95,
    parts: np.ndarray | None = None,
) -> Path:
    """Pack `videos` in their order (label: sample id modulo num_classes unless given); `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    streams = _encode_each(videos, codec=codec, subsampling=subsampling, quality=quality)
    labels = labels or [[sample_id % num_classes] for sample_id in range(len(videos))]
    shards = []
    for start in range(0, len(videos), samples_per_shard):
        writer = ShardWriter(directory, f"shard-{start // samples_per_shard:06d}.tar")
        for sample_id in range(start, min(start + samples_per_shard, len(videos))):
            info = {"name": f"video_{sample_id}.mp4", "stream_crc32": stream_crc32(streams[sample_id].data)}
            sample = Sample(sample_id, tuple(labels[sample_id]), streams[sample_id], info, parts)
            writer.add(sample.key, to_members(sample))
        shards.append(writer.close())
    write_manifest(directory, _manifest(streams, shards, codec, num_classes, labels, parts is not None))
    return directory


def _encode_each(
    videos: Sequence[Video], *, codec: str, subsampling: str, quality: int
) -> list[EncodedStream]:
    """Encode every distinct video once."""
    known: dict[int, EncodedStream] = {}
    for video in videos:
        if id(video) not in known:
            if codec == "h264":
                known[id(video)] = encode_gops(video, gop=4, crf=10)
            else:
                known[id(video)] = encode_pictures(video, quality=quality, subsampling=subsampling)
    return [known[id(video)] for video in videos]


def _manifest(streams, shards, codec: str, num_classes: int, labels, has_parts: bool) -> Manifest:
    return Manifest(
        dataset="factory",
        split="train",
        codec=codec,
        modality="rgb" if streams[0].channels == 3 else "flow",
        has_parts=has_parts,
        num_samples=len(streams),
        num_rejected=0,
        num_classes=num_classes,
        classes=tuple(f"class {number}" for number in range(num_classes)),
        multi_label=any(len(of_sample) != 1 for of_sample in labels),
        num_frames=sum(s.num_frames for s in streams),
        size_bytes=sum(shard.size_bytes for shard in shards),
        max_num_frames=max(s.num_frames for s in streams),
        mcu_height=8,
        options={},
        shards=tuple(shards),
        **size_extremes((s.width, s.height, s.padded_height) for s in streams),
    )

"""What other people's loaders do to make the clips of TSN, as fast as they can, for `compare_loaders.py`.

PyAV, torchcodec, decord and the clip reader of PyTorchVideo return the frames that they are asked for;
cropping is then the same for all of them.  MMAction2 runs its own transforms from the file to the clip.
"""

import atexit
import os
import random
import shutil
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

SHORT_SIDE = 256
"""Pixels; what frames are scaled to for testing."""

Options = Mapping[str, str | int]
"""Settings of a baseline: keyword arguments of its function in DECODERS or of `mmaction2_transforms`."""


@dataclass(frozen=True)
class Task:
    """What is made of a video: clips to train on, or one of the published tests."""

    num_segments: int
    """Frames of a clip, one of each equal part of the video."""
    num_crops: Literal[1, 3, 10] | None = None
    """Crops of each frame in a test; None: training, a random frame, window and mirroring."""

    @property
    def crop_size(self) -> int:
        return SHORT_SIDE if self.num_crops == 3 else 224

    @property
    def num_views(self) -> int:
        """Pictures that the network gets of a video."""
        return self.num_segments * (self.num_crops or 1)

    @property
    def batch_size(self) -> int:
        """Videos of a batch; 250 pictures of a test take 38 MB."""
        return 16 if self.num_crops is None else 2

    def __str__(self) -> str:
        crops = "" if self.num_crops is None else f" x {self.num_crops} crops"
        return f"{self.num_segments} segments{crops}"


@dataclass(frozen=True)
class Video:
    """A source file and what a decoder that seeks has to know about it."""

    path: str
    pts: tuple[int, ...]
    """Presentation times of all frames, ascending, in the stream's time base."""
    key_pts: tuple[int, ...]
    """Those of the key frames."""
    time_base: Fraction
    """Seconds of one tick."""
    start_pts: int
    """Where the stream begins, by its header."""


def scan_video(path: Path) -> Video:
    """Reads a file's packets without decoding; done before anything is timed."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        time_base, start_pts = stream.time_base, stream.start_time or 0
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
    pts = tuple(sorted(packet.pts for packet in packets))
    key_pts = tuple(sorted(packet.pts for packet in packets if packet.is_keyframe))
    assert time_base is not None
    return Video(str(path), pts, key_pts, time_base, start_pts)


def first_stream_alone(path: Path, directory: Path) -> Path:
    """The file, or a copy of its first video stream where it has several: decoders choose differently."""
    with av.open(str(path)) as source:
        if len(source.streams.video) == 1:
            return path
        copy = directory / path.name
        with av.open(str(copy), "w") as target:
            stream = source.streams.video[0]
            copied = target.add_stream_from_template(stream)
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packet.stream = copied
                    target.mux(packet)
    return copy


def decode_pyav(video: Video, indices: np.ndarray, *, threads: int) -> list[np.ndarray]:
    """The frames at ascending `indices`: seeks to the key frame before, or decodes on if that is sooner."""
    frames = []
    with av.open(video.path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        frame, decoded = None, container.decode(stream)
        for index in indices:
            target = video.pts[index]
            key = video.key_pts[bisect_right(video.key_pts, target) - 1]
            if frame is None or frame.pts is None or frame.pts < key:
                container.seek(target, stream=stream, backward=True)
                decoded = container.decode(stream)
            while frame is None or frame.pts is None or frame.pts < target:
                frame = next(decoded)
            frames.append(frame.to_ndarray(format="rgb24"))
    return frames


def decode_torchcodec(
    video: Video, indices: np.ndarray, *, seek_mode: Literal["exact", "approximate"], threads: int
) -> np.ndarray:
    """The frames at `indices`, (T, H, W, 3) uint8."""
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports, reportPrivateImportUsage]

    decoder = VideoDecoder(
        video.path, dimension_order="NHWC", num_ffmpeg_threads=threads, seek_mode=seek_mode
    )
    return decoder.get_frames_at(indices.tolist()).data.numpy()


def decode_decord(video: Video, indices: np.ndarray, *, threads: int) -> np.ndarray:
    """The frames at `indices`, (T, H, W, 3) uint8."""
    import decord  # pyright: ignore[reportMissingImports]

    return decord.VideoReader(video.path, num_threads=threads).get_batch(indices.tolist()).asnumpy()


def decode_pytorchvideo(
    video: Video, indices: np.ndarray, *, decoder: Literal["pyav", "decord"]
) -> np.ndarray:
    """The frames at `indices`, (T, H, W, 3) uint8, each read as a clip of its own, a span of time."""
    import decord  # pyright: ignore[reportMissingImports]
    from pytorchvideo.data.encoded_video import EncodedVideo  # pyright: ignore[reportMissingImports]

    with decord.bridge.use_torch():  # PyTorchVideo sets it for the whole process, where others need numpy
        encoded = EncodedVideo.from_path(video.path, decode_audio=False, decoder=decoder)
        if decoder == "pyav":
            ticks = [video.pts[index] - video.start_pts for index in indices]
            spans = [(video.time_base * tick, video.time_base * (tick + 1)) for tick in ticks]
        else:  # counts frames by the mean rate, and rounds up
            frame_s = encoded.duration / len(video.pts)
            spans = [((index - 0.5) * frame_s, (index + 0.5) * frame_s) for index in indices]
        frames = torch.cat([encoded.get_clip(start, end)["video"] for start, end in spans], dim=1)
    return frames.to(torch.uint8).permute(1, 2, 3, 0).numpy()  # (C, T, H, W) float to (T, H, W, C)


DECODERS: dict[str, Callable[..., Sequence[np.ndarray] | np.ndarray]] = {
    "PyAV": decode_pyav,
    "torchcodec": decode_torchcodec,
    "decord": decode_decord,
    "PyTorchVideo": decode_pytorchvideo,
}
MMACTION2 = "MMAction2"
BASELINES = (*DECODERS, MMACTION2)
VARIANTS: dict[str, tuple[Options, ...]] = {
    "PyAV": ({"threads": 1}, {"threads": 2}),
    "torchcodec": (
        {"seek_mode": "approximate", "threads": 1},
        {"seek_mode": "approximate", "threads": 2},
        {"seek_mode": "exact", "threads": 1},
    ),
    "decord": ({"threads": 1}, {"threads": 2}),
    "PyTorchVideo": ({"decoder": "pyav"}, {"decoder": "decord"}),
    MMACTION2: ({"threads": 1}, {"threads": 2}),
}


def draw_window(rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    """A RandomResizedCrop window x, y, width, height: area 0.08 to 1 of the picture, aspect 3/4 to 4/3."""
    for _ in range(10):
        area = rng.uniform(0.08, 1.0) * width * height
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        crop_width, crop_height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if crop_width <= width and crop_height <= height:
            x, y = rng.integers(width - crop_width + 1), rng.integers(height - crop_height + 1)
            return int(x), int(y), crop_width, crop_height
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


def sample_frames(num_frames: int, task: Task, rng: np.random.Generator) -> np.ndarray:
    """Which frames a clip has, ascending: a random one of each segment, for testing the middle one."""
    segment = num_frames / task.num_segments
    if task.num_crops is not None:
        return ((np.arange(task.num_segments) + 0.5) * segment).astype(int)
    return np.arange(task.num_segments) * int(segment) + rng.integers(0, int(segment), task.num_segments)


def crop_to_train(
    frames: Sequence[np.ndarray] | np.ndarray, task: Task, rng: np.random.Generator
) -> np.ndarray:
    """One RandomResizedCrop window of all frames, mirrored by chance: (T, size, size, 3)."""
    size = task.crop_size
    x, y, width, height = draw_window(rng, frames[0].shape[1], frames[0].shape[0])
    clip = np.empty((len(frames), size, size, 3), dtype=np.uint8)
    for frame, out in zip(frames, clip, strict=True):
        cv2.resize(frame[y : y + height, x : x + width], (size, size), dst=out)
    return np.ascontiguousarray(clip[:, :, ::-1]) if rng.random() < 0.5 else clip


def crop_to_test(frames: Sequence[np.ndarray] | np.ndarray, task: Task) -> np.ndarray:
    """Frames scaled to SHORT_SIDE and every crop of each: (views, size, size, 3).

    One crop is the centre; three are the ends and then the middle of the long side; ten are the corners and
    the centre, and the mirror image of each.
    """
    size = task.crop_size
    height, width = frames[0].shape[:2]
    scale = SHORT_SIDE / min(height, width)
    width, height = round(width * scale), round(height * scale)
    right, bottom = width - size, height - size
    centre = (right // 2, bottom // 2)
    corners = {
        1: [centre],
        3: [(0, 0), (right, bottom), centre],
        10: [(0, 0), (right, 0), (0, bottom), (right, bottom), centre],
    }[task.num_crops or 1]
    views = np.empty((task.num_views, size, size, 3), dtype=np.uint8)
    free = iter(views)
    for frame in frames:
        scaled = frame if frame.shape[:2] == (height, width) else cv2.resize(frame, (width, height))
        for x, y in corners:
            window = scaled[y : y + size, x : x + size]
            next(free)[:] = window
            if task.num_crops == 10:
                next(free)[:] = window[:, ::-1]
    return views


def run_decoder(
    video: Video, task: Task, rng: np.random.Generator, *, decoder: str, options: Options
) -> torch.Tensor:
    """A clip by one of DECODERS, cropped with OpenCV and NumPy: (views, size, size, 3)."""
    frames = DECODERS[decoder](video, sample_frames(len(video.pts), task, rng), **options)
    views = crop_to_train(frames, task, rng) if task.num_crops is None else crop_to_test(frames, task)
    return torch.from_numpy(views)


@cache
def mmaction2_transforms(task: Task, *, threads: int) -> Callable[[dict], dict]:
    """Those of MMAction2's recipes for videos.

    Training goes without the scaling before the crop, as nobody else does it.
    """
    from mmaction.datasets import transforms  # pyright: ignore[reportMissingImports]
    from mmengine.dataset import Compose  # pyright: ignore[reportMissingImports]

    is_test = task.num_crops is not None
    size = task.crop_size
    if task.num_crops is None:
        crops = [
            transforms.RandomResizedCrop(),
            transforms.Resize((size, size), keep_ratio=False),
            transforms.Flip(flip_ratio=0.5),
        ]
    else:
        crop = {1: transforms.CenterCrop, 3: transforms.ThreeCrop, 10: transforms.TenCrop}[task.num_crops]
        crops = [transforms.Resize((-1, SHORT_SIDE)), crop(size)]
    return Compose(
        [
            transforms.DecordInit(num_threads=threads),
            transforms.SampleFrames(
                clip_len=1, frame_interval=1, num_clips=task.num_segments, test_mode=is_test
            ),
            transforms.DecordDecode(),
            *crops,
            transforms.FormatShape("NCHW"),
            transforms.PackActionInputs(),
        ]
    )


def run_mmaction2(video: Video, task: Task, rng: np.random.Generator, *, options: Options) -> torch.Tensor:
    """A clip by MMAction2's own transforms, from the file on, (views, 3, size, size)."""
    seed = int(rng.integers(2**32))
    np.random.seed(seed)  # they draw from the two global generators
    random.seed(seed)
    sample = {"filename": video.path, "start_index": 0, "modality": "RGB", "label": 0}
    return mmaction2_transforms(task, **options)(sample)["inputs"]


class ClipDataset(Dataset):
    """Clips of one of BASELINES with one of its settings."""

    def __init__(self, videos: list[Video], name: str, options: Options, task: Task, seed: int):
        self.videos = videos
        self.name = name
        self.options = dict(options)
        self.task = task
        self.seed = seed

    def __getitem__(self, index: int) -> torch.Tensor:
        """Clip number `index`, uint8; every number is another draw."""
        cv2.setNumThreads(1)
        rng = np.random.default_rng((self.seed, index))
        video = self.videos[index % len(self.videos)]
        if self.name == MMACTION2:
            return run_mmaction2(video, self.task, rng, options=self.options)
        return run_decoder(video, self.task, rng, decoder=self.name, options=self.options)


def find_baselines(names: Sequence[str], video: Video) -> tuple[list[str], dict[str, str]]:
    """Which of the baselines can make clips of `video` here, and why the others cannot."""
    available, missing = [], {}
    for name in names:
        try:
            ClipDataset([video], name, VARIANTS[name][0], Task(1), seed=0)[0]
            available.append(name)
        except ImportError as error:
            missing[name] = f"{error}; pip install -e '.[bench]' brings it"
        # MMAction2 asserts the versions that it needs.
        except (OSError, RuntimeError, AssertionError) as error:
            missing[name] = str(error).strip().splitlines()[0]
    return available, missing


def lend_ffmpeg_to_torchcodec(video: Video) -> None:
    """Where the system has no FFmpeg libraries for torchcodec, it gets those of PyAV's wheel.

    The loader reads LD_LIBRARY_PATH only at the start of a process, so the script starts itself once more.
    """
    wheel = Path(av.__file__).parent.parent / "av.libs"
    lent = os.environ.get("TSN_LENT_FFMPEG")
    if lent:
        atexit.register(shutil.rmtree, lent, ignore_errors=True)
        return
    if find_baselines(["torchcodec"], video)[0] or not wheel.is_dir():
        return
    links = Path(tempfile.mkdtemp(prefix="ffmpeg-of-pyav-"))
    for library in wheel.glob(
        "lib*.so.*"
    ):  # libavutil-5809ad29.so.60.26.102 is looked for as libavutil.so.60
        name, _, version = library.name.partition(".so.")
        (links / f"{name.rpartition('-')[0]}.so.{version.partition('.')[0]}").symlink_to(library)
    paths = [str(links), str(wheel), os.environ.get("LD_LIBRARY_PATH", "")]
    environment = os.environ | {
        "LD_LIBRARY_PATH": ":".join(filter(None, paths)),
        "TSN_LENT_FFMPEG": str(links),
    }
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)

"""A small data set of real video files, drawn by the project itself: every seed gives the same bytes again.

A class is a pair of an appearance and a motion (`striped_disc_slides`, `dotted_triangle_spins`).  All else
is random: colours, background, place, size, speed, noise, picture size, frame rate, length and container.
Three appearances and three motions make nine classes, so knowing only one of the two is worth 1/3.

A Temporal Segment Network averages single frames, so it cannot see their order; a motion is told by the smear
that it leaves in every frame (along the rows, along the columns, around the centre), as with a real camera.
"""

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import cv2
import numpy as np

APPEARANCES = ("striped_disc", "checkered_square", "dotted_triangle")
MOTIONS = ("slides", "falls", "spins")
CLASSES = tuple(f"{appearance}_{motion}" for appearance, motion in product(APPEARANCES, MOTIONS))

SIZES = ((160, 120), (176, 144), (240, 180), (320, 240), (426, 240), (180, 240))  # width, height
FRAME_RATES = (Fraction(12), Fraction(15), Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30))
CONTAINERS = (("mp4", "libx264"), ("mkv", "libx264"), ("avi", "mpeg4"))
MIN_FRAMES, MAX_FRAMES = 30, 90

SPRITE_SIZE = 96
SMEAR_FRAMES = 3.0
"""Frames for which the shutter stays open: longer than a real one, so that small crops show the smear."""
SMEAR_WEIGHTS = np.array((0.34, 0.18, 0.15, 0.13, 0.11, 0.09), dtype=np.float32)
"""Share of each moment in the picture, newest first: the shape stays recognisable at its smear's head."""


@dataclass(frozen=True)
class VideoSpec:
    """One video to write: everything that its bytes depend on."""

    path: Path
    label: int
    seed: tuple[int, ...]
    container: str
    codec: str


@dataclass(frozen=True)
class Trajectory:
    """Where the shape is at a time: a straight path reflected at the borders, and a turning angle."""

    start: np.ndarray
    """(2,) float64: centre x, y at time 0, pixels."""
    velocity: np.ndarray
    """(2,) float64, pixels per frame."""
    low: np.ndarray
    """(2,) float64: least x, y of the centre, pixels."""
    high: np.ndarray
    """(2,) float64: greatest x, y of the centre, pixels."""
    angle: float
    """Radians at time 0."""
    turn: float
    """Radians per frame."""

    def pose(self, time: float) -> tuple[float, float, float]:
        """Centre x, y in pixels and angle in radians at `time` (frames, may be negative)."""
        span = self.high - self.low
        phase = (self.start - self.low + self.velocity * time) % (2 * span)
        x, y = self.low + np.minimum(phase, 2 * span - phase)
        return float(x), float(y), self.angle + self.turn * time


def draw_sprite(rng: np.random.Generator, appearance: str) -> np.ndarray:
    """The shape in two contrasting colours: (SPRITE_SIZE, SPRITE_SIZE, 4) float32, premultiplied RGBA."""
    y, x = (np.mgrid[0:SPRITE_SIZE, 0:SPRITE_SIZE] + 0.5) / SPRITE_SIZE * 2 - 1  # -1..1
    period = rng.uniform(0.45, 0.6)
    match appearance:
        case "striped_disc":
            mask = x**2 + y**2 < 0.92**2
            pattern = (x / period) % 1 < 0.5
        case "checkered_square":
            mask = np.maximum(abs(x), abs(y)) < 0.8
            pattern = ((x / period) % 1 < 0.5) ^ ((y / period) % 1 < 0.5)
        case "dotted_triangle":
            mask = (y < 0.62) & (abs(x) < (y + 0.95) * 0.6)
            pattern = ((x / period) % 1 - 0.5) ** 2 + ((y / period) % 1 - 0.5) ** 2 < 0.3**2
        case _:
            raise ValueError(f"appearance: {appearance!r} is none of {', '.join(APPEARANCES)}")
    dark = rng.uniform(0, 70, 3)
    light = rng.uniform(185, 255, 3)
    first, second = (dark, light) if rng.random() < 0.5 else (light, dark)
    colour = np.where(pattern[..., None], first, second)
    sprite = np.dstack((colour * mask[..., None], mask)).astype(np.float32)
    return cv2.GaussianBlur(sprite, (3, 3), 0)


def draw_background(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Soft random colours under a fine texture, (height, width, 3) uint8."""
    coarse = rng.uniform(85, 170, (rng.integers(2, 6), rng.integers(2, 6), 3)).astype(np.float32)
    coarse = (coarse + coarse.mean(axis=2, keepdims=True)) / 2  # half as colourful
    fine = rng.normal(0, rng.uniform(2, 8), (height // 4, width // 4, 1)).astype(np.float32)
    soft = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    texture = cv2.resize(fine, (width, height), interpolation=cv2.INTER_LINEAR)[..., None]
    return np.clip(soft + texture, 0, 255).astype(np.uint8)


def draw_trajectory(
    rng: np.random.Generator, motion: str, width: int, height: int, diameter: float
) -> Trajectory:
    """A random path of one kind for a shape of `diameter` pixels in a picture of width x height pixels."""
    low = np.full(2, diameter * 0.4)
    high = np.array((width, height)) - diameter * 0.4
    speed = diameter * rng.uniform(0.12, 0.24) * rng.choice((-1, 1))
    drift = diameter * rng.uniform(-0.012, 0.012)
    angle, turn = rng.uniform(0, 2 * np.pi), rng.uniform(-0.008, 0.008)
    match motion:
        case "slides":
            velocity = np.array((speed, drift))
        case "falls":
            velocity = np.array((drift, speed))
        case "spins":
            velocity = np.array((drift, diameter * rng.uniform(-0.012, 0.012)))
            turn = rng.uniform(0.2, 0.35) * rng.choice((-1, 1))
        case _:
            raise ValueError(f"motion: {motion!r} is none of {', '.join(MOTIONS)}")
    return Trajectory(rng.uniform(low, high), velocity, low, high, angle, turn)


def iter_frames(
    rng: np.random.Generator, label: int, width: int, height: int, num_frames: int
) -> Iterator[np.ndarray]:
    """The pictures of one video of class `label`, each (height, width, 3) uint8 RGB."""
    appearance, motion = list(product(APPEARANCES, MOTIONS))[label]
    diameter = min(width, height) * rng.uniform(0.55, 0.75)
    sprite = draw_sprite(rng, appearance)
    background = draw_background(rng, width, height)
    path = draw_trajectory(rng, motion, width, height, diameter)
    noise = np.rint(rng.normal(0, rng.uniform(1, 4), (height + 16, width + 16, 3))).astype(np.int16)
    moments = np.arange(len(SMEAR_WEIGHTS)) * (SMEAR_FRAMES / len(SMEAR_WEIGHTS))
    for frame in range(num_frames):
        picture = background.copy()
        paint_smear(picture, sprite, diameter, [path.pose(frame - moment) for moment in moments])
        top, left = rng.integers(0, 17, 2)
        yield cv2.add(picture, noise[top : top + height, left : left + width], dtype=cv2.CV_8U)


def paint_smear(
    picture: np.ndarray, sprite: np.ndarray, diameter: float, poses: list[tuple[float, float, float]]
) -> None:
    """Blends the shape at all `poses` into `picture`, in place.

    picture: (H, W, 3) uint8.  poses: centre x, y in pixels and angle in radians, newest first.
    """
    height, width = picture.shape[:2]
    centres = np.array(poses)[:, :2]
    reach = diameter * 0.75  # more than half the diagonal of the sprite
    left, top = np.maximum(np.floor(centres.min(axis=0) - reach), 0).astype(int)
    right, bottom = np.minimum(np.ceil(centres.max(axis=0) + reach), (width, height)).astype(int)
    zoom, middle = diameter / SPRITE_SIZE, SPRITE_SIZE / 2
    layer = np.zeros((bottom - top, right - left, 4), dtype=np.float32)
    for weight, (x, y, angle) in zip(SMEAR_WEIGHTS, poses, strict=True):
        cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
        matrix = np.array(
            ((cos, -sin, x - left - middle * (cos - sin)), (sin, cos, y - top - middle * (sin + cos)))
        )
        moment = cv2.warpAffine(sprite, matrix, (right - left, bottom - top))
        cv2.scaleAdd(moment, float(weight), layer, dst=layer)
    under = picture[top:bottom, left:right]
    under[:] = under * (1 - layer[..., 3:]) + layer[..., :3]


def write_video(spec: VideoSpec) -> None:
    """Draws and encodes one video as its spec says; the same spec gives the same bytes."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(spec.seed)
    width, height = SIZES[rng.integers(len(SIZES))]
    rate = FRAME_RATES[rng.integers(len(FRAME_RATES))]
    num_frames = int(rng.integers(MIN_FRAMES, MAX_FRAMES + 1))
    # bitexact: no random ids or dates in the container.  One thread: the number changes an encoder's output.
    with av.open(str(spec.path), "w", options={"fflags": "bitexact"}) as container:
        stream = container.add_stream(spec.codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        if spec.codec == "libx264":
            # mbtree: as in shards/h264.py
            stream.options = {"crf": "20", "preset": "veryfast", "x264-params": "mbtree=0"}
        else:
            stream.options = {"qscale": "4", "flags": "+qscale", "global_quality": str(4 * 118)}
        for picture in iter_frames(rng, spec.label, width, height, num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def plan_split(out: Path, split: str, seed: int, per_class: int) -> list[VideoSpec]:
    """The videos of a split, in the order of its list; containers and codecs take turns within each class."""
    split_id = ("train", "val").index(split)
    specs = []
    for index, label in product(range(per_class), range(len(CLASSES))):
        container, codec = CONTAINERS[index % len(CONTAINERS)]
        path = out / split / f"{CLASSES[label]}_{index:03d}.{container}"
        specs.append(VideoSpec(path, label, (seed, split_id, label, index), container, codec))
    return specs


def write_list(out: Path, split: str, specs: list[VideoSpec]) -> None:
    """Writes `<split>.txt`: a line `path label` a video, paths relative to `out`."""
    lines = [f"{spec.path.relative_to(out).as_posix()} {spec.label}\n" for spec in specs]
    (out / f"{split}.txt").write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Writes a small data set of video files, train.txt, val.txt and classes.txt."
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="directory to write; files there are overwritten"
    )
    parser.add_argument(
        "--videos-per-class", type=int, default=16, help="training videos of each class (default: 16)"
    )
    parser.add_argument(
        "--val-per-class", type=int, default=6, help="validation videos of each class (default: 6)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other videos (default: 0)")
    args = parser.parse_args()
    for name in ("videos_per_class", "val_per_class"):
        if getattr(args, name) < 1:
            option = "--" + name.replace("_", "-")
            parser.error(f"{option}: found {getattr(args, name)}, expected at least 1")

    splits = {
        "train": plan_split(args.out, "train", args.seed, args.videos_per_class),
        "val": plan_split(args.out, "val", args.seed, args.val_per_class),
    }
    for split in splits:
        (args.out / split).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write_video, splits["train"] + splits["val"], chunksize=4))
    (args.out / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    for split, specs in splits.items():
        write_list(args.out, split, specs)
    counts = " and ".join(f"{len(specs)} {split}" for split, specs in splits.items())
    print(f"{args.out}: {counts} videos of {len(CLASSES)} classes")


if __name__ == "__main__":
    main()

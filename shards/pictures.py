"""Frames that lie in picture files: one picture, a folder of them, or a folder of optical flow."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from shards.stream import VideoError
from shards.video import open_video


class PictureFrames:
    """Frames from files, read as they are asked for.

    Attributes:
        width, height: pixels of the first.
        fps: None, pictures have no clock.
    """

    fps: float | None = None

    def __init__(self, directory: Path, frames: Sequence[tuple[str, ...]], *, grey: bool = False) -> None:
        """Open the first picture.

        Args:
            directory: of the files.
            frames: names of the files of each frame: one in colour, or x and y of optical flow.
            grey: read one channel of each file, not RGB.

        Raises:
            VideoError: the first picture cannot be read.
        """
        self._directory = directory
        self._frames = frames
        self._read = read_grey if grey else read_rgb
        # Bicubic overshoots at edges, which would make displacements that the source has nowhere.
        self._filter = Image.Resampling.BILINEAR if grey else Image.Resampling.BICUBIC
        self.width, self.height = self._open(frames[0][0]).size

    def iter_frames(
        self, choose_size: Callable[[int, int], tuple[int, int]], frame_stride: int = 1
    ) -> Iterator[np.ndarray]:
        """Yield every `frame_stride`-th frame, (H, W, 3) uint8 RGB, or (H, W, 2) uint8 x and y of flow.

        Args:
            choose_size: stored (width, height) from that of the first picture; other pictures are scaled to
                it. The values of flow stay as they are.
            frame_stride: 1 = every frame.

        Raises:
            VideoError: a file is missing or cannot be read; names it.
        """
        size = choose_size(self.width, self.height)
        for names in self._frames[::frame_stride]:
            pictures = [self._open(name) for name in names]
            scaled = [p if p.size == size else p.resize(size, self._filter) for p in pictures]
            planes = [np.asarray(picture) for picture in scaled]
            yield planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)

    def _open(self, name: str) -> Image.Image:
        try:
            return self._read(self._directory / name)
        except FileNotFoundError as error:
            raise VideoError(f"{name}: no such file") from error
        except VideoError as error:
            raise VideoError(f"{name}: {error}") from error


MAX_TINT = 2
"""Levels by which the channels of a grey picture may differ after JPEG."""


def read_rgb(path: Path) -> Image.Image:
    """An RGB picture, upright, of any file that Pillow or FFmpeg can read; of an animation its first frame.

    Raises:
        VideoError: neither of them can, or it has more than 8 bits a channel.
        FileNotFoundError: there is none.
    """
    try:
        with _failures_told(), Image.open(path) as picture:
            if picture.mode in ("I", "F") or ";16" in picture.mode:
                # Pillow would cut off what is above 255, which leaves a white picture.
                raise VideoError(
                    f"a picture of Pillow's mode {picture.mode}, expected 8 bits a channel: convert it"
                )
            return ImageOps.exif_transpose(picture).convert("RGB")
    except UnidentifiedImageError:
        with open_video(path) as video:
            return Image.fromarray(next(video.iter_frames()))


def read_grey(path: Path) -> Image.Image:
    """A picture as one channel, as it lies in the file.

    Raises:
        VideoError: Pillow cannot read it, or it is not a grey picture of 8 bits.
        FileNotFoundError: there is none.
    """
    try:
        with _failures_told(), Image.open(path) as picture:
            if not _is_grey(picture):
                raise VideoError(
                    f"a picture of Pillow's mode {picture.mode}, expected one grey channel of 8 bits (L)"
                )
            return picture.convert("L")
    except UnidentifiedImageError as error:
        raise VideoError("cannot be decoded: not a picture of a format that Pillow knows") from error


def _is_grey(picture: Image.Image) -> bool:
    """Whether nothing is lost when it becomes one channel of 8 bits; some tools write grey as three equal
    ones."""
    if picture.mode in ("P", "RGB"):
        return bool(np.ptp(np.asarray(picture.convert("RGB")), axis=-1).max() <= MAX_TINT)
    return picture.mode in ("L", "1")


@contextmanager
def _failures_told() -> Iterator[None]:
    """Whatever Pillow raises on a damaged file becomes `VideoError`, besides there being no such file, and no
    picture."""
    try:
        yield
    except (VideoError, FileNotFoundError, UnidentifiedImageError, MemoryError):
        raise
    except Exception as error:
        raise VideoError(f"cannot be decoded: {error or type(error).__name__}") from error

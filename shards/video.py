"""Decoding any video that FFmpeg reads into upright RGB frames, or a reason why not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from shards.stream import VideoError

# FFmpeg converts these by a fast exact path which decord and OpenCV use too; every other one needs the
# careful flags.
_PLAIN_FORMATS = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p"}
# Metadata that is not UTF-8 is no reason to reject a video; PyAV 19 thinks so by itself.
_OPTIONS: dict[str, Any] = (
    {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "replace"}
)
_FAST = 0x2
"""swscale's flag for bilinear."""
CAREFUL = 0x4 | 0x40000 | 0x2000
"""swscale's flags for bicubic, accurate rounding and full chroma; PyAV names the last two since 18 only."""
_MAX_MISSING_S = 0.5


def _unknown_side_data(kinds: type[SideDataType], number: int) -> SideDataType:
    kind = object.__new__(kinds)
    kind._name_, kind._value_ = f"UNKNOWN_{number}", number
    return kind


# FFmpeg knows more kinds than PyAV has names for (EXIF, for one), and a frame with one of those would keep
# PyAV from giving out any side data of it, the display matrix included.
SideDataType._missing_ = classmethod(_unknown_side_data)  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class Orientation:
    """How a decoded picture becomes upright: transposed first, then mirrored."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """A view of `picture` (H, W, 3), upright."""
        upright = picture.swapaxes(0, 1) if self.transpose else picture
        return upright[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]


class Video:
    """An opened video; `open_video` makes it. Pixels count as square, as they do for decord and OpenCV.

    Attributes:
        width, height: pixels of an upright frame.
        fps: average frame rate, or None where the file gives none.
    """

    def __init__(self, container: InputContainer) -> None:
        self._container = container
        self._stream = _first_video_stream(container)
        self._stream.thread_count = 1
        self._frames = self._decode()
        self._first = next(self._frames, None)
        if self._first is None:
            raise VideoError("no frame could be decoded")
        self._orientation = _orientation(self._first)
        coded = (self._first.width, self._first.height)
        self.width, self.height = coded[::-1] if self._orientation.transpose else coded
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else None

    def iter_frames(
        self, choose_size: Callable[[int, int], tuple[int, int]] = lambda w, h: (w, h), frame_stride: int = 1
    ) -> Iterator[np.ndarray]:
        """Yield every `frame_stride`-th frame, (H, W, 3) uint8 RGB, upright. Can be called once.

        Args:
            choose_size: stored (width, height) from the source's. Frames whose size changes on the way are
                scaled to that of the first, as FFmpeg does.
            frame_stride: 1 = every frame.

        Raises:
            VideoError: a frame cannot be decoded, is damaged, or the end of the file is missing.
        """
        size = choose_size(self.width, self.height)
        width, height = size[::-1] if self._orientation.transpose else size
        for frame in islice(self._decode_again(), 0, None, frame_stride):
            yield self._orientation.apply(_to_rgb(frame, width, height))

    def _decode_again(self) -> Iterator[VideoFrame]:
        assert self._first is not None, "the frames of a video can be read once"
        first, self._first = self._first, None
        yield first
        yield from self._frames

    def _decode(self) -> Iterator[VideoFrame]:
        number, last = 0, None
        for packet in self._container.demux(self._stream):
            if packet.is_corrupt:
                raise VideoError(f"the file is damaged or cut off after frame {number}")
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise VideoError(f"frame {number} is damaged")
                yield frame
                number, last = number + 1, frame
        if last is not None:
            self._check_end(last)

    def _check_end(self, last: VideoFrame) -> None:
        """Matroska and AVI files that were cut off end in silence, but their header states their length."""
        # An MP4 with an edit list shows less than its track holds, and a cut one fails to read anyway.
        stated_s = None if "mp4" in self._container.format.name else _stated_duration_s(self._stream)
        if stated_s is None or last.time is None:
            return
        frame_s = 1 / float(self._stream.average_rate or 25)
        end_s = last.time - _seconds(self._stream, self._stream.start_time or 0) + frame_s
        if end_s < stated_s - max(_MAX_MISSING_S, 0.05 * stated_s):
            raise VideoError(f"the file is cut off: {end_s:.1f} s of the {stated_s:.1f} s in its header")


@contextmanager
def open_video(path: str | Path) -> Iterator[Video]:
    """Open a video file and decode its first frame. FFmpeg's errors become `VideoError` inside the block,
    too.

    Raises:
        VideoError: FFmpeg cannot read the file, it has no video stream, or no frame.
    """
    try:
        with av.open(str(path), **_OPTIONS) as container:
            yield Video(container)
    except (FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"FFmpeg cannot decode it: {reason}") from error


def _first_video_stream(container: InputContainer) -> VideoStream:
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:  # the cover of an album
            return stream
    raise VideoError("no video stream in the file")


def _seconds(stream: VideoStream, ticks: int) -> float:
    return float(ticks * (stream.time_base or 0))


def _stated_duration_s(stream: VideoStream) -> float | None:
    """Seconds that the header gives for this stream: its own field, or Matroska's DURATION tag,
    "00:00:10.3430000"."""
    if stream.duration is not None:
        return _seconds(stream, stream.duration)
    hours, _, rest = stream.metadata.get("DURATION", "").partition(":")
    minutes, _, seconds = rest.partition(":")
    try:
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return None


def _orientation(frame: VideoFrame) -> Orientation:
    """Read the display matrix, which maps a pixel (x, y) to (a x + c y, b x + d y).

    Raises:
        VideoError: it turns the picture by something else than a multiple of 90 degrees.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    if not b and not c and a and d:
        return Orientation(False, a < 0, d < 0)
    if not a and not d and b and c:
        return Orientation(True, c < 0, b < 0)
    raise VideoError(
        f"its display matrix turns frames by {frame.rotation} degrees: only multiples of 90 can be stored"
    )


def _to_rgb(frame: VideoFrame, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8. swscale follows the frame's own matrix and range; untagged means BT.601,
    limited."""
    same_size = (frame.width, frame.height) == (width, height)
    plain = same_size and frame.format.name in _PLAIN_FORMATS and frame.height % 2 == 0
    flags = _FAST if plain else CAREFUL
    return frame.reformat(
        width=width, height=height, format="rgb24", interpolation=flags, threads=1
    ).to_ndarray()

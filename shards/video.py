"""Decoding any video that FFmpeg reads into upright RGB frames, or a reason why not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from shards.container_size import announced_bytes
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
# Their decoders begin with whatever frame comes first, on a grey picture. Others wait for a key frame.
_NEED_KEY_FRAME = {
    *("mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2"),
    *("flv", "h261", "h263", "h263p", "h263i", "rv10", "rv20"),
}
# FFmpeg counts a message as a repetition of the last one even if that came from another file.
av.logging.set_skip_repeated(False)


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
        number = 0
        awaits_key_frame = self._stream.codec_context.name in _NEED_KEY_FRAME
        packets = self._container.demux(self._stream)
        while True:
            with _errors_captured() as errors:
                packet = next(packets, None)
            _refuse_demuxer_errors(errors, self._container, f"after frame {number}")
            if packet is None:
                return
            if packet.is_corrupt:
                raise VideoError(f"the file is damaged or cut off after frame {number}")
            # Frames before the start of an MP4's edit are decoded, and not shown.
            awaits_key_frame = awaits_key_frame and not packet.is_discard
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise VideoError(f"frame {number} is damaged")
                if awaits_key_frame and not frame.key_frame:
                    raise VideoError("it begins between key frames, with a smear: cut it at a key frame")
                yield frame
                number, awaits_key_frame = number + 1, False


@contextmanager
def open_video(path: str | Path) -> Iterator[Video]:
    """Open a video file and decode its first frame. FFmpeg's errors become `VideoError` inside the block,
    too.

    Raises:
        VideoError: the file is cut off, FFmpeg cannot read it, it has no video stream, or no frame.
    """
    try:
        _refuse_cut_off(path)
        with _errors_captured() as errors:
            # By itself a name such as "concat:a" would be a URL.
            container = av.open(f"file:{Path(path).absolute()}", **_OPTIONS)
        with container:
            # An MP4 has an index of its frames; what else is wrong, as with edits of its sound, is harmless.
            if "mp4" not in container.format.name:
                _refuse_demuxer_errors(errors, container, "near its beginning")
            yield Video(container)
    except (FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"FFmpeg cannot decode it: {reason}") from error


def _refuse_cut_off(path: str | Path) -> None:
    announced, present = announced_bytes(path), Path(path).stat().st_size
    if announced is not None and present < announced:
        raise VideoError(f"the file is cut off: it has {present} of {announced} bytes")


@contextmanager
def _errors_captured() -> Iterator[list[tuple[int, str, str]]]:
    """Collects what FFmpeg logs as errors in this thread: level, who says it, text."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as errors:
            yield errors
    finally:
        av.logging.set_level(level)


def _refuse_demuxer_errors(errors: list[tuple[int, str, str]], container: InputContainer, where: str) -> None:
    """A demuxer that meets a hole in the file goes on behind it, and only logs that. Decoders mark damaged
    frames, and log errors of sound ones."""
    for _, name, text in errors:
        if name == container.format.name:
            raise VideoError(f"the file is damaged {where}: {text.strip()}")


def _first_video_stream(container: InputContainer) -> VideoStream:
    for stream in container.streams.video:
        if stream.disposition & Disposition.dependent:
            raise VideoError("a picture of several tiles: convert it to JPEG or PNG")
        if not stream.disposition & Disposition.attached_pic:  # the cover of an album
            return stream
    raise VideoError("no video stream in the file")


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

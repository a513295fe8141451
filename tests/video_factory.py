"""Small videos whose frames carry their number, so that a test can prove which frame came back.

The number is painted as a bar of 10 blocks, black or white, over the upper half of the frame, most
significant bit first; the lower half shows a moving gradient in colour. Loss by JPEG, H.264 or MPEG-4 does
not change what is read.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

NUM_BITS = 10


def numbered_frame(number: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """(H, W, 3) uint8 RGB frame showing `number`, 0..1023. `size` is (width, height), at least 30 x 16."""
    width, height = size
    frame = np.empty((height, width, 3), np.uint8)
    x, y = np.arange(width), np.arange(height)[:, None]
    frame[..., 0] = (x * 160 // width + 3 * number) % 160 + 40
    frame[..., 1] = y * 160 // height + 40
    frame[..., 2] = 120
    bit_of_column = NUM_BITS - 1 - x * NUM_BITS // width
    frame[: height // 2] = np.where(number >> bit_of_column & 1, 235, 16)[None, :, None]
    return frame


def read_number(frame: np.ndarray) -> int:
    """The number that `numbered_frame` painted; `frame` is (H, W, 3) uint8 RGB of any size."""
    height, width = frame.shape[:2]
    band = frame[height // 8 : height * 3 // 8].mean(axis=(0, 2))
    centres = [(2 * i + 1) * width // (2 * NUM_BITS) for i in range(NUM_BITS)]
    return sum(int(band[x] > 127) << NUM_BITS - 1 - i for i, x in enumerate(centres))


def write_numbered_video(
    path: Path,
    num_frames: int,
    size: tuple[int, int] = (64, 48),
    fps: int | Fraction = 25,
    codec: str = "h264",
    *,
    first_number: int = 0,
    timestamps: Sequence[int] | None = None,
    with_audio: bool = False,
) -> Path:
    """Write a video of frames numbered from `first_number` on; the suffix of `path` chooses the container.

    Args:
        path: .mp4, .mkv, .avi, .mov ...
        num_frames: frames.
        size: (width, height) in pixels; odd sizes are coded as 4:4:4.
        fps: frame rate.
        codec: an FFmpeg encoder, e.g. "h264" (with B-frames and one key frame) or "mpeg4".
        first_number: number of the first frame.
        timestamps: of the frames, in units of 1/fps, where they are not 0, 1, 2, ...
        with_audio: add a silent track.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = 1 / Fraction(fps)
        if codec == "h264":
            stream.options = {"crf": "18", "g": "1000", "bf": "2"}
        else:
            stream.bit_rate = 2_000_000
        audio = container.add_stream("aac", rate=44_100) if with_audio else None
        for i in range(num_frames):
            picture = av.VideoFrame.from_ndarray(numbered_frame(first_number + i, size), format="rgb24")
            picture.pts = timestamps[i] if timestamps else i
            picture.time_base = 1 / Fraction(fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if audio:
            sound = av.AudioFrame.from_ndarray(
                np.zeros((1, 44_100), np.float32), format="fltp", layout="mono"
            )
            sound.sample_rate, sound.pts = 44_100, 0
            container.mux(audio.encode(sound))
            container.mux(audio.encode(None))
    return path

"""Small videos whose frames carry their number, so that a test can prove which frame came back.

The number is painted as a bar of 10 blocks, black or white, over the upper half of the frame, most
significant bit first; the lower half shows a moving gradient in colour. Loss by JPEG, H.264 or MPEG-4 does
not change what is read.
"""

import struct
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
    gop: int = 1000,
    muxer: str | None = None,
    muxer_options: dict[str, str] | None = None,
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
        gop: frames from one key frame to the next.
        muxer: of FFmpeg, where the suffix does not choose it.
        muxer_options: of FFmpeg, e.g. {"movflags": "faststart"}.
    """
    with av.open(str(path), "w", format=muxer, options=muxer_options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(fps))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv444p" if size[0] % 2 or size[1] % 2 else "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = 1 / Fraction(fps)
        if codec == "h264":
            stream.options = {"crf": "18", "g": str(gop), "bf": "2"}
        else:
            stream.bit_rate = 2_000_000
            stream.gop_size = min(gop, 600)
            stream.options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
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


def copy_packets(source_path: Path, target_path: Path, first: int) -> Path:
    """Copy the packets of a video from number `first` on, without the key frame that they may need."""
    with av.open(str(source_path)) as source, av.open(str(target_path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.dts is not None and number >= first:
                packet.stream = stream
                target.mux(packet)
    return target_path


def write_tiled_heic(path: Path) -> Path:
    """Write a picture of 2 x 2 tiles of 128 x 128, as phones do (ISO/IEC 23008-12, an item of type grid).
    `path` is used for a tile on the way."""
    write_numbered_video(path.with_suffix(".mkv"), 1, (128, 128), codec="libx265")
    with av.open(str(path.with_suffix(".mkv"))) as container:
        configuration = container.streams.video[0].codec_context.extradata or b""
        tile = next(bytes(packet) for packet in container.demux(video=0))
    layout = struct.pack(">4B2H", 0, 0, 1, 1, 256, 256)
    items = b"".join(_box("infe", struct.pack(">I2H", 2 << 24, i, 0) + b"hvc1\0") for i in (1, 2, 3, 4))
    items += _box("infe", struct.pack(">I2H", 2 << 24, 5, 0) + b"grid\0")
    sizes = [_box("ispe", struct.pack(">3I", 0, size, size)) for size in (128, 256)]
    properties = _box("ipco", _box("hvcC", configuration) + sizes[0] + sizes[1])
    of_items = b"".join(struct.pack(">H3B", i, 2, 0x81, 2) for i in (1, 2, 3, 4)) + struct.pack(
        ">H2B", 5, 1, 3
    )
    properties += _box("ipma", struct.pack(">2I", 0, 5) + of_items)

    def head(tile_offset: int) -> bytes:
        places = b"".join(struct.pack(">4H2I", i, 0, 0, 1, tile_offset, len(tile)) for i in (1, 2, 3, 4))
        places += struct.pack(">4H2I", 5, 1, 0, 1, 0, len(layout))
        return _box("ftyp", b"heic" + bytes(4) + b"mif1heic") + _box(
            "meta",
            bytes(4)
            + _box("hdlr", bytes(8) + b"pict" + bytes(13))
            + _box("pitm", struct.pack(">IH", 0, 5))
            + _box("iloc", struct.pack(">I2BH", 1 << 24, 0x44, 0, 5) + places)
            + _box("iinf", struct.pack(">IH", 0, 5) + items)
            + _box("iref", bytes(4) + _box("dimg", struct.pack(">6H", 5, 4, 1, 2, 3, 4)))
            + _box("iprp", properties)
            + _box("idat", layout),
        )

    path.write_bytes(head(len(head(0)) + 8) + _box("mdat", tile))
    return path


def _box(kind: str, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + kind.encode("ascii") + content

"""Compact storage: H.264 in short closed GOPs without B-frames, each GOP decodable alone."""

from collections.abc import Iterable, Sequence
from fractions import Fraction

import av
import cv2
import numpy as np
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange, Colorspace

from shards.stream import EncodedStream, VideoError, pad_frame, unit_table
from shards.video import CAREFUL

_AUD = b"\x00\x00\x00\x01\x09"  # access unit delimiter: every frame starts with one
_BT601 = 6  # AVCOL_SPC_SMPTE170M, the code point that H.264 and FFmpeg share
cv2.setNumThreads(0)  # videos are decoded side by side: a picture needs no threads of its own


def encode_gops(frames: Iterable[np.ndarray], *, gop: int, crf: int) -> EncodedStream:
    """Encode frames as H.264 in closed GOPs, BT.601 limited range.

    Args:
        frames: (H, W, 3) uint8 RGB each, at least one, all of one size.
        gop: frames in a GOP.
        crf: x264's constant rate factor, 0..51, lower is better.

    Raises:
        VideoError: the stream is too long.
    """
    encoder, packets, height, width = None, [], 0, 0
    for number, frame in enumerate(frames):
        height, width = frame.shape[:2]
        padded = pad_frame(frame, height + height % 2, width + width % 2)
        if encoder is None:
            encoder = _open_encoder(padded.shape[1], padded.shape[0], gop=gop, crf=crf)
        picture = av.VideoFrame.from_ndarray(padded, format="rgb24").reformat(
            format="yuv420p",
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
            interpolation=CAREFUL,  # the fast conversion darkens by a level
            threads=1,
        )
        picture.pts = number
        packets += encoder.encode(picture)
    assert encoder is not None, "a video without frames"
    packets += encoder.encode(None)
    pictures = [bytes(packet) for packet in packets]
    assert all(packet.is_keyframe == (i % gop == 0) for i, packet in enumerate(packets)), "irregular GOPs"
    gops = [b"".join(pictures[i : i + gop]) for i in range(0, len(pictures), gop)]
    return EncodedStream(
        codec="h264",
        data=b"".join(gops),
        units=unit_table([(0, len(unit)) for unit in gops]),
        head=b"",
        height_offset=0,
        num_frames=len(pictures),
        width=width,
        height=height,
        padded_height=height + height % 2,
        frames_per_unit=gop,
    )


def _open_encoder(width: int, height: int, *, gop: int, crf: int) -> VideoCodecContext:
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    encoder.color_range, encoder.colorspace = ColorRange.MPEG, _BT601
    encoder.thread_count = 1  # more threads, other bytes
    gops = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes=0:open-gop=0"
    # x264's macroblock tree reads memory that it never wrote (with AVX-512) and differs between processors.
    same_bytes = "threads=1:mbtree=0"
    encoder.options = {"crf": str(crf), "x264-params": f"{gops}:repeat-headers=1:aud=1:{same_bytes}"}
    return encoder


def decode_frames(
    stream: bytes | np.ndarray, units: np.ndarray, frames_per_unit: int, frame_indices: Sequence[int]
) -> np.ndarray:
    """Decode single frames of an H.264 stream: only the GOPs that hold one, each only up to its last wanted
    frame.

    Args:
        stream: Annex-B bytes, or uint8 array of them.
        units: (num_units, 2) start and length in bytes of each GOP.
        frames_per_unit: frames in a GOP.
        frame_indices: frames wanted, in any order, repeated or not.

    Returns:
        (len(frame_indices), H, W, 3) uint8 RGB; H and W are even (padding not removed).

    Raises:
        VideoError: a GOP cannot be decoded, or has fewer frames than wanted.
    """
    wanted: dict[int, dict[int, list[int]]] = {}
    for place, index in enumerate(map(int, frame_indices)):
        positions = wanted.setdefault(index // frames_per_unit, {})
        positions.setdefault(index % frames_per_unit, []).append(place)
    decoder = av.CodecContext.create("h264", "r")
    decoder.thread_count = 1
    out: np.ndarray | None = None
    for unit, positions in wanted.items():
        start, length = map(int, units[unit])
        frames = _decode_gop(decoder, bytes(stream[start : start + length]), max(positions) + 1, unit)
        for position, places in positions.items():
            if out is None:
                out = np.empty((len(frame_indices), frames[0].height, frames[0].width, 3), np.uint8)
            _to_rgb(frames[position], out[places[0]], unit)
            out[places[1:]] = out[places[0]]
    assert out is not None, "no frames wanted"
    return out


def _decode_gop(decoder: VideoCodecContext, data: bytes, num_frames: int, unit: int) -> list[av.VideoFrame]:
    """The first `num_frames` frames of a GOP."""
    pictures = [_AUD + part for part in data.split(_AUD)[1:]]
    frames = []
    try:
        for picture in pictures[:num_frames]:
            frames += decoder.decode(av.Packet(picture))
        frames += decoder.decode(None)
        decoder.flush_buffers()
    except FFmpegError as error:
        raise VideoError(f"GOP {unit} cannot be decoded: {error}") from error
    if len(frames) != num_frames or any(frame.is_corrupt for frame in frames):
        raise VideoError(f"GOP {unit} is damaged: {len(frames)} of {num_frames} frames could be decoded")
    return frames


def _to_rgb(frame: av.VideoFrame, target: np.ndarray, unit: int) -> None:
    """Fill `target`, (H, W, 3) uint8.

    By OpenCV, which rounds to the nearest level and gives every pixel the chroma of its 2 x 2 block, in an
    eighth of the time of swscale's careful conversion (docs/log.md).
    """
    if frame.format.name != "yuv420p" or (frame.height, frame.width) != target.shape[:2]:
        raise VideoError(f"GOP {unit} is damaged: it has {frame.format.name} of {frame.width}x{frame.height}")
    cv2.cvtColor(frame.to_ndarray(), cv2.COLOR_YUV2RGB_I420, dst=target)

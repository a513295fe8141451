"""Motion JPEG whose pictures can be stitched: encoding, splitting, stitching and decoding.

All pictures of a sample share size, quantisation and Huffman tables, so that their scans, joined by restart
markers under one header with a greater height, are one valid tall picture (ITU-T T.81, B.2.1 and F.1.2.1.1):
one call of a JPEG decoder gives all frames.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from shards.stream import EncodedStream, VideoError, pad_frame, unit_table

SUBSAMPLINGS = ("420", "422", "444")
MAX_SIDE = 65_500  # libjpeg's JPEG_MAX_DIMENSION
MAX_RESTART_INTERVAL = 65_535  # DRI holds 16 bits

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SOF0, _DRI, _SOS = 0xC0, 0xDD, 0xDA
_OTHER_SOF = {*range(0xC1, 0xD0)} - {0xC4, 0xC8, 0xCC}  # DHT, JPG and DAC share the range


@dataclass(frozen=True)
class JpegHeader:
    """What the header of a baseline picture says.

    Attributes:
        width, height: pixels, padding included.
        mcu_width, mcu_height: pixels of one MCU, from the sampling factors.
        height_offset: where the height stands, 2 bytes, big-endian.
        sos_offset: where the SOS segment starts.
        size_bytes: from SOI to the end of SOS.
    """

    width: int
    height: int
    mcu_width: int
    mcu_height: int
    height_offset: int
    sos_offset: int
    size_bytes: int

    @property
    def num_mcus(self) -> int:
        return -(-self.width // self.mcu_width) * -(-self.height // self.mcu_height)


def parse_header(picture: bytes) -> JpegHeader:
    """Read the segments of a JPEG picture up to its first scan.

    Raises:
        ValueError: not a baseline picture without restart intervals, or cut off before the scan.
    """
    if picture[:2] != _SOI:
        raise ValueError(f"not a JPEG picture: it starts with {picture[:2].hex()}, expected ffd8")
    position, frame = 2, None
    while position + 4 <= len(picture):
        if picture[position] != 0xFF:
            raise ValueError(
                f"broken JPEG header: byte {position} is {picture[position]:#04x}, expected a marker (0xff)"
            )
        marker, length = picture[position + 1], int.from_bytes(picture[position + 2 : position + 4], "big")
        body = picture[position + 4 : position + 2 + length]
        if marker == _SOF0:
            frame = (position + 5, body)
        elif marker in _OTHER_SOF:
            raise ValueError(f"JPEG marker {marker:#x}: only baseline pictures (0xc0) can be stitched")
        elif marker == _SOS and frame is not None:
            return _header_from_frame(*frame, sos_offset=position, size_bytes=position + 2 + length)
        position += 2 + length
    raise ValueError("broken JPEG header: it ends before the first scan")


def _header_from_frame(height_offset: int, body: bytes, *, sos_offset: int, size_bytes: int) -> JpegHeader:
    if len(body) < 6 or not body[5] or len(body) < 6 + 3 * body[5]:
        raise ValueError(
            f"broken JPEG header: a frame segment of {len(body)} bytes, expected 6 and 3 a component"
        )
    if not (int.from_bytes(body[1:3], "big") and int.from_bytes(body[3:5], "big")):
        raise ValueError("broken JPEG header: a picture without rows or columns")
    sampling = [body[7 + 3 * component] for component in range(body[5])]
    # The single component of a grey picture is not interleaved: its MCU is one block whatever its factors.
    horizontal = max(factors >> 4 for factors in sampling) if len(sampling) > 1 else 1
    vertical = max(factors & 15 for factors in sampling) if len(sampling) > 1 else 1
    if not (horizontal and vertical):
        raise ValueError("broken JPEG header: sampling factors of 0")
    return JpegHeader(
        width=int.from_bytes(body[3:5], "big"),
        height=int.from_bytes(body[1:3], "big"),
        mcu_width=8 * horizontal,
        mcu_height=8 * vertical,
        height_offset=height_offset,
        sos_offset=sos_offset,
        size_bytes=size_bytes,
    )


def split_picture(picture: bytes) -> tuple[bytes, bytes]:
    """Split a whole picture into its header (SOI to the end of SOS) and its entropy-coded scan (without EOI).

    Raises:
        ValueError: not a baseline picture, or its end is missing.
    """
    if picture[-2:] != _EOI:
        raise ValueError(f"JPEG picture ends with {picture[-2:].hex()}, expected ffd9: it is cut off")
    size_bytes = parse_header(picture).size_bytes
    return picture[:size_bytes], picture[size_bytes:-2]


def stitchable_head(header: bytes) -> tuple[bytes, int]:
    """The header of stitched pictures from that of a single one: a restart after every picture.

    Returns:
        The header with a DRI segment, and where its picture height stands.

    Raises:
        VideoError: a picture has more MCUs than a restart interval can count.
    """
    parsed = parse_header(header)
    if parsed.num_mcus > MAX_RESTART_INTERVAL:
        raise VideoError(
            f"frames of {parsed.width}x{parsed.height} have {parsed.num_mcus} JPEG blocks "
            f"and {MAX_RESTART_INTERVAL} is the most: pack smaller frames (--size)"
        )
    restart = bytes([0xFF, _DRI, 0, 4]) + parsed.num_mcus.to_bytes(2, "big")
    return header[: parsed.sos_offset] + restart + header[parsed.sos_offset :], parsed.height_offset


def stitch(head: bytes, height_offset: int, padded_height: int, scans: Sequence[bytes]) -> bytes:
    """One tall JPEG picture, `len(scans) * padded_height` rows, from the scans of single ones.

    Args:
        head: as `stitchable_head` returns it.
        height_offset: where in `head` the height stands.
        padded_height: rows of one picture.
        scans: entropy-coded scans, from the top.

    Raises:
        ValueError: no scans, or more rows than a JPEG picture can have.
    """
    height = len(scans) * padded_height
    if not 0 < height <= MAX_SIDE:
        raise ValueError(
            f"{len(scans)} pictures of {padded_height} rows: a stitched one has 1 to {MAX_SIDE} rows"
        )
    parts = [head[:height_offset], height.to_bytes(2, "big"), head[height_offset + 2 :]]
    for number, scan in enumerate(scans):
        if number:
            parts.append(bytes([0xFF, 0xD0 + (number - 1) % 8]))
        parts.append(scan)
    return b"".join([*parts, _EOI])


def rows_per_mcu(quality: int, subsampling: str, *, channels: int = 3) -> int:
    """Rows of an MCU in pictures encoded this way: read from one, not assumed.

    `channels` as those of the frames: 3, or 2 for flow.
    """
    planes = np.zeros((16, 16, 3 if channels == 3 else 1), np.uint8)
    return parse_header(_encode(planes, quality, subsampling)).mcu_height


def encode_pictures(frames: Iterable[np.ndarray], *, quality: int, subsampling: str) -> EncodedStream:
    """Encode frames as standard JPEG pictures one after another.

    Args:
        frames: (H, W, 3) uint8 RGB each, or (H, W, 2) uint8 optical flow, x and y, of which each becomes a
            grey picture; at least one, all of one size.
        quality: 1..100, libjpeg's scale.
        subsampling: one of `SUBSAMPLINGS`; without a meaning for flow.

    Raises:
        VideoError: the frames are too large for the format.
    """
    pictures, lengths = [], []
    header, height, width, channels, padded_height, mcu_height = b"", 0, 0, 3, 0, 0
    for frame in frames:
        height, width, channels = frame.shape
        mcu_height = mcu_height or rows_per_mcu(quality, subsampling, channels=channels)
        padded_height = -(-height // mcu_height) * mcu_height
        if max(width, padded_height) > MAX_SIDE:
            raise VideoError(
                f"frames of {width}x{height}: a JPEG picture has sides of at most {MAX_SIDE} pixels"
            )
        padded = pad_frame(frame, padded_height, width)
        for planes in [padded] if channels == 3 else np.split(padded, channels, axis=2):
            picture = _encode(planes, quality, subsampling)
            previous, (header, scan) = header, split_picture(picture)
            assert previous in (b"", header), "pictures of one video have different headers"
            lengths.append((len(header) + (len(_EOI) if pictures else 0), len(scan)))
            pictures.append(picture)
    head, height_offset = stitchable_head(header)
    return EncodedStream(
        codec="mjpeg",
        data=b"".join(pictures),
        units=unit_table(lengths),
        head=head,
        height_offset=height_offset,
        num_frames=len(pictures) // (1 if channels == 3 else channels),
        width=width,
        height=height,
        padded_height=padded_height,
        frames_per_unit=1,
    )


def decode_pictures(stream: EncodedStream, frame_indices: Sequence[int]) -> np.ndarray:
    """Decode single frames of an mjpeg stream through one stitched picture.

    Returns:
        (len(frame_indices), height, width, 3) uint8 RGB, or (..., 2) of flow: x and y.

    Raises:
        VideoError: libjpeg cannot decode the picture.
        ValueError: as `stitch`.
    """
    per_frame, channels = stream.pictures_per_frame, stream.channels
    pictures = np.asarray(frame_indices)[:, None] * per_frame + np.arange(per_frame)
    units = stream.units[pictures.reshape(-1)].tolist()
    scans = [stream.data[start : start + length] for start, length in units]
    picture = stitch(stream.head, stream.height_offset, stream.padded_height, scans)
    try:
        rows = np.asarray(Image.open(io.BytesIO(picture), formats=["JPEG"]))
    except UnidentifiedImageError as error:
        raise VideoError("its JPEG pictures cannot be decoded: their header is damaged") from error
    except (OSError, SyntaxError) as error:
        raise VideoError(f"its JPEG pictures cannot be decoded: {error}") from error
    expected = (len(scans) * stream.padded_height, stream.width, *([3] if channels == 3 else []))
    if rows.shape != expected:
        raise VideoError(f"its stitched pictures decode to {rows.shape}, expected {expected}")
    stack = rows.reshape(-1, per_frame, stream.padded_height, stream.width, channels // per_frame)
    visible = stack[:, :, : stream.height]  # (T, pictures, H, W, channels of a picture)
    return visible[:, 0] if per_frame == 1 else np.moveaxis(visible[..., 0], 1, -1)


def _encode(planes: np.ndarray, quality: int, subsampling: str) -> bytes:
    """One picture of (H, W, 3) or, grey, of (H, W, 1)."""
    target = io.BytesIO()
    if planes.shape[2] == 1:
        Image.fromarray(planes[..., 0]).save(target, "JPEG", quality=quality, optimize=False)
    else:
        chroma = ":".join(subsampling)
        Image.fromarray(planes).save(target, "JPEG", quality=quality, subsampling=chroma, optimize=False)
    return target.getvalue()

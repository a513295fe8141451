"""How long a video file should be by what its outermost elements say of themselves.

FFmpeg reads a file that was cut off, by a broken download for one, up to where it ends and reports nothing.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO

_BOXES = {b"ftyp", b"moov", b"mdat", b"moof", b"mfra", b"free", b"skip", b"wide", b"styp", b"sidx", b"meta"}
_EBML_HEADER, _EBML_SEGMENT, _EBML_VOID = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\xec"
_RIFF_UNKNOWN = {0, 0x7FFFFFFF, 0xFFFFFFFF}
"""What a writer that could not go back to fill in the size leaves there."""
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def announced_bytes(path: str | Path) -> int | None:
    """Bytes that the file has at least if it is whole: MP4 and MOV, Matroska and WebM, AVI, WMV.

    Returns:
        None where the file does not say, or is of another kind. Bytes that follow the last element do not
        count.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        start = file.read(16)
        if start[4:8] in _BOXES:
            return _end_of_boxes(file, size_bytes)
        if start[:4] == _EBML_HEADER:
            return _end_of_ebml(file, size_bytes)
        if start[:4] == b"RIFF":
            return _end_of_riff(file, size_bytes)
        if start == _ASF_HEADER:
            return _end_of_asf(file, size_bytes)
    return None


def _read_at(file: BinaryIO, offset: int, num_bytes: int) -> bytes:
    file.seek(offset)
    return file.read(num_bytes)


def _end_of_boxes(file: BinaryIO, size_bytes: int) -> int:
    """ISO/IEC 14496-12, 4.2: 32 bits of size, 4 letters, and 64 bits of size where the first are 1."""
    end = 0
    while end + 8 <= size_bytes:
        start = _read_at(file, end, 16)
        box_bytes, kind = struct.unpack(">I4s", start[:8])
        if box_bytes == 1 and len(start) == 16:
            box_bytes = int.from_bytes(start[8:], "big")
        # Size 0 means up to the end of the file; others below 8 are no box.
        if box_bytes < 8 or (end + box_bytes > size_bytes and kind not in _BOXES):
            break
        end += box_bytes
    return end


def _end_of_ebml(file: BinaryIO, size_bytes: int) -> int | None:
    """RFC 8794, 4 and 5: an id and a size, both as integers of variable length."""
    end = 0
    while end < size_bytes:
        start = _read_at(file, end, 12)
        name = next((n for n in (_EBML_HEADER, _EBML_SEGMENT, _EBML_VOID) if start.startswith(n)), None)
        field = start[len(name) :] if name else b""
        if name is None or not field or not field[0]:
            break
        num_bytes = 9 - field[0].bit_length()
        mask = (1 << 7 * num_bytes) - 1
        element_bytes = int.from_bytes(field[:num_bytes], "big") & mask
        if element_bytes == mask:  # unknown: written as it came
            return None
        end += len(name) + num_bytes + element_bytes
    return end


def _end_of_riff(file: BinaryIO, size_bytes: int) -> int | None:
    """Large AVI files (OpenDML) are several RIFF chunks in a row."""
    end = 0
    while end + 8 <= size_bytes:
        kind, chunk_bytes = struct.unpack("<4sI", _read_at(file, end, 8))
        if kind != b"RIFF":
            break
        if chunk_bytes in _RIFF_UNKNOWN:
            return None
        # Some writers count these 8 bytes, too, so the last chunk may end there; the next one starts even.
        if end + chunk_bytes >= size_bytes:
            return end + chunk_bytes
        end += 8 + chunk_bytes + chunk_bytes % 2
    return min(end, size_bytes)


def _end_of_asf(file: BinaryIO, size_bytes: int) -> int | None:
    """The first two objects, header and data; 16 bytes of name, 64 bits of size."""
    header_bytes = int.from_bytes(_read_at(file, 16, 8), "little")
    start = _read_at(file, header_bytes, 24) if header_bytes < size_bytes else b""
    if start[:16] != _ASF_DATA:
        return header_bytes
    data_bytes = int.from_bytes(start[16:], "little")
    return header_bytes + data_bytes if data_bytes > 50 else None  # as long as its own head: a broadcast

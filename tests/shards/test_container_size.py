import struct

import pytest

from shards.container_size import announced_bytes

SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi"}
EBML_HEADER = b"\x1a\x45\xdf\xa3\x84" + bytes(4)
SEGMENT = b"\x18\x53\x80\x67"
ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def box(kind: bytes, num_bytes: int) -> bytes:
    return struct.pack(">I4s", 8 + num_bytes, kind) + bytes(num_bytes)


def riff(kind: bytes, num_bytes: int) -> bytes:
    return struct.pack("<4sI4s", b"RIFF", 4 + num_bytes, kind) + bytes(num_bytes)


def asf_object(name: bytes, num_bytes: int) -> bytes:
    return name + struct.pack("<Q", 24 + num_bytes) + bytes(num_bytes)


WHOLE = {
    "boxes": box(b"ftyp", 12) + box(b"moov", 50) + box(b"mdat", 200),
    "an unknown box": box(b"ftyp", 12) + box(b"thum", 50) + box(b"mdat", 200),
    "a box of 64 bits": box(b"ftyp", 12) + struct.pack(">I4sQ", 1, b"mdat", 216) + bytes(200),
    "a segment": EBML_HEADER + SEGMENT + b"\x40\xc8" + bytes(200),
    "a segment of 8 bytes of size": EBML_HEADER + SEGMENT + b"\x01" + (200).to_bytes(7, "big") + bytes(200),
    "two segments": 2 * (EBML_HEADER + b"\xec\x82ab" + SEGMENT + b"\x40\xc8" + bytes(200)),
}
LENIENT = {
    "a chunk": riff(b"AVI ", 200),
    "chunks of OpenDML": riff(b"AVI ", 201) + b"\0" + riff(b"AVIX", 200),
    "objects": asf_object(ASF_HEADER, 50) + asf_object(ASF_DATA, 226),
}


@pytest.mark.parametrize("content", WHOLE.values(), ids=WHOLE.keys())
def test_a_whole_file_announces_its_size(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert announced_bytes(tmp_path / "a") == len(content)


@pytest.mark.parametrize("content", [*WHOLE.values(), *LENIENT.values()], ids=[*WHOLE, *LENIENT])
@pytest.mark.parametrize("num_missing", [9, 100, 190])
def test_a_cut_off_file_announces_more(tmp_path, content, num_missing):
    (tmp_path / "a").write_bytes(content[:-num_missing])
    announced = announced_bytes(tmp_path / "a")
    assert announced is not None and announced > len(content) - num_missing


@pytest.mark.parametrize("content", [*WHOLE.values(), *LENIENT.values()], ids=[*WHOLE, *LENIENT])
@pytest.mark.parametrize(
    "tail", [b"", b"\n", bytes(4), bytes(5000), b"trailing words " * 300, b"\xff" * 5000]
)
def test_bytes_behind_the_last_element_do_not_matter(tmp_path, content, tail):
    (tmp_path / "a").write_bytes(content + tail)
    announced = announced_bytes(tmp_path / "a")
    assert announced is not None and announced <= len(content + tail)


def test_a_chunk_whose_size_counts_its_head_is_whole(tmp_path):
    (tmp_path / "a").write_bytes(struct.pack("<4sI4s", b"RIFF", 212, b"AVI ") + bytes(200))
    assert announced_bytes(tmp_path / "a") == 212


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text",
        EBML_HEADER + SEGMENT + b"\x01" + 7 * b"\xff" + bytes(100),
        EBML_HEADER + SEGMENT + b"\xff" + bytes(100),
        struct.pack("<4sI4s", b"RIFF", 0, b"AVI ") + bytes(100),
        struct.pack("<4sI4s", b"RIFF", 0xFFFFFFFF, b"AVI ") + bytes(100),
        riff(b"AVI ", 200) + struct.pack("<4sI4s", b"RIFF", 0, b"AVIX") + bytes(100),
        asf_object(ASF_HEADER, 50) + ASF_DATA + bytes(100),
    ],
)
def test_what_was_written_as_it_came_announces_nothing(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert announced_bytes(tmp_path / "a") is None


def test_a_box_of_size_0_reaches_to_the_end(tmp_path):
    (tmp_path / "a").write_bytes(box(b"ftyp", 12) + struct.pack(">I4s", 0, b"mdat") + bytes(100))
    assert announced_bytes(tmp_path / "a") == 20


def test_no_real_file_is_cut_off(test_data):
    paths = [path for path in sorted(test_data.rglob("*")) if path.suffix in SUFFIXES]
    announced = {path.name: (announced_bytes(path), path.stat().st_size) for path in paths}
    assert len(announced) > 100
    assert announced.pop("no_duration.webm")[0] is None
    assert all(whole == size for whole, size in announced.values())


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        announced_bytes(tmp_path / "missing")

import dataclasses
import io
import os

import numpy as np
import pytest
from frame_shards import numbered_videos, write_shards
from PIL import Image
from video_factory import read_number

from dali_pipes.units import UnitReader, stream_place
from shards import jpeg
from shards.index import load_index
from shards.manifest import ShardError
from shards.reading import ShardDataset


@dataclasses.dataclass
class Call:
    """The arguments that the graph would hand over for one sample."""

    source: np.ndarray
    json: np.ndarray
    meta: np.ndarray
    table: np.ndarray
    head: np.ndarray

    def stitched(self, reader: UnitReader, frames) -> np.ndarray:
        places = reader.locate([self.source], [self.json])
        return reader.stitched(places, [self.meta], [self.table], [self.head], [np.array(frames)])[0]

    def decoded(self, reader: UnitReader, frames) -> np.ndarray:
        places = reader.locate([self.source], [self.json])
        return reader.decoded(places, [self.meta], [self.table], [np.array(frames)])[0]


def prepare(directory, key: str) -> Call:
    tar = directory / "shard-000000.tar"
    members = {m.name: m for m in load_index(tar.with_suffix(".idx"))[key]}
    content = tar.read_bytes()

    def read(name: str) -> bytes:
        return content[members[name].offset : members[name].offset + members[name].size_bytes]

    source = f"{tar}:{members['json'].offset}:{key}.json".encode()
    return Call(
        source=np.frombuffer(source, np.uint8),
        json=np.frombuffer(read("json"), np.uint8),
        meta=np.load(io.BytesIO(read("meta.npy"))),
        table=np.load(io.BytesIO(read("frames.npy"))),
        head=np.frombuffer(read("head"), np.uint8),
    )


def make_reader(codec: str) -> UnitReader:
    return UnitReader(codec=codec, num_threads=1, max_batches_ahead=1)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    videos = numbered_videos(3, num_frames=30, size=(70, 50))
    return write_shards(tmp_path_factory.mktemp("units") / "mjpeg", videos)


@pytest.fixture(scope="module")
def h264_directory(tmp_path_factory):
    videos = numbered_videos(2, num_frames=10, size=(70, 51))
    return write_shards(tmp_path_factory.mktemp("units") / "h264", videos, codec="h264")


@pytest.mark.parametrize("frames", [[0], [29], [3, 3, 3], [0, 7, 12, 13, 14, 20, 21, 22, 28, 29]])
def test_stitched_bytes_are_those_of_the_reference(directory, frames):
    picture = prepare(directory, "00000001").stitched(make_reader("mjpeg"), frames)
    stream = ShardDataset(directory).read_sample("00000001").stream
    scans = [stream.data[start : start + length] for start, length in stream.units[frames].tolist()]
    assert picture.tobytes() == jpeg.stitch(stream.head, stream.height_offset, stream.padded_height, scans)


def test_a_stitched_picture_shows_the_frames_asked_for(directory):
    frames = [29, 0, 17, 17, 5]
    picture = prepare(directory, "00000002").stitched(make_reader("mjpeg"), frames)
    tall = np.asarray(Image.open(io.BytesIO(picture.tobytes())))
    assert [read_number(part[:50]) for part in tall.reshape(len(frames), -1, 70, 3)] == frames


def test_the_units_of_a_batch_are_all_announced_before_the_first_is_read(directory, monkeypatch):
    events = []
    read, advise = os.preadv, os.posix_fadvise

    def recorded_read(file, buffers, offset):
        events.append(("read", offset, len(buffers[0])))
        return read(file, buffers, offset)

    def recorded_advice(file, offset, length, advice):
        if advice == os.POSIX_FADV_WILLNEED:
            events.append(("announce", offset, length))
        return advise(file, offset, length, advice)

    monkeypatch.setattr(os, "preadv", recorded_read)
    monkeypatch.setattr(os, "posix_fadvise", recorded_advice)
    calls = [prepare(directory, key) for key in ("00000001", "00000002")]
    reader = make_reader("mjpeg")
    places = reader.locate(*([getattr(call, name) for call in calls] for name in ("source", "json")))
    columns = ([getattr(call, name) for call in calls] for name in ("meta", "table", "head"))
    reader.stitched(places, *columns, [np.array([3, 17]), np.array([29, 0])])
    assert [kind for kind, *_ in events] == ["announce"] * 4 + ["read"] * 4
    assert [place for _, *place in events[:4]] == [place for _, *place in events[4:]]


def test_decoded_h264_shows_the_frames_asked_for(h264_directory):
    frames = [9, 0, 4, 4, 7]
    decoded = prepare(h264_directory, "00000001").decoded(make_reader("h264"), frames)
    assert decoded.shape == (5, 52, 70, 3)
    assert [read_number(frame[:51]) for frame in decoded] == frames


def test_the_stream_follows_the_json_member_at_the_next_tar_block():
    assert stream_place(b"/a:b/shard-000001.tar:1536:00000007.json", 512) == (
        "/a:b/shard-000001.tar",
        "00000007",
        2048,
    )
    assert stream_place(b"s.tar:1536:00000007.json", 513)[2] == 2560


def test_a_missing_stream_names_shard_and_key(directory):
    call = prepare(directory, "00000001")
    reader = make_reader("h264")
    with pytest.raises(
        ShardError, match=r"shard-000000\.tar:00000001: no member 00000001\.h264 follows json"
    ):
        call.decoded(reader, [0])


def test_the_message_of_a_failure_is_kept():
    reader = make_reader("mjpeg")
    with pytest.raises(ShardError), reader.keeping_failure():
        raise ShardError("shard-000000.tar:00000001: broken")
    assert reader.failure == "shard-000000.tar:00000001: broken"
    with pytest.raises(ShardError), reader.keeping_failure():
        raise ShardError("of a batch ahead")
    assert reader.failure == "shard-000000.tar:00000001: broken"


def test_a_table_that_points_outside_names_shard_key_and_range(directory):
    call = prepare(directory, "00000001")
    call.table = call.table.copy()
    call.table[4, 0] = 10**8
    with pytest.raises(
        ShardError, match=r"shard-000000\.tar:00000001: frames\.npy points at bytes 100000000"
    ):
        call.stitched(make_reader("mjpeg"), [3, 4])


@pytest.mark.parametrize("row", [(-7, 100), (100, -7)])
def test_a_table_of_negative_numbers_names_shard_and_key(directory, row):
    call = prepare(directory, "00000001")
    call.table = call.table.copy()
    call.table[4] = row
    reader = make_reader("mjpeg")
    with pytest.raises(ShardError, match=r"shard-000000\.tar:00000001: frames\.npy "):
        call.stitched(reader, [3, 4])


def test_a_tar_that_is_cut_off_names_shard_and_key(directory, tmp_path):
    call = prepare(directory, "00000002")
    cut = tmp_path / "shard-000000.tar"
    content = (directory / cut.name).read_bytes()
    last = load_index(directory / "shard-000000.idx")["00000002"][-1]
    cut.write_bytes(content[: last.offset + last.size_bytes // 2])
    source = call.source.tobytes().decode().replace(str(directory), str(tmp_path))
    call.source = np.frombuffer(source.encode(), np.uint8)
    with pytest.raises(ShardError, match=r"shard-000000\.tar:00000002: .*cut off"):
        call.stitched(make_reader("mjpeg"), [29])

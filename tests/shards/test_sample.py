import io
import json
from dataclasses import replace

import numpy as np
import pytest
from video_factory import numbered_frame, read_number

from shards import h264, jpeg
from shards.sample import META_FIELDS, Sample, from_members, sample_key, stream_crc32, to_members


@pytest.fixture(params=["mjpeg", "h264"])
def sample(request):
    frames = [numbered_frame(i, (35, 27)) for i in range(21)]
    if request.param == "mjpeg":
        stream = jpeg.encode_pictures(frames, quality=85, subsampling="422")
    else:
        stream = h264.encode_gops(frames, gop=8, crf=20)
    return Sample(12, (4,), stream, {"name": "a b.mp4", "labels": [4]})


def load(content):
    return np.load(io.BytesIO(content), allow_pickle=False)


def test_members_and_their_order(sample):
    members = to_members(sample)
    codec = sample.stream.codec
    assert list(members) == ["meta.npy", "frames.npy", "head", "label.npy", "cls", "json", codec]
    meta = dict(zip(META_FIELDS, load(members["meta.npy"]).tolist(), strict=True))
    assert meta == {
        "sample_id": 12,
        "num_frames": 21,
        "width": 35,
        "height": 27,
        "padded_height": 32 if codec == "mjpeg" else 28,
        "height_offset": sample.stream.height_offset,
        "frames_per_unit": 1 if codec == "mjpeg" else 8,
    }
    assert load(members["frames.npy"]).dtype == np.int32
    assert load(members["label.npy"]).tolist() == [4] and load(members["label.npy"]).dtype == np.int64
    assert members["cls"] == b"4"
    assert json.loads(members["json"])["name"] == "a b.mp4"
    assert members[codec] == sample.stream.data


def test_several_labels_have_no_cls(sample):
    members = to_members(replace(sample, labels=(4, 0)))
    assert "cls" not in members and load(members["label.npy"]).tolist() == [4, 0]


def test_what_was_written_is_read(sample):
    again = from_members(to_members(sample))
    assert (again.key, again.labels, again.info) == ("00000012", (4,), sample.info)
    assert to_members(again) == to_members(sample)
    wanted = [20, 0, 13, 13]
    assert [read_number(frame) for frame in again.decode(wanted)] == wanted


@pytest.mark.parametrize("max_pixels", [1, 35 * 28 * 3, 35 * 28 * 12, 2**24])
def test_stacks_give_all_frames_whatever_their_size(sample, monkeypatch, max_pixels):
    monkeypatch.setattr("shards.sample.MAX_STACK_PIXELS", max_pixels)
    stacks = list(sample.iter_stacks())
    assert [read_number(frame) for stack in stacks for frame in stack] == list(range(21))
    assert {stack.shape[1:] for stack in stacks} == {(27, 35, 3)}


def test_keys_sort_like_ids_and_have_no_dot():
    keys = [sample_key(i) for i in (0, 9, 10, 99_999, 1_000_000)]
    assert keys == sorted(keys) and not any("." in key for key in keys)


def test_checksum_is_crc32():
    assert stream_crc32(b"123456789") == 0xCBF43926


@pytest.mark.parametrize("name", ["meta.npy", "frames.npy", "head", "label.npy", "cls", "json"])
def test_a_missing_member_is_named(sample, name):
    members = to_members(sample)
    del members[name]
    with pytest.raises(ValueError, match=f"{name}: no such member; there are .*{sample.stream.codec}"):
        from_members(members)


def test_a_missing_stream_is_named(sample):
    members = to_members(sample)
    del members[sample.stream.codec]
    with pytest.raises(ValueError, match="mjpeg or h264: no such member"):
        from_members(members)


def test_a_member_of_the_wrong_kind_is_named(sample):
    members = to_members(sample)
    with pytest.raises(ValueError, match=r"label.npy: not a numpy array"):
        from_members(members | {"label.npy": b"\x93NUMPX"})
    with pytest.raises(ValueError, match=r"frames.npy: int64 with 1 dimension, expected int32 with 2"):
        from_members(members | {"frames.npy": members["label.npy"]})
    with pytest.raises(ValueError, match="json: not JSON"):
        from_members(members | {"json": b"{"})
    short = io.BytesIO()
    np.save(short, np.zeros(3, np.int32))
    with pytest.raises(ValueError, match=r"meta.npy: 3 numbers, expected 7: sample_id"):
        from_members(members | {"meta.npy": short.getvalue()})

import hashlib
import io
import os
import subprocess
import sys

import av
import numpy as np
import pytest
from video_factory import numbered_frame, read_number

from shards import h264
from shards.stream import VideoError


def encode(num_frames, size=(64, 48), gop=8):
    return h264.encode_gops((numbered_frame(i, size) for i in range(num_frames)), gop=gop, crf=20)


@pytest.mark.parametrize(
    ("num_frames", "gop", "num_units"), [(1, 8, 1), (8, 8, 1), (9, 8, 2), (30, 8, 4), (5, 1, 5)]
)
def test_units_are_gops_of_fixed_length(num_frames, gop, num_units):
    stream = encode(num_frames, gop=gop)
    assert stream.num_frames == num_frames and stream.frames_per_unit == gop
    assert stream.units.shape == (num_units, 2) and stream.units.dtype == np.int32
    assert stream.units[0, 0] == 0 and stream.units[-1].sum() == len(stream.data)
    for start, _ in stream.units:
        assert stream.data[start : start + 5] == b"\0\0\0\1\x09"


def encoded_with_memory_full_of(byte: int) -> str:
    """A hash of the same GOPs, encoded by a process in which glibc writes `byte`'s complement into all
    memory that it hands out."""
    program = "import test_h264; print(test_h264.hash_of_gops())"
    paths = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    environment = os.environ | {"MALLOC_PERTURB_": str(byte), "PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def hash_of_gops() -> str:
    return hashlib.sha256(encode(24, size=(180, 240)).data).hexdigest()


def test_bytes_do_not_depend_on_what_was_in_memory_before():
    assert encoded_with_memory_full_of(1) == encoded_with_memory_full_of(85) == hash_of_gops()


@pytest.mark.parametrize("wanted", [[0], [29], [3, 3, 3], [29, 0, 8, 7, 15, 16, 0], list(range(30))])
def test_any_frames_in_any_order(wanted):
    stream = encode(30)
    frames = h264.decode_frames(stream.data, stream.units, 8, wanted)
    assert frames.shape == (len(wanted), 48, 64, 3) and frames.dtype == np.uint8
    assert [read_number(frame) for frame in frames] == wanted


def test_stream_may_be_an_array():
    stream = encode(12)
    array = np.frombuffer(stream.data, np.uint8)
    assert [read_number(f) for f in h264.decode_frames(array, stream.units, 8, [11, 2])] == [11, 2]


def test_only_the_wanted_gops_and_not_what_follows_in_them_is_decoded():
    stream = encode(24)
    data = np.frombuffer(stream.data, np.uint8).copy()
    second, third = stream.units[1], stream.units[2]
    middle = stream.data.index(b"\0\0\0\1\x09", second[0] + 5)
    data[: second[0]] = 0
    data[middle + 5 : second.sum()] = 0
    data[third[0] :] = 0
    (frame,) = h264.decode_frames(data, stream.units, 8, [8])
    assert read_number(frame) == 8


def test_damage_in_a_wanted_gop_is_an_error():
    stream = encode(24)
    data = np.frombuffer(stream.data, np.uint8).copy()
    data[stream.units[1, 0] :] = 0
    with pytest.raises(VideoError, match="GOP 1 is damaged: 0 of 3 frames"):
        h264.decode_frames(data, stream.units, 8, [0, 10])


def test_stream_is_an_ordinary_file_to_ffmpeg():
    stream = encode(20)
    with av.open(io.BytesIO(stream.data), format="h264") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [read_number(frame) for frame in frames] == list(range(20))


def test_colours_are_tagged_and_do_not_shift():
    frames = np.stack([numbered_frame(i, (340, 256)) for i in range(8)])
    stream = h264.encode_gops(frames, gop=8, crf=12)
    decoded = h264.decode_frames(stream.data, stream.units, 8, range(8))
    assert abs((decoded.astype(float) - frames).mean(axis=(0, 1, 2))).max() < 0.5
    with av.open(io.BytesIO(stream.data), format="h264") as container:
        frame = next(container.decode(video=0))
    assert (int(frame.color_range), int(frame.colorspace), frame.format.name) == (1, 6, "yuv420p")


def test_colours_are_those_of_bt601_to_the_nearest_level():
    rows, columns = np.mgrid[0:96, 0:128]
    waves = [np.sin(columns / 9 + rows / period) for period in (7, 11, 15)]
    frame = (127 + 120 * np.stack(waves, axis=2)).astype(np.uint8)
    stream = h264.encode_gops([frame], gop=1, crf=1)
    with av.open(io.BytesIO(stream.data), format="h264") as container:
        planes = next(container.decode(video=0)).to_ndarray().astype(float)
    blue, red = planes[96:].reshape(2, 48, 64).repeat(2, axis=1).repeat(2, axis=2) - 128
    luma = 1.164384 * (planes[:96] - 16)
    rgb = np.stack(
        [luma + 1.596027 * red, luma - 0.391762 * blue - 0.812968 * red, luma + 2.017232 * blue], axis=2
    )
    (found,) = h264.decode_frames(stream.data, stream.units, 1, [0])
    assert np.abs(found - rgb.clip(0, 255)).max() < 0.65  # one rounding, of fixed-point coefficients


def test_a_stream_of_another_format_is_an_error(monkeypatch):
    stream = encode(3)
    other = av.VideoFrame(64, 48, "yuv444p")
    monkeypatch.setattr(h264, "_decode_gop", lambda *arguments: [other] * 3)
    with pytest.raises(VideoError, match="GOP 0 is damaged: it has yuv444p of 64x48"):
        h264.decode_frames(stream.data, stream.units, 8, [1])


def test_odd_sizes_are_padded():
    stream = encode(3, size=(35, 27))
    assert (stream.width, stream.height, stream.padded_height) == (35, 27, 28)
    frames = h264.decode_frames(stream.data, stream.units, 8, [2])
    assert frames.shape == (1, 28, 36, 3)
    assert read_number(frames[0, :27, :35]) == 2


def test_bytes_are_reproducible():
    assert encode(20).data == encode(20).data

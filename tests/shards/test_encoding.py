import struct

import pytest
from video_factory import numbered_frame, write_numbered_video

from shards.encoding import EncodingOptions, PackedSample, Rejected, Task, pack_video
from shards.sample import from_members
from shards.source_format import build_source_format
from shards.sources import Source
from shards.stream import VideoError


def task_for(path, **options):
    return Task(3, Source("x/a.mp4", str(path), (1,), 0), "train", EncodingOptions(**options))


def test_a_packed_video_and_its_figures(tmp_path):
    path = write_numbered_video(tmp_path / "a.mp4", 21, size=(60, 44), fps=10)
    packed = pack_video(task_for(path, frame_stride=2))
    assert isinstance(packed, PackedSample)
    assert (packed.key, packed.num_frames, packed.num_labels) == ("00000003", 11, 1)
    assert (packed.width, packed.height, packed.padded_height) == (60, 44, 48)
    assert packed.duration_s == 2.2 and packed.size_bytes == sum(map(len, packed.members.values()))
    info = from_members(packed.members).info
    assert info == info | {
        "name": "x/a.mp4",
        "split": "train",
        "labels": [1],
        "fps": 5.0,
        "duration_s": 2.2,
        "original_size": [60, 44],
        "stored_size": [60, 44],
        "options": {
            "source": "videos",
            "codec": "mjpeg",
            "size": "source",
            "frame_stride": 2,
            "quality": 85,
            "subsampling": "422",
        },
    }


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_a_rotated_video_is_stored_upright(test_data, codec):
    packed = pack_video(task_for(test_data / "edge_cases" / "rot_90.mov", codec=codec, size="short160"))
    assert isinstance(packed, PackedSample) and (packed.width, packed.height) == (160, 284)


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
@pytest.mark.parametrize(
    "name", ["av1.mkv", "h264_10bits.mp4", "h265.mp4", "unordered.mov", "no_duration.webm"]
)
def test_edge_cases_are_packed(test_data, name, codec):
    packed = pack_video(task_for(test_data / "edge_cases" / name, codec=codec, size="short64"))
    assert isinstance(packed, PackedSample) and min(packed.width, packed.height) == 64


def test_a_corrupted_video_is_rejected_with_its_reason(test_data):
    rejected = pack_video(task_for(test_data / "edge_cases" / "corrupted.mp4"))
    assert isinstance(rejected, Rejected) and "Invalid data found" in rejected.reason


def test_a_video_whose_stored_frames_do_not_decode_is_rejected(tmp_path, monkeypatch):
    path = write_numbered_video(tmp_path / "a.mp4", 3)
    with monkeypatch.context() as patch:
        patch.setattr("shards.sample.jpeg.decode_pictures", raise_video_error)
        assert pack_video(task_for(path)).reason == "bad pictures"
    monkeypatch.setattr("shards.sample.Sample.iter_stacks", lambda self: [numbered_frame(0)[None]])
    with pytest.raises(AssertionError, match="without all of its frames"):
        pack_video(task_for(path))
    monkeypatch.setattr("shards.sample.Sample.iter_stacks", lambda self: [numbered_frame(0, (64, 64))[None]])
    assert "decode to (64, 64, 3), not to (48, 64, 3)" in pack_video(task_for(path)).reason


def raise_video_error(*_):
    raise VideoError("bad pictures")


def test_lack_of_memory_is_a_reason_to_reject(tmp_path, monkeypatch):
    def raise_memory_error(*_, **__):
        raise MemoryError

    monkeypatch.setattr("shards.encoding.jpeg.encode_pictures", raise_memory_error)
    assert (
        pack_video(task_for(write_numbered_video(tmp_path / "a.mp4", 3))).reason == "not enough memory for it"
    )


@pytest.mark.parametrize("error", [struct.error("short"), RuntimeError("short"), UnicodeError("short")])
def test_whatever_a_decoder_raises_is_a_reason_to_reject(tmp_path, monkeypatch, error):
    def raise_error(*_):
        raise error

    monkeypatch.setattr("shards.encoding.open_source", raise_error)
    rejected = pack_video(task_for(tmp_path / "a.mp4"))
    assert isinstance(rejected, Rejected) and rejected.reason == f"{type(error).__name__}: short"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codec": "vp9"}, "--codec vp9: expected mjpeg or h264"),
        ({"size": "tiny"}, "--size tiny: expected one of the forms"),
        ({"subsampling": "411"}, "--subsampling 411: expected one of 420, 422, 444"),
        ({"quality": 0}, "--quality 0: expected 1 to 100"),
        ({"frame_stride": 0}, "--frame-stride 0: expected 1 to 10000"),
        ({"gop": 251}, "--gop 251: expected 1 to 250"),
        ({"crf": 52}, "--crf 52: expected 0 to 51"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EncodingOptions(**options)


def test_options_of_the_other_codec_do_not_count():
    of_h264 = EncodingOptions(codec="h264", quality=50).that_count()
    assert of_h264 == EncodingOptions(codec="h264").that_count()
    assert EncodingOptions(gop=4).that_count() == EncodingOptions().that_count()


def test_grey_has_no_subsampling():
    flow = build_source_format("flow")
    options = EncodingOptions(source_format=flow).that_count()
    assert options == EncodingOptions(source_format=flow, subsampling="420").that_count()
    assert (options["source"], options["template"], options["quality"]) == ("flow", "{}_{:05d}.jpg", 85)

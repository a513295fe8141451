import io
import json
import shutil
from fractions import Fraction

import av
import av.logging
import numpy as np
import pytest
from PIL import Image
from video_factory import (
    copy_packets,
    numbered_frame,
    read_number,
    write_numbered_video,
    write_tiled_heic,
)

from shards.size import parse_size
from shards.stream import VideoError
from shards.video import Orientation, open_video

BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)


def read_all(path, *args):
    with open_video(path) as video:
        return list(video.iter_frames(*args))


def to_rgb_by_formula(frame, weights, full_range):
    """(H, W, 3) float64: the textbook conversion of an 8-bit 4:2:0 frame, chroma repeated."""
    planes = []
    for plane in frame.planes:
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width]
        planes.append(rows.astype(float))
    y, cb, cr = planes
    cb, cr = (c.repeat(2, 0).repeat(2, 1)[: y.shape[0], : y.shape[1]] - 128 for c in (cb, cr))
    if not full_range:
        y, cb, cr = (y - 16) * 255 / 219, cb * 255 / 224, cr * 255 / 224
    red_weight, blue_weight = weights
    red = y + 2 * (1 - red_weight) * cr
    blue = y + 2 * (1 - blue_weight) * cb
    green = (y - red_weight * red - blue_weight * blue) / (1 - red_weight - blue_weight)
    return np.clip(np.stack([red, green, blue], axis=-1), 0, 255)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("plain.mp4", {}),
        ("plain.mkv", {}),
        ("plain.avi", {"codec": "mpeg4"}),
        ("ntsc.mp4", {"fps": Fraction(30_000, 1001), "with_audio": True}),
        ("variable_rate.mkv", {"timestamps": [i + i * i // 3 for i in range(40)]}),
        ("odd.mp4", {"size": (35, 27)}),
        ("odd_large.mp4", {"size": (341, 257)}),
        ("two.mp4", {"num_frames": 2}),
        ("one.mp4", {"num_frames": 1}),
        ("slow.avi", {"num_frames": 2, "fps": 1, "codec": "mpeg4"}),
    ],
)
def test_every_frame_comes_once_and_in_order(tmp_path, name, options):
    options = {"num_frames": 40} | options
    frames = read_all(write_numbered_video(tmp_path / name, **options))
    width, height = options.get("size", (64, 48))
    assert all(frame.shape == (height, width, 3) and frame.dtype == np.uint8 for frame in frames)
    assert [read_number(frame) for frame in frames] == list(range(options["num_frames"]))


@pytest.mark.parametrize(("stride", "numbers"), [(1, range(10)), (3, [0, 3, 6, 9]), (10, [0]), (100, [0])])
def test_stride_keeps_every_nth_frame(tmp_path, stride, numbers):
    path = write_numbered_video(tmp_path / "a.mp4", 10)
    assert [read_number(f) for f in read_all(path, lambda w, h: (w, h), stride)] == list(numbers)


def test_frames_are_scaled_to_the_chosen_size(tmp_path):
    path = write_numbered_video(tmp_path / "a.mp4", 3, size=(160, 120))
    frames = read_all(path, parse_size("short48").apply)
    assert [read_number(f) for f in frames] == [0, 1, 2]
    assert frames[0].shape == (48, 64, 3)
    difference = frames[0].astype(float) - numbered_frame(0, (64, 48))
    assert abs(difference).mean() < 6 and abs(difference.mean(axis=(0, 1))).max() < 1.5


def test_facts_of_a_video(tmp_path):
    with open_video(write_numbered_video(tmp_path / "a.mp4", 5, size=(48, 64), fps=12)) as video:
        assert (video.width, video.height, video.fps) == (48, 64, 12.0)


@pytest.mark.parametrize("name", ["mma_test", "mma_demo"])
def test_frames_equal_those_of_the_reference(test_data, golden, name):
    cases = json.loads((golden / "video_pixels_0x.json").read_text())["cases"]
    frames = read_all(test_data / "full_videos" / f"{name}.mp4")
    own = [case for case in cases if case["file"].endswith(f"/{name.removeprefix('mma_')}.mp4")]
    assert own
    for case in own:
        assert len(frames) == case["total_frames"]
        chosen = [frames[index] for index in case["frame_inds"]][: len(case["decoded_frame_channel_mean"])]
        means = np.stack([frame.mean(axis=(0, 1)) for frame in chosen])
        np.testing.assert_allclose(means, case["decoded_frame_channel_mean"], atol=0.05)


@pytest.mark.parametrize(
    ("name", "weights", "full_range"),
    [
        ("edge_cases/bt709_full.mp4", BT709, True),
        ("full_videos/nasa.mp4", BT709, False),
        ("edge_cases/h265.mp4", BT601, False),
        ("full_videos/mma_test.mp4", BT601, False),  # untagged
    ],
)
def test_colours_follow_matrix_and_range(test_data, name, weights, full_range):
    with av.open(str(test_data / name)) as container:
        coded = next(container.decode(video=0))
    expected = to_rgb_by_formula(coded, weights, full_range)
    frame = read_all(test_data / name)[0]
    difference = np.abs(frame - expected)
    # swscale's fast conversion rounds down at several places.
    assert difference.max() < 3.5 and difference.mean() < 1.1
    for other in (BT601, BT709):
        for other_range in (True, False):
            if (other, other_range) != (weights, full_range):
                wrong = to_rgb_by_formula(coded, other, other_range)
                assert np.abs(frame - wrong).max() > 6


def test_ten_bits_give_the_colours_of_eight(tmp_path):
    frame = av.VideoFrame(64, 48, "yuv420p10le")
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        for plane, value in zip(frame.planes, (480, 400, 700), strict=True):
            plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (decoded,) = read_all(tmp_path / "a.mkv")
    y, cb, cr = (480 / 4 - 16) * 255 / 219, (400 / 4 - 128) * 255 / 224, (700 / 4 - 128) * 255 / 224
    expected = [y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb]
    assert abs(decoded.reshape(-1, 3) - np.array(expected)).max() <= 1


@pytest.mark.parametrize(
    ("name", "num_frames", "shape"),
    [
        ("av1.mkv", 125, (360, 640, 3)),
        ("bt709_full.mp4", 30, (720, 1280, 3)),
        ("h264_10bits.mp4", 30, (200, 200, 3)),
        ("h265.mp4", 10, (128, 128, 3)),
        ("no_duration.webm", 74, (720, 1280, 3)),
        ("rot_90.mov", 3, (568, 320, 3)),
        ("unordered.mov", 4, (50, 50, 3)),
    ],
)
def test_edge_cases_are_read_whole(test_data, name, num_frames, shape):
    frames = read_all(test_data / "edge_cases" / name)
    assert len(frames) == num_frames and {frame.shape for frame in frames} == {shape}


def test_rotation_is_applied(test_data):
    path = test_data / "edge_cases" / "rot_90.mov"
    with av.open(str(path)) as container:
        coded = next(container.decode(video=0))
    assert coded.rotation == -90  # to be turned clockwise
    upright = np.rot90(coded.to_ndarray(format="rgb24"), k=-1)
    np.testing.assert_array_equal(read_all(path)[0], upright)
    assert read_all(path, parse_size("short80").apply)[0].shape == (142, 80, 3)


def test_orientation_is_a_rotation_or_a_mirror():
    picture = np.arange(6).reshape(2, 3, 1)
    np.testing.assert_array_equal(Orientation(True, True, False).apply(picture), np.rot90(picture, k=-1))
    np.testing.assert_array_equal(Orientation(True, False, True).apply(picture), np.rot90(picture, k=1))
    np.testing.assert_array_equal(Orientation(False, True, True).apply(picture), np.rot90(picture, k=2))
    np.testing.assert_array_equal(Orientation(False, True, False).apply(picture), picture[:, ::-1])


def test_a_corrupted_stream_is_an_error(test_data):
    with pytest.raises(VideoError, match="FFmpeg cannot decode it: Invalid data"):
        read_all(test_data / "edge_cases" / "corrupted.mp4")


def test_a_damaged_picture_is_an_error(tmp_path, test_data):
    content = bytearray((test_data / "full_videos" / "mma_test.mp4").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 300] = bytes(300)
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(VideoError, match=r"frame \d+ is damaged|FFmpeg cannot decode it"):
        read_all(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mkv", {}),
        ("a.webm", {"codec": "libvpx"}),
        ("a.avi", {"codec": "mpeg4"}),
        ("a.wmv", {"codec": "wmv2"}),
        ("a.mp4", {"muxer_options": {"movflags": "faststart"}, "with_audio": True}),
        ("fragments.mp4", {"muxer_options": {"movflags": "frag_every_frame+empty_moov"}}),
    ],
)
def test_a_cut_off_file_is_an_error(tmp_path, name, options):
    path = write_numbered_video(tmp_path / name, 100, **options)
    with av.open(str(path)) as container:
        ends = [packet.pos for packet in container.demux(video=0) if packet.pos is not None]
    content = path.read_bytes()
    for num_bytes in (ends[30], ends[60], ends[98], len(content) * 96 // 100):
        path.write_bytes(content[:num_bytes])
        with pytest.raises(VideoError, match=rf"cut off: it has {num_bytes} of \d+ bytes"):
            read_all(path)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        # Matroska's tag DURATION is the end of the stream, which need not begin at 0.
        ("late.mkv", {"timestamps": range(100, 108)}),
        # A WMV states how long its sound and picture are together.
        ("loud.wmv", {"with_audio": True, "codec": "wmv2"}),
    ],
)
def test_a_whole_file_with_odd_times_is_read(tmp_path, name, options):
    path = write_numbered_video(tmp_path / name, 8, **options)
    assert [read_number(frame) for frame in read_all(path)] == list(range(8))


def test_segments_of_a_longer_video_are_read(tmp_path):
    options = {"segment_time": "0.7"}
    write_numbered_video(tmp_path / "a%d.mkv", 60, gop=20, muxer="segment", muxer_options=options)
    parts = [[read_number(frame) for frame in read_all(path)] for path in sorted(tmp_path.glob("a*.mkv"))]
    assert len(parts) > 1 and [number for part in parts for number in part] == list(range(60))


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.avi", "mpeg4"), ("a.avi", "msmpeg4"), ("a.wmv", "wmv2"), ("a.flv", "flv"), ("a.avi", "h263p")],
)
def test_a_video_that_begins_between_key_frames_is_an_error(tmp_path, name, codec):
    size = (64, 48)
    path = write_numbered_video(tmp_path / f"whole_{name}", 40, size, codec=codec, gop=12)
    cut = copy_packets(path, tmp_path / name, 5)
    with pytest.raises(VideoError, match="begins between key frames"):
        read_all(cut)
    assert len(read_all(copy_packets(path, tmp_path / f"at_key_{name}", 12))) == 28


def test_a_decoder_that_waits_for_a_key_frame_drops_what_is_before(tmp_path):
    path = write_numbered_video(tmp_path / "a.mkv", 40, codec="mpeg2video", gop=12)
    frames = read_all(copy_packets(path, tmp_path / "b.mkv", 5))
    assert [read_number(frame) for frame in frames] == list(range(12, 40))


def test_an_edit_that_begins_between_key_frames_is_read(tmp_path):
    path = write_numbered_video(tmp_path / "a.mp4", 40, codec="mpeg4")
    content = bytearray(path.read_bytes())
    edit = content.index(b"elst")
    with av.open(str(path)) as container:
        five_frames = 5 / 25 / (container.streams.video[0].time_base or 1)
    content[edit + 16 : edit + 20] = int(five_frames).to_bytes(4, "big")
    path.write_bytes(content)
    assert [read_number(frame) for frame in read_all(path)] == list(range(5, 40))


@pytest.mark.parametrize(("name", "codec"), [("a.mkv", "h264"), ("a.webm", "libvpx")])
def test_a_hole_in_a_file_is_an_error(tmp_path, name, codec):
    path = write_numbered_video(
        tmp_path / name, 200, codec=codec, gop=10, muxer_options={"cluster_time_limit": "400"}
    )
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.pos is not None]
    content = bytearray(path.read_bytes())
    # From the middle of a cluster on, so that frames vanish whole.
    content[places[101] - 40 : places[119]] = bytes(places[119] - places[101] + 40)
    path.write_bytes(content)
    av.logging.set_level(None)
    for _ in range(2):  # FFmpeg's log leaves out what it said just before
        with pytest.raises(VideoError, match=r"the file is damaged (after frame \d+|near its beginning): "):
            read_all(path)
    assert av.logging.get_level() is None


def test_a_hole_that_is_met_while_opening_is_an_error(tmp_path):
    path = write_numbered_video(tmp_path / "a.wmv", 40, codec="wmv2")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3] + bytes(len(content) - len(content) * 2 // 3))
    with pytest.raises(VideoError, match="the file is damaged near its beginning: "):
        read_all(path)


def test_a_picture_of_tiles_is_an_error(tmp_path):
    with pytest.raises(VideoError, match="a picture of several tiles: convert it to JPEG or PNG"):
        read_all(write_tiled_heic(tmp_path / "a.heic"))


@pytest.mark.parametrize("name", ["file:b.mp4", "concat:a.mp4|b.mp4", "a%3Fb #.mp4"])
def test_a_name_is_no_url(tmp_path, monkeypatch, name):
    write_numbered_video(tmp_path / "a.mp4", 2).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(read_all(name)) == 2


def test_what_is_no_video_is_an_error(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("text.mp4", "empty.mp4", "missing.mp4"):
        with pytest.raises(VideoError, match="FFmpeg cannot decode it"):
            read_all(tmp_path / name)


def test_a_file_with_sound_only_is_an_error(tmp_path):
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="no video stream"):
        read_all(tmp_path / "a.wav")


def test_frames_can_be_read_once(tmp_path):
    shutil.copy(write_numbered_video(tmp_path / "a.mp4", 2), tmp_path / "b.mp4")
    with open_video(tmp_path / "b.mp4") as video:
        list(video.iter_frames())
        with pytest.raises(AssertionError, match="can be read once"):
            list(video.iter_frames())


def test_the_first_of_several_video_streams_is_read(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        streams = [container.add_stream("mpeg4", rate=25) for _ in range(2)]
        for stream, (width, height) in zip(streams, [(64, 48), (128, 96)], strict=True):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(3):
            for stream in streams:
                shown = number if stream is streams[0] else 500 + number
                picture = numbered_frame(shown, (stream.width, stream.height))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    assert [read_number(frame) for frame in read_all(tmp_path / "a.mkv")] == [0, 1, 2]


@pytest.mark.parametrize("suffix", ["mkv", "avi", "mp4"])
def test_a_title_that_is_not_utf8_does_not_matter(tmp_path, suffix):
    path, text = tmp_path / f"a.{suffix}", "title of the video"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = text
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(7), format="rgb24")))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    assert text.encode() in content
    path.write_bytes(content.replace(text.encode(), text.encode().replace(b"i", b"\xef")))
    assert [read_number(frame) for frame in read_all(path)] == [7]


ORIENTATION = 0x0112


@pytest.mark.parametrize(
    ("exif_orientation", "to_stored"),
    [
        (1, lambda picture: picture),
        (2, lambda picture: picture[:, ::-1]),
        (6, lambda picture: picture.swapaxes(0, 1)[::-1]),  # turned clockwise to view
    ],
)
def test_motion_jpeg_with_exif_is_read_and_upright(tmp_path, exif_orientation, to_stored):
    exif = Image.Exif()
    exif[ORIENTATION] = exif_orientation
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        height, width = to_stored(numbered_frame(0)).shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p"
        for number in range(3):
            picture = io.BytesIO()
            Image.fromarray(to_stored(numbered_frame(number)).copy()).save(picture, "JPEG", exif=exif)
            packet = av.Packet(picture.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
            container.mux(packet)
    frames = read_all(tmp_path / "a.avi")
    assert [frame.shape for frame in frames] == 3 * [(48, 64, 3)]
    assert [read_number(frame) for frame in frames] == [0, 1, 2]

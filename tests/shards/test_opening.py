import io
import json
import struct

import numpy as np
import pytest
from picture_factory import numbered_flow, write_numbered_flow, write_numbered_frames, write_numbered_parts
from PIL import Image
from video_factory import numbered_frame, read_number, write_numbered_video

from shards.encoding import EncodingOptions, PackedSample, Rejected, Task, pack_video
from shards.sample import Sample, from_members
from shards.source_format import build_source_format
from shards.sources import Source

PNG_FLOW = {"template": "{}_{:05d}.png"}


def pack(kind, path, *, format_options=None, count=1, offset=0, positive=(), **options):
    """The outcome of packing one source."""
    source = Source("name", str(path), (1,), 0, count, offset, positive)
    source_format = build_source_format(kind, **format_options or {})
    return pack_video(Task(3, source, "train", EncodingOptions(source_format=source_format, **options)))


def sample_of(packed) -> Sample:
    assert isinstance(packed, PackedSample), packed.reason
    return from_members(packed.members)


def numbers_in(packed):
    sample = sample_of(packed)
    return [read_number(frame) for frame in sample.decode(list(range(sample.stream.num_frames)))]


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_frames_of_a_folder(tmp_path, codec):
    write_numbered_frames(tmp_path, range(100, 112))
    assert numbers_in(pack("frames", tmp_path, count=12, codec=codec)) == list(range(100, 112))
    assert numbers_in(pack("frames", tmp_path, count=5, codec=codec)) == list(range(100, 105))
    strided = pack("frames", tmp_path, count=12, codec=codec, frame_stride=5)
    assert numbers_in(strided) == [100, 105, 110]
    assert json.loads(strided.members["json"])["duration_s"] is None


def test_file_number_is_frame_index_plus_start_index_plus_offset(tmp_path):
    write_numbered_frames(tmp_path, range(30), template="image_{:05d}.jpg", start_index=0)
    for start_index in (0, 1):
        options = {"template": "image_{:05d}.jpg", "start_index": start_index, "with_offset": True}
        clip = pack("frames", tmp_path, format_options=options, count=4, offset=20)
        assert numbers_in(clip) == [start_index + 20 + i for i in range(4)]


def test_frames_are_scaled_to_the_size_of_the_first(tmp_path):
    write_numbered_frames(tmp_path, range(3), size=(120, 80))
    Image.fromarray(numbered_frame(1, (60, 80))).save(tmp_path / "img_00002.jpg")
    packed = pack("frames", tmp_path, count=3, size="short40")
    assert (packed.width, packed.height) == (60, 40) and numbers_in(packed) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["frames", "flow"])
def test_a_missing_or_broken_file_is_named(tmp_path, kind):
    write = write_numbered_frames if kind == "frames" else write_numbered_flow
    first = "img" if kind == "frames" else "x"
    write(tmp_path, range(4))
    assert pack(kind, tmp_path, count=5).reason == f"{first}_00005.jpg: no such file"
    path = tmp_path / f"{'img' if kind == 'frames' else 'y'}_00003.jpg"
    path.write_bytes(path.read_bytes()[:300])
    assert pack(kind, tmp_path, count=4).reason.startswith(f"{path.name}: cannot be decoded: ")
    path.unlink()
    assert pack(kind, tmp_path, count=4).reason == f"{path.name}: no such file"
    assert pack(kind, tmp_path / "none", count=4).reason == f"{first}_00001.jpg: no such file"


def test_flow_keeps_the_order_of_x_and_y_and_its_values(tmp_path):
    write_numbered_flow(tmp_path, range(7, 16))
    packed = pack("flow", tmp_path, count=9, quality=95)
    sample = sample_of(packed)
    assert (sample.stream.num_frames, len(sample.stream.units), sample.stream.padded_height) == (9, 18, 48)
    frames = sample.decode([0, 8, 3])
    expected = np.stack([numbered_flow(number) for number in (7, 15, 10)])
    assert frames.shape == (3, 48, 64, 2) and frames.dtype == np.uint8
    assert abs(frames.astype(int) - expected).max() < 40  # beside the black and white blocks
    assert abs(frames.astype(int) - expected)[:, 32:].max() <= 4
    assert [read_number(frame[..., :1]) for frame in frames] == [7, 15, 10]
    assert [read_number(frame[..., 1:]) for frame in frames] == [8, 16, 11]


def test_flow_is_stored_as_grey_pictures_that_decode_alone(tmp_path):
    write_numbered_flow(tmp_path, range(3), size=(36, 27))
    stream = sample_of(pack("flow", tmp_path, count=3)).stream
    assert stream.padded_height == 32
    picture = Image.open(io.BytesIO(stream.data))
    assert (picture.mode, picture.size) == ("L", (36, 32))
    restart = stream.head.index(b"\xff\xdd\x00\x04") + 4
    assert int.from_bytes(stream.head[restart : restart + 2], "big") == 5 * 4  # blocks of 8 x 8


def test_values_of_scaled_flow_are_not_adjusted(tmp_path):
    for axis, value in (("x", 200), ("y", 90)):
        Image.new("L", (80, 60), value).save(tmp_path / f"flow_{axis}_00000.jpg")
    options = {"template": "flow_{}_{:05d}.jpg", "start_index": 0}
    packed = pack("flow", tmp_path, format_options=options, size="20x30")
    (frame,) = sample_of(packed).decode([0])
    assert frame.shape == (30, 20, 2)
    assert abs(frame.astype(int) - [200, 90]).max() <= 1


def test_flow_in_many_stacks(tmp_path, monkeypatch):
    write_numbered_flow(tmp_path, range(11))
    monkeypatch.setattr("shards.sample.MAX_STACK_PIXELS", 64 * 48 * 6)  # 3 frames of 2 pictures
    stacks = list(sample_of(pack("flow", tmp_path, count=11)).iter_stacks())
    assert [len(stack) for stack in stacks] == [3, 3, 3, 2]
    assert [read_number(frame[..., :1]) for stack in stacks for frame in stack] == list(range(11))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "ppm"])
def test_an_image_is_a_sample_of_one_frame(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(numbered_frame(9)).save(path)
    packed = pack("images", path)
    assert packed.num_frames == 1 and numbers_in(packed) == [9]


def test_an_image_that_only_ffmpeg_reads(tmp_path):
    path = write_numbered_video(tmp_path / "a.mkv", 1, first_number=5)
    assert numbers_in(pack("images", path)) == [5]


def test_an_image_is_stored_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    lying = Image.fromarray(numbered_frame(9)).transpose(Image.Transpose.ROTATE_90)
    lying.save(tmp_path / "a.jpg", exif=exif)
    packed = pack("images", tmp_path / "a.jpg")
    assert (packed.width, packed.height) == (64, 48) and numbers_in(packed) == [9]


def test_what_is_no_image_is_rejected(tmp_path):
    (tmp_path / "a.jpg").write_text("not an image")
    assert pack("images", tmp_path / "a.jpg").reason.startswith("a.jpg: FFmpeg cannot decode it: ")


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_a_picture_of_more_than_8_bits_is_rejected_not_clipped(tmp_path, mode):
    pixels = np.full((16, 16), 1000, {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])
    Image.fromarray(pixels).save(tmp_path / "a.tiff")
    reason = f"a.tiff: a picture of Pillow's mode {mode}, expected 8 bits a channel: convert it"
    assert pack("images", tmp_path / "a.tiff").reason == reason


def write_flow_of(directory, picture):
    for axis in "xy":
        picture.save(directory / f"{axis}_00001.png")


@pytest.mark.parametrize("mode", ["RGB", "LA", "RGBA", "I;16"])
def test_flow_that_is_not_grey_is_rejected(tmp_path, mode):
    coloured = Image.new("RGB", (32, 32), (80, 80, 83))
    write_flow_of(tmp_path, coloured if mode == "RGB" else Image.new(mode, (32, 32)))
    expected = f"x_00001.png: a picture of Pillow's mode {mode}, expected one grey channel of 8 bits (L)"
    assert pack("flow", tmp_path, format_options=PNG_FLOW).reason == expected


def test_flow_with_a_palette_is_taken_where_it_is_grey(tmp_path):
    picture = Image.new("P", (32, 32), 1)
    picture.putpalette([0, 0, 0, 77, 77, 77])
    write_flow_of(tmp_path, picture)
    (frame,) = sample_of(pack("flow", tmp_path, format_options=PNG_FLOW, quality=100)).decode([0])
    assert (frame == 77).all()
    write_flow_of(tmp_path, Image.new("1", (32, 32), 1))
    (frame,) = sample_of(pack("flow", tmp_path, format_options=PNG_FLOW, quality=100)).decode([0])
    assert (frame == 255).all()
    write_flow_of(tmp_path, Image.new("RGB", (32, 32), (77, 77, 77)))  # as some tools write grey
    (frame,) = sample_of(pack("flow", tmp_path, format_options=PNG_FLOW, quality=100)).decode([0])
    assert (frame == 77).all()
    picture.putpalette([0, 0, 0, 77, 77, 80])
    write_flow_of(tmp_path, picture)
    assert "mode P, expected one grey" in pack("flow", tmp_path, format_options=PNG_FLOW).reason


def test_flow_that_is_no_picture_is_rejected_in_our_words(tmp_path):
    (tmp_path / "x_00001.jpg").write_text("not an image")
    reason = "x_00001.jpg: cannot be decoded: not a picture of a format that Pillow knows"
    assert pack("flow", tmp_path).reason == reason


def test_a_picture_on_which_pillow_stumbles_is_named(tmp_path, monkeypatch):
    def stumble(picture):
        raise struct.error("unpack requires a buffer of 2 bytes")

    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    monkeypatch.setattr("shards.pictures.ImageOps.exif_transpose", stumble)
    reason = "a.png: cannot be decoded: unpack requires a buffer of 2 bytes"
    assert pack("images", tmp_path / "a.png").reason == reason


@pytest.mark.parametrize("codec", ["mjpeg", "h264"])
def test_parts_lie_one_after_another(tmp_path, codec):
    write_numbered_parts(tmp_path, [5, 9, 3])
    packed = pack("parts", tmp_path, count=3, positive=(2, 1), codec=codec)
    sample = sample_of(packed)
    assert numbers_in(packed) == list(range(17))
    assert sample.parts.tolist() == [[5, 9, 1], [14, 3, 1], [0, 5, 0]] and sample.parts.dtype == np.int32
    assert list(packed.members)[:3] == ["meta.npy", "frames.npy", "parts.npy"]
    assert sample.info["fps"] == 25


def test_every_part_begins_the_stride_anew(tmp_path):
    write_numbered_parts(tmp_path, [5, 9, 3])
    packed = pack("parts", tmp_path, count=3, positive=(0,), frame_stride=4)
    assert numbers_in(packed) == [0, 4, 5, 9, 13, 14]
    assert sample_of(packed).parts.tolist() == [[0, 2, 1], [2, 3, 0], [5, 1, 0]]


def test_parts_have_the_size_of_the_first(tmp_path):
    write_numbered_parts(tmp_path, [2, 2])
    write_numbered_video(tmp_path / "part_1.mp4", 2, (120, 60), first_number=2)
    packed = pack("parts", tmp_path, count=2, positive=(0,), size="width32")
    assert (packed.width, packed.height) == (32, 24) and numbers_in(packed) == [0, 1, 2, 3]


def test_a_missing_or_damaged_part_rejects_the_video(tmp_path):
    write_numbered_parts(tmp_path, [2, 2])
    missing = pack("parts", tmp_path, count=3, positive=(0,))
    assert missing.reason == "part_2.mp4: FFmpeg cannot decode it: No such file or directory"
    (tmp_path / "part_1.mp4").write_text("not a video")
    damaged = pack("parts", tmp_path, count=2, positive=(0,))
    assert isinstance(damaged, Rejected) and damaged.reason.startswith("part_1.mp4: FFmpeg cannot decode it")


@pytest.mark.parametrize("kind", ["flow", "images"])
def test_h264_is_for_moving_pictures_in_colour(kind):
    with pytest.raises(
        ValueError, match=f"--codec h264: not for --source {kind}: H.264 packs moving pictures"
    ):
        EncodingOptions(source_format=build_source_format(kind), codec="h264")

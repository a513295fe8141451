import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from video_factory import numbered_frame, read_number

from shards import jpeg
from shards.stream import VideoError

SIZES = [(64, 48), (35, 27), (16, 8), (17, 9), (340, 256)]


def noisy_frames(count, size, seed=0):
    """Frames with strong contrast everywhere, seams included."""
    width, height = size
    return list(np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8))


def decode_one(stream, index):
    """The picture at `index` of the elementary stream, decoded alone."""
    starts = [0, *(stream.units[:-1].sum(axis=1) + 2)]
    end = stream.units[index].sum() + 2
    picture = Image.open(io.BytesIO(stream.data[starts[index] : end]))
    return np.asarray(picture)


@pytest.mark.parametrize(("subsampling", "mcu"), [("420", (16, 16)), ("422", (16, 8)), ("444", (8, 8))])
def test_header_gives_size_and_mcu(subsampling, mcu):
    stream = jpeg.encode_pictures(noisy_frames(1, (35, 27)), quality=85, subsampling=subsampling)
    header = jpeg.parse_header(stream.data)
    assert (header.width, header.height) == (35, stream.padded_height)
    assert (header.mcu_width, header.mcu_height) == mcu
    assert stream.padded_height == 32 and stream.height == 27
    assert jpeg.rows_per_mcu(85, subsampling) == mcu[1]


def test_mcu_of_a_grey_picture_is_one_block():
    target = io.BytesIO()
    Image.new("L", (20, 10)).save(target, "JPEG")
    plain = target.getvalue()
    start = jpeg.parse_header(plain).height_offset
    factors = start + 6  # height, width, one component: its id, its sampling factors
    assert plain[factors] == 0x11
    for picture in (plain, plain[:factors] + b"\x22" + plain[factors + 1 :]):
        header = jpeg.parse_header(picture)
        assert (header.mcu_width, header.mcu_height, header.num_mcus) == (8, 8, 6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("subsampling", ["422", "444"])
def test_stitched_pictures_equal_single_ones_exactly(subsampling, size):
    stream = jpeg.encode_pictures(noisy_frames(19, size), quality=85, subsampling=subsampling)
    stitched = jpeg.decode_pictures(stream, range(19))  # 18 restarts: the marker's number wraps twice
    for i in range(19):
        np.testing.assert_array_equal(stitched[i], decode_one(stream, i)[: stream.height])


def test_seams_of_420_differ_in_the_outer_rows_only():
    stream = jpeg.encode_pictures(noisy_frames(5, (64, 48)), quality=85, subsampling="420")
    stitched = jpeg.decode_pictures(stream, range(5))
    for i in range(5):
        np.testing.assert_array_equal(stitched[i, 1:-1], decode_one(stream, i)[1:-1])


def test_any_frames_in_any_order():
    frames = [numbered_frame(i) for i in range(30)]
    stream = jpeg.encode_pictures(frames, quality=85, subsampling="422")
    wanted = [29, 0, 0, 13, 7, 7, 28]
    assert [read_number(frame) for frame in jpeg.decode_pictures(stream, wanted)] == wanted


def test_padding_repeats_the_last_row():
    stream = jpeg.encode_pictures(noisy_frames(1, (32, 27)), quality=100, subsampling="444")
    padded = decode_one(stream, 0).astype(int)
    assert padded.shape == (32, 32, 3)
    assert abs(padded[27:] - padded[26]).max() <= 8


def test_stored_pictures_have_no_restart_interval_and_the_head_has_one_per_picture():
    stream = jpeg.encode_pictures(noisy_frames(3, (35, 27)), quality=85, subsampling="422")
    assert b"\xff\xdd" not in stream.data[: stream.units[0, 0]]
    interval = stream.head.index(b"\xff\xdd\x00\x04") + 4
    assert int.from_bytes(stream.head[interval : interval + 2], "big") == 3 * 4  # MCUs of 16 x 8 in 35 x 32
    height = int.from_bytes(stream.head[stream.height_offset : stream.height_offset + 2], "big")
    assert height == stream.padded_height


def test_head_with_one_scan_is_a_valid_picture():
    stream = jpeg.encode_pictures(noisy_frames(2, (64, 48)), quality=85, subsampling="422")
    start, length = stream.units[1]
    picture = stream.head + stream.data[start : start + length] + b"\xff\xd9"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture))), decode_one(stream, 1))


def test_colours_do_not_shift():
    frames = [numbered_frame(i, (340, 256)) for i in range(4)]
    stream = jpeg.encode_pictures(frames, quality=85, subsampling="422")
    shift = (jpeg.decode_pictures(stream, range(4)).astype(float) - np.stack(frames)).mean(axis=(0, 1, 2))
    assert abs(shift).max() < 0.2


def test_what_is_not_a_jpeg_picture_is_named():
    stream = jpeg.encode_pictures(noisy_frames(1, (16, 16)), quality=85, subsampling="422")
    with pytest.raises(ValueError, match="starts with 8950, expected ffd8"):
        jpeg.parse_header(b"\x89PNG")
    with pytest.raises(ValueError, match="it is cut off"):
        jpeg.split_picture(stream.data[:-2])
    with pytest.raises(ValueError, match="ends before the first scan"):
        jpeg.parse_header(stream.data[:100])
    with pytest.raises(ValueError, match="expected a marker"):
        jpeg.parse_header(stream.data[:2] + b"abcd")
    progressive = io.BytesIO()
    Image.new("RGB", (16, 16)).save(progressive, "JPEG", progressive=True)
    with pytest.raises(ValueError, match="only baseline pictures"):
        jpeg.parse_header(progressive.getvalue())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: body[:3], "a frame segment of 3 bytes"),
        (lambda body: body[:14], "a frame segment of 14 bytes"),
        (lambda body: body[:5] + b"\0" + body[6:], "a frame segment of 15 bytes"),  # of no components
        (lambda body: body[:1] + bytes(2) + body[3:], "without rows or columns"),
        (lambda body: body.replace(b"\x11", b"\x10"), "sampling factors of 0"),
    ],
)
def test_a_damaged_frame_header_is_named(change, message):
    picture = jpeg.encode_pictures(noisy_frames(1, (16, 16)), quality=85, subsampling="444").data
    start = picture.index(b"\xff\xc0")
    body = change(picture[start + 4 : start + 19])
    damaged = picture[: start + 2] + (2 + len(body)).to_bytes(2, "big") + body + picture[start + 19 :]
    with pytest.raises(ValueError, match=f"broken JPEG header: .*{message}"):
        jpeg.parse_header(damaged)


def test_stack_heights_are_limited():
    with pytest.raises(ValueError, match="a stitched one has 1 to 65500 rows"):
        jpeg.stitch(b"", 0, 256, [b""] * 256)
    with pytest.raises(ValueError, match="0 pictures"):
        jpeg.stitch(b"", 0, 256, [])


def test_frames_too_large_for_a_restart_interval_are_refused():
    frame = np.zeros((2160, 3840, 3), np.uint8)
    with pytest.raises(VideoError, match=r"frames of 3840x2160 have 129600 JPEG blocks.*--size"):
        jpeg.encode_pictures([frame], quality=85, subsampling="444")
    jpeg.encode_pictures([frame], quality=85, subsampling="422")


def test_frames_too_wide_for_jpeg_are_refused():
    with pytest.raises(VideoError, match="sides of at most 65500 pixels"):
        jpeg.encode_pictures([np.zeros((8, 65_504, 3), np.uint8)], quality=85, subsampling="422")


def test_a_stream_that_cannot_be_decoded_is_an_error():
    stream = jpeg.encode_pictures(noisy_frames(3, (64, 48)), quality=85, subsampling="422")
    with pytest.raises(VideoError, match=r"cannot be decoded: their header is damaged$"):
        jpeg.decode_pictures(replace(stream, head=b"no header at all"), [0])
    with pytest.raises(VideoError, match="decode to"):
        jpeg.decode_pictures(replace(stream, width=60), [0])

import pytest

from shards.size import parse_size


@pytest.mark.parametrize(
    ("rule", "source", "stored"),
    [
        ("source", (35, 27), (35, 27)),
        ("340x256", (1280, 720), (340, 256)),
        ("short256", (1280, 720), (455, 256)),  # 455.11
        ("short256", (720, 1280), (256, 455)),
        ("short256", (340, 256), (340, 256)),
        ("short256", (426, 240), (454, 256)),  # 454.4
        ("short320", (640, 360), (569, 320)),  # 568.9
        ("short100", (101, 67), (151, 100)),  # 150.7
        ("height240", (1280, 720), (427, 240)),  # 426.7
        ("height240", (480, 640), (180, 240)),
        ("width320", (1280, 720), (320, 180)),
        ("short8", (4000, 10), (3200, 8)),
    ],
)
def test_stored_size_rounds_like_the_reference(rule, source, stored):
    assert parse_size(rule).apply(*source) == stored


@pytest.mark.parametrize("text", ["", "256", "short", "340x", "x256", "340x256x3", "short-256", "SHORT256"])
def test_unknown_size_lists_the_forms(text):
    with pytest.raises(ValueError, match="expected one of the forms source, 340x256, short256"):
        parse_size(text)


@pytest.mark.parametrize("text", ["7x256", "256x0", "short20000"])
def test_size_out_of_range_is_refused(text):
    with pytest.raises(ValueError, match="a side has 8 to 16384 pixels"):
        parse_size(text)

import pytest

from shards.wording import counted


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 videos"), (1, "1 video"), (2, "2 videos"), (21, "21 videos")]
)
def test_one_is_singular(number, text):
    assert counted(number, "video") == text

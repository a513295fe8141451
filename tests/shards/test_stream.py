import numpy as np
import pytest

from shards.stream import VideoError, pad_frame, unit_table


def test_unit_table_from_gaps_and_lengths():
    table = unit_table([(10, 5), (12, 6), (0, 1)])
    assert table.dtype == np.int32 and table.tolist() == [[10, 5], [27, 6], [33, 1]]


def test_a_stream_beyond_int32_is_refused():
    unit_table([(0, 2**30), (0, 2**30 - 1)])
    with pytest.raises(
        VideoError, match=r"takes 2.0 GiB and 2 GiB is the most: pack smaller frames \(--size\)"
    ):
        unit_table([(0, 2**30), (0, 2**30)])


def test_padding_repeats_the_edge():
    frame = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    padded = pad_frame(frame, 4, 5)
    assert padded.shape == (4, 5, 3)
    np.testing.assert_array_equal(padded[:2, :3], frame)
    np.testing.assert_array_equal(padded[2:, :3], np.stack([frame[1]] * 2))
    np.testing.assert_array_equal(padded[:, 3:], padded[:, 2:3].repeat(2, axis=1))

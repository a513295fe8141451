import numpy as np
import pytest

from dali_pipes.fractions import hashed_fractions, scaled_ints


@pytest.mark.parametrize("below", [1, 2, 7, 100])
def test_scaled_ints_reach_every_value_below_their_bound_alike_and_no_other(below):
    drawn = scaled_ints(np.random.default_rng(0).random(3000 * below), below)
    counts = np.bincount(drawn)
    assert len(counts) == below
    assert np.abs(counts - 3000).max() < 5 * np.sqrt(3000)


def test_scaled_ints_stay_below_their_bound_even_where_a_fraction_is_rounded_to_one():
    assert scaled_ints(np.array([0.0, 0.5, 1.0]), np.array([3, 3, 3])).tolist() == [0, 1, 2]


def test_hashed_fractions_are_uniform_and_depend_on_the_number_alone():
    numbers = np.arange(4000)
    out = hashed_fractions(numbers, 3)
    assert (hashed_fractions(numbers[::-7], 3) == out[::-7]).all()
    assert ((out >= 0) & (out < 1)).all()
    counts = np.stack([np.histogram(out[:, place], bins=10, range=(0, 1))[0] for place in range(3)])
    assert np.abs(counts - 400).max() < 5 * np.sqrt(400)
    assert np.abs(np.corrcoef(out.T) - np.eye(3)).max() < 0.06
    assert abs(np.corrcoef(out[1:, 0], out[:-1, 0])[0, 1]) < 0.06


def test_hashed_fractions_are_the_same_for_ever():
    assert hashed_fractions(np.array([0, 7]), 2).tolist() == [
        [0.0, 0.5733975800685585],
        [0.3903075489215553, 0.1921327041927725],
    ]

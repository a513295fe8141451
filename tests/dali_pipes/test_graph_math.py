import math

import numpy as np
import pytest
from graph_runner import run_graph

from dali_pipes import graph_math


@pytest.mark.parametrize("value", [0.66, 1 / 3, 0.1, 0.875, math.log(4 / 3), 123456789.123456789, 0.0, -0.7])
def test_float64_keeps_all_bits_of_a_number(value):
    (result,) = run_graph([1], lambda node: graph_math.float64(value) * graph_math.float64(node))
    assert result == value


def test_floor_int_is_exact_where_float32_is_not():
    values = [16_777_217.0, 0.999999999, 7.0, -0.5, 2.9999999999]
    out = run_graph(np.array(values), graph_math.floor_int)
    assert out.tolist() == [math.floor(value) for value in values]


def test_round_half_even_equals_numpy():
    values = np.concatenate([np.arange(0, 20, 0.25), np.random.default_rng(0).uniform(0, 500, 200)])
    out = run_graph(values, graph_math.round_half_even_int)
    assert out.tolist() == np.around(values).astype(int).tolist()


def test_random_int_reaches_every_value_below_its_bound_and_no_other():
    bounds = np.repeat(np.array([1, 2, 7, 100], np.int32), 3000)
    out = run_graph(bounds, graph_math.random_int)
    for bound in (1, 2, 7, 100):
        drawn = out[bounds == bound]
        assert set(drawn.tolist()) == set(range(bound))
        assert abs(drawn.mean() - (bound - 1) / 2) < 5 * bound / math.sqrt(12 * 3000)


def test_hashed_fractions_are_uniform_and_depend_on_the_number_alone():
    numbers = np.arange(4000, dtype=np.int32)
    out = run_graph(numbers, lambda node: graph_math.hashed_fractions(node, 3))
    again = run_graph(numbers[::-7], lambda node: graph_math.hashed_fractions(node, 3), seed=99)
    assert (again == out[::-7]).all()
    assert ((out >= 0) & (out < 1)).all()
    counts = np.stack([np.histogram(out[:, place], bins=10, range=(0, 1))[0] for place in range(3)])
    assert np.abs(counts - 400).max() < 5 * np.sqrt(400)
    assert np.abs(np.corrcoef(out.T) - np.eye(3)).max() < 0.06
    assert abs(np.corrcoef(out[1:, 0], out[:-1, 0])[0, 1]) < 0.06


def test_select_takes_yes_where_the_condition_holds():
    out = run_graph(
        np.arange(5, dtype=np.int32), lambda node: graph_math.select(node > 2, node * 10, node - 100)
    )
    assert out.tolist() == [-100, -99, -98, 30, 40]

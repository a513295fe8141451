"""Exact arithmetic on DALI graph nodes.

DALI computes in float32 unless told otherwise, has no float64 constants and rounds when it casts to
integers.  Which frame and which window come out must not depend on that, so every real-valued step goes
through these helpers.
"""

from typing import Any

import numpy as np
from nvidia.dali import fn, math, types
from nvidia.dali.data_node import DataNode

_DTYPES: Any = types  # DALI fills this module in at run time, so that type checkers see none of its constants
INT32, UINT32, FLOAT64 = _DTYPES.INT32, _DTYPES.UINT32, _DTYPES.FLOAT64
UINT8, BOOL, RGB, GRAY = _DTYPES.UINT8, _DTYPES.BOOL, _DTYPES.RGB, _DTYPES.GRAY
FLOAT, LINEAR = _DTYPES.FLOAT, _DTYPES.INTERP_LINEAR


def constant(values: np.ndarray) -> DataNode:
    """A node with these values in every sample; integers and booleans keep their type, floats are float32."""
    node: Any = types.Constant(values, device="cpu")
    return node


def int32(value: DataNode) -> DataNode:
    """A node as INT32; BOOL becomes 0 and 1, real values are rounded."""
    return fn.cast(value, dtype=INT32)


def stack(*nodes: DataNode | int) -> DataNode:
    """Nodes of one shape (numbers among them) along a new first axis."""
    node: Any = fn.stack(*nodes)
    return node


def total(values: DataNode) -> DataNode:
    """Sum of all elements of an INT32 node, INT32."""
    return fn.reductions.sum(values, dtype=INT32)


def float64(value: DataNode | float) -> DataNode:
    """A node, or a Python number with all its 53 bits, as FLOAT64.

    A constant node holds float32 at most, so a number is handed over as a sum of three of them.
    """
    if isinstance(value, DataNode):
        return fn.cast(value, dtype=FLOAT64)
    high = np.float32(value)
    middle = np.float32(value - float(high))
    low = np.float32(value - float(high) - float(middle))
    parts = [float64(constant(np.array(part))) for part in (high, middle, low) if part or part is high]
    return sum(parts[1:], start=parts[0])


def float64_range(stop: int) -> DataNode:
    """(stop,) FLOAT64: 0, 1, ..., stop - 1."""
    return float64(constant(np.arange(stop, dtype=np.float32)))


def floor_int(value: DataNode) -> DataNode:
    """Largest integer not above `value`, as INT32."""
    return int32(math.floor(value))


def round_half_even_int(value: DataNode) -> DataNode:
    """Nearest integer of a non-negative FLOAT64 node, halves to the even one (as NumPy rounds), as INT32."""
    whole = math.floor(value)
    rest = value - whole
    odd = whole - math.floor(whole / 2.0) * 2.0
    up = float64(rest > 0.5) + float64(rest == 0.5) * odd
    return int32(whole + up)


def select(condition: DataNode, yes: DataNode | int, no: DataNode | int) -> DataNode:
    """`yes` where `condition` (BOOL) holds, else `no`; all three broadcast.  INT32 in, INT32 out."""
    chosen = int32(condition)
    return chosen * yes + (1 - chosen) * no


def random_fractions(length: int) -> DataNode:
    """(length,) FLOAT64, uniform in [0, 1), drawn from the pipeline's seed."""
    return float64(fn.random.uniform(range=[0.0, 1.0], shape=[length]))


def hashed_fractions(number: DataNode, length: int) -> DataNode:
    """(length,) FLOAT64, uniform in [0, 1), a function of `number` alone: for draws that no rank may change.

    The mixing steps are those of MurmurHash3's finalizer.
    """
    places = constant(np.arange(length, dtype=np.uint32) * np.uint32(0x9E3779B9))
    bits = fn.cast(number, dtype=UINT32) * _uint32(0x85EBCA6B) + places
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits // _uint32(2**shift))) * _uint32(factor)
    bits = bits ^ (bits // _uint32(2**16))
    return float64(bits) / float64(2.0**32)


def scaled_int(fraction: DataNode, below: DataNode | int) -> DataNode:
    """The INT32 in [0, below) at `fraction` of that range; uniform where `fraction` is.  `below` >= 1."""
    return math.min(floor_int(fraction * below), below - 1)


def random_int(below: DataNode | int) -> DataNode:
    """A uniform INT32 in [0, below).  `below` >= 1."""
    return scaled_int(float64(fn.random.uniform(range=[0.0, 1.0])), below)


def _uint32(value: int) -> DataNode:
    return constant(np.array(value, np.uint32))

"""Uniform draws, and whole numbers made of them."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def scaled_ints(fractions: Floats, below: Ints | int) -> Ints:
    """The integer in [0, below) at each fraction of that range; uniform where `fractions`, in [0, 1], are."""
    return np.minimum((fractions * below).astype(np.int64), below - 1)


def hashed_fractions(numbers: Ints, length: int) -> Floats:
    """(N, length), uniform in [0, 1), a function of each of the N numbers alone: draws that neither the rank
    nor the run can change.

    The mixing steps are those of MurmurHash3's finalizer.
    """
    places = np.arange(length, dtype=np.uint32) * np.uint32(0x9E3779B9)
    bits = numbers.astype(np.uint32)[:, None] * np.uint32(0x85EBCA6B) + places
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
    return (bits ^ (bits >> np.uint32(16))) / 2.0**32

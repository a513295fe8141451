"""DALI's constants, and nodes made of them, with the types that its own stubs lack."""

from typing import Any

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali.data_node import DataNode

_DTYPES: Any = types  # DALI fills this module in at run time, so that type checkers see none of its constants
INT32, UINT8, FLOAT = _DTYPES.INT32, _DTYPES.UINT8, _DTYPES.FLOAT
RGB, GRAY, LINEAR = _DTYPES.RGB, _DTYPES.GRAY, _DTYPES.INTERP_LINEAR


def constant(values: np.ndarray) -> DataNode:
    """A node with these values in every sample; integers keep their type, floats are float32."""
    node: Any = types.Constant(values, device="cpu")
    return node


def int32(value: DataNode) -> DataNode:
    """A node as INT32; BOOL becomes 0 and 1."""
    return fn.cast(value, dtype=INT32)

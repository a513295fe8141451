"""Runs a piece of a DALI graph on given numbers."""

from collections.abc import Callable, Sequence

import numpy as np
from nvidia.dali import fn, pipeline_def
from nvidia.dali.data_node import DataNode


def run_graph(
    values: Sequence | np.ndarray, function: Callable[[DataNode], DataNode], *, seed: int = 3
) -> np.ndarray:
    """`function` of each value (a scalar or row; integers become int32): results stacked along axis 0."""
    rows = [np.asarray(value) for value in values]
    rows = [row.astype(np.int32) if row.dtype.kind == "i" else row for row in rows]

    @pipeline_def(batch_size=len(rows), num_threads=1, device_id=None, seed=seed, prefetch_queue_depth=1)
    def graph():
        return function(fn.external_source(source=lambda: rows, batch=True))

    pipeline = graph()
    pipeline.build()
    (output,) = pipeline.run()
    return np.stack([np.array(row) for row in output])

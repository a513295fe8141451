"""What the graph calls before decoding: it decides about a batch and reads the units that are needed.

One call a batch, in NumPy.  As operators of the graph, of which each has its price for each sample, the same
arithmetic took three quarters of a millisecond a video; here it takes a fortieth.  docs/log.md has the
figures.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from dali_pipes.planning import META, Plan, plan_testing, plan_training
from dali_pipes.spec import PipelineSpec
from dali_pipes.units import Place, UnitReader
from shards.manifest import ShardError
from tsn.config import TrainDataConfig


class Front:
    """A function of the members of a batch.

    Attributes:
        inputs: names of its arguments in their order, each a list of arrays, one a sample: members; "source",
            where DALI read `json`; "fractions", the random numbers of training.
        outputs: names of what it returns in their order, each such a list.
    """

    def __init__(self, spec: PipelineSpec, units: UnitReader):
        self._spec = spec
        self._units = units
        self.inputs = ["source", "json", "meta.npy", "frames.npy", "head", "label.npy"]
        self.inputs += ["parts.npy"] * spec.reads_parts + ["fractions"] * spec.training
        self.outputs = ["labels", "sample_ids", "frame_indices", "windows", "flips"]
        self.outputs += (
            ["sizes", "boxes"] if spec.device == "cpu" else ["visible", "scaled", "corners", "extents"]
        )
        self.outputs += ["column", "num_columns"] * spec.decodes_columns
        self.outputs += ["flow_factors"] * spec.scales_flow
        if spec.manifest.codec == "h264":
            self.outputs += ["frames"]
        for number in range(len(spec.stacks) if spec.manifest.codec == "mjpeg" else 0):
            self.outputs += [f"picture_{number}", f"shape_{number}"]

    def __call__(self, *arguments: list[np.ndarray]) -> tuple[list[np.ndarray], ...]:
        with self._units.keeping_failure():
            return self._prepare(dict(zip(self.inputs, arguments, strict=True)))

    def _prepare(self, members: dict[str, list[np.ndarray]]) -> tuple[list[np.ndarray], ...]:
        places = self._units.locate(members["source"], members["json"])
        meta = np.stack(members["meta.npy"]).astype(np.int64)
        plan = self._plan(members, meta)
        _check_windows(plan, places)
        columns = self._decoded_columns(plan)
        found: dict[str, Any] = {
            "labels": self._labels(members["label.npy"], places),
            "sample_ids": _scalars(meta[:, META["sample_id"]].astype(np.int32)),
            "frame_indices": plan.frame_indices.astype(np.int32),
            "windows": plan.windows.astype(np.int32),
            "flips": np.ascontiguousarray(plan.flips),
            **self._geometry(plan, columns),
            **self._read(members, meta, places, plan.frame_indices, columns),
        }
        return tuple(list(found[name]) for name in self.outputs)

    def _plan(self, members: dict[str, list[np.ndarray]], meta: np.ndarray) -> Plan:
        data = self._spec.data
        if isinstance(data, TrainDataConfig):
            fractions = np.stack(members["fractions"]).astype(np.float64)
            return plan_training(data, meta, fractions, members.get("parts.npy", ()))
        return plan_testing(data, meta)

    def _labels(self, labels: list[np.ndarray], places: Sequence[Place]) -> Any:
        """() int64 each, or (num_classes,) uint8 with a one for each label."""
        manifest = self._spec.manifest
        for own, place in zip(labels, places, strict=True):
            if not own.size or not 0 <= own.min() <= own.max() < manifest.num_classes:
                raise ShardError(
                    f"{place}: label.npy holds {own.tolist()}, and there are {manifest.num_classes} classes; "
                    "check with scripts/verify_shards.py"
                )
        if not manifest.multi_label:
            return _scalars(np.array([own[0] for own in labels], np.int64))
        rows = np.zeros((len(labels), manifest.num_classes), np.uint8)
        for row, own in zip(rows, labels, strict=True):
            row[own] = 1
        return rows

    def _decoded_columns(self, plan: Plan) -> np.ndarray:
        """(N, 2), the first column of each video's pictures that is decoded, and how many are."""
        first, end = np.zeros_like(plan.sizes[:, 0]), plan.sizes[:, 0]
        if self._spec.decodes_columns:
            first, end = plan.windows[..., 0].min(axis=1), plan.windows[..., 2].max(axis=1)
        return np.stack([first, end - first], axis=1)

    def _geometry(self, plan: Plan, columns: np.ndarray) -> dict[str, np.ndarray]:
        """For `CpuCropper`: `sizes` and `boxes` in the decoded columns.  For the graph: pairs of height
        and width, as DALI wants them."""
        crops = plan.windows[..., 2:] - plan.windows[..., :2]  # (N, num_crops, 2)
        found = {}
        if self._spec.scales_flow:  # all windows of a video have one size
            factors = plan.scaled_sizes / plan.sizes * self._spec.data.crop_size / crops[:, 0]
            found["flow_factors"] = factors.astype(np.float32)
        if self._spec.device == "gpu":
            return found | {
                "visible": _height_width(plan.sizes, np.int32),
                "scaled": _height_width(plan.scaled_sizes, np.float32),
                "corners": _height_width(plan.windows[..., :2], np.int32),
                "extents": _height_width(crops, np.int32),
            }
        sizes = np.concatenate([plan.sizes, plan.scaled_sizes], axis=1)
        if self._spec.decodes_columns:
            sizes[:, [0, 2]] = columns[:, 1:]
        return found | {
            "sizes": sizes.astype(np.int32),
            "boxes": (plan.windows - columns[:, None, :1] * [1, 0, 1, 0]).astype(np.int32),
            "column": columns[:, :1].astype(np.int32),
            "num_columns": columns[:, 1:].astype(np.int32),
        }

    def _read(
        self,
        members: dict[str, list[np.ndarray]],
        meta: np.ndarray,
        places: Sequence[Place],
        frame_indices: np.ndarray,
        columns: np.ndarray,
    ) -> dict[str, Any]:
        """h264: `frames`, decoded.  mjpeg: stitched pictures, and the shapes to take them apart."""
        spec = self._spec
        tables = members["frames.npy"]
        if spec.manifest.codec == "h264":
            return {"frames": self._units.decoded(places, meta, tables, frame_indices)}
        pictures, channels = frame_indices, 3
        if spec.is_flow:
            pictures, channels = np.stack([2 * pictures, 2 * pictures + 1], axis=2).reshape(len(meta), -1), 1
        found: dict[str, Any] = {}
        for number, part in enumerate(spec.stacks):
            found[f"picture_{number}"] = self._units.stitched(
                places, meta, tables, members["head"], pictures[:, part]
            )
            count, rows = np.full(len(meta), part.stop - part.start), meta[:, META["padded_height"]]
            shapes = np.stack([count, rows, columns[:, 1], np.full(len(meta), channels)], axis=1)
            found[f"shape_{number}"] = shapes.astype(np.int32)
        return found


def _check_windows(plan: Plan, places: Sequence[Place]) -> None:
    """A window that leaves its frame would show the codec's padding, or nothing."""
    corners, ends, room = plan.windows[..., :2], plan.windows[..., 2:], plan.scaled_sizes[:, None]
    outside = np.any((corners < 0) | (corners >= ends) | (ends > room), axis=(1, 2))
    for sample in np.flatnonzero(outside)[:1]:
        x1, y1, x2, y2 = plan.windows[sample, 0]
        width, height = plan.scaled_sizes[sample]
        raise ShardError(
            f"{places[sample]}: its window x {x1}-{x2}, y {y1}-{y2} does not lie inside a frame of {width} x "
            f"{height}: choose a smaller crop_size, or scale frames to a larger size"
        )


def _scalars(values: np.ndarray) -> list[np.ndarray]:
    return [np.array(value) for value in values]


def _height_width(pairs: np.ndarray, dtype: type) -> np.ndarray:
    """Pairs (x, y), or (width, height), the other way round."""
    return np.ascontiguousarray(pairs[..., ::-1], dtype)

"""The DALI graph, from tar to crops: sample first, read and decode after.

reader (small members) -> frame indices, windows, flips -> units of those frames -> decoding -> crops
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nvidia.dali import fn
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline, pipeline_def

from dali_pipes import sampling, windows
from dali_pipes.crops import CpuCropper, color_jitter, graph_crops, scaled_flow
from dali_pipes.graph_math import (
    BOOL,
    GRAY,
    RGB,
    UINT8,
    constant,
    float64,
    hashed_fractions,
    random_fractions,
    stack,
)
from dali_pipes.partition import Partition
from dali_pipes.units import META, UnitReader
from shards.manifest import Manifest
from tsn.config import EvalDataConfig, TrainDataConfig

OUTPUTS = ("clips", "labels", "sample_ids", "frame_indices", "windows", "flips")
READER = "reader"

_MAX_ROWS = {"cpu": 65_500, "gpu": 16_384}
"""Rows of the tallest picture that libjpeg-turbo, and NVIDIA's JPEG engines, decode."""


@dataclass(frozen=True)
class PipelineSpec:
    """Everything that a pipeline is built from.

    Attributes:
        directory, manifest: the shards.
        data: training with a `TrainDataConfig` (random frames and windows, shuffled), testing with an
            `EvalDataConfig`.
        partition: which samples to read.
        seed: of the whole run, equal on all ranks.
        device: where frames are decoded and cropped, "cpu" or "gpu".
        device_id: the GPU that the batches are delivered on; None without one.
        num_threads, prefetch: DALI's threads, and batches ahead.
        scale_flow: displacements change with the size of their frame.
        hw_decoder_load: share of the pictures that the GPU's JPEG engines take, where it has some.
    """

    directory: Path
    manifest: Manifest
    data: TrainDataConfig | EvalDataConfig
    partition: Partition
    seed: int
    device: str
    device_id: int | None
    num_threads: int
    prefetch: int
    scale_flow: bool = False
    hw_decoder_load: float = 0.65  # DALI's own default

    @property
    def training(self) -> bool:
        return isinstance(self.data, TrainDataConfig)

    @property
    def is_flow(self) -> bool:
        return self.manifest.modality == "flow"

    @property
    def reads_parts(self) -> bool:
        return isinstance(self.data, TrainDataConfig) and self.data.parts != "whole"

    @property
    def pictures_per_frame(self) -> int:
        """A frame of flow is two grey pictures, x and y."""
        return 2 if self.is_flow else 1

    @property
    def num_crops(self) -> int:
        return self.data.num_crops if isinstance(self.data, EvalDataConfig) else 1

    @property
    def frames_per_video(self) -> int:
        """Frames that are decoded of each video, T."""
        return self.data.num_clips * self.data.clip_len

    @property
    def changes_size(self) -> bool:
        """Frames have to be scaled before they are cropped."""
        if self.data.frame_size is not None or self.data.short_side is None:
            return self.data.frame_size is not None
        return {self.manifest.min_short_side, self.manifest.max_short_side} != {self.data.short_side}


def build_pipeline(
    spec: PipelineSpec,
    units: UnitReader,
    cropper: CpuCropper,
    *,
    files: Sequence[tuple[Path, Path]],
    checkpoint: bytes | None = None,
) -> Pipeline:
    """A built pipeline with `OUTPUTS`, one sample an entry.

    Args:
        files: the tars to read, each with its index.
        checkpoint: of `Pipeline.checkpoint`, to go on where it was taken.

    Outputs, for a sample: clips (V, H, W, 3) uint8 (of flow: see `Batch`); labels () int64 or (num_classes,)
    uint8; sample_ids () int32; frame_indices (T,) int32; windows (num_crops, 4) int32; flips (num_crops,)
    bool.
    """
    pipeline = _graph(
        spec,
        units,
        cropper,
        files,
        batch_size=spec.data.batch_size,
        num_threads=spec.num_threads,
        device_id=spec.device_id,
        seed=spec.seed * 100_003 + spec.partition.rank,  # ranks must not draw the same frames and windows
        prefetch_queue_depth=spec.prefetch,
        enable_checkpointing=True,
        checkpoint=checkpoint,
    )
    pipeline.build()
    return pipeline


@pipeline_def
def _graph(spec: PipelineSpec, units: UnitReader, cropper: CpuCropper, files: Sequence[tuple[Path, Path]]):
    members = _read(spec, files)
    meta = members["meta.npy"]
    sample_id, width, height = (meta[META[name]] for name in ("sample_id", "width", "height"))
    frame_indices = _frame_indices(spec, members, sample_id)
    scaled_size = windows.scaled_size(
        width,
        height,
        short_side=spec.data.short_side,
        frame_size=spec.data.frame_size,
        keep_aspect=spec.data.keep_aspect,
    )
    boxes, flips = _windows_and_flips(spec, *scaled_size, sample_id)
    frames = _decode(spec, members, frame_indices, units)
    clips = _crop(spec, frames, (width, height), scaled_size, boxes, flips, cropper)
    labels = _labels(members["label.npy"], spec.manifest)
    if spec.device_id is not None:
        clips, labels = clips.gpu(), labels.gpu()
    return clips, labels, sample_id, frame_indices, boxes, flips


def _read(spec: PipelineSpec, files: Sequence[tuple[Path, Path]]) -> dict[str, DataNode]:
    """The small members of the next samples; "source" says in which tar and where `json` lies."""
    names = ["json", "meta.npy", "frames.npy", "head", "label.npy"] + ["parts.npy"] * spec.reads_parts
    shuffling = {}
    if isinstance(spec.data, TrainDataConfig):
        shuffling = {
            "random_shuffle": True,
            "initial_fill": spec.data.shuffle_buffer,
            "shuffle_after_epoch": True,
            "shuffle_after_epoch_seed": spec.seed,
        }
    members: Any = fn.readers.webdataset(
        paths=[str(tar) for tar, _ in files],
        index_paths=[str(index) for _, index in files],
        ext=names,
        missing_component_behavior="error",
        shard_id=spec.partition.rank,  # DALI's "shards" are parts of the whole, one for each rank
        num_shards=spec.partition.world_size,
        pad_last_batch=True,
        stick_to_shard=not spec.training,
        name=READER,
        **shuffling,
    )
    by_name: dict[str, Any] = dict(zip(names, members, strict=True))
    source: Any = fn.get_property(by_name["json"], key="source_info")
    arrays: dict[str, Any] = {
        name: fn.decoders.numpy(by_name[name]) for name in names if name.endswith(".npy")
    }
    return by_name | arrays | {"source": source}


def _frame_indices(spec: PipelineSpec, members: dict[str, DataNode], sample_id: DataNode) -> DataNode:
    """(T,) INT32, of the whole video or of one part of it."""
    if not spec.reads_parts:
        return _sample(spec, members["meta.npy"][META["num_frames"]], sample_id)
    only_positive = isinstance(spec.data, TrainDataConfig) and spec.data.parts == "positive"
    first, num_frames = sampling.choose_part(
        members["parts.npy"], random_fractions(1), only_positive=only_positive
    )
    return first + _sample(spec, num_frames, sample_id)


def _sample(spec: PipelineSpec, num_frames: DataNode, sample_id: DataNode) -> DataNode:
    """(T,) INT32; what is random in testing depends on the sample alone, so that no rank can change it."""
    data = spec.data
    clips: dict[str, Any] = {
        "num_segments": data.num_segments,
        "clip_len": data.clip_len,
        "frame_interval": data.frame_interval,
        "past_end": data.past_end,
    }
    if isinstance(data, TrainDataConfig):
        if data.sampling == "dense":
            return sampling.random_dense(
                num_frames, random_fractions(1), dense_range=data.dense_range, **clips
            )
        return sampling.random_segments(num_frames, random_fractions(data.num_segments), **clips)
    match data.sampling:
        case "segments":
            frames = sampling.middle_segments(num_frames, twice=data.twice, **clips)
        case "spread":
            frames = sampling.spread_segments(num_frames, twice=data.twice, **clips)
        case "dense":
            return sampling.all_dense(
                num_frames, dense_range=data.dense_range, num_positions=data.dense_positions, **clips
            )
        case "random_segments":
            fractions = hashed_fractions(sample_id, data.num_segments)
            return sampling.random_segments(num_frames, fractions, **clips)
    if data.twice:  # of a video that is too short for it all clips come once: shown twice they have one mean
        frames = fn.cat(frames, frames, axis=0)[: spec.frames_per_video]
    return frames


def _windows_and_flips(
    spec: PipelineSpec, width: DataNode, height: DataNode, sample_id: DataNode
) -> tuple[DataNode, DataNode]:
    data = spec.data
    if isinstance(data, EvalDataConfig):
        if data.random_crop:
            place = hashed_fractions(sample_id, 2)
            boxes = windows.placed_window(width, height, place, crop_size=data.crop_size)
        else:
            boxes = windows.test_windows(width, height, crop_size=data.crop_size, num_crops=data.num_crops)
        return boxes, constant(np.array(windows.test_flips(data.num_crops)))
    match data.crop:
        case "multi_scale":
            boxes = windows.multi_scale_window(
                width,
                height,
                crop_size=data.crop_size,
                scales=data.scales,
                max_scale_gap=data.max_scale_gap,
                num_fixed_crops=data.num_fixed_crops,
            )
        case "random_resized":
            boxes = windows.random_resized_window(
                width, height, area_range=data.area_range, aspect_range=data.aspect_range
            )
        case "center":
            boxes = windows.test_windows(width, height, crop_size=data.crop_size, num_crops=1)
    return boxes, fn.random.coin_flip(probability=data.flip, shape=[1], dtype=BOOL)


def _decode(
    spec: PipelineSpec, members: dict[str, DataNode], frame_indices: DataNode, units: UnitReader
) -> DataNode:
    """(T, padded_height, padded_width, 3) uint8, the sampled frames with the padding of their codec.

    Of flow, (2 T, padded_height, padded_width, 1): x and y of each frame.
    """
    meta = members["meta.npy"]
    located = (members["source"], members["json"], meta, members["frames.npy"])
    if spec.manifest.codec == "h264":
        frames: Any = fn.python_function(
            *located, frame_indices, function=units.decoded, batch_processing=True
        )
        frames = fn.reshape(frames, layout="FHWC")
        return frames.gpu() if spec.device == "gpu" else frames
    stacks: list[Any] = []
    drawn: Any = frame_indices
    if spec.is_flow:
        drawn = fn.reshape(fn.stack(2 * frame_indices, 2 * frame_indices + 1, axis=1), shape=[-1])
    for part in _stack_slices(spec):
        pictures: Any = fn.python_function(
            *located, members["head"], drawn[part], function=units.stitched, batch_processing=True
        )
        tall = fn.decoders.image(
            pictures,
            device="mixed" if spec.device == "gpu" else "cpu",
            output_type=GRAY if spec.is_flow else RGB,
            jpeg_fancy_upsampling=True,
            hw_decoder_load=spec.hw_decoder_load,
        )
        shape = stack(part.stop - part.start, meta[META["padded_height"]], meta[META["width"]], -1)
        stacks.append(fn.reshape(tall, shape=shape, layout="FHWC"))
    frames = stacks[0] if len(stacks) == 1 else fn.cat(*stacks, axis=0)
    return frames


def _stack_slices(spec: PipelineSpec) -> list[slice]:
    """Parts of the sampled pictures that fit into one stitched picture each."""
    num_pictures = spec.frames_per_video * spec.pictures_per_frame
    size = _MAX_ROWS[spec.device] // spec.manifest.max_padded_height
    return [slice(start, min(start + size, num_pictures)) for start in range(0, num_pictures, size)]


def _crop(
    spec: PipelineSpec,
    frames: DataNode,
    size: tuple[DataNode, DataNode],
    scaled_size: tuple[DataNode, DataNode],
    boxes: DataNode,
    flips: DataNode,
    cropper: CpuCropper,
) -> DataNode:
    """One video of `Batch.clips`: (V, H, W, 3), or of flow (V, 2 * clip_len, H, W)."""
    size_of_crop = spec.data.crop_size
    if spec.device == "cpu":
        sizes = stack(*size, *scaled_size)
        clips: Any = fn.python_function(frames, sizes, boxes, flips, function=cropper, batch_processing=True)
    else:
        frames = fn.slice(frames, start=[0, 0], shape=stack(size[1], size[0]), axis_names="HW")
        clips = graph_crops(
            frames,
            scaled_size if spec.changes_size else None,
            boxes,
            flips,
            num_crops=spec.num_crops,
            crop_size=size_of_crop,
            resize_windows=spec.training,
            invert_mirrored_x=spec.is_flow and spec.training,
        )
    if spec.is_flow:
        width, height = size_of_crop
        if spec.scale_flow:
            clips = scaled_flow(clips, _flow_factors(spec, size, scaled_size, boxes), crop_size=size_of_crop)
        planes: Any = fn.reshape(clips, shape=[-1, 2 * spec.data.clip_len, height, width], layout="")
        return planes
    if isinstance(spec.data, TrainDataConfig) and spec.data.color_jitter:
        return color_jitter(clips, spec.data.color_jitter)
    return clips


def _flow_factors(
    spec: PipelineSpec,
    size: tuple[DataNode, DataNode],
    scaled_size: tuple[DataNode, DataNode],
    boxes: DataNode,
) -> tuple[DataNode, DataNode]:
    """By what the width and the height of a displacement change from the stored frame to the crop, FLOAT64.

    All windows of a video have one size.
    """
    x_factor, y_factor = (
        float64(scaled_size[axis])
        / float64(size[axis])
        * float64(spec.data.crop_size[axis])
        / float64(boxes[0][axis + 2] - boxes[0][axis])
        for axis in range(2)
    )
    return x_factor, y_factor


def _labels(labels: DataNode, manifest: Manifest) -> DataNode:
    """() int64, or (num_classes,) uint8 with a one for each label."""
    if not manifest.multi_label:
        return labels[0]
    each = fn.one_hot(labels, num_classes=manifest.num_classes, dtype=UINT8)
    return fn.reductions.max(each, axes=[0])

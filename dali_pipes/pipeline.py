"""The DALI graph, from tar to crops: sample first, read and decode after.

reader (small members) -> front: frame indices, windows, flips, units of those frames -> decoding -> crops
"""

import os
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nvidia.dali import fn
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline, pipeline_def

from dali_pipes.crops import CpuCropper, color_jitter, graph_test_crops, graph_train_crop, scaled_flow
from dali_pipes.front import Front
from dali_pipes.nodes import GRAY, RGB
from dali_pipes.planning import num_fractions
from dali_pipes.spec import PipelineSpec
from dali_pipes.units import UnitReader
from shards.manifest import ShardError
from tsn.config import TrainDataConfig

OUTPUTS = ("clips", "labels", "sample_ids", "frame_indices", "windows", "flips")
READER = "reader"
SPARE_FILES = 256
"""For whatever else a process opens."""


def build_pipeline(
    spec: PipelineSpec,
    units: UnitReader,
    cropper: CpuCropper,
    *,
    files: Sequence[tuple[Path, Path]],
    number: int = 0,
    checkpoint: bytes | None = None,
) -> Pipeline:
    """A built pipeline with `OUTPUTS`, one sample an entry.

    Args:
        files: the tars to read, each with its index.
        number: of this pipeline among those of one seed, which must not draw the same.
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
        # Ranks, and pipelines one after the other, must not draw the same frames and windows.
        seed=(spec.seed * 100_003 + spec.partition.rank + number * 1_000_000_007) % 2**62,
        prefetch_queue_depth=spec.prefetch,
        enable_checkpointing=True,
        checkpoint=checkpoint,
    )
    _allow_open_files(len(files))
    pipeline.build()
    return pipeline


def _allow_open_files(num_files: int) -> None:
    """Make room for as many files more, which the reader keeps open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/proc/self/fd")) + num_files + SPARE_FILES
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise ShardError(
            f"{num_files} shards: this process may open {hard} files and needs {needed}; raise the limit "
            "(ulimit -Hn), or pack with more --samples-per-shard"
        )
    if soft != resource.RLIM_INFINITY and needed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@pipeline_def
def _graph(spec: PipelineSpec, units: UnitReader, cropper: CpuCropper, files: Sequence[tuple[Path, Path]]):
    members = _read(spec, files)
    if isinstance(spec.data, TrainDataConfig):
        members["fractions"] = fn.random.uniform(range=[0.0, 1.0], shape=[num_fractions(spec.data)])
    front = Front(spec, units)
    inputs = [members[name] for name in front.inputs]
    columns: Any = fn.python_function(
        *inputs, function=front, num_outputs=len(front.outputs), batch_processing=True
    )
    found = dict(zip(front.outputs, columns, strict=True))
    clips, labels = _crop(spec, _decode(spec, found), found, cropper), found["labels"]
    if spec.device_id is not None:
        clips, labels = clips.gpu(), labels.gpu()
    return clips, labels, *(found[name] for name in OUTPUTS[2:])


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
        # A mapped file ends the process by SIGBUS where it was cut off, and is read ahead without need.
        dont_use_mmap=True,
        tensor_init_bytes=4096,  # of each member in the shuffle buffer; the default is 1 MB
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


def _decode(spec: PipelineSpec, found: dict[str, Any]) -> DataNode:
    """(T, padded_height, padded_width, 3) uint8, the sampled frames with the padding of their codec; of
    mjpeg on the CPU only the columns of the windows.

    Of flow, (2 T, padded_height, padded_width, 1): x and y of each frame.
    """
    if spec.manifest.codec == "h264":
        frames: Any = fn.reshape(found["frames"], layout="FHWC")
        return frames.gpu() if spec.device == "gpu" else frames
    stacks: list[Any] = []
    for number in range(len(spec.stacks)):
        options: dict[str, Any] = {
            "device": "mixed" if spec.device == "gpu" else "cpu",
            "output_type": GRAY if spec.is_flow else RGB,
            "jpeg_fancy_upsampling": True,
            "hw_decoder_load": spec.hw_decoder_load,
        }
        picture = found[f"picture_{number}"]
        if spec.decodes_columns:
            columns = {"start": found["column"], "shape": found["num_columns"], "axes": [1]}
            tall = fn.decoders.image_slice(picture, **columns, **options)
        else:
            tall = fn.decoders.image(picture, **options)
        stacks.append(fn.reshape(tall, shape=found[f"shape_{number}"], layout="FHWC"))
    frames = stacks[0] if len(stacks) == 1 else fn.cat(*stacks, axis=0)
    return frames


def _crop(spec: PipelineSpec, frames: DataNode, found: dict[str, Any], cropper: CpuCropper) -> DataNode:
    """One video of `Batch.clips`: (V, H, W, 3), or of flow (V, 2 * clip_len, H, W)."""
    if spec.device == "cpu":
        geometry = (found["sizes"], found["boxes"], found["flips"])
        clips: Any = fn.python_function(frames, *geometry, function=cropper, batch_processing=True)
    else:
        if spec.changes_size:  # else the windows leave the codec's padding out by themselves
            frames = fn.slice(frames, start=[0, 0], shape=found["visible"], axis_names="HW")
        scaled = found["scaled"] if spec.changes_size else None
        if spec.training:
            clips = graph_train_crop(
                frames,
                scaled,
                *(found[name][0] for name in ("corners", "extents", "flips")),
                crop_size=spec.data.crop_size,
                invert_mirrored_x=spec.is_flow,
            )
        else:
            clips = graph_test_crops(
                frames, scaled, found["corners"], num_crops=spec.num_crops, crop_size=spec.data.crop_size
            )
    if spec.is_flow:
        width, height = spec.data.crop_size
        if spec.scales_flow:
            clips = scaled_flow(clips, found["flow_factors"], crop_size=spec.data.crop_size)
        planes: Any = fn.reshape(clips, shape=[-1, 2 * spec.data.clip_len, height, width], layout="")
        return planes
    if isinstance(spec.data, TrainDataConfig) and spec.data.color_jitter:
        return color_jitter(clips, spec.data.color_jitter)
    return clips

"""Batches for a training or testing loop: epochs, steps and their state on top of a DALI pipeline."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from nvidia.dali.pipeline import Pipeline
from torch import Tensor

from dali_pipes.balance import ClassBalance
from dali_pipes.crops import CpuCropper
from dali_pipes.partition import Partition, eval_partition, train_partition
from dali_pipes.pipeline import OUTPUTS, build_pipeline
from dali_pipes.planning import crop_fault
from dali_pipes.spec import PipelineSpec
from dali_pipes.units import UnitReader
from shards.manifest import Manifest, ShardError, check_contents, check_files, load_manifest
from shards.pool import available_cores
from shards.reading import ShardDataset
from tsn.config import DataConfig, EvalDataConfig, TrainDataConfig


@dataclass(frozen=True)
class Batch:
    """N videos as the network sees them.

    Attributes:
        clips: (N, V, H, W, 3) uint8 RGB, on the GPU where there is one; V = T in training, num_crops * T in
            testing, crop after crop.  Of flow: (N, V, 2 * clip_len, H, W) uint8, with `data.scale_flow`
            float32 on the same scale, planes x0 y0 x1 y1 ...; a view is a whole clip, V = T / clip_len times
            num_crops.
        labels: (N,) int64, or (N, num_classes) uint8 with a one for each label; on the device of `clips`.
        sample_ids: (N,) int64, on the CPU: the key of each sample as a number.
        frame_indices: (N, T) int32, on the CPU: 0-based source frames.  T = num_clips * clip_len, as
            the split's config counts them.
        windows: (N, num_crops, 4) int32, on the CPU: x1, y1, x2, y2, half-open, in pixels of the scaled
            frame.
        flips: (N, num_crops) bool, on the CPU: which crops are mirrored.
    """

    clips: Tensor
    labels: Tensor
    sample_ids: Tensor
    frame_indices: Tensor
    windows: Tensor
    flips: Tensor

    def __len__(self) -> int:
        return len(self.clips)


class Loader:
    """One rank's batches, epoch after epoch.

    `for batch in loader` yields the batches of the current epoch that were not yielded yet; at their end the
    next epoch begins.  `len(loader)` is the number of batches in an epoch, known before anything is read.

    Attributes:
        epoch, step: epochs completed, and batches yielded of the current one.
        num_samples: samples of the whole set, over all ranks.
        manifest: of the shards that are read.
    """

    def __init__(self, spec: PipelineSpec):
        self.epoch = 0
        self.step = 0
        self.manifest = spec.manifest
        self.num_samples = spec.manifest.num_samples
        self._spec = spec
        self._partition = spec.partition
        self._num_drawn = 0  # batches of the current epoch that the pipeline has delivered
        self._pipeline: Pipeline | None = None
        self._balance = _class_balance(spec)
        self._units = UnitReader(
            codec=spec.manifest.codec, num_threads=spec.num_threads, max_batches_ahead=spec.prefetch
        )
        self._cropper = CpuCropper(
            crop_size=spec.data.crop_size,
            invert_mirrored_x=spec.is_flow and spec.training,
            num_threads=spec.num_threads,
        )

    def __len__(self) -> int:
        return self._partition.num_batches

    def __iter__(self) -> Iterator[Batch]:
        while self.step < len(self):
            batch = self._draw()
            self.step += 1
            last = self.step == len(self)
            yield _first(batch, self._partition.last_batch_size) if last else batch
        if self._balance:
            self._pipeline = None  # the next epoch has an index of its own
        else:
            while self._num_drawn < self._partition.num_drawn:
                self._draw()
        self.epoch, self.step, self._num_drawn = self.epoch + 1, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Where this rank is, to go on from bit for bit: plain numbers, strings and bytes."""
        pipeline = self._pipeline.checkpoint() if self._pipeline is not None else b""
        place = {"epoch": self.epoch, "step": self.step, "num_drawn": self._num_drawn}
        return {"identity": self._identity(), "pipeline": pipeline, **place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the last batch that was yielded before `state` was taken.

        Raises:
            ValueError: the state is that of another data set, seed, batch size, rank, number of ranks or
                sampling; DALI itself would accept it and repeat samples.
        """
        own, other = self._identity(), state["identity"]
        differing = [
            f"{name}: {other.get(name)!r}, now {own.get(name)!r}"
            for name in sorted(own | other)
            if own.get(name) != other.get(name)
        ]
        if differing:
            raise ValueError(
                "the loader's state was saved with other settings, resume with the same: "
                + "; ".join(differing)
            )
        self.epoch, self.step, self._num_drawn = state["epoch"], state["step"], state["num_drawn"]
        self._pipeline = self._build(checkpoint=state["pipeline"]) if state["pipeline"] else None

    def close(self) -> None:
        """Free the pipeline and its threads; the loader cannot be used afterwards."""
        self._pipeline = None
        self._units.close()
        self._cropper.close()

    def _draw(self) -> Batch:
        if self._pipeline is None:
            self._pipeline = self._build()
        try:
            outputs = self._pipeline.run()
        except RuntimeError as error:
            raise ShardError(self._explain(error)) from error
        self._num_drawn += 1
        tensors = {
            name: torch.from_dlpack(output.as_tensor()) for name, output in zip(OUTPUTS, outputs, strict=True)
        }
        return Batch(**tensors | {"sample_ids": tensors["sample_ids"].long()})

    def _build(self, checkpoint: bytes | None = None) -> Pipeline:
        spec = self._spec
        with TemporaryDirectory(prefix="tsn-index-") as folder:
            if self._balance:
                files = self._balance.write(Path(folder), seed=spec.seed, epoch=self.epoch)
            else:
                files = [
                    (spec.directory / s.name, spec.directory / s.index_name) for s in spec.manifest.shards
                ]
            number = self.epoch if self._balance else 0
            return build_pipeline(
                spec, self._units, self._cropper, files=files, number=number, checkpoint=checkpoint
            )

    def _explain(self, error: RuntimeError) -> str:
        """Shard, key and reason of a failure that DALI reports without naming the sample."""
        if self._units.failure:
            return self._units.failure
        dataset = ShardDataset(self._spec.directory)
        recent = list(self._units.recent)  # DALI may go on for a while
        for place in (place for places in reversed(recent) for place in places):
            try:
                for _ in dataset.read_sample(place.key).iter_stacks():
                    pass
            except Exception as fault:  # whatever a damaged member raises
                return f"{place}: {fault}; check the directory with scripts/verify_shards.py"
        return (
            f"{self._spec.directory}: DALI failed and names no sample; scripts/verify_shards.py finds "
            f"damaged ones.  {error}"
        )

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a state to fit."""
        spec = self._spec
        settings = {name: value for name, value in asdict(spec.data).items() if name != "shards"}
        return {
            "samples": f"{spec.manifest.num_samples} in shards {spec.manifest.digest}",
            "seed": spec.seed,
            "rank": spec.partition.rank,
            "world_size": spec.partition.world_size,
            "device": spec.device if spec.device_id is None else f"{spec.device}, for a GPU",
            "data.scale_flow": spec.scales_flow,
        } | {
            f"data.{name}": list(value) if isinstance(value, tuple) else value
            for name, value in settings.items()
        }


def build_train_loader(
    data: DataConfig, *, seed: int, rank: int, world_size: int, local_rank: int, local_world_size: int
) -> Loader:
    """Random frames and windows of shuffled samples; every rank makes the same number of full batches.

    Args:
        data: where `data.train` says what is read.
        seed: of the run, equal on all ranks.
        rank, world_size: this process among all.
        local_rank, local_world_size: this process among those of its machine; the local rank is its GPU.

    Raises:
        ShardError: the directory is missing, unfinished, damaged or of another version.
        ValueError: there are fewer samples than a global batch.
    """
    directory, manifest = _open_shards(data, data.train, local_rank, local_world_size)
    partition = train_partition(
        manifest.num_samples, batch_size=data.train.batch_size, rank=rank, world_size=world_size
    )
    return Loader(_spec(data, data.train, directory, manifest, partition, seed, local_rank, local_world_size))


def build_eval_loader(
    data: DataConfig,
    split: EvalDataConfig,
    *,
    rank: int,
    world_size: int,
    local_rank: int,
    local_world_size: int,
) -> Loader:
    """The fixed frames and crops of `split` (`data.val` or `data.test`), each sample once over all ranks.

    The last batch of a rank may be smaller, and a rank beyond the number of samples yields none.

    Raises:
        ShardError: the directory is missing, unfinished, damaged or of another version, or frames are too
            small.
    """
    directory, manifest = _open_shards(data, split, local_rank, local_world_size)
    partition = eval_partition(
        manifest.num_samples, batch_size=split.batch_size, rank=rank, world_size=world_size
    )
    return Loader(_spec(data, split, directory, manifest, partition, 0, local_rank, local_world_size))


def _open_shards(
    data: DataConfig, split: TrainDataConfig | EvalDataConfig, local_rank: int, local_world_size: int
) -> tuple[Path, Manifest]:
    """The directory of a split, checked as far as that is cheap; with `verify` all of it by the ranks of each
    machine, which may have a copy of its own."""
    if data.device == "gpu" and not torch.cuda.is_available():
        raise ValueError('data.device: "gpu", but this machine has no usable NVIDIA GPU; use "auto" or "cpu"')
    directory = Path(split.shards)
    manifest = load_manifest(directory)
    check_files(directory, manifest)
    if data.verify:
        check_contents(directory, manifest.shards[local_rank::local_world_size])
    _check_split(directory, manifest, split)
    return directory, manifest


def _spec(
    data: DataConfig,
    split: TrainDataConfig | EvalDataConfig,
    directory: Path,
    manifest: Manifest,
    partition: Partition,
    seed: int,
    local_rank: int,
    local_world_size: int,
) -> PipelineSpec:
    has_gpu = torch.cuda.is_available()
    spec = PipelineSpec(
        directory=directory,
        manifest=manifest,
        data=split,
        partition=partition,
        seed=seed,
        device="gpu" if has_gpu and data.device != "cpu" else "cpu",
        device_id=local_rank if has_gpu else None,
        num_threads=data.num_threads or max(1, available_cores() // local_world_size),
        prefetch=data.prefetch,
        scale_flow=data.scale_flow,
    )
    if manifest.codec == "mjpeg" and manifest.max_padded_height > spec.max_rows:
        raise ShardError(
            f"{directory}: frames of {manifest.max_padded_height} rows; a picture that is decoded here has "
            f"{spec.max_rows} at most: pack smaller frames (--size), or set data.device=cpu"
        )
    return spec


def _check_split(directory: Path, manifest: Manifest, split: TrainDataConfig | EvalDataConfig) -> None:
    """What the split asks of the shards must be there."""
    if isinstance(split, TrainDataConfig) and split.parts != "whole" and not manifest.has_parts:
        raise ShardError(f"{directory}: not packed in parts, and parts is {split.parts!r}: set it to whole")
    if fault := crop_fault(split, manifest):
        raise ShardError(f"{directory}: {fault}")


def _class_balance(spec: PipelineSpec) -> ClassBalance | None:
    if not isinstance(spec.data, TrainDataConfig) or spec.data.class_balance is None:
        return None
    return ClassBalance(spec.directory, spec.manifest, spec.data.class_balance)


def _first(batch: Batch, num_samples: int) -> Batch:
    return Batch(*(getattr(batch, name)[:num_samples] for name in OUTPUTS))

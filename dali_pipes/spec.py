"""Everything that a pipeline is built from."""

from dataclasses import dataclass
from pathlib import Path

from dali_pipes.partition import Partition
from shards.manifest import Manifest
from tsn.config import EvalDataConfig, TrainDataConfig

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
    def scales_flow(self) -> bool:
        return self.is_flow and self.scale_flow

    @property
    def reads_parts(self) -> bool:
        return isinstance(self.data, TrainDataConfig) and self.data.parts != "whole"

    @property
    def num_crops(self) -> int:
        return self.data.num_crops if isinstance(self.data, EvalDataConfig) else 1

    @property
    def changes_size(self) -> bool:
        """Frames have to be scaled before they are cropped."""
        if self.data.frame_size is not None or self.data.short_side is None:
            return self.data.frame_size is not None
        return {self.manifest.min_short_side, self.manifest.max_short_side} != {self.data.short_side}

    @property
    def decodes_columns(self) -> bool:
        """Of each picture only the columns of the windows are decoded, which libjpeg-turbo does in less time.

        Where frames are scaled first, all of them are needed.
        """
        return self.device == "cpu" and self.manifest.codec == "mjpeg" and not self.changes_size

    @property
    def max_rows(self) -> int:
        """Of a stitched picture."""
        return _MAX_ROWS[self.device]

    @property
    def stacks(self) -> list[slice]:
        """Parts of the sampled pictures that fit into one stitched picture each.  A frame of flow is two grey
        pictures, x and y."""
        num_pictures = self.data.num_clips * self.data.clip_len * (2 if self.is_flow else 1)
        size = self.max_rows // self.manifest.max_padded_height
        return [slice(start, min(start + size, num_pictures)) for start in range(0, num_pictures, size)]

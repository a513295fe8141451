"""The whole configuration of a run, as typed, frozen dataclasses.

Every default stands here and nowhere else.  This module imports nothing of ours, so that every package may
use it. `tsn.config_io` reads YAML and `section.key=value` overrides into these classes and reports every
fault at once.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

_closed = ConfigDict(extra="forbid", allow_inf_nan=False)

BACKBONES = ("resnet18", "resnet50", "resnet101", "resnext101_32x4d", "densenet161", "swin_base")
"""The image networks of the published results.  Beside them, `timm/NAME` and `torchvision/NAME`."""


def _known_backbone(name: str) -> str:
    if name in BACKBONES or name.startswith(("timm/", "torchvision/")):
        return name
    raise ValueError(f"{', '.join(BACKBONES)}, timm/NAME or torchvision/NAME")


PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Size = tuple[PositiveInt, PositiveInt]
"""[width, height] in pixels."""


def _square(value: Any) -> Any:
    """One number, as configs have it, is the side of a square."""
    if isinstance(value, list | tuple):
        return tuple(value)
    if isinstance(value, int) and value >= 1 and not isinstance(value, bool):
        return value, value
    raise ValueError("a whole number of at least 1, or [width, height]")


def _pair(value: Any) -> Any:
    if value is None or isinstance(value, list | tuple):
        return value and tuple(value)
    raise ValueError("[width, height]")


CropSize = Annotated[Size, BeforeValidator(_square)]
FrameSize = Annotated[Size | None, BeforeValidator(_pair)]


@dataclass(frozen=True, config=_closed)
class ModelConfig:
    num_classes: PositiveInt
    """Classes of the last linear layer; must equal the number of classes of the shards."""
    modality: Literal["rgb", "flow"] = "rgb"
    """What the shards hold: colour frames, or optical flow (clip_len frames of x and y are one input)."""
    backbone: Annotated[str, AfterValidator(_known_backbone)] = "resnet50"
    """The image network whose features are averaged over the segments: one of `BACKBONES`, or any other of
    timm (`timm/NAME`) or torchvision (`torchvision/NAME`)."""
    pretrained: str = "imagenet_v1"
    """Initial weights: `imagenet_v1`, `imagenet_v2` (torchvision's), `timm` (those of timm), `swsl` (IG-1B
    images, arXiv:1905.00546), `none`, or the path or https address of a checkpoint file (ours, torchvision's,
    MMAction2's or MMClassification's)."""
    flow_init: Literal["fresh", "cross_modality"] = "fresh"
    """First convolution of a flow network that starts from RGB weights.  fresh: random, as published.
    cross_modality: their mean over R, G and B for every channel, arXiv:1608.00859."""
    dropout: Fraction = 0.4
    """Dropout before the last linear layer, after the consensus."""
    init_std: NonNegativeFloat = 0.01
    """Standard deviation of the last linear layer's initial weights; its bias starts at zero."""
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    """cross_entropy: one label a video.  bce: several, each an independent yes or no."""
    loss_weight: PositiveFloat = 1.0
    """Factor of the loss."""
    label_smoothing: Fraction = 0.0
    """Share of each target that is spread evenly over all classes."""


@dataclass(frozen=True, config=_closed)
class TrainDataConfig:
    shards: str
    """Directory with a manifest, written by `scripts/make_shards.py`."""
    num_segments: PositiveInt = 3
    """Equal parts of a video; one clip is drawn from each."""
    clip_len: PositiveInt = 1
    """Consecutive frames in a clip: 1 for RGB."""
    frame_interval: PositiveInt = 1
    """Source frames from one frame of a clip to the next."""
    sampling: Literal["segments", "dense"] = "segments"
    """segments: one clip from each equal part.  dense: clips spread over `dense_range` frames."""
    dense_range: PositiveInt = 64
    """Consecutive frames over which dense sampling spreads the clips."""
    past_end: Literal["loop", "repeat_last"] = "loop"
    """What a clip shows that runs past the end of its video: its start again, or the clip's last frame."""
    batch_size: PositiveInt = 32
    """Videos per rank and forward pass."""
    short_side: PositiveInt | None = 256
    """Pixels; frames are scaled to this short side before the window is drawn.  null: kept as stored."""
    frame_size: FrameSize = None
    """[width, height], which replaces short_side: frames are scaled to exactly this size."""
    keep_aspect: bool = False
    """frame_size is a box: frames keep their aspect and are scaled to fit into it, lying or standing."""
    crop: Literal["multi_scale", "random_resized", "center"] = "multi_scale"
    """How the crop window is drawn: MultiScaleCrop, RandomResizedCrop, or always the centre."""
    crop_size: CropSize = (224, 224)
    """Pixels; the crop window is scaled to this square, or to [width, height]."""
    scales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.0, 0.875, 0.75, 0.66)
    """MultiScaleCrop: window sizes as fractions of the short side."""
    max_scale_gap: NonNegativeInt = 1
    """MultiScaleCrop: how many places in `scales` width and height may lie apart."""
    num_fixed_crops: Literal[5, 13] | None = 5
    """MultiScaleCrop: at corners and centre (5), or also at eight places between (13).  null: anywhere."""
    area_range: tuple[PositiveFloat, PositiveFloat] = (0.08, 1.0)
    """RandomResizedCrop: window area as a fraction of the frame's."""
    aspect_range: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    """RandomResizedCrop: window width over height."""
    flip: Fraction = 0.5
    """Probability that a video's frames are mirrored."""
    color_jitter: Fraction = 0.0
    """Brightness, contrast and saturation are multiplied by factors up to this far from 1.  RGB only."""
    parts: Literal["whole", "positive", "random"] = "whole"
    """Of untrimmed videos packed in parts: sample from the whole, from one positive part, or from any."""
    class_balance: Fraction | None = None
    """Power of class-balanced sampling, with replacement: a class of n samples is drawn with a chance
    proportional to n ** power.  null: every sample once an epoch."""
    shuffle_buffer: PositiveInt = 4096
    """Samples that the reader keeps to draw from; packing has shuffled over the whole split already."""

    @property
    def num_clips(self) -> int:
        """Clips that are read of each video."""
        return self.num_segments


@dataclass(frozen=True, config=_closed)
class EvalDataConfig:
    shards: str
    """Directory with a manifest, written by `scripts/make_shards.py`."""
    num_segments: PositiveInt = 3
    """Equal parts of a video, or clips in a place where `sampling` is not by parts."""
    clip_len: PositiveInt = 1
    """Consecutive frames in a clip: 1 for RGB."""
    frame_interval: PositiveInt = 1
    """Source frames from one frame of a clip to the next."""
    sampling: Literal["segments", "spread", "dense", "random_segments"] = "segments"
    """segments: the middle of each equal part.  spread: from the start of the video to its end, as MMAction2
    1.x tests clips of several frames.  dense: clips spread over `dense_range` frames, from `dense_positions`
    places.  random_segments: a random clip of each part, the same in every run."""
    twice: bool = False
    """Twice as many clips.  segments: also the start of each part.  spread: as many again, from the start."""
    dense_range: PositiveInt = 64
    """Consecutive frames over which dense sampling spreads the clips."""
    dense_positions: PositiveInt = 10
    """Places from which dense sampling starts."""
    past_end: Literal["loop", "repeat_last"] = "loop"
    """What a clip shows that runs past the end of its video: its start again, or the clip's last frame."""
    batch_size: PositiveInt = 8
    """Videos per rank and forward pass; changes speed, memory and the logits' last bits (about 5e-6)."""
    short_side: PositiveInt | None = 256
    """Pixels; frames are scaled to this short side before cropping.  null: the stored size is kept."""
    frame_size: FrameSize = None
    """[width, height], which replaces short_side: frames are scaled to exactly this size."""
    keep_aspect: bool = False
    """frame_size is a box: frames keep their aspect and are scaled to fit into it, lying or standing."""
    crop_size: CropSize = (224, 224)
    """Pixels; side of the square crops, or [width, height]."""
    num_crops: Literal[1, 3, 10] = 1
    """1: centre.  3: both ends and middle of the long side (crop_size must equal short_side, or be as wide or
    as high as frame_size).
    10: corners and centre, each followed by its mirror image."""
    random_crop: bool = False
    """The only crop (num_crops 1) lies at a random place, the same in every run, instead of the centre."""

    @property
    def num_clips(self) -> int:
        """Clips that are read of each video."""
        positions = self.dense_positions if self.sampling == "dense" else 1
        return self.num_segments * positions * (2 if self.twice else 1)

    @property
    def num_views(self) -> int:
        """Inputs of the network per video: clips times crops."""
        return self.num_clips * self.num_crops


@dataclass(frozen=True, config=_closed)
class AuxiliaryConfig:
    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    """Of the source, for logs and messages: lower-case letters, digits and _."""
    train: TrainDataConfig
    """Its shards, and how they are sampled.  `batch_size` is its own; images have one segment."""
    batches: PositiveInt = 1
    """Batches of it, each with an update of its own, after a main update."""


@dataclass(frozen=True, config=_closed)
class DataConfig:
    train: TrainDataConfig
    val: EvalDataConfig
    test: EvalDataConfig
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where DALI decodes and crops.  auto: the GPU where there is one."""
    scale_flow: bool = False
    """Flow is multiplied by the factor by which its frame and window were scaled (adjust_magnitude)."""
    num_threads: NonNegativeInt = 0
    """DALI's CPU threads per rank.  0: this machine's cores divided by the ranks on it."""
    prefetch: PositiveInt = 2
    """Batches that DALI prepares ahead."""
    verify: bool = False
    """Read all tars before the first batch and compare their checksums: damage that no decoder notices."""
    auxiliary: tuple[AuxiliaryConfig, ...] = ()
    """Further sources to train on, one after the other: OmniSource, arXiv:2003.13042.  `train` alone defines
    steps and epochs; the others begin again at their end."""
    auxiliary_every: PositiveInt = 1
    """Train on the further sources after the first of every so many updates of the main one."""


@dataclass(frozen=True, config=_closed)
class OptimConfig:
    lr: PositiveFloat = 0.01
    """Learning rate at a global batch of `base_batch_size` videos."""
    base_batch_size: PositiveInt = 256
    """Videos per update for which `lr` holds."""
    scale_lr: bool = True
    """Scale `lr` by the actual global batch over `base_batch_size`."""
    momentum: Fraction = 0.9
    """SGD momentum, without Nesterov's correction."""
    weight_decay: NonNegativeFloat = 1e-4
    """L2 penalty on all parameters, biases and normalisation included."""
    grad_clip: NonNegativeFloat = 40.0
    """Largest total L2 norm of the gradient.  0: not clipped."""
    param_groups: Literal["plain", "tsm_fc_lr5"] = "plain"
    """plain: rate and weight decay are the same for all parameters.  tsm_fc_lr5: no decay of biases and
    normalisation, rate x2 for biases, x5 and x10 for weight and bias of the last layer."""


@dataclass(frozen=True, config=_closed)
class ScheduleConfig:
    epochs: PositiveInt
    """Passes over the training set."""
    kind: Literal["step", "cosine"] = "step"
    """step: the rate is multiplied by `gamma` at each milestone.  cosine: it falls to zero."""
    milestones: tuple[NonNegativeInt, ...] = ()
    """0-based epochs at whose start the step schedule takes a step.  Empty: a constant rate."""
    gamma: PositiveFloat = 0.1
    """Factor of one step."""
    warmup_epochs: NonNegativeFloat = 0.0
    """Epochs (fractions allowed) in which the rate rises linearly from its `warmup_start_factor`."""
    warmup_start_factor: Fraction = 0.01
    """Fraction of the rate at the first step of the warm-up."""


@dataclass(frozen=True, config=_closed)
class TrainConfig:
    seed: NonNegativeInt = 0
    """Seed of everything random: initial weights, order, frames, windows, dropout."""
    deterministic: bool = False
    """Only operations whose result is the same in every run; slower on a GPU."""
    amp: bool = True
    """bf16 autocast on a GPU.  The CPU always computes in fp32."""
    channels_last: bool = True
    """Convolutions in NHWC memory order."""
    compile: bool = False
    """`torch.compile` the model for training; testing does without."""
    recompute: bool = False
    """Keep only what the backbone's blocks are given, and compute the rest again in the backward pass: less
    memory, more time, the same result."""
    sync_bn: bool = False
    """BatchNorm statistics over all ranks instead of per rank."""
    norm_eval: bool = False
    """BatchNorm keeps its running statistics in training, as in testing; its weight and bias are trained."""
    mixup: NonNegativeFloat = 0.0
    """alpha of mixup, arXiv:1710.09412: videos are blended in pairs, by shares from Beta(alpha, alpha).
    0: off."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of a running mean of the weights, which is what is tested and saved as the model.  0: off."""
    accumulate: PositiveInt = 1
    """Forward passes per update; a step is an update."""
    val_every_epochs: PositiveInt = 5
    """Epochs between validations; the last epoch is always validated."""
    save_every_epochs: PositiveInt = 1
    """Epochs between writing `last.pt`; the last epoch always writes it."""
    save_every_steps: NonNegativeInt = 0
    """Steps between writing `last.pt` inside an epoch.  0: at epochs only."""
    log_every_steps: PositiveInt = 20
    """Steps between log records."""
    best_metric: (
        Literal[
            "top1", "top5", "mean_class_accuracy", "mean_average_precision", "mmit_mean_average_precision"
        ]
        | None
    ) = None
    """The validation metric by which `best.pt` is chosen; greater is better.  null: top1, or
    mean_average_precision where videos have several labels."""


@dataclass(frozen=True, config=_closed)
class Config:
    model: ModelConfig
    data: DataConfig
    schedule: ScheduleConfig
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    reference: dict[str, float | int | str] = Field(default_factory=dict)
    """Published figures that this config aims at, and their source.  Nothing computes with them."""

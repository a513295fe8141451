"""Temporal Segment Networks: one image network over the frames of a video, and their mean.
arXiv:1608.00859."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from tsn.backbones import build_backbone
from tsn.config import ModelConfig

RGB_MEAN = (123.675, 116.28, 103.53)
"""Of ImageNet, in grey levels 0..255, in the order R, G, B."""
RGB_STD = (58.395, 57.12, 57.375)
FLOW_MEAN = FLOW_STD = 128.0
"""Of stored optical flow, in grey levels; no motion is 128."""

FRAMES_PER_PASS = 256
"""Frames that go through the backbone at once when testing: 250 views of a video need no more memory than
training."""


class TSN(nn.Module):
    """A backbone, the mean of its features over a video's views, dropout and a linear layer."""

    def __init__(
        self,
        backbone: nn.Module,
        num_features: int,
        num_classes: int,
        *,
        dropout: float = 0.4,
        init_std: float = 0.01,
        channels_last: bool = True,
        mean: Sequence[float] = RGB_MEAN,
        std: Sequence[float] = RGB_STD,
        planar: bool = False,
    ) -> None:
        """Put a network on top of `backbone`, which maps (F, C, H, W) to (F, num_features).

        Args:
            mean, std: of the grey levels, one number a channel.
            planar: clips come as planes (N, V, C, H, W), as those of flow do, not as pixels (N, V, H, W, C).
        """
        super().__init__()
        self.planar = planar
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(num_features, num_classes)
        nn.init.normal_(self.fc.weight, std=init_std)
        nn.init.zeros_(self.fc.bias)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.backbone.to(memory_format=self.memory_format)  # pyright: ignore[reportCallIssue]
        # (x - mean) / std as one multiply-add: x * scale + shift, one number a channel.
        mean_, std_ = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        self.register_buffer("scale", (1 / std_).float().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean_ / std_).float().view(1, -1, 1, 1), persistent=False)
        self.scale: Tensor
        self.shift: Tensor

    def forward(self, clips: Tensor) -> Tensor:
        """Logits of whole videos.

        Args:
            clips: (N, V, H, W, C) uint8 grey levels, or (N, V, C, H, W), then also float32, if the network is
                planar; V views a video, whose features are averaged.

        Returns:
            (N, num_classes) raw logits.
        """
        frames = clips.flatten(0, 1)
        if not self.planar:
            frames = frames.permute(0, 3, 1, 2)  # (N * V, C, H, W): in memory it is channels_last already
        features = self._features(frames)
        return self.classify(features.unflatten(0, clips.shape[:2]))

    def forward_normalized(self, clips: Tensor) -> Tensor:
        """Logits of (N, V, C, H, W) floats that are normalised already."""
        features = self.backbone(clips.flatten(0, 1))
        return self.classify(features.unflatten(0, clips.shape[:2]))

    def classify(self, features: Tensor) -> Tensor:
        """(N, V, num_features) features to (N, num_classes) float32 logits: consensus, dropout, linear layer.

        Under autocast, too: logits of 8 bits would tie, and change places.
        """
        # Of the meta device, which only counts, torch knows no autocast.
        with nullcontext() if features.is_meta else torch.autocast(features.device.type, enabled=False):
            return self.fc(self.dropout(features.to(self.fc.weight.dtype).mean(dim=1)))

    def _features(self, frames: Tensor) -> Tensor:
        """(F, C, H, W) uint8 frames to (F, num_features)."""
        if self.training or len(frames) <= FRAMES_PER_PASS:
            return self.backbone(self._normalize(frames))
        return torch.cat([self.backbone(self._normalize(part)) for part in frames.split(FRAMES_PER_PASS)])

    def _normalize(self, frames: Tensor) -> Tensor:
        frames = frames.to(self.scale.dtype, memory_format=self.memory_format)
        return torch.addcmul(self.shift, frames, self.scale)


def build_model(config: ModelConfig, *, clip_len: int = 1, channels_last: bool = True) -> TSN:
    """The network that `config` describes, with fresh weights (`tsn.weights` loads pretrained ones).

    Args:
        clip_len: frames of flow, two channels each, that are one input; frames of RGB are inputs one by one.
    """
    is_flow = config.modality == "flow"
    in_channels = 2 * clip_len if is_flow else 3
    backbone, num_features = build_backbone(config.backbone, in_channels)
    return TSN(
        backbone,
        num_features,
        config.num_classes,
        dropout=config.dropout,
        init_std=config.init_std,
        channels_last=channels_last,
        mean=[FLOW_MEAN] * in_channels if is_flow else RGB_MEAN,
        std=[FLOW_STD] * in_channels if is_flow else RGB_STD,
        planar=is_flow,
    )

"""What training minimises."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from tsn.config import ModelConfig


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean over the videos of one label each.  logits: (N, num_classes); labels: (N,) int64."""
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over videos and classes, each class a yes or no of its own.

    logits: (N, num_classes); labels: (N, num_classes) multi-hot of any dtype, or (N,) int64 class ids.
    """
    targets = F.one_hot(labels, logits.shape[1]) if labels.ndim == 1 else labels
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


LOSSES = {"cross_entropy": cross_entropy, "bce": binary_cross_entropy}
"""By their names in the config (`model.loss`)."""


def build_loss(config: ModelConfig) -> Callable[[Tensor, Tensor], Tensor]:
    """From (logits, labels) to the mean loss of a batch, without `config.loss_weight`."""
    if config.label_smoothing:
        return partial(cross_entropy, label_smoothing=config.label_smoothing)
    return LOSSES[config.loss]


def count_top1_hits(logits: Tensor, labels: Tensor) -> Tensor:
    """How many videos have their highest logit at a right class: a 0-d tensor, so nothing waits for the
    device."""
    best = logits.detach().argmax(dim=1, keepdim=True)  # (N, 1)
    hits = best.squeeze(1) == labels if labels.ndim == 1 else labels.gather(1, best).squeeze(1) > 0
    return torch.count_nonzero(hits)

"""Stochastic gradient descent, and the learning rate that fits the batch."""

from collections.abc import Iterable

import torch
from torch import nn

from tsn.config import OptimConfig


def scaled_lr(config: OptimConfig, *, global_batch_size: int) -> float:
    """The learning rate for updates of `global_batch_size` videos: linear scaling, arXiv:1706.02677."""
    return config.lr * global_batch_size / config.base_batch_size if config.scale_lr else config.lr


def build_optimizer(parameters: Iterable[nn.Parameter], config: OptimConfig, *, lr: float) -> torch.optim.SGD:
    """SGD with momentum, without Nesterov's correction; weight decay on every parameter, as the reference has
    it."""
    parameters = list(parameters)
    return torch.optim.SGD(
        parameters,
        lr=lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=all(p.is_cuda for p in parameters),
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use `lr` from the next update on."""
    for group in optimizer.param_groups:
        group["lr"] = lr

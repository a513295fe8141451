"""Stochastic gradient descent, and the learning rate that fits the batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tsn.config import OptimConfig
from tsn.model import TSN


def scaled_lr(config: OptimConfig, *, global_batch_size: int) -> float:
    """The learning rate for updates of `global_batch_size` videos: linear scaling, arXiv:1706.02677."""
    return config.lr * global_batch_size / config.base_batch_size if config.scale_lr else config.lr


def build_optimizer(model: TSN, config: OptimConfig, *, lr: float) -> torch.optim.SGD:
    """SGD with momentum, without Nesterov's correction.  Each group's `lr_factor` says what `lr` is
    multiplied by for its parameters."""
    if config.param_groups == "plain":  # weight decay on every parameter, as the reference has it
        groups = [_group(list(model.parameters()), 1.0, config.weight_decay)]
    else:
        groups = _tsm_groups(model, config.weight_decay)
    optimizer = torch.optim.SGD(
        groups, lr=lr, momentum=config.momentum, fused=all(p.is_cuda for p in model.parameters())
    )
    set_lr(optimizer, lr)
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use `lr` from the next update on."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def _group(parameters: Sequence[Tensor], lr_factor: float, weight_decay: float) -> dict[str, Any]:
    return {"params": parameters, "lr_factor": lr_factor, "weight_decay": weight_decay}


def _tsm_groups(model: TSN, weight_decay: float) -> list[dict[str, Any]]:
    """Rates and decay as TSM's reference code sets them (arXiv:1811.08383), with its option fc_lr5."""
    weights: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    others: list[nn.Parameter] = []  # of normalisation
    for module in model.backbone.modules():
        is_linear = isinstance(module, nn.Conv2d | nn.Linear)
        for name, parameter in module.named_parameters(recurse=False):
            if is_linear:
                (biases if name == "bias" else weights).append(parameter)
            else:
                others.append(parameter)
    groups = [
        _group(weights, 1.0, weight_decay),
        _group(biases, 2.0, 0.0),
        _group(others, 1.0, 0.0),
        _group([model.fc.weight], 5.0, weight_decay),
        _group([model.fc.bias], 10.0, 0.0),
    ]
    return [group for group in groups if group["params"]]

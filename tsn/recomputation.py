"""Less memory for more time: what a network's blocks compute is not kept for the backward pass but computed
again."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from tsn.errors import UserError

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def recompute_blocks(network: nn.Module) -> None:
    """Keep only the inputs of the network's blocks when gradients are wanted.

    Gradients, BatchNorm's statistics and dropout are those of the network as it was.  Names of weights stay.

    Raises:
        UserError: the network has no blocks.
    """
    blocks = find_blocks(network)
    if not blocks:
        raise UserError(
            "train.recompute: this backbone has no rows of equal blocks, between which activations could be "
            "kept; set it to false"
        )
    for block in blocks:
        _recompute(block)


def find_blocks(network: nn.Module) -> list[nn.Module]:
    """The members of rows of equal composed modules, such as the bottlenecks of a ResNet's stages; where such
    rows lie in others, the inner ones."""
    rows = [list(module.children()) for module in network.modules() if isinstance(module, _CONTAINERS)]
    blocks = [block for row in rows if _are_equal_blocks(row) for block in row]
    known = set(blocks)
    return [block for block in blocks if not any(m in known for m in block.modules() if m is not block)]


def _are_equal_blocks(row: Sequence[nn.Module]) -> bool:
    composed = all(next(module.children(), None) is not None for module in row)
    plain = any(type(module) in _CONTAINERS for module in row)
    return composed and not plain and len({type(module) for module in row}) == 1


def _recompute(block: nn.Module) -> None:
    forward = block.forward
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _statistics_untouched(norms)

    def recomputed(*inputs: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **options)
        # A dense layer's list of inputs grows after the call.
        inputs = tuple(list(value) if isinstance(value, list) else value for value in inputs)
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **options)

    block.forward = recomputed


@contextmanager
def _statistics_untouched(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """The second forward pass must not count for the running statistics again."""
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in before:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if count is None else torch.empty_like(count)  # nobody reads it
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count

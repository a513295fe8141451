"""Initial weights: from torchvision, from a file of ours, of torchvision or of MMAction2, or none.

Whatever the source, its tensors are first renamed to our names: `backbone.<torchvision's name>` and `fc.*`.
"""

import re
import urllib.error
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from tsn.errors import UserError
from tsn.unpickling import load_without_executing

IMAGENET_VERSIONS = {"imagenet_v1": "IMAGENET1K_V1", "imagenet_v2": "IMAGENET1K_V2"}
"""Our names of torchvision's sets of weights.  The reference's 0.x configs start from V1."""

_HEAD = ("fc.weight", "fc.bias")
_STEM = "backbone.conv1.weight"


def load_pretrained(model: nn.Module, *, pretrained: str, backbone: str) -> str:
    """Fill `model` with the initial weights named by the config (`model.pretrained`) and say what was done.

    The last layer stays fresh when the source has none for our task: ImageNet's, or one of another class
        count. So does the first when the input has other channels.

    Raises:
        UserError: the source cannot be had, or does not fit the model.
    """
    if pretrained == "none":
        return "initial weights: random"
    if pretrained in IMAGENET_VERSIONS:
        state = _read_torchvision(pretrained, backbone)
    else:
        state = read_weights(Path(pretrained))
    return f"initial weights: {pretrained}; " + load_weights(model, state, source=pretrained, adapt=True)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The model weights in a checkpoint file, under our names.  Nothing in the file is executed.

    Raises:
        UserError: the file is missing, unreadable, or holds no weights.
    """
    return extract_weights(load_without_executing(path), source=str(path))


def extract_weights(content: Any, *, source: str) -> dict[str, Tensor]:
    """The model weights in what a checkpoint file holds, under our names.

    Raises:
        UserError: there are none.
    """
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    if not tensors:
        raise UserError(
            f"{source}: holds no weights; expected a checkpoint of ours, of MMAction2 or of torchvision"
        )
    return rename_keys(tensors)


def rename_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names, from ours, MMAction2's or torchvision's.

    A network of torchvision loses its ImageNet classifier; a leading `module.` (of DataParallel) is dropped.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if any(name.startswith("cls_head.") for name in state):
        return {_from_mmaction(name): tensor for name, tensor in state.items()}
    if any(name.startswith("backbone.") for name in state):
        return state
    return {f"backbone.{name}": tensor for name, tensor in state.items() if name not in _HEAD}


def load_weights(model: nn.Module, state: Mapping[str, Tensor], *, source: str, adapt: bool) -> str:
    """Copy `state` (our names) into `model`, and say what became of its first and last layer.

    Args:
        source: where `state` came from, for messages.
        adapt: for another task or input: the last layer stays fresh where `state` has none or one of another
            class count, the first where it has other input channels.  False: that is an error like any other.

    Raises:
        UserError: a tensor is missing, left over, or of another shape; all of them are named.
    """
    target = model.state_dict()
    # Counters of BatchNorm steps: old files lack them, and nothing here uses them.
    counters = {name: tensor for name, tensor in target.items() if name.endswith("num_batches_tracked")}
    state = counters | dict(state)
    fresh = _unfit_ends(state, target) if adapt else {}
    state |= {name: target[name] for name in fresh}
    faults = _differences(state, target)
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise UserError(
            f"{source}: holds the weights of another model: {shown}. Choose the file or model.backbone and "
            "model.num_classes so that they fit"
        )
    model.load_state_dict(state)
    return "; ".join(dict.fromkeys(fresh.values())) or "all layers are loaded"


def _unfit_ends(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, str]:
    """The tensors of the last and first layer that `state` does not have for `target`, each with the
    reason."""
    unfit: dict[str, str] = {}
    if any(_shape(state.get(name)) != _shape(target[name]) for name in _HEAD):
        found = state.get("fc.bias")
        had = "it has none" if found is None else f"it has {len(found)} classes"
        reason = f"the last layer ({len(target['fc.bias'])} classes) starts fresh: {had}"
        unfit |= {name: reason for name in _HEAD}
    stem, wanted = state.get(_STEM), target.get(_STEM)
    if stem is not None and wanted is not None and stem.shape[1] != wanted.shape[1]:
        # As in the reference, where the weights of flow networks stay as they were initialised.
        reason = f"the first layer ({wanted.shape[1]} channels) starts fresh: it has {stem.shape[1]} channels"
        unfit[_STEM] = reason
    return unfit


def _differences(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{name} is missing" for name in target if name not in state]
    shapes = [
        f"{name} has shape {_shape(state[name])}, expected {_shape(target[name])}"
        for name in target
        if name in state and state[name].shape != target[name].shape
    ]
    return shapes + missing + [f"{name} is not in this model" for name in state if name not in target]


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _from_mmaction(name: str) -> str:
    """`backbone.layer1.0.conv2.bn.bias` to `backbone.layer1.0.bn2.bias`; names of torchvision stay as they
    are."""
    name = name.replace("cls_head.fc_cls.", "fc.")
    name = re.sub(r"\bconv(\d)\.conv\.", r"conv\1.", name)
    name = re.sub(r"\bconv(\d)\.bn\.", r"bn\1.", name)
    return name.replace("downsample.conv.", "downsample.0.").replace("downsample.bn.", "downsample.1.")


def _read_torchvision(pretrained: str, backbone: str) -> dict[str, Tensor]:
    versions = models.get_model_weights(backbone)
    name = IMAGENET_VERSIONS[pretrained]
    if name not in versions.__members__:
        known = ", ".join(
            ours for ours, theirs in IMAGENET_VERSIONS.items() if theirs in versions.__members__
        )
        raise UserError(f"model.pretrained: torchvision has no {pretrained} for {backbone}; it has {known}")
    weights = versions[name]
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (urllib.error.URLError, OSError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(
            f"model.pretrained: could not download {weights.url} ({error}); without a network, put that file "
            f"into {folder}, or set model.pretrained to its path"
        ) from error
    return rename_keys(dict(state))

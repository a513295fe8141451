"""Initial weights: from torchvision, from a file of ours, of torchvision or of MMAction2, or none.

Whatever the source, its tensors are first renamed to our names: `backbone.<torchvision's name>` and `fc.*`.
"""

import re
import urllib.error
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from tsn.backbones import TIMM_NAMES
from tsn.config import ModelConfig
from tsn.errors import UserError
from tsn.unpickling import load_without_executing

IMAGENET_VERSIONS = {"imagenet_v1": "IMAGENET1K_V1", "imagenet_v2": "IMAGENET1K_V2"}
"""Our names of torchvision's sets of weights.  The reference's 0.x configs start from V1."""

_SWSL = "https://dl.fbaipublicfiles.com/semiweaksupervision/model_files/semi_weakly_supervised_"
SWSL_ADDRESSES = {
    "resnet18": f"{_SWSL}resnet18-118f1556.pth",
    "resnet50": f"{_SWSL}resnet50-16a12f1b.pth",
    "resnext101_32x4d": f"{_SWSL}resnext101_32x4-3f87e46b.pth",
}
"""Weights learned from 940 million images of IG-1B, then ImageNet: arXiv:1905.00546."""

_HEAD = ("fc.weight", "fc.bias")
_CLASSIFIER = re.compile(r"backbone\.(fc|classifier|heads?)\.")
"""What torchvision, timm and others call the layers after the features."""
_LEFT_OUT = re.compile(r"^(backbone\.)?(head\.fc|data_preprocessor)\.|relative_position_index$|attn_mask$")
"""Names of what is no weight of the network: MMClassification's head, tables that timm once saved."""


def checksum(model: nn.Module) -> str:
    """Of all weights and buffers, hexadecimal."""
    value = 0
    for tensor in model.state_dict().values():
        value = zlib.crc32(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), value)
    return f"{value:08x}"


def load_pretrained(model: nn.Module, config: ModelConfig) -> str:
    """Fill `model` with the initial weights that `config.pretrained` names, and say what was done.

    The last layer stays fresh when the source has none for our task: ImageNet's, or one of another class
    count.  So does the first when the input has other channels, unless `config.flow_init` says otherwise.

    Raises:
        UserError: the source cannot be had, or does not fit the model.
    """
    source = config.pretrained
    if source == "none":
        return "initial weights: random"
    try:
        state = _read_source(source, config.backbone)
        if config.flow_init == "cross_modality":
            _average_stem(state, model.state_dict())
        return f"initial weights: {source}; " + load_weights(model, state, source=source, adapt=True)
    except UserError as error:
        raise UserError(f"model.pretrained: {error}") from error


def _read_source(source: str, backbone: str) -> dict[str, Tensor]:
    """Weights under our names, from the place that the config names."""
    if source in IMAGENET_VERSIONS:
        return _read_torchvision(source, backbone)
    if source == "timm":
        return _read_timm(backbone)
    if source == "swsl" and backbone not in SWSL_ADDRESSES:
        raise UserError(
            f"there are no swsl weights for {backbone}; there are some for {', '.join(SWSL_ADDRESSES)}"
        )
    address = SWSL_ADDRESSES[backbone] if source == "swsl" else source
    return read_weights(_download(address) if address.startswith("https://") else Path(address))


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
    """Weights under our names, from ours or those of MMAction2, MMClassification, torchvision or timm.

    A leading `module.` (of DataParallel) is dropped, and so is what is no weight of the network.
    """
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if not any(name.startswith(("backbone.", "cls_head.")) for name in state):
        state = {f"backbone.{name}": tensor for name, tensor in state.items()}
    rename = _renaming(state)
    return {rename(name): tensor for name, tensor in state.items() if not _LEFT_OUT.search(name)}


def to_mmaction(state: Mapping[str, Tensor], backbone: str) -> dict[str, Tensor]:
    """Weights of ours under the names that MMAction2 0.x and 1.x use for this backbone.

    Its own ResNets have names of their own; all others keep those of torchvision, timm or MMClassification.
    """
    own = backbone in ("resnet18", "resnet50", "resnet101")
    return {
        re.sub(r"^fc\.", "cls_head.fc_cls.", _to_mmcv(name) if own else name): tensor
        for name, tensor in state.items()
    }


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
    fresh: dict[str, str] = {}
    if adapt:
        state = {n: tensor for n, tensor in state.items() if n in target or not _CLASSIFIER.match(n)}
        fresh = _unfit_ends(state, target)
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
    name = _stem_name(target)
    if name in state and state[name].ndim == 4 and state[name].shape[1] != target[name].shape[1]:
        # As in the reference, where the weights of flow networks stay as they were initialised.
        wanted, found = target[name].shape[1], state[name].shape[1]
        unfit[name] = f"the first layer ({wanted} channels) starts fresh: it has {found} channels"
    return unfit


def _stem_name(target: Mapping[str, Tensor]) -> str:
    """The weight of the first convolution."""
    return next(name for name, tensor in target.items() if tensor.ndim == 4)


def _average_stem(state: dict[str, Tensor], target: Mapping[str, Tensor]) -> None:
    """Cross-modality initialisation: every input channel gets the mean over R, G and B.  arXiv:1608.00859."""
    name = _stem_name(target)
    if name in state and state[name].ndim == 4 and state[name].shape[1] != target[name].shape[1]:
        state[name] = state[name].mean(dim=1, keepdim=True).repeat(1, target[name].shape[1], 1, 1)


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


def _renaming(state: Mapping[str, Tensor]) -> Callable[[str], str]:
    """How the names of `state`, under `backbone.` and `cls_head.`, become ours."""
    if "backbone.conv1.conv.weight" in state:
        return _from_mmcv
    if "backbone.layers.0.downsample.reduction.weight" in state:
        return _from_old_timm
    return _from_torchvision


def _from_torchvision(name: str) -> str:
    # torchvision's files of DenseNet are older than its code.
    name = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)
    return name.replace("cls_head.fc_cls.", "fc.")


def _from_old_timm(name: str) -> str:
    # Until 0.9 Swin merged its patches at the end of a stage, since then at the start of the next.
    name = re.sub(r"\blayers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name)
    return name.replace("cls_head.fc_cls.", "fc.")


def _from_mmcv(name: str) -> str:
    """`backbone.layer1.0.conv2.bn.bias` to `backbone.layer1.0.bn2.bias`."""
    name = re.sub(r"\bconv(\d)\.conv\.", r"conv\1.", name)
    name = re.sub(r"\bconv(\d)\.bn\.", r"bn\1.", name)
    name = name.replace("downsample.conv.", "downsample.0.").replace("downsample.bn.", "downsample.1.")
    return name.replace("cls_head.fc_cls.", "fc.")


def _to_mmcv(name: str) -> str:
    """`backbone.layer1.0.bn2.bias` to `backbone.layer1.0.conv2.bn.bias`."""
    name = re.sub(r"\bconv(\d)\.", r"conv\1.conv.", name)
    name = re.sub(r"\bbn(\d)\.", r"conv\1.bn.", name)
    return name.replace("downsample.0.", "downsample.conv.").replace("downsample.1.", "downsample.bn.")


def _read_torchvision(pretrained: str, backbone: str) -> dict[str, Tensor]:
    try:
        versions = models.get_model_weights(backbone.removeprefix("torchvision/")).__members__
    except ValueError:
        versions = {}
    name = IMAGENET_VERSIONS[pretrained]
    if name not in versions:
        known = [ours for ours, theirs in IMAGENET_VERSIONS.items() if theirs in versions]
        raise UserError(
            f"torchvision has no {pretrained} for {backbone}; it has {', '.join(known) or 'none'}"
        )
    return read_weights(_download(versions[name].url))


def _read_timm(backbone: str) -> dict[str, Tensor]:
    import timm

    name = TIMM_NAMES.get(backbone) or backbone.removeprefix("timm/")
    if not timm.is_model_pretrained(name):
        raise UserError(f"timm has no weights for {backbone}; use none or a file")
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0)
    except (OSError, RuntimeError) as error:  # of the hub, which knows of no other place for the file
        raise UserError(
            f"could not download timm's weights of {name} ({error}); without a network, "
            "set model.pretrained to the path of a checkpoint file"
        ) from error
    return rename_keys(network.state_dict())


def _download(address: str) -> Path:
    """The file at an address, downloaded once into torch's own folder and checked by the hash in its name."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(address).name
    if not path.exists():
        digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(address, str(path), digest and digest[1], progress=False)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            raise UserError(
                f"could not download {address} ({error}); without a network, put that file "
                f"into {folder}, or set model.pretrained to its path"
            ) from error
    return path

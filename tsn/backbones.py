"""Image networks that turn a frame into a feature vector."""

import difflib
from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain

import torch
from torch import nn
from torchvision import models

from tsn.config import BACKBONES
from tsn.errors import UserError

TIMM_NAMES = {"swin_base": "swin_base_patch4_window7_224"}
"""What timm calls those of our backbones that come from it."""


def build_backbone(name: str, in_channels: int = 3) -> tuple[nn.Module, int]:
    """An image network with fresh weights, and the length of its features.

    The network maps (N, in_channels, H, W) floats to pooled (N, num_features) features, for any H and W that
    its kind allows (Swin-B: 224).  torchvision's ResNets have the stride on the 3x3 convolution, BatchNorm
    with eps 1e-5 and momentum 0.1, and no zero-initialised last BatchNorm, as the reference has.

    Raises:
        UserError: there is no such backbone, or it does not give one feature vector an image.
    """
    if name in TIMM_NAMES or name.startswith("timm/"):
        return _build_timm(TIMM_NAMES.get(name) or name.removeprefix("timm/"), in_channels)
    match name:
        case "densenet161":
            # As in the reference: without the ReLU that torchvision applies after the last normalisation.
            features = models.densenet161(weights=None).features
            pool, flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
            network: nn.Module = nn.Sequential(OrderedDict(features=features, pool=pool, flatten=flatten))
            num_features = 2208
        case "resnext101_32x4d":
            resnext = models.ResNet(models.resnet.Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4)
            network, num_features = _without_classifier(resnext, name)
        case "resnet18" | "resnet50" | "resnet101":
            network, num_features = _without_classifier(models.get_model(name, weights=None), name)
        case _ if name.startswith("torchvision/"):
            network, num_features = _build_torchvision(name.removeprefix("torchvision/"))
        case _:
            known = f"{', '.join(BACKBONES)}, timm/NAME, torchvision/NAME"
            raise UserError(f"model.backbone: {name!r} is unknown; known are: {known}")
    if in_channels != 3:
        _widen_stem(network, in_channels)
    return network, num_features


def _build_torchvision(name: str) -> tuple[nn.Module, int]:
    _check_known("torchvision", name, models.list_models(module=models))
    # Two of them have side classifiers, which return more than one result.
    if name in ("googlenet", "inception_v3"):
        network = models.get_model(name, weights=None, aux_logits=False, init_weights=True)
    else:
        network = models.get_model(name, weights=None)
    return _without_classifier(network, f"torchvision/{name}")


def _build_timm(name: str, in_channels: int) -> tuple[nn.Module, int]:
    import timm
    from timm.data.config import resolve_model_data_config

    _check_known("timm", name.split(".")[0], timm.list_models())
    # Without classes timm's `forward` pools, in all its versions; `forward_features` does not in some.
    network = timm.create_model(name, pretrained=False, num_classes=0, in_chans=in_channels)
    _, *size = resolve_model_data_config(network)["input_size"]
    return network, _count_features(network, f"timm/{name}", in_channels, size)


def _check_known(library: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=5)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise UserError(f"model.backbone: {library} has no image network {name!r}{hint}")


def _without_classifier(network: nn.Module, name: str) -> tuple[nn.Module, int]:
    """Put the identity in place of the last linear layer; the network, and what that layer was given."""
    linear = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UserError(f"model.backbone: {name} has no last linear layer, so its features are unknown")
    network.set_submodule(linear[-1], nn.Identity())
    return network, _count_features(network, name, 3, (224, 224))


def _count_features(network: nn.Module, name: str, in_channels: int, size: Sequence[int]) -> int:
    """Found by asking for the shape of the result alone, on a copy without memory."""
    tensors = dict(chain(network.named_parameters(), network.named_buffers()))
    copies = {key: tensor.detach().to("meta") for key, tensor in tensors.items()}
    images = torch.empty(2, in_channels, *size, device="meta")
    features = torch.func.functional_call(network, copies, images)
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        raise UserError(f"model.backbone: {name} does not give one feature vector an image")
    return features.shape[1]


def _widen_stem(network: nn.Module, in_channels: int) -> None:
    """Give a network of torchvision a first convolution for another number of channels, initialised as ResNet
    initialises all of them."""
    path, conv = next((path, conv) for path, conv in network.named_modules() if isinstance(conv, nn.Conv2d))
    shape = {"kernel_size": conv.kernel_size, "stride": conv.stride, "padding": conv.padding}
    stem = nn.Conv2d(in_channels, conv.out_channels, **shape, bias=conv.bias is not None)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    network.set_submodule(path, stem)

"""Image networks that turn a frame into a feature vector."""

from collections.abc import Callable

from torch import nn
from torchvision import models

_RESNETS: dict[str, Callable[..., models.ResNet]] = {
    "resnet18": models.resnet18,
    "resnet50": models.resnet50,
    "resnet101": models.resnet101,
}


def build_backbone(name: str, in_channels: int = 3) -> tuple[nn.Module, int]:
    """An image network with fresh weights, and the length of its features.

    The network maps (N, in_channels, H, W) floats to pooled (N, num_features) features, for any H and W.
    torchvision's ResNets have the stride on the 3x3 convolution, BatchNorm with eps 1e-5 and momentum 0.1,
    and no zero-initialised last BatchNorm, as the reference has.

    Raises:
        ValueError: there is no such backbone.
    """
    if name not in _RESNETS:
        raise ValueError(f"backbone {name!r} is unknown; known are: {', '.join(_RESNETS)}")
    network = _RESNETS[name](weights=None)
    num_features = network.fc.in_features
    network.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    if in_channels != 3:
        network.conv1 = _wider_stem(network.conv1, in_channels)
    return network, num_features


def _wider_stem(conv: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """A first convolution for another number of channels, initialised as torchvision initialises all of
    them."""
    stem = nn.Conv2d(in_channels, conv.out_channels, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    return stem

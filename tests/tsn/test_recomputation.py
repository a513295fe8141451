import copy

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from tsn.backbones import build_backbone
from tsn.config import BACKBONES
from tsn.errors import UserError
from tsn.recomputation import find_blocks, recompute_blocks

NUM_BLOCKS = {
    "resnet18": 8,
    "resnet50": 16,
    "resnet101": 33,
    "resnext101_32x4d": 33,
    "densenet161": 6 + 12 + 36 + 24,
    "swin_base": 2 + 2 + 18 + 2,
    "torchvision/swin_t": 2 + 2 + 6 + 2,
    "torchvision/efficientnet_b0": 16,
}


def backbone(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_backbone(name)[0].train()


def train_step(network: nn.Module, images: torch.Tensor) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients and buffers after one pass, and the bytes that were kept for the way back."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    torch.manual_seed(1)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(images).square().mean()
    loss.backward()
    found = {name: parameter.grad for name, parameter in network.named_parameters()}
    return found | dict(network.named_buffers()), sum(kept.values())


@pytest.mark.parametrize("name", NUM_BLOCKS)
def test_blocks_are_those_of_the_network(name):
    assert len(find_blocks(backbone(name))) == NUM_BLOCKS[name]
    assert set(BACKBONES) < set(NUM_BLOCKS)


@pytest.mark.parametrize(
    ("name", "side"), [("resnet18", 64), ("densenet161", 32), ("torchvision/swin_t", 64)]
)
def test_gradients_and_statistics_are_the_same_and_less_is_kept(name, side):
    plain = backbone(name)
    recomputed = copy.deepcopy(plain)
    recompute_blocks(recomputed)
    images = torch.randn(4, 3, side, side)
    for _ in range(2):
        expected, expected_bytes = train_step(plain, images)
        found, found_bytes = train_step(recomputed, images)
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert torch.equal(found[key], value), key
        assert found_bytes < 0.6 * expected_bytes


def test_frozen_statistics_are_used_and_left_alone():
    plain = backbone("resnet18")
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            nn.init.uniform_(module.running_mean)
    recomputed = copy.deepcopy(plain)
    recompute_blocks(recomputed)
    images = torch.randn(2, 3, 64, 64)
    expected, found = train_step(plain, images)[0], train_step(recomputed, images)[0]
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_without_gradients_nothing_is_computed_twice(monkeypatch):
    network = backbone("resnet18")
    recompute_blocks(network)
    monkeypatch.setattr("tsn.recomputation.checkpoint", None)
    with torch.inference_mode():
        assert network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 512)


def test_a_network_without_blocks_is_refused():
    with pytest.raises(UserError, match="no rows of equal blocks"):
        recompute_blocks(backbone("torchvision/vgg11"))

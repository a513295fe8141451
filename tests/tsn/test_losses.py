import math

import pytest
import torch

from tsn.config import ModelConfig
from tsn.losses import LOSSES, build_loss, count_top1_hits


def test_cross_entropy_is_the_mean_over_videos():
    logits, labels = torch.tensor([[0.0, 0.0], [100.0, 0.0]]), torch.tensor([0, 0])
    assert LOSSES["cross_entropy"](logits, labels).item() == pytest.approx(math.log(2) / 2)


def test_binary_cross_entropy_is_the_mean_over_videos_and_classes():
    logits, labels = torch.zeros(2, 3), torch.tensor([[1, 0, 1], [0, 0, 0]], dtype=torch.uint8)
    assert LOSSES["bce"](logits, labels).item() == pytest.approx(math.log(2))


def test_binary_cross_entropy_takes_class_ids_too():
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    multi_hot = torch.tensor([[0, 0, 1], [1, 0, 0]])
    assert LOSSES["bce"](logits, torch.tensor([2, 0])) == LOSSES["bce"](logits, multi_hot)


def test_a_hit_is_a_highest_logit_at_a_right_class():
    logits = torch.tensor([[0.1, 0.9], [0.9, 0.1], [0.2, 0.8]])
    assert count_top1_hits(logits, torch.tensor([1, 0, 0])).item() == 2
    assert count_top1_hits(logits, torch.tensor([[1, 1], [0, 1], [0, 1]], dtype=torch.uint8)).item() == 2


def test_smoothing_spreads_a_share_of_the_target_over_all_classes():
    logits, labels = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 3])
    targets = 0.9 * torch.eye(4)[labels] + 0.1 / 4
    expected = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
    loss = build_loss(ModelConfig(num_classes=4, label_smoothing=0.1))
    torch.testing.assert_close(loss(logits, labels), expected)
    assert build_loss(ModelConfig(num_classes=4)) is LOSSES["cross_entropy"]

import json
import math
import zlib

import pytest
import torch
from torch import nn

from tsn.backbones import build_backbone
from tsn.config import ModelConfig
from tsn.losses import LOSSES
from tsn.model import FRAMES_PER_PASS, RGB_MEAN, RGB_STD, TSN, build_model
from tsn.weights import load_weights, read_weights

CASES = {
    "r18_hvu_action": "resnet18",
    "r50_rgb": "resnet50",
    "r50_flow": "resnet50",
    "r101_mmit": "resnet101",
    "densenet161_tv": "densenet161",
    "resnext101_32x4d_mmcls": "resnext101_32x4d",
}


def golden_state(path, *, salt, damped_norm):
    """Weights by the rule of golden/README.md, under MMAction2's names."""
    state = {}
    for line in path.read_text().splitlines():
        key, size = line.split()
        if size == "scalar":
            state[key] = torch.tensor(0)
            continue
        shape = [int(side) for side in size.split("x")]
        n = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(f"{salt}:{key}".encode())))
        if key.endswith("running_var"):
            state[key] = 0.5 + n.abs()
        elif key.endswith((".running_mean", ".bias")):
            state[key] = 0.1 * n
        elif len(shape) == 1:
            state[key] = (1 + 0.1 * n) * (0.3 if damped_norm and key.endswith(damped_norm) else 1)
        else:
            state[key] = 0.01 * n if len(shape) == 2 else n * math.sqrt(2 / math.prod(shape[1:]))
    return state


def golden_input(case):
    x = torch.randn(case["input_shape"], generator=torch.Generator().manual_seed(case["input_seed"]))
    for b in range(x.shape[0]):
        for s in range(x.shape[1]):
            x[b, s] = x[b, s] * (0.5 + 0.5 * b + 0.25 * s) + (0.4 * b - 0.2 * s)
    return x


@pytest.mark.parametrize("name", CASES)
def test_logits_equal_the_golden_ones_through_a_checkpoint_of_mmaction(golden, tmp_path, name):
    cases = json.loads((golden / "models_0x.json").read_text())
    case = next(case for case in cases["cases"] if case["name"] == name)
    state = golden_state(
        golden / f"state_dict_keys_{name}.txt", salt=cases["salt"], damped_norm=case["damped_norm"]
    )
    for key, head in case["probe"].items():
        assert state[key].flatten()[:3].tolist() == pytest.approx(head, abs=1e-6)
    torch.save({"meta": {"epoch": 1}, "state_dict": state}, tmp_path / "mmaction.pth")

    channels = case["input_shape"][2]
    backbone, num_features = build_backbone(CASES[name], channels)
    model = TSN(backbone, num_features, case["num_classes"], mean=[0.0] * channels, std=[1.0] * channels)
    load_weights(model, read_weights(tmp_path / "mmaction.pth"), source="golden", adapt=False)
    assert sum(p.numel() for p in model.parameters()) == case["params"]
    with torch.inference_mode():
        logits = model.eval().forward_normalized(golden_input(case))
    torch.testing.assert_close(logits, torch.tensor(case["logits"]), atol=1e-4, rtol=0)

    num_classes = case["num_classes"]
    if case["loss_label_rule"] == "(17i+5)%K":
        labels = torch.tensor([(17 * i + 5) % num_classes for i in range(len(logits))])
        loss = LOSSES["cross_entropy"](logits, labels)
    else:
        labels = torch.zeros(len(logits), num_classes, dtype=torch.uint8)
        for i in range(len(logits)):
            labels[i, [(7 * i + 3) % num_classes, (11 * i + 20) % num_classes]] = 1
        loss = {739: 333, 313: 160}[num_classes] * LOSSES["bce"](logits, labels)
    assert loss.item() == pytest.approx(case["loss_eval_mode"], rel=1e-5)


def tiny_model(**options) -> TSN:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return TSN(backbone, 4, 5, **options).eval()


def random_clips(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("channels_last", [True, False])
def test_grey_levels_are_normalised_as_the_reference_does(channels_last):
    model, clips = tiny_model(channels_last=channels_last), random_clips(2, 3, 8, 9, 3)
    normalized = (clips.double() - torch.tensor(RGB_MEAN)) / torch.tensor(RGB_STD)
    expected = model.forward_normalized(normalized.permute(0, 1, 4, 2, 3).float())
    torch.testing.assert_close(model(clips), expected, atol=1e-5, rtol=1e-5)


def test_frames_reach_the_backbone_in_channels_last_order_without_a_copy_of_their_own():
    seen = []

    class Probe(nn.Module):
        def forward(self, frames):
            seen.append(frames)
            return frames.mean((2, 3))

    TSN(Probe(), 3, 2).eval()(random_clips(2, 3, 8, 9, 3))
    assert seen[0].shape == (6, 3, 8, 9)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_the_consensus_is_the_mean_over_all_views():
    model, clips = tiny_model(), random_clips(1, 6, 8, 8, 3)
    singly = torch.stack([model(clips[:, view : view + 1]) for view in range(6)])
    torch.testing.assert_close(model(clips), singly.mean(dim=0), atol=1e-5, rtol=1e-5)


def test_testing_many_views_in_parts_changes_nothing():
    model, clips = tiny_model(), random_clips(1, FRAMES_PER_PASS + 7, 8, 8, 3)
    in_parts = model(clips)
    model.backbone.train()
    whole = model.classify(model.backbone(model._normalize(clips[0].permute(0, 3, 1, 2)))[None])
    torch.testing.assert_close(in_parts, whole, atol=1e-6, rtol=1e-6)


def test_the_last_layer_starts_small_and_without_bias():
    torch.manual_seed(0)
    model = build_model(ModelConfig(num_classes=400, backbone="resnet18", init_std=0.001))
    assert model.fc.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert not model.fc.bias.any()


def test_planes_of_flow_are_centred_at_128():
    model = build_model(ModelConfig(num_classes=4, backbone="resnet18", modality="flow"), clip_len=5).eval()
    clips = random_clips(2, 3, 10, 32, 32)
    with torch.inference_mode():
        expected = model.forward_normalized((clips.float() - 128) / 128)
        torch.testing.assert_close(model(clips), expected, atol=1e-5, rtol=1e-5)


def test_under_autocast_features_are_bf16_and_logits_are_not():
    model = build_model(ModelConfig(num_classes=7, backbone="resnet18", pretrained="none")).eval()
    clips = torch.randint(256, (2, 3, 64, 64, 3), dtype=torch.uint8)
    seen = []
    model.backbone.register_forward_hook(lambda layer, args, features: seen.append(features))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits = model(clips)
        [features] = seen
        assert features.dtype == torch.bfloat16
        assert logits.dtype == torch.float32
    mean = features.float().unflatten(0, (2, 3)).mean(1)
    torch.testing.assert_close(logits, mean @ model.fc.weight.T + model.fc.bias)

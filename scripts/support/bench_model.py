"""The network alone and testing as a whole: size, arithmetic, videos a second."""

import gc
from collections.abc import Iterator
from itertools import repeat
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode

import launch
from support.bench_loader import iter_forever
from support.bench_report import Row, Section
from support.measuring import rate_for
from tsn.config import Config, EvalDataConfig, TrainDataConfig
from tsn.config_io import NamedConfig, load_config
from tsn.distributed import World
from tsn.engine import autocast

ONE_PROCESS = World(rank=0, local_rank=0, world_size=1, local_world_size=1)
TEST_COLUMNS = {
    "variant": "variant",
    "videos_per_s": "videos/s",
    "published": "published",
    "peak_memory_gb": "peak memory, GB",
}
PUBLISHED_VIDEOS_PER_S = {(25, 10): 4.3, (25, 3): 11.1}
"""ResNet-50 of MMAction2's table, model alone at batch 1, by segments and crops."""
PUBLISHED_G = {
    ("resnet18", (25, 3, 256, 256)): 59.5,
    ("resnet50", (6, 3, 256, 256)): 32.3,
    ("resnet50", (8, 3, 224, 224)): 33.0,
    ("resnet50", (8, 3, 256, 256)): 43.0,
    ("resnet50", (16, 3, 224, 224)): 65.9,
    ("resnet50", (25, 3, 224, 224)): 103.0,
    ("resnet50", (25, 3, 256, 256)): 134.5,
    ("resnet50", (25, 10, 224, 224)): 109.9,
    ("resnet101", (5, 3, 256, 256)): 51.2,
    ("resnext101_32x4d", (25, 3, 256, 256)): 262.2,
    ("densenet161", (25, 3, 256, 256)): 255.2,
}
"""Giga-operations in MMAction2 0.x, by backbone, and segments, channels, height and width of one crop."""


def pick_device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


UNMEASURED = ("model.pretrained=none", "data.auxiliary=[]")
"""Settings of every row that is measured: speed does not depend on weights, and what is fed is one source."""


def read_row(cfg: str, *overrides: str) -> NamedConfig:
    """A config that loads no weights and trains on its main source alone, where it has several."""
    return load_config(cfg, [*UNMEASURED, *overrides])


def synthetic_clips(
    config: Config, data: TrainDataConfig | EvalDataConfig, *, num_videos: int, device: torch.device
) -> Tensor:
    """Noise in the shape of a batch of `data`: (N, V, H, W, 3) uint8, of flow (N, V, 2 * clip_len, H, W)."""
    views = data.num_views if isinstance(data, EvalDataConfig) else data.num_segments
    width, height = data.crop_size
    shape = (2 * data.clip_len, height, width) if config.model.modality == "flow" else (height, width, 3)
    return torch.randint(0, 256, (num_videos, views, *shape), dtype=torch.uint8, device=device)


def one_crop_clips(config: Config) -> Tensor:
    """Shape alone, on the meta device: the segments of one test video, one crop of each."""
    clips = synthetic_clips(config, config.data.test, num_videos=1, device=torch.device("meta"))
    return clips[:, : config.data.test.num_segments]


def frame_shape(clips: Tensor, *, planar: bool) -> tuple[int, int, int, int]:
    """(views, channels, height, width) of the `clips` that a network takes, as planes or as pixels."""
    views, *frame = clips.shape[1:]
    channels, height, width = frame if planar else (frame[2], *frame[:2])
    return views, channels, height, width


def count_macs(model: nn.Module, clips: Tensor) -> float:
    """Multiply-adds of a forward pass; convolutions and matrix products only.

    FlopCounterMode counts two operations for each.
    """
    with FlopCounterMode(display=False) as counter:
        infer(model, clips)
    return counter.get_total_flops() / 2


def count_by_published_rule(model: nn.Module, clips: Tensor) -> int:
    """Operations of a forward pass as the published tables count them, layer by layer.

    What a network computes outside of its layers is not seen.
    """
    total = 0

    def add(layer: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        nonlocal total
        total += published_cost(layer, args, result)

    with register_module_forward_hook(add):
        infer(model, clips)
    return total


def published_cost(layer: nn.Module, args: tuple[Any, ...], result: Any) -> int:
    """What one call of a layer counts for: mmcv's complexity counter, which MMAction2 0.x used.

    It counts the additions of a convolution's bias, but not those of a linear layer's.
    """
    match layer:
        case nn.Conv2d():
            return result.numel() * (layer.weight[0].numel() + (layer.bias is not None))
        case nn.Linear():
            return args[0].numel() * layer.out_features
        case nn.BatchNorm2d() | nn.GroupNorm() | nn.LayerNorm():
            return args[0].numel() * (1 if layer.weight is None else 2)
        case nn.ReLU() | nn.MaxPool2d() | nn.AvgPool2d() | nn.AdaptiveAvgPool2d():
            return args[0].numel()
        case _:
            return 0


def infer(model: nn.Module, clips: Tensor) -> None:
    was_training = model.training
    with torch.inference_mode():
        model.eval()(clips)
    model.train(was_training)


def describe_network(named: NamedConfig) -> Section:
    """Parameters, and the arithmetic of one test video with one crop."""
    config = named.config
    model = launch.build_network(config).to("meta")
    clips = one_crop_clips(config)
    shape = frame_shape(clips, planar=model.planar)
    macs, by_rule = int(count_macs(model, clips)), count_by_published_rule(model, clips)
    published_g = PUBLISHED_G.get((config.model.backbone, shape))
    columns = {
        "network": "network",
        "parameters_m": "parameters, millions",
        "frames": "frames",
        "macs_g": "multiply-adds, G",
        "by_rule_g": "by the published rule, G",
        "published_g": "published, G",
    }
    row = {
        "network": f"{named.name}: {config.model.backbone}",
        "parameters_m": sum(p.numel() for p in model.parameters()) / 1e6,
        "frames": " x ".join(map(str, shape)),
        "macs": macs,
        "macs_g": f"{macs / 1e9:.1f}",
        "by_rule": by_rule,
        "by_rule_g": f"{by_rule / 1e9:.1f}",
        "published_g": None if published_g is None else str(published_g),
    }
    note = (
        "One video, one crop: segments x channels x height x width. Multiply-adds are those of convolutions "
        "and matrix products, as torch's FlopCounterMode counts them. The published rule sees layers only: "
        "convolutions with their bias, linear layers without, two for each input of a normalisation, one for "
        "each input of a ReLU or pooling."
    )
    return Section("Network", columns, note, [row])


def time_model(named: NamedConfig, *, amp: bool, seconds: float) -> Row:
    """Forward passes of one video with all its test views, one after another, each waited for."""
    config = named.config
    device = pick_device()
    torch.backends.cudnn.benchmark = False  # as in scripts/eval.py
    reset_peak(device)
    model = launch.build_network(config).to(device).eval()
    clips = synthetic_clips(config, config.data.test, num_videos=1, device=device)

    def forward() -> Iterator[None]:
        for _ in repeat(None):
            with torch.inference_mode(), autocast(device, amp):
                model(clips)
            wait_for(device)
            yield

    warm_up = 3 if device.type == "cuda" else 1
    return {"videos_per_s": rate_for(forward(), warm_up, seconds).per_s} | peak_memory(device)


def time_test(named: NamedConfig, *, seconds: float, split: Literal["val", "test"] = "test") -> Row:
    """The whole test: reading, decoding, cropping and the network, as scripts/eval.py does it."""
    config = named.config
    device = pick_device()
    torch.backends.cudnn.benchmark = split == "val"  # on in train.py, off in scripts/eval.py
    reset_peak(device)
    model = launch.build_network(config).to(device).eval()
    loader: Any = launch.build_eval_loader(config, split, ONE_PROCESS)

    sizes: list[int] = []

    def tested() -> Iterator[None]:
        for batch in iter_forever(loader):
            with torch.inference_mode(), autocast(device, config.train.amp):
                model(batch.clips).float().argmax(1)
            sizes.append(len(batch))
            yield

    # What was made ahead while the first passes warmed up is used before the clock starts.
    warm_up = config.data.prefetch + 2 if device.type == "cuda" else 1
    rate = rate_for(tested(), warm_up, seconds).per_s * sum(sizes) / len(sizes)
    loader.close()
    return {"videos_per_s": rate} | peak_memory(device)


def views_of(config: Config) -> str:
    return f"{config.data.test.num_segments} segments x {config.data.test.num_crops} crops"


def published(config: Config) -> dict[str, float]:
    """The published speed of this protocol, where the network is the one it was measured with."""
    key = (config.data.test.num_segments, config.data.test.num_crops)
    if config.model.backbone != "resnet50" or key not in PUBLISHED_VIDEOS_PER_S:
        return {}
    return {"published": PUBLISHED_VIDEOS_PER_S[key]}


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    """Begin a measurement of memory: what earlier ones left goes back."""
    gc.collect()  # models that were compiled or recompute refer to themselves
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device, *, reserved: bool = False) -> dict[str, float]:
    """Memory of all tensors at most, in GB, or of all that PyTorch keeps; nothing on the CPU."""
    if device.type != "cuda":
        return {}
    peak = torch.cuda.max_memory_reserved if reserved else torch.cuda.max_memory_allocated
    return {"peak_memory_gb": peak(device) / 1e9}

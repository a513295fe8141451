"""The network alone and testing as a whole: size, arithmetic, videos a second."""

import time
from collections.abc import Iterator
from itertools import repeat
from typing import Any, Literal

import torch
from bench_loader import iter_forever
from bench_report import Row, Section
from measuring import rate_for
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import launch
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


def pick_device() -> torch.device:
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def read_row(cfg: str, *overrides: str) -> NamedConfig:
    """A config that loads no weights: speed does not depend on them."""
    return load_config(cfg, ["model.pretrained=none", *overrides])


def synthetic_clips(
    config: Config, data: TrainDataConfig | EvalDataConfig, *, num_videos: int, device: torch.device
) -> Tensor:
    """Noise in the shape of a batch of `data`: (N, V, H, W, 3) uint8, of flow (N, V, 2 * clip_len, H, W)."""
    views = data.num_views if isinstance(data, EvalDataConfig) else data.num_segments
    side = data.crop_size
    shape = (2 * data.clip_len, side, side) if config.model.modality == "flow" else (side, side, 3)
    return torch.randint(0, 256, (num_videos, views, *shape), dtype=torch.uint8, device=device)


def count_macs(model: nn.Module, clips: Tensor) -> float:
    """Multiply-adds of a forward pass; convolutions and matrix products only.

    FlopCounterMode counts two operations for each.
    """
    was_training = model.training
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.eval()(clips)
    model.train(was_training)
    return counter.get_total_flops() / 2


def describe_network(named: NamedConfig) -> Section:
    """Parameters, and multiply-adds of a test view and of the whole protocol."""
    config = named.config
    device = pick_device()
    model = launch.build_network(config).to(device)
    clips = synthetic_clips(config, config.data.test, num_videos=1, device=device)
    one_view = count_macs(model, clips[:, :1])
    columns = {
        "network": "network",
        "parameters_m": "parameters, millions",
        "views": "views",
        "macs_per_view_g": "multiply-adds a view, G",
        "macs_25_views_g": "of 25 views",
    }
    row = {
        "network": f"{named.name}: {config.model.backbone} at {config.data.test.crop_size}",
        "parameters_m": sum(p.numel() for p in model.parameters()) / 1e6,
        "views": clips.shape[1],
        "macs_per_view_g": one_view / 1e9,
        "macs_25_views_g": 25 * one_view / 1e9,
    }
    note = (
        "Convolutions and matrix products, as torch's FlopCounterMode counts them; the published 103.0 G for "
        "ResNet-50 (25 x 224 x 224) counts normalisation, activation and pooling, too."
    )
    return Section("Network", columns, note, [row])


def time_model(named: NamedConfig, *, amp: bool, seconds: float) -> Row:
    """Forward passes of one video with all its test views, one after another, each waited for."""
    config = named.config
    device = pick_device()
    model = launch.build_network(config).to(device).eval()
    if config.train.compile:
        model.compile()
    clips = synthetic_clips(config, config.data.test, num_videos=1, device=device)
    reset_peak(device)

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
    model = launch.build_network(config).to(device).eval()
    loader: Any = launch.build_eval_loader(config, split, ONE_PROCESS)
    batches = iter_forever(loader)
    reset_peak(device)
    num_videos, start = 0, 0.0
    warm_up = 3 if device.type == "cuda" else 1
    with torch.inference_mode():
        for number, batch in enumerate(batches):
            if number == warm_up:
                wait_for(device)
                num_videos, start = 0, time.perf_counter()
            with autocast(device, config.train.amp):
                model(batch.clips).float().argmax(1)
            num_videos += len(batch)
            if number > warm_up and time.perf_counter() - start > seconds:
                break
    wait_for(device)
    rate = num_videos / (time.perf_counter() - start)
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
    """Begin a measurement of memory: what earlier ones left in the allocator goes back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> dict[str, float]:
    """Memory of all tensors at most, in GB; nothing on the CPU."""
    return {"peak_memory_gb": torch.cuda.max_memory_allocated(device) / 1e9} if device.type == "cuda" else {}

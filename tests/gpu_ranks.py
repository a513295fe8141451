"""A few updates of a small network by one process or by several that share one device; saves the weights.

Started by test_gpu_training.py, under torchrun for several ranks.  Gloo carries the tensors, because NCCL
refuses two ranks on one GPU; with --ddp a single rank uses DDP all the same, and NCCL on a GPU.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tsn.config_io import NamedConfig, config_from_dict
from tsn.distributed import World
from tsn.model import TSN
from tsn.run import Run

NUM_VIDEOS, NUM_STEPS, NUM_CLASSES = 8, 3, 3


class Batch:
    """One rank's share of a part of the videos of an update."""

    def __init__(self, clips: Tensor, labels: Tensor) -> None:
        self.clips, self.labels, self.sample_ids = clips, labels, torch.arange(len(labels))


class ShareLoader:
    """The same videos for any number of ranks and parts: update k is made of all of them."""

    num_samples = NUM_VIDEOS * NUM_STEPS

    def __init__(self, world: World, parts: int, device: torch.device) -> None:
        self._batches = []
        for step in range(NUM_STEPS):
            draw = torch.Generator().manual_seed(step)
            clips = torch.randint(0, 256, (NUM_VIDEOS, 2, 32, 32, 3), dtype=torch.uint8, generator=draw)
            labels = torch.randint(0, NUM_CLASSES, (NUM_VIDEOS,), generator=draw)
            for part in range(parts):
                own = slice(part * world.world_size + world.rank, None, world.world_size * parts)
                self._batches.append(Batch(clips[own].to(device), labels[own].to(device)))

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self):
        return iter(self._batches)


def build_network(*, with_bn: bool) -> TSN:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8) if with_bn else nn.Identity()
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 7, stride=4, bias=not with_bn), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return TSN(backbone, 8, NUM_CLASSES, dropout=0.0, init_std=0.1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--parts", type=int, default=1, help="batches per update")
    parser.add_argument("--bn", action="store_true", help="a network with BatchNorm, synchronised over ranks")
    parser.add_argument("--ddp", action="store_true", help="DDP for the only rank, too")
    args = parser.parse_args()
    world = World(0, 0, 1)
    if "RANK" in os.environ:
        dist.init_process_group("nccl" if args.ddp and args.device == "cuda" else "gloo")
        world = World(dist.get_rank(), 0, dist.get_world_size(), dist.get_world_size())
    torch.backends.cudnn.allow_tf32 = False
    device = torch.device(args.device, 0)
    split = {"shards": "none", "num_segments": 2}
    config = config_from_dict(
        {
            "model": {"num_classes": NUM_CLASSES, "pretrained": "none"},
            "data": {
                "train": split | {"batch_size": NUM_VIDEOS // args.parts // world.world_size},
                "val": split,
                "test": split,
            },
            "schedule": {"epochs": 1},
            "optim": {"lr": 0.1, "base_batch_size": NUM_VIDEOS},
            "train": {"amp": False, "accumulate": args.parts, "sync_bn": args.bn},
        },
        source="gpu_ranks.py",
    )
    loader = ShareLoader(world, args.parts, device)
    run = Run(
        NamedConfig("ranks", config),
        model=build_network(with_bn=args.bn),
        train_loader=loader,
        val_loader=loader,
        world=world,
        device=device,
        work_dir=args.out.parent,
    )
    if args.ddp:
        devices = [device] if device.type == "cuda" else None
        options = {"broadcast_buffers": False, "gradient_as_bucket_view": True}  # as Run has them
        run.trained = DistributedDataParallel(run.model, devices, **options)
    for _ in run.iter_steps():
        continue
    if world.is_main:
        torch.save({name: value.cpu() for name, value in run.model.state_dict().items()}, args.out)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

"""train.py and eval.py on invented data: a script with the same command line, whose loaders need no shards
and no DALI.

Used by test_train.py and test_eval.py, in one process and in several.
"""

import gc
import importlib.util
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import launch  # noqa: E402
from tsn.distributed import stop_world  # noqa: E402
from tsn.model import TSN  # noqa: E402

NUM_TRAIN, NUM_VAL, NUM_CLASSES, SIZE = 27, 11, 3, 32


@dataclass(frozen=True)
class FakeBatch:
    clips: Tensor
    labels: Tensor
    sample_ids: Tensor


class FakeLoader:
    """Noise whose mean tells the class.  What a batch holds is a function of seed, rank, epoch and step."""

    def __init__(
        self,
        num_samples,
        batch_size,
        *,
        views,
        seed,
        rank,
        world_size,
        train,
        multi_label=False,
        step_delay_s=0.0,
    ):
        self.num_samples, self.batch_size, self.views, self.train = num_samples, batch_size, views, train
        self.seed, self.rank, self.world_size, self.multi_label = seed, rank, world_size, multi_label
        self.step_delay_s = step_delay_s
        self.epoch = self.step = 0

    def __len__(self) -> int:
        if self.train:
            return self.num_samples // (self.batch_size * self.world_size)
        return -(-len(range(self.rank, self.num_samples, self.world_size)) // self.batch_size)

    def __iter__(self) -> Iterator[FakeBatch]:
        while self.step < len(self):
            ids = self._sample_ids(self.step)
            self.step += 1
            time.sleep(self.step_delay_s)
            yield self._batch(ids)
        self.epoch, self.step = self.epoch + 1, 0

    def _sample_ids(self, step: int) -> np.ndarray:
        if not self.train:
            return np.arange(self.rank, self.num_samples, self.world_size)[step * self.batch_size :][
                : self.batch_size
            ]
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_samples)
        first = (step * self.world_size + self.rank) * self.batch_size
        return order[first : first + self.batch_size]

    def _batch(self, ids: np.ndarray) -> FakeBatch:
        labels = ids % NUM_CLASSES
        clips = np.stack([self._clip(int(i)) for i in ids])
        targets = np.eye(NUM_CLASSES, dtype=np.uint8)[labels] if self.multi_label else labels
        return FakeBatch(torch.from_numpy(clips), torch.from_numpy(targets), torch.from_numpy(ids))

    def _clip(self, sample_id: int) -> np.ndarray:
        draw = np.random.default_rng([self.seed, self.epoch if self.train else 0, sample_id])
        noise = draw.integers(0, 120, (self.views, SIZE, SIZE, 3))
        return (noise + 60 * (sample_id % NUM_CLASSES)).astype(np.uint8)

    def state_dict(self) -> dict:
        return {"epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state: dict) -> None:
        self.epoch, self.step = state["epoch"], state["step"]

    def close(self) -> None:
        pass


def fake_train_loader(config, world):
    return FakeLoader(
        NUM_TRAIN,
        config.data.train.batch_size,
        views=config.data.train.num_segments,
        seed=config.train.seed,
        rank=world.rank,
        world_size=world.world_size,
        train=True,
        multi_label=config.model.loss == "bce",
        step_delay_s=0.05 if "slow" in config.data.train.shards else 0.0,
    )


def fake_eval_loader(config, split, world):
    data = getattr(config.data, split)
    return FakeLoader(
        NUM_VAL,
        data.batch_size,
        views=data.num_segments * data.num_crops,
        seed=1,
        rank=world.rank,
        world_size=world.world_size,
        train=False,
        multi_label=config.model.loss == "bce",
    )


def build_tiny_network(config) -> TSN:
    """A network with BatchNorm and dropout whose steps take milliseconds and whose checkpoints are small."""
    torch.manual_seed(config.train.seed)
    is_flow = config.model.modality == "flow"
    channels = 2 * config.data.train.clip_len if is_flow else 3
    backbone = nn.Sequential(
        nn.Conv2d(channels, 8, 7, stride=4, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    grey = {"mean": [128.0] * channels, "std": [128.0] * channels, "planar": is_flow}
    return TSN(backbone, 8, config.model.num_classes, dropout=config.model.dropout, init_std=0.1, **grey)


FAKES = (
    "check_shards",
    "load_manifest",
    "build_network",
    "build_train_loader",
    "build_eval_loader",
    "sample_names",
)


def install_fakes() -> None:
    """Let the entry points build a small network and fake loaders, and find no fault with shards that do not
    exist."""
    manifest = SimpleNamespace(num_samples=NUM_VAL, multi_label=False, classes=None, digest="")
    launch.check_shards = lambda config, splits: dict.fromkeys(splits, manifest)
    launch.load_manifest = lambda directory: manifest
    launch.build_network = build_tiny_network
    launch.build_train_loader = fake_train_loader
    launch.build_eval_loader = fake_eval_loader
    launch.sample_names = lambda config, split: [(i, f"video{i:02}.mp4") for i in range(NUM_VAL)]


def stop_world_without_ddp() -> None:
    """`launch.stop_world`, after making sure that DDP does not outlive its process group."""
    gc.collect()
    alive = [thing for thing in gc.get_objects() if isinstance(thing, DistributedDataParallel)]
    assert not alive or sys.exc_info()[0], "DDP is still there at the end of its process group"
    stop_world()


def load_entry_point(path: Path):
    """The module of a script, without running it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    torch.set_num_threads(1)
    loaders, script, *arguments = sys.argv[1:]
    launch.build_network = build_tiny_network
    launch.stop_world = stop_world_without_ddp
    if loaders == "fake":
        install_fakes()
    launch.run_main(lambda: load_entry_point(ROOT / script).main(arguments))

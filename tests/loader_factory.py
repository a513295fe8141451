"""Loaders for tests: small, on the CPU, of one rank among any number."""

from dali_pipes.loader import Loader, build_eval_loader, build_train_loader
from tsn.config import DataConfig, EvalDataConfig, TrainDataConfig

COMMON = {"num_segments": 2, "short_side": None, "crop_size": 48, "batch_size": 4}
"""The centre crop is the whole of a 48x48 frame."""
TRAIN = COMMON | {"crop": "center", "flip": 0.0, "shuffle_buffer": 16}


def config(train: dict, test: dict, **options) -> DataConfig:
    split = EvalDataConfig(**test)
    return DataConfig(TrainDataConfig(**train), split, split, num_threads=1, **options)


def train_loader(
    directory, *, seed=0, rank=0, world_size=1, device="cpu", verify=False, scale_flow=False, **split
) -> Loader:
    shards = {"shards": str(directory)}
    data = config(shards | TRAIN | split, shards, device=device, verify=verify, scale_flow=scale_flow)
    place = {"rank": rank, "world_size": world_size, "local_rank": 0, "local_world_size": 1}
    return build_train_loader(data, seed=seed, **place)


def eval_loader(directory, *, rank=0, world_size=1, device="cpu", scale_flow=False, **split) -> Loader:
    shards = {"shards": str(directory)}
    data = config(shards, shards | COMMON | split, device=device, scale_flow=scale_flow)
    place = {"rank": rank, "world_size": world_size, "local_rank": 0, "local_world_size": 1}
    return build_eval_loader(data, data.test, **place)


def ids(loader: Loader) -> list[int]:
    return [int(sample_id) for batch in loader for sample_id in batch.sample_ids]

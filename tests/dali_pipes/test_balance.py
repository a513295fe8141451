from collections import Counter

import numpy as np
import pytest
import torch
from frame_shards import numbered_videos, write_shards
from loader_factory import train_loader

from dali_pipes.balance import ClassBalance
from dali_pipes.loader import Loader, build_train_loader
from shards.index import load_index
from shards.manifest import ShardError, load_manifest
from tsn.config import DataConfig, EvalDataConfig, TrainDataConfig

LABELS = [0] * 60 + [1] * 15 + [3] * 5  # class 2 has no sample


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    labels = [[label] for label in LABELS]
    videos = numbered_videos(len(labels), num_frames=2, size=(32, 32))
    return write_shards(tmp_path_factory.mktemp("balance"), videos, labels=labels, samples_per_shard=30)


def drawn_keys(files) -> list[str]:
    lines = [line for _, index in files for line in index.read_text().splitlines()[1:]]
    return [line.split(" ")[3].split(".")[0] for line in lines]


@pytest.mark.parametrize(
    ("power", "shares"), [(0.5, np.sqrt([60, 15, 5])), (0.0, [1, 1, 1]), (1.0, [12, 3, 1])]
)
def test_classes_are_drawn_by_the_power_of_their_size(directory, tmp_path, power, shares):
    balance = ClassBalance(directory, load_manifest(directory), power)
    counts = Counter()
    for epoch in range(40):
        keys = drawn_keys(balance.write(tmp_path, seed=0, epoch=epoch))
        assert len(keys) == len(LABELS)
        counts.update(LABELS[int(key)] for key in keys)
    expected = np.array(shares) / np.sum(shares) * 40 * len(LABELS)
    found = np.array([counts[label] for label in (0, 1, 3)])
    assert (np.abs(found - expected) < 5 * np.sqrt(expected)).all()


def test_draws_repeat_with_the_seed_and_differ_by_epoch(directory, tmp_path):
    balance = ClassBalance(directory, load_manifest(directory), 0.5)
    first, again, other = (drawn_keys(balance.write(tmp_path, seed=1, epoch=epoch)) for epoch in (3, 3, 4))
    assert first == again != other


def test_the_tars_come_in_another_order_each_epoch(directory, tmp_path):
    balance = ClassBalance(directory, load_manifest(directory), 0.5)
    orders = {
        tuple(tar.name for tar, _ in balance.write(tmp_path, seed=0, epoch=epoch)) for epoch in range(20)
    }
    assert len(orders) > 3


def test_every_epoch_draws_other_windows_and_flips(directory):
    split = {"crop": "random_resized", "crop_size": 16, "flip": 0.5, "class_balance": 0.5}
    loader = train_loader(directory, num_segments=1, batch_size=16, **split)
    epochs = [[(batch.windows, batch.flips) for batch in loader] for _ in range(2)]
    for (windows, flips), (others, other_flips) in zip(*epochs, strict=True):
        assert (windows == others).float().mean() < 0.5
        assert not torch.equal(flips, other_flips)


def test_an_index_of_draws_points_at_the_members_of_its_tar(directory, tmp_path):
    manifest = load_manifest(directory)
    files = ClassBalance(directory, manifest, 0.5).write(tmp_path, seed=0, epoch=0)
    for tar, index in files:
        truth = {m for members in load_index(tar.with_suffix(".idx")).values() for m in members}
        words = [line.split(" ") for line in index.read_text().splitlines()[1:]]
        places = {
            (line[i], int(line[i + 1]), int(line[i + 2])) for line in words for i in range(0, len(line), 4)
        }
        assert places <= {(m.name, m.offset, m.size_bytes) for m in truth}


def make_loader(directory, rank=0, world_size=1) -> Loader:
    eval_data = EvalDataConfig(shards=str(directory))
    train = TrainDataConfig(
        shards=str(directory),
        batch_size=10,
        short_side=None,
        crop_size=32,
        class_balance=0.0,
        shuffle_buffer=64,
    )
    data = DataConfig(train, eval_data, eval_data, device="cpu", num_threads=1)
    return build_train_loader(
        data, seed=5, rank=rank, world_size=world_size, local_rank=0, local_world_size=1
    )


def test_a_balanced_loader_draws_anew_every_epoch_and_resumes_bit_for_bit(directory):
    loader = make_loader(directory)
    epochs = [[batch.sample_ids.tolist() for batch in loader] for _ in range(3)]
    assert [len(batches) for batches in epochs] == [8, 8, 8]
    assert len({str(sorted(sum(batches, []))) for batches in epochs}) == 3  # noqa: RUF017
    counts = Counter(LABELS[sample] for batches in epochs for batch in batches for sample in batch)
    assert min(counts[label] for label in (0, 1, 3)) > 45
    steps = iter(loader)
    next(steps)
    restored = make_loader(directory)
    restored.load_state_dict(loader.state_dict())
    for expected, batch in zip(steps, restored, strict=True):
        assert torch.equal(batch.sample_ids, expected.sample_ids)
        assert torch.equal(batch.clips, expected.clips)
    assert restored.epoch == 4


def test_ranks_share_the_draws_of_an_epoch(directory, tmp_path):
    balance = ClassBalance(directory, load_manifest(directory), 0.0)
    drawn = Counter(int(key) for key in drawn_keys(balance.write(tmp_path, seed=5, epoch=0)))
    seen = Counter()
    for rank in range(2):
        for batch in make_loader(directory, rank, 2):
            seen.update(batch.sample_ids.tolist())
    assert seen.total() == 80
    assert seen == drawn


def test_several_labels_cannot_be_balanced(tmp_path):
    directory = write_shards(tmp_path, numbered_videos(2), labels=[[0], [1, 2]])
    with pytest.raises(ShardError, match="class_balance needs one label a sample"):
        ClassBalance(directory, load_manifest(directory), 0.5)

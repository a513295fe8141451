"""What a loader refuses before it reads, and how it names what it cannot read."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from frame_shards import numbered_videos, write_shards
from loader_factory import eval_loader, ids, train_loader

from dali_pipes import spec
from shards.manifest import ShardError
from shards.reading import ShardDataset
from shards.sample import META_FIELDS


@pytest.fixture
def damaged(shards, tmp_path):
    """A copy of a directory, to be damaged."""
    return shutil.copytree(shards(20), tmp_path / "damaged")


def overwrite(path, offset: int, content: bytes):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(content)


def damage_a_stream(directory):
    """Zeros in the middle of sample 13's pictures, which still decode."""
    stream = next(
        m for m in ShardDataset(directory)._load_index("shard-000001.tar")["00000013"] if m.name == "mjpeg"
    )
    overwrite(directory / "shard-000001.tar", stream.offset + stream.size_bytes // 2, bytes(40))


def test_an_undecodable_picture_names_shard_and_key(damaged):
    stream = next(
        m for m in ShardDataset(damaged)._load_index("shard-000001.tar")["00000013"] if m.name == "head"
    )
    overwrite(damaged / "shard-000001.tar", stream.offset, bytes(stream.size_bytes))
    with pytest.raises(ShardError, match=r"shard-000001\.tar:00000013"):
        ids(train_loader(damaged))


def test_damage_that_no_decoder_notices_is_found_on_demand(damaged):
    damage_a_stream(damaged)
    ids(train_loader(damaged))
    with pytest.raises(ShardError, match=r"shard-000001\.tar: damaged, its sha256 differs"):
        train_loader(damaged, verify=True)


@pytest.mark.parametrize("rank", [0, 1])
def test_each_machine_verifies_its_own_copy(damaged, rank):
    damage_a_stream(damaged)
    with pytest.raises(ShardError, match=r"shard-000001\.tar: damaged"):
        train_loader(damaged, rank=rank, world_size=2, verify=True)


def test_a_manifest_whose_shards_do_not_add_up_is_refused(damaged):
    manifest = json.loads((damaged / "manifest.json").read_text())
    manifest["shards"].pop()
    (damaged / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ShardError, match="num_samples is 20, and the listed shards hold 10"):
        train_loader(damaged)


def test_a_missing_member_names_shard_and_key(damaged):
    index = damaged / "shard-000001.idx"
    members = next(line for line in index.read_text().splitlines() if "00000013." in line).split(" ")
    at = members.index("head")
    text = index.read_text().replace(" ".join(members), " ".join(members[:at] + members[at + 4 :]))
    index.write_text(text)
    with pytest.raises(ShardError, match=r"shard-000001\.idx: not the index of its tar"):
        train_loader(damaged)


def test_a_directory_that_is_missing_or_of_another_version_is_refused(damaged, tmp_path):
    with pytest.raises(ShardError, match="nowhere: no such directory"):
        train_loader(tmp_path / "nowhere")
    manifest = json.loads((damaged / "manifest.json").read_text())
    (damaged / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    with pytest.raises(ShardError, match="version 99"):
        train_loader(damaged)


@pytest.mark.parametrize(
    ("split", "fault"),
    [
        ({"crop_size": 64}, "frames of 48 x 48 are"),
        (
            {"frame_size": (40, 30), "keep_aspect": True, "crop_size": (40, 30)},
            "frames of 48 x 48, scaled to 30 x 30, are",
        ),
        ({"short_side": 40, "crop_size": (60, 40)}, "frames of 48 x 48, scaled to 40 x 40, are"),
    ],
)
def test_a_crop_larger_than_the_frames_is_refused_before_reading(shards, split, fault):
    with pytest.raises(ShardError, match=f"{fault} smaller than crop_size .*: choose a smaller crop_size"):
        eval_loader(shards(20), **split)
    with pytest.raises(ShardError, match=fault):
        train_loader(shards(20), **split)
    train_loader(shards(20), **split, crop="random_resized")


def test_of_frames_whose_other_side_is_not_known_the_refusal_names_both_ends(tmp_path):
    videos = [*numbered_videos(4, size=(64, 48)), *numbered_videos(4, size=(80, 56))]
    with pytest.raises(ShardError, match="frames of 64 x 48 to 64 x 56 are smaller than crop_size"):
        eval_loader(write_shards(tmp_path, videos), crop_size=(66, 48))


def test_a_window_that_leaves_its_frame_ends_the_run_with_its_sample(tmp_path):
    # Of the extremes 60-80 x 60-80 it cannot be told that no frame of 80 x 60 stands beside that of 80 x 80.
    videos = [video for size in ((80, 60), (60, 60), (80, 80)) for video in numbered_videos(1, size=size)]
    split = {"frame_size": (40, 40), "keep_aspect": True, "crop_size": 40}
    message = (
        r"shard-000000\.tar:00000000: its window x 0-40, y -5-35 does not lie inside a frame of 40 x 30: "
    )
    with pytest.raises(ShardError, match=message):
        ids(eval_loader(write_shards(tmp_path, videos), **split))


def test_rows_that_only_pad_a_picture_are_never_seen(tmp_path):
    # 42 is within 2 pixels of the crop, so the window becomes as high as the crop: 44, of which 42 are there.
    directory = write_shards(tmp_path, numbered_videos(8, size=(80, 42)))
    options = {"crop": "multi_scale", "scales": (1.0,), "max_scale_gap": 0, "crop_size": 44}
    with pytest.raises(ShardError, match=r"its window x .*, y .* does not lie inside a frame of 80 x 42"):
        ids(train_loader(directory, **options))


@pytest.mark.parametrize("label", [77, -3])
def test_a_single_label_beyond_the_classes_names_shard_and_key(tmp_path, label):
    directory = write_shards(tmp_path, numbered_videos(4), labels=[[0], [1], [label], [3]])
    message = rf"^shard-000000\.tar:00000002: label\.npy holds \[{label}\], and there are 5 classes; check"
    with pytest.raises(ShardError, match=message):
        ids(eval_loader(directory))


def test_a_table_with_too_few_units_names_shard_and_key(damaged):
    meta = next(
        m for m in ShardDataset(damaged)._load_index("shard-000001.tar")["00000013"] if m.name == "meta.npy"
    )
    header = meta.size_bytes - 4 * len(META_FIELDS)
    num_frames = header + 4 * META_FIELDS.index("num_frames")
    overwrite(damaged / "shard-000001.tar", meta.offset + num_frames, np.int32(500).tobytes())
    with pytest.raises(ShardError, match=r"^shard-000001\.tar:00000013: frames\.npy has .* units, and "):
        ids(train_loader(damaged))


def test_of_a_damaged_small_member_the_user_learns_who_finds_it(damaged):
    label = next(
        m for m in ShardDataset(damaged)._load_index("shard-000001.tar")["00000013"] if m.name == "label.npy"
    )
    overwrite(damaged / "shard-000001.tar", label.offset, bytes(20))
    with pytest.raises(ShardError, match=r"names no sample; scripts/verify_shards\.py finds damaged ones"):
        ids(train_loader(damaged))


def test_frames_taller_than_a_picture_are_refused(shards, monkeypatch):
    monkeypatch.setitem(spec._MAX_ROWS, "cpu", 40)
    with pytest.raises(ShardError, match="frames of 48 rows; a picture that is decoded here has 40 at most"):
        eval_loader(shards(20))


def test_a_label_beyond_the_classes_names_shard_and_key(tmp_path):
    directory = write_shards(tmp_path, numbered_videos(4), labels=[[0], [1, 3], [4, 9], [3]])
    with pytest.raises(
        ShardError, match=r"shard-000000\.tar:00000002: label\.npy holds \[4, 9\], and there are 5"
    ):
        ids(eval_loader(directory))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_asking_for_a_missing_gpu_is_refused(shards):
    with pytest.raises(ValueError, match=r'data\.device: "gpu", but this machine has no usable NVIDIA GPU'):
        train_loader(shards(20), device="gpu")


def test_a_tar_that_is_cut_off_while_it_is_read_ends_the_epoch_with_shard_and_key(tmp_path):
    directory = write_shards(tmp_path, numbered_videos(400, num_frames=3, size=(48, 48)))
    loader = train_loader(directory, num_segments=1)
    batches = iter(loader)
    next(batches)
    tars = sorted(directory.glob("*.tar"))
    for tar in tars:
        os.truncate(tar, tar.stat().st_size // 2)
    with pytest.raises(ShardError, match=r"shard-\d{6}\.tar:\d{8}"):
        list(batches)


def test_as_many_files_may_be_open_as_there_are_shards(tmp_path, monkeypatch):
    directory = write_shards(tmp_path, numbered_videos(8, num_frames=3, size=(48, 48)), samples_per_shard=2)
    used = len(os.listdir("/proc/self/fd"))
    limits = [(used, 4096)]
    monkeypatch.setattr("resource.getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr("resource.setrlimit", lambda kind, pair: limits.append(pair))
    assert len(ids(train_loader(directory, num_segments=1))) == 8
    assert limits[-1][0] >= used + 4 and limits[-1][1] == 4096
    limits.append((used, 100))
    with pytest.raises(ShardError, match=r"4 shards: this process may open 100 files and needs \d+"):
        ids(train_loader(directory, num_segments=1))

import json

import numpy as np
import pytest
from picture_factory import numbered_flow, write_numbered_flow, write_numbered_frames, write_numbered_parts
from PIL import Image
from shard_factory import pack_here, run_script
from video_factory import numbered_frame, read_number

from shards.encoding import EncodingOptions
from shards.manifest import load_manifest
from shards.progress import PackingError, save_record
from shards.reading import ShardDataset
from shards.source_format import build_source_format

WRITERS = {"frames": write_numbered_frames, "flow": write_numbered_flow}


def encoding_of(kind, **options):
    return EncodingOptions(source_format=build_source_format(kind), **options)


def frames_by_name(directory):
    dataset = ShardDataset(directory)
    samples = {name: dataset.read_sample(key) for key, name in dataset.keys_and_names()}
    return {name: s.decode(list(range(s.stream.num_frames))) for name, s in samples.items()}


@pytest.mark.parametrize("kind", ["frames", "flow"])
def test_folders_are_packed_and_what_lacks_files_is_rejected(tmp_path, kind):
    for i in range(5):
        WRITERS[kind](tmp_path / f"v{i}", range(50 * i, 50 * i + 3 + i))
    lines = [f"v{i} {3 + i} {i % 3}" for i in range(4)] + ["v4 9 0"]
    out = pack_here(tmp_path / "out", lines, tmp_path, encoding_of(kind), samples_per_shard=2)
    manifest = load_manifest(out)
    assert (manifest.num_samples, manifest.num_rejected, manifest.num_frames) == (4, 1, 3 + 4 + 5 + 6)
    assert (manifest.modality, manifest.has_parts) == ("flow" if kind == "flow" else "rgb", False)
    assert (manifest.max_num_frames, manifest.mcu_height, manifest.codec) == (6, 8, "mjpeg")
    for name, frames in frames_by_name(out).items():
        first, count = 50 * int(name[1]), 3 + int(name[1])
        assert [read_number(frame[..., :1]) for frame in frames] == list(range(first, first + count))
    rejected = json.loads((out / "rejected.jsonl").read_text())
    assert rejected["name"] == "v4" and rejected["reason"].endswith("_00008.jpg: no such file")


def test_going_on_gives_the_same_bytes(tmp_path):
    for i in range(5):
        write_numbered_flow(tmp_path / f"v{i}", range(4))
    lines = [f"v{i} 4 0" for i in range(5)]
    whole = pack_here(tmp_path / "whole", lines, tmp_path, encoding_of("flow"), samples_per_shard=2)
    again = tmp_path / "again"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shards.packing.save_record", save_first_record)
        pack_here(again, lines, tmp_path, encoding_of("flow"), samples_per_shard=2)
    assert not (again / "manifest.json").exists() and (again / "shard-000000.tar").exists()
    pack_here(again, lines, tmp_path, encoding_of("flow"), samples_per_shard=2)
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert all((whole / name).read_bytes() == (again / name).read_bytes() for name in names)


@pytest.mark.parametrize("kind", ["frames", "flow"])
def test_going_on_with_other_folders_is_refused(tmp_path, kind):
    for root, size in {"a": (64, 48), "b": (80, 48)}.items():
        for i in range(4):
            WRITERS[kind](tmp_path / root / f"v{i}", range(4), size=size)
    lines = [f"v{i} 4 0" for i in range(4)]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shards.packing.save_record", save_first_record)
        pack_here(tmp_path / "out", lines, tmp_path / "a", encoding_of(kind), samples_per_shard=2)
    with pytest.raises(
        PackingError, match="was begun with source files of other names or sizes than now; put"
    ):
        pack_here(tmp_path / "out", lines, tmp_path / "b", encoding_of(kind), samples_per_shard=2)


def save_first_record(directory, number, record):
    if number:
        raise KeyboardInterrupt
    save_record(directory, number, record)


def test_images_are_samples_of_one_frame(tmp_path):
    for i in range(3):
        Image.fromarray(numbered_frame(i, (64, 48 + 8 * i))).save(tmp_path / f"{i}.png")
    out = pack_here(tmp_path / "out", [f"{i}.png {i}" for i in range(3)], tmp_path, encoding_of("images"))
    manifest = load_manifest(out)
    assert (manifest.num_frames, manifest.max_num_frames, manifest.max_height) == (3, 1, 64)
    for name, (frame,) in frames_by_name(out).items():
        assert read_number(frame) == int(name[0])
        assert abs(frame.mean(axis=(0, 1)) - numbered_frame(int(name[0])).mean(axis=(0, 1))).max() < 4


def test_untrimmed_videos_have_their_table(tmp_path):
    for name in "ab":
        write_numbered_parts(tmp_path / name, [4, 2, 3])
    (tmp_path / "b" / "part_1.mp4").unlink()
    out = pack_here(tmp_path / "out", ["a 2 3 2 1", "b 1 3 0"], tmp_path, encoding_of("parts"))
    manifest = load_manifest(out)
    assert (manifest.has_parts, manifest.num_samples, manifest.num_rejected) == (True, 1, 1)
    dataset = ShardDataset(out)
    ((key, _),) = dataset.keys_and_names()
    sample = dataset.read_sample(key)
    assert sample.parts.tolist() == [[4, 2, 1], [6, 3, 1], [0, 4, 0]]
    assert [read_number(frame) for frame in sample.decode([4, 8, 0])] == [4, 8, 0]
    assert "part_1.mp4" in (out / "rejected.jsonl").read_text()


def test_the_options_reach_the_packing(tmp_path):
    write_numbered_flow(tmp_path / "v", range(20), template="flow_{}_{:05d}.jpg", start_index=0)
    (tmp_path / "list.json").write_text(
        json.dumps(
            [
                {"frame_dir": "v", "offset": 3, "total_frames": 8, "label": {"scene": [1], "action": [0]}},
                {"frame_dir": "v", "offset": 9, "total_frames": 8, "label": {"action": [0]}},
            ]
        )
    )
    (tmp_path / "classes.txt").write_text("sea\nland\n")
    command = ["make_shards.py", "--source", "flow", "--template", "flow_{}_{:05d}.jpg", "--start-index", "0"]
    command += ["--with-offset", "--frame-stride", "2", "--size", "32x24", "--category", "scene"]
    command += ["--list", tmp_path / "list.json", "--root", tmp_path, "--classes", tmp_path / "classes.txt"]
    done = run_script(*command, "--out", tmp_path / "out", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("left out without a label of category scene: 1 sample\n")
    assert done.stdout.splitlines()[-1] == "packed 1 video, rejected 0"
    ((name, frames),) = frames_by_name(tmp_path / "out").items()
    assert (name, frames.shape) == ("v:3+8", (4, 24, 32, 2))
    assert [read_number(frame[..., :1]) for frame in frames] == [3, 5, 7, 9]
    smooth = np.s_[16:, :24]  # below the blocks, before the gradient begins anew
    assert abs(frames[0][smooth].astype(int) - numbered_flow(3, (32, 24))[smooth]).max() <= 6
    options = load_manifest(tmp_path / "out").options
    assert (options["source"], options["start_index"], options["category"]) == ("flow", 0, "scene")
    assert "subsampling" not in options
    refused = run_script(*command, "--out", tmp_path / "other", "--codec", "h264")
    assert refused.returncode == 2 and "--codec h264: not for --source flow" in refused.stderr

"""benchmark.py as a user runs it."""

import json
from pathlib import Path

import pytest
from shard_factory import pack_videos, run_script, write_video_list


def benchmark(shards: Path, *arguments: str | Path):
    return run_script(
        *("benchmark.py", "loader", "--cfg", "mini.yaml", "model.num_classes=3", "data.train.batch_size=2"),
        *(f"data.train.shards={shards}", "data.train.short_side=null", "data.train.crop_size=32", *arguments),
    )


def test_loader_reports_pipeline_decoding_and_libjpeg_of_the_same_pictures(tmp_path):
    videos = write_video_list(tmp_path, {f"{i}.mp4": 12 for i in range(5)})
    shards = pack_videos(videos, tmp_path / "shards")
    out = tmp_path / "figures.json"
    done = benchmark(
        *(
            shards,
            "--batches",
            "3",
            "--rounds",
            "2",
            "--json",
            out,
            "data.num_threads=1",
            "data.train.num_segments=4",
        )
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert figures["frames_per_clip"] == 4
    assert figures["num_threads"] == 1
    assert figures["num_batches"] == 3
    assert figures["machine"]["num_cores"] >= 1
    assert "torch" in figures["machine"]["versions"]
    for name in ("pipeline", "dali_decode", "libjpeg_turbo"):
        part = figures[name]
        assert len(part["rounds"]) == 2
        assert min(part["rounds"]) <= part["clips_per_s"] <= max(part["rounds"])
        assert part["frames_per_s"] == pytest.approx(4 * part["clips_per_s"])
        assert part["clips_per_s"] > 0
    assert figures["clips_per_s"] == figures["pipeline"]["clips_per_s"]
    assert figures["frames_per_s"] == figures["pipeline"]["frames_per_s"]
    assert "train pipeline" in done.stdout


def test_h264_shards_are_refused(tmp_path):
    shards = pack_videos(write_video_list(tmp_path, {"a.mp4": 12}), tmp_path / "shards", "--codec", "h264")
    done = benchmark(shards)
    assert done.returncode == 2
    assert "data.train.shards: holds h264" in done.stderr


def test_less_than_one_batch_is_refused(tmp_path):
    done = benchmark(tmp_path, "--batches", "0")
    assert done.returncode == 2
    assert "found 0 and 5, expected at least 1" in done.stderr

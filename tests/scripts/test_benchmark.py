"""benchmark.py as a user runs it."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from frame_shards import flow_video, numbered_videos, write_shards
from loader_factory import train_loader
from shard_factory import pack_videos, run_script, write_video_list
from video_factory import read_number

from dali_pipes.loader import Batch
from support import bench_loader


def decoded(directory: Path, batch: Batch, height: int) -> list[np.ndarray]:
    """The frames in the stitched pictures of a batch, of videos whose padded height is `height`."""
    pictures = bench_loader.stitched_pictures(directory, batch)
    frames = []
    for picture in pictures:
        rows = cv2.imdecode(picture, cv2.IMREAD_COLOR_RGB)
        frames += np.split(rows, len(rows) // height)
    return frames


@pytest.mark.parametrize("clip_len", [1, 2])
def test_what_is_decoded_alone_are_the_frames_that_the_pipeline_sampled(tmp_path, monkeypatch, clip_len):
    directory = write_shards(tmp_path, numbered_videos(8, num_frames=40, size=(64, 48)))
    monkeypatch.setattr(bench_loader, "MAX_ROWS", 3 * 48)  # three frames a picture
    loader = train_loader(directory, num_segments=4, clip_len=clip_len, crop_size=(64, 48))
    batch = next(iter(loader))
    loader.close()
    sampled = [read_number(frame) for clip in batch.clips.cpu().numpy() for frame in clip]
    assert sampled == batch.frame_indices.flatten().tolist()
    assert max(sampled) > 30
    assert [read_number(frame) for frame in decoded(directory, batch, 48)] == sampled


def test_of_flow_both_pictures_of_the_sampled_frames_are_decoded_alone(tmp_path):
    directory = write_shards(tmp_path, [flow_video(40, (64, 48))] * 8)
    loader = train_loader(directory, num_segments=2, clip_len=3)
    batch = next(iter(loader))
    loader.close()
    of_pipeline = batch.clips.cpu().numpy()[..., 24, 24].flatten().round().astype(int)
    of_pictures = [int(frame[24, 24, 0]) for frame in decoded(directory, batch, 48)]
    np.testing.assert_allclose(of_pictures, of_pipeline, atol=2)
    x, y = np.reshape(of_pictures, (-1, 2)).T
    np.testing.assert_allclose(x, 4 * batch.frame_indices.flatten(), atol=2)
    np.testing.assert_allclose(y, 200 - x, atol=4)


def benchmark(shards: Path, *arguments: str | Path):
    return run_script(
        *("benchmark.py", "loader", "--cfg", "mini.yaml", "model.num_classes=3", "data.train.batch_size=2"),
        *(f"data.train.shards={shards}", "data.train.short_side=null", "data.train.crop_size=32", *arguments),
    )


def test_loader_reports_pipeline_decoding_and_libjpeg(tmp_path):
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


def test_figures_are_not_overwritten_unasked(tmp_path):
    out = tmp_path / "figures.json"
    out.write_text("mine")
    done = benchmark(tmp_path, "--json", out, "--markdown", tmp_path / "none" / "table.md")
    assert done.returncode == 2
    assert f"--json {out}: exists already; name another file, or add --overwrite" in done.stderr
    assert f"there is no directory {tmp_path / 'none'}" in done.stderr
    assert out.read_text() == "mine"
    done = benchmark(tmp_path / "missing", "--json", out, "--overwrite")
    assert f"{tmp_path / 'missing'}: no such directory" in done.stderr  # what is refused next

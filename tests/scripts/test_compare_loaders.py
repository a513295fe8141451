"""The comparison as a user runs it, and that every baseline really delivers the frames it is asked for."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from loader_factory import eval_loader
from shard_factory import pack_videos, run_script, write_video_list
from video_factory import read_number, write_numbered_video

import compare_loaders
from support import loader_baselines
from support.loader_baselines import Task

DECODERS = ("PyAV", "torchcodec", "decord", "PyTorchVideo")


@pytest.fixture(scope="module")
def video_paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("videos")
    return [write_numbered_video(directory / name, 60, (96, 64)) for name in ("a.mp4", "b.mkv")]


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_returns_the_frames_it_is_asked_for(name, video_paths):
    for path in video_paths:
        video = loader_baselines.scan_video(path)
        assert len(video.pts) == 60
        available, missing = loader_baselines.find_baselines([name], video)
        if not available:
            pytest.skip(f"{name}: {missing[name]}")
        for options in loader_baselines.VARIANTS[name]:
            for indices in ([0, 1, 59], [7, 7, 30], [58]):
                frames = loader_baselines.DECODERS[name](video, np.array(indices), **options)
                assert [read_number(frame) for frame in frames] == indices


def test_mmaction2_decodes_the_frames_that_it_draws_one_of_each_segment(video_paths):
    for path in video_paths:
        video = loader_baselines.scan_video(path)
        available, missing = loader_baselines.find_baselines(["MMAction2"], video)
        if not available:
            pytest.skip(f"MMAction2: {missing['MMAction2']}")
        for options in loader_baselines.VARIANTS["MMAction2"]:
            dataset = loader_baselines.ClipDataset([video], "MMAction2", options, Task(3), seed=0)
            clips = [dataset[index] for index in range(4)]
            assert all(clip.shape == (3, 3, 224, 224) and clip.dtype == torch.uint8 for clip in clips)
            assert torch.equal(dataset[1], clips[1])
            assert not torch.equal(clips[0], clips[1])
            sample = {"filename": str(path), "start_index": 0, "modality": "RGB", "label": 0}
            for transform in loader_baselines.mmaction2_transforms(Task(3), **options).transforms[:3]:
                sample = transform(sample)
            numbers = [read_number(frame) for frame in sample["imgs"]]
            assert numbers == sample["frame_inds"].tolist()
            assert [number // 20 for number in numbers] == [0, 1, 2]


def test_windows_lie_in_the_picture_and_cover_the_stated_area():
    rng = np.random.default_rng(0)
    for width, height in ((340, 256), (96, 64), (30, 200)):
        for _ in range(500):
            x, y, crop_width, crop_height = loader_baselines.draw_window(rng, width, height)
            assert 0 <= x <= width - crop_width
            assert 0 <= y <= height - crop_height
            assert min(crop_width, crop_height) >= 1
            assert crop_width * crop_height >= 0.07 * width * height


@pytest.mark.parametrize("num_crops", [1, 3, 10])
def test_a_test_is_the_same_pictures_for_all(num_crops, tmp_path):
    """PyAV's frames and crops, and MMAction2's where it is installed, are those of this project's loader."""
    task = Task(5, num_crops)
    split = {"num_segments": 5, "num_crops": num_crops, "crop_size": task.crop_size, "short_side": 256}
    shards = pack_videos(write_video_list(tmp_path, {"a.mp4": 60}, size=(96, 64)), tmp_path / "shards")
    [batch] = eval_loader(shards, **split, batch_size=1)
    ours = batch.clips[0].cpu().numpy().reshape(num_crops, 5, task.crop_size, task.crop_size, 3).astype(int)

    video = loader_baselines.scan_video(tmp_path / "videos" / "a.mp4")
    options = {"threads": 1}
    dataset = loader_baselines.ClipDataset([video], "PyAV", options, task, seed=0)
    pyav = dataset[0].numpy().reshape(5, num_crops, task.crop_size, task.crop_size, 3).swapaxes(0, 1)
    assert abs(pyav - ours).mean(axis=(2, 3, 4)).max() < 4
    if loader_baselines.find_baselines(["MMAction2"], video)[0]:
        dataset = loader_baselines.ClipDataset([video], "MMAction2", options, task, seed=0)
        theirs = dataset[0].permute(0, 2, 3, 1).numpy().reshape(ours.shape)
        assert abs(theirs - ours).mean(axis=(2, 3, 4)).max() < 4


def test_table_and_figures_of_one_round(video_paths, tmp_path):
    out = tmp_path / "figures.json"
    done = run_script(
        *("compare_loaders.py", "--videos", video_paths[0].parent, "--baselines", "PyAV", "--segments", "3"),
        *("--rounds", "1", "--seconds", "0.1", "--repeats", "16", "--json", out),
        timeout_s=600,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert figures["not_compared"] == {}
    [comparison] = figures["comparisons"]
    loaders = comparison["loaders"]
    assert list(loaders) == ["PyAV", "this project"]
    assert comparison["best_baseline"] == "PyAV"
    assert len(loaders["PyAV"]["trials"]) == 2
    assert loaders["PyAV"]["settings"] in loaders["PyAV"]["trials"]
    ratio = loaders["this project"]["clips_per_s"] / loaders["PyAV"]["clips_per_s"]
    assert comparison["ratio"] == pytest.approx(ratio)
    assert "3 segments" in done.stdout


def test_without_any_baseline_nothing_is_packed_or_measured(video_paths, monkeypatch, capsys):
    def start(*args):
        raise AssertionError("work has started")

    reason = {"decord": "No module named 'decord'"}
    monkeypatch.setattr(compare_loaders, "find_baselines", lambda names, video: ([], reason))
    monkeypatch.setattr(compare_loaders, "pack", start)
    arguments = ["--videos", str(video_paths[0].parent), "--baselines", "decord"]
    monkeypatch.setattr(sys, "argv", ["compare_loaders.py", *arguments])
    with pytest.raises(
        SystemExit, match=r"none can be used here; install them: pip install -e '\.\[bench\]'"
    ):
        compare_loaders.main()
    assert "decord: not compared, No module named 'decord'" in capsys.readouterr().err


def test_figures_are_not_overwritten_unasked(video_paths, tmp_path):
    out = tmp_path / "figures.json"
    out.write_text("mine")
    done = run_script("compare_loaders.py", "--videos", video_paths[0].parent, "--json", out)
    assert done.returncode == 2
    assert f"--json {out}: exists already; name another file, or add --overwrite" in done.stderr
    assert out.read_text() == "mine"


def test_a_directory_without_videos_is_refused(tmp_path):
    done = run_script("compare_loaders.py", "--videos", tmp_path)
    assert done.returncode == 1
    assert "--videos: found no file .mp4/.mkv/.avi/.mov/.webm" in done.stderr

"""The comparison as a user runs it, and that every baseline really delivers the frames it is asked for."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from shard_factory import PROJECT, run_script
from video_factory import read_number, write_numbered_video

DECODERS = ("PyAV", "torchcodec", "decord", "PyTorchVideo")


@pytest.fixture(scope="module")
def baselines() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "loader_baselines", PROJECT / "scripts" / "support" / "loader_baselines.py"
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def video_paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("videos")
    return [write_numbered_video(directory / name, 60, (96, 64)) for name in ("a.mp4", "b.mkv")]


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_returns_the_frames_it_is_asked_for(name, baselines, video_paths):
    for path in video_paths:
        video = baselines.scan_video(path)
        assert len(video.pts) == 60
        available, missing = baselines.find_baselines([name], video)
        if not available:
            pytest.skip(f"{name}: {missing[name]}")
        for options in baselines.VARIANTS[name]:
            for indices in ([0, 1, 59], [7, 7, 30], [58]):
                frames = baselines.DECODERS[name](video, np.array(indices), **options)
                assert [read_number(frame) for frame in frames] == indices


def test_mmaction2_decodes_the_frames_that_it_draws_one_of_each_segment(baselines, video_paths):
    for path in video_paths:
        video = baselines.scan_video(path)
        available, missing = baselines.find_baselines(["MMAction2"], video)
        if not available:
            pytest.skip(f"MMAction2: {missing['MMAction2']}")
        for options in baselines.VARIANTS["MMAction2"]:
            dataset = baselines.ClipDataset([video], "MMAction2", options, 3, seed=0)
            clips = [dataset[index] for index in range(4)]
            assert all(clip.shape == (3, 3, 224, 224) and clip.dtype == torch.uint8 for clip in clips)
            assert torch.equal(dataset[1], clips[1])
            assert not torch.equal(clips[0], clips[1])
            sample = {"filename": str(path), "start_index": 0, "modality": "RGB", "label": 0}
            for transform in baselines.mmaction2_transforms(3, **options).transforms[:3]:
                sample = transform(sample)
            numbers = [read_number(frame) for frame in sample["imgs"]]
            assert numbers == sample["frame_inds"].tolist()
            assert [number // 20 for number in numbers] == [0, 1, 2]


def test_windows_lie_in_the_picture_and_cover_the_stated_area(baselines):
    rng = np.random.default_rng(0)
    for width, height in ((340, 256), (96, 64), (30, 200)):
        for _ in range(500):
            x, y, crop_width, crop_height = baselines.draw_window(rng, width, height)
            assert 0 <= x <= width - crop_width
            assert 0 <= y <= height - crop_height
            assert min(crop_width, crop_height) >= 1
            assert crop_width * crop_height >= 0.07 * width * height


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
    monkeypatch.syspath_prepend(str(PROJECT / "scripts"))
    compare_loaders = importlib.import_module("compare_loaders")

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

"""The golden cases as a user would check them: through inspect_batch.py and eval.py."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from fake_training import ROOT, load_entry_point
from frame_shards import write_shards

SAMPLING = {"SampleFrames": "segments", "DenseSampleFrames": "dense"}
NUM_CROPS = {"CenterCrop": 1, "ThreeCrop": 3, "TenCrop": 10}


def cases_of(path: Path, part: str) -> list[dict]:
    return json.loads(path.read_text())[part]


def inspect(monkeypatch, shards: Path, split: str, num_samples: int, *settings: str) -> dict[str, np.ndarray]:
    """What `inspect_batch.py --dump` writes, the videos in the order in which they were packed."""
    dump = shards / "batch.npz"
    monkeypatch.setattr(
        "sys.argv",
        [
            *("inspect_batch.py", "--cfg", "mini.yaml", "--split", split, "--samples", str(num_samples)),
            *("--dump", str(dump), f"data.{split}.shards={shards}", "model.num_classes=5"),
            *(f"data.{split}.{setting}" for setting in settings),
        ],
    )
    assert load_entry_point(ROOT / "scripts" / "inspect_batch.py").main() == 0
    arrays = np.load(dump)
    order = arrays["sample_ids"].argsort()
    return {name: arrays[name][order] for name in ("frame_indices", "windows", "flips")}


@pytest.fixture(scope="module")
def lengths(golden, tmp_path_factory) -> dict[int, Path]:
    """Shards of one tiny video of each length that a golden case has."""
    folder, cases = tmp_path_factory.mktemp("lengths"), {}
    for part in ("test_mode", "train_deterministic"):
        cases[part] = {case["total_frames"] for case in cases_of(golden / "frames_0x.json", part)}
    frame = np.zeros((8, 16, 3), np.uint8)
    return {
        length: write_shards(folder / str(length), [[frame] * length])
        for length in sorted(cases["test_mode"] | cases["train_deterministic"])
    }


def settings_of(version: str, part: str, case: dict) -> list[str]:
    """A golden case's sampler as a user would write it."""
    args = case["args"]
    sampling = SAMPLING[case["sampler"]]
    if part == "test_mode" and version == "1x" and sampling == "segments" and args["clip_len"] > 1:
        sampling = "spread"
    settings = [f"num_segments={args['num_clips']}", f"sampling={sampling}", "short_side=null", "crop_size=8"]
    settings += [f"{name}={args[name]}" for name in ("clip_len", "frame_interval")]
    settings += ["twice=true"] if args.get("twice_sample") else []
    settings += [f"past_end={args['out_of_bound_opt']}"] if "out_of_bound_opt" in args else []
    return settings if part == "test_mode" else [*settings, "crop=center", "batch_size=1"]


@pytest.mark.parametrize("version", ["0x", "1x"])
@pytest.mark.parametrize("part", ["test_mode", "train_deterministic"])
def test_frames_of_inspect_batch_are_the_golden_ones(monkeypatch, golden, lengths, part, version):
    """One case of each sampler and branch: videos shorter than a clip, than the segments, and long ones."""
    chosen = {}
    for case in cases_of(golden / f"frames_{version}.json", part):
        if not case.get("is_constant", True):
            continue
        args, length = case["args"], case["total_frames"]
        span = args["clip_len"] * args["frame_interval"]
        branch = (min(length, span), length < args["num_clips"] + span, length > 64)
        chosen[case["sampler"], json.dumps(args), branch] = case
    assert len(chosen) > (20 if part == "test_mode" else 4)
    split = "test" if part == "test_mode" else "train"
    for case in chosen.values():
        shards = lengths[case["total_frames"]]
        batch = inspect(monkeypatch, shards, split, 1, *settings_of(version, part, case))
        frames = (batch["frame_indices"][0] + case["start_index"]).tolist()
        expected = case["frame_inds"]
        if case["args"].get("twice_sample") and len(expected) < len(frames):
            expected = expected * 2  # too short for it: shown twice, which leaves the mean as it is
        assert frames == expected, case


def test_crops_of_inspect_batch_are_the_golden_ones(monkeypatch, golden, tmp_path):
    groups = defaultdict(list)
    for case in cases_of(golden / "crops_0x.json", "deterministic"):
        if case["crops"] != "assertion error":
            groups[case["type"], json.dumps(case["args"]["crop_size"])].append(case)
    assert {kind for kind, _ in groups} == set(NUM_CROPS)
    for number, ((kind, crop_size), cases) in enumerate(groups.items()):
        videos = [
            [np.zeros((height, width, 3), np.uint8)] for width, height in (c["image_wh"] for c in cases)
        ]
        shards = write_shards(tmp_path / str(number), videos)
        # Only three crops ask for a short side; these frames have it already.
        short_side = f"short_side={crop_size if kind == 'ThreeCrop' else 'null'}"
        settings = [f"crop_size={crop_size}", f"num_crops={NUM_CROPS[kind]}", short_side, "num_segments=1"]
        batch = inspect(monkeypatch, shards, "test", len(cases), *settings)
        for case, windows, flips in zip(cases, batch["windows"], batch["flips"], strict=True):
            assert windows.tolist() == [crop["box"] for crop in case["crops"]], case
            assert flips.tolist() == [crop["flipped"] for crop in case["crops"]], case


@pytest.mark.parametrize("version", ["0x", "1x"])
def test_metrics_of_eval_are_the_golden_ones(golden, tmp_path, version):
    evaluate = load_entry_point(ROOT / "scripts" / "eval.py").main
    inputs = np.load(golden / "metrics_inputs.npz")
    cases = cases_of(golden / f"metrics_{version}.json", "cases")
    cases = {name: case for name, case in cases.items() if case.get("kind") in ("single", "multi")}
    assert {case["kind"] for case in cases.values()} == {"single", "multi"}
    for name, case in cases.items():
        scores, labels = inputs[f"{name}_scores"], inputs[f"{name}_labels"]
        names = np.array([f"v{i}" for i in range(len(labels))])
        np.savez(tmp_path / f"{name}.npz", names=names, labels=labels, scores=scores)
        evaluate(["--from-scores", str(tmp_path / f"{name}.npz"), "--out", str(tmp_path / f"{name}.json")])
        found = json.loads((tmp_path / f"{name}.json").read_text())["metrics"]
        expected = {key: value for key, value in case.items() if key.startswith("m")}
        if case["kind"] == "single":
            expected |= {f"top{k}": case["top_k"][k] for k in ("1", "5")}
        assert found == pytest.approx(expected, rel=1e-9), name

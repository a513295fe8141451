"""This project's loader against those that people use for the same job, in one run.

Every contender makes the same.  Training: batches of 16 clips, (16, T, 224, 224, 3) uint8, from whole
videos: one random frame of each of T equal segments, a RandomResizedCrop window, a mirror image by chance.
Testing (--test-crops): batches of 2 videos, the middle frame of each segment, scaled to a short side of 256,
all crops.  The others decode the original files in two worker processes of a PyTorch DataLoader; each is
tried with several settings first and measured with its fastest.  This project packs the same videos and runs
with two threads.
Rounds take turns (A B C D A B C D ...), so that a busy machine disturbs all alike; medians are reported.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Sampler

from support.loader_baselines import (
    BASELINES,
    SHORT_SIDE,
    VARIANTS,
    ClipDataset,
    Options,
    Task,
    Video,
    find_baselines,
    first_stream_alone,
    lend_ffmpeg_to_torchcodec,
    scan_video,
)
from support.machine import describe_machine
from support.measuring import time_steady
from support.outputs import output_faults
from tsn.config import DataConfig, EvalDataConfig, TrainDataConfig

NUM_WORKERS = 2
SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm")
OURS = "this project"


class RoundSampler(Sampler):
    """Ever new clip numbers, `num_samples` at a time."""

    def __init__(self) -> None:
        self.num_samples = 0
        self.start = 0

    def __iter__(self) -> Iterator[int]:
        self.start += self.num_samples
        return iter(range(self.start, self.start + self.num_samples))

    def __len__(self) -> int:
        return self.num_samples


class Contender(Protocol):
    """One side of the comparison; `run` makes batches and tells how long they took."""

    def run(self, num_batches: int) -> float: ...

    def close(self) -> None: ...


class DataLoaderContender:
    """A baseline in a DataLoader; its workers live on from round to round."""

    def __init__(self, dataset: ClipDataset):
        self.task = dataset.task
        self.sampler = RoundSampler()
        self.loader = DataLoader(
            dataset,
            batch_size=self.task.batch_size,
            sampler=self.sampler,
            num_workers=NUM_WORKERS,
            persistent_workers=True,
            multiprocessing_context="spawn",
        )
        self.run(NUM_WORKERS)  # starts the workers and imports the decoder in each

    def run(self, num_batches: int) -> float:
        """Seconds for `num_batches` batches from a standing start: all of their work is in the time."""
        self.sampler.num_samples = num_batches * self.task.batch_size
        start = time.perf_counter()
        for clips in self.loader:
            check_clips(clips, self.task)
        return time.perf_counter() - start

    def close(self) -> None:
        del self.loader  # ends the workers


class PipelineContender:
    """This project's loader.  It works ahead, so the batches that were ready before a round do not count."""

    def __init__(self, shards: Path, task: Task, seed: int):
        # Not at the top: the processes that decode for the baselines import this file too, and need no DALI.
        from dali_pipes.loader import build_eval_loader, build_train_loader

        size = (task.crop_size, task.crop_size)
        common: dict[str, Any] = {
            "shards": str(shards),
            "num_segments": task.num_segments,
            "batch_size": task.batch_size,
            "crop_size": size,
        }
        train = TrainDataConfig(**common, short_side=None, crop="random_resized")
        test = EvalDataConfig(**common, short_side=SHORT_SIDE, num_crops=task.num_crops or 1)
        data = DataConfig(train=train, val=test, test=test, device="cpu", num_threads=NUM_WORKERS)
        self.task = task
        self.num_ready = data.prefetch + 2
        place = {"rank": 0, "world_size": 1, "local_rank": 0, "local_world_size": 1}
        if task.num_crops is None:
            self.loader = build_train_loader(data, seed=seed, **place)
        else:
            self.loader = build_eval_loader(data, test, **place)
        self.batches = self.iter_checked()

    def iter_checked(self) -> Iterator[torch.Tensor]:
        """The clips of full batch after full batch, without end."""
        while True:
            for batch in self.loader:
                if len(batch) == self.task.batch_size:
                    yield check_clips(batch.clips, self.task)

    def run(self, num_batches: int) -> float:
        """Seconds for `num_batches` batches in the steady state."""
        return time_steady(self.batches, self.num_ready, num_batches)

    def close(self) -> None:
        self.loader.close()


def check_clips(clips: torch.Tensor, task: Task) -> torch.Tensor:
    """The clips, if they are what every contender must make; MMAction2 puts the channels before the rows.

    Raises:
        ValueError: a batch of another shape or dtype.
    """
    size = task.crop_size
    expected = (task.batch_size, task.num_views, size, size, 3)
    channels_first = (task.batch_size, task.num_views, 3, size, size)
    if tuple(clips.shape) not in (expected, channels_first) or clips.dtype != torch.uint8:
        raise ValueError(f"batch: found {tuple(clips.shape)} {clips.dtype}, expected {expected} torch.uint8")
    return clips


@dataclass
class Result:
    """What was measured of one contender with one task."""

    settings: str = ""
    trials: dict[str, float] = field(default_factory=dict)
    """Clips per second of each of the settings that were tried."""
    rounds: list[float] = field(default_factory=list)
    """Clips per second of each round."""

    @property
    def clips_per_s(self) -> float:
        return statistics.median(self.rounds)


def calibrate(contender: Contender, seconds: float) -> int:
    """Batches that take about `seconds`: a multiple of the workers, so that none ends a round idle."""
    per_batch_s = contender.run(NUM_WORKERS) / NUM_WORKERS
    return max(1, round(seconds / per_batch_s / NUM_WORKERS)) * NUM_WORKERS


def clips_per_s(contender: Contender, num_batches: int, task: Task) -> float:
    return num_batches * task.batch_size / contender.run(num_batches)


def build_baseline(
    videos: list[Video], name: str, task: Task, args: argparse.Namespace
) -> tuple[DataLoaderContender, Result]:
    """A baseline with the fastest of its settings, each of which is tried for half a round first."""
    rates = []
    for options in VARIANTS[name]:
        contender = DataLoaderContender(ClipDataset(videos, name, options, task, args.seed))
        rates.append(clips_per_s(contender, calibrate(contender, args.seconds / 2), task))
        contender.close()
    fastest = VARIANTS[name][rates.index(max(rates))]
    trials = {describe(options): rate for options, rate in zip(VARIANTS[name], rates, strict=True)}
    dataset = ClipDataset(videos, name, fastest, task, args.seed)
    return DataLoaderContender(dataset), Result(describe(fastest), trials)


def describe(options: Options) -> str:
    return " ".join(f"{key}={value}" for key, value in options.items())


def compare(videos: list[Video], shards: Path, names: list[str], task: Task, args: argparse.Namespace):
    """All contenders with one task, rounds in turn.

    Returns:
        {name: Result}, baselines first.
    """
    contenders: dict[str, Contender] = {}
    results: dict[str, Result] = {}
    for name in names:
        contenders[name], results[name] = build_baseline(videos, name, task, args)
    contenders[OURS] = PipelineContender(shards, task, args.seed)
    results[OURS] = Result()
    num_batches = {name: calibrate(contender, args.seconds) for name, contender in contenders.items()}
    for _ in range(args.rounds):
        for name, contender in contenders.items():
            results[name].rounds.append(clips_per_s(contender, num_batches[name], task))
            time.sleep(0.5)  # what works ahead gets idle before the next one's turn
    for contender in contenders.values():
        contender.close()
    return results


def pack(videos: list[Video], out: Path, repeats: int) -> Path:
    """Packs every video `repeats` times at 340x256 with `make_shards.py`; returns the shards' directory."""
    root = out / "videos"
    root.mkdir(parents=True)
    lines = []
    for repeat in range(repeats):
        for video in videos:
            name = f"{repeat:03d}_{Path(video.path).name}"
            (root / name).symlink_to(video.path)
            lines.append(f"{name} 0\n")
    (out / "list.txt").write_text("".join(lines))
    (out / "classes.txt").write_text("any\n")
    command = [sys.executable, str(Path(__file__).parent / "make_shards.py"), "--list", str(out / "list.txt")]
    command += ["--root", str(root), "--classes", str(out / "classes.txt"), "--size", "340x256"]
    subprocess.run([*command, "--out", str(out / "shards")], check=True)
    return out / "shards"


def find_files(directory: Path | None) -> list[Path]:
    """The whole videos in `directory`.

    Raises:
        SystemExit: there is none.
    """
    if directory is None:
        raise SystemExit(
            "--videos: not given and TSN_TEST_DATA is unset; name a directory of whole video files"
        )
    paths = sorted(path for path in directory.glob("*") if path.suffix in SUFFIXES)
    if not paths:
        raise SystemExit(
            f"--videos: found no file {'/'.join(SUFFIXES)} in {directory}; name another directory"
        )
    return [path.resolve() for path in paths]


def parse_args() -> argparse.Namespace:
    data = os.environ.get("TSN_TEST_DATA")
    parser = argparse.ArgumentParser(
        description="Compares loaders that make the same batches from the same videos."
    )
    parser.add_argument(
        "--videos",
        type=Path,
        default=Path(data) / "full_videos" if data else None,
        help="directory of whole video files (default: $TSN_TEST_DATA/full_videos)",
    )
    parser.add_argument(
        "--segments", type=int, nargs="+", default=[3, 8], help="frames a clip (default: 3 8)"
    )
    parser.add_argument(
        "--test-crops",
        type=int,
        choices=(1, 3, 10),
        help="make what a test needs, with so many crops of a frame (default: clips to train on)",
    )
    parser.add_argument(
        "--baselines", nargs="+", choices=BASELINES, default=list(BASELINES), help="default: all of them"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every contender (default: 5)")
    parser.add_argument("--seconds", type=float, default=4, help="length of a round (default: 4)")
    parser.add_argument(
        "--repeats", type=int, default=32, help="times that each video is packed (default: 32)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--overwrite", action="store_true", help="replace --json where it exists")
    args = parser.parse_args()
    if faults := output_faults({"--json": args.json}, overwrite=args.overwrite):
        parser.error("\n".join(faults))
    return args


def report(results: dict[str, Result], task: Task) -> dict:
    """Prints the table of one task and returns its figures, ready for JSON."""
    baselines = {name: result.clips_per_s for name, result in results.items() if name != OURS}
    best = max(baselines, key=baselines.__getitem__)
    ours = results[OURS].clips_per_s
    print(f"\n{task!s:24}{'clips/s':>9}{'min':>9}{'max':>9}{'ours is':>10}   settings")
    for name, result in results.items():
        rates = f"{result.clips_per_s:9.1f}{min(result.rounds):9.1f}{max(result.rounds):9.1f}"
        print(f"{name:24}{rates}{ours / result.clips_per_s:9.1f}x   {result.settings}")
    return {
        "num_segments": task.num_segments,
        "num_crops": task.num_crops,
        "best_baseline": best,
        "ratio": ours / baselines[best],
        "loaders": {
            name: {"clips_per_s": result.clips_per_s} | asdict(result) for name, result in results.items()
        },
    }


def main() -> None:
    args = parse_args()
    files = find_files(args.videos)
    tasks = [Task(num_segments, args.test_crops) for num_segments in args.segments]
    if len(files) * args.repeats < tasks[0].batch_size:
        raise SystemExit(
            f"--repeats: {args.repeats} x {len(files)} videos fill no batch of {tasks[0].batch_size}"
        )
    if "torchcodec" in args.baselines:
        lend_ffmpeg_to_torchcodec(scan_video(files[0]))
    with tempfile.TemporaryDirectory(prefix="compare-loaders-") as directory:
        videos = [scan_video(first_stream_alone(path, Path(directory))) for path in files]
        names, missing = find_baselines(args.baselines, videos[0])
        for name, reason in missing.items():
            print(f"{name}: not compared, {reason}", file=sys.stderr)
        if not names:
            raise SystemExit("--baselines: none can be used here; install them: pip install -e '.[bench]'")
        shards = pack(videos, Path(directory), args.repeats)
        comparisons = [report(compare(videos, shards, names, task, args), task) for task in tasks]
    if args.json:
        figures = {
            "machine": describe_machine(
                "torchcodec", "decord", "pytorchvideo", "mmaction2", "mmengine", "mmcv-lite"
            ),
            "not_compared": missing,
        }
        args.json.write_text(json.dumps(figures | {"comparisons": comparisons}, indent=2) + "\n")


if __name__ == "__main__":
    main()

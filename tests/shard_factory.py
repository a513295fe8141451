"""Small shard sets, packed for a test."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from video_factory import write_numbered_video

from shards.encoding import EncodingOptions, pack_video
from shards.packing import pack
from shards.plan import make_plan
from shards.progress import begin, claim_directory, load_records
from shards.sources import load_sources

PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class VideoList:
    """A list, the root of its paths and its class file."""

    list: Path
    root: Path
    classes: Path

    @property
    def arguments(self) -> list[str]:
        return ["--list", str(self.list), "--root", str(self.root), "--classes", str(self.classes)]


def write_video_list(
    directory: Path,
    num_frames: Mapping[str, int],
    *,
    labels: Mapping[str, Sequence[int]] | None = None,
    num_classes: int = 3,
    size: tuple[int, int] = (64, 48),
) -> VideoList:
    """Write numbered videos and a list of them.

    Args:
        directory: gets videos/, train.txt and classes.txt.
        num_frames: frames of each video by name; the i-th video's first frame has the number 50 * i.
        labels: of each video by name (default: counted through the classes).
        num_classes: lines of the class file.
        size: of the frames.
    """
    videos = VideoList(directory / "train.txt", directory / "videos", directory / "classes.txt")
    videos.root.mkdir(parents=True)
    lines = []
    for i, (name, count) in enumerate(num_frames.items()):
        codec = "mpeg4" if name.endswith(".avi") else "h264"
        write_numbered_video(videos.root / name, count, size, codec=codec, first_number=50 * i)
        own = labels[name] if labels else (i % num_classes,)
        lines.append(f"{name} {' '.join(map(str, own))}\n")
    videos.list.write_text("".join(lines))
    videos.classes.write_text("".join(f"class {i}\n" for i in range(num_classes)))
    return videos


def run_script(name: str, *arguments: str | Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run `scripts/<name>` and wait for it."""
    command = [sys.executable, str(PROJECT / "scripts" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, cwd=PROJECT)


def pack_videos(videos: VideoList, out: Path, *options: str) -> Path:
    """Pack with make_shards.py, which must succeed; `out`."""
    done = run_script("make_shards.py", *videos.arguments, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    return out


def pack_here(
    out: Path,
    lines: Sequence[str],
    root: Path,
    encoding: EncodingOptions,
    *,
    num_classes: int = 3,
    samples_per_shard: int = 250,
) -> Path:
    """Pack a list of `lines` in this process, or go on packing it; `out`. The list is written to `root`."""
    (root / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    (root / "classes.txt").write_text("".join(f"class {i}\n" for i in range(num_classes)))
    sources = load_sources(root / "list.txt", root, root / "classes.txt", encoding.source_format)
    plan = make_plan(
        out,
        sources,
        encoding=encoding,
        samples_per_shard=samples_per_shard,
        seed=0,
        dataset="d",
        split="train",
    )
    in_this_process = SimpleNamespace(run_in_order=lambda tasks: (pack_video(task) for task in tasks))
    with claim_directory(out, plan.options):
        begin(out, plan.options)
        pack(plan, load_records(out), in_this_process, on_video=lambda task, outcome: None)
    return out

"""Shards to measure with: a few whole videos, packed in several ways, each listed many times."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from shards.manifest import ShardError, load_manifest, write_manifest
from tsn.errors import UserError

SCRIPTS = Path(__file__).resolve().parents[1]
SUFFIXES = {".mp4", ".mkv", ".avi", ".webm", ".mov"}


@dataclass(frozen=True)
class Packing:
    """How the videos are stored; the options of make_shards.py."""

    codec: str = "mjpeg"
    subsampling: str = "422"
    gop: int = 1
    size: str = "340x256"

    @property
    def name(self) -> str:
        if self.codec == "mjpeg":
            return f"mjpeg {':'.join(self.subsampling)} {self.size}"
        return f"h264 GOP {self.gop} {self.size}"

    @property
    def folder(self) -> str:
        return self.name.replace(" ", "-").replace(":", "")

    def options(self) -> list[str]:
        own = ["--subsampling", self.subsampling] if self.codec == "mjpeg" else ["--gop", str(self.gop)]
        return ["--codec", self.codec, "--size", self.size, *own]


def find_videos(work_dir: Path) -> Path:
    """A directory of whole videos: those of $TSN_TEST_DATA, else a few that the demo draws."""
    data = os.environ.get("TSN_TEST_DATA")
    if data and (Path(data) / "full_videos").is_dir():
        return Path(data) / "full_videos"
    drawn = work_dir / "drawn"
    counts = ("--videos-per-class", "1", "--val-per-class", "1")
    _run("make_demo_videos.py", "--out", drawn, *counts)
    return drawn


def pack(videos: Path, packing: Packing, work_dir: Path, *, num_samples: int) -> Path:
    """A directory of shards with at least `num_samples` samples.

    Raises:
        UserError: there is no video, or they cannot be packed.
    """
    names = sorted(path.relative_to(videos) for path in videos.rglob("*") if path.suffix in SUFFIXES)[:8]
    if not names:
        raise UserError(f"{videos}: no video to measure with; set TSN_TEST_DATA, or unset it for drawn ones")
    directory = work_dir / packing.folder
    listed, classes = (directory.with_suffix(suffix) for suffix in (".list", ".classes"))
    listed.write_text("".join(f"{name} {label}\n" for label, name in enumerate(names)))
    classes.write_text("".join(f"class {label}\n" for label in range(len(names))))
    _run(
        *("make_shards.py", "--list", listed, "--root", videos, "--classes", classes),
        *("--out", directory, *packing.options()),
    )
    repeat_shards(directory, num_samples)
    return directory


def repeat_shards(directory: Path, num_samples: int) -> None:
    """Let the manifest name the only tar again and again until there are enough samples."""
    manifest = load_manifest(directory)
    if len(manifest.shards) != 1:
        raise ShardError(f"{directory}: {len(manifest.shards)} shards, expected 1")
    (shard,) = manifest.shards
    shards = []
    for number in range(-(-num_samples // shard.num_samples)):
        copy = replace(shard, name=f"shard-{number:06d}.tar")
        for name, source in ((copy.name, shard.name), (copy.index_name, shard.index_name)):
            if name != source:
                (directory / name).symlink_to(source)
        shards.append(copy)
    times = len(shards)
    write_manifest(
        directory,
        replace(
            manifest,
            shards=tuple(shards),
            num_samples=manifest.num_samples * times,
            num_frames=manifest.num_frames * times,
            size_bytes=manifest.size_bytes * times,
        ),
    )


def _run(script: str, *arguments: str | Path) -> None:
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{script} failed: {done.stderr.strip() or done.stdout.strip()}")

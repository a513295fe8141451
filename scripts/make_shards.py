"""Pack a list of videos, or of frames, flow, images or parts of videos, into shards.

    python scripts/make_shards.py --list train.txt --root videos/ --classes classes.txt --out data/k400/train

With --source the list names something else than videos:
    videos  path label [label ...]                      any file that FFmpeg reads
    frames  dir num_frames label [label ...]            pictures dir/img_00001.jpg ...
    flow    dir num_frames label [label ...]            grey pictures dir/x_00001.jpg, dir/y_00001.jpg ...
    images  path label [label ...]                      single pictures
    parts   dir label num_parts positive [positive ...] an untrimmed video, dir/part_0.mp4 ...
With --with-offset frames and flow are clips: dir offset num_frames label [label ...]. A .json list holds
{"filename": path, "label": id or [ids]}, for directories {"frame_dir": ..., "total_frames": n, "label": ...}.

Killed at any moment and started again with the same command, it goes on where it was. Exit codes: 0 all
videos are packed, 3 finished but some were rejected (see rejected.jsonl), 2 refused, or stopped by a full
disk or the like (the reason is printed), 130 interrupted.
"""

import argparse
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from shards.encoding import EncodingOptions, PackedSample, Task, pack_video
from shards.jpeg import SUBSAMPLINGS
from shards.manifest import REJECTED, Manifest, ShardError, check_files
from shards.packing import Outcome, check_disk, estimate_bytes, pack
from shards.plan import Plan, make_plan
from shards.pool import WorkerPool, available_cores
from shards.progress import PackingError, ShardRecord, begin, claim_directory, load_records
from shards.size import EXAMPLES
from shards.source_format import KINDS, TEMPLATES, build_source_format
from shards.sources import SourceListError, load_sources
from shards.wording import counted

CODEC_OPTIONS = {"mjpeg": ("quality", "subsampling"), "h264": ("gop", "crf")}
PACKED, REFUSED, SOME_REJECTED, INTERRUPTED = 0, 2, 3, 130


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    defaults = EncodingOptions()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--list", type=Path, required=True, metavar="FILE", help="lines as --source says, or a .json list")
    add("--source", choices=KINDS, default="videos", help="what the list names (default: %(default)s)")
    add(
        "--template",
        help="file names in a directory, of number (flow: x or y, and number; default: "
        f"{', '.join(f'{kind} {template}' for kind, template in TEMPLATES.items())})",
    )
    add("--start-index", type=int, metavar="N", help="number of the first file (default: 1, of parts 0)")
    add("--with-offset", action="store_true", help="frames, flow: the list names clips of directories")
    add("--category", help="of a .json list whose labels are {category: [ids]}")
    add(
        "--root",
        type=Path,
        default=Path("."),
        metavar="DIR",
        help="what the paths are relative to (default: .)",
    )
    add("--classes", type=Path, metavar="FILE", help="class names, one a line")
    add("--out", type=Path, required=True, metavar="DIR", help="directory of the shards")
    add("--dataset", help="name for people (default: name of the directory that holds --out)")
    add("--split", help="name for people (default: name of the list without its suffix)")
    add("--codec", choices=("mjpeg", "h264"), default=defaults.codec, help="default: %(default)s")
    add("--size", default=defaults.size, help=f"stored size: {EXAMPLES} ... (default: %(default)s)")
    add(
        "--frame-stride",
        type=int,
        default=defaults.frame_stride,
        metavar="N",
        help="keep every N-th frame (default: 1)",
    )
    add("--quality", type=int, help=f"of mjpeg, 1 to 100 (default: {defaults.quality})")
    add("--subsampling", choices=SUBSAMPLINGS, help=f"of mjpeg (default: {defaults.subsampling})")
    add("--gop", type=int, help=f"of h264, frames a GOP (default: {defaults.gop})")
    add("--crf", type=int, help=f"of h264, 0 to 51, lower is better (default: {defaults.crf})")
    add("--samples-per-shard", type=int, default=250, metavar="N", help="default: %(default)s")
    add("--seed", type=int, default=0, help="of the order of the videos (default: %(default)s)")
    add("--workers", type=int, default=available_cores(), metavar="N", help="processes (default: all cores)")
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f"--workers {args.workers}: expected 1 or more")
    for name in CODEC_OPTIONS["h264" if args.codec == "mjpeg" else "mjpeg"]:
        if getattr(args, name) is not None:
            parser.error(f"--{name}: has no meaning for --codec {args.codec}; leave it out")
    return args


def plan_from(args: argparse.Namespace) -> Plan:
    source_format = build_source_format(
        args.source, template=args.template, start_index=args.start_index, with_offset=args.with_offset
    )
    encoding = EncodingOptions(
        source_format=source_format,
        codec=args.codec,
        size=args.size,
        frame_stride=args.frame_stride,
        **{name: value for name in CODEC_OPTIONS[args.codec] if (value := getattr(args, name)) is not None},
    )
    sources = load_sources(args.list, args.root, args.classes, source_format, category=args.category)
    if sources.num_left_out:
        print(
            f"left out without a label of category {args.category}: {counted(sources.num_left_out, 'sample')}"
        )
    return make_plan(
        args.out,
        sources,
        encoding=encoding,
        samples_per_shard=args.samples_per_shard,
        seed=args.seed,
        dataset=args.dataset or args.out.resolve().parent.name,
        split=args.split or args.list.stem,
    )


@dataclass
class Figures:
    """What this run packed, for the lines at the end."""

    num_videos: int = 0
    size_bytes: int = 0
    duration_s: float = 0.0
    worker_cpu_s: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.worker_cpu_s += outcome.cpu_s
        if isinstance(outcome, PackedSample):
            self.num_videos += 1
            self.size_bytes += outcome.size_bytes
            self.duration_s += outcome.duration_s or 0.0

    def report(self, wall_s: float, own_cpu_s: float, num_cores: int) -> str:
        rate = self.num_videos / wall_s
        busy = (self.worker_cpu_s + own_cpu_s) / (wall_s * num_cores)
        per_video = f"{self.size_bytes / self.num_videos / 1e6:.2f} MB a video"
        per_second = f"{self.size_bytes / self.duration_s / 1e3:.0f} KB" if self.duration_s else "? KB"
        return (
            f"{rate:.2f} videos/s, {rate / num_cores:.2f} videos/s per core "
            f"({num_cores} cores, {busy:.0%} busy), {per_video}, {per_second} a second of video"
        )


def run(plan: Plan, num_workers: int) -> int:
    """Pack, or go on packing; the exit code."""
    with claim_directory(plan.directory, plan.options) as finished:
        if finished:
            check_files(plan.directory, finished)
            see = f", rejected {finished.num_rejected} (see {plan.directory / REJECTED})"
            more = see if finished.num_rejected else ""
            print(f"{plan.directory} is packed already: {counted(finished.num_samples, 'video')}{more}")
            return SOME_REJECTED if finished.num_rejected else PACKED
        done = load_records(plan.directory)
        with WorkerPool(pack_video, num_workers) as pool:
            check_space(plan, done, pool)
            begin(plan.directory, plan.options)
            manifest = pack_with_bar(plan, done, pool, num_cores=min(num_workers, available_cores()))
    num_packed = manifest.num_samples if manifest else 0
    num_rejected = len(plan.sources) - num_packed
    see = f" (see {plan.directory / REJECTED})" if num_rejected else ""
    print(f"packed {counted(num_packed, 'video')}, rejected {num_rejected}{see}")
    return SOME_REJECTED if num_rejected else PACKED


def check_space(plan: Plan, done: dict[int, ShardRecord], pool: WorkerPool) -> None:
    needed_bytes = estimate_bytes(plan, done, pool)
    if needed_bytes is None:
        print("disk needed: unknown, the videos tried cannot be packed")
        return
    print(f"disk needed: about {needed_bytes / 1e9:.3g} GB", flush=True)
    check_disk(plan.directory, needed_bytes)


def pack_with_bar(
    plan: Plan, done: dict[int, ShardRecord], pool: WorkerPool, *, num_cores: int
) -> Manifest | None:
    figures = Figures()
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    before = sum(record.num_videos for record in done.values())
    with tqdm(total=len(plan.sources), initial=before, unit="video", smoothing=0.05) as bar:

        def on_video(task: Task, outcome: Outcome) -> None:
            figures.add(outcome)
            if not isinstance(outcome, PackedSample):
                bar.write(f"rejected {task.source.name}: {outcome.reason}", file=sys.stderr)
            bar.update()

        manifest = pack(plan, done, pool, on_video=on_video)
    if figures.num_videos:
        wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
        print(figures.report(wall_s, cpu_s, num_cores))
    return manifest


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave as after Ctrl-C
    try:
        return run(plan_from(args), args.workers)
    except (SourceListError, PackingError, ShardError, ValueError) as error:
        print(error, file=sys.stderr)
        return REFUSED
    except OSError as error:
        print(
            f"--out {args.out}: {error}; once that is mended, the same command goes on where it was",
            file=sys.stderr,
        )
        return REFUSED
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where it was", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())

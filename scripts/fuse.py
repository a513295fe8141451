"""Late fusion of tested models: `python scripts/fuse.py rgb.npz flow.npz --weights 1 1`.

Takes the files that `eval.py --scores` wrote, matches them by the videos' names, adds up their weighted
scores and measures the sum.  Published two-stream results are sums of raw logits: the default.
"""

import argparse
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import launch
from shards.wording import counted
from support.outputs import attempt, output_faults, print_lines, write_json
from tsn.checkpoint import file_sha256
from tsn.errors import UserError
from tsn.metrics import METRICS, compute_metrics, default_metrics, metric_of
from tsn.scores import Scores, fuse, match_names, read_scores, write_scores


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Add up the scores of several models, video by video.")
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="NPZ", help="files of eval.py --scores, two or more")
    add("--weights", nargs="+", type=float, metavar="W", help="factor of each file (default: 1 each)")
    add("--softmax", action="store_true", help="fuse probabilities instead of raw scores")
    add("--common", action="store_true", help="fuse the videos that are in all files, leave out the others")
    add("--name", help="of the published row that this is, for zoo.py list; kept in --result")
    add("--metrics", nargs="+", metavar="NAME", help=f"any of {', '.join(METRICS)}")
    add("--out", type=Path, metavar="NPZ", help="write names, labels and fused scores here")
    add("--result", type=Path, metavar="JSON", help="write the metrics and where they came from here")
    add("--overwrite", action="store_true", help="replace --out and --result where they exist")
    args = parser.parse_args(argv)
    args.metrics = list(dict.fromkeys(map(metric_of, args.metrics or [])))  # top1 is as good a name
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    weights = args.weights or [1.0] * len(args.files)
    check_arguments(args, weights)
    parts, lacks = match_names(read_all(args.files), common=args.common)
    first, scores = parts[0], fuse(parts, weights, softmax=args.softmax)
    metrics = compute_metrics(scores, first.labels, args.metrics or default_metrics(first.labels))
    faults = []
    if args.out:
        fused = Scores(str(args.out), first.names, first.labels, scores)
        write = partial(write_scores, args.out, fused, overwrite=args.overwrite)
        faults += attempt(f"--out {args.out}", write)
    if args.result:
        result = build_result(args, weights, metrics, len(scores), lacks)
        write = partial(write_json, args.result, result, overwrite=args.overwrite)
        faults += attempt(f"--result {args.result}", write)
    width = max(map(len, metrics))
    lines = [f"left out: {sentence}" for sentence in lacks]
    lines.append(describe(args.files, weights, softmax=args.softmax, num_videos=len(scores)))
    for name, value in metrics.items():
        lines.append(f"{name:<{width}}  {'undefined' if math.isnan(value) else format(value, '.4f')}")
    faults += attempt("standard output", partial(print_lines, lines))
    if faults:
        raise UserError("\n".join(faults))
    return 0


def check_arguments(args: argparse.Namespace, weights: Sequence[float]) -> None:
    """Refuse what cannot be done, before anything is read; all faults at once."""
    faults = []
    if len(args.files) < 2:
        faults.append("one file alone is not fused; eval.py --from-scores measures it")
    if len(weights) != len(args.files):
        faults.append(f"--weights: {len(weights)} numbers for {len(args.files)} files; give one for each")
    if not all(map(math.isfinite, weights)):
        faults.append(f"--weights {' '.join(map(str, weights))}: expected finite numbers")
    unknown = [name for name in args.metrics if name not in METRICS]
    faults += [f"--metrics {name}: unknown; known are {', '.join(METRICS)}" for name in unknown]
    faults += output_faults({"--out": args.out, "--result": args.result}, overwrite=args.overwrite)
    if faults:
        raise UserError("\n".join(faults))


def read_all(paths: Sequence[Path]) -> list[Scores]:
    """The files' scores; what is wrong with any of them is reported at once."""
    parts, faults = [], []
    for path in paths:
        try:
            parts.append(read_scores(path))
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))
    return parts


def describe(files: Sequence[Path], weights: Sequence[float], *, softmax: bool, num_videos: int) -> str:
    terms = " + ".join(f"{weight:g} x {path}" for path, weight in zip(files, weights, strict=True))
    return f"{terms}, {'probabilities' if softmax else 'raw scores'}, {counted(num_videos, 'video')}"


def build_result(
    args: argparse.Namespace,
    weights: Sequence[float],
    metrics: dict[str, float],
    num_videos: int,
    lacks: Sequence[str],
) -> dict[str, Any]:
    """What --result keeps; null in place of NaN, which JSON does not have."""
    return {
        "config_name": args.name,
        "num_samples": num_videos,
        "metrics": {name: None if math.isnan(value) else value for name, value in metrics.items()},
        "softmax": args.softmax,
        "left_out": list(lacks),
        "files": [
            {"path": str(path), "sha256": file_sha256(path), "weight": weight}
            for path, weight in zip(args.files, weights, strict=True)
        ],
    }


if __name__ == "__main__":
    launch.run_main(main)

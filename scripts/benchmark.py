"""How fast the parts of a run are on this machine, each beside what it could be at best.

    python scripts/benchmark.py loader --cfg k400.yaml
    python scripts/benchmark.py pipeline --json report.json --markdown report.md
    python scripts/benchmark.py model --cfg k400.yaml
    python scripts/benchmark.py train --cfg k400.yaml [--profile]
    python scripts/benchmark.py test --cfg k400.yaml
    python scripts/benchmark.py all --json report.json --markdown report.md

`loader`: the train pipeline of a config beside decoding alone and bare libjpeg-turbo, on the same pictures.
`pipeline`: storage formats, decoders, segments, threads and prefetch, one at a time; makes its own input.
`model`: parameters, multiply-adds, and videos a second of the network alone.
`train`: training on batches that lie on the device already, and on the real pipeline.
`test`: testing, decoding included.   `all`: these three, memory, backbones and a profile, of ResNet-50.
All but `loader` and `model` pack a few whole videos of their own.  Without a GPU, what needs one is listed as
not measured.
"""

import argparse
import json
import shlex
import sys
from functools import partial
from pathlib import Path

import launch
from support.machine import describe_machine
from support.outputs import output_faults

COMMANDS = ("loader", "pipeline", "model", "train", "test", "all")
LIMITS_S = {"pipeline": 270.0, "model": 270.0, "train": 270.0, "test": 270.0, "all": 440.0}
"""Time after which a command lists what is left as not measured."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("command", choices=COMMANDS)
    launch.add_config_arguments(parser, cfg_required=False)
    parser.add_argument("--batches", type=int, default=50, metavar="N", help="loader: batches a round (50)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="loader: rounds (5)")
    parser.add_argument("--quick", action="store_true", help="fewer lines, measured for a shorter time")
    parser.add_argument("--profile", action="store_true", help="train: the costliest operations of 50 steps")
    parser.add_argument(
        "--limit-s",
        type=float,
        metavar="S",
        help=f"what is left then is listed as not measured (default: {LIMITS_S})",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables here as well")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace --json and --markdown where they exist"
    )
    args = parser.parse_intermixed_args()
    if args.batches < 1 or args.rounds < 1:
        parser.error(f"--batches, --rounds: found {args.batches} and {args.rounds}, expected at least 1")
    if args.command in ("loader", "model", "train", "test") and args.cfg is None:
        parser.error(f"{args.command}: which config? give --cfg")
    if faults := output_faults({"--json": args.json, "--markdown": args.markdown}, overwrite=args.overwrite):
        parser.error("\n".join(faults))
    return args


def run_loader(args: argparse.Namespace) -> None:
    from support.bench_loader import benchmark_loader, print_loader

    figures = benchmark_loader(args)
    print_loader(figures)
    if args.json:
        run = {name: getattr(args, name) for name in ("command", "cfg", "overrides")}
        run |= {"num_rounds": args.rounds, "machine": describe_machine()}
        args.json.write_text(json.dumps(run | figures, indent=2) + "\n")


def run_tables(args: argparse.Namespace) -> None:
    from support.bench_pipeline import run_pipeline_benchmark
    from support.bench_report import write_report
    from support.bench_suite import run_suite

    limit_s = args.limit_s or LIMITS_S[args.command]
    save = partial(
        write_report,
        machine=describe_machine(),
        command=shlex.join(["python", "scripts/benchmark.py", *sys.argv[1:]]),
        as_json=args.json,
        markdown=args.markdown,
    )
    options = {"quick": args.quick, "limit_s": limit_s, "save": save}
    if args.command == "pipeline":
        sections = run_pipeline_benchmark(**options)
    else:
        sections = run_suite(args.command, args.cfg, args.overrides, profile=args.profile, **options)
    print(save(sections))


def main() -> int:
    args = parse_args()
    run_loader(args) if args.command == "loader" else run_tables(args)
    return 0


if __name__ == "__main__":
    launch.run_main(main)

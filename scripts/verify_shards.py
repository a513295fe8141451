"""Check a directory of shards: every checksum, member and index, and every frame decoded.

    python scripts/verify_shards.py data/k400/train

Prints each fault as `shard-000003.tar:00000123: what`. Exit codes: 0 all is well, 1 there are faults.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from shards.manifest import ShardError, load_manifest
from shards.pool import WorkerPool, available_cores
from shards.verify import check_shard, iter_reports
from shards.wording import counted


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="what make_shards.py wrote")
    parser.add_argument(
        "--workers", type=int, default=available_cores(), metavar="N", help="processes (default: all cores)"
    )
    args = parser.parse_args(argv)
    if args.workers < 1:
        parser.error(f"--workers {args.workers}: expected 1 or more")
    try:
        manifest = load_manifest(args.directory)
    except ShardError as error:
        print(error)
        return 1
    num_faults = 0
    with WorkerPool(check_shard, args.workers) as pool, tqdm(total=manifest.num_samples, unit="video") as bar:
        for report in iter_reports(args.directory, manifest, pool):
            for fault in report.faults:
                bar.write(fault, file=sys.stdout)
            num_faults += len(report.faults)
            bar.update(report.num_samples)
    faults = counted(num_faults, "fault") if num_faults else "no faults"
    print(f"{counted(manifest.num_samples, 'video')} in {counted(len(manifest.shards), 'shard')}: {faults}")
    return 1 if num_faults else 0


if __name__ == "__main__":
    sys.exit(main())

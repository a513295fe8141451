"""The whole main job on videos that the project draws itself: make, pack, train, test; the result as a table.

Every step is a command that a user would type, and is shown before it runs.  What is done already is not done
again, so an interrupted demo goes on where it was; `make clean` starts afresh.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "mini.yaml"
EPOCHS = 30
TEST_CROPS = 10
SHORT_SIDE, CROP_SIZE = 96, 80  # pixels: smaller than in the config, so that minutes are enough


def run(*command: str | Path) -> None:
    """Shows a command and runs it with this Python; ends the demo with its exit code where it fails."""
    words = [str(word) for word in command]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    code = subprocess.run([sys.executable, *words]).returncode
    if code:
        raise SystemExit(code)


def pack(videos: Path, split: str, shards: Path) -> None:
    """Packs one list at the size that the config trains with; make_shards.py knows what is done already."""
    run(
        *("scripts/make_shards.py", "--list", videos / f"{split}.txt", "--root", videos),
        *("--classes", videos / "classes.txt", "--size", f"short{SHORT_SIDE}", "--out", shards / split),
    )


def train(work_dir: Path, settings: list[str]) -> None:
    run("train.py", "--cfg", CONFIG, "--work-dir", work_dir / "run", "--resume", "auto", *settings)


def test(work_dir: Path) -> dict[str, float]:
    """Tests the best checkpoint; returns the metrics, fractions."""
    result = work_dir / "result.json"
    run(
        *("scripts/eval.py", "--checkpoint", work_dir / "run" / "best.pt"),
        *("--test-crops", str(TEST_CROPS), "--out", result, "--overwrite"),
    )
    return json.loads(result.read_text())["metrics"]


def print_table(metrics: dict[str, float], num_classes: int) -> None:
    """The metrics beside what guessing would give."""
    chance = {"top1": 1 / num_classes, "top5": 5 / num_classes, "mean_class_accuracy": 1 / num_classes}
    print(f"\n{'metric':22}{'chance':>8}{'this run':>10}")
    for name, guessed in chance.items():
        print(f"{name:22}{guessed:8.1%}{metrics[name]:10.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Makes, packs, trains and tests on a small set of drawn videos."
    )
    parser.add_argument("--work-dir", type=Path, default=Path("work/demo"), help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="default: %(default)s")
    parser.add_argument("--videos-per-class", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--val-per-class", type=int, default=6, help="default: %(default)s")
    args = parser.parse_args()
    os.chdir(ROOT)  # the commands that are shown are those of a user there

    videos, shards = args.work_dir / "videos", args.work_dir / "shards"
    if not (videos / "val.txt").exists():  # written last
        counts = (
            "--videos-per-class",
            str(args.videos_per_class),
            "--val-per-class",
            str(args.val_per_class),
        )
        run("scripts/make_demo_videos.py", "--out", videos, *counts)
    for split in ("train", "val"):
        pack(videos, split, shards)
    classes = (videos / "classes.txt").read_text().split()
    settings = [f"model.num_classes={len(classes)}", "model.dropout=0.2", "optim.lr=0.01"]
    settings += [f"schedule.epochs={args.epochs}"]
    for split, packed in (("train", "train"), ("val", "val"), ("test", "val")):
        settings.append(f"data.{split}.shards={shards / packed}")
        settings += [f"data.{split}.short_side={SHORT_SIDE}", f"data.{split}.crop_size={CROP_SIZE}"]
    train(args.work_dir, settings)
    print_table(test(args.work_dir), len(classes))


if __name__ == "__main__":
    main()

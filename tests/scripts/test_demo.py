"""The demo's recipe, small: every step runs, and a second time nothing is done again."""

import re
from pathlib import Path

from shard_factory import run_script


def run_demo(work_dir: Path) -> str:
    done = run_script(
        *(
            "demo.py",
            "--work-dir",
            work_dir,
            "--epochs",
            "1",
            "--videos-per-class",
            "2",
            "--val-per-class",
            "1",
        ),
        timeout_s=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_demo_ends_with_a_table_and_goes_on_where_it_was(tmp_path):
    first = run_demo(tmp_path / "demo")
    commands = re.findall(r"^\$ python (\S+)", first, flags=re.MULTILINE)
    packing = ["scripts/make_shards.py"] * 2
    assert commands == ["scripts/make_demo_videos.py", *packing, "train.py", "scripts/eval.py"]
    table = first.splitlines()[-4:]
    assert table[0].split() == ["metric", "chance", "this", "run"]
    assert [line.split()[:2] for line in table[1:]] == [
        ["top1", "11.1%"],
        ["top5", "55.6%"],
        ["mean_class_accuracy", "11.1%"],
    ]
    best = tmp_path / "demo" / "run" / "best.pt"
    written = best.stat().st_mtime_ns
    again = run_demo(tmp_path / "demo")
    assert "make_demo_videos.py" not in again
    assert again.count("is packed already") == 2
    assert best.stat().st_mtime_ns == written
    assert again.splitlines()[-4:] == table

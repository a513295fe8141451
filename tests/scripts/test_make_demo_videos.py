"""Demo videos as a user makes them: real files, balanced classes, the same bytes for the same seed."""

from collections import Counter
from pathlib import Path

import av
import pytest
from shard_factory import run_script

CODECS = {".mp4": "h264", ".mkv": "h264", ".avi": "mpeg4"}


def make(out: Path, *options: str) -> Path:
    done = run_script("make_demo_videos.py", "--out", out, *options)
    assert done.returncode == 0, done.stderr
    return out


def read_list(path: Path) -> list[tuple[str, int]]:
    return [(name, int(label)) for name, label in map(str.split, path.read_text().splitlines())]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    return make(out, "--videos-per-class", "3", "--val-per-class", "1", "--seed", "1")


def test_each_class_has_as_many_videos_as_asked_for(demo):
    classes = (demo / "classes.txt").read_text().split()
    assert len(set(classes)) == len(classes) == 9
    for split, per_class in (("train", 3), ("val", 1)):
        videos = read_list(demo / f"{split}.txt")
        assert Counter(label for _, label in videos) == dict.fromkeys(range(9), per_class)
        assert all(name.startswith(f"{split}/{classes[label]}_") for name, label in videos)


def test_a_class_is_a_pair_of_appearance_and_motion(demo):
    pairs = [name.rsplit("_", 1) for name in (demo / "classes.txt").read_text().split()]
    appearances, motions = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    assert len(appearances) == len(motions) == 3
    assert len(pairs) == 9


def test_files_are_ordinary_videos_of_several_sizes_rates_and_containers(demo):
    sizes, rates, suffixes = set(), set(), Counter()
    for name, _ in read_list(demo / "train.txt") + read_list(demo / "val.txt"):
        with av.open(str(demo / name)) as container:
            stream = container.streams.video[0]
            num_frames = sum(1 for _ in container.decode(stream))
            assert stream.codec_context.name == CODECS[Path(name).suffix], name
            sizes.add((stream.width, stream.height))
            rates.add(stream.average_rate)
        assert 30 <= num_frames <= 90, name
        suffixes[Path(name).suffix] += 1
    assert len(sizes) >= 4
    assert all(min(size) >= 120 and max(size) <= 426 for size in sizes)
    assert len(rates) >= 4
    assert suffixes == {".mp4": 9 + 9, ".mkv": 9, ".avi": 9}


def test_a_seed_gives_the_same_bytes_whatever_the_number_of_videos(demo, tmp_path):
    make(tmp_path, "--videos-per-class", "2", "--val-per-class", "1", "--seed", "1")
    names = [name for split in ("train", "val") for name, _ in read_list(tmp_path / f"{split}.txt")]
    assert len(names) == 18 + 9  # mp4 and mkv, whose ids are random unless told otherwise
    for name in names:
        assert (tmp_path / name).read_bytes() == (demo / name).read_bytes(), name


def test_another_seed_and_split_give_other_videos(demo, tmp_path):
    make(tmp_path, "--videos-per-class", "1", "--val-per-class", "1", "--seed", "2")
    contents = [path.read_bytes() for path in sorted(demo.rglob("*_000.mp4"))]
    contents += [path.read_bytes() for path in sorted(tmp_path.rglob("*_000.mp4"))]
    assert len(set(contents)) == len(contents) == 4 * 9


def test_less_than_one_video_is_refused(tmp_path):
    done = run_script("make_demo_videos.py", "--out", tmp_path / "demo", "--videos-per-class", "0")
    assert done.returncode == 2
    assert "--videos-per-class: found 0, expected at least 1" in done.stderr
    assert not (tmp_path / "demo").exists()

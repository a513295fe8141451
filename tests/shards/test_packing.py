import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import av
import numpy as np
import pytest
from pool_functions import DEADLY, pack_video_or_die
from shard_factory import PROJECT, pack_videos, run_script, write_video_list
from video_factory import read_number

from shards.encoding import EncodingOptions, pack_video
from shards.manifest import check_files, load_manifest
from shards.packing import check_disk, estimate_bytes, pack
from shards.plan import make_plan
from shards.pool import WorkerPool
from shards.progress import PackingError, claim_directory, load_records
from shards.reading import ShardDataset
from shards.sources import load_sources

NUM_FRAMES = {f"v{i:02d}.{suffix}": 5 + i for i, suffix in enumerate(["mp4", "mkv", "avi"] * 4)}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_video_list(tmp_path_factory.mktemp("videos"), NUM_FRAMES)


@pytest.fixture(scope="module")
def packed(videos, tmp_path_factory):
    return pack_videos(videos, tmp_path_factory.mktemp("packed") / "train", "--samples-per-shard", "5")


def contents(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def plan_for(videos, directory, **options):
    source_list = load_sources(videos.list, videos.root, videos.classes)
    options = {"samples_per_shard": 5, "seed": 0, "encoding": EncodingOptions()} | options
    return make_plan(directory, source_list, dataset="d", split="train", **options)


def test_a_directory_holds_what_its_manifest_says(packed):
    manifest = load_manifest(packed)
    check_files(packed, manifest)
    names = {name for shard in manifest.shards for name in (shard.name, shard.index_name)}
    assert set(contents(packed)) == names | {"manifest.json", "rejected.jsonl"}
    assert [shard.num_samples for shard in manifest.shards] == [5, 5, 2]
    assert (manifest.num_samples, manifest.num_rejected, manifest.num_classes) == (12, 0, 3)
    assert (manifest.num_frames, manifest.max_num_frames) == (sum(NUM_FRAMES.values()), 16)
    assert (manifest.max_width, manifest.max_height, manifest.min_short_side) == (64, 48, 48)
    assert (manifest.max_padded_height, manifest.mcu_height, manifest.multi_label) == (48, 8, False)
    assert (manifest.split, manifest.codec, manifest.modality) == ("train", "mjpeg", "rgb")
    assert manifest.classes == ("class 0", "class 1", "class 2")
    assert manifest.options["quality"] == 85 and len(manifest.options["list_sha256"]) == 64
    assert (packed / "rejected.jsonl").read_text() == ""


def test_every_frame_of_every_video_is_there(packed):
    dataset = ShardDataset(packed)
    pairs = dataset.keys_and_names()
    assert sorted(name for _, name in pairs) == sorted(NUM_FRAMES)
    assert [key for key, _ in pairs] == [f"{i:08d}" for i in range(12)]
    assert [name for _, name in pairs] != sorted(NUM_FRAMES)  # shuffled
    for key, name in pairs:
        first = 50 * list(NUM_FRAMES).index(name)
        frames = dataset.read_sample(key).decode(list(range(NUM_FRAMES[name])))
        assert [read_number(frame) for frame in frames] == list(range(first, first + NUM_FRAMES[name]))


def test_order_is_a_function_of_seed_and_names(videos, tmp_path):
    def names(seed):
        return [source.name for source in plan_for(videos, tmp_path, seed=seed).sources]

    assert names(0) == names(0) != names(1)
    assert sorted(names(0)) == sorted(names(1)) == sorted(NUM_FRAMES)


def test_plain_webdataset_reads_it(packed):
    webdataset = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(packed.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == [f"{i:08d}" for i in range(12)]
    for sample in samples:
        assert sample["json"]["labels"] == [sample["cls"]] == sample["label.npy"].tolist()
        assert sample["frames.npy"].shape == (NUM_FRAMES[sample["json"]["name"]], 2)


def test_streams_are_ordinary_files_to_ffmpeg(packed, tmp_path):
    with tarfile.open(packed / "shard-000000.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    for path in tmp_path.glob("*.mjpeg"):
        name = json.loads(path.with_suffix(".json").read_text())["name"]
        with av.open(str(path)) as container:
            numbers = [read_number(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
        first = 50 * list(NUM_FRAMES).index(name)
        assert numbers == list(range(first, first + NUM_FRAMES[name]))


def test_members_depend_on_neither_time_nor_user(packed):
    with tarfile.open(packed / "shard-000000.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, 0, "", "", 0o444)}
        tar_names = [m.name for m in tar][:7]
    members = ["meta.npy", "frames.npy", "head", "label.npy", "cls", "json", "mjpeg"]
    assert tar_names == [f"00000000.{name}" for name in members]


@pytest.mark.parametrize("options", [(), ("--codec", "h264", "--size", "short32")])
def test_bytes_do_not_depend_on_the_number_of_workers(videos, tmp_path, options):
    one = pack_videos(videos, tmp_path / "one", "--samples-per-shard", "5", "--workers", "1", *options)
    three = pack_videos(videos, tmp_path / "three", "--samples-per-shard", "5", "--workers", "3", *options)
    assert contents(one) == contents(three)


@pytest.mark.parametrize(
    "sign",
    [
        "plan.json",
        "shard-000000.tar.tmp",
        "shard-000000.idx",
        "0.json",
        "shard-000001.tar",
        "rejected.jsonl",
        "manifest.json",
    ],
)
def test_killed_and_started_again_gives_the_same_bytes(videos, packed, tmp_path, sign):
    out = tmp_path / "train"
    arguments = [*videos.arguments, "--out", str(out), "--samples-per-shard", "5", "--workers", "2"]
    arguments += ["--dataset", load_manifest(packed).dataset]
    script = str(PROJECT / "scripts" / "make_shards.py")
    process = subprocess.Popen(
        [sys.executable, script, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=PROJECT,
    )
    deadline = time.monotonic() + 60
    while process.poll() is None and not list(out.rglob(sign)) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.wait()
    for path in out.glob("shard-*.tar"):
        with tarfile.open(path) as tar:
            assert len({m.name.split(".")[0] for m in tar}) == (5 if path.stem < "shard-000002" else 2)
    done = run_script("make_shards.py", *arguments)
    assert done.returncode == 0, done.stderr
    assert contents(out) == contents(packed)


def test_finished_shards_are_not_packed_again(videos, packed, tmp_path):
    plan = plan_for(videos, tmp_path / "out")
    names = []
    with claim_directory(plan.directory, plan.options), WorkerPool(pack_video, 2) as pool:
        pack(plan, {}, pool, on_video=lambda task, outcome: None)
        done = load_records(plan.directory)
        del done[1]
        assert estimate_bytes(plan, done, pool) < load_manifest(packed).size_bytes * 0.7
        pack(plan, done, pool, on_video=lambda task, outcome: names.append(task.source.name))
    assert names == [source.name for source in plan.sources[5:10]]
    tars = {name: content for name, content in contents(packed).items() if name.endswith(".tar")}
    assert tars.items() <= contents(plan.directory).items()


def test_a_finished_directory_is_left_alone(videos, packed):
    before = {path: path.stat().st_mtime_ns for path in packed.iterdir()}
    done = run_script("make_shards.py", *videos.arguments, "--out", packed, "--samples-per-shard", "5")
    assert (done.returncode, done.stdout) == (0, f"{packed} is packed already: 12 videos\n")
    assert {path: path.stat().st_mtime_ns for path in packed.iterdir()} == before


@pytest.mark.parametrize(
    "options", [("--codec", "h264", "--quality", "90"), ("--subsampling", "444", "--gop", "4")]
)
def test_options_of_the_other_codec_are_refused(videos, tmp_path, options):
    done = run_script("make_shards.py", *videos.arguments, "--out", tmp_path / "out", *options)
    assert done.returncode == 2
    assert "has no meaning for --codec" in done.stderr
    assert not (tmp_path / "out").exists()


def test_another_command_into_a_finished_directory_is_refused(videos, packed):
    before = contents(packed)
    options = ["--samples-per-shard", "5", "--quality", "90", "--seed", "1"]
    done = run_script("make_shards.py", *videos.arguments, "--out", packed, *options)
    assert done.returncode == 2
    assert (
        "holds a finished set packed with quality=85 (now 90), seed=0 (now 1); give the same" in done.stderr
    )
    assert contents(packed) == before


def test_other_source_files_are_refused_and_the_same_under_another_root_are_not(videos, packed, tmp_path):
    root = shutil.copytree(videos.root, tmp_path / "videos")
    arguments = ["--list", videos.list, "--root", root, "--classes", videos.classes, "--out", packed]
    done = run_script("make_shards.py", *arguments, "--samples-per-shard", "5")
    assert (done.returncode, done.stdout) == (0, f"{packed} is packed already: 12 videos\n")
    (root / "v03.mp4").write_bytes((root / "v06.mp4").read_bytes())
    done = run_script("make_shards.py", *arguments, "--samples-per-shard", "5")
    assert done.returncode == 2
    assert done.stderr == (
        f"--out {packed} holds a finished set packed with source files of other names or sizes than now; "
        "put these files back, or give another --out, or delete the directory\n"
    )


def test_a_finished_directory_that_lost_a_file_is_not_called_packed(videos, packed, tmp_path):
    out = shutil.copytree(packed, tmp_path / packed.parent.name / "train")
    (out / "shard-000001.tar").unlink()
    done = run_script("make_shards.py", *videos.arguments, "--out", out, "--samples-per-shard", "5")
    assert (done.returncode, done.stdout) == (2, "")
    assert "shard-000001.tar: no such file" in done.stderr


def test_rejected_videos_are_told_and_the_rest_is_packed(videos, packed, tmp_path):
    root = shutil.copytree(videos.root, tmp_path / "videos")
    (root / "v03.mp4").write_text("not a video")
    (root / "v04.mkv").write_bytes((videos.root / "v04.mkv").read_bytes()[:300])
    out = tmp_path / "train"
    arguments = ["--list", videos.list, "--root", root, "--classes", videos.classes, "--out", out]
    done = run_script("make_shards.py", *arguments, "--samples-per-shard", "5")
    assert done.returncode == 3
    assert done.stdout.splitlines()[-1] == f"packed 10 videos, rejected 2 (see {out}/rejected.jsonl)"
    assert "rejected v03.mp4: FFmpeg cannot decode it" in done.stderr
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert {line["name"] for line in lines} == {"v03.mp4", "v04.mkv"}
    assert all(line["reason"] and line["labels"] for line in lines)
    ids_of_all = {name: key for key, name in ShardDataset(packed).keys_and_names()}
    assert all(int(ids_of_all[line["name"]]) == line["sample_id"] for line in lines)
    ids = {name: key for key, name in ShardDataset(out).keys_and_names()}
    assert ids == {name: key for name, key in ids_of_all.items() if name in ids}  # they leave gaps
    assert load_manifest(out).num_rejected == 2
    again = run_script("make_shards.py", *arguments, "--samples-per-shard", "5")
    assert again.returncode == 3
    assert again.stdout == f"{out} is packed already: 10 videos, rejected 2 (see {out}/rejected.jsonl)\n"


def test_a_video_whose_process_dies_is_rejected_and_the_rest_is_packed(videos, packed, tmp_path):
    plan = plan_for(videos, tmp_path / "out")
    outcomes = []
    with claim_directory(plan.directory, plan.options), WorkerPool(pack_video_or_die, 2) as pool:
        manifest = pack(plan, {}, pool, on_video=lambda task, outcome: outcomes.append(task.source.name))
    assert (manifest.num_samples, manifest.num_rejected) == (11, 1)
    assert outcomes == [source.name for source in plan.sources]
    (line,) = (plan.directory / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == DEADLY
    assert json.loads(line)["reason"] == "its process was killed by SIGKILL"


def test_a_list_without_one_good_video_makes_no_manifest(tmp_path):
    videos = write_video_list(tmp_path, {"a.mp4": 2})
    (videos.root / "a.mp4").write_text("not a video")
    for _ in range(2):  # again, it goes on from the end
        done = run_script("make_shards.py", *videos.arguments, "--out", tmp_path / "out")
        assert done.returncode == 3
        assert "packed 0 videos, rejected 1 (see" in done.stdout
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not list((tmp_path / "out").glob("shard-*"))


def test_a_shard_of_rejected_videos_is_left_out(videos, packed, tmp_path):
    root = shutil.copytree(videos.root, tmp_path / "videos")
    for key, name in ShardDataset(packed).keys_and_names():
        if 5 <= int(key) < 10:
            (root / name).write_text("not a video")
    arguments = [
        "--list",
        videos.list,
        "--root",
        root,
        "--classes",
        videos.classes,
        "--out",
        tmp_path / "out",
    ]
    assert run_script("make_shards.py", *arguments, "--samples-per-shard", "5").returncode == 3
    shards = load_manifest(tmp_path / "out").shards
    assert [(s.name, s.num_samples) for s in shards] == [("shard-000000.tar", 5), ("shard-000002.tar", 2)]


def test_several_labels(tmp_path):
    videos = write_video_list(tmp_path, {"a.mp4": 2, "b.mp4": 2}, labels={"a.mp4": [0, 2], "b.mp4": [1]})
    dataset = ShardDataset(pack_videos(videos, tmp_path / "out"))
    assert dataset.manifest.multi_label
    labels = {name: dataset.read_sample(key).labels for key, name in dataset.keys_and_names()}
    assert labels == {"a.mp4": (0, 2), "b.mp4": (1,)}


def test_odd_sizes_and_two_frames(tmp_path):
    videos = write_video_list(tmp_path, {"a b.mp4": 2, "c.mkv": 9}, size=(35, 27))
    for codec in ("mjpeg", "h264"):
        dataset = ShardDataset(pack_videos(videos, tmp_path / codec, "--codec", codec))
        for key, name in dataset.keys_and_names():
            frames = dataset.read_sample(key).decode([1, 0])
            first = 50 if name == "c.mkv" else 0
            assert frames.shape == (2, 27, 35, 3)
            assert [read_number(frame) for frame in frames] == [first + 1, first]


def test_faults_of_the_list_come_before_anything_is_written(videos, tmp_path):
    (tmp_path / "list.txt").write_text("v00.mp4 0\nv01.mkv 7\nnone.mp4 1\n")
    arguments = ["--list", tmp_path / "list.txt", "--root", videos.root, "--out", tmp_path / "out"]
    done = run_script("make_shards.py", *arguments, "--classes", videos.classes)
    assert done.returncode == 2
    assert "list.txt:2: label 7: expected 0..2" in done.stderr and "list.txt:3: " in done.stderr
    assert "no class file" in run_script("make_shards.py", *arguments).stderr
    assert not (tmp_path / "out").exists()


def test_disk_is_estimated_from_a_few_videos(videos, packed, tmp_path):
    plan = plan_for(videos, tmp_path)
    with WorkerPool(pack_video, 2) as pool:
        estimated = estimate_bytes(plan, {}, pool)
    assert estimated == pytest.approx(load_manifest(packed).size_bytes, rel=0.25)


def test_too_little_disk_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "shards.packing.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 100_000_000)
    )
    check_disk(tmp_path, 90_000_000)
    with pytest.raises(PackingError, match=r"about 0.099 GB are needed and 0.1 GB are free; free some"):
        check_disk(tmp_path, 99_000_000)


def test_interrupted_it_says_that_the_same_command_goes_on(videos, tmp_path):
    root, names = tmp_path / "videos", sorted(path.name for path in videos.root.iterdir())
    root.mkdir()
    many = [
        f"{copy:02d}_{name}" for copy in range(25) for name in names
    ]  # seconds of work: time to interrupt
    for name in many:
        (root / name).symlink_to(videos.root / name[3:])
    (tmp_path / "list.txt").write_text("".join(f"{name} 0\n" for name in many))
    out = tmp_path / "train"
    arguments = ["--list", str(tmp_path / "list.txt"), "--root", str(root), "--classes", str(videos.classes)]
    arguments += ["--out", str(out), "--samples-per-shard", "100", "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "scripts" / "make_shards.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        start_new_session=True,
        # A shell's background job, which this test may run in, ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while process.poll() is None and not list(out.rglob("plan.json")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted: the same command goes on where it was"
    assert "Traceback" not in errors
    assert not list(out.glob("*.tmp"))
    done = run_script("make_shards.py", *arguments)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"packed {len(many)} videos, rejected 0")


def test_on_a_full_disk_it_says_that_the_same_command_goes_on(videos, packed, tmp_path):
    out = tmp_path / packed.parent.name / "train"
    command = [sys.executable, str(PROJECT / "scripts" / "make_shards.py"), *videos.arguments]
    command += ["--out", str(out), "--samples-per-shard", "5"]
    most_bytes = min(path.stat().st_size for path in packed.glob("*.tar")) - 10_000

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    full = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, preexec_fn=limit_files)
    assert full.returncode == 2 and "Traceback" not in full.stderr
    assert full.stderr.splitlines()[-1] == (
        f"--out {out}: [Errno 27] File too large; once that is mended, the same command goes on where it was"
    )
    assert [path.name for path in out.iterdir()] == [".progress"]
    pack_videos(videos, out, "--samples-per-shard", "5")
    assert contents(out) == contents(packed)


def test_figures_at_the_end(videos, tmp_path):
    done = run_script("make_shards.py", *videos.arguments, "--out", tmp_path / "out")
    first, figures, last = done.stdout.splitlines()
    assert first.startswith("disk needed: about 0.00")
    assert last == "packed 12 videos, rejected 0"
    for part in ("videos/s,", "videos/s per core (", "busy)", "MB a video", "KB a second of video"):
        assert part in figures
    assert "12/12" in done.stderr


def test_samples_per_shard_must_be_positive(videos, tmp_path):
    with pytest.raises(ValueError, match="--samples-per-shard 0: expected 1 or more"):
        plan_for(videos, tmp_path, samples_per_shard=0)


def test_stored_frames_stay_close_to_the_source(packed):
    from video_factory import numbered_frame

    dataset = ShardDataset(packed)
    key, name = dataset.keys_and_names()[0]
    (frame,) = dataset.read_sample(key).decode([2])
    expected = numbered_frame(50 * list(NUM_FRAMES).index(name) + 2).astype(np.float64)
    assert abs((frame - expected).mean(axis=(0, 1))).max() < 2.5

import io
import json
import re
import shutil
import tarfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from picture_factory import write_numbered_flow, write_numbered_parts
from shard_factory import pack_here, pack_videos, run_script, write_video_list

from shards.encoding import EncodingOptions
from shards.index import format_index, load_index
from shards.manifest import load_manifest, write_manifest
from shards.source_format import build_source_format
from shards.verify import check_shard, iter_reports
from shards.writing import ShardWriter


@pytest.fixture(scope="module", params=["mjpeg", "h264"])
def packed(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    videos = write_video_list(directory, {f"{name}.mp4": 9 for name in "abcde"})
    return pack_videos(videos, directory / "out", "--codec", request.param, "--samples-per-shard", "3")


@pytest.fixture
def directory(packed, tmp_path):
    """A copy that a test may damage: three samples in shard 0, two in shard 1."""
    return shutil.copytree(packed, tmp_path / "shards")


def faults_of(directory):
    in_this_process = SimpleNamespace(run_in_order=lambda tasks: map(check_shard, tasks))
    reports = list(iter_reports(directory, load_manifest(directory), in_this_process))
    return [fault for report in reports for fault in report.faults]


def position(directory, shard, key, member):
    index = load_index(directory / f"{shard}.idx")
    return next(m for m in index[key] if m.name == member)


def overwrite(path, offset, content):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(content)


def rewrite(directory, shard, change):
    """Write a shard anew with changed members, and a manifest that fits it."""
    index = load_index(directory / f"{shard}.idx")
    content = (directory / f"{shard}.tar").read_bytes()
    writer = ShardWriter(directory, f"{shard}.tar")
    for key, members in index.items():
        writer.add(key, change(key, {m.name: content[m.offset : m.offset + m.size_bytes] for m in members}))
    file = writer.close()
    manifest = load_manifest(directory)
    shards = tuple(file if old.name == file.name else old for old in manifest.shards)
    write_manifest(directory, replace(manifest, shards=shards))


def test_a_sound_directory_has_no_faults(packed):
    done = run_script("verify_shards.py", packed)
    assert (done.returncode, done.stdout) == (0, "5 videos in 2 shards: no faults\n")
    assert "5/5" in done.stderr


def test_the_script_prints_each_fault(directory):
    codec = load_manifest(directory).codec
    stream = position(directory, "shard-000001", "00000004", codec)
    overwrite(directory / "shard-000001.tar", stream.offset + stream.size_bytes - 40, bytes(30))
    done = run_script("verify_shards.py", directory, "--workers", "2")
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert lines[0] == "shard-000001.tar: sha256 differs from the manifest's"
    assert lines[1].startswith(f"shard-000001.tar:00000004: {codec}: damaged, its checksum differs")
    assert lines[-1] == f"5 videos in 2 shards: {len(lines) - 1} faults"


def test_a_missing_tar_is_named(directory):
    (directory / "shard-000000.tar").unlink()
    faults = faults_of(directory)
    assert faults[0] == "shard-000000.tar: no such file"
    assert "manifest.json: num_samples is 5, the shards hold 2" in faults


def test_a_cut_off_tar_is_named(directory):
    path = directory / "shard-000000.tar"
    codec = load_manifest(directory).codec
    stream = position(directory, "shard-000000", "00000002", codec)
    size_bytes = path.stat().st_size
    path.write_bytes(path.read_bytes()[: stream.offset + 100])
    faults = faults_of(directory)
    assert f"shard-000000.tar: {stream.offset + 100} bytes, the manifest says {size_bytes}" in faults
    assert "shard-000000.tar: broken tar: unexpected end of data" in faults
    assert any(fault.startswith("shard-000000.tar:00000002: ") for fault in faults)


def test_a_member_beyond_any_file_is_a_broken_tar(directory):
    path = directory / "shard-000000.tar"
    header = tarfile.TarInfo("00000000.meta.npy")
    header.size = 2**80
    overwrite(path, 0, header.tobuf(tarfile.GNU_FORMAT))
    assert any(fault.startswith("shard-000000.tar: broken tar: ") for fault in faults_of(directory))


def test_a_wrong_index_is_named(packed, directory):
    path = directory / "shard-000000.idx"
    shutil.copy(directory / "shard-000001.idx", path)
    faults = faults_of(directory)
    assert "shard-000000.tar: sha256 of shard-000000.idx differs from the manifest's" in faults
    assert "shard-000000.idx: does not fit its tar at sample 00000000 and 4 others" in faults
    path.write_text(format_index(list(load_index(packed / path.name).items())[:1]))
    assert "shard-000000.idx: does not fit its tar at sample 00000001 and 1 other" in faults_of(directory)
    path.write_text("nonsense")
    assert any(
        f.startswith("shard-000000.idx: not an index: shard-000000.idx: starts with")
        for f in faults_of(directory)
    )
    path.unlink()
    assert "shard-000000.idx: no such file" in faults_of(directory)


def test_samples_of_an_index_in_another_order_are_named(directory):
    path = directory / "shard-000001.idx"
    first, *lines = path.read_text().splitlines()
    path.write_text("\n".join([first, *reversed(lines)]) + "\n")
    assert "shard-000001.idx: its samples stand in another order than in the tar" in faults_of(directory)


def test_a_file_that_the_manifest_does_not_know_is_named(directory):
    shutil.copy(directory / "shard-000001.tar", directory / "shard-000007.tar")
    assert faults_of(directory) == ["shard-000007.tar: not in the manifest"]


@pytest.mark.parametrize("name", ["meta.npy", "frames.npy", "head", "label.npy", "cls", "json"])
def test_a_missing_member_is_named(directory, name):
    def without(key, members):
        return {k: v for k, v in members.items() if k != name or key != "00000001"}

    rewrite(directory, "shard-000000", without)
    assert faults_of(directory)[0].startswith(f"shard-000000.tar:00000001: {name}: no such member")


def change_json(members, **values):
    return members | {"json": json.dumps(json.loads(members["json"]) | values).encode()}


def npy(array):
    target = io.BytesIO()
    np.save(target, array)
    return target.getvalue()


def changed_meta(members, place, value):
    meta = np.load(io.BytesIO(members["meta.npy"]))
    meta[place] = value
    return members | {"meta.npy": npy(meta)}


LABEL_9 = {"label.npy": npy(np.array([9])), "cls": b"9"}


def damaged_npy(old, new):
    """Replace a piece of the header of label.npy, whose length stays."""
    assert len(old) == len(new)
    return lambda members: members | {"label.npy": members["label.npy"].replace(old, new, 1)}


def archive():
    target = io.BytesIO()
    np.savez(target, np.arange(3))
    return target.getvalue()


def cut_header(members):
    """The frame segment of the first JPEG header ends before its components; a comment takes their place."""
    stream = members["mjpeg"]
    start = stream.index(b"\xff\xc0")
    comment = b"\xff\xfe\0\x0a" + bytes(8)
    cut = stream[:start] + b"\xff\xc0\0\x05" + stream[start + 4 : start + 7] + comment
    return members | {"mjpeg": cut + stream[start + 19 :]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged_npy(b"(1,)", b"(1, "), "label.npy: not a numpy array: "),
        (damaged_npy(b"'<i8'", b"'<i8 "), "label.npy: not a numpy array: "),
        (damaged_npy(b"'descr'", b"      4"), "label.npy: not a numpy array: "),
        (lambda m: m | {"label.npy": archive()}, "label.npy: not a numpy array: an archive of arrays"),
        (lambda m: m | {"json": b"[1, 2]"}, "json: a list, expected an object"),
        (lambda m: m | {"json": b"[" * 100_000}, "json: not JSON: "),
    ],
)  # fmt: skip
def test_damage_of_any_kind_is_a_fault_of_its_sample(directory, change, message):
    rewrite(directory, "shard-000000", lambda key, members: change(members) if key == "00000001" else members)
    fault, *totals = faults_of(directory)
    assert fault.startswith(f"shard-000000.tar:00000001: {message}")
    assert totals == ["manifest.json: num_frames is 45, the shards hold 36"]


def test_a_cut_jpeg_header_is_a_fault_of_its_sample(directory):
    if load_manifest(directory).codec != "mjpeg":
        pytest.skip("h264 has no JPEG header")
    rewrite(directory, "shard-000000", lambda key, m: cut_header(m) if key == "00000001" else m)
    assert any(
        fault.startswith("shard-000000.tar:00000001: mjpeg: broken JPEG header: a frame segment of 3 bytes")
        for fault in faults_of(directory)
    )


def test_a_check_that_fails_is_a_fault_of_its_sample(directory, monkeypatch):
    def fail(sample):
        raise RuntimeError("what nobody foresaw")

    monkeypatch.setattr("shards.verify._decode_faults", fail)
    assert faults_of(directory) == [
        f"shard-00000{i // 3}.tar:0000000{i}: cannot be checked: RuntimeError: what nobody foresaw"
        for i in range(5)
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: change_json(m, stream_crc32=7), "damaged, its checksum differs from stream_crc32 in json"),
        (lambda m: change_json(m, labels=[2, 1]), "label.npy: .*, json says \\[2, 1\\]"),
        (lambda m: m | {"cls": b"77"}, "cls: b'77', label.npy says"),
        (lambda m: change_json(m, labels=[9]) | LABEL_9, "label.npy: \\[9\\], the manifest has 3 classes"),
        (lambda m: changed_meta(m, 0, 99), "meta.npy: sample_id 99 does not belong to this key"),
        (lambda m: changed_meta(m, 1, 0), "frames.npy: meta.npy has impossible sizes"),
        (lambda m: changed_meta(m, 1, 90), "frames.npy: shape .*, expected"),
        (lambda m: changed_meta(m, 2, 48), "decode to|damaged"),
        (lambda m: m | {"frames.npy": npy(np.array([[0, 2**30]], np.int32).repeat(9, 0))}, "frames.npy: "),
        (lambda m: dict(reversed(m.items())), "members (mjpeg|h264), json, .*; expected meta.npy, "),
        (lambda m: m | {"extra": b""}, "members .*extra; expected"),
    ],
)  # fmt: skip
def test_members_that_contradict_each_other_are_named(directory, change, message):
    rewrite(directory, "shard-000000", lambda key, members: change(members) if key == "00000001" else members)
    faults = faults_of(directory)
    assert faults and all(
        f.startswith(("shard-000000.tar:00000001: ", "manifest.json: num_frames")) for f in faults
    )
    assert re.search(f"shard-000000.tar:00000001: .*{message}", "\n".join(faults))


def test_a_head_of_other_pictures_is_named(directory):
    if load_manifest(directory).codec != "mjpeg":
        pytest.skip("h264 has no head")

    def change(key, members):
        head = bytearray(members["head"])
        head[25] ^= 1  # a quantisation table
        return members | {"head": bytes(head)}

    rewrite(directory, "shard-000001", change)
    assert "shard-000001.tar:00000003: head: does not belong to the pictures of the stream" in faults_of(
        directory
    )


@pytest.mark.parametrize("samples_per_check", [1, 2, 3, 32])
def test_checks_of_a_few_samples_find_the_same(directory, monkeypatch, samples_per_check):
    rewrite(directory, "shard-000000", lambda key, members: members | {"cls": b"77"})
    monkeypatch.setattr("shards.verify._SAMPLES_PER_CHECK", samples_per_check)
    faults = faults_of(directory)
    assert [fault[:30] for fault in faults] == [f"shard-000000.tar:0000000{i}: cls" for i in range(3)]
    (directory / "shard-000001.tar").unlink()
    assert faults_of(directory)[3:] == [
        "shard-000001.tar: no such file",
        "manifest.json: num_samples is 5, the shards hold 3",
        "manifest.json: num_frames is 45, the shards hold 27",
    ]


def test_the_list_of_what_was_rejected_is_checked(directory):
    (directory / "rejected.jsonl").write_text("{}\n")
    assert faults_of(directory) == ["rejected.jsonl: sha256 differs from the manifest's"]
    (directory / "rejected.jsonl").unlink()
    assert faults_of(directory) == ["rejected.jsonl: no such file"]


@pytest.fixture
def flow(tmp_path):
    """Two samples of flow, in one shard."""
    for name in "ab":
        write_numbered_flow(tmp_path / name, range(4))
    encoding = EncodingOptions(source_format=build_source_format("flow"))
    return pack_here(tmp_path / "flow", ["a 4 0", "b 4 1"], tmp_path, encoding)


def test_one_is_counted_in_the_singular(flow):
    (flow / "shard-000000.idx").unlink()
    done = run_script("verify_shards.py", flow, "--workers", "1")
    assert done.stdout == "shard-000000.idx: no such file\n2 videos in 1 shard: 1 fault\n"


def test_flow_is_checked(flow):
    assert faults_of(flow) == []
    write_manifest(flow, replace(load_manifest(flow), modality="rgb"))
    assert faults_of(flow) == [
        f"shard-000000.tar:0000000{i}: head: grey pictures in shards of rgb" for i in "01"
    ]


def test_flow_that_lacks_pictures_is_named(flow):
    rewrite(flow, "shard-000000", lambda key, members: changed_meta(members, 1, 3))
    assert "shard-000000.tar:00000000: frames.npy: shape (8, 2), expected (6, 2)" in faults_of(flow)


@pytest.fixture
def parted(tmp_path):
    """One sample of three parts, 2 + 3 + 1 frames, the second of them positive."""
    write_numbered_parts(tmp_path / "a", [2, 3, 1])
    encoding = EncodingOptions(source_format=build_source_format("parts"))
    return pack_here(tmp_path / "parts", ["a 0 3 1"], tmp_path, encoding)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([[2, 3, 1], [0, 2, 0], [5, 1, 0]], None),
        ([[2, 3, 0], [0, 2, 1], [5, 1, 0]], "the positive parts (1) do not stand before the others (0)"),
        ([[2, 3, 2], [0, 2, 0], [5, 1, 0]], "the positive parts (1) do not stand before the others (0)"),
        ([[2, 3, 1], [0, 2, 0]], "its parts do not follow one another from 0 to 6"),
        ([[2, 3, 1], [0, 3, 0], [5, 1, 0]], "its parts do not follow one another from 0 to 6"),
        ([[2, 4, 1], [0, 2, 0], [6, 0, 0]], "its parts do not follow one another from 0 to 6"),
        ([[0, 6]], "shape (1, 2), expected a row of 3 for each part"),
    ],
)
def test_the_table_of_parts_is_checked(parted, parts, message):
    table = npy(np.array(parts, np.int32))
    rewrite(parted, "shard-000000", lambda key, members: members | {"parts.npy": table})
    assert faults_of(parted) == ([f"shard-000000.tar:00000000: parts.npy: {message}"] if message else [])


def test_a_missing_table_of_parts_is_named(parted):
    def without_parts(key, members):
        return {name: content for name, content in members.items() if name != "parts.npy"}

    rewrite(parted, "shard-000000", without_parts)
    (fault,) = faults_of(parted)
    assert "expected meta.npy, frames.npy, parts.npy, head" in fault


def test_a_directory_that_is_none_is_an_error(tmp_path):
    done = run_script("verify_shards.py", tmp_path)
    assert done.returncode == 1 and "manifest.json: no such file; not a shard directory" in done.stdout

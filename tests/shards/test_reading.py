import shutil

import pytest
from shard_factory import pack_videos, write_video_list
from video_factory import read_number

from shards.index import load_index
from shards.manifest import ShardError
from shards.reading import ShardDataset


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("packed")
    videos = write_video_list(directory, {f"{name}.mp4": 4 for name in "abcde"})
    return pack_videos(videos, directory / "out", "--samples-per-shard", "2")


@pytest.fixture
def directory(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "shards")


def test_samples_are_found_by_key(packed):
    dataset = ShardDataset(packed)
    pairs = dataset.keys_and_names()
    assert [key for key, _ in pairs] == [f"{i:08d}" for i in range(5)]
    assert [dataset.find_shard(key) for key, _ in pairs] == [
        "shard-000000.tar",
        "shard-000000.tar",
        "shard-000001.tar",
        "shard-000001.tar",
        "shard-000002.tar",
    ]
    for key, name in reversed(pairs):
        sample = dataset.read_sample(key)
        assert (sample.key, sample.info["name"]) == (key, name)
        assert read_number(sample.decode([3])[0]) == 50 * "abcde".index(name[0]) + 3


def test_an_unknown_key_is_an_error(packed):
    with pytest.raises(ShardError, match="out: no sample with key 00000005"):
        ShardDataset(packed).read_sample("00000005")


def test_indices_are_read_when_needed(directory):
    (directory / "shard-000001.idx").write_text("broken")
    dataset = ShardDataset(directory)
    dataset.read_sample("00000000")
    with pytest.raises(ShardError, match=r"shard-000001.idx: cannot be read as an index \(.*; copy it again"):
        dataset.keys_and_names()
    (directory / "shard-000001.idx").unlink()
    with pytest.raises(ShardError, match=r"shard-000001.idx: cannot be read as an index \(.*No such file"):
        dataset.read_sample("00000002")


def damage(directory, member, content):
    (found,) = (m for m in load_index(directory / "shard-000000.idx")["00000001"] if m.name == member)
    with open(directory / "shard-000000.tar", "r+b") as tar:
        tar.seek(found.offset)
        tar.write(content)
    return ShardDataset(directory)


@pytest.mark.parametrize(
    ("member", "message"),
    [("mjpeg", "mjpeg: damaged, its checksum differs"), ("meta.npy", "meta.npy: not a numpy array")],
)
def test_a_damaged_sample_is_named(directory, member, message):
    dataset = damage(directory, member, b"damage")
    dataset.read_sample("00000000")
    with pytest.raises(ShardError, match=f"shard-000000.tar:00000001: {message}"):
        dataset.read_sample("00000001")


def test_a_damaged_json_is_named(directory):
    dataset = damage(directory, "json", b"damage")
    with pytest.raises(ShardError, match=r"shard-000000.tar:00000001: json: missing or not readable"):
        dataset.keys_and_names()


def test_a_cut_off_tar_is_named(directory):
    path = directory / "shard-000002.tar"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ShardError, match=r"shard-000002.tar:00000004: .* lies beyond the end of the tar"):
        ShardDataset(directory).read_sample("00000004")

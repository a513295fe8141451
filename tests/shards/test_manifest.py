import hashlib
import json
from dataclasses import replace

import pytest

from shards.manifest import Manifest, ShardError, ShardFile, check_files, load_manifest, write_manifest


def manifest_of(tar=b"tar", index="index"):
    shard = ShardFile(
        name="shard-000000.tar",
        num_samples=2,
        size_bytes=len(tar),
        sha256=hashlib.sha256(tar).hexdigest(),
        index_sha256=hashlib.sha256(index.encode()).hexdigest(),
    )
    numbers = dict.fromkeys(
        ("min_width", "max_width", "min_height", "max_height", "min_short_side", "max_short_side"), 64
    )
    return Manifest(
        dataset="k400",
        split="train",
        codec="mjpeg",
        modality="rgb",
        has_parts=False,
        num_samples=2,
        num_rejected=0,
        num_classes=2,
        classes=("run", "swim"),
        multi_label=False,
        num_frames=7,
        size_bytes=len(tar),
        max_num_frames=4,
        max_padded_height=64,
        mcu_height=8,
        options={"quality": 85},
        shards=(shard,),
        **numbers,
    )


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "shard-000000.tar").write_bytes(b"tar")
    (tmp_path / "shard-000000.idx").write_text("index")
    write_manifest(tmp_path, manifest_of())
    return tmp_path


def test_what_was_written_is_read(directory):
    assert load_manifest(directory) == manifest_of()
    content = json.loads((directory / "manifest.json").read_text())
    assert (content["format"], content["version"]) == ("tsn-shards", 2)
    check_files(directory, manifest_of())


def test_class_names_may_be_unknown(directory):
    write_manifest(directory, replace(manifest_of(), classes=None))
    assert load_manifest(directory).classes is None


def test_a_directory_without_manifest_says_what_to_do(tmp_path):
    with pytest.raises(ShardError, match=r"nowhere: no such directory; pack it with scripts/make_shards.py"):
        load_manifest(tmp_path / "nowhere")
    with pytest.raises(ShardError, match=r"manifest.json: no such file; not a shard directory"):
        load_manifest(tmp_path)
    (tmp_path / ".progress").mkdir()
    with pytest.raises(ShardError, match=r"its packing has not finished: run the same make_shards.py again"):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "version 3, this program reads version 2; pack the directory again"),
        ({"format": "other"}, 'not a manifest of shards: "format" is not "tsn-shards"'),
        ({"colour": 1}, "fields that are missing or unknown: colour"),
        ({"shards": [{"name": "a"}]}, "missing 4 required positional arguments"),
        ({"num_classes": 3}, "damaged, or changed by hand: its sha256 is not that of its fields"),
        ({"classes": ["swim", "run"]}, "damaged, or changed by hand"),
        ({"max_width": 63}, "damaged, or changed by hand"),
        ({"rejected_sha256": "0"}, "damaged, or changed by hand"),
        ({"sha256": "0"}, "damaged, or changed by hand"),
    ],
)
def test_another_manifest_is_refused(directory, change, message):
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ShardError, match=message):
        load_manifest(directory)


def test_a_missing_field_is_named(directory):
    path = directory / "manifest.json"
    content = json.loads(path.read_text())
    del content["codec"]
    path.write_text(json.dumps(content))
    with pytest.raises(ShardError, match="fields that are missing or unknown: codec"):
        load_manifest(directory)


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "not a manifest of shards")])
def test_a_file_that_is_no_manifest_is_refused(directory, text, message):
    (directory / "manifest.json").write_text(text)
    with pytest.raises(ShardError, match=message):
        load_manifest(directory)


def test_all_files_that_do_not_fit_are_listed(directory):
    (directory / "shard-000000.tar").write_bytes(b"longer")
    (directory / "shard-000000.idx").write_text("another")
    with pytest.raises(ShardError) as error:
        check_files(directory, manifest_of())
    tar, index, remedy = str(error.value).splitlines()
    assert tar.endswith("shard-000000.tar: 6 bytes, the manifest says 3")
    assert index.endswith("shard-000000.idx: not the index of its tar (sha256 differs from the manifest's)")
    assert remedy == "copy these files again, or pack the directory again"


def test_missing_files_are_listed(directory):
    (directory / "shard-000000.tar").unlink()
    (directory / "shard-000000.idx").unlink()
    with pytest.raises(ShardError, match=r"tar: no such file\n.*idx: no such file"):
        check_files(directory, manifest_of())

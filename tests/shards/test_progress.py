import hashlib
import json
import os
import subprocess
import sys

import pytest
from shard_factory import PROJECT

from shards.manifest import ShardFile
from shards.progress import (
    PackingError,
    ShardRecord,
    begin,
    claim_directory,
    load_records,
    save_record,
)

RECORD = ShardRecord(
    shard=ShardFile("shard-000003.tar", 2, 5, "aa", hashlib.sha256(b"v1").hexdigest()),
    rejected=({"sample_id": 7, "name": "a b.mp4", "labels": [1, 2], "reason": "why"},),
    sizes=((64, 48, 48), (80, 50, 56)),
    num_frames=30,
    max_num_frames=20,
    multi_label=True,
)


def test_another_command_into_a_begun_directory_is_refused(tmp_path):
    options = {"quality": 85, "seed": 0}
    (tmp_path / ".progress").mkdir()
    (tmp_path / ".progress" / "plan.json").write_text(json.dumps(options))
    with (
        pytest.raises(PackingError, match=r"was begun with seed=0 \(now 1\); give the same command again"),
        claim_directory(tmp_path, options | {"seed": 1}),
    ):
        pass
    with claim_directory(tmp_path, options) as finished:
        assert finished is None
    assert (tmp_path / ".progress" / "plan.json").exists()


def test_other_source_files_are_told_in_words(tmp_path):
    with claim_directory(tmp_path, {"sources_sha256": "aa", "seed": 0}):
        begin(tmp_path, {"sources_sha256": "aa", "seed": 0})
    words = "was begun with source files of other names or sizes than now"
    with (
        pytest.raises(PackingError, match=f"{words}; put these files back, or give another --out"),
        claim_directory(tmp_path, {"sources_sha256": "bb", "seed": 0}),
    ):
        pass
    with (
        pytest.raises(PackingError, match=rf"{words}, seed=0 \(now 1\); give the same command again"),
        claim_directory(tmp_path, {"sources_sha256": "bb", "seed": 1}),
    ):
        pass


READ_OPTIONS = """
import sys
from pathlib import Path
from shards.progress import claim_directory
with claim_directory(Path(sys.argv[1]), {"dataset": "vid\\xe9os"}):
    pass
"""


def test_options_are_read_as_utf8_in_any_locale(tmp_path):
    options = {"dataset": "vid\xe9os"}
    with claim_directory(tmp_path, options):
        begin(tmp_path, options)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", READ_OPTIONS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, env=os.environ | ascii_only)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_second_process_is_refused(tmp_path):
    with (
        claim_directory(tmp_path / "out", {}),
        pytest.raises(PackingError, match="another process is packing into it; wait for it"),
        claim_directory(tmp_path / "out", {}),
    ):
        pass
    assert list((tmp_path / "out").iterdir()) == []  # nothing was begun: nothing stays


def test_a_directory_with_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(PackingError, match=r"not empty \(notes.txt"), claim_directory(tmp_path, {}):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PackingError, match="cannot be written: "), claim_directory(tmp_path / "file", {}):
        pass


def test_records_of_finished_shards_are_found_again(tmp_path):
    nothing = ShardRecord(None, (), (), 0, 0, False)
    with claim_directory(tmp_path, {}):
        begin(tmp_path, {})
        save_record(tmp_path, 3, RECORD)
        save_record(tmp_path, 11, nothing)
        (tmp_path / "shard-000003.tar").write_bytes(b"12345")
        (tmp_path / "shard-000003.idx").write_text("v1")
        assert load_records(tmp_path) == {3: RECORD, 11: nothing}
    assert (RECORD.num_videos, nothing.num_videos) == (3, 0)


def test_a_record_whose_files_are_gone_or_others_does_not_count(tmp_path):
    tar, index = tmp_path / "shard-000003.tar", tmp_path / "shard-000003.idx"
    with claim_directory(tmp_path, {}):
        begin(tmp_path, {})
        save_record(tmp_path, 3, RECORD)
        assert load_records(tmp_path) == {}
        for tar_bytes, index_bytes in [(b"123", b"v1"), (b"12345", b"v2"), (b"12345", b"")]:
            tar.write_bytes(tar_bytes)
            index.write_bytes(index_bytes)
            assert load_records(tmp_path) == {}
        index.write_bytes(b"v1")
        assert load_records(tmp_path) == {3: RECORD}


def test_what_is_left_of_a_finished_packing_is_removed(tmp_path):
    with claim_directory(tmp_path, {"seed": 0}):
        begin(tmp_path, {"seed": 0})
    assert (tmp_path / ".progress" / "plan.json").exists()
    with claim_directory(tmp_path, {"seed": 0}):
        (tmp_path / "manifest.json").write_text("{}")
    assert not (tmp_path / ".progress").exists()

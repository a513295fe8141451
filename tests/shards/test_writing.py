import pytest

from shards.writing import ShardWriter


def test_a_shard_is_discarded_on_a_full_disk_too(tmp_path):
    writer = ShardWriter(tmp_path, "shard-000000.tar")
    with open("/dev/full", "wb") as full:
        writer._file.close()
        writer._file = full
        writer.add("00000000", {"cls": b"7"})
        with pytest.raises(OSError, match="No space left on device"):
            writer.close()
        writer.discard()
    assert list(tmp_path.iterdir()) == []

import os

import pytest

from tsn import files
from tsn.files import write_atomically


@pytest.fixture(params=["hard links", "no hard links"])
def folder(request, tmp_path, monkeypatch):
    """A folder on a file system with hard links or, as it seems, without."""

    def refuse(*_):
        raise PermissionError("no hard links on this file system")

    if request.param == "no hard links":
        monkeypatch.setattr(files.os, "link", refuse)
    return tmp_path


def content_of(folder) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_new_file_is_written_and_nothing_else(folder):
    write_atomically(folder / "a", lambda stream: stream.write(b"ours"), overwrite=False)
    assert content_of(folder) == {"a": "ours"}


def test_a_file_that_appears_meanwhile_is_not_replaced_unless_asked(folder):
    def write(stream):
        (folder / "a").write_text("theirs")
        stream.write(b"ours")

    with pytest.raises(FileExistsError):
        write_atomically(folder / "a", write, overwrite=False)
    assert content_of(folder) == {"a": "theirs"}
    write_atomically(folder / "a", write)
    assert content_of(folder) == {"a": "ours"}


def test_two_that_write_one_file_at_the_same_time_do_not_mix(folder):
    def write(stream):
        stream.write(b"first, ")
        stream.flush()
        write_atomically(folder / "a", lambda other: other.write(b"second"), overwrite=False)
        assert (folder / "a").read_text() == "second"
        stream.write(b"and whole")

    with pytest.raises(FileExistsError):
        write_atomically(folder / "a", write, overwrite=False)
    assert content_of(folder) == {"a": "second"}
    (folder / "a").unlink()
    write_atomically(folder / "a", write, overwrite=True)
    assert content_of(folder) == {"a": "first, and whole"}


def test_what_a_kill_left_is_removed_an_hour_later(tmp_path):
    def leave(name: str, age_s: float):
        (tmp_path / name).touch()
        seconds = (tmp_path / "a[1]").stat().st_mtime - age_s
        os.utime(tmp_path / name, (seconds, seconds))

    temporary = []
    write_atomically(tmp_path / "a[1]", lambda stream: temporary.append(stream.name))
    name = os.path.basename(temporary[0])
    leave(name, 3700)
    leave(name.replace("a[1]", "b"), 3700)
    being_written = ".a[1].01234567.tmp"
    leave(being_written, 3500)
    write_atomically(tmp_path / "a[1]", lambda stream: None)
    assert {path.name for path in tmp_path.iterdir()} == {"a[1]", name.replace("a[1]", "b"), being_written}

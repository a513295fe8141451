from pathlib import Path

import pytest

from shards.sources import SourceListError, load_sources


@pytest.fixture
def videos(tmp_path):
    """A directory with videos/{a,b,c}.mp4, 'my clip 7.mp4', and a class file of three."""
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4", "my clip 7.mp4"):
        (tmp_path / "videos" / name).write_bytes(b"12345")
    (tmp_path / "classes.txt").write_text("run\nswim\nride a bike\n")
    return tmp_path


def load(directory, text, classes="classes.txt"):
    (directory / "list.txt").write_text(text)
    return load_sources(directory / "list.txt", directory / "videos", classes and directory / classes)


def faults_of(directory, text, classes="classes.txt"):
    with pytest.raises(SourceListError) as error:
        load(directory, text, classes)
    return str(error.value).replace(f"{directory}/", "").splitlines()


def test_paths_labels_and_classes(videos):
    loaded = load(videos, "a.mp4 0\n\nb.mp4\t2 1\n  my clip 7.mp4  2 \n")
    assert [(s.name, s.labels, s.size_bytes) for s in loaded.sources] == [
        ("a.mp4", (0,), 5),
        ("b.mp4", (2, 1), 5),
        ("my clip 7.mp4", (2,), 5),
    ]
    assert loaded.sources[0].path == str(videos / "videos" / "a.mp4")
    assert loaded.classes == ("run", "swim", "ride a bike")
    assert len(loaded.list_sha256) == len(loaded.classes_sha256) == 64


def test_an_absolute_path_stands_for_itself(videos):
    loaded = load(videos, f"{videos}/videos/a.mp4 1\n")
    assert loaded.sources[0].path == str(videos / "videos" / "a.mp4")


def test_a_relative_root_gives_absolute_paths(videos, monkeypatch):
    (videos / "videos" / "a:1.mp4").write_bytes(b"1")
    (videos / "list.txt").write_text("a:1.mp4 0\n")
    monkeypatch.chdir(videos / "videos")
    (source,) = load_sources(videos / "list.txt", Path("."), videos / "classes.txt").sources
    assert (source.name, source.path) == ("a:1.mp4", f"{videos}/videos/a:1.mp4")


def test_what_is_opened_after_a_link_is_what_the_system_opens(videos):
    (videos / "other" / "inner").mkdir(parents=True)
    (videos / "other" / "a.mp4").write_bytes(b"another")
    (videos / "videos" / "link").symlink_to(videos / "other" / "inner")
    (source,) = load(videos, "link/../a.mp4 0\n").sources
    assert (source.size_bytes, Path(source.path).read_bytes()) == (7, b"another")


def test_a_file_may_be_listed_under_several_links(videos):
    (videos / "videos" / "again.mp4").symlink_to(videos / "videos" / "a.mp4")
    assert [s.name for s in load(videos, "a.mp4 0\nagain.mp4 0\n").sources] == ["a.mp4", "again.mp4"]


def test_byte_order_mark_and_windows_lines(videos):
    (videos / "classes.txt").write_bytes(b"\xef\xbb\xbfrun\r\nswim\r\n")
    (videos / "list.txt").write_bytes(b"\xef\xbb\xbfa.mp4 1\r\nb.mp4 0\r\n")
    loaded = load_sources(videos / "list.txt", videos / "videos", videos / "classes.txt")
    assert loaded.classes == ("run", "swim")
    assert [s.name for s in loaded.sources] == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_only_a_newline_ends_a_line(videos, mark):
    (videos / "classes.txt").write_text(f"run{mark}fast\nswim\n", encoding="utf-8")
    (videos / "videos" / f"d{mark}1.mp4").write_bytes(b"1")
    (videos / "list.txt").write_text(f"a.mp4 0\nd{mark}1.mp4 1\n", encoding="utf-8")
    loaded = load_sources(videos / "list.txt", videos / "videos", videos / "classes.txt")
    assert loaded.classes == (f"run{mark}fast", "swim")
    assert [(s.name, s.labels) for s in loaded.sources] == [("a.mp4", (0,)), (f"d{mark}1.mp4", (1,))]


def test_all_faults_are_reported_at_once_with_their_lines(videos):
    text = "a.mp4 0\nb.mp4 3\nnone.mp4 1\nc.mp4 walk\na.mp4 1\nc.mp4 -1 1 1\n../videos/b.mp4 9\nlonely.mp4\n"
    assert faults_of(videos, text) == [
        "list.txt:2: label 3: expected 0..2, the lines of the class file",
        "list.txt:3: videos/none.mp4: no such file",
        'list.txt:4: "c.mp4 walk" does not end with a label, expected "path label [label ...]"',
        "list.txt:5: a.mp4 stands on line 1 already",
        "list.txt:6: label -1: expected 0..2, the lines of the class file",
        "list.txt:6: a label stands twice: -1 1 1",
        "list.txt:7: label 9: expected 0..2, the lines of the class file",
        "list.txt:7: ../videos/b.mp4 stands on line 2 already",
        'list.txt:8: "lonely.mp4" does not end with a label, expected "path label [label ...]"',
    ]


def test_faults_of_list_and_class_file_come_together(videos):
    assert faults_of(videos, "none.mp4 5\n", classes=None) == [
        "no class file: give --classes FILE with one class name a line",
        "list.txt:1: videos/none.mp4: no such file",
    ]
    assert faults_of(videos, "a.mp4 -1\n", classes="missing.txt") == [
        "missing.txt: no such file; give --classes FILE with one class name a line",
        "list.txt:1: label -1: expected 0 and up",
    ]


def test_faults_of_a_class_file(videos):
    (videos / "classes.txt").write_text("run\n\nswim\nrun\n\n")
    assert faults_of(videos, "a.mp4 0\n") == [
        "classes.txt:2: empty line, expected a class name",
        'classes.txt:4: class "run" stands on line 1 already',
    ]
    (videos / "classes.txt").write_text("\n")
    assert faults_of(videos, "a.mp4 0\n") == ["classes.txt: empty, expected one class name a line"]


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_list_is_a_fault(videos, text):
    assert faults_of(videos, text) == ['list.txt: empty, expected lines "path label [label ...]"']


def test_text_that_is_not_utf8_is_a_fault(videos):
    (videos / "list.txt").write_bytes(b"a.mp4 0\n\xff.mp4 1\n")
    with pytest.raises(SourceListError, match=r"list.txt: byte 8 is not UTF-8 text; save the list as UTF-8"):
        load_sources(videos / "list.txt", videos / "videos", videos / "classes.txt")


def test_a_missing_list_is_a_fault(videos):
    with pytest.raises(SourceListError, match=r"none.txt: no such file; give --list FILE"):
        load_sources(videos / "none.txt", videos / "videos", videos / "classes.txt")

import json

import pytest

from shards.source_format import build_source_format
from shards.sources import SourceListError, load_sources


@pytest.fixture
def directory(tmp_path):
    """A directory with root/{a,b c,d 7}/, root/{v,w}.mp4 and a class file of three."""
    for name in ("a", "b c", "d 7"):
        (tmp_path / "root" / name).mkdir(parents=True)
    for name in ("v.mp4", "w.mp4"):
        (tmp_path / "root" / name).write_bytes(b"12345")
    (tmp_path / "classes.txt").write_text("run\nswim\nride\n")
    return tmp_path


def load(directory, content, kind="videos", *, with_offset=False, category=None):
    name = "list.txt" if isinstance(content, str) else "list.json"
    (directory / name).write_text(content if isinstance(content, str) else json.dumps(content))
    source_format = build_source_format(kind, with_offset=with_offset)
    files = directory / name, directory / "root", directory / "classes.txt"
    return load_sources(*files, source_format, category=category)


def faults_of(directory, content, kind="videos", **options):
    with pytest.raises(SourceListError) as error:
        load(directory, content, kind, **options)
    return str(error.value).replace(f"{directory}/", "").splitlines()


def test_the_size_of_a_directory_is_that_of_its_first_file(directory):
    (directory / "root" / "a" / "img_00001.jpg").write_bytes(b"123")
    (directory / "root" / "a" / "img_00004.jpg").write_bytes(b"12")
    assert [source.size_bytes for source in load(directory, "a 1 0\nb c 1 0\n", "frames").sources] == [3, 0]
    clips = load(directory, "a 0 1 0\na 3 1 0\na 4 1 0\n", "frames", with_offset=True)
    assert [source.size_bytes for source in clips.sources] == [3, 2, 0]


@pytest.mark.parametrize("kind", ["frames", "flow"])
def test_directories_of_frames(directory, kind):
    loaded = load(directory, "a 12 0\nb c 1 2 1\n", kind)
    assert [(s.name, s.count, s.offset, s.labels) for s in loaded.sources] == [
        ("a", 12, 0, (0,)),
        ("b c", 1, 0, (2, 1)),
    ]
    assert loaded.sources[0].path == str(directory / "root" / "a")


def test_clips_of_directories(directory):
    loaded = load(directory, "a 0 12 0\na 12 3 1 2\na 12 4 1\n", "flow", with_offset=True)
    assert [(s.name, s.count, s.offset, s.labels) for s in loaded.sources] == [
        ("a:0+12", 12, 0, (0,)),
        ("a:12+3", 3, 12, (1, 2)),
        ("a:12+4", 4, 12, (1,)),
    ]


def test_parts_of_untrimmed_videos(directory):
    (source,) = load(directory, "b c 2 10 3 0\n", "parts").sources
    assert (source.name, source.labels, source.count, source.positive) == ("b c", (2,), 10, (3, 0))


def test_images_are_listed_like_videos(directory):
    (source,) = load(directory, "v.mp4 2 1\n", "images").sources
    assert (source.labels, source.count, source.size_bytes) == ((2, 1), 1, 5)


def test_all_faults_of_directories_are_reported_at_once(directory):
    text = "a 0 1\nb c 3\nnone 2 1\nb c 4 3\nv.mp4 4 0\n a 4 0\n"
    assert faults_of(directory, text, "frames") == [
        "list.txt:1: num_frames 0: expected 1 or more",
        'list.txt:2: "b c 3" ends with too few numbers, expected "dir num_frames label [label ...]"',
        "list.txt:3: root/none: no such directory",
        "list.txt:4: label 3: expected 0..2, the lines of the class file",
        "list.txt:5: root/v.mp4: no such directory",
        "list.txt:6: a stands on line 1 already",
    ]


def test_all_faults_of_clips_are_reported_at_once(directory):
    assert faults_of(directory, "a -1 4 0\na 0 4 0\na 0 4 0\na 4 0\n", "frames", with_offset=True) == [
        "list.txt:1: offset -1: expected 0 or more",
        "list.txt:3: a:0+4 stands on line 2 already",
        'list.txt:4: "a 4 0" ends with too few numbers, expected "dir offset num_frames label [label ...]"',
    ]


def test_all_faults_of_parts_are_reported_at_once(directory):
    text = "a 1 3 3\nb c 1 2\na 1 3 0 0\nd 1\nb c 0 0 0\n"
    assert faults_of(directory, text, "parts") == [
        "list.txt:1: positive part 3: expected 0..2",
        "list.txt:2: no positive part: name one, or remove the line",
        "list.txt:3: a positive part stands twice: 0 0",
        "list.txt:3: a stands on line 1 already",
        'list.txt:4: "d 1" ends with too few numbers, expected "dir label num_parts positive [positive ...]"',
        "list.txt:5: num_parts 0: expected 1 or more",
        "list.txt:5: b c stands on line 2 already",
    ]


def test_json_lists(directory):
    loaded = load(directory, [{"filename": "v.mp4", "label": 2}, {"filename": "w.mp4", "label": [0, 1]}])
    assert [(s.name, s.labels) for s in loaded.sources] == [("v.mp4", (2,)), ("w.mp4", (0, 1))]
    entries = [{"frame_dir": "a", "total_frames": 7, "label": [1]}]
    (source,) = load(directory, entries, "frames").sources
    assert (source.name, source.count, source.labels) == ("a", 7, (1,))
    entries = [{"filename": "a", "total_frames": 7, "offset": 30, "label": [1]}]
    (source,) = load(directory, entries, "flow", with_offset=True).sources
    assert (source.name, source.count, source.offset) == ("a:30+7", 7, 30)


def test_samples_without_the_category_are_left_out_and_counted(directory):
    entries = [
        {"filename": "v.mp4", "label": {"action": [1, 2], "scene": [200]}},
        {"filename": "w.mp4", "label": {"scene": [0]}},
        {"filename": "none.mp4", "label": {"action": []}},
    ]
    loaded = load(directory, entries, category="action")
    assert [(s.name, s.labels) for s in loaded.sources] == [("v.mp4", (1, 2))]
    assert (loaded.category, loaded.num_left_out) == ("action", 2)
    assert faults_of(directory, entries, category="event") == [
        "--category event: none of the 3 samples of list.json has it"
    ]


def test_all_faults_of_json_are_reported_at_once(directory):
    entries = [
        {"filename": "v.mp4", "label": {"scene": [1], "action": [1]}},
        {"filename": "v.mp4", "label": "run"},
        {"filename": "v.mp4", "label": []},
        {"label": 1},
        "v.mp4",
        {"filename": "v.mp4", "label": [1, 3]},
        {"filename": "v.mp4", "label": 1},
        {"filename": "none.mp4", "label": [1]},
        {"filename": "w.mp4", "label": 1, "offset": 3},
    ]
    assert faults_of(directory, entries) == [
        "list.json[0]: label: has categories, give --category, one of action, scene",
        'list.json[1]: label: expected a class id or a list of them, found "run"',
        "list.json[2]: label: expected a class id or a list of them, found []",
        "list.json[3]: filename: expected the path, found null",
        'list.json[4]: "v.mp4": expected {"filename": ..., "label": ...}',
        "list.json[5]: label 3: expected 0..2, the lines of the class file",
        "list.json[6]: v.mp4 stands in entry 5 already",
        "list.json[7]: root/none.mp4: no such file",
        "list.json[8]: offset: only with --with-offset",
    ]
    assert faults_of(directory, [{"frame_dir": "a", "label": 1}], "frames") == [
        "list.json[0]: total_frames: expected a whole number, found null"
    ]
    assert faults_of(directory, [{"filename": "v.mp4", "label": 1}], category="scene") == [
        "list.json[0]: label: expected categories for --category, found 1"
    ]


def test_a_path_of_json_that_is_no_text_is_a_fault_of_its_entry(directory):
    entries = [{"filename": "v.mp4", "label": 1}, {"filename": "v\udcff.mp4", "label": 1}]
    assert faults_of(directory, entries) == [
        'list.json[1]: filename: "v\\udcff.mp4" is not Unicode text; rename the file, in UTF-8'
    ]


def test_json_that_is_no_list_is_a_fault(directory):
    assert faults_of(directory, {"v.mp4": 1}) == [
        'list.json: expected a list: [{"filename": ..., "label": ...}, ...]'
    ]
    assert faults_of(directory, []) == ['list.json: empty, expected lines "path label [label ...]"']
    assert faults_of(directory, [], "parts") == [
        'list.json: --source parts takes lines "dir label num_parts positive [positive ...]", not JSON'
    ]
    (directory / "list.json").write_text("{")
    with pytest.raises(SourceListError, match=r"list.json: not JSON: "):
        load_sources(directory / "list.json", directory / "root", directory / "classes.txt")


def test_lines_have_no_categories(directory):
    assert faults_of(directory, "v.mp4 1\n", category="action") == [
        "--category action: list.txt is not a .json list, only these have categories"
    ]

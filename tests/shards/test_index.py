import pytest
from shard_factory import pack_videos, write_video_list

from shards.index import Member, format_index, load_index
from shards.manifest import load_manifest

INDEX = {
    "00000000": (Member("cls", 512, 1), Member("json", 1536, 20)),
    "00000007": (Member("label.npy", 2560, 136),),
}
TEXT = """v1.2 2
cls 512 1 00000000.cls json 1536 20 00000000.json
label.npy 2560 136 00000007.label.npy
"""


def test_text_of_an_index(tmp_path):
    assert format_index(INDEX.items()) == TEXT
    (tmp_path / "a.idx").write_text(TEXT)
    assert load_index(tmp_path / "a.idx") == INDEX


def test_index_equals_that_of_dali(tmp_path):
    wds2idx = pytest.importorskip("wds2idx", reason="DALI is not installed")
    videos = write_video_list(
        tmp_path, {"a.mp4": 5, "b.mp4": 3, "c.avi": 4}, labels={"a.mp4": [0], "b.mp4": [1, 2], "c.avi": [2]}
    )
    out = pack_videos(videos, tmp_path / "out")
    for shard in load_manifest(out).shards:
        creator = wds2idx.IndexCreator(str(out / shard.name), str(tmp_path / "theirs.idx"), verbose=False)
        creator.create_index()
        creator.close()
        assert (tmp_path / "theirs.idx").read_text() == (out / shard.index_name).read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'a.idx: starts with "", expected "v1.2 0"'),
        ("v1.1 0\n", 'a.idx: starts with "v1.1 0", expected "v1.2 0"'),
        ("v1.2 3\n" + TEXT.split("\n", 1)[1], 'a.idx: starts with "v1.2 3", expected "v1.2 2"'),
        ("v1.2 1\ncls 512 1\n", "a.idx:2: 3 words, expected"),
        ("v1.2 1\ncls 512 one k.cls\n", "a.idx:2: invalid literal"),
        (
            "v1.2 1\ncls 512 1 k.cls json 3 4 other.json\n",
            "a.idx:2: members of 2 samples on one line: k, other",
        ),
        ("v1.2 2\ncls 512 1 k.cls\ncls 512 1 k.cls\n", "a.idx:3: key k for the second time"),
    ],
)
def test_a_broken_index_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "a.idx").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_index(tmp_path / "a.idx")

import pytest

from shards.source_format import VIDEOS, build_source_format


def test_defaults_of_each_kind():
    assert build_source_format("videos") == VIDEOS
    assert build_source_format("frames").file_names(0) == ("img_00001.jpg",)
    assert build_source_format("flow").file_names(9) == ("x_00010.jpg", "y_00010.jpg")
    assert build_source_format("parts").file_names(3) == ("part_3.mp4",)
    assert [build_source_format(kind).modality for kind in ("frames", "flow")] == ["rgb", "flow"]


def test_names_of_published_data_sets():
    sthv1 = build_source_format("frames", template="{:05}.jpg")
    assert sthv1.file_names(41) == ("00042.jpg",)
    activitynet = build_source_format("flow", template="flow_{}_{:05d}.jpg", start_index=0, with_offset=True)
    assert activitynet.file_names(7) == ("flow_x_00007.jpg", "flow_y_00007.jpg")


def test_options_that_shape_the_content():
    assert VIDEOS.options() == build_source_format("videos").options() == {"source": "videos"}
    clips = build_source_format("frames", start_index=0, with_offset=True)
    assert clips.options() == {
        "source": "frames",
        "template": "img_{:05}.jpg",
        "start_index": 0,
        "with_offset": True,
    }


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("tapes", {}, "--source tapes: expected one of videos, frames, flow, images, parts"),
        ("videos", {"template": "a"}, "--template: --source videos are files, not directories"),
        ("images", {"start_index": 0}, "--start-index: --source images are files, not directories"),
        ("videos", {"with_offset": True}, "--with-offset: --source videos has no frame numbers"),
        ("parts", {"with_offset": True}, "--with-offset: --source parts has no frame numbers"),
        ("frames", {"start_index": -1}, "--start-index -1: expected 0 or more"),
        ("frames", {"template": "img_%05d.jpg"}, "several files would have the name img_%05d.jpg; expected"),
        ("flow", {"template": "img_{:05}.jpg"}, "--template img_{:05}.jpg: .*expected a pattern like {}_"),
        ("flow", {"template": "{}.jpg"}, "several files would have the name x.jpg"),
        ("frames", {"template": "{}_{:05d}.jpg"}, "--template {}_{:05d}.jpg: .*expected a pattern like img_"),
        ("frames", {"template": "{number}.jpg"}, "--template {number}.jpg: 'number'; expected"),
        ("frames", {"template": "{.jpg"}, "--template {.jpg: .*; expected"),
    ],
)
def test_options_that_make_no_sense_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        build_source_format(kind, **options)

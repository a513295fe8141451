"""The parts of `benchmark.py pipeline`: what is measured, on what, and how what is missing is told."""

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from frame_shards import numbered_videos, write_shards
from video_factory import numbered_frame, read_number, write_numbered_video

import probe_video_decoder
from shards import h264, jpeg
from shards.manifest import ShardError, check_files, load_manifest
from support import bench_inputs, bench_pipeline, bench_report, measuring
from tsn.errors import UserError

MJPEG, H264 = bench_inputs.Packing(), bench_inputs.Packing("h264", gop=4)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> dict[bench_inputs.Packing, Path]:
    """Three videos in each codec, listed as many times as a batch needs."""
    folder = tmp_path_factory.mktemp("shards")
    found = {}
    for packing in (MJPEG, H264):
        videos = numbered_videos(3, num_frames=12, size=(256, 240))
        found[packing] = write_shards(folder / packing.codec, videos, codec=packing.codec)
        bench_inputs.repeat_shards(found[packing], 20)
    return found


def test_repeated_shards_are_valid_and_hold_enough(shards):
    for directory in shards.values():
        manifest = load_manifest(directory)
        check_files(directory, manifest)
        assert (len(manifest.shards), manifest.num_samples, manifest.num_frames) == (7, 21, 252)
    with pytest.raises(ShardError, match="7 shards, expected 1"):
        bench_inputs.repeat_shards(shards[MJPEG], 99)


def test_every_variant_is_listed_once_whatever_the_cores():
    for num_cores in (1, 2, 16, 64):
        for quick in (True, False):
            found = bench_pipeline.variants(num_cores=num_cores, quick=quick)
            assert len({(v.group, v.name) for v in found}) == len(found)
            assert {v.where for v in found} == {"cpu", "mixed"}
            assert {v.packing.codec for v in found} == {"mjpeg", "h264"}
    full = bench_pipeline.variants(num_cores=16, quick=False)
    assert {v.packing.gop for v in full if v.packing.codec == "h264"} == {1, 8, 16}
    assert {v.packing.size for v in full if v.packing.codec == "h264"} == {"340x256", "352x256"}
    assert {v.num_segments for v in full} == {3, 8, 25}
    assert {v.num_threads for v in full if v.where == "mixed"} >= {4, 8, 16}
    assert {v.prefetch for v in full if v.where == "mixed"} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    "variant",
    [
        bench_pipeline.Variant("", MJPEG, batch_size=4),
        bench_pipeline.Variant("", MJPEG, batch_size=4, as_bf16=True),
        bench_pipeline.Variant("", MJPEG, batch_size=4, training=False, num_crops=10),
        bench_pipeline.Variant("", H264, batch_size=4),
    ],
)
def test_a_variant_on_the_cpu_has_all_figures(shards, variant):
    row = bench_pipeline.measure(variant, shards[variant.packing], None, seconds=0.02)
    assert row["clips_per_s"] > 0
    assert row["decode_clips_per_s"] > 0
    assert row["frames_per_s"] == pytest.approx(3 * row["clips_per_s"])
    assert 0 < row["cpu_share"] < 1.5
    assert (row["gpu_memory_gb"] is None) == (not torch.cuda.is_available())


def test_what_cannot_be_measured_says_why(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cpu, mixed = (bench_pipeline.Variant("", MJPEG, where=where, batch_size=4) for where in ("cpu", "mixed"))
    plenty, none = measuring.Budget(60), measuring.Budget(-1)
    assert bench_pipeline.try_measure(mixed, shards, None, plenty, True) == {"status": bench_report.NO_GPU}
    assert bench_pipeline.try_measure(cpu, shards, None, none, True) == {"status": bench_report.OUT_OF_TIME}
    row = bench_pipeline.try_measure(cpu, {MJPEG: tmp_path}, None, plenty, True)
    assert row["status"].startswith("failed: ")
    assert "manifest.json: no such file" in row["status"]


def test_bf16_output_is_what_the_model_normalises():
    clips = torch.tensor([[[[[123, 0, 255]]]]], dtype=torch.uint8)
    batch = bench_pipeline.Batch(clips, *[torch.zeros(1)] * 5)
    expected = torch.tensor([(123 - 123.675) / 58.395, -116.28 / 57.12, (255 - 103.53) / 57.375])
    found = bench_pipeline.Normalizer()(batch)
    assert found.shape == (1, 3, 1, 1)
    torch.testing.assert_close(found.flatten().float(), expected, atol=0.02, rtol=0.01)


def test_bytes_of_a_packing_are_those_of_its_distinct_videos(shards, tmp_path):
    for number in range(3):
        write_numbered_video(tmp_path / f"video_{number}.mp4", 12, (256, 240))
    rows = bench_pipeline.storage_section(shards, tmp_path).rows
    by_name = {row["packing"]: row for row in rows}
    (sample, *_) = bench_pipeline.distinct_samples(shards[MJPEG])
    assert by_name[MJPEG.name]["bytes_per_unit"] == pytest.approx(sample.stream.units[:, 1].mean())
    assert by_name[MJPEG.name]["bytes_per_clip"] == pytest.approx(3 * sample.stream.units[:, 1].mean())
    assert by_name[H264.name]["bytes_per_unit"] > by_name[H264.name]["bytes_per_frame"]
    assert all(30 < row["psnr_db"] < 60 for row in rows)


def test_psnr_compares_each_frame_with_its_own(shards, tmp_path):
    (sample, *_) = bench_pipeline.distinct_samples(shards[MJPEG])
    write_numbered_video(tmp_path / "video_0.mp4", 12, (256, 240))
    own = bench_pipeline.psnr_db(sample, tmp_path, frame_stride=5)
    write_numbered_video(tmp_path / "video_0.mp4", 12, (256, 240), first_number=1)
    assert bench_pipeline.psnr_db(sample, tmp_path, frame_stride=5) < own - 10


def test_joined_gops_decode_to_the_frames_that_were_asked_for():
    video = [numbered_frame(number, (64, 48)) for number in range(11)]
    stream = h264.encode_gops(video, gop=4, crf=10)
    data, places = probe_video_decoder.join_gops(stream, [9, 0, 10, 9])
    assert places.tolist() == [5, 0, 6, 5]
    for content, form in ((data, "h264"), (probe_video_decoder.to_mp4(data), "mp4")):
        with av.open(probe_video_decoder.io.BytesIO(content), format=form) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert [read_number(frames[place]) for place in places] == [9, 0, 10, 9]


def test_the_probe_tells_what_dali_takes_and_what_it_refuses():
    """DALI's CPU decoder takes MJPEG and refuses H.264, so both answers can be had without a GPU."""
    video = [numbered_frame(number, (64, 48)) for number in range(6)]
    stream = jpeg.encode_pictures(video, quality=95, subsampling="444")
    mp4 = probe_video_decoder.to_mp4(stream.data, "mjpeg")
    wanted = [4, 1]
    answer = probe_video_decoder.probe(
        [mp4], [np.array(wanted, np.int32)], [np.stack([video[i] for i in wanted])], "cpu"
    )
    assert answer["accepted"]
    assert answer["mean_levels"] < 8
    wrong = probe_video_decoder.probe([mp4], [np.array([0], np.int32)], [np.stack(video[:2])], "cpu")
    assert not wrong["accepted"]
    assert "expected" in wrong["error"]


@pytest.mark.parametrize("container", list(probe_video_decoder.CONTAINERS))
def test_a_probe_in_a_process_of_its_own_answers_whatever_happens(shards, tmp_path, container):
    refused = probe_video_decoder.ask_apart(shards[H264], container, "cpu")
    assert not refused["accepted"]
    assert "Failed to create" in refused["error"]
    crashed = probe_video_decoder.ask_apart(tmp_path, container, "cpu")
    assert "the process ended with 1" in crashed["error"]
    late = probe_video_decoder.ask_apart(tmp_path, container, "cpu", limit_s=0.01)
    assert late["error"] == "no answer within 0.01 s"


def test_videos_are_those_of_the_test_data_and_none_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "full_videos").mkdir()
    monkeypatch.setenv("TSN_TEST_DATA", str(tmp_path))
    assert bench_inputs.find_videos(tmp_path / "work") == tmp_path / "full_videos"
    with pytest.raises(UserError, match="no video to measure with; set TSN_TEST_DATA"):
        bench_inputs.pack(tmp_path / "full_videos", MJPEG, tmp_path, num_samples=1)


def test_aims_stand_beside_the_best_gpu_line():
    base = bench_pipeline.Variant("base", where="mixed")
    rows = [
        {"variant": v.name, "clips_per_s": speed, "gpu_memory_gb": 1.5}
        for v, speed in (
            (base, 10.0),
            (replace(base, prefetch=3), 30.0),
            (replace(base, batch_size=256), 20.0),
        )
    ]
    rows.append({"variant": replace(base, where="cpu").name, "clips_per_s": 99.0})
    rows.append({"variant": replace(base, num_segments=8).name, "status": "failed: RuntimeError: lost"})
    section = bench_pipeline.aims_section([base], {"base": bench_report.Section("", {}, rows=rows)})
    assert [row.get("measured") for row in section.rows] == [30.0, None, None, 1.5]
    assert [row.get("status") for row in section.rows] == [
        None,
        "failed: RuntimeError: lost",
        bench_report.NOT_LISTED,
        None,
    ]


def test_a_line_is_named_after_what_its_pipeline_does():
    names = [bench_pipeline.Variant("", H264, where=where).name for where in ("cpu", "mixed")]
    assert [name.partition(", 3 segments")[0] for name in names] == [
        f"{H264.name}, FFmpeg",
        f"{H264.name}, FFmpeg, GPU crops",
    ]


def test_a_report_is_a_table_for_people_and_json_for_programs(tmp_path):
    section = bench_report.Section("Title", {"name": "what", "speed": "clips/s", "on": "on"}, note="A note.")
    section.rows = [
        {"name": "a|b", "speed": 1234.5, "on": True},
        {"name": "c", "status": bench_report.NO_GPU},
    ]
    machine = {
        "date": "now",
        "commit": "abc",
        "cpu": "X",
        "num_cores": 2,
        "gpu": None,
        "system": "L",
        "versions": {},
    }
    bench_report.write_report(
        machine=machine,
        command="run",
        sections=[section],
        as_json=tmp_path / "r.json",
        markdown=tmp_path / "r.md",
    )
    text = (tmp_path / "r.md").read_text()
    assert "| a/b | 1,234 | yes |\n| c | not measured: no GPU |  |\n" in text
    assert "A note." in text
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["sections"][0]["rows"][0]["speed"] == 1234.5


@pytest.mark.parametrize(
    ("value", "text"), [(0.0314159, "0.0314"), (99.9, "99.9"), (12345.6, "12,346"), (3, "3")]
)
def test_figures_have_the_digits_that_count(value, text):
    assert bench_report.format_value(value) == text


def test_a_rate_counts_items_in_the_steady_state():
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield taken[-1]

    rate = measuring.rate_for(endless(), 3, 0.0)
    assert len(taken) == 5, "three that were ready, and two at least"
    assert rate.per_s == pytest.approx(2 / rate.wall_s)

"""The parts of `benchmark.py model`, `train`, `test` and `all`, on a small network and small frames."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from frame_shards import numbered_videos, write_shards

from support import bench_suite, bench_training
from support.bench_report import NO_GPU, NOT_LISTED, OUT_OF_TIME, Section
from support.measuring import Budget

SMALL = tuple(
    f"data.{split}.{name}"
    for split in ("train", "val", "test")
    for name in ("num_segments=2", "batch_size=2", "short_side=48", "crop_size=32")
)


@pytest.fixture(scope="module")
def suite(tmp_path_factory) -> bench_suite.Suite:
    shards = write_shards(tmp_path_factory.mktemp("shards") / "s", numbered_videos(6), num_classes=12)
    packed = dict.fromkeys(bench_suite.REAL, shards)
    return bench_suite.Suite("mini.yaml", SMALL, packed, Budget(600), 0.01, on_gpu=False)


def test_training_is_measured_on_synthetic_and_on_real_batches(suite):
    training, efficiency = bench_suite.train_tables(suite, [()])
    measured = training.rows
    assert len(measured) == 3, "synthetic, and each packing"
    for row in measured:
        assert row["images_per_s"] == pytest.approx(2 * row["clips_per_s"])
        assert 0 <= row["data_wait"] < 1
    assert [row["status"] for row in bench_suite.compiled_lines(suite, [()])] == [NO_GPU, NO_GPU]
    speeds = [row["clips_per_s"] for row in measured]
    assert efficiency.rows[0]["efficiency"] == pytest.approx(speeds[1] / speeds[0])


def test_of_a_row_with_several_sources_the_main_one_is_measured(suite):
    few = ("model.num_classes=12", "model.backbone=resnet18", "data.train.crop=random_resized")
    several = replace(suite, cfg="k400_omnisource.yaml", overrides=(*SMALL, *few))
    assert several.row().config.data.auxiliary == ()
    training, _ = bench_suite.train_tables(several, [()])
    assert [row.get("status") for row in training.rows] == [None] * 3
    assert all(row["images_per_s"] == pytest.approx(2 * row["clips_per_s"]) for row in training.rows)


def test_the_network_and_the_whole_test_are_measured(suite):
    assert bench_suite.model_table(suite, [()]).rows[0]["videos_per_s"] > 0
    assert bench_suite.test_table(suite, [()]).rows[0]["videos_per_s"] > 0


def test_a_profile_names_five_operations_and_tells_that_no_gpu_was_idle(suite):
    rows = bench_suite.profile_table(suite, (), 1).rows
    assert len(rows) == 6
    shares = [row["share"] for row in rows[:5]]
    assert shares == sorted(shares, reverse=True)
    assert 0.3 < sum(shares) <= 1
    assert rows[5] == {"variant": "GPU idle", "status": NO_GPU}


def test_what_has_no_time_left_or_fails_says_so(suite):
    late = bench_suite.Suite("mini.yaml", (), {}, Budget(-1), 1.0, on_gpu=False)
    assert late.attempt(lambda: {"x": 1}, needs_gpu=False) == {"status": OUT_OF_TIME}
    assert suite.attempt(lambda: {"x": 1}) == {"status": NO_GPU}

    def fail():
        raise RuntimeError("out\nof memory")

    assert suite.attempt(fail, needs_gpu=False) == {"status": "failed: RuntimeError: out of memory"}


def test_idle_is_what_no_kernel_covers():
    assert bench_training.idle_share([(0, 10)]) == 0
    assert bench_training.idle_share([(5, 10), (0, 4), (6, 8)]) == pytest.approx(0.1)
    assert bench_training.idle_share([(0, 1), (3, 4)]) == pytest.approx(0.5)


def test_what_the_gpu_decodes_meanwhile_does_not_count_as_training():
    def event(stream: int, begin: float, end: float, *, device: str = "CUDA", annotation: bool = False):
        times = SimpleNamespace(start=begin, end=end)
        kind = SimpleNamespace(name=device)
        return SimpleNamespace(
            device_type=kind, is_user_annotation=annotation, device_resource_id=stream, time_range=times
        )

    training = [event(7, 0, 4), event(7, 6, 10)]
    others = [event(9, 4, 6), event(7, 0, 10, annotation=True), event(3, 0, 90, device="CPU")]
    profile = SimpleNamespace(events=lambda: [*others, *training])
    assert bench_training.kernel_times(profile) == [(0, 4), (6, 10)]


def test_a_checkpoint_is_written_and_timed(suite, tmp_path):
    assert bench_training.time_checkpoint(suite.row(), tmp_path / "saved") > 0
    assert (tmp_path / "saved" / "last.pt").exists()


def test_the_first_record_of_a_run_ends_the_wait(tmp_path):
    log = tmp_path / "log.jsonl"
    assert not bench_training.has_record(log)
    log.write_text('{"kind": "val"}\n{"kind": "tr')
    assert not bench_training.has_record(log)
    log.write_text('{"kind": "val"}\n{"kind": "train"}\n')
    assert bench_training.has_record(log)


def test_an_aim_without_a_figure_says_why_its_line_has_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    efficiency = Section(
        "",
        {},
        rows=[
            {"variant": "resnet50, 3 segments, batch 2", "status": "failed: ValueError: no"},
            {"variant": "resnet50, 8 segments, batch 2", "status": OUT_OF_TIME},
        ],
    )
    profiled = Section("", {}, rows=[{"variant": "all", "status": OUT_OF_TIME}])
    rows = bench_suite.aims_table(Section("", {}), efficiency, Section("", {}), profiled).rows
    expected = ["failed: ValueError: no", OUT_OF_TIME, NOT_LISTED, NOT_LISTED, OUT_OF_TIME]
    assert [row["status"] for row in rows] == expected
    assert not any("measured" in row for row in rows)


def test_without_a_synthetic_line_the_efficiency_says_why(suite, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("lost")

    monkeypatch.setattr(bench_suite, "time_synthetic", fail)
    monkeypatch.setattr(bench_suite, "time_real", lambda named, *, seconds: {"clips_per_s": 2.0})
    rows = bench_suite.train_tables(suite, [()])[1].rows
    assert [row["status"] for row in rows] == ["failed: RuntimeError: lost"] * 2
    assert not any("efficiency" in row for row in rows)


def test_aims_count_only_where_a_gpu_measured_them(monkeypatch):
    training = Section("", {}, rows=[{"variant": "resnet50, 3 segments", "images_per_s": 3500.0}])
    empty = Section("", {})
    for on_gpu, expected in ((True, {"measured": 3500.0}), (False, {"status": NO_GPU})):
        monkeypatch.setattr(torch.cuda, "is_available", lambda on_gpu=on_gpu: on_gpu)
        row = bench_suite.aims_table(training, empty, empty, empty).rows[2]
        assert row == {"variant": "training ResNet-50 in bf16, images/s", "wanted": 3000.0} | expected

import json
from collections import defaultdict

import numpy as np
import pytest
from graph_runner import run_graph
from nvidia.dali import fn

from dali_pipes import sampling
from dali_pipes.graph_math import random_fractions


def reference_test_frames(total: int, segments: int, clip_len: int, interval: int) -> list[int]:
    """SampleFrames of MMAction2 0.x in test mode, in NumPy, in its order of operations."""
    span = clip_len * interval
    average = (total - span + 1) / segments
    offsets = np.zeros(segments, int)
    if total > span - 1:
        offsets = (np.arange(segments) * average + average / 2.0).astype(int)
    frames = offsets[:, None] + np.arange(clip_len)[None] * interval
    return (frames.reshape(-1) % total).tolist()


def sample(rule, totals, segments, clip_len, interval, *, seed=3):
    """Frames that one of the four rules chooses in videos of these lengths, (len(totals), frames)."""
    clips = {"num_segments": segments, "clip_len": clip_len, "frame_interval": interval}
    num_fractions = {sampling.random_segments: segments, sampling.random_dense: 1}

    def choose(node):
        if rule in num_fractions:
            return rule(node, random_fractions(num_fractions[rule]), **clips)
        return rule(node, **clips)

    return run_graph(totals, choose, seed=seed)


@pytest.mark.parametrize(
    ("segments", "clip_len", "interval"),
    [(1, 1, 1), (3, 1, 1), (8, 1, 1), (25, 1, 1), (25, 5, 1), (7, 3, 4)],
)
def test_middle_segments_are_the_references_for_every_length(segments, clip_len, interval):
    totals = range(1, 401)
    out = sample(sampling.middle_segments, totals, segments, clip_len, interval)
    for total, frames in zip(totals, out, strict=True):
        assert frames.tolist() == reference_test_frames(total, segments, clip_len, interval), total


def test_middle_segments_by_hand():
    out = sample(sampling.middle_segments, [1, 2, 10, 30], 5, 1, 1)
    assert out.tolist() == [[0, 0, 0, 0, 0], [0, 0, 1, 1, 1], [1, 3, 5, 7, 9], [3, 9, 15, 21, 27]]
    assert sample(sampling.middle_segments, [30], 25, 1, 1)[0, 12] == 14  # float32 would say 15


def test_random_segments_of_short_videos_by_hand():
    assert sample(sampling.random_segments, [3, 7], 8, 1, 1).tolist() == [
        [0, 0, 1, 1, 2, 2, 2, 0],
        [0, 1, 2, 3, 4, 4, 5, 6],
    ]
    assert sample(sampling.random_segments, [1, 2], 3, 1, 1).tolist() == [[0, 0, 0], [0, 1, 1]]
    assert sample(sampling.random_segments, [3], 2, 5, 1).tolist() == [[0, 1, 2, 0, 1] * 2]


def test_random_segments_draw_one_frame_from_each_segment():
    out = sample(sampling.random_segments, [300] * 4000, 8, 1, 1)
    for segment in range(8):
        assert set(out[:, segment].tolist()) == set(range(37 * segment, 37 * segment + 37))


def test_random_segments_of_crowded_clips_are_sorted_draws_of_all_starts():
    out = sample(sampling.random_segments, [11] * 3000, 8, 5, 1)[:, ::5]  # 7 possible starts for 8 clips
    assert (np.diff(out, axis=1) >= 0).all()
    values, counts = np.unique(out, return_counts=True)
    assert values.tolist() == list(range(7))
    assert np.abs(counts / out.size - 1 / 7).max() < 0.01


def test_random_segments_differ_by_seed_and_repeat_with_it():
    first, again, other = (
        sample(sampling.random_segments, [300] * 8, 3, 1, 1, seed=seed) for seed in (1, 1, 2)
    )
    assert (first == again).all()
    assert (first != other).any()


def test_dense_frames_by_hand():
    assert sample(sampling.random_dense, [30, 64, 65], 8, 1, 1).tolist() == [
        [0, 8, 16, 24, 2, 10, 18, 26],
        [0, 8, 16, 24, 32, 40, 48, 56],
        [0, 8, 16, 24, 32, 40, 48, 56],
    ]
    out = sample(sampling.all_dense, [300], 5, 1, 1)[0].reshape(10, 5)
    assert out[:, 0].tolist() == [0, 26, 52, 78, 104, 131, 157, 183, 209, 236]
    assert (out - out[:, :1]).tolist() == [[0, 12, 24, 36, 48]] * 10


@pytest.mark.parametrize(("segments", "clip_len", "interval"), [(8, 1, 1), (5, 3, 2)])
def test_all_dense_frames_are_the_references_for_every_length(segments, clip_len, interval):
    totals = range(1, 401)
    out = sample(sampling.all_dense, totals, segments, clip_len, interval)
    for total, frames in zip(totals, out, strict=True):
        starts = np.linspace(0, max(1, 1 + total - 64) - 1, 10).astype(int)
        offsets = (starts[:, None] + np.arange(segments) * (64 // segments)).reshape(-1, 1)
        expected = (offsets + np.arange(clip_len) * interval).reshape(-1) % total
        assert frames.tolist() == expected.tolist(), total


def test_random_dense_frames_start_anywhere_but_at_the_last_place():
    out = sample(sampling.random_dense, [80] * 2000, 8, 1, 1)
    assert set(out[:, 0].tolist()) == set(range(16))  # 16, the 17th start that fits, is never drawn
    assert (np.diff(out, axis=1) == 8).all()


@pytest.mark.parametrize(
    ("only_positive", "rows"), [(True, {(0, 7), (20, 3)}), (False, {(0, 7), (20, 3), (7, 13)})]
)
def test_a_part_is_drawn_from_the_positive_ones_or_from_all(only_positive, rows):
    parts = np.array([[0, 7, 1], [20, 3, 1], [7, 13, 0]])

    def choose(node):
        return fn.stack(*sampling.choose_part(node, random_fractions(1), only_positive=only_positive))

    drawn = [tuple(row) for row in run_graph([parts] * 600, choose).tolist()]
    assert set(drawn) == rows
    assert min(drawn.count(row) for row in rows) > 600 / len(rows) * 0.75


def golden_groups(cases):
    groups = defaultdict(list)
    for case in cases:
        args = case["args"]
        unused = args.get("twice_sample") or args.get("out_of_bound_opt", "loop") != "loop"
        if not unused and case.get("is_constant", True):
            groups[case["sampler"], args["num_clips"], args["clip_len"], args["frame_interval"]].append(case)
    return groups


RULES = {
    ("test_mode", "SampleFrames"): sampling.middle_segments,
    ("test_mode", "DenseSampleFrames"): sampling.all_dense,
    ("train_deterministic", "SampleFrames"): sampling.random_segments,
}


@pytest.mark.parametrize("part", ["test_mode", "train_deterministic"])
def test_frames_equal_the_golden_cases(golden, part):
    groups = golden_groups(json.loads((golden / "frames_0x.json").read_text())[part])
    assert {sampler for sampler, *_ in groups} == {sampler for own, sampler in RULES if own == part}
    for (sampler, *arguments), cases in groups.items():
        out = sample(RULES[part, sampler], [case["total_frames"] for case in cases], *arguments)
        for case, frames in zip(cases, out, strict=True):
            assert (frames + case["start_index"]).tolist() == case["frame_inds"], case


def test_random_frames_have_the_golden_statistics(golden):
    data = json.loads((golden / "frames_train_stats_0x.json").read_text())
    rules = {"SampleFrames": sampling.random_segments, "DenseSampleFrames": sampling.random_dense}
    assert {case["sampler"] for case in data["cases"]} == set(rules)
    for case in data["cases"]:
        args, draws = case["args"], data["draws"]
        out = sample(
            rules[case["sampler"]],
            [case["total_frames"]] * draws,
            args["num_clips"],
            args["clip_len"],
            args["frame_interval"],
        )
        first = out[:, :: args["clip_len"]] + case["start_index"]
        deviation = np.abs(first.mean(axis=0) - case["first_frame_mean"])
        assert (deviation <= 5 * np.sqrt(2) * np.array(case["first_frame_std"]) / np.sqrt(draws) + 1e-9).all()
        equal_segments = (
            case["total_frames"] - args["clip_len"] * args["frame_interval"] + 1 >= args["num_clips"]
        )
        if equal_segments:  # elsewhere the extremes are too rare to be drawn by both
            assert first.min(axis=0).tolist() == case["first_frame_min"]
            assert first.max(axis=0).tolist() == case["first_frame_max"]

import json
from collections import defaultdict

import numpy as np
import pytest

from dali_pipes import sampling


def reference_test_frames(total: int, segments: int, clip_len: int, interval: int) -> list[int]:
    """SampleFrames of MMAction2 0.x in test mode, in NumPy, in its order of operations."""
    span = clip_len * interval
    average = (total - span + 1) / segments
    offsets = np.zeros(segments, int)
    if total > span - 1:
        offsets = (np.arange(segments) * average + average / 2.0).astype(int)
    frames = offsets[:, None] + np.arange(clip_len)[None] * interval
    return (frames.reshape(-1) % total).tolist()


def sample(rule, totals, segments, clip_len, interval, *, seed=3, **options):
    """Frames that one of the rules chooses in videos of these lengths, a row a video."""
    clips = {"num_segments": segments, "clip_len": clip_len, "frame_interval": interval, **options}
    lengths, draws = np.array(totals), np.random.default_rng(seed)
    if rule is sampling.random_segments:
        return rule(lengths, draws.random((len(lengths), segments)), **clips)
    if rule is sampling.random_dense:
        return rule(lengths, draws.random(len(lengths)), **clips)
    return rule(lengths, **clips)


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
    fractions = np.random.default_rng(0).random(600)
    first, count = sampling.choose_parts([parts] * 600, fractions, only_positive=only_positive)
    drawn = list(zip(first.tolist(), count.tolist(), strict=True))
    assert set(drawn) == rows
    assert min(drawn.count(row) for row in rows) > 600 / len(rows) * 0.75


def test_clips_that_run_past_the_end_repeat_their_last_frame_where_asked():
    out = sample(sampling.middle_segments, [5, 7], 2, 3, 3, past_end="repeat_last")
    assert out.tolist() == [[0, 3, 3, 0, 3, 3], [0, 3, 6, 0, 3, 6]]
    out = sample(
        sampling.random_dense, [30], 4, 2, 3, past_end="repeat_last"
    )  # clips from 0, 16, 2 and 18 on
    assert out.tolist() == [[0, 3, 16, 19, 2, 5, 18, 21]]
    out = sample(sampling.random_dense, [20], 4, 2, 3, past_end="repeat_last")
    assert out.tolist() == [[0, 3, 16, 19, 12, 15, 8, 11]]
    out = sample(sampling.all_dense, [20], 4, 2, 3, num_positions=1, past_end="repeat_last")
    assert out.tolist() == [[0, 3, 16, 19, 12, 15, 8, 11]]
    assert sample(sampling.random_dense, [18], 2, 2, 5, dense_range=32, past_end="repeat_last").tolist() == [
        [0, 5, 16, 16]
    ]


def test_twice_adds_the_start_of_each_segment():
    assert sample(sampling.middle_segments, [10], 5, 1, 1, twice=True).tolist() == [
        [1, 3, 5, 7, 9, 0, 2, 4, 6, 8]
    ]
    # Too short for a clip: the reference has its two clips once.
    assert sample(sampling.middle_segments, [3], 2, 5, 1, twice=True).tolist() == [[0, 1, 2, 0, 1] * 4]


def test_twice_keeps_the_fractions_of_the_starts_until_the_end():
    # 34 frames, 22 clips of 5: the 11th starts at 10 * 30 / 22 = 13.636..., as a float and not as 13.
    total, segments, clip_len = 34, 22, 5
    average = (total - clip_len + 1) / segments
    starts = np.concatenate(
        [np.floor(np.arange(segments) * average + average / 2), np.arange(segments) * average]
    )
    expected = np.mod(starts[:, None] + np.arange(clip_len), total).reshape(-1).astype(int)
    out = sample(sampling.middle_segments, [total], segments, clip_len, 1, twice=True)
    assert out.tolist() == [expected.tolist()]
    whole = np.mod(np.floor(starts)[:, None] + np.arange(clip_len), total).reshape(-1).astype(int)
    assert whole.tolist() != expected.tolist()


def test_spread_segments_reach_from_the_first_frame_to_the_last():
    out = sample(sampling.spread_segments, [20], 4, 3, 2)[0].reshape(4, 3)
    assert out.tolist() == [[0, 2, 4], [5, 7, 9], [10, 12, 14], [15, 17, 19]]
    assert sample(sampling.spread_segments, [20], 1, 3, 2).tolist() == [[7, 9, 11]]


def test_dense_range_and_positions_can_be_chosen():
    out = sample(sampling.all_dense, [100], 4, 1, 1, dense_range=20, num_positions=5)[0].reshape(5, 4)
    assert out.tolist() == [[start, start + 5, start + 10, start + 15] for start in (0, 20, 40, 60, 80)]
    out = sample(sampling.random_dense, [24] * 600, 4, 1, 1, dense_range=20)
    assert set(out[:, 0].tolist()) == {0, 1, 2, 3}
    assert (np.diff(out, axis=1) == 5).all()


def test_untrimmed_clips_lie_around_every_so_many_frames_and_stay_inside():
    frames = sampling.untrimmed_frames(10, clip_len=5, clip_interval=4)
    assert frames.reshape(-1, 5).tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]
    assert sampling.untrimmed_frames(4, clip_len=4, clip_interval=2, frame_interval=2).tolist() == [
        *(0, 0, 1, 3),
        *(0, 1, 3, 3),
    ]
    with pytest.raises(ValueError, match="8 frames: too short for clips every 16 frames"):
        sampling.untrimmed_frames(8, clip_len=1, clip_interval=16)


OPTIONS = {"twice_sample": "twice", "out_of_bound_opt": "past_end"}
"""Ours by the reference's, of its samplers' arguments beside the first three."""


def golden_groups(cases):
    """Cases by sampler and arguments, for each its list and our options."""
    groups = defaultdict(list)
    for case in cases:
        if case.get("is_constant", True):
            groups[case["sampler"], json.dumps(case["args"])].append(case)
    for (sampler, args), group in groups.items():
        args = json.loads(args)
        clips = [args.pop(name) for name in ("num_clips", "clip_len", "frame_interval")]
        yield sampler, clips, {OPTIONS[name]: value for name, value in args.items()}, group


def golden_rule(version, part, sampler, clip_len):
    if sampler == "DenseSampleFrames":
        return sampling.all_dense
    if part == "train_deterministic":
        return sampling.random_segments
    return sampling.spread_segments if version == "1x" and clip_len > 1 else sampling.middle_segments


@pytest.mark.parametrize("version", ["0x", "1x"])
@pytest.mark.parametrize("part", ["test_mode", "train_deterministic"])
def test_frames_equal_the_golden_cases(golden, part, version):
    num_checked = 0
    cases = json.loads((golden / f"frames_{version}.json").read_text())[part]
    for sampler, clips, options, group in golden_groups(cases):
        rule = golden_rule(version, part, sampler, clips[1])
        out = sample(rule, [case["total_frames"] for case in group], *clips, **options)
        for case, frames in zip(group, out, strict=True):
            expected = case["frame_inds"]
            if options.get("twice") and len(expected) < len(frames):
                expected = expected * 2  # too short for a clip: here its clips come twice
            assert (frames + case["start_index"]).tolist() == expected, case
            num_checked += 1
    assert num_checked == sum(case.get("is_constant", True) for case in cases)


@pytest.mark.parametrize("version", ["0x", "1x"])
def test_untrimmed_frames_equal_the_golden_cases(golden, version):
    cases = json.loads((golden / f"frames_{version}.json").read_text())["untrimmed"]
    assert {isinstance(case["frame_inds"], str) for case in cases} == {True, False}
    for case in cases:
        options = {"clip_len": case["args"]["clip_len"], "clip_interval": case["args"]["frame_interval"]}
        if isinstance(case["frame_inds"], str):
            with pytest.raises(ValueError, match="too short for clips every"):
                sampling.untrimmed_frames(case["total_frames"], **options)
            continue
        frames = sampling.untrimmed_frames(case["total_frames"], **options)
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

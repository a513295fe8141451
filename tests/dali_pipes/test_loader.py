import dataclasses
from itertools import chain

import numpy as np
import psutil
import pytest
import torch
from frame_shards import flow_video, numbered_videos, position_video, write_shards
from loader_factory import eval_loader, ids, train_loader
from video_factory import numbered_frame, read_number

from dali_pipes import spec
from dali_pipes.loader import Batch, Loader
from shards.manifest import ShardError
from shards.reading import ShardDataset


def painted_numbers(clips: torch.Tensor) -> list[list[int]]:
    return [[read_number(frame) for frame in clip] for clip in clips.cpu().numpy()]


def assert_equal(first: Batch, second: Batch):
    for field in dataclasses.fields(Batch):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name)), field.name


def test_a_batch_has_the_documented_fields(shards):
    batch = next(iter(train_loader(shards(20), num_segments=3)))
    assert batch.clips.shape == (4, 3, 48, 48, 3)
    assert batch.clips.dtype == torch.uint8
    assert batch.labels.dtype == batch.sample_ids.dtype == torch.int64
    assert batch.labels.tolist() == [sample_id % 5 for sample_id in batch.sample_ids.tolist()]
    assert batch.frame_indices.shape == (4, 3)
    assert batch.windows.tolist() == [[[0, 0, 48, 48]]] * 4
    assert batch.flips.tolist() == [[False]] * 4


def test_a_full_shuffle_buffer_takes_little_address_space(shards):
    loader = train_loader(shards(20), shuffle_buffer=4096)
    before = psutil.Process().memory_info().vms
    next(iter(loader))
    assert psutil.Process().memory_info().vms - before < 2e9


def test_the_frames_that_were_drawn_are_the_frames_that_come_out(shards):
    loader = train_loader(shards(20), num_segments=3)
    for _ in range(2):
        for batch in loader:
            assert painted_numbers(batch.clips) == batch.frame_indices.tolist()
            assert (batch.frame_indices >= torch.tensor([0, 4, 8])).all()
            assert (batch.frame_indices < torch.tensor([4, 8, 12])).all()


@pytest.mark.parametrize(
    ("num_samples", "world_size", "batch_size"),
    [(53, 2, 13), (53, 1, 7), (40, 2, 5), (41, 3, 4), (64, 8, 4), (104, 8, 13), (30, 3, 10)],
)
def test_epochs_repeat_nothing_and_leave_out_less_than_a_global_batch(
    shards, num_samples, world_size, batch_size
):
    loaders = [
        train_loader(shards(num_samples), rank=rank, world_size=world_size, batch_size=batch_size)
        for rank in range(world_size)
    ]
    orders = []
    for _ in range(4):
        seen = [ids(loader) for loader in loaders]
        assert len({len(own) for own in seen}) == 1
        assert len(seen[0]) == len(loaders[0]) * batch_size
        everything = list(chain(*seen))
        assert len(everything) == len(set(everything))
        assert num_samples - len(everything) < world_size * batch_size
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2]
    assert [loader.epoch for loader in loaders] == [4] * world_size


def test_the_order_is_a_function_of_the_seed(shards):
    first, again, other = (ids(train_loader(shards(53), seed=seed)) for seed in (5, 5, 6))
    assert first == again != other


def test_ranks_draw_different_frames_and_windows(shards):
    loaders = [
        train_loader(shards(40), rank=rank, world_size=2, num_segments=4, crop="random_resized", flip=0.5)
        for rank in range(2)
    ]
    first, second = (next(iter(loader)) for loader in loaders)
    assert not torch.equal(first.frame_indices, second.frame_indices)
    assert not torch.equal(first.windows, second.windows)


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize(("num_samples", "batch_size"), [(53, 4), (5, 2), (24, 8)])
def test_testing_sees_each_sample_once_in_every_pass(shards, num_samples, batch_size, world_size):
    loaders = [
        eval_loader(shards(num_samples), rank=rank, world_size=world_size, batch_size=batch_size)
        for rank in range(world_size)
    ]
    for _ in range(2):
        assert sorted(chain(*map(ids, loaders))) == list(range(num_samples))


def test_testing_does_not_depend_on_ranks_or_batch_size(shards):
    def collect(world_size: int, batch_size: int) -> dict[int, bytes]:
        found = {}
        for rank in range(world_size):
            for batch in eval_loader(shards(20), rank=rank, world_size=world_size, batch_size=batch_size):
                for sample_id, clip in zip(batch.sample_ids.tolist(), batch.clips, strict=True):
                    found[sample_id] = clip.numpy().tobytes()
        return found

    assert collect(1, 4) == collect(3, 7)


@pytest.mark.parametrize("steps", [0, 1, 7, 13, 14, 20, 26])
def test_a_restored_loader_goes_on_bit_for_bit(shards, steps):
    options = {"batch_size": 4, "crop": "random_resized", "flip": 0.5, "num_segments": 3}
    loader = train_loader(shards(53), seed=3, **options)  # 13 steps an epoch
    batches = endless(loader)
    for _ in range(steps):
        next(batches)
    restored = train_loader(shards(53), seed=3, **options)
    restored.load_state_dict(loader.state_dict())
    assert (restored.epoch, restored.step) == (loader.epoch, loader.step)
    continued = endless(restored)
    for _ in range(16):
        assert_equal(next(batches), next(continued))
    assert (restored.epoch, restored.step) == (loader.epoch, loader.step)


def endless(loader: Loader):
    while True:
        yield from loader


def test_a_loader_state_survives_weights_only_saving(shards, tmp_path):
    loader = train_loader(shards(20))
    next(iter(loader))
    torch.save(loader.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state == loader.state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed: 0, now 1"),
        ({"batch_size": 2}, "data.batch_size: 4, now 2"),
        ({"num_segments": 3}, "data.num_segments: 2, now 3"),
        ({"world_size": 2}, "world_size: 1, now 2"),
        ({"flip": 0.25}, "data.flip: 0.0, now 0.25"),
    ],
)
def test_a_state_of_other_settings_is_refused(shards, change, message):
    state = train_loader(shards(20)).state_dict()
    with pytest.raises(ValueError, match=rf"saved with other settings.*{message}"):
        train_loader(shards(20), **change).load_state_dict(state)


def test_a_state_of_another_data_set_is_refused(shards):
    state = train_loader(shards(20)).state_dict()
    with pytest.raises(ValueError, match=r"samples: '20 in shards .* now '30 in shards"):
        train_loader(shards(30)).load_state_dict(state)


@pytest.mark.parametrize("subsampling", ["422", "444"])
def test_stitched_frames_are_identical_to_frames_decoded_one_by_one(tmp_path, subsampling):
    video = list(np.random.default_rng(0).integers(0, 256, (9, 50, 70, 3), np.uint8))
    directory = write_shards(tmp_path, [video] * 4, subsampling=subsampling)
    sample = ShardDataset(directory).read_sample("00000000")
    batch = next(iter(train_loader(directory, num_segments=9, crop_size=50)))
    for clip, indices in zip(batch.clips, batch.frame_indices, strict=True):
        alone = np.concatenate([sample.decode([index]) for index in indices.tolist()])
        assert (clip.numpy() == alone[:, :, 10:60]).all()


@pytest.mark.parametrize("subsampling", ["420", "422", "444", "flow"])
def test_columns_decoded_alone_are_those_of_the_whole_picture(tmp_path, monkeypatch, subsampling):
    channels = 2 if subsampling == "flow" else 3
    draws = np.random.default_rng(0)
    coarse = draws.integers(0, 256, (7, 25, 40, channels), np.uint8)
    video = list(coarse.repeat(2, axis=1).repeat(2, axis=2))
    options = {} if subsampling == "flow" else {"subsampling": subsampling}
    directory = write_shards(tmp_path, [video] * 12, **options)
    split = {"num_segments": 7, "crop": "random_resized", "crop_size": (24, 16), "flip": 0.5}
    columns = list(train_loader(directory, **split))
    monkeypatch.setattr(spec.PipelineSpec, "decodes_columns", False)
    whole = list(train_loader(directory, **split))
    assert len({tuple(batch.windows[0, 0].tolist()) for batch in whole}) == 3
    for one, other in zip(columns, whole, strict=True):
        assert_equal(one, other)


def test_more_frames_than_one_picture_holds_are_split_into_several(shards, monkeypatch):
    monkeypatch.setitem(spec._MAX_ROWS, "cpu", 48 * 3)
    for batch in eval_loader(shards(20), num_segments=7, num_crops=10):
        assert batch.clips.shape[1] == 70
        assert painted_numbers(batch.clips[:, 56:63]) == batch.frame_indices.tolist()


def test_ten_crops_are_crop_major_with_every_second_mirrored(tmp_path):
    directory = write_shards(tmp_path, [position_video(3, (80, 60))] * 2, subsampling="444", quality=100)
    (batch,) = eval_loader(directory, num_segments=3, num_crops=10, crop_size=40)
    assert batch.clips.shape == (2, 30, 40, 40, 3)
    crops = batch.clips[0].reshape(10, 3, 40, 40, 3).int()
    for (x1, y1, x2, _), flipped, frames in zip(
        batch.windows[0].tolist(), batch.flips[0], crops, strict=True
    ):
        left, right = (x2 - 1, x1) if flipped else (x1, x2 - 1)
        assert (frames[:, 0, 0, 0] - left // 2).abs().max() <= 1
        assert (frames[:, 0, -1, 0] - right // 2).abs().max() <= 1
        assert (frames[:, 0, 0, 1] - y1 // 2).abs().max() <= 1
    assert batch.windows[0, ::2, :2].tolist() == [[0, 0], [40, 0], [0, 20], [40, 20], [20, 10]]


def test_a_training_crop_shows_its_window(tmp_path):
    directory = write_shards(tmp_path, [position_video(3, (200, 120))] * 8, subsampling="444", quality=100)
    batch = next(iter(train_loader(directory, crop="random_resized", crop_size=32, flip=0.5, batch_size=8)))
    assert set(batch.flips[:, 0].tolist()) == {False, True}
    for clip, (window,), (flipped,) in zip(batch.clips.float(), batch.windows, batch.flips, strict=True):
        x1, y1, x2, y2 = window.tolist()
        step_x, step_y = (x2 - x1) / 32, (y2 - y1) / 32
        columns = x1 + (np.arange(32) + 0.5) * step_x - 0.5
        rows = y1 + (np.arange(32) + 0.5) * step_y - 0.5
        expected = columns[::-1] if flipped else columns
        assert np.abs(clip[0, 16, :, 0].numpy() * 2 + 0.5 - expected).max() < 6
        assert np.abs(clip[1, :, 16, 1].numpy() * 2 + 0.5 - rows).max() < 6


def test_color_jitter_changes_all_frames_of_a_video_alike(shards):
    plain = next(iter(train_loader(shards(20), num_segments=3)))
    jittered = next(iter(train_loader(shards(20), num_segments=3, color_jitter=0.4)))
    assert jittered.sample_ids.tolist() == plain.sample_ids.tolist()
    factors = jittered.clips[:, :, 24:, :, :].float().mean((2, 3, 4)) / plain.clips[:, :, 24:].float().mean(
        (2, 3, 4)
    )
    assert (factors.std(dim=1) < 0.05).all()
    assert factors[:, 0].std() > 0.05
    assert ((factors > 0.5) & (factors < 2)).all()


def test_sizes_may_differ_inside_a_batch(tmp_path):
    sizes = [(64, 48), (48, 64), (101, 35), (35, 27)]
    videos = [[numbered_frame(n, size) for n in range(5)] for size in sizes]
    directory = write_shards(tmp_path, videos)
    (batch,) = eval_loader(directory, short_side=40, crop_size=40, num_crops=3, batch_size=4)
    assert batch.clips.shape == (4, 6, 40, 40, 3)
    scaled = [(53, 40), (40, 53), (115, 40), (52, 40)]
    for (width, height), boxes in zip(scaled, batch.windows.tolist(), strict=True):
        assert boxes[0] == [0, 0, 40, 40]
        left, top = (width - 40) // 2 * 2, (height - 40) // 2 * 2
        assert boxes[1] == [left, top, left + 40, top + 40]


def test_h264_gives_the_frames_that_were_drawn_and_resumes(tmp_path):
    video = [numbered_frame(number, (48, 48)) for number in range(11)]
    directory = write_shards(tmp_path, [video] * 12, codec="h264")
    loader = train_loader(directory, num_segments=3)
    batches = endless(loader)
    for _ in range(4):
        batch = next(batches)
        assert painted_numbers(batch.clips) == batch.frame_indices.tolist()
    restored = train_loader(directory, num_segments=3)
    restored.load_state_dict(loader.state_dict())
    assert_equal(next(batches), next(endless(restored)))


def flow_numbers(planes: torch.Tensor, flipped: bool) -> list[int]:
    """Frame numbers that the planes x0 y0 x1 y1 ... of a `flow_video` show; x and y must agree."""
    values = planes.float().mean(dim=(-2, -1)).reshape(-1, 2)
    x = 255 - values[:, 0] if flipped else values[:, 0]
    numbers = (x / 4).round()
    assert torch.equal(numbers, ((200 - values[:, 1]) / 4).round())
    return numbers.int().tolist()


def test_flow_leaves_as_planes_x_y_of_consecutive_frames_with_x_inverted_where_mirrored(tmp_path):
    directory = write_shards(tmp_path, [flow_video(40, (50, 40))] * 8)
    loader = train_loader(
        directory, num_segments=3, clip_len=5, crop_size=32, crop="random_resized", flip=0.5
    )
    for batch in loader:
        assert batch.clips.shape == (4, 3, 10, 32, 32)
        for clips, frames, flipped in zip(batch.clips, batch.frame_indices, batch.flips[:, 0], strict=True):
            assert flow_numbers(clips, bool(flipped)) == frames.tolist()
            assert (frames.reshape(3, 5).diff(dim=1) == 1).all()


def test_ten_crops_of_flow_are_mirrored_without_inverting_x(tmp_path):
    directory = write_shards(tmp_path, [flow_video(40, (50, 40))] * 2)
    (batch,) = eval_loader(directory, num_segments=4, clip_len=5, num_crops=10, crop_size=32)
    assert batch.clips.shape == (2, 40, 10, 32, 32)
    assert batch.flips[0].tolist() == [False, True] * 5
    for crop in batch.clips[1].reshape(10, 4 * 10, 32, 32):
        assert flow_numbers(crop, flipped=False) == batch.frame_indices[1].tolist()


def test_flow_is_scaled_with_its_frame_and_its_window_where_asked(tmp_path):
    directory = write_shards(tmp_path, [flow_video(40, (50, 40))] * 8)
    options = {"num_segments": 2, "clip_len": 5, "crop_size": (32, 16), "frame_size": (100, 60)}
    for loader in (
        train_loader(directory, crop="random_resized", flip=0.5, scale_flow=True, **options),
        eval_loader(directory, num_crops=10, scale_flow=True, **options),
    ):
        batch = next(iter(loader))
        assert batch.clips.dtype == torch.float32
        assert batch.clips.shape[2:] == (10, 16, 32)
        for clips, frames, boxes, flips in zip(
            batch.clips, batch.frame_indices, batch.windows, batch.flips, strict=True
        ):
            x1, y1, x2, y2 = boxes[0].tolist()
            pairs = clips.mean(dim=(-2, -1)).reshape(len(flips), -1, 2)
            x = 4.0 * frames
            if loader._spec.training and flips[0]:
                x = 255 - x
            assert_close(pairs[..., 0], (x - 128) * (2 * 32 / (x2 - x1)) + 128)
            assert_close(pairs[..., 1], (72 - 4.0 * frames) * (1.5 * 16 / (y2 - y1)) + 128)


def assert_close(found: torch.Tensor, expected: torch.Tensor):
    torch.testing.assert_close(found, expected.float().expand_as(found), rtol=0, atol=1e-3)


def test_a_video_shorter_than_a_clip_counts_as_one_among_those_that_are_seen_twice(tmp_path):
    videos = [[numbered_frame(number, (48, 48)) for number in range(length)] for length in (3, 20)]
    (batch,) = eval_loader(write_shards(tmp_path, videos), clip_len=5, twice=True)
    assert batch.frame_indices.tolist() == [
        [0, 1, 2, 0, 1] * 4,
        [*range(4, 9), *range(12, 17), *range(5), *range(8, 13)],
    ]
    assert painted_numbers(batch.clips) == batch.frame_indices.tolist()


def test_a_crop_may_be_wider_than_high_and_frames_of_any_size(tmp_path):
    directory = write_shards(tmp_path, [position_video(3, (80, 60))] * 2, subsampling="444", quality=100)
    (batch,) = eval_loader(directory, num_segments=1, frame_size=(160, 60), crop_size=(80, 40), num_crops=1)
    assert batch.windows[:, 0].tolist() == [[40, 10, 120, 50]] * 2
    assert batch.clips.shape == (2, 1, 40, 80, 3)
    reds, greens = batch.clips[0, 0, 0, :, 0], batch.clips[0, 0, :, 0, 1]
    assert (reds - (20 + torch.arange(80) / 2) // 2).abs().max() <= 1
    assert (greens.int() - torch.arange(10, 50) // 2).abs().max() <= 1


def test_dense_testing_sees_ten_positions(tmp_path):
    video = [numbered_frame(number, (48, 48)) for number in range(100)]
    (batch,) = eval_loader(write_shards(tmp_path, [video]), sampling="dense", num_segments=8, num_crops=1)
    assert batch.clips.shape == (1, 80, 48, 48, 3)
    assert painted_numbers(batch.clips) == batch.frame_indices.tolist()
    assert batch.frame_indices[0, ::8].tolist() == [0, 4, 8, 12, 16, 20, 24, 28, 32, 36]
    dense = {"sampling": "dense", "dense_range": 98, "num_segments": 2}
    (batch,) = eval_loader(tmp_path, dense_positions=3, **dense)
    assert batch.frame_indices.tolist() == [[0, 49, 1, 50, 2, 51]]
    batch = next(iter(train_loader(tmp_path, batch_size=1, **dense)))
    assert batch.frame_indices[0].tolist() in ([0, 49], [1, 50])


def test_random_test_frames_depend_on_the_sample_alone(shards):
    def collect(world_size: int, batch_size: int) -> dict[int, list]:
        options = {"sampling": "random_segments", "num_segments": 3, "random_crop": True, "crop_size": 32}
        return {
            int(sample_id): [frames.tolist(), window.tolist()]
            for rank in range(world_size)
            for batch in eval_loader(
                shards(20), rank=rank, world_size=world_size, batch_size=batch_size, **options
            )
            for sample_id, frames, window in zip(
                batch.sample_ids, batch.frame_indices, batch.windows, strict=True
            )
        }

    first = collect(1, 4)
    assert first == collect(3, 7)
    assert len({str(value) for value in first.values()}) > 15


def test_training_reads_the_parts_it_is_asked_for(tmp_path, shards):
    video = [numbered_frame(number, (48, 48)) for number in range(30)]
    parts = np.array([[0, 7, 1], [20, 10, 1], [7, 13, 0]], np.int32)
    directory = write_shards(tmp_path, [video] * 40, parts=parts)
    frames = {
        kind: set(range(30))
        & {
            frame
            for batch in train_loader(directory, num_segments=3, parts=kind)
            for clip in painted_numbers(batch.clips)
            for frame in clip
        }
        for kind in ("positive", "random")
    }
    assert not frames["positive"] & set(range(7, 20))
    assert {min(frames["positive"]), max(frames["positive"])} <= {0, 1, 2, 27, 28, 29}
    assert frames["random"] & set(range(7, 20))
    with pytest.raises(ShardError, match="not packed in parts, and parts is 'random'"):
        train_loader(shards(20), parts="random")


def test_several_labels_come_out_multi_hot(tmp_path):
    labels = [[0], [1, 3], [4, 0, 2], [3]]
    directory = write_shards(tmp_path, numbered_videos(4), labels=labels)
    (batch,) = eval_loader(directory, batch_size=4)
    assert batch.labels.dtype == torch.uint8
    assert [row.nonzero().flatten().tolist() for row in batch.labels] == [sorted(own) for own in labels]

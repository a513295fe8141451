"""inspect_batch.py as a user runs it, on videos whose frames tell their number."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from frame_shards import flow_video, write_shards
from PIL import Image
from shard_factory import pack_videos, run_script, write_video_list
from video_factory import numbered_frame

NUM_FRAMES = {"a.mp4": 40, "b.mkv": 31, "c.avi": 25, "d.mp4": 2}
SIZE = (64, 48)  # width, height


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("inspect")
    return pack_videos(
        write_video_list(directory, NUM_FRAMES, size=SIZE), directory / "shards", "--quality", "95"
    )


def inspect(shards: Path, split: str, *arguments: str | Path) -> None:
    sized = any(str(argument).startswith(f"data.{split}.crop_size=") for argument in arguments)
    done = run_script(
        *("inspect_batch.py", "--cfg", "mini.yaml", "--split", split, "model.num_classes=3"),
        *(f"data.{name}.shards={shards}" for name in ("train", "val", "test")),
        *([] if sized else [f"data.{split}.crop_size=32"]),
        *(f"data.{split}.short_side=null", *arguments),
    )
    assert done.returncode == 0, done.stderr


def source_views(name: str, window: np.ndarray, flip: bool) -> np.ndarray:
    """(num_frames, 32, 32, 3) float: the window in every frame of a source video, as the model sees it."""
    x1, y1, x2, y2 = window
    first = 50 * list(NUM_FRAMES).index(name)
    views = []
    for number in range(first, first + NUM_FRAMES[name]):
        view = cv2.resize(numbered_frame(number, SIZE)[y1:y2, x1:x2], (32, 32))
        views.append(view[:, ::-1] if flip else view)
    return np.stack(views).astype(float)


def assert_views_match(batch: dict[str, np.ndarray], video: int, crop: int) -> None:
    """The clip's pixels are those of `frame_indices` in the window, mirrored as `flips` says."""
    indices, window = batch["frame_indices"][video], batch["windows"][video, crop]
    clip = batch["clips"][video, crop * len(indices) : (crop + 1) * len(indices)].astype(float)
    views = source_views(batch["names"][video], window, batch["flips"][video, crop])
    errors = np.abs(clip[:, None] - views).mean(axis=(2, 3, 4))  # (T, num_frames)
    assert errors[range(len(indices)), indices].max() < 6, (video, crop)
    if window[2] == SIZE[0] and window[1] == 0:  # all of the lowest bit's block: no two frames look alike
        assert errors.argmin(axis=1).tolist() == indices.tolist(), (video, crop)


def test_dump_of_training_tells_which_frames_windows_and_flips_the_clips_show(shards, tmp_path):
    inspect(shards, "train", "--samples", "4", "--dump", tmp_path / "batch.npz", "data.train.batch_size=2")
    batch = dict(np.load(tmp_path / "batch.npz"))
    assert sorted(batch["names"]) == sorted(NUM_FRAMES)
    labels = {name: i % 3 for i, name in enumerate(NUM_FRAMES)}
    assert batch["labels"].tolist() == [labels[name] for name in batch["names"]]
    assert batch["frame_indices"].shape == (4, 3)
    assert batch["windows"].shape == (4, 1, 4)
    assert batch["clips"].shape == (4, 3, 32, 32, 3)
    assert batch["clips"].dtype == np.uint8
    assert len(set(batch["sample_ids"].tolist())) == 4
    for video in range(4):
        assert_views_match(batch, video, crop=0)


def test_dump_of_ten_crops_is_crop_after_crop_each_followed_by_its_mirror_image(shards, tmp_path):
    inspect(
        *(shards, "test", "--samples", "3", "--dump", tmp_path / "batch.npz"),
        *("data.test.num_crops=10", "data.test.num_segments=5"),
    )
    batch = dict(np.load(tmp_path / "batch.npz"))
    assert batch["sample_ids"].tolist() == [0, 1, 2]
    assert batch["clips"].shape == (3, 10 * 5, 32, 32, 3)
    assert batch["flips"].tolist() == [[False, True] * 5] * 3
    corners = [(0, 0), (32, 0), (0, 16), (32, 16), (16, 8)]
    expected = [(x, y, x + 32, y + 32) for x, y in corners for _ in range(2)]
    assert [tuple(window) for window in batch["windows"][0]] == expected
    for video, name in enumerate(batch["names"]):
        middles = [(2 * segment + 1) * NUM_FRAMES[name] // 10 for segment in range(5)]
        assert batch["frame_indices"][video].tolist() == middles
        for crop in range(10):
            assert_views_match(batch, video, crop)


def test_several_labels_are_dumped_as_a_multi_hot_row_and_named_on_the_sheet(tmp_path):
    labels = {"one.mp4": (2,), "two.mp4": (0, 2)}
    videos = write_video_list(tmp_path, dict.fromkeys(labels, 8), labels=labels, size=SIZE)
    shards = pack_videos(videos, tmp_path / "shards")
    inspect(
        *(
            shards,
            "val",
            "--dump",
            tmp_path / "batch.npz",
            "--picture",
            tmp_path / "sheet.png",
            "model.loss=bce",
        ),
        "data.val.num_segments=3",
    )
    batch = dict(np.load(tmp_path / "batch.npz"))
    rows = {name: row.tolist() for name, row in zip(batch["names"], batch["labels"], strict=True)}
    assert rows == {"one.mp4": [0, 0, 1], "two.mp4": [1, 0, 1]}
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height > 2 * 96  # a row for each of the two videos


def test_flow_is_shown_as_red_and_green_around_grey(tmp_path):
    shards = write_shards(tmp_path / "shards", [flow_video(20, SIZE)], num_classes=3)
    inspect(
        *(shards, "test", "--dump", tmp_path / "batch.npz", "--picture", tmp_path / "sheet.png"),
        *("model.modality=flow", "data.test.clip_len=5", "data.train.clip_len=5", "data.val.clip_len=5"),
        *("data.test.num_segments=2", "data.test.num_crops=3", "data.test.crop_size=[64,32]"),
        "data.test.frame_size=[96,32]",
    )
    batch = dict(np.load(tmp_path / "batch.npz"))
    assert batch["clips"].shape == (1, 3 * 2, 10, 32, 64)
    frames = batch["frame_indices"][0].tolist()
    assert frames == [*range(4, 9), *range(12, 17)]
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.array(sheet).astype(int)
    for row in range(3):  # tiles of 96 x 48 under two lines of text
        top = 2 * 20 + 12 + 20 + row * (20 + 48 + 4) + 20
        for column, frame in enumerate(frames):
            colour = pixels[top + 10, 12 + column * (96 + 4) + 48]
            assert np.abs(colour - [4 * frame, 200 - 4 * frame, 128]).max() <= 2


def test_without_an_output_nothing_is_done():
    done = run_script("inspect_batch.py", "--cfg", "mini.yaml", "--split", "train")
    assert done.returncode == 2
    assert "nothing to write: give --picture" in done.stderr


def test_missing_shards_are_named(tmp_path):
    done = run_script(
        *("inspect_batch.py", "--cfg", "mini.yaml", "--split", "val", "--dump", tmp_path / "batch.npz"),
        f"data.val.shards={tmp_path / 'nowhere'}",
    )
    assert done.returncode == 2
    assert "data.val.shards" in done.stderr
    assert "no such directory" in done.stderr

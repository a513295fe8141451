"""Shows what the model sees: videos of a split after sampling, decoding, cropping and mirroring.

`--picture` writes a contact sheet.  A row is one crop of one video, a column one frame.  Above a row stand
the video's id, name and labels and its window, in each picture its frame number.  In training a video has
one row; with 10 crops it has 10, in the order in which the model gets them.  Of more frames than `--columns`,
evenly spread ones are shown.  Of optical flow red is motion in x, green in y; no motion is grey.

`--dump` writes the same videos with all their frames as arrays: names, labels, sample_ids, frame_indices,
windows, flips and clips, shaped as in `dali_pipes.loader.Batch`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import launch
from support.outputs import output_faults
from tsn.config import Config

MARGIN, GAP, LINE = 12, 4, 20  # pixels
MIN_TILE, MAX_TILE = 96, 224
ARRAYS = ("labels", "sample_ids", "frame_indices", "windows", "flips", "clips")
INK, PAPER, FAINT = (20, 20, 20), (255, 255, 255), (110, 110, 110)


@dataclass(frozen=True)
class Row:
    """One crop of one video."""

    description: str
    """E.g. `crop 2 of 10: x 0-224, y 0-224 (224 x 224), mirrored`."""
    frame_indices: np.ndarray
    """(T,) int32, source frames."""
    frames: np.ndarray
    """(T, H, W, 3) uint8."""


@dataclass(frozen=True)
class Videos:
    """The inspected videos: arrays as the loader made them, on the CPU."""

    names: np.ndarray
    """(N,) str: paths as in the list that was packed."""
    labels: np.ndarray
    """(N,) int64, or (N, num_classes) uint8 multi-hot."""
    sample_ids: np.ndarray
    """(N,) int64."""
    frame_indices: np.ndarray
    """(N, T) int32, source frames."""
    windows: np.ndarray
    """(N, num_crops, 4) int32: x1, y1, x2, y2, half-open, in pixels of the scaled frame."""
    flips: np.ndarray
    """(N, num_crops) bool."""
    clips: np.ndarray
    """(N, num_crops * T, H, W, 3) uint8, crop after crop; of flow as in `dali_pipes.loader.Batch`."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the crops."""
        height, width = self.clips.shape[2:4] if self.clips.shape[-1] == 3 else self.clips.shape[3:5]
        return width, height

    def pictures(self, video: int, crop: int) -> np.ndarray:
        """(T, H, W, 3) uint8, one crop of a video."""
        num_crops = self.flips.shape[1]
        clips = self.clips[video].reshape(num_crops, -1, *self.clips.shape[2:])[crop]
        if clips.shape[-1] == 3:
            return clips
        planes = (
            clips.reshape(-1, 2, *clips.shape[-2:]).clip(0, 255).astype(np.uint8)
        )  # (frame, x or y, H, W)
        return np.stack([planes[:, 0], planes[:, 1], np.full_like(planes[:, 0], 128)], axis=-1)

    def heading(self, video: int, classes: tuple[str, ...] | None) -> str:
        """Id, name and labels of a video."""
        labels = self.labels[video]
        ids = [int(labels)] if labels.ndim == 0 else np.flatnonzero(labels).tolist()
        names = ", ".join(f"{label} {classes[label]}" if classes else str(label) for label in ids)
        return f"{self.sample_ids[video]:08d}   {self.names[video]}   [{names}]"

    def row(self, video: int, crop: int) -> Row:
        """One crop of one video."""
        num_crops = self.flips.shape[1]
        x1, y1, x2, y2 = self.windows[video, crop].tolist()
        number = f"crop {crop + 1} of {num_crops}: " if num_crops > 1 else "window "
        mirrored = ", mirrored" if self.flips[video, crop] else ""
        return Row(
            description=f"{number}x {x1}-{x2}, y {y1}-{y2} ({x2 - x1} x {y2 - y1}){mirrored}",
            frame_indices=self.frame_indices[video],
            frames=self.pictures(video, crop),
        )


def read_videos(config: Config, split: Literal["train", "val", "test"], num_samples: int) -> Videos:
    """The first videos that a run with this config meets in this split (fewer where there are no more)."""
    with launch.joined_world() as (world, _):
        if split == "train":
            loader = launch.build_train_loader(config, world)
        else:
            loader = launch.build_eval_loader(config, split, world)
    batches, missing = [], num_samples
    for batch in loader:
        batches.append({name: getattr(batch, name)[:missing].cpu().numpy() for name in ARRAYS})
        missing -= len(batches[-1]["labels"])
        if missing <= 0:
            break
    loader.close()
    arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in ARRAYS}
    name_of = dict(launch.sample_names(config, split))
    names = np.array([name_of[sample_id] for sample_id in arrays["sample_ids"].tolist()])
    return Videos(names=names, **arrays)


def draw_sheet(videos: Videos, classes: tuple[str, ...] | None, title: str, max_columns: int) -> Image.Image:
    """The contact sheet; see the top of this file."""
    num_videos, num_crops = videos.flips.shape
    num_frames = videos.frame_indices.shape[1]
    columns = np.unique(np.linspace(0, num_frames - 1, min(max_columns, num_frames)).round().astype(int))
    if len(columns) < num_frames:
        title += f", {len(columns)} of {num_frames} frames"
    width, height = videos.size
    scale = np.clip(width, MIN_TILE, MAX_TILE) / width
    tile = (round(width * scale), round(height * scale))
    font = ImageFont.load_default(14)
    headings = [videos.heading(video, classes) for video in range(num_videos)]
    text_width = max(int(font.getlength(text)) for text in (title, *headings))
    row_height = LINE + tile[1] + GAP
    video_height = LINE + num_crops * row_height + MARGIN
    sheet_width = 2 * MARGIN + max(len(columns) * (tile[0] + GAP), text_width)
    sheet = Image.new("RGB", (sheet_width, 2 * LINE + MARGIN + num_videos * video_height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, font)
    for video, heading in enumerate(headings):
        top = 2 * LINE + MARGIN + video * video_height
        draw.text((MARGIN, top), heading, INK, font)
        for crop in range(num_crops):
            draw_row(sheet, top + LINE + crop * row_height, videos.row(video, crop), columns, tile)
    return sheet


def draw_row(sheet: Image.Image, top: int, row: Row, columns: np.ndarray, tile: tuple[int, int]) -> None:
    """One crop of one video: its window, and its frames at `columns`, scaled to the size `tile`."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.text((MARGIN, top), row.description, FAINT, font)
    for column, frame in enumerate(columns):
        left, bottom = MARGIN + column * (tile[0] + GAP), top + LINE + tile[1]
        sheet.paste(Image.fromarray(row.frames[frame]).resize(tile), (left, top + LINE))
        caption = f"frame {row.frame_indices[frame]}"
        draw.rectangle((left, bottom - 17, left + draw.textlength(caption, font) + 8, bottom - 1), fill=INK)
        draw.text((left + 4, bottom - 16), caption, PAPER, font)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Shows what the model sees, as a contact sheet and as arrays."
    )
    launch.add_config_arguments(parser)
    parser.add_argument("--split", choices=("train", "val", "test"), required=True)
    parser.add_argument("--samples", type=int, default=8, metavar="N", help="videos (default: 8)")
    parser.add_argument(
        "--columns", type=int, default=10, metavar="N", help="most frames in a row (default: 10)"
    )
    parser.add_argument(
        "--picture", type=Path, metavar="PNG", help="write the contact sheet here, whatever stood there"
    )
    parser.add_argument(
        "--dump",
        type=Path,
        metavar="NPZ",
        help="write names, labels, sample_ids, frame_indices, windows (x1 y1 x2 y2 in the scaled frame), "
        "flips and clips here, whatever stood there",
    )
    args = parser.parse_intermixed_args()
    if args.samples < 1 or args.columns < 1:
        parser.error(f"--samples, --columns: found {args.samples} and {args.columns}, expected at least 1")
    if not (args.picture or args.dump):
        parser.error("nothing to write: give --picture sheet.png, --dump batch.npz, or both")
    for option, path, suffix in (("--picture", args.picture, ".png"), ("--dump", args.dump, ".npz")):
        if path and path.suffix != suffix:
            parser.error(f"{option} {path}: expected a name that ends in {suffix}")
    if faults := output_faults({"--picture": args.picture, "--dump": args.dump}, overwrite=True):
        parser.error("\n".join(faults))

    named = launch.read_config(args)
    manifest = launch.check_shards(named.config, [args.split])[args.split]
    videos = read_videos(named.config, args.split, args.samples)
    if args.dump:
        np.savez(args.dump, **vars(videos))
        print(f"{args.dump}: {len(videos.names)} videos, clips {videos.clips.shape}")
    if args.picture:
        title = f"{args.cfg}, {args.split}: {manifest.dataset} {manifest.split}, {len(videos.names)} videos"
        draw_sheet(videos, manifest.classes, title, args.columns).save(args.picture)
        print(f"{args.picture}: {len(videos.names)} videos, {videos.flips.shape[1]} rows each")
    return 0


if __name__ == "__main__":
    launch.run_main(main)

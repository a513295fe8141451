"""Opening whatever a list names."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from shards.parts import PartedVideo
from shards.pictures import PictureFrames
from shards.source_format import SourceFormat
from shards.sources import Source
from shards.video import open_video


class Frames(Protocol):
    """What packing needs of a source: its size in pixels, its frame rate, and its frames (see `Video`)."""

    width: int
    height: int
    fps: float | None

    def iter_frames(
        self, choose_size: Callable[[int, int], tuple[int, int]], frame_stride: int = 1
    ) -> Iterator[np.ndarray]: ...


@contextmanager
def open_source(source: Source, source_format: SourceFormat) -> Iterator[Frames]:
    """Open a source of a list.

    Raises:
        VideoError: it cannot be read.
    """
    path = Path(source.path)
    match source_format.kind:
        case "videos":
            with open_video(path) as video:
                yield video
        case "images":
            yield PictureFrames(path.parent, [(path.name,)])
        case "parts":
            names = [name for index in range(source.count) for name in source_format.file_names(index)]
            yield PartedVideo([path / name for name in names])
        case "frames" | "flow":
            indices = range(source.offset, source.offset + source.count)
            names_of_frames = [source_format.file_names(index) for index in indices]
            yield PictureFrames(path, names_of_frames, grey=source_format.kind == "flow")

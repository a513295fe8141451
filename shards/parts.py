"""An untrimmed video that was cut into parts: its frames one after another, and the table of the parts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from shards.stream import VideoError
from shards.video import open_video


class PartedVideo:
    """The parts of a video as one.

    Attributes:
        width, height: pixels of an upright frame of the first part.
        fps: average frame rate of the first part, or None.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Look at the first part.

        Raises:
            VideoError: it cannot be read.
        """
        self._paths = paths
        self._lengths: list[int] = []
        with _named(paths[0]), open_video(paths[0]) as first:
            self.width, self.height, self.fps = first.width, first.height, first.fps

    def iter_frames(
        self, choose_size: Callable[[int, int], tuple[int, int]], frame_stride: int = 1
    ) -> Iterator[np.ndarray]:
        """Yield the frames of all parts, (H, W, 3) uint8 RGB, each scaled to the size chosen for the first.

        Args:
            choose_size: stored (width, height) from that of the first part.
            frame_stride: of the frames of each part, beginning with its first; 1 = every frame.

        Raises:
            VideoError: a part is missing or damaged; names it.
        """
        size = choose_size(self.width, self.height)
        self._lengths = []
        for path in self._paths:
            num_frames = 0
            with _named(path), open_video(path) as video:
                for frame in video.iter_frames(lambda *_: size, frame_stride):
                    yield frame
                    num_frames += 1
            self._lengths.append(num_frames)

    def table(self, positive: Sequence[int]) -> np.ndarray:
        """The `parts.npy` of the frames that were read: (P, 3) int32, see `Sample`."""
        assert len(self._lengths) == len(self._paths), "the frames have not been read"
        ends = np.cumsum(self._lengths)
        is_positive = np.isin(np.arange(len(ends)), positive)
        rows = np.stack([ends - self._lengths, self._lengths, is_positive], axis=1).astype(np.int32)
        return np.concatenate([rows[is_positive], rows[~is_positive]])


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors inside the block name the part."""
    try:
        yield
    except VideoError as error:
        raise VideoError(f"{path.name}: {error}") from error

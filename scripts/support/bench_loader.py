"""The train pipeline of a config beside decoding alone and bare libjpeg-turbo, on the same pictures.

The three take turns, round after round; medians are reported.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline, pipeline_def

import launch
from dali_pipes.loader import Batch, Loader
from shards.jpeg import stitch
from shards.pool import available_cores
from shards.reading import ShardDataset
from shards.sample import Sample, sample_key
from support.measuring import time_steady
from tsn.distributed import World
from tsn.errors import UserError

MAX_ROWS = 16_384
"""Rows of a stitched picture: what NVIDIA's JPEG engines take, and the CPU's decoder takes as well."""
NUM_KEPT_BATCHES = 4
"""Batches whose pictures are kept in memory and decoded again and again."""

Pictures = list[np.ndarray]
"""The stitched pictures of a batch, each (size,) uint8."""


def benchmark_loader(args: argparse.Namespace) -> dict[str, Any]:
    """Speeds of the train pipeline, of DALI decoding alone and of libjpeg-turbo, ready for JSON."""
    config = launch.read_config(args).config
    manifest = launch.check_shards(config, ["train"])["train"]
    if manifest.codec != "mjpeg":
        raise UserError(
            f"data.train.shards: holds {manifest.codec}; decoding alone is measured with mjpeg shards"
        )
    data = config.data
    num_threads = data.num_threads or available_cores()
    on_gpu = torch.cuda.is_available() and data.device != "cpu"
    loader = cast(
        Loader,
        launch.build_train_loader(config, World(rank=0, local_rank=0, world_size=1, local_world_size=1)),
    )
    batches = iter_forever(loader)
    kept = [stitched_pictures(Path(data.train.shards), batch) for batch in islice(batches, NUM_KEPT_BATCHES)]
    decoding = build_decoding(kept, num_threads=num_threads, on_gpu=on_gpu, prefetch=data.prefetch)
    num_ready = data.prefetch + 2
    with ThreadPoolExecutor(num_threads) as pool:
        rounds = run_rounds(
            {
                "pipeline": lambda: time_steady(batches, num_ready, args.batches),
                "dali_decode": lambda: time_steady(iter(decoding.run, None), num_ready, args.batches),
                "libjpeg_turbo": lambda: time_bare_decode(pool, kept, args.batches),
            },
            args.rounds,
        )
    loader.close()
    num_clips = args.batches * data.train.batch_size
    num_frames = data.train.num_segments * data.train.clip_len
    speeds = {name: speed(seconds, num_clips, num_frames) for name, seconds in rounds.items()}
    return {
        "batch_size": data.train.batch_size,
        "frames_per_clip": num_frames,
        "num_batches": args.batches,
        "num_threads": num_threads,
        "device": "gpu" if on_gpu else "cpu",
        "clips_per_s": speeds["pipeline"]["clips_per_s"],
        "frames_per_s": speeds["pipeline"]["frames_per_s"],
        **speeds,
    }


def iter_forever(loader: Loader) -> Iterator[Batch]:
    """Epoch after epoch."""
    while True:
        yield from loader


@lru_cache(maxsize=64)
def known_sample(directory: Path, sample_id: int) -> Sample:
    """A sample that is read again and again."""
    return ShardDataset(directory).read_sample(sample_key(sample_id))


def stitched_pictures(directory: Path, batch: Batch) -> Pictures:
    """The pictures that the pipeline decoded for `batch`, made once more from the shards."""
    pictures = []
    for sample_id, frames in zip(batch.sample_ids.tolist(), batch.frame_indices.tolist(), strict=True):
        stream = known_sample(directory, sample_id).stream
        numbers = frames
        if stream.channels == 2:  # a frame of flow is two grey pictures
            numbers = [2 * frame + axis for frame in frames for axis in (0, 1)]
        scans = [stream.data[start : start + length] for start, length in stream.units[numbers].tolist()]
        size = MAX_ROWS // stream.padded_height
        for first in range(0, len(scans), size):
            part = scans[first : first + size]
            picture = stitch(stream.head, stream.height_offset, stream.padded_height, part)
            pictures.append(np.frombuffer(picture, np.uint8))
    return pictures


def build_decoding(
    kept: Sequence[Pictures], *, num_threads: int, on_gpu: bool, prefetch: int, hw_decoder_load: float = 0.65
) -> Pipeline:
    """A DALI pipeline that decodes the kept batches in turn, for ever, and does nothing else."""

    @pipeline_def
    def decode_only():
        pictures = fn.external_source(source=cycle(kept), batch=True, dtype=types.DALIDataType.UINT8)
        device = "mixed" if on_gpu else "cpu"
        return fn.decoders.image(
            pictures,
            device=device,
            output_type=types.DALIImageType.RGB,
            jpeg_fancy_upsampling=True,
            hw_decoder_load=hw_decoder_load,
        )

    pipeline = decode_only(
        batch_size=max(map(len, kept)),
        num_threads=num_threads,
        device_id=0 if on_gpu else None,
        prefetch_queue_depth=prefetch,
    )
    pipeline.build()
    return pipeline


def time_bare_decode(pool: ThreadPoolExecutor, kept: Sequence[Pictures], num_batches: int) -> float:
    """Seconds in which the pool's threads decode `num_batches` of the kept batches with libjpeg-turbo."""
    cv2.setNumThreads(0)
    pictures = [picture for batch in islice(cycle(kept), num_batches) for picture in batch]
    start = time.perf_counter()
    for _ in pool.map(decode_bare, pictures):
        pass
    return time.perf_counter() - start


def decode_bare(picture: np.ndarray) -> None:
    """Decodes a picture and drops it.

    Raises:
        ValueError: it cannot be decoded.
    """
    if cv2.imdecode(picture, cv2.IMREAD_COLOR) is None:
        raise ValueError(f"OpenCV cannot decode a stitched picture of {picture.size} bytes")


def run_rounds(contenders: dict[str, Callable[[], float]], num_rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round; they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(num_rounds):
        for name, measure in contenders.items():
            seconds[name].append(measure())
            time.sleep(0.3)  # what works ahead gets idle before the next one's turn
    return seconds


def speed(seconds: list[float], num_clips: int, frames_per_clip: int) -> dict[str, float | list[float]]:
    """Median speeds, and those of each round, from the seconds that `num_clips` clips took."""
    rates = [num_clips / value for value in seconds]
    median = statistics.median(rates)
    return {"clips_per_s": median, "frames_per_s": median * frames_per_clip, "rounds": rates}


def print_loader(figures: dict[str, Any]) -> None:
    print(
        f"{figures['frames_per_clip']} frames a clip, batches of {figures['batch_size']}, "
        f"{figures['num_threads']} threads, decoding on the {figures['device']}"
    )
    print(f"{'':34}{'clips/s':>9}{'frames/s':>10}{'min':>9}{'max':>9}")
    titles = {
        "pipeline": "train pipeline",
        "dali_decode": "DALI decoding the same pictures",
        "libjpeg_turbo": "libjpeg-turbo decoding them",
    }
    for name, title in titles.items():
        part = figures[name]
        print(
            f"{title:34}{part['clips_per_s']:9.1f}{part['frames_per_s']:10.1f}"
            f"{min(part['rounds']):9.1f}{max(part['rounds']):9.1f}"
        )

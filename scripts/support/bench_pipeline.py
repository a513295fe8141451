"""The input pipeline in figures: decoding alone, and the whole of it, one factor at a time around a base."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import cv2
import numpy as np
import torch
from nvidia.dali import backend

from dali_pipes.loader import Batch, Loader
from dali_pipes.partition import eval_partition, train_partition
from dali_pipes.spec import PipelineSpec
from probe_video_decoder import CONTAINERS, ask_apart, build_video_decoding, join_gops
from shards import h264
from shards.manifest import load_manifest
from shards.pool import available_cores
from shards.reading import ShardDataset
from shards.sample import Sample
from shards.video import open_video
from support.bench_inputs import Packing, find_videos, pack
from support.bench_loader import build_decoding, iter_forever, known_sample, stitched_pictures
from support.bench_report import NO_GPU, OUT_OF_TIME, Row, Section, best_of, failure
from support.measuring import Budget, rate_for, used_gpu_gb
from tsn.config import EvalDataConfig, TrainDataConfig
from tsn.model import RGB_MEAN, RGB_STD

_DALI_BACKEND: Any = backend  # compiled: type checkers see nothing in it

COLUMNS = {
    "variant": "variant",
    "decode_clips_per_s": "decoding alone, clips/s",
    "clips_per_s": "pipeline, clips/s",
    "frames_per_s": "frames/s",
    "cpu_share": "CPU share",
    "cpu_ms_per_clip": "CPU ms a clip",
    "gpu_memory_gb": "GPU memory, GB",
}
TARGETS = (
    ("3 segments", "clips_per_s", "clips/s at least", 3500.0),
    ("8 segments", "clips_per_s", "clips/s at least", 1500.0),
    ("25 segments x 10 crops", "clips_per_s", "videos/s at least", 250.0),
    ("3 segments, batch 256", "gpu_memory_gb", "GB of the GPU at most", 4.0),
)
"""Part of the variants' names, column, unit and figure of the project's aims for an H200 with 16 cores."""
WAITING_THREAD = (
    "With a GPU the CPU's share and time include a thread of DALI's that waits for the GPU, up to a core."
)


@dataclass(frozen=True)
class Variant:
    """One line of the table; `where` says which processor decodes.

    Of h264 on the GPU, "decoding alone" is NVDEC's, which no pipeline takes yet: there FFmpeg decodes, and
    the GPU crops.
    """

    group: str
    packing: Packing = field(default_factory=Packing)
    where: Literal["cpu", "mixed"] = "cpu"
    hw_decoder_load: float = 0.65
    num_segments: int = 3
    num_crops: int = 1
    training: bool = True
    num_threads: int = 2
    prefetch: int = 2
    batch_size: int = 16
    as_bf16: bool = False

    @property
    def name(self) -> str:
        decoder = {"cpu": "CPU", "mixed": f"GPU, JPEG engines' share {self.hw_decoder_load:g}"}[self.where]
        if self.packing.codec == "h264":
            decoder = {"cpu": "FFmpeg", "mixed": "FFmpeg, GPU crops"}[self.where]
        views = f"{self.num_segments} segments" + (f" x {self.num_crops} crops" if not self.training else "")
        output = "bf16" if self.as_bf16 else "uint8"
        return (
            f"{self.packing.name}, {decoder}, {views}, batch {self.batch_size}, "
            f"{self.num_threads} threads, prefetch {self.prefetch}, {output}"
        )


def variants(*, num_cores: int, quick: bool) -> list[Variant]:
    """What is measured, the most wanted first."""
    on_cpu = Variant("base and aims", num_threads=num_cores)
    on_gpu = replace(on_cpu, where="mixed", num_threads=num_cores, batch_size=128)
    test = {"training": False, "num_segments": 25, "num_crops": 10, "batch_size": 4}
    found = [
        on_cpu,
        replace(on_cpu, num_segments=8),
        on_gpu,
        replace(on_gpu, num_segments=8),
        replace(on_gpu, **test),
        replace(on_gpu, batch_size=256),
    ]
    if not quick:
        found += [replace(on_cpu, num_segments=25), replace(on_gpu, num_segments=25), replace(on_cpu, **test)]
    for subsampling in ("420", "422", "444"):
        group, packing = "storage and decoder", Packing(subsampling=subsampling)
        found.append(replace(on_cpu, group=group, packing=packing))
        for share in (0.5,) if quick else (0.0, 0.5, 1.0):
            found.append(replace(on_gpu, group=group, packing=packing, hw_decoder_load=share))
    for size in ("352x256",) if quick else ("340x256", "352x256"):
        for gop in (8,) if quick else (1, 8, 16):
            packing = Packing("h264", gop=gop, size=size)
            for base in (on_cpu, on_gpu):
                found.append(replace(base, group="storage and decoder", packing=packing))
    if not quick:
        found += _one_factor(on_gpu, num_cores) + _one_factor(on_cpu, num_cores)
    return found


def _one_factor(base: Variant, num_cores: int) -> list[Variant]:
    threads = {
        number for number in (1, 4, 8, 16) if number < num_cores or (base.where == "mixed" and number > 1)
    }
    by_threads = [replace(base, group="threads", num_threads=number) for number in sorted(threads)]
    by_prefetch = [replace(base, group="prefetch", prefetch=number) for number in (1, 3, 4)]
    return [*by_threads, *by_prefetch, replace(base, group="output", as_bf16=True)]


def run_pipeline_benchmark(
    *, quick: bool, limit_s: float, save: Callable[[list[Section]], None]
) -> list[Section]:
    """All tables.  What does not fit into `limit_s` is listed as not measured; `save` is given those that are
    there after each line."""
    budget = Budget(limit_s)
    with TemporaryDirectory(prefix="tsn-bench-") as folder:
        work_dir = Path(folder)
        wanted = variants(num_cores=available_cores(), quick=quick)
        videos = find_videos(work_dir)
        shards = pack_all(videos, {variant.packing for variant in wanted}, work_dir)
        storage = storage_section(shards, videos)
        if torch.cuda.is_available():  # what libraries take once is not the first line's
            first = next(variant for variant in wanted if variant.where == "mixed")
            try_measure(first, shards, None, budget, quick=True)
        video = probe_section(shards)
        container = next((row["container"] for row in video.rows if row.get("accepted")), None)
        groups: dict[str, Section] = {}
        note = WAITING_THREAD if torch.cuda.is_available() else ""
        for variant in wanted:
            section = groups.setdefault(variant.group, Section(f"Pipeline: {variant.group}", COLUMNS, note))
            figures = try_measure(variant, shards, container, budget, quick)
            section.rows.append({"variant": variant.name} | figures)
            save([storage, video, *groups.values()])
    return [aims_section(wanted, groups), storage, video, *groups.values()]


def pack_all(videos: Path, packings: set[Packing], work_dir: Path) -> dict[Packing, Path]:
    """The same videos, packed in each way; several at a time where there are cores for it."""
    ordered = sorted(packings, key=lambda packing: packing.name)
    with ThreadPoolExecutor(max(1, available_cores() // 4)) as pool:
        done = pool.map(lambda packing: pack(videos, packing, work_dir, num_samples=512), ordered)
        return dict(zip(ordered, done, strict=True))


def storage_section(shards: dict[Packing, Path], videos: Path) -> Section:
    """Bytes of each packing, what a disk must deliver for a clip, and how much of the picture is kept."""
    columns = {
        "packing": "packing",
        "bytes_per_frame": "bytes a frame",
        "bytes_per_unit": "bytes a unit",
        "bytes_per_clip": "bytes of units for 3 frames",
        "psnr_db": "PSNR, dB",
    }
    note = f"Of the videos in {videos.name}/; PSNR against their frames, scaled as for packing."
    section = Section("Storage", columns, note)
    for packing, directory in shards.items():
        samples = distinct_samples(directory)
        units = np.concatenate([sample.stream.units[:, 1] for sample in samples])
        num_frames = sum(sample.stream.num_frames for sample in samples)
        unit_bytes = float(units.mean())
        section.rows.append(
            {
                "packing": packing.name,
                "bytes_per_frame": sum(len(sample.stream.data) for sample in samples) / num_frames,
                "bytes_per_unit": unit_bytes,
                "bytes_per_clip": 3 * unit_bytes,
                "psnr_db": float(np.mean([psnr_db(sample, videos) for sample in samples])),
            }
        )
    return section


def psnr_db(sample: Sample, videos: Path, *, frame_stride: int = 16) -> float:
    """Of every `frame_stride`-th frame against the source's."""
    stream = sample.stream
    with open_video(videos / sample.info["name"]) as video:
        frames = video.iter_frames(lambda width, height: (stream.width, stream.height), frame_stride)
        expected = np.stack(list(frames))
    return cv2.PSNR(sample.decode(list(range(0, stream.num_frames, frame_stride))), expected)


def probe_section(shards: dict[Packing, Path]) -> Section:
    """Whether DALI decodes joined GOPs on the GPU, asked in a process of its own."""
    columns = {
        "packing": "packing",
        "container": "container",
        "accepted": "DALI takes it",
        "max_levels": "largest difference to FFmpeg, levels",
        "mean_levels": "mean",
        "wrap_ms": "ms to wrap a clip",
        "error": "error",
    }
    section = Section("Joined H.264 GOPs in fn.decoders.video(device='mixed')", columns)
    rows = [(p, container) for p in shards if p.codec == "h264" for container in CONTAINERS]
    if torch.cuda.is_available():
        with ThreadPoolExecutor(4) as pool:
            answers = list(
                pool.map(lambda row: ask_apart(shards[row[0]], row[1], "mixed", limit_s=20.0), rows)
            )
    else:
        answers = [{"status": NO_GPU}] * len(rows)
    for (packing, container), answer in zip(rows, answers, strict=True):
        section.rows.append({"packing": packing.name, "container": container} | answer)
    return section


def try_measure(
    variant: Variant, shards: dict[Packing, Path], container: str | None, budget: Budget, quick: bool
) -> Row:
    """The figures of a variant, or why there are none."""
    if variant.where == "mixed" and not torch.cuda.is_available():
        return {"status": NO_GPU}
    if budget.left_s < 0:
        return {"status": OUT_OF_TIME}
    try:
        return measure(variant, shards[variant.packing], container, seconds=0.5 if quick else 1.0)
    except Exception as error:  # one that fails spares the others
        return {"status": failure(error)}


def measure(variant: Variant, directory: Path, container: str | None, *, seconds: float) -> Row:
    """The figures of a variant, from about `seconds` of each measurement."""
    if torch.cuda.is_available():
        _DALI_BACKEND.ReleaseUnusedMemory()
    before_gb = used_gpu_gb()
    loader = build_loader(variant, directory)
    batches = iter_forever(loader)
    output = Normalizer() if variant.as_bf16 else lambda batch: batch
    per_batch = rate_for((output(batch) for batch in batches), variant.prefetch + 2, seconds)
    after_gb = used_gpu_gb()
    clips_per_s = per_batch.per_s * variant.batch_size
    decode = decode_rate(variant, directory, next(batches), container, seconds)
    loader.close()
    return {
        "decode_clips_per_s": decode,
        "clips_per_s": clips_per_s,
        "frames_per_s": clips_per_s * variant.num_segments,
        "cpu_share": per_batch.cpu_s / per_batch.wall_s / available_cores(),
        "cpu_ms_per_clip": per_batch.cpu_s / per_batch.wall_s / clips_per_s * 1000,
        "gpu_memory_gb": None if before_gb is None or after_gb is None else after_gb - before_gb,
    }


def build_loader(variant: Variant, directory: Path) -> Loader:
    """The loader that `dali_pipes` would build, with settings that a config does not have."""
    manifest = load_manifest(directory)
    size = variant.batch_size
    if variant.training:
        data: Any = TrainDataConfig(
            shards=str(directory),
            num_segments=variant.num_segments,
            batch_size=size,
            crop="random_resized",
            short_side=None,
            shuffle_buffer=256,
        )
        partition = train_partition(manifest.num_samples, batch_size=size, rank=0, world_size=1)
    else:
        data = EvalDataConfig(
            shards=str(directory),
            num_segments=variant.num_segments,
            batch_size=size,
            num_crops=variant.num_crops,  # pyright: ignore[reportArgumentType]
        )
        partition = eval_partition(manifest.num_samples, batch_size=size, rank=0, world_size=1)
    has_gpu = torch.cuda.is_available()
    # No pipeline takes NVDEC yet: of h264, FFmpeg decodes and the GPU crops.
    return Loader(
        PipelineSpec(
            directory=directory,
            manifest=manifest,
            data=data,
            partition=partition,
            seed=0,
            device="gpu" if variant.where == "mixed" else "cpu",
            device_id=0 if has_gpu else None,
            num_threads=variant.num_threads,
            prefetch=variant.prefetch,
            hw_decoder_load=variant.hw_decoder_load,
        )
    )


class Normalizer:
    """(N * V, C, H, W) bf16 of a batch, normalised where its clips are, as the model does it."""

    def __init__(self) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        mean, std = (torch.tensor(v, device=device).view(1, -1, 1, 1) for v in (RGB_MEAN, RGB_STD))
        self._scale, self._shift = (1 / std).bfloat16(), (-mean / std).bfloat16()

    def __call__(self, batch: Batch) -> torch.Tensor:
        frames = batch.clips.flatten(0, 1).permute(0, 3, 1, 2).to(torch.bfloat16)
        return torch.addcmul(self._shift, frames, self._scale)


def decode_rate(
    variant: Variant, directory: Path, batch: Batch, container: str | None, seconds: float
) -> float | None:
    """Clips/s of decoding the units of a batch and nothing else; None where nothing decodes them."""
    on_gpu = variant.where == "mixed"
    if variant.packing.codec == "mjpeg":
        pipeline = build_decoding(
            [stitched_pictures(directory, batch)],
            num_threads=variant.num_threads,
            on_gpu=on_gpu,
            prefetch=variant.prefetch,
            hw_decoder_load=variant.hw_decoder_load,
        )
        turns: Iterator[Any] = iter(pipeline.run, None)
        return rate_for(turns, variant.prefetch + 2, seconds).per_s * len(batch)
    count = min(len(batch), 16) if on_gpu else len(batch)  # a batch of DALI's video decoder may take seconds
    samples = [known_sample(directory, sample_id) for sample_id in batch.sample_ids[:count].tolist()]
    wanted = batch.frame_indices[:count].tolist()
    if not on_gpu:
        with ThreadPoolExecutor(variant.num_threads) as pool:
            return rate_for(ffmpeg_rounds(pool, samples, wanted), 0, seconds).per_s * count
    if container is None:
        return None
    joined = [join_gops(sample.stream, frames) for sample, frames in zip(samples, wanted, strict=True)]
    way = CONTAINERS[container]
    streams = [np.frombuffer(way.wrap(data), np.uint8) for data, _ in joined]
    pipeline = build_video_decoding(
        [(streams, [place for _, place in joined])],
        build_index=way.build_index,
        device="mixed",
        num_threads=variant.num_threads,
        prefetch=variant.prefetch,
    )
    return rate_for(iter(pipeline.run, None), variant.prefetch + 2, seconds).per_s * count


def ffmpeg_rounds(
    pool: ThreadPoolExecutor, samples: Sequence[Sample], wanted: Sequence[list[int]]
) -> Iterator[int]:
    """Decodes the whole batch each time it is asked for the next item."""

    def decode(sample: Sample, frames: list[int]) -> int:
        stream = sample.stream
        return len(h264.decode_frames(stream.data, stream.units, stream.frames_per_unit, frames))

    for _ in cycle((None,)):
        yield sum(pool.map(decode, samples, wanted))


def distinct_samples(directory: Path) -> list[Sample]:
    """Each of the packed videos once, however often the manifest names it."""
    keys = {key for key, _ in ShardDataset(directory).keys_and_names()}
    return [known_sample(directory, int(key)) for key in sorted(keys)]


def aims_section(wanted: Sequence[Variant], groups: dict[str, Section]) -> Section:
    """What the project wants of an H200 with 16 cores, beside the best line of the table."""
    columns = {"aim": "RandomResizedCrop 224", "unit": "unit", "wanted": "wanted", "measured": "measured"}
    section = Section("Aims (on an H200 with 16 cores)", columns)
    on_gpu = [row for group in groups.values() for row in group.rows if "GPU" in row["variant"]]
    for name, key, unit, wanted_figure in TARGETS:
        found, status = best_of(on_gpu, key, f", {name},")
        row = {"aim": name, "unit": unit, "wanted": wanted_figure, "measured": found}
        section.rows.append(row if found is not None else row | {"status": status})
    return section

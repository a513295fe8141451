"""Packing a list: how much disk it takes, the shards one after another, and the manifest at the end."""

import json
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path

from shards.encoding import PackedSample, Rejected, Task
from shards.files import write_atomically
from shards.manifest import REJECTED, Manifest, size_extremes, write_manifest
from shards.plan import Plan, shard_name
from shards.pool import Died, WorkerPool
from shards.progress import PackingError, ShardRecord, save_record
from shards.writing import ShardWriter

_TAR_BYTES_PER_SAMPLE = 8 * 1024
_DISK_MARGIN = 1.05

Outcome = PackedSample | Rejected


def estimate_bytes(
    plan: Plan, done: dict[int, ShardRecord], pool: WorkerPool, *, num_videos: int = 5
) -> int | None:
    """Bytes that the shards not in `done` will take: from encoding a few of their videos, spread over the
    file sizes.

    Returns:
        None where none of the few could be packed, and 0 where nothing is left to do.
    """
    tasks = [task for number in _remaining(plan, done) for task in plan.tasks_of_shard(number)]
    by_size = sorted(tasks, key=lambda task: task.source.size_bytes * task.source.count)
    num_videos = min(num_videos, len(tasks))
    chosen = [by_size[(2 * i + 1) * len(tasks) // (2 * num_videos)] for i in range(num_videos)]
    results = _pack_in_order(pool, chosen)
    sizes = [result.size_bytes for _, result in results if isinstance(result, PackedSample)]
    if not sizes:
        return None if tasks else 0
    return len(tasks) * (sum(sizes) // len(sizes) + _TAR_BYTES_PER_SAMPLE)


def check_disk(directory: Path, needed_bytes: int) -> None:
    """Refuse to begin what will not fit.

    Raises:
        PackingError: less free than `needed_bytes` and a margin.
    """
    free = shutil.disk_usage(directory).free
    if free < needed_bytes * _DISK_MARGIN:
        raise PackingError(
            f"--out {directory}: about {needed_bytes / 1e9:.3g} GB are needed and {free / 1e9:.3g} GB are "
            "free; free some, choose another disk, or store less (--size short256, --quality, --codec h264)"
        )


def pack(
    plan: Plan, done: dict[int, ShardRecord], pool: WorkerPool, *, on_video: Callable[[Task, Outcome], None]
) -> Manifest | None:
    """Pack all shards that are not `done`, then write rejected.jsonl and the manifest.

    Args:
        plan: what to pack; its directory is claimed and begun.
        done: records of the shards finished before.
        pool: processes that apply `pack_video`.
        on_video: called after each video that was packed or rejected now.

    Returns:
        The manifest, or None where not one video could be packed (then none is written).
    """
    records = dict(done)
    remaining = _remaining(plan, done)
    tasks = [task for number in remaining for task in plan.tasks_of_shard(number)]
    with closing(_pack_in_order(pool, tasks)) as results:
        for number in remaining:
            records[number] = _pack_shard(plan, number, results, on_video)
            save_record(plan.directory, number, records[number])
    ordered = [records[number] for number in range(plan.num_shards)]
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for record in ordered for entry in record.rejected]
    write_atomically(plan.directory / REJECTED, "".join(lines))
    if not any(record.shard for record in ordered):
        return None
    manifest = _manifest(plan, ordered)
    write_manifest(plan.directory, manifest)
    return manifest


def _remaining(plan: Plan, done: dict[int, ShardRecord]) -> list[int]:
    return [number for number in range(plan.num_shards) if number not in done]


def _pack_in_order(pool: WorkerPool, tasks: list[Task]) -> Generator[tuple[Task, Outcome], None, None]:
    with closing(pool.run_in_order(tasks)) as results:
        for task, result in zip(tasks, results, strict=True):
            yield task, Rejected(str(result)) if isinstance(result, Died) else result


def _pack_shard(
    plan: Plan,
    number: int,
    results: Iterator[tuple[Task, Outcome]],
    on_video: Callable[[Task, Outcome], None],
) -> ShardRecord:
    """Write the shard from the next results."""
    writer = ShardWriter(plan.directory, shard_name(number))
    samples, rejected = [], []
    try:
        for _ in plan.tasks_of_shard(number):
            task, result = next(results)
            if isinstance(result, PackedSample):
                writer.add(result.key, result.members)
                samples.append(
                    (
                        result.num_frames,
                        result.num_labels,
                        (result.width, result.height, result.padded_height),
                    )
                )
            else:
                name, labels = task.source.name, task.source.labels
                rejected.append(
                    {"sample_id": task.sample_id, "name": name, "labels": labels, "reason": result.reason}
                )
            on_video(task, result)
        shard = writer.close()
    except BaseException:
        writer.discard()
        raise
    return ShardRecord(
        shard=shard,
        rejected=tuple(rejected),
        sizes=tuple(sorted({size for _, _, size in samples})),
        num_frames=sum(num_frames for num_frames, _, _ in samples),
        max_num_frames=max((num_frames for num_frames, _, _ in samples), default=0),
        multi_label=any(num_labels != 1 for _, num_labels, _ in samples),
    )


def _manifest(plan: Plan, records: list[ShardRecord]) -> Manifest:
    shards = tuple(record.shard for record in records if record.shard)
    encoding = plan.encoding
    return Manifest(
        dataset=plan.dataset,
        split=plan.split,
        codec=encoding.codec,
        modality=encoding.source_format.modality,
        has_parts=encoding.source_format.kind == "parts",
        num_samples=sum(shard.num_samples for shard in shards),
        num_rejected=sum(len(record.rejected) for record in records),
        num_classes=len(plan.classes),
        classes=plan.classes,
        multi_label=any(record.multi_label for record in records),
        num_frames=sum(record.num_frames for record in records),
        size_bytes=sum(shard.size_bytes for shard in shards),
        max_num_frames=max(record.max_num_frames for record in records),
        mcu_height=encoding.mcu_height,
        options=plan.options,
        shards=shards,
        **size_extremes(size for record in records for size in record.sizes),
    )

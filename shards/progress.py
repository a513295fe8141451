"""The state of a directory while it is being packed: who works in it, on what, and what is done.

`.progress/` holds a lock, `plan.json` (the options) and a record for each finished shard. What has no record
is packed again, whatever files lie there. The manifest is written last; then `.progress/` goes.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shards.files import file_sha256, to_json, write_atomically
from shards.manifest import FILE_NAME, Manifest, ShardFile, load_manifest

_DIRECTORY = ".progress"


class PackingError(Exception):
    """A command that cannot be carried out; the message says why and what to do. Nothing was changed."""


@dataclass(frozen=True)
class ShardRecord:
    """What is kept of a finished shard.

    Attributes:
        shard: its files, or None where every video of it was rejected.
        rejected: lines of rejected.jsonl.
        sizes: the distinct (width, height, padded_height) of its samples, sorted.
        num_frames, max_num_frames: of all its samples, of the longest.
        multi_label: whether a sample has several labels.
    """

    shard: ShardFile | None
    rejected: tuple[dict[str, Any], ...]
    sizes: tuple[tuple[int, int, int], ...]
    num_frames: int
    max_num_frames: int
    multi_label: bool

    @property
    def num_videos(self) -> int:
        """Videos that are dealt with, packed or rejected."""
        return len(self.rejected) + (self.shard.num_samples if self.shard else 0)


@contextmanager
def claim_directory(directory: Path, options: dict[str, Any]) -> Iterator[Manifest | None]:
    """Lock `directory` for this process, made if need be; gives its manifest if these options are packed
    already.

    Raises:
        PackingError: another process packs into it, it belongs to another command, or it holds something
            else.
    """
    progress = directory / _DIRECTORY
    try:
        progress.mkdir(parents=True, exist_ok=True)
        lock = open(progress / "lock", "w")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise PackingError(f"--out {directory}: cannot be written: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PackingError(
                f"--out {directory}: another process is packing into it; wait for it"
            ) from None
        try:
            yield _recognise(directory, options)
        finally:
            if not (progress / "plan.json").exists() or (directory / FILE_NAME).exists():
                shutil.rmtree(progress)


def _recognise(directory: Path, options: dict[str, Any]) -> Manifest | None:
    if (directory / FILE_NAME).exists():
        manifest = load_manifest(directory)
        _refuse_other_options(directory, "holds a finished set packed", manifest.options, options)
        return manifest
    plan = directory / _DIRECTORY / "plan.json"
    if plan.exists():
        _refuse_other_options(directory, "was begun", json.loads(plan.read_text(encoding="utf-8")), options)
        return None
    others = sorted(path.name for path in directory.iterdir() if path.name != _DIRECTORY)
    if others:
        raise PackingError(
            f"--out {directory}: not empty ({', '.join(others[:3])}, ...); choose an empty directory"
        )
    return None


def _refuse_other_options(directory: Path, state: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    if names:
        differences = ", ".join(
            f"{name}={theirs.get(name)} (now {ours.get(name)})"
            if name != "sources_sha256"
            else "source files of other names or sizes than now"
            for name in names
        )
        remedy = "put these files back" if names == ["sources_sha256"] else "give the same command again"
        raise PackingError(
            f"--out {directory} {state} with {differences}; {remedy}, or give another --out, or delete the "
            "directory"
        )


def load_records(directory: Path) -> dict[int, ShardRecord]:
    """Records of the shards that are finished in a claimed directory and still there, by number: tars of
    the same length, the same indexes."""
    paths = (directory / _DIRECTORY).glob("[0-9]*.json")
    records = {int(path.stem): _load_record(path) for path in paths}
    return {number: record for number, record in records.items() if _files_are_there(directory, record)}


def _files_are_there(directory: Path, record: ShardRecord) -> bool:
    if record.shard is None:
        return True
    tar, index = directory / record.shard.name, directory / record.shard.index_name
    if not tar.is_file() or tar.stat().st_size != record.shard.size_bytes or not index.is_file():
        return False
    return file_sha256(index) == record.shard.index_sha256  # that of the tars would take hours


def begin(directory: Path, options: dict[str, Any]) -> None:
    """Note in a claimed directory that these options are being packed into it."""
    write_atomically(directory / _DIRECTORY / "plan.json", to_json(options))


def save_record(directory: Path, number: int, record: ShardRecord) -> None:
    """Note that shard `number` is finished."""
    write_atomically(directory / _DIRECTORY / f"{number}.json", to_json(asdict(record)))


def _load_record(path: Path) -> ShardRecord:
    content = json.loads(path.read_text(encoding="utf-8"))
    shard = ShardFile(**content["shard"]) if content["shard"] else None
    sizes = tuple((width, height, padded) for width, height, padded in content["sizes"])
    return ShardRecord(**content | {"shard": shard, "sizes": sizes, "rejected": tuple(content["rejected"])})

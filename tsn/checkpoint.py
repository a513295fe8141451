"""Checkpoint files: the whole state of a run, of every rank, in one file that is read without executing
anything."""

import hashlib
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tsn.config import Config
from tsn.config_io import config_to_dict
from tsn.errors import UserError
from tsn.files import write_atomically
from tsn.unpickling import load_without_executing

FORMAT = "tsn-checkpoint"
VERSION = 2

RESUME_MAY_CHANGE = (
    "data.val",
    "data.test",
    "data.num_threads",
    "data.prefetch",
    "data.verify",
    "train.recompute",
    "train.val_every_epochs",
    "train.save_every_epochs",
    "train.save_every_steps",
    "train.log_every_steps",
    "reference",
)
"""Config keys, or sections of them, that a resumed run may change: no update depends on them.  Every
`shards` too (a set may have moved; the loader refuses another set), and `schedule.epochs`, unless the
schedule is a cosine."""


@dataclass
class RunState:
    """How far a run has come.  A step is one update; an epoch is `steps_per_epoch` steps."""

    step: int = 0
    """Updates made."""
    validated_epoch: int = 0
    """Epochs trained when the model was last validated."""
    best: float | None = None
    """The best value of the validation metric so far."""
    best_epoch: int = 0
    """Epochs trained when it was reached."""
    best_on: str = ""
    """The validation set, and how it was tested, that `best` belongs to."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds."""

    model: dict[str, Tensor]
    """The weights, under our names; with `train.ema` their running mean."""
    optimizer: dict[str, Any]
    run: RunState
    steps_per_epoch: int
    ranks: list[dict[str, Any]]
    """For each rank the states of its loader, its random generators and its sums since the last log
    record."""
    log_size_bytes: int
    """Length of `log.jsonl` at this point; what follows belongs to steps after it."""
    config_name: str
    config: dict[str, Any]
    """The whole config as nested plain data."""
    classes: list[str] | None
    """The names of the classes in the order of the logits, where the training shards tell them."""
    trained: dict[str, Tensor] | None = None
    """With `train.ema` the weights themselves, without which a run cannot go on."""
    versions: dict[str, str] = field(default_factory=lambda: {"torch": str(torch.__version__)})

    @property
    def epoch(self) -> int:
        """Whole epochs trained."""
        return self.run.step // self.steps_per_epoch

    @property
    def world_size(self) -> int:
        """Ranks of the run that wrote it."""
        return len(self.ranks)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write the file, atomically: whatever happens, `path` is a whole checkpoint, the old one or the new
    one.

    Raises:
        UserError: it cannot be written, e.g. because the disk is full.
    """
    content = {item.name: getattr(checkpoint, item.name) for item in fields(checkpoint)}
    content |= {"run": asdict(checkpoint.run), "format": FORMAT, "version": VERSION}
    try:
        write_atomically(path, lambda stream: torch.save(content, stream))
    except (OSError, RuntimeError) as error:
        # torch turns what the system says into an error of its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise UserError(
            f"{path}: cannot be written: {cause.strerror}.  The file from before, if any, is whole: make "
            "room and go on from it with --resume auto"
        ) from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a file that `save_checkpoint` wrote.  Nothing in it is executed; tensors come to the CPU.

    Raises:
        UserError: the file is missing, damaged, of another kind or of another version.
    """
    return parse_checkpoint(load_without_executing(path), source=str(path))


def parse_checkpoint(content: Any, *, source: str) -> Checkpoint:
    """A checkpoint from what its file holds.

    Raises:
        UserError: it is of another kind or of another version.
    """
    if not is_ours(content):
        raise UserError(
            f"{source}: is not a checkpoint of this project; train.py writes them as last.pt and best.pt"
        )
    if content["version"] != VERSION:
        raise UserError(
            f"{source}: is a checkpoint of version {content['version']}, expected {VERSION}; use the release "
            "that wrote it"
        )
    values: dict[str, Any] = {item.name: content[item.name] for item in fields(Checkpoint)}
    values["run"] = RunState(**content["run"])
    return Checkpoint(**values)


def is_ours(content: Any) -> bool:
    """Whether what a checkpoint file holds was written by `save_checkpoint`, of whatever version."""
    return isinstance(content, dict) and content.get("format") == FORMAT


def check_resumable(checkpoint: Checkpoint, config: Config, *, world_size: int, source: str) -> None:
    """Refuse to continue a run in another way than it began.

    Raises:
        UserError: another number of ranks, or another config; every key that differs is named.
    """
    faults = []
    if checkpoint.world_size != world_size:
        faults.append(
            f"the run has {checkpoint.world_size} ranks, and now there are {world_size}; start as many as "
            f"before (torchrun --nproc-per-node)"
        )
    now, then = flat_settings(config_to_dict(config)), flat_settings(checkpoint.config)
    may_change = (
        RESUME_MAY_CHANGE if config.schedule.kind == "cosine" else (*RESUME_MAY_CHANGE, "schedule.epochs")
    )
    for key in sorted(now.keys() | then.keys()):
        is_free = any(key == free or key.startswith(f"{free}.") for free in may_change)
        is_free = is_free or key.endswith(".shards")
        if not is_free and now.get(key) != then.get(key):
            faults.append(f"{key}: {then.get(key)} in the checkpoint, {now.get(key)} now")
    if faults:
        raise UserError(
            "\n".join(f"{source}: cannot be resumed: {fault}" for fault in faults)
            + "\nTo start a new run from these weights, set model.pretrained to this file and choose another "
            "--work-dir"
        )


def file_sha256(path: Path) -> str:
    """The file's SHA-256, in hex: a checkpoint's identity."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def flat_settings(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections of a config, and lists of them, as {dotted key: value}."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {f"[{i}]": item for i, item in enumerate(value)}
        if isinstance(value, dict):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return {key.replace(".[", "["): value for key, value in flat.items()}

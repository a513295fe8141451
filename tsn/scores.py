"""Scores of whole test sets: the files that testing writes, and their late fusion.

A file of scores is an .npz of `names` (N,), `labels` (N,) int64 or (N, num_classes) multi-hot, and `scores`
(N, num_classes) raw logits.
"""

import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tsn.errors import UserError
from tsn.files import write_atomically

_NUM_SHOWN = 5


@dataclass(frozen=True)
class Scores:
    """What one model answered for N videos."""

    source: str
    """Where they came from, for messages."""
    names: NDArray[np.str_]
    """(N,), each once."""
    labels: NDArray
    """(N,) int64 class ids, or (N, num_classes) uint8 multi-hot."""
    scores: NDArray[np.floating]
    """(N, num_classes)."""


def read_scores(path: Path) -> Scores:
    """Read a file of scores.

    Raises:
        UserError: it is no such file, its arrays do not belong together, a name comes twice, or a score is no
            finite number.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file of scores; eval.py --scores writes them")
    faults = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
    not_several_arrays = (TypeError, AttributeError)  # as `with` says it, the second in Python 3.10
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names, labels, scores = (arrays[name] for name in ("names", "labels", "scores"))
    except (*faults, *not_several_arrays) as error:
        raise UserError(
            f"{path}: is no file of scores, as eval.py --scores writes them; name such a file"
        ) from error
    fits = names.ndim == 1 and scores.ndim == 2 and len(names) == len(labels) == len(scores)
    if not fits or (labels.ndim != 1 and labels.shape != scores.shape):
        raise UserError(
            f"{path}: names, labels and scores of shapes {names.shape}, {labels.shape} and {scores.shape} do "
            "not belong together; expected (N,), (N,) or (N, num_classes), and (N, num_classes)"
        )
    if fault := _odd_values(labels, scores):
        raise UserError(f"{path}: {fault}; eval.py --scores writes them as they must be")
    repeated = [str(name) for name, count in Counter(names.tolist()).items() if count > 1]
    if repeated:
        raise UserError(
            f"{path}: names that come more than once: {_some(repeated)}; scores are matched by name"
        )
    read = Scores(str(path), names, labels, scores)
    check_finite(read, "test that model again")
    return read


def check_finite(scores: Scores, remedy: str) -> None:
    """Refuse scores of which nothing can be measured.

    Args:
        remedy: what the user can do, for the end of the message.

    Raises:
        UserError: a score is infinite or not a number; how many videos have such, and the first of them.
    """
    rows = np.flatnonzero(~np.isfinite(scores.scores).all(axis=1))
    if len(rows):
        raise UserError(
            f"{scores.source}: scores of {len(rows)} of {len(scores.names)} videos are infinite or not a "
            f"number: {_some(scores.names[rows].tolist())}; {remedy}"
        )


def _odd_values(labels: NDArray, scores: NDArray) -> str | None:
    """What is wrong with the kind or range of numbers, if anything."""
    if not np.issubdtype(scores.dtype, np.floating):
        return f"scores of type {scores.dtype}, expected floating point"
    if not (np.issubdtype(labels.dtype, np.integer) or labels.dtype == bool):
        return f"labels of type {labels.dtype}, expected whole numbers"
    largest = scores.shape[1] - 1 if labels.ndim == 1 else 1
    if labels.size and not 0 <= labels.min() <= labels.max() <= largest:
        return f"labels from {labels.min()} to {labels.max()}, expected 0 to {largest}"
    return None


def write_scores(path: Path, scores: Scores, *, overwrite: bool) -> None:
    """Write a file that `read_scores` reads.

    Raises:
        FileExistsError: without `overwrite`, and the file exists.
        OSError: it cannot be written.
    """
    arrays = {"names": scores.names, "labels": scores.labels, "scores": scores.scores}
    write_atomically(path, lambda stream: np.savez(stream, **arrays), overwrite=overwrite)


def match_names(parts: Sequence[Scores], *, common: bool) -> tuple[list[Scores], list[str]]:
    """Bring the same videos into the same order in all parts: the first one's.

    Args:
        common: keep the videos that all parts have.  False: all must have the same.

    Returns:
        The parts, row by row of the same videos, and for each part that lacks videos of others a sentence.

    Raises:
        UserError: a part lacks videos (unless `common`), no video is in all parts, or parts disagree about
            labels or classes; everything is listed.
    """
    everywhere = set.intersection(*(set(part.names.tolist()) for part in parts))
    anywhere = dict.fromkeys(name for part in parts for name in part.names.tolist())
    lacks = list(_lacks(parts, list(anywhere)))
    if lacks and not common:
        raise UserError("\n".join([*lacks, "Test the same videos, or fuse those in all files with --common"]))
    if not everywhere:
        raise UserError("no video is in all files; names must be equal, as in the lists that were packed")
    order = [name for name in parts[0].names.tolist() if name in everywhere]
    matched = [_take(part, order) for part in parts]
    faults = [fault for part in matched[1:] if (fault := _disagreement(matched[0], part))]
    if faults:
        raise UserError("\n".join(faults))
    return matched, lacks


def fuse(parts: Sequence[Scores], weights: Sequence[float], *, softmax: bool) -> NDArray[np.float64]:
    """The weighted sum (not mean) of matched parts, in float64; the late fusion of arXiv:1406.2199.

    Args:
        softmax: turn each video's scores into probabilities first.

    Returns:
        (N, num_classes).
    """
    fused = np.zeros(parts[0].scores.shape)
    for part, weight in zip(parts, weights, strict=True):
        scores = part.scores.astype(np.float64)
        fused += weight * (_softmax(scores) if softmax else scores)
    return fused


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def _lacks(parts: Sequence[Scores], anywhere: Sequence[str]):
    """For each part that lacks some of the names, a sentence."""
    for part in parts:
        own = set(part.names.tolist())
        absent = [name for name in anywhere if name not in own]
        if absent:
            yield f"{part.source}: lacks {len(absent)} of {len(anywhere)} videos: {_some(absent)}"


def _take(part: Scores, order: Sequence[str]) -> Scores:
    places = {name: place for place, name in enumerate(part.names.tolist())}
    rows = np.array([places[name] for name in order])
    return Scores(part.source, part.names[rows], part.labels[rows], part.scores[rows])


def _disagreement(first: Scores, other: Scores) -> str | None:
    """In what two parts of the same videos contradict each other."""
    if first.scores.shape != other.scores.shape:
        num_classes = f"{other.scores.shape[1]} classes, and {first.source} {first.scores.shape[1]}"
        return f"{other.source}: has scores of {num_classes}; fuse models of the same classes"
    if first.labels.ndim != other.labels.ndim:
        return f"{other.source}: one of it and {first.source} has one label a video, the other several"
    differs = first.labels != other.labels
    rows = np.flatnonzero(differs if differs.ndim == 1 else differs.any(axis=1))
    if not len(rows):
        return None
    names = _some(first.names[rows].tolist())
    return f"{other.source}: {len(rows)} videos have other labels than in {first.source}: {names}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NUM_SHOWN} more" if len(names) > _NUM_SHOWN else ""
    return ", ".join(names[:_NUM_SHOWN]) + more

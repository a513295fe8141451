"""Measures of a whole test set, in numpy.

scores: (N, num_classes) float, any monotone measure of confidence such as raw logits.
labels: (N,) int64 class ids, or (N, num_classes) multi-hot.  All results are fractions, not percent.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tsn.errors import UserError

SINGLE_LABEL_METRICS = ("top_k_accuracy", "mean_class_accuracy")
MULTI_LABEL_METRICS = ("mean_average_precision", "mmit_mean_average_precision")
METRICS = SINGLE_LABEL_METRICS + MULTI_LABEL_METRICS


def default_metrics(labels: NDArray) -> tuple[str, ...]:
    """The names of the metrics that suit these labels."""
    return SINGLE_LABEL_METRICS if labels.ndim == 1 else MULTI_LABEL_METRICS


def metric_of(key: str) -> str:
    """The name of the metric that gives the result `key`: `top1` and `top5` come from `top_k_accuracy`."""
    return "top_k_accuracy" if key in ("top1", "top5") else key


def compute_metrics(scores: NDArray, labels: NDArray, names: Sequence[str]) -> dict[str, float]:
    """The named metrics by their keys in `result.json`; `top_k_accuracy` gives `top1` and `top5`.

    Raises:
        UserError: an unknown name, or a metric of one label a video for videos with several.
    """
    results: dict[str, float] = {}
    for name in names:
        if name not in METRICS:
            raise UserError(f"metric {name!r} is unknown; known are: {', '.join(METRICS)}")
        if name in SINGLE_LABEL_METRICS and labels.ndim != 1:
            raise UserError(
                f"metric {name!r} needs one label a video, and these videos have several; "
                f"use {' or '.join(MULTI_LABEL_METRICS)}"
            )
        match name:
            case "top_k_accuracy":
                results |= {f"top{k}": top_k_accuracy(scores, labels, k) for k in (1, 5)}
            case "mean_class_accuracy":
                results[name] = mean_class_accuracy(scores, labels)
            case "mean_average_precision":
                results[name] = mean_average_precision(scores, multi_hot(labels, scores.shape[1]))
            case "mmit_mean_average_precision":
                results[name] = mmit_mean_average_precision(scores, multi_hot(labels, scores.shape[1]))
    return results


def top_k_accuracy(scores: NDArray, labels: NDArray, k: int) -> float:
    """Share of the videos whose label is among the `k` highest scores; 1 where there are no more than k
    classes."""
    # numpy's default sort, not a stable one: equal scores then fall as they do in the reference.
    best = np.argsort(scores, axis=1)[:, -k:]
    return float(np.mean(np.any(best == labels[:, None], axis=1)))


def mean_class_accuracy(scores: NDArray, labels: NDArray) -> float:
    """Mean recall over the classes that occur among labels **or predictions**; without a label, recall is
    0."""
    predictions = np.argmax(scores, axis=1)
    num_videos = np.bincount(labels, minlength=scores.shape[1])
    num_hits = np.bincount(labels[predictions == labels], minlength=scores.shape[1])
    classes = np.union1d(predictions, labels)
    return float(np.mean(num_hits[classes] / np.maximum(num_videos[classes], 1)))


def average_precision(scores: NDArray, positives: NDArray) -> float:
    """Area under precision over recall, not interpolated, with thresholds at distinct scores only.

    scores: (M,); positives: (M,) 0 or 1.  NaN where there is no positive.
    """
    if not np.any(positives):
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(positives[order], dtype=np.float64)
    last_of_ties = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    hits = hits[last_of_ties]
    precision, recall = hits / (last_of_ties + 1), hits / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def mean_average_precision(scores: NDArray, labels: NDArray) -> float:
    """Mean over the classes of the average precision over videos; classes without a positive are left out."""
    per_class = np.array([average_precision(s, y) for s, y in zip(scores.T, labels.T, strict=True)])
    known = ~np.isnan(per_class)
    return float(np.mean(per_class[known])) if np.any(known) else float("nan")


def mmit_mean_average_precision(scores: NDArray, labels: NDArray) -> float:
    """Mean over the videos of the average precision over classes; NaN if a video has no label.

    The measure of Multi-Moments in Time, arXiv:1911.00232.
    """
    return float(np.mean([average_precision(s, y) for s, y in zip(scores, labels, strict=True)]))


def multi_hot(labels: NDArray, num_classes: int) -> NDArray:
    """(N, num_classes) uint8 from class ids (N,); multi-hot labels are returned as they are."""
    if labels.ndim == 2:
        return labels
    return (labels[:, None] == np.arange(num_classes)).astype(np.uint8)

import json
import math

import numpy as np
import pytest

from tsn.errors import UserError
from tsn.metrics import (
    average_precision,
    compute_metrics,
    mean_average_precision,
    mean_class_accuracy,
    mmit_mean_average_precision,
    multi_hot,
    top_k_accuracy,
)


@pytest.mark.parametrize("version", ["0x", "1x"])
def test_single_label_metrics_equal_the_golden_ones(golden, version):
    cases = json.loads((golden / f"metrics_{version}.json").read_text())["cases"]
    inputs = np.load(golden / "metrics_inputs.npz")
    tested = 0
    for name, case in cases.items():
        if case["kind"] != "single":
            continue
        scores, labels = inputs[f"{name}_scores"], inputs[f"{name}_labels"]
        for k, expected in case["top_k"].items():
            assert top_k_accuracy(scores, labels, int(k)) == pytest.approx(expected, rel=1e-9)
        assert mean_class_accuracy(scores, labels) == pytest.approx(case["mean_class_accuracy"], rel=1e-9)
        tested += 1
    assert tested == 3


@pytest.mark.parametrize("version", ["0x", "1x"])
def test_multi_label_metrics_equal_the_golden_ones_with_and_without_ties(golden, version):
    cases = json.loads((golden / f"metrics_{version}.json").read_text())["cases"]
    inputs = np.load(golden / "metrics_inputs.npz")
    for name in ("plain", "ties"):
        scores, labels = inputs[f"{name}_scores"], inputs[f"{name}_labels"]
        expected = cases[name]
        assert mean_average_precision(scores, labels) == pytest.approx(
            expected["mean_average_precision"], rel=1e-9
        )
        found = mmit_mean_average_precision(scores, labels)
        assert found == pytest.approx(expected["mmit_mean_average_precision"], rel=1e-9)


def test_explicit_cases_equal_the_golden_ones(golden):
    for case in json.loads((golden / "metrics_0x.json").read_text())["explicit"]:
        scores, labels = np.array(case["scores"]), np.array(case["labels"])
        if case["kind"] == "single":
            assert top_k_accuracy(scores, labels, 1) == pytest.approx(case["top_1"])
            assert mean_class_accuracy(scores, labels) == pytest.approx(case["mean_class_accuracy"])
            continue
        for function in (mean_average_precision, mmit_mean_average_precision):
            found, expected = function(scores, labels), case[function.__name__]
            assert math.isnan(found) if expected is None else found == pytest.approx(expected)


def test_a_wrong_prediction_of_a_class_without_labels_lowers_the_mean_class_accuracy():
    scores = np.array([[0.1, 0.2, 0.7], [0.8, 0.1, 0.1]])
    assert mean_class_accuracy(scores, np.array([0, 0])) == 0.25


def test_top_k_of_no_more_than_k_classes_is_one():
    assert top_k_accuracy(np.array([[0.1, 0.9, 0.0]]), np.array([2]), 5) == 1.0


def test_average_precision_equals_scikit_learn_whatever_the_ties():
    sklearn = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(0)
    for levels in (2, 5, 1000):
        scores, positives = draw.integers(0, levels, 50) / levels, draw.integers(0, 2, 50)
        expected = sklearn.average_precision_score(positives, scores)
        assert average_precision(scores, positives) == pytest.approx(expected, rel=1e-12)


def test_classes_without_a_positive_are_left_out_of_the_mean():
    scores = np.array([[0.9, 0.5], [0.1, 0.4]])
    assert mean_average_precision(scores, np.array([[1, 0], [0, 0]])) == 1.0
    assert math.isnan(mean_average_precision(scores, np.zeros((2, 2))))


def test_class_ids_become_multi_hot_rows():
    assert multi_hot(np.array([1, 0]), 3).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_top_k_accuracy_gives_top1_and_top5():
    metrics = compute_metrics(np.eye(7), np.arange(7), ["top_k_accuracy", "mean_average_precision"])
    assert metrics == {"top1": 1.0, "top5": 1.0, "mean_average_precision": 1.0}


def test_an_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'topk' is unknown; known are: top_k_accuracy, mean_class_accuracy"):
        compute_metrics(np.eye(2), np.arange(2), ["topk"])


def test_a_metric_of_one_label_is_refused_for_several():
    with pytest.raises(
        UserError, match=r"'mean_class_accuracy' needs one label a video.*use mean_average_precision"
    ):
        compute_metrics(np.eye(2), np.eye(2), ["mean_class_accuracy"])

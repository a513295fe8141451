"""fuse.py as a user runs it: golden fusions, matching by name, and what it refuses."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_training import ROOT, load_entry_point

from tsn.errors import UserError
from tsn.scores import fuse, read_scores

FUSE = load_entry_point(ROOT / "scripts" / "fuse.py").main


def write(path: Path, names, labels, scores) -> str:
    scores = np.asarray(scores, np.float32)
    np.savez(path, names=np.array(names), labels=np.asarray(labels), scores=scores)
    return str(path)


def fuse_files(tmp_path: Path, *arguments: str) -> tuple[dict, np.lib.npyio.NpzFile]:
    """The result and the fused scores."""
    out, result = tmp_path / "fused.npz", tmp_path / "result.json"
    FUSE([*arguments, "--out", str(out), "--result", str(result), "--overwrite"])
    return json.loads(result.read_text()), np.load(out)


@pytest.mark.parametrize("name", ["one_one", "one_onehalf"])
@pytest.mark.parametrize(("kind", "flags"), [("raw", []), ("softmax", ["--softmax"])])
def test_fusion_gives_the_golden_metrics_whatever_the_order_of_the_files(golden, tmp_path, name, kind, flags):
    inputs = np.load(golden / "metrics_inputs.npz")
    case = json.loads((golden / "metrics_0x.json").read_text())["cases"][name]
    labels = inputs[f"{name}_labels"]
    names, order = (
        np.array([f"v{i}" for i in range(len(labels))]),
        np.random.default_rng(0).permutation(len(labels)),
    )
    rgb = write(tmp_path / "rgb.npz", names, labels, inputs[f"{name}_rgb"])
    flow = write(tmp_path / "flow.npz", names[order], labels[order], inputs[f"{name}_flow"][order])
    weights = ["--weights", *map(str, case["coefficients"])]
    result, fused = fuse_files(tmp_path, rgb, flow, *weights, *flags)
    expected = case[kind]
    assert result["metrics"]["top1"] == pytest.approx(expected["top1"], abs=1e-9)
    assert result["metrics"]["top5"] == pytest.approx(expected["top5"], abs=1e-9)
    assert result["metrics"]["mean_class_accuracy"] == pytest.approx(expected["mean_class"], abs=1e-9)
    np.testing.assert_allclose(fused["scores"][0, :5], expected["first_row_head"], atol=1e-6)
    assert fused["names"].tolist() == names.tolist(), "in the order of the first file"
    assert fused["labels"].tolist() == labels.tolist()


def test_sums_are_exact_weighted_sums_of_three_files(tmp_path):
    rows = [[[1, 2], [3, 4]], [[0.5, 0], [0, 0.5]], [[8, 8], [16, 0]]]
    files = [write(tmp_path / f"{i}.npz", ["a", "b"], [0, 1], scores) for i, scores in enumerate(rows)]
    result, fused = fuse_files(tmp_path, *files, "--weights", "1", "-2", "0.25", "--name", "some_row")
    assert fused["scores"].tolist() == [[2, 4], [7, 3]]
    assert fused["scores"].dtype == np.float64
    assert result["config_name"] == "some_row", "by which zoo.py list finds it"
    assert [entry["weight"] for entry in result["files"]] == [1, -2, 0.25]
    assert result["metrics"] == {"top1": 0, "top5": 1, "mean_class_accuracy": 0}
    assert fuse_files(tmp_path, *files)[1]["scores"].tolist() == [[9.5, 10], [19, 4.5]], "1 each by default"


def test_probabilities_do_not_overflow(tmp_path):
    files = [write(tmp_path / f"{i}.npz", ["a"], [0], [[1e4 * i, 0]]) for i in range(2)]
    assert fuse_files(tmp_path, *files, "--softmax")[1]["scores"].tolist() == [[1.5, 0.5]]


def test_several_labels_are_measured_by_average_precision(tmp_path):
    labels = np.array([[1, 0, 0], [0, 1, 1]], np.uint8)
    one = write(tmp_path / "1.npz", ["a", "b"], labels, [[0.5, 0.1, 0.1], [0.2, 0.4, 0.1]])
    two = write(tmp_path / "2.npz", ["a", "b"], labels, [[0.4, 0, 0.2], [0, 0.4, 0]])
    metrics = fuse_files(tmp_path, one, two)[0]["metrics"]
    assert metrics == pytest.approx(
        {"mean_average_precision": 5 / 6, "mmit_mean_average_precision": 11 / 12}, abs=1e-9
    )
    with pytest.raises(UserError, match="needs one label a video"):
        FUSE([one, two, "--metrics", "top_k_accuracy"])


def test_a_metric_may_be_asked_for_by_the_name_it_is_printed_with(tmp_path):
    files = [write(tmp_path / f"{i}.npz", ["a", "b"], [0, 1], [[1, 0], [3, 2]]) for i in range(2)]
    words = ["--metrics", "top5", "top1", "mean_class_accuracy", "top_k_accuracy"]
    metrics = fuse_files(tmp_path, *files, *words)[0]["metrics"]
    assert metrics == {"top1": 0.5, "top5": 1, "mean_class_accuracy": 0.5}
    assert "mean_class_accuracy" not in fuse_files(tmp_path, *files, *words[:2])[0]["metrics"]


@pytest.fixture
def uneven(tmp_path) -> list[str]:
    """Two files that have b and c in common."""
    one = write(tmp_path / "1.npz", ["a", "b", "c"], [0, 1, 0], [[1, 0], [2, 0], [3, 0]])
    return [one, write(tmp_path / "2.npz", ["c", "d", "b"], [0, 1, 1], [[10, 0], [20, 0], [30, 0]])]


def test_missing_and_extra_names_are_an_error_that_names_them(uneven):
    with pytest.raises(
        UserError, match=r"(?s)1.npz: lacks 1 of 4 videos: d\n.*2.npz: lacks 1 of 4 videos: a\n.*--common"
    ):
        FUSE(uneven)


def test_common_names_are_fused_and_the_others_reported(uneven, tmp_path, capsys):
    result, fused = fuse_files(tmp_path, *uneven, "--common")
    assert fused["names"].tolist() == ["b", "c"]
    assert fused["labels"].tolist() == [1, 0]
    assert fused["scores"].tolist() == [[32, 0], [13, 0]]
    assert (result["num_samples"], len(result["left_out"])) == (2, 2)
    assert "left out: " in capsys.readouterr().out


def test_files_without_a_common_name_are_refused(tmp_path):
    files = [write(tmp_path / f"{name}.npz", [name], [0], [[1, 0]]) for name in "ab"]
    with pytest.raises(UserError, match="no video is in all files"):
        FUSE([*files, "--common"])


@pytest.mark.parametrize(
    ("names", "labels", "scores", "message"),
    [
        (["a", "b"], [0, 0], [[1, 0], [1, 0]], r"other.npz: 1 videos have other labels than in .*one.npz: b"),
        (["a", "b"], [[0, 1], [1, 0]], [[1, 0], [1, 0]], "one label a video, the other several"),
        (["a", "b"], [0, 1], [[1, 0, 0], [1, 0, 0]], r"scores of 3 classes, and .*one.npz 2"),
        (["a", "a", "b"], [0, 0, 1], [[1, 0]] * 3, "names that come more than once: a; scores are matched"),
        (["a", "b"], [0, 1], [[1, 0], [float("nan"), 0]], "infinite or not a number"),
        (
            ["a", "b"],
            [0, 1, 1],
            [[1, 0], [1, 0]],
            r"shapes \(2,\), \(3,\) and \(2, 2\) do not belong together",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, names, labels, scores, message):
    one = write(tmp_path / "one.npz", ["a", "b"], [0, 1], [[1, 0], [0, 1]])
    with pytest.raises(UserError, match=message):
        FUSE([one, write(tmp_path / "other.npz", names, labels, scores)])


def test_all_faults_of_the_command_line_come_at_once_and_nothing_is_overwritten(tmp_path):
    one = write(tmp_path / "one.npz", ["a"], [0], [[1, 0]])
    with pytest.raises(
        UserError,
        match=r"(?s)one file alone.*--weights: 2 numbers for 1 files.*--weights 1.0 inf: expected finite"
        r".*--metrics top9: unknown.*--out .*one.npz: exists already.*--result .*: there is no directory",
    ):
        files = ["--out", one, "--result", str(tmp_path / "no" / "r.json")]
        FUSE([one, "--weights", "1", "inf", "--metrics", "top9", *files])
    assert read_scores(Path(one)).scores.tolist() == [[1, 0]]


def test_every_file_that_holds_no_scores_is_named(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", names=np.array(["a"]))
    with pytest.raises(UserError, match=r"(?s)text.npz: is no file of scores.*other.npz.*gone.npz"):
        FUSE([str(tmp_path / name) for name in ("text.npz", "other.npz", "gone.npz")])


def test_what_can_be_delivered_is_whatever_fails_beside_it(tmp_path, monkeypatch):
    one = write(tmp_path / "one.npz", ["a"], [0], [[1, 0]])
    out, result = tmp_path / "f.npz", tmp_path / "r.json"

    def fuse_beside_another_run(*args, **kwargs):
        out.write_text("of the other run")
        return fuse(*args, **kwargs)

    monkeypatch.setitem(FUSE.__globals__, "fuse", fuse_beside_another_run)
    with (tmp_path / "printed").open("w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        with pytest.raises(UserError, match=r"^--out .*f.npz: has appeared since the start .* another file$"):
            FUSE([one, one, "--out", str(out), "--result", str(result)])
    assert out.read_text() == "of the other run"
    assert json.loads(result.read_text())["metrics"]["top1"] == 1
    assert "top1                 1.0000" in (tmp_path / "printed").read_text()

    result.unlink()
    with open("/dev/full", "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        with pytest.raises(
            UserError, match=r"^standard output: could not be written \(No space left on device"
        ):
            FUSE([one, one, "--out", str(out), "--result", str(result), "--overwrite"])
    assert read_scores(out).scores.tolist() == [[2, 0]]
    assert result.exists()

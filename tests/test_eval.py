"""scripts/eval.py as a user runs it, on invented data."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fake_training
import numpy as np
import pytest
import torch
from test_train import CONFIG, train  # noqa: F401  (a fixture)

from shards.manifest import ShardError
from tsn.checkpoint import file_sha256, load_checkpoint, save_checkpoint
from tsn.errors import UserError
from tsn.scores import read_scores


@pytest.fixture(scope="module")
def run(train, tmp_path_factory) -> Path:  # noqa: F811
    """A finished run of train.py, with the config file beside it."""
    folder = tmp_path_factory.mktemp("eval")
    (folder / "tiny.yaml").write_text(CONFIG)
    assert train.main(["--cfg", str(folder / "tiny.yaml"), "--work-dir", str(folder / "run")]) == 0
    return folder


@pytest.fixture(scope="module")
def evaluate(train):  # noqa: F811
    return fake_training.load_entry_point(fake_training.ROOT / "scripts" / "eval.py").main


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_result_says_what_was_measured_how_and_of_what(run, evaluate, tmp_path, capsys):
    checkpoint, out = run / "run" / "best.pt", tmp_path / "result.json"
    evaluate(["--checkpoint", str(checkpoint), "--out", str(out), "--scores", str(tmp_path / "s.npz")])
    result = read(out)
    assert result["num_samples"] == 11
    assert set(result["metrics"]) == {"top1", "top5", "mean_class_accuracy"}
    best = torch.load(checkpoint, weights_only=True)
    assert result["metrics"]["top1"] == pytest.approx(best["run"]["best"]), "as it was validated"
    assert result["videos_per_second"] > 0
    assert result["checkpoint"] == {
        "path": str(checkpoint),
        "sha256": file_sha256(checkpoint),
        "epoch": best["run"]["best_epoch"],
        "step": best["run"]["step"],
    }
    assert (result["config_name"], result["config"]["data"]["test"]["num_segments"]) == ("tiny", 2)
    assert "top1" in capsys.readouterr().out

    scores = np.load(tmp_path / "s.npz")
    assert scores["names"].tolist() == [f"video{i:02}.mp4" for i in range(11)]
    assert scores["labels"].dtype == np.int64
    assert scores["labels"].tolist() == [i % 3 for i in range(11)]
    assert (scores["scores"].dtype, scores["scores"].shape) == (np.float32, (11, 3))


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_scores_do_not_depend_on_the_batch_size(run, evaluate, tmp_path, batch_size):
    checkpoint = str(run / "run" / "best.pt")
    evaluate(["--checkpoint", checkpoint, "--scores", str(tmp_path / "a.npz")])
    evaluate(
        [
            "--checkpoint",
            checkpoint,
            "--scores",
            str(tmp_path / "b.npz"),
            f"data.test.batch_size={batch_size}",
        ]
    )
    assert_same_scores(tmp_path / "a.npz", tmp_path / "b.npz")


def assert_same_scores(one: Path, other: Path) -> None:
    first, second = np.load(one), np.load(other)
    assert first["names"].tolist() == second["names"].tolist()
    assert first["labels"].tolist() == second["labels"].tolist()
    np.testing.assert_allclose(first["scores"], second["scores"], atol=1e-5, rtol=0)


def test_metrics_of_several_categories_are_averaged(evaluate, tmp_path, capsys):
    names = np.array(["a.mp4", "b.mp4"])
    for i, scores in enumerate(([[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]])):
        labels = np.eye(2, dtype=np.uint8)
        np.savez(tmp_path / f"{i}.npz", names=names, labels=labels, scores=np.array(scores))
    files = [str(tmp_path / f"{i}.npz") for i in range(2)]
    evaluate(
        ["--from-scores", *files, "--metrics", "mean_average_precision", "--out", str(tmp_path / "r.json")]
    )
    result = read(tmp_path / "r.json")
    assert result["metrics"] == {"mean_average_precision": pytest.approx((1.0 + 0.5) / 2)}
    assert (result["num_samples"], result["scores"]) == (4, files)
    assert f"{files[1]}: mean_average_precision 0.5000" in capsys.readouterr().out


def test_metrics_can_be_computed_again_from_the_scores(run, evaluate, tmp_path):
    checkpoint = str(run / "run" / "best.pt")
    evaluate(
        ["--checkpoint", checkpoint, "--scores", str(tmp_path / "s.npz"), "--out", str(tmp_path / "a.json")]
    )
    names = ["--metrics", "top_k_accuracy", "mean_class_accuracy", "mean_average_precision"]
    evaluate(["--from-scores", str(tmp_path / "s.npz"), *names, "--out", str(tmp_path / "b.json")])
    found = read(tmp_path / "b.json")["metrics"]
    assert 0 < found.pop("mean_average_precision") <= 1
    assert found == read(tmp_path / "a.json")["metrics"]


def test_several_labels_are_kept_as_a_multi_hot_matrix(train, evaluate, run, tmp_path):  # noqa: F811
    options = ["model.loss=bce", "schedule.epochs=1"]
    train.main(["--cfg", str(run / "tiny.yaml"), "--work-dir", str(tmp_path / "run"), *options])
    files = ["--out", str(tmp_path / "r.json"), "--scores", str(tmp_path / "s.npz")]
    evaluate(["--checkpoint", str(tmp_path / "run" / "last.pt"), *files])
    assert set(read(tmp_path / "r.json")["metrics"]) == {
        "mean_average_precision",
        "mmit_mean_average_precision",
    }
    labels = np.load(tmp_path / "s.npz")["labels"]
    assert (labels.dtype, labels.shape, labels.sum()) == (np.uint8, (11, 3), 11)


def protocol_of(evaluate, run, tmp_path, *arguments) -> tuple[int, int, int]:
    """(segments, crops, crop size) that eval.py uses."""
    out = tmp_path / "r.json"
    evaluate(["--checkpoint", str(run / "run" / "last.pt"), "--out", str(out), "--overwrite", *arguments])
    test = read(out)["config"]["data"]["test"]
    width, height = test["crop_size"]
    assert width == height
    return test["num_segments"], test["num_crops"], width


def test_crops_and_segments_of_the_command_line_bring_the_crop_size_of_the_reference(run, evaluate, tmp_path):
    cfg = ["data.train.crop_size=200", "data.test.short_side=240", "--cfg", str(run / "tiny.yaml")]
    assert protocol_of(evaluate, run, tmp_path, *cfg) == (2, 1, 224)
    assert protocol_of(evaluate, run, tmp_path, *cfg, "--test-crops", "10") == (2, 10, 200)
    assert protocol_of(evaluate, run, tmp_path, *cfg, "--test-crops", "3", "--test-segments", "5") == (
        5,
        3,
        240,
    )
    assert protocol_of(evaluate, run, tmp_path, *cfg, "--test-crops", "1") == (2, 1, 224), "nothing changes"
    sized = [*cfg, "data.test.crop_size=160", "--test-crops", "10"]
    assert protocol_of(evaluate, run, tmp_path, *sized) == (2, 10, 160)
    framed = [*cfg, "data.test.frame_size=[300,250]", "--test-crops", "3"]
    assert protocol_of(evaluate, run, tmp_path, *framed) == (2, 3, 250)
    # Without --cfg the checkpoint's own config is the base.
    assert protocol_of(evaluate, run, tmp_path, "--test-crops", "3") == (2, 3, 256)


def test_a_checkpoint_of_mmaction_is_tested_with_the_config_named(run, evaluate, tmp_path):
    weights = torch.load(run / "run" / "last.pt", weights_only=True)["model"]
    theirs = {name.replace("fc.", "cls_head.fc_cls."): tensor for name, tensor in weights.items()}
    torch.save({"meta": {}, "state_dict": theirs}, tmp_path / "theirs.pth")
    with pytest.raises(
        UserError, match=r"theirs.pth: is no checkpoint of train.py and holds no config; name one"
    ):
        evaluate(["--checkpoint", str(tmp_path / "theirs.pth")])
    own, other = tmp_path / "own.npz", tmp_path / "other.npz"
    evaluate(["--checkpoint", str(run / "run" / "last.pt"), "--scores", str(own)])
    cfg = ["--cfg", str(run / "tiny.yaml")]
    evaluate(["--checkpoint", str(tmp_path / "theirs.pth"), *cfg, "--scores", str(other)])
    assert_same_scores(own, other)


def test_a_checkpoint_of_another_model_is_refused(run, evaluate):
    with pytest.raises(
        UserError, match=r"last.pt: holds the weights of another model: fc.weight has shape \(3, 8\)"
    ):
        evaluate(["--checkpoint", str(run / "run" / "last.pt"), "model.num_classes=4"])


def test_nothing_is_overwritten_unless_asked_and_all_faults_come_at_once(run, evaluate, tmp_path):
    (tmp_path / "r.json").write_text("precious")
    arguments = ["--checkpoint", str(run / "run" / "last.pt"), "--out", str(tmp_path / "r.json")]
    faults = [*arguments, "--scores", str(tmp_path / "no" / "s.npz"), "--metrics", "topk"]
    with pytest.raises(
        UserError,
        match=r"(?s)--metrics topk: unknown; known are top_k.*r.json: exists already; name "
        r"another file, or add --overwrite\n--scores .*: there is no directory",
    ):
        evaluate(faults)
    assert (tmp_path / "r.json").read_text() == "precious"
    evaluate([*arguments, "--overwrite"])
    assert read(tmp_path / "r.json")["num_samples"] == 11


def test_classes_in_another_order_than_in_training_are_refused(untested, run, tmp_path, monkeypatch):
    checkpoint = load_checkpoint(run / "run" / "best.pt")
    save_checkpoint(tmp_path / "named.pt", replace(checkpoint, classes=["run", "jump", "sit"]))
    manifest = SimpleNamespace(num_samples=11, multi_label=False, classes=("run", "sit", "jump"))
    monkeypatch.setattr(fake_training.launch, "check_shards", lambda config, splits: {"test": manifest})
    with pytest.raises(UserError, match=r"^data\.test\.shards: fake: class 1 is sit, and jump in what the"):
        untested(["--checkpoint", str(tmp_path / "named.pt")])
    manifest.classes = ("run", "jump", "sit")
    with pytest.raises(AssertionError, match="the test has started"):
        untested(["--checkpoint", str(tmp_path / "named.pt")])


@pytest.fixture
def untested(evaluate, monkeypatch):
    """eval.py, which fails when a test starts."""

    def start(*args, **kwargs):
        raise AssertionError("the test has started")

    monkeypatch.setitem(evaluate.__globals__, "evaluate", start)
    return evaluate


def test_metrics_that_the_labels_do_not_have_are_refused_before_the_test(run, untested, monkeypatch):
    manifest = SimpleNamespace(num_samples=11, multi_label=True, classes=None)
    monkeypatch.setattr(fake_training.launch, "check_shards", lambda config, splits: {"test": manifest})
    words = ["--metrics", "mean_average_precision", "top1", "mean_class_accuracy", "top5"]
    with pytest.raises(
        UserError,
        match=r"--metrics top1 mean_class_accuracy: for one label a video, and data\.test\.shards: fake.* "
        r"holds videos of several; use mean_average_precision or mmit",
    ):
        untested(["--checkpoint", str(run / "run" / "last.pt"), *words])
    with pytest.raises(AssertionError, match="has started"):
        untested(["--checkpoint", str(run / "run" / "last.pt"), *words[:2]])


def test_a_damaged_name_shows_before_the_test_and_on_the_rank_that_writes(run, untested, monkeypatch):
    def damaged(config, split):
        raise ShardError("s.tar:00000003: json: missing or not readable")

    monkeypatch.setattr(fake_training.launch, "sample_names", damaged)
    with pytest.raises(ShardError, match="json: missing"):
        untested(["--checkpoint", str(run / "run" / "last.pt")])


@pytest.mark.parametrize("option", ["--out", "--scores"])
def test_what_cannot_be_written_is_refused_before_the_test(run, untested, tmp_path, option):
    arguments = ["--checkpoint", str(run / "run" / "last.pt"), "--overwrite", option]
    with pytest.raises(UserError, match=rf"{option} /proc/r: cannot be written \(.+\); name another place"):
        untested([*arguments, "/proc/r"])
    with pytest.raises(UserError, match=rf"{option} {tmp_path}: is a directory"):
        untested([*arguments, str(tmp_path)])
    same = ["--out", str(tmp_path / "r"), "--scores", str(tmp_path / "." / "r")]
    with pytest.raises(UserError, match=r"--scores .*/r: is the file of --out; name another"):
        untested([*arguments[:3], *same])
    with pytest.raises(AssertionError, match="has started"):
        untested([*arguments, str(tmp_path / "r")])
    assert list(tmp_path.iterdir()) == [], "a trial leaves nothing behind"
    (tmp_path / "r").symlink_to("gone")
    with pytest.raises(UserError, match=rf"{option} {tmp_path}/r: exists already"):
        untested([word for word in [*arguments, str(tmp_path / "r")] if word != "--overwrite"])


def test_only_the_first_process_looks_where_it_will_write(run, evaluate, tmp_path, monkeypatch):
    (tmp_path / "r.json").write_text("of the first process")
    module = evaluate.__globals__
    args = module["parse_args"](["--checkpoint", "x.pt", "--out", str(tmp_path / "r.json")])
    monkeypatch.setenv("RANK", "1")
    module["check_names"](args)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="exists already"):
        module["check_names"](args)


def test_scores_are_kept_where_the_result_fails(run, evaluate, tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("no result")

    monkeypatch.setitem(evaluate.__globals__, "measure", fail)
    files = ["--out", str(tmp_path / "r.json"), "--scores", str(tmp_path / "s.npz")]
    with pytest.raises(RuntimeError, match="no result"):
        evaluate(["--checkpoint", str(run / "run" / "best.pt"), *files])
    assert read_scores(tmp_path / "s.npz").scores.shape == (11, 3)
    assert not (tmp_path / "r.json").exists()


def test_a_model_without_finite_scores_has_no_result(run, evaluate, tmp_path, capsys):
    content = torch.load(run / "run" / "best.pt", weights_only=True)
    content["model"]["fc.bias"][1] = float("nan")
    torch.save(content, tmp_path / "broken.pt")
    files = ["--out", str(tmp_path / "r.json"), "--scores", str(tmp_path / "s.npz")]
    with pytest.raises(
        UserError,
        match=r"broken.pt: scores of 11 of 11 videos are infinite or not a number: video00.mp4, .* and 6 "
        r"more; the model is broken; test another checkpoint",
    ):
        evaluate(["--checkpoint", str(tmp_path / "broken.pt"), *files])
    assert [path.name for path in tmp_path.iterdir()] == ["broken.pt"]
    assert "top1" not in capsys.readouterr().out


def test_one_of_anything_is_told_in_the_singular(run, evaluate, tmp_path, capsys):
    evaluate(["--checkpoint", str(run / "run" / "last.pt"), "--test-segments", "1"])
    assert "testing 11 videos of fake: 1 segment x 1 crop of 224 x 224" in capsys.readouterr().out
    np.savez(tmp_path / "s.npz", names=np.array(["a"]), labels=np.array([0]), scores=np.ones((1, 2)))
    evaluate(["--from-scores", str(tmp_path / "s.npz")])
    assert capsys.readouterr().out.splitlines()[-1] == "1 video"


def test_a_setting_given_twice_is_refused(run, evaluate):
    twice = ["data.test.batch_size=1", "--metrics", "top1", "data.test.batch_size=2"]
    with pytest.raises(UserError, match=r"data\.test\.batch_size: given 2 times \(1, 2\); give it once"):
        evaluate(["--checkpoint", str(run / "run" / "last.pt"), *twice])
    contrary = ["--test-crops", "10", "data.test.num_crops=1"]
    with pytest.raises(UserError, match=r"data\.test\.num_crops: given 2 times \(10, 1\)"):
        evaluate(["--checkpoint", str(run / "run" / "last.pt"), *contrary])


def test_three_crops_of_frames_as_stored_are_refused(run, evaluate):
    options = ["--test-crops", "3", "data.test.short_side=null"]
    with pytest.raises(UserError, match=r"--test-crops 3: they need data\.test\.short_side, which is null"):
        evaluate(["--checkpoint", str(run / "run" / "last.pt"), *options])


def test_overrides_may_follow_the_metrics(run, evaluate, tmp_path):
    out = tmp_path / "r.json"
    names = ["--metrics", "top_k_accuracy", "data.test.num_segments=4"]
    evaluate(["--checkpoint", str(run / "run" / "last.pt"), "--out", str(out), *names])
    assert set(read(out)["metrics"]) == {"top1", "top5"}
    assert read(out)["config"]["data"]["test"]["num_segments"] == 4


def test_a_metric_may_be_asked_for_by_the_name_it_is_printed_with(run, evaluate, tmp_path):
    out = tmp_path / "r.json"
    evaluate(["--checkpoint", str(run / "run" / "last.pt"), "--out", str(out), "--metrics", "top1", "top5"])
    assert set(read(out)["metrics"]) == {"top1", "top5"}


def test_zero_segments_are_refused(run, evaluate):
    with pytest.raises(UserError, match=r"data\.test\.num_segments"):
        evaluate(["--checkpoint", str(run / "run" / "last.pt"), "--test-segments", "0"])


def test_scores_cannot_be_configured_and_must_be_scores(evaluate, tmp_path):
    with pytest.raises(UserError, match="--from-scores: takes only --metrics, --out and --overwrite"):
        evaluate(["--from-scores", "s.npz", "--test-crops", "3"])
    (tmp_path / "s.npz").write_text("hello")
    with pytest.raises(UserError, match=r"s.npz: is no file of scores, as eval"):
        evaluate(["--from-scores", str(tmp_path / "s.npz")])


def test_videos_that_are_not_those_of_the_shards_are_an_error(run, evaluate, monkeypatch):
    monkeypatch.setattr(
        fake_training.launch, "sample_names", lambda config, split: [(i, "x") for i in range(1, 12)]
    )
    with pytest.raises(UserError, match="the videos tested are not those listed in fake"):
        evaluate(["--checkpoint", str(run / "run" / "last.pt")])

"""What becomes of a finished test whose outputs cannot all be written."""

import os
import resource
import subprocess
import sys

import pytest
import test_eval
from test_eval import read
from test_train import command

from tsn.errors import UserError
from tsn.scores import read_scores

train, run, evaluate = test_eval.train, test_eval.run, test_eval.evaluate  # fixtures


def start(*arguments, **options) -> tuple[int, str, str]:
    """Exit code, output and errors of eval.py in a process of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 300} | options
    # Buffered, as at a user's: what could not be printed is tried again when the process leaves.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    eval_command = command(1, *map(str, arguments), script="scripts/eval.py")
    done = subprocess.run(eval_command, env=buffered, **options)
    return done.returncode, done.stdout, done.stderr


def test_a_test_is_not_lost_with_its_files(run, tmp_path):
    files = ["--out", tmp_path / "r.json", "--scores", tmp_path / "s.npz"]
    code, out, errors = start(
        "--checkpoint",
        run / "run" / "best.pt",
        *files,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    assert "\ntop1 " in out
    place = "could not be written (File too large); name another place"
    assert f"error: --scores {tmp_path}/s.npz: {place}\n--out {tmp_path}/r.json: {place}\n" in errors
    assert "Traceback" not in errors
    assert code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("stdout", "reason"), [("full disk", "No space left on device"), ("closed pipe", "Broken pipe")]
)
def test_a_test_is_not_lost_with_its_output(run, tmp_path, stdout, reason):
    if stdout == "full disk":
        output = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, output = os.pipe()
        os.close(reader)
    files = ["--out", tmp_path / "r.json", "--scores", tmp_path / "s.npz"]
    code, _, errors = start("--checkpoint", run / "run" / "best.pt", *files, stdout=output)
    os.close(output)
    assert f"error: standard output: could not be written ({reason}); name another place\n" in errors
    assert "Traceback" not in errors
    assert code == 2
    assert read(tmp_path / "r.json")["num_samples"] == len(read_scores(tmp_path / "s.npz").scores) == 11


def test_a_reader_may_leave_after_the_first_line(run, evaluate, tmp_path, monkeypatch):
    test, (reader, output) = evaluate.__globals__["evaluate"], os.pipe()

    def test_as_the_reader_leaves(*args, **kwargs):
        assert os.read(reader, 1000).startswith(b"testing 11 videos")
        os.close(reader)
        return test(*args, **kwargs)

    monkeypatch.setitem(evaluate.__globals__, "evaluate", test_as_the_reader_leaves)
    with os.fdopen(output, "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        with pytest.raises(UserError, match=r"^standard output: could not be written \(Broken pipe\)"):
            evaluate(["--checkpoint", str(run / "run" / "best.pt"), "--out", str(tmp_path / "r.json")])
    assert read(tmp_path / "r.json")["num_samples"] == 11


def test_the_result_is_written_where_the_scores_fail(run, evaluate, tmp_path, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(evaluate.__globals__, "write_scores", fail)
    files = ["--out", str(tmp_path / "r.json"), "--scores", str(tmp_path / "s.npz")]
    with pytest.raises(
        UserError, match=r"^--scores .*s.npz: could not be written \(No space left on device\)"
    ):
        evaluate(["--checkpoint", str(run / "run" / "best.pt"), *files])
    assert read(tmp_path / "r.json")["num_samples"] == 11
    assert "top1" in capsys.readouterr().out


def test_files_that_appear_during_the_test_are_not_replaced(run, evaluate, tmp_path, monkeypatch, capsys):
    test, out, scores = evaluate.__globals__["evaluate"], tmp_path / "r.json", tmp_path / "s.npz"

    def test_beside_another_run(*args, **kwargs):
        out.write_text("of the other run")
        scores.write_text("of the other run")
        return test(*args, **kwargs)

    monkeypatch.setitem(evaluate.__globals__, "evaluate", test_beside_another_run)
    arguments = ["--checkpoint", str(run / "run" / "best.pt"), "--out", str(out), "--scores", str(scores)]
    with pytest.raises(
        UserError,
        match=r"^--scores .*s.npz: has appeared since the start and was not replaced; name another file\n"
        r"--out .*r.json: has appeared",
    ):
        evaluate(arguments)
    assert "top1" in capsys.readouterr().out
    assert out.read_text() == scores.read_text() == "of the other run"
    evaluate([*arguments, "--overwrite"])
    assert read(out)["num_samples"] == len(read_scores(scores).scores) == 11

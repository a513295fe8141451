import json

import pytest

from tsn.progress import Pace, RunLog, format_duration, format_line

TRAIN = {
    "epoch": 3,
    "step": 40,
    "num_steps": 200,
    "loss": 1.25,
    "top1": 0.5,
    "lr": 0.01,
    "clips_per_s": 430.1,
    "data_wait": 0.03,
    "gpu_memory_bytes": 5 * 2**30,
    "left_s": 3723.4,
}


def test_a_training_record_becomes_a_line():
    assert format_line("train", TRAIN) == (
        "epoch   3  step 40/200  loss 1.2500  top1 0.500  lr 0.01  430.1 clips/s  data wait 3%  "
        "GPU memory 5.0 GiB  left 1:02:03"
    )
    assert "GPU" not in format_line("train", TRAIN | {"gpu_memory_bytes": 0})


def test_a_validation_record_becomes_a_line():
    record = {
        "epoch": 3,
        "step": 40,
        "top1": 0.5,
        "mean_class_accuracy": 0.25,
        "num_samples": 48,
        "videos_per_s": 7,
    }
    assert format_line("val", record) == (
        "epoch   3  validation of 48 videos: top1 0.5000  mean_class_accuracy 0.2500  7.0 videos/s"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")]
)
def test_durations_are_hours_minutes_and_seconds(seconds, text):
    assert format_duration(seconds) == text


def test_records_go_to_file_and_curves_and_later_ones_are_cut_on_resuming(tmp_path, capsys):
    log = RunLog(tmp_path)
    log.write("train", TRAIN)
    size = log.size_bytes
    log.write("train", TRAIN | {"step": 60})
    log.close()

    log = RunLog(tmp_path, resume_size_bytes=size, resume_step=40)
    log.write("train", TRAIN | {"step": 60, "loss": 1.0})
    log.close()
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert records[0] == {"kind": "train"} | TRAIN
    assert [(record["step"], record["loss"]) for record in records] == [(40, 1.25), (60, 1.0)]
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_the_pace_tells_speed_waiting_and_time_left_without_pauses(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tsn.progress.time.perf_counter", lambda: now[0])
    pace = Pace()

    def step(seconds: float) -> None:
        now[0] += seconds
        pace.count_step()

    now[0] = 100.0
    pace.start()
    for _ in range(4):
        step(0.5)
    fields = pace.take(num_steps=4, num_videos=40, steps_left=6, waited_s=0.5)
    assert (fields["clips_per_s"], fields["data_wait"], fields["left_s"]) == (20.0, 0.25, 3.0)
    step(2.0)  # the last of an epoch, and no record is due
    pace.stop()
    now[0] += 1000.0
    pace.start()
    step(2.0)
    fields = pace.take(num_steps=2, num_videos=20, steps_left=4, waited_s=0.0)
    assert (fields["clips_per_s"], fields["left_s"]) == (5.0, 4.0)


def test_the_pace_of_a_resumed_run_is_that_of_its_own_steps(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tsn.progress.time.perf_counter", lambda: now[0])
    pace = Pace()
    pace.start()
    now[0] = 2.0
    pace.count_step()
    fields = pace.take(num_steps=4, num_videos=40, steps_left=3, waited_s=0.0)
    assert (fields["clips_per_s"], fields["left_s"]) == (5.0, 6.0)

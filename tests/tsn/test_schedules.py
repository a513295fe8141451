import pytest

from tsn.config import OptimConfig, ScheduleConfig
from tsn.optim import scaled_lr
from tsn.schedules import lr_factor


def factors(schedule: ScheduleConfig, *, steps_per_epoch: int) -> list[float]:
    steps = range(schedule.epochs * steps_per_epoch)
    return [lr_factor(step, steps_per_epoch=steps_per_epoch, schedule=schedule) for step in steps]


def test_a_step_is_taken_at_the_start_of_the_listed_epoch():
    schedule = ScheduleConfig(epochs=4, milestones=(1, 3))
    assert factors(schedule, steps_per_epoch=2) == pytest.approx([1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_without_milestones_the_rate_is_constant():
    assert factors(ScheduleConfig(epochs=3), steps_per_epoch=2) == [1.0] * 6


def test_a_cosine_falls_from_one_to_almost_zero():
    values = factors(ScheduleConfig(epochs=2, kind="cosine"), steps_per_epoch=2)
    assert values == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_the_warmup_is_a_line_up_to_the_schedule():
    schedule = ScheduleConfig(epochs=3, milestones=(2,), warmup_epochs=1, warmup_start_factor=0.2)
    assert factors(schedule, steps_per_epoch=4) == pytest.approx([0.2, 0.4, 0.6, 0.8] + [1] * 4 + [0.1] * 4)


def test_the_warmup_may_end_inside_an_epoch():
    schedule = ScheduleConfig(epochs=1, warmup_epochs=0.5, warmup_start_factor=0.0)
    assert factors(schedule, steps_per_epoch=4) == pytest.approx([0, 0.5, 1, 1])


@pytest.mark.parametrize(("batch", "lr"), [(256, 0.01), (64, 0.0025), (512, 0.02)])
def test_the_rate_is_scaled_linearly_to_the_batch(batch, lr):
    assert scaled_lr(OptimConfig(lr=0.01, base_batch_size=256), global_batch_size=batch) == pytest.approx(lr)
    assert scaled_lr(OptimConfig(lr=0.01, scale_lr=False), global_batch_size=batch) == 0.01

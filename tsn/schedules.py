"""The learning rate as a pure function of the step."""

import math

from tsn.config import ScheduleConfig


def lr_factor(step: int, *, steps_per_epoch: int, schedule: ScheduleConfig) -> float:
    """What the learning rate is multiplied by at 0-based `step` of the run.

    step: `gamma` to the power of the milestones passed; a milestone counts from the first step of its epoch
        on.
    cosine: half a period of a cosine, from 1 at the first step towards 0 after the last.
    The warm-up multiplies either by a line from `warmup_start_factor` at step 0 to 1 at its end.
    """
    return _base(step, steps_per_epoch, schedule) * _warmup(step, steps_per_epoch, schedule)


def _base(step: int, steps_per_epoch: int, schedule: ScheduleConfig) -> float:
    if schedule.kind == "cosine":
        return 0.5 * (1 + math.cos(math.pi * step / (schedule.epochs * steps_per_epoch)))
    epoch = step // steps_per_epoch
    return schedule.gamma ** sum(epoch >= milestone for milestone in schedule.milestones)


def _warmup(step: int, steps_per_epoch: int, schedule: ScheduleConfig) -> float:
    warmup_steps = schedule.warmup_epochs * steps_per_epoch
    if step >= warmup_steps:
        return 1.0
    start = schedule.warmup_start_factor
    return start + (1 - start) * step / warmup_steps

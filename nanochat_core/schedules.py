"""How learning rate, Muon's momentum and weight decay move over a run: pure functions of the step.

The shapes are nanochat's (July 2026): trapezoid for the rate, momentum up and then down again, cosine decay to zero.
Each function takes the 0-based step that is about to be taken and returns the value to use for it.
"""

import math
from dataclasses import dataclass

MOMENTUM_START = 0.85  # Muon's momentum at step 0
MOMENTUM_PEAK = 0.97  # after the warm-up
MOMENTUM_END = 0.90  # at the end of the learning rate's warm-down


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The timing of one run; the values it scales live with the optimizer."""

    num_steps: int
    warmup_steps: int
    warmdown_frac: float
    """Fraction of the run, at its end, over which the rate falls linearly."""
    final_lr_frac: float
    initial_lr_frac: float = 1.0
    """Fine-tuning starts at a fraction of the base run's rate."""
    momentum_warmup_steps: int
    has_weight_decay: bool = True


def lr_multiplier(schedule: Schedule, step: int) -> float:
    """Factor on every base learning rate: linear warm-up, flat, linear warm-down to `final_lr_frac`."""
    return schedule.initial_lr_frac * _trapezoid(schedule, step)


def _trapezoid(schedule: Schedule, step: int) -> float:
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    warmdown_steps = round(schedule.warmdown_frac * schedule.num_steps)
    remaining_steps = schedule.num_steps - step
    if remaining_steps >= warmdown_steps:
        return 1.0
    frac = remaining_steps / warmdown_steps
    return frac + (1 - frac) * schedule.final_lr_frac


def muon_momentum(schedule: Schedule, step: int) -> float:
    """0.85 -> 0.97 over the warm-up steps, then 0.97 -> 0.90 while the learning rate falls."""
    if step < schedule.momentum_warmup_steps:
        frac = step / schedule.momentum_warmup_steps
        return MOMENTUM_START + frac * (MOMENTUM_PEAK - MOMENTUM_START)
    warmdown_steps = round(schedule.warmdown_frac * schedule.num_steps)
    done_steps = step - (schedule.num_steps - warmdown_steps)
    if done_steps < 0:
        return MOMENTUM_PEAK
    frac = done_steps / warmdown_steps
    return MOMENTUM_PEAK + frac * (MOMENTUM_END - MOMENTUM_PEAK)


def weight_decay_multiplier(schedule: Schedule, step: int) -> float:
    """Cosine from 1 to 0 over the run (0 throughout where the stage has no decay)."""
    if not schedule.has_weight_decay:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * step / schedule.num_steps))

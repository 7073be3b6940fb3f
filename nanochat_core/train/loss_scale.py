"""Loss scaling for fp16, whose smallest gradients would be zero: a factor on the loss that follows the gradients.

The rule is torch.amp's GradScaler: halved after a step whose gradients overflowed, which is left out; doubled after
2,000 good steps in a row (arXiv 1710.03740). It is part of a training's progress, so a resumed run has the same one.
"""

INITIAL = 2.0**16
GROWTH_STEPS = 2000
SMALLEST = 1.0  # gradients that overflow at this one are no matter of scaling


def next_scale(scale: float, good_steps: int, *, is_sound: bool) -> tuple[float, int]:
    """(scale, good steps in a row) after a step."""
    if not is_sound:
        return max(SMALLEST, scale / 2), 0
    if good_steps + 1 == GROWTH_STEPS:
        return scale * 2, 0
    return scale, good_steps + 1

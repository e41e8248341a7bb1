"""Learning rates as pure functions of the update, so that resuming needs no scheduler state."""

import math

from ns_core.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of update `step` (0, 1, ...).

    Warm-up is linear from 0. `staircase`: lr * decay_rate^floor(step / decay_steps), counted from step 0
    with the warm-up inside, as the official code does. `cosine`: a half wave that reaches 0 one update
    after the last.
    """
    if step < config.warmup_steps:
        return config.lr * step / config.warmup_steps
    if config.schedule == "staircase":
        return float(config.lr * config.decay_rate ** math.floor(step / config.decay_steps))
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

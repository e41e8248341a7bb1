"""Learning rates as pure functions of the update, so that resuming needs no scheduler state."""

import math

from ns_core.config import FinetuneConfig, TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of update `step` (0, 1, ...).

    Warm-up is linear from 0. `staircase`: lr * decay_rate^floor(step / decay_steps), counted from step 0
    with the warm-up inside, as the official code does. `cosine`: a half wave that reaches 0 one update
    after the last. Finetuning with `schedule_steps` has the rates of the last updates of a schedule that long
    (official code, `train_last_step_num`), past any warm-up that ended before them.
    """
    total = _schedule_steps(config)
    step += total - config.steps
    if step < config.warmup_steps:
        return config.lr * step / config.warmup_steps
    if config.schedule == "staircase":
        return float(config.lr * config.decay_rate ** math.floor(step / config.decay_steps))
    done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _schedule_steps(config: TrainConfig) -> int:
    tail_of = config.schedule_steps if isinstance(config, FinetuneConfig) else 0
    return tail_of or config.steps

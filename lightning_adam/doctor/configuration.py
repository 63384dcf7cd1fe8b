"""What a log says of the optimizer's configuration, completed by what the log itself shows."""

from __future__ import annotations

import math
from dataclasses import replace

from lightning_adam.diagnosis import RunSignals
from lightning_adam.tensorboard.configuration import CONFIG, configured
from lightning_adam.tensorboard.reader import RunLog


def run_signals(run: RunLog, prefix: str, first_step: int, last_step: int, optimizers: int) -> RunSignals:
    """What is known of one optimizer; what the log does not tell keeps its default.

    Args:
        run: the log.
        prefix: the optimizer's.
        first_step: the step that the run began with.
        last_step: the last one that was logged: the run's length, where the configuration does not tell it.
        optimizers: how many there are.
    """
    texts = run.texts.get(prefix + CONFIG, [])
    known = configured(texts[-1][1].decode(errors="replace") if texts else "")
    total = last_step + 1.0 if math.isnan(known.total_steps) else known.total_steps
    return replace(known, first_step=first_step, optimizers=optimizers, total_steps=total)

"""What a log says of the optimizer's configuration: the table that OptimizerMonitor writes as ``adam/config``."""

from __future__ import annotations

import math
import re

from lightning_adam.diagnosis import RunSignals
from lightning_adam.doctor.tabular import number
from lightning_adam.tensorboard.reader import RunLog

PLAIN_MOMENTS = ("Adam", "AdamW")
"""Optimizers whose m and v are averages of g and g²: their steps have bounds."""


def run_signals(run: RunLog, prefix: str, first_step: int, last_step: int, optimizers: int) -> RunSignals:
    """What is known of one optimizer; what the log does not tell keeps its default.

    Args:
        run: the log.
        prefix: the optimizer's.
        first_step: the step that the run began with.
        last_step: the last one that was logged: the run's length, where the configuration does not tell it.
        optimizers: how many there are.
    """
    texts = run.texts.get(f"{prefix}/config/text_summary", [])
    text = texts[-1][1].decode(errors="replace") if texts else ""
    name = _found(r"\A\*\*(\w+)\*\*", text) or ""
    rows = [_cells(line) for line in text.splitlines() if line.startswith("| ")][1:]
    betas = [pair[:2] for row in rows if len(pair := _numbers(row.get("betas", ""))) > 1]
    beta1, beta2 = max(betas, key=lambda pair: pair[0], default=(math.nan, math.nan))
    eps = [value for row in rows for value in _numbers(row.get("eps", ""))]
    return RunSignals(
        optimizer=name,
        optimizers=optimizers,
        first_step=first_step,
        beta1=beta1,
        beta2=beta2,
        eps=max(eps, default=math.nan),
        smallest_eps=min(eps, default=math.nan),
        weight_decay=max((value for row in rows for value in _numbers(row.get("weight decay", ""))), default=0.0),
        plain_moments=name in PLAIN_MOMENTS,
        schedule=_found(r"schedule: (\w+)", text) or "",
        warmup=_number(r"warmup ([\d.]+) steps", text, math.nan),
        total_steps=_number(r"in all ([\d.]+) steps", text, float(last_step + 1)),
        clip=_number(r"ClipNorm\(max_norm=([\d.eE+-]+)\)", text, math.nan),
    )


COLUMNS = ("group", "tensors", "parameters", "lr", "weight decay", "betas", "eps")


def _cells(line: str) -> dict[str, str]:
    return dict(zip(COLUMNS, (cell.strip() for cell in line.strip("| ").split("|")), strict=False))


def _numbers(cell: str) -> list[float]:
    """Words that are numbers; "0.9.9" is none."""
    found = [number(word) for word in re.split(r"[(),\s]+", cell)]
    return [value for value in found if value is not None and math.isfinite(value)]


def _number(pattern: str, text: str, otherwise: float) -> float:
    found = number(_found(pattern, text))
    return otherwise if found is None else found


def _found(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1] if match else None

"""What a log says of the optimizer's configuration: the table that OptimizerMonitor writes as ``adam/config``."""

from __future__ import annotations

import math
import re

from lightning_adam.diagnosis import RunSignals

PLAIN_MOMENTS = ("Adam", "AdamW")
"""Optimizers whose m and v are averages of g and g²: their steps have bounds."""
CONFIG = "/config/text_summary"
"""Ending of the tag of that table."""
COLUMNS = ("group", "tensors", "parameters", "lr", "weight decay", "betas", "eps")


def configured(text: str) -> RunSignals:
    """What the table tells of one optimizer; what it does not tell keeps its default."""
    name = _found(r"\A\*\*(\w+)\*\*", text) or ""
    rows = [_cells(line) for line in text.splitlines() if line.startswith("| ")][1:]
    betas = [pair[:2] for row in rows if len(pair := _numbers(row.get("betas", ""))) > 1]
    beta1, beta2 = max(betas, key=lambda pair: pair[0], default=(math.nan, math.nan))
    eps = [value for row in rows for value in _numbers(row.get("eps", ""))]
    return RunSignals(
        optimizer=name,
        beta1=beta1,
        beta2=beta2,
        eps=max(eps, default=math.nan),
        smallest_eps=min(eps, default=math.nan),
        weight_decay=max((value for row in rows for value in _numbers(row.get("weight decay", ""))), default=0.0),
        plain_moments=name in PLAIN_MOMENTS,
        schedule=_found(r"schedule: (\w+)", text) or "",
        warmup=_number(_found(r"warmup ([\d.]+) steps", text)),
        total_steps=_number(_found(r"in all ([\d.]+) steps", text)),
        clip=_number(_found(r"ClipNorm\(max_norm=([\d.eE+-]+)\)", text)),
    )


def configured_rate(text: str) -> float:
    """The largest learning rate of the groups as it was when the run began; NaN where the table has none."""
    rows = [_cells(line) for line in text.splitlines() if line.startswith("| ")][1:]
    return max((value for row in rows for value in _numbers(row.get("lr", ""))), default=math.nan)


def _cells(line: str) -> dict[str, str]:
    return dict(zip(COLUMNS, (cell.strip() for cell in line.strip("| ").split("|")), strict=False))


def _numbers(cell: str) -> list[float]:
    """Words that are numbers; "0.9.9" is none."""
    return [value for word in re.split(r"[(),\s]+", cell) if math.isfinite(value := _number(word))]


def _number(word: str | None) -> float:
    """NaN for what is none: anybody may have written the log."""
    try:
        return float(word or "nan")
    except ValueError:
        return math.nan


def _found(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1] if match else None

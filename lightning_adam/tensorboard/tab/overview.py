"""One line per run: how it fares, the gravest finding, and what it was configured with."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_adam.diagnosis import RunSignals
from lightning_adam.diagnosis.finding import SEVERITIES
from lightning_adam.tensorboard.configuration import CONFIG
from lightning_adam.tensorboard.tab.bulk import CLOCKS, Bulk, told_tags
from lightning_adam.tensorboard.tab.condition import condition
from lightning_adam.tensorboard.tab.recorded import RECORDED_LOSS
from lightning_adam.tensorboard.tab.series import FEW, UNKNOWN, OptimizerSeries, SeriesReader

LOSSES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"train_loss",
        r"train/loss",
        r"loss",
        r"training_loss",
        r"loss/train",
        r".*train.*loss(_step)?",
        r".*loss.*",
    )
)
"""Names of a training loss, the surest first."""
NO_LOSS = re.compile(r"(epoch|hp_metric|global_step)$|lr(-|$)|adam[^/]*/")
OF_EVALUATION = re.compile(r"(.*[^a-z])?(val|valid|validation|test|eval|evaluation)([^a-z]|$)", re.IGNORECASE)
QUIET_SECONDS, QUIET_SHARE = 120.0, 0.05
"""A run that has written nothing for so long, and for such a share of the time that it took so far, has ended."""


@dataclass(frozen=True)
class Overview:
    """A line of the table of runs.

    Attributes:
        run, optimizers: its name, and the prefixes of its optimizers.
        state: ``running``, ``finished`` (all planned steps are done), or ``stopped``.
        condition: see :mod:`.condition`: how it fared meanwhile.
        watched: whether a DivergenceMonitor was there.
        findings, severity, rule, step: how many there are, and of the gravest (the first of these) what and when.
        loss: the last one and its tag; NaN where it was not finite.
        steps, total: done and planned.
        settings: as a reader calls them; of several optimizers each one's, where they differ.
        began, written: when it wrote first and last, seconds since 1970.
    """

    run: str
    optimizers: list[str]
    state: str
    condition: str
    watched: bool
    findings: int
    severity: str
    rule: str
    step: int | None
    loss: float | None
    loss_tag: str
    steps: int
    total: int | None
    settings: dict[str, str]
    began: float
    written: float


@dataclass(frozen=True)
class RunData:
    """What was read of one run, beside what ``Bulk`` has.

    Attributes:
        tags: of its scalars.
        loss_tag: of the likeliest training loss; empty where there is none.
        loss: TensorBoard's points of it.
        configured: how each optimizer was configured, as far as it is known.
    """

    tags: Sequence[str]
    loss_tag: str
    loss: Sequence[Any]
    configured: Sequence[RunSignals]


def overview(known: Bulk, run: str, optimizers: Sequence[OptimizerSeries], data: RunData) -> Overview:
    """Of one run, from what was read of it."""
    first = optimizers[0]
    told = [f for o in optimizers if o.findings for f in known.findings(run, o.prefix)]
    gravest = max(told, key=lambda f: (SEVERITIES.index(f["severity"]), -f["step"]), default=None)
    total = data.configured[0].total_steps
    points = [points for points in (data.loss, *known.scalars.get(run, {}).values()) if points]
    return Overview(
        run=run,
        optimizers=[o.prefix for o in optimizers],
        state="",
        condition=condition(told, [point.value for point in data.loss]),
        watched=any(tag.endswith(CLOCKS[1]) for tag in data.tags) or first.recorded,
        findings=len(told),
        severity=gravest["severity"] if gravest else "",
        rule=gravest["rule"] if gravest else "",
        step=gravest["step"] if gravest else None,
        loss=data.loss[-1].value if data.loss else None,
        loss_tag=data.loss_tag,
        steps=max([o.max_step for o in optimizers] + [series[-1].step for series in points]) + 1,
        total=round(total) if math.isfinite(total) else None,
        settings=joined([settings(c, known.rate(run, o.prefix)) for c, o in zip(data.configured, optimizers, strict=True)]),
        began=min((series[0].wall_time for series in points), default=0.0),
        written=max([o.max_wall_time for o in optimizers] + [series[-1].wall_time for series in points]),
    )


def losses(tags: Sequence[str], recorded: bool = False) -> list[str]:
    """Scalars that may be the training loss, the likeliest first.

    Args:
        tags: of the scalars that the run logged.
        recorded: whether the diagnosis recorded the loss, too: likelier than what is not named as one of training.
    """
    candidates = sorted(tag for tag in tags if not NO_LOSS.match(tag))
    named = [tag for pattern in LOSSES for tag in candidates if pattern.fullmatch(tag)]
    of_training = [tag for tag in named if not OF_EVALUATION.match(tag)]
    return list(dict.fromkeys([*of_training, *([RECORDED_LOSS] if recorded else []), *named, *candidates]))


def likely_losses(tags: Sequence[str], optimizers: Sequence[OptimizerSeries]) -> list[str]:
    """The likeliest training loss of a run, and the next one, in case that the diagnosis was told of none."""
    candidates = losses(tags, any(optimizer.recorded for optimizer in optimizers))
    return candidates[:2] if candidates[:1] == [RECORDED_LOSS] else candidates[:1]


def _first_with_points(
    series: SeriesReader, known: Bulk, where: tuple[Any, str, str], candidates: Sequence[str]
) -> tuple[str, Sequence[Any]]:
    """Tag and points; empty where none has any."""
    for tag in candidates:
        points = series.recorded(*where, ["loss"], FEW)["loss"] if tag == RECORDED_LOSS else known.points(where[2], tag)
        if points:
            return tag, points
    return "", []


def _configured(series: SeriesReader, known: Bulk, where: tuple[Any, str, str], optimizer: OptimizerSeries) -> RunSignals:
    """By the table that OptimizerMonitor wrote, else by what the diagnosis recorded."""
    written = known.configuration(where[2], optimizer.prefix)
    if written is not None:
        return written
    return series.recorded_configuration(*where, optimizer.prefix) if optimizer.recorded else UNKNOWN


def joined(each: Sequence[dict[str, str]]) -> dict[str, str]:
    """Of several optimizers: one value where they agree, else all of them in their order."""
    names = dict.fromkeys(name for one in each for name in one)
    return {name: " / ".join(dict.fromkeys(one[name] for one in each if name in one)) for name in names}


def settings(known: RunSignals, rate: float) -> dict[str, str]:
    """What is known of an optimizer; what it has not is left out. rate: as it was logged, NaN where it was not."""
    numbers = {
        "lr": known.lr if math.isnan(rate) else rate,
        "warmup": known.warmup,
        "clip": known.clip,
        "β₁": known.beta1,
        "β₂": known.beta2,
        "ε": known.eps,
        "weight decay": known.weight_decay,
    }
    words = {"optimizer": known.optimizer, "schedule": known.schedule}
    shown = {name: f"{value:.3g}" for name, value in numbers.items() if not math.isnan(value)}
    return {name: word for name, word in words.items() if word} | shown


class Overviews:
    """The lines of all runs; one is read again only when its run has written."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[object, Overview]] = {}

    def lines(self, series: SeriesReader, context: Any, experiment: str) -> list[Overview]:
        """Of every run with data of ours."""
        ours = series.optimizers(context, experiment)
        state = {run: [(o.prefix, o.max_step, o.max_wall_time) for o in optimizers] for run, optimizers in ours.items()}
        stale = [run for run in ours if self._known.get((experiment, run), (None,))[0] != state[run]]
        if stale:
            tags = series.scalar_tags(context, experiment, stale)
            prefixes = {o.prefix for run in stale for o in ours[run]}
            wanted = [tag for prefix in prefixes for tag in (*told_tags(prefix), prefix + CONFIG)]
            likely = {run: likely_losses(tags.get(run, []), ours[run]) for run in stale}
            logged = {tag for candidates in likely.values() for tag in candidates} - {RECORDED_LOSS}
            known = series.bulk(context, experiment, stale, wanted, sorted(logged))
            for run, candidates in likely.items():
                where = (context, experiment, run)
                loss_tag, loss = _first_with_points(series, known, where, candidates)
                configured = [_configured(series, known, where, optimizer) for optimizer in ours[run]]
                data = RunData(tags.get(run, []), loss_tag, loss, configured)
                self._known[experiment, run] = state[run], overview(known, run, ours[run], data)
        now = time.time()
        return [replace(line, state=_state(line, now)) for run in sorted(ours) for line in [self._known[experiment, run][1]]]


def _state(line: Overview, now: float) -> str:
    if line.total is not None and line.steps >= line.total:
        return "finished"
    quiet = max(QUIET_SECONDS, QUIET_SHARE * (line.written - line.began))
    return "running" if now - line.written < quiet else "stopped"

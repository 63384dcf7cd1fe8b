"""The signals that the rules read: as the live monitor recorded them, or built from what a log happens to hold."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_adam.diagnosis import Diagnosis, Finding, HeavySignals, NonFinite, RunSignals, StepSignals, decode
from lightning_adam.diagnosis.finding import as_told
from lightning_adam.diagnosis.signals import UNKNOWN_BATCH
from lightning_adam.doctor.configuration import run_signals
from lightning_adam.doctor.roles import find
from lightning_adam.tensorboard.names import is_vector
from lightning_adam.tensorboard.reader import RECORDS, RunLog, Series, Table

Record = RunSignals | StepSignals


def recorded(run: RunLog, prefix: str) -> list[Record]:
    """What DivergenceMonitor recorded of one optimizer; damaged stretches are left out, with a note.

    A resumed run says at which step it goes on: what an earlier part did from there is left out, too.
    """
    kept: list[Record] = []
    for step, stored in run.texts.get(prefix + RECORDS, ()):
        try:
            stretch = decode(stored)
        except ValueError as error:
            run.damaged = True
            run.notes.append(f"the signals written at step {step} are damaged ({error})")
            continue
        for record in stretch:
            if isinstance(record, RunSignals):
                kept = [known for known in kept if isinstance(known, RunSignals) or known.step < record.first_step]
            kept.append(record)
    return kept


def failed_rules(diagnosis: Diagnosis) -> list[str]:
    """A note for each rule that raised."""
    return [f"the rule {name} could not judge this run ({error})" for name, error in diagnosis.failures.items()]


@dataclass(frozen=True)
class Evidence:
    """What a log without records shows of one optimizer.

    Attributes:
        run: what is known of the run.
        steps: one per logged step, ascending.
        present: which signals there are, by their names in ``judgement.NEEDS``.
        tags: where they were read.
    """

    run: RunSignals
    steps: list[StepSignals]
    present: frozenset[str]
    tags: tuple[str, ...]

    def judged(self, notes: list[str]) -> list[Finding]:
        """The findings of the rules; their clock is the step, however far apart the logged ones are.

        Args:
            notes: get a word for each rule that could not judge.
        """
        diagnosis = Diagnosis(self.run)
        for signals in [*self._beginning(), *self.steps]:
            diagnosis.history.count = signals.step - self.run.first_step
            diagnosis.observe(signals)
        notes += failed_rules(diagnosis)
        return [_without_unknowns(as_told(finding)) for finding in diagnosis.findings]

    def _beginning(self) -> list[StepSignals]:
        """The first step, for advice on the configuration; its rate is 0 where the logged ones rise: a warmup."""
        if not self.steps or self.steps[0].step == self.run.first_step:
            return []
        rates = [signals.lr for signals in self.steps if math.isfinite(signals.lr)]
        rises = bool(rates) and max(rates) > 1.01 * rates[0]
        first = math.nan if not rates else 0.0 if rises else rates[0]
        return [StepSignals(self.run.first_step, lr=first, beta1=self.run.beta1, beta2=self.run.beta2, batch=UNKNOWN_BATCH)]


EARLY = 10
"""Steps in which a missing warmup shows."""


def gather(run: RunLog, prefix: str, optimizers: int = 1) -> Evidence:
    """The signals of every logged step; what was not logged is NaN there."""
    found = {role: find(run, role, prefix) for role in ("loss", "lr", "gradient norm")}
    loss, lr, norm = (_by_step(pair[1]) if pair else {} for pair in found.values())
    tables = {name: table for name in TABLES if (table := run.tables.get(f"{prefix}_matrix/{name}")) is not None}
    heavy = _passes(tables)
    present = {role for role, pair in found.items() if pair} | {TABLES[name].signal for name in tables}
    tags = [pair[0] for pair in found.values() if pair] + [f"{prefix}_matrix/{name}" for name in tables]
    logged = _logged({*loss, *norm, *heavy}, run.notes)
    about = run_signals(run, prefix, _first_step(logged), max(logged, default=0), optimizers)
    present |= {"configuration"} if math.isfinite(about.beta1) else set()
    early = any(step - about.first_step < EARLY and passed.update_ratio_max > 0 for step, passed in heavy.items())
    present |= {"early update ratios"} if early else set()
    rate, steps = math.nan, []
    for step in logged:
        rate = lr.get(step, rate)
        signals = StepSignals(step, UNKNOWN_BATCH, lr=rate, beta1=about.beta1, beta2=about.beta2, heavy=heavy.get(step))
        steps.append(_with_light(signals, loss.get(step), norm.get(step)))
    return Evidence(about, steps, frozenset(present), tuple(tags))


def _with_light(signals: StepSignals, loss: float | None, norm: float | None) -> StepSignals:
    bad = None
    if loss is not None and not math.isfinite(loss):
        bad = NonFinite("loss")
    elif norm is not None and not math.isfinite(norm):
        bad = NonFinite("gradient")
    unknown = math.nan
    return replace(
        signals,
        non_finite=bad,
        loss=unknown if loss is None else loss,
        gradient_norm=unknown if norm is None else norm,
    )


def _logged(steps: set[int], notes: list[str]) -> list[int]:
    """Ascending; what stands before step 0 is no step of the run, such as a test of the untrained model at -1."""
    logged = sorted(step for step in steps if step >= 0)
    if len(logged) < len(steps):
        notes.append(f"{len(steps) - len(logged)} logged step(s) are negative, and are not judged")
    return logged


def _first_step(logged: list[int]) -> int:
    """0, or where a log begins that is the later part of a run: far beyond its own interval."""
    if len(logged) < 2:
        return 0
    interval = int(np.median(np.diff(logged[:20])))
    return 0 if logged[0] < 2 * interval + 10 else logged[0]


def _by_step(series: Series) -> dict[int, float]:
    return dict(zip(series.steps.tolist(), series.values.tolist(), strict=True))


@dataclass(frozen=True)
class _Summing:
    """How a table's row becomes signals of a pass.

    Attributes:
        signal: its name in ``judgement.NEEDS``.
        matrices: only over the weight matrices.
        fields: of HeavySignals.
    """

    signal: str
    matrices: bool
    fields: Callable[[NDArray[np.float64], tuple[str, ...]], dict[str, Any]]


TABLES: dict[str, _Summing] = {
    "update_ratio": _Summing(
        "update ratios",
        True,
        lambda row, names: {
            "update_ratio_p50": float(np.median(row)),
            "update_ratio_max": float(row.max()),
            "update_ratio_max_in": names[int(row.argmax())],
        },
    ),
    "gradient_surprise": _Summing(
        "surprise",
        False,
        lambda row, names: {
            "surprise_max": float(row.max()),
            "surprise_max_in": names[int(row.argmax())],
        },
    ),
    "eps_dominated": _Summing(
        "eps share",
        False,
        lambda row, names: {"eps_share": float(row.mean()), "eps_share_max_in": names[int(row.argmax())]},
    ),
}
"""The tables of OptimizerMonitor that rules can read, summed up as the live monitor does."""


def _passes(tables: dict[str, Table]) -> dict[int, HeavySignals]:
    values: dict[int, dict[str, Any]] = {}
    for name, table in tables.items():
        summing = TABLES[name]
        chosen = [i for i, row in enumerate(table.rows) if not (summing.matrices and is_vector(row))]
        for step, row in zip(table.steps.tolist(), table.values[:, chosen], strict=True):
            known = np.flatnonzero(np.isfinite(row))
            if known.size:
                fields = summing.fields(row[known], tuple(table.rows[chosen[i]] for i in known))
                values.setdefault(step, {}).update(fields)
    return {step: HeavySignals(**fields) for step, fields in values.items()}


def _without_unknowns(finding: Finding) -> Finding:
    """Rules give the batch's index and the rate as evidence; a log may know neither."""
    return replace(finding, evidence={k: v for k, v in finding.evidence.items() if _is_known(k, v)})


def _is_known(name: str, value: float | str) -> bool:
    return not (name == "batch" and value == UNKNOWN_BATCH) and not (
        name != "loss" and isinstance(value, float) and math.isnan(value)
    )

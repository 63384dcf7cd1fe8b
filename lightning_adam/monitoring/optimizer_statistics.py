"""One optimizer's logged steps: its moments, effective learning rates and the steps that it really took."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.errors import say_left_out
from lightning_adam.monitoring.counters import Number, StepCounters, as_scalars, norms
from lightning_adam.monitoring.diagnosed import findings_on
from lightning_adam.monitoring.gradients import total_gradient_norm
from lightning_adam.monitoring.heatmap import Heatmap
from lightning_adam.monitoring.options import StatisticsOptions
from lightning_adam.monitoring.parameters import NamedParameters
from lightning_adam.monitoring.run import Run
from lightning_adam.monitoring.run_signals import betas_of
from lightning_adam.monitoring.selection import as_patterns, matching
from lightning_adam.monitoring.sink import Sink
from lightning_adam.monitoring.thinning import Thinning
from lightning_adam.statistics import (
    Before,
    RepeatedPass,
    Snapshot,
    TensorReading,
    copy_gradients,
    copy_parameters,
    effective_lr_quantiles,
    headline,
    is_sharded,
    read_optimizer,
    step_size_quantiles,
    take_sharded_snapshot,
    take_snapshot,
)

FEW_TENSORS = 32
IN_FULL = 4096
"""Logged steps with histograms and all that is written per tensor (8 to 40 KB each), before they are thinned out."""
OWN_HISTOGRAMS = 512
"""The same of those with histograms of each tensor, half as much again: one looks at few of them."""
HEADLINES = 65536
"""The same of those with the scalars of the model and its groups (about 1 KB each)."""
QUANTILES = (0.01, 0.5, 0.99)


class OptimizerStatistics:
    """Measures one optimizer's steps and hands the logged ones to the sinks.

    Args:
        run: whose optimizer it is.
        position: of the optimizer.
        optimizer: itself, without wrappers.
        prefix: first part of its tags.
        parameters: their names, and which of them are looked at.
        options: what is logged, and how often.
        sinks: where to.
        state: of an earlier part of the run, from :meth:`state_dict`.
    """

    def __init__(
        self,
        run: Run,
        position: int,
        optimizer: Optimizer,
        prefix: str,
        parameters: NamedParameters,
        options: StatisticsOptions,
        sinks: Sink,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.optimizer, self.prefix = optimizer, prefix
        self._run, self._position, self._parameters = run, position, parameters
        self._options, self._sinks = options, sinks
        self._every = options.every_n_steps or run.log_interval
        self._counters, self._heatmap = _restored(state or {})
        self._headlines, self._in_full, self._histograms = _thinnings(state or {})
        if run.loss_scale is not None:
            self._counters.expect_skips()
        self._latest: Snapshot | None = None
        self._before: Before | None = None
        self._repeated: RepeatedPass | None = None
        self._norm: Number | None = math.nan
        self._told_before: Tensor | None = None
        self._has_told_what_is_missing, self._has_written = False, False
        self._reads = False

    def before_clipping(self) -> None:
        """Gradients are complete and not yet clipped: on a step to be logged, take what is gone after it."""
        if not self._is_read():
            return
        told = self._run.norms_of_clipping(self.optimizer)
        self._told_before = None if told is None else told.total
        self._norm = self._measured_norm() if told is None else None
        if self._before is not None and not hasattr(self.optimizer, "adam_rule"):  # in 32 bit there were no gradients yet
            self._before = copy_gradients(self.optimizer, self._before, self._parameters.chosen)

    def before_step(self) -> None:
        """Right before the step: copies, where the state does not tell it."""
        self._reads = self._is_read()
        if self._reads:
            self._before = copy_parameters(self.optimizer, self._parameters.chosen)

    def after_step(self) -> None:
        """Count what clipping did, and read the step if it is to be logged."""
        self._counters.after_step(self.optimizer)
        if self._repeated is not None:
            self._repeated.calls += 1
        if self._reads:
            self._reads = False
            self._read()

    def skipped(self) -> None:
        """The gradient scaler left the step out."""
        self._counters.add_skips(1)
        if self._is_logged() and self._run.is_main:
            self._write_totals()

    def end(self) -> None:
        """The run is over: the last pictures."""
        self._repeated = self._before = None
        if not self._has_written and self._run.is_main:
            self._write_totals()
        self._draw()

    def state_dict(self) -> dict[str, Any]:
        """The counters and the heatmap, as plain types and tensors."""
        clipped, skipped = self._counters.clipped, self._counters.skipped
        counted = {name: int(n) for name, n in (("clipped", clipped), ("skipped", skipped)) if n is not None}
        return {**counted, "logged": self._in_full.seen, "heatmap": self._heatmap.state_dict()}

    def _write_totals(self) -> None:
        """The counters without a logged step: of a step that was skipped, or of a run that has taken none."""
        totals = {tag: float(total) for tag, total in self._counters.totals(self.prefix).items()}
        if totals:
            self._sinks.scalars(self._run.step(self._position), totals)

    def _is_logged(self) -> bool:
        return self._every > 0 and (self._run.step(self._position) + 1) % self._every == 0

    def _is_read(self) -> bool:
        """On a step to be logged the main rank reads, and under sharding every rank its own shards."""
        return self._is_logged() and (self._run.is_main or self._is_cut())

    def _is_cut(self) -> bool:
        return bool(self._parameters.shards) or is_sharded(self.optimizer)

    def _read(self) -> None:
        before, self._before = self._before, None
        repeated, self._repeated = self._repeated, None
        step, extra = self._run.step(self._position), self._extra_scalars()
        snapshot = repeated.snapshot(step, extra) if repeated is not None and before is None else None
        if snapshot is None:
            snapshot = self._read_anew(step, before, extra)
        else:
            self._repeated = repeated
        if snapshot is not None and self._run.is_main:
            self._write(snapshot)

    def _extra_scalars(self) -> dict[str, Number]:
        """What goes to the host with the table, so that a logged step waits for the device once."""
        return {**norms(self.prefix, self.optimizer, self._gradient_norm()), **self._counters.totals(self.prefix)}

    def _gradient_norm(self) -> Number:
        """Before clipping: as clipping told in this step, or else as it was measured beside it."""
        told = self._run.norms_of_clipping(self.optimizer)
        if told is not None and told.total is not self._told_before:
            return told.total
        return self._measured_norm() if self._norm is None else self._norm

    def _measured_norm(self) -> Number:
        norm = total_gradient_norm(self.optimizer, flat_shards=bool(self._parameters.shards))
        return norm / self._run.gradient_scale(self.optimizer)

    def _read_anew(self, step: int, before: Before | None, extra: Mapping[str, Number]) -> Snapshot | None:
        """The first time, and whenever something has changed since the last logged step."""
        names, chosen, shards = self._parameters.names, self._parameters.chosen, self._parameters.shards
        readings = read_optimizer(self.optimizer, names, before, chosen, shards)
        if not readings:
            return None
        if self._is_cut():
            snapshot = take_sharded_snapshot(step, readings, extra)
        else:
            snapshot = take_snapshot(step, readings, extra)
            self._repeated = RepeatedPass.of(self.optimizer, names, readings, chosen)
        self._tell_what_is_missing(readings)
        return snapshot

    def _tell_what_is_missing(self, readings: Sequence[TensorReading]) -> None:
        if self._has_told_what_is_missing:
            return
        self._has_told_what_is_missing = True
        kind = getattr(self.optimizer, "adam_kind", type(self.optimizer))
        first = any(r.moments is not None and r.moments.stored_first is not None for r in readings)
        second = any(r.moments is not None and r.moments.stored_second is not None for r in readings)
        missing = [name for name, there in (("first moment m", first), ("second moment v", second)) if not there]
        if missing:
            self._run.tell(
                f"OptimizerMonitor: {kind.__name__} keeps no {' and no '.join(missing)} that lightning-adam can read; what "
                "needs it is NaN. Step sizes, update ratios and gradient norms are measured all the same."
            )

    def _write(self, snapshot: Snapshot) -> None:
        scalars = {f"{self.prefix}/{name}": value for name, value in headline(snapshot).items()}
        scalars |= as_scalars(snapshot.extra_scalars) | _quantiles(self.prefix, snapshot)
        for group in snapshot.lr if self._options.granularity != "model" else ():
            values = headline(snapshot, group).items()
            scalars |= {f"{self.prefix}.groups/{name}/{group}": value for name, value in values}
        each = self._options.granularity == "parameter"
        self._has_written, is_headline, in_full = True, self._headlines.take(), self._in_full.take()
        if not self._histograms.take():
            snapshot = replace(snapshot, histograms=snapshot.histograms[:0])
        if in_full:
            self._sinks.snapshot(self.prefix, scalars, snapshot, self._own_scalars(snapshot), matrix=each)
        elif is_headline:
            self._sinks.scalars(snapshot.step, scalars)
        if each:
            self._remember(snapshot)

    def _remember(self, snapshot: Snapshot) -> None:
        self._heatmap.beta1 = betas_of(self.optimizer)[0]
        self._heatmap.add(snapshot)
        self._latest = snapshot
        if self._heatmap.is_due():
            self._draw()

    def _own_scalars(self, snapshot: Snapshot) -> list[int]:
        """Rows whose quantities are written as scalars too."""
        if self._options.granularity != "parameter":
            return []
        if (patterns := as_patterns("tensors", self._options.tensors)) is not None:
            chosen = matching("tensors", patterns, self._parameters.names.values())
            return [i for i, name in enumerate(snapshot.names) if name in chosen]
        return list(range(len(snapshot.names))) if len(snapshot.names) <= FEW_TENSORS else []

    def _draw(self) -> None:
        if self._heatmap.steps:
            self._heatmap.findings = findings_on(self.optimizer)
            self._sinks.heatmap(self.prefix, self._heatmap)
            if self._options.top and self._latest is not None:
                self._sinks.standouts(self.prefix, self._latest, self._options.top)


def _restored(state: Mapping[str, Any]) -> tuple[StepCounters, Heatmap]:
    heatmap = Heatmap.restore(state["heatmap"]) if "heatmap" in state else Heatmap()
    counted = {name: state[name] for name in ("clipped", "skipped") if type(state.get(name)) is int}
    say_left_out("counters", [name for name in ("clipped", "skipped") if name in state and name not in counted])
    return StepCounters(**counted), heatmap


def _thinnings(state: Mapping[str, Any]) -> tuple[Thinning, ...]:
    """Of the headlines, of what is written in full, and of the tensors' own histograms."""
    logged = state.get("logged", 0)
    is_count = type(logged) is int and logged >= 0
    say_left_out("statistics", [] if is_count else ["logged"])
    return tuple(Thinning(whole, logged if is_count else 0) for whole in (HEADLINES, IN_FULL, OWN_HISTOGRAMS))


def _quantiles(prefix: str, snapshot: Snapshot) -> dict[str, float]:
    """p01, p50 and p99 over all elements of the model, for the margin charts."""
    pooled = {
        "log10_step_size": step_size_quantiles(snapshot, QUANTILES),
        "log10_effective_lr": effective_lr_quantiles(snapshot, QUANTILES),
    }
    return {
        f"{prefix}.dist/{name}_p{round(q * 100):02d}": value
        for name, values in pooled.items()
        for q, value in zip(QUANTILES, values, strict=True)
    }

"""One optimizer's diagnosis: every step's signals into the rules, and what they say into the log."""

from __future__ import annotations

import json
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch.optim import Optimizer

from lightning_adam.diagnosis import Diagnosis, Finding, FirstStepSignals, RunSignals, StepSignals, encode
from lightning_adam.diagnosis.finding import as_told
from lightning_adam.monitoring.diagnosed import diagnosed_by
from lightning_adam.monitoring.guard import LOG, Guard
from lightning_adam.monitoring.options import DivergenceOptions
from lightning_adam.monitoring.parameters import NamedParameters
from lightning_adam.monitoring.run import Run
from lightning_adam.monitoring.run_signals import held_by
from lightning_adam.monitoring.signal_reader import SignalReader
from lightning_adam.monitoring.sink import Sink
from lightning_adam.monitoring.target_network import TargetNetwork

REMEMBERED_STEPS = 200
"""Steps whose signals are written to a file when something critical happens."""
MOST_FILES = 10
"""Such files that one run writes: they have 100 kB or more."""
STORED_EVERY = 100
"""Steps whose signals go into one event."""

Record = RunSignals | StepSignals


class OptimizerDiagnosis:
    """Reads one optimizer's steps into signals, asks the rules, and hands on what they find.

    Args:
        run: whose optimizer it is.
        position: of the optimizer.
        optimizer: itself, without wrappers.
        prefix: first part of its tags.
        parameters: their names.
        options: of the monitor.
        sinks: where findings and signals go.
        guard: that catches what autograd's hooks raise, and tells what rules do.
        state: of an earlier part of the run, from :meth:`state_dict`.
        on_record: is handed each record as the rules see it.

    Attributes:
        diagnosis: the rules' memory and their findings.
        reader: that makes signals of steps.
        fresh: findings that nobody has acted on yet; who does takes them away.
        actions_taken: what was done about findings, told as findings.
    """

    def __init__(
        self,
        run: Run,
        position: int,
        optimizer: Optimizer,
        prefix: str,
        parameters: NamedParameters,
        options: DivergenceOptions,
        sinks: Sink,
        guard: Guard,
        state: Mapping[str, Any] | None = None,
        on_record: Callable[[int, Record], None] | None = None,
    ) -> None:
        self.diagnosis, self.fresh = Diagnosis(), list[Finding]()
        self.actions_taken: list[Finding] = []
        if state:
            self.diagnosis.load_state_dict(state)
        diagnosed_by(optimizer, self.diagnosis)
        is_asked = options.on_divergence != "warn"  # actions look at what is remembered in every step
        self.reader = SignalReader(
            run, position, optimizer, parameters, options.every_n_steps, self.diagnosis, self._take_in, guard, not is_asked
        )
        self._run, self._position, self._prefix, self._sinks, self._on_record = run, position, prefix, sinks, on_record
        self._guard, self._files_left = guard, MOST_FILES
        self._ignore = tuple(options.ignore)
        self.first = FirstStepSignals()
        self._validation_loss = math.nan
        self._target = TargetNetwork(run.module, held_by(run.optimizers))
        self._unstored: list[Record] = []
        self._last_steps: deque[StepSignals] = deque(maxlen=REMEMBERED_STEPS)

    @property
    def findings(self) -> list[Finding]:
        """All so far; with the optimizer's prefix where there are several."""
        return [self._with_prefix(finding) for finding in self.diagnosis.findings]

    def state_dict(self) -> dict[str, Any]:
        """Of the diagnosis, after all steps that were taken."""
        self.reader.catch_up()
        return self.diagnosis.state_dict()

    def by_the_clock_of_first(self, findings: Sequence[Finding]) -> Sequence[Finding]:
        """With the steps of the run's first optimizer, by which actions count: in a plain loop each has its own."""
        ahead = self._run.step(0) - self._run.step(self._position)
        return [replace(f, step=f.step + ahead, last_step=f.last_step + ahead) for f in findings] if ahead else findings

    def validated(self, loss: float) -> None:
        """Validation is over: the rules know of it from the next step on."""
        self.reader.catch_up()
        self._validation_loss = loss

    def went_back(self, steps: int) -> None:
        """An action has restored weights and moments of so many steps before; the next record says so: a replay finds the
        same."""
        self.diagnosis.went_back(steps)
        self.reader.begin_again()

    def end(self) -> None:
        """The run is over: write what is left, and let go of the optimizer."""
        self.reader.detach()
        self._target.detach()
        self._store()
        last = self._last_steps[-1].step if self._last_steps else 0
        self._sinks.findings(self._prefix, last, (), [*self.findings, *self.actions_taken])

    def tell_action(self, finding: Finding) -> None:
        """What an action did, as a finding."""
        self.actions_taken.append(finding)
        if self._run.is_main:
            LOG.warning("%s", finding.line())
        self._sinks.findings(self._prefix, finding.step, [finding], [*self.findings, *self.actions_taken])

    def _of_first_step(self, record: RunSignals) -> dict[str, Any]:
        first = self.first
        return {
            "facts": first.facts,
            "dropout": max(record.dropout, first.dropout),
            "one_class": first.one_class,
            "constants": first.constants,
        }

    def _with_prefix(self, finding: Finding) -> Finding:
        told = as_told(finding)
        return told if len(self._run.optimizers) == 1 else replace(told, optimizer=self._prefix)

    def _with_news(self, record: StepSignals) -> StepSignals:
        """With what has come since the record before: validation's loss, and whether a target network moves."""
        if not math.isnan(self._validation_loss):
            record = replace(record, validation_loss=self._validation_loss)
            self._validation_loss = math.nan
        if record.heavy is not None and self._target.has_moved():
            record = replace(record, target_moves=True)
        return record

    def _take_in(self, record: Record) -> None:
        """One record: into the diagnosis, the log, and the memory of the last steps."""
        if isinstance(record, RunSignals):
            record = replace(record, ignore=self._ignore, **self._of_first_step(record))
            if self._last_steps:  # after an action: the run did not begin here, and its state may be that of its beginning
                record = replace(record, first_step=self.diagnosis.run.first_step)
        else:
            record = self._with_news(record)
        if self._on_record is not None:
            self._on_record(self._position, record)
        self._unstored.append(record)
        if isinstance(record, RunSignals):
            self.diagnosis.run = record
            return
        self._last_steps.append(record)
        fresh = [self._with_prefix(finding) for finding in self.diagnosis.observe(record)]
        for rule, reason in self.diagnosis.failures.items():
            self._guard.tell(f"the rule {rule} of {self._prefix}", reason)
        self.fresh += fresh
        every = self._run.log_interval
        if fresh or len(self._unstored) >= STORED_EVERY or (every > 0 and (record.step + 1) % every == 0):
            self._report(record.step, fresh)

    def _report(self, step: int, fresh: list[Finding]) -> None:
        for finding in fresh if self._run.is_main else ():
            LOG.log(logging.INFO if finding.severity == "info" else logging.WARNING, "%s", finding.line())
        critical = any(finding.severity == "critical" for finding in fresh)
        every = self._run.log_interval
        if fresh or (every > 0 and (step + 1) % every == 0):
            self._sinks.scalars(step, {f"{self._prefix}/findings_total": float(len(self.diagnosis.findings))})
        if fresh:
            self._sinks.findings(self._prefix, step, fresh, [*self.findings, *self.actions_taken])
        if critical or len(self._unstored) >= STORED_EVERY:
            self._store()
        if critical and self._files_left:
            self._files_left -= 1
            steps = json.dumps([asdict(signals) for signals in self._last_steps])
            self._sinks.file(f"{self._prefix}_last_steps_{step}.json", steps)

    def _store(self) -> None:
        records, self._unstored = self._unstored, []
        step = next((r.step for r in reversed(records) if isinstance(r, StepSignals)), 0)
        if records and self._sinks.keeps_records:
            self._sinks.records(self._prefix, step, encode(records))

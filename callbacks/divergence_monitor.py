"""Watches every optimizer step, and says what is wrong while there is still something to save."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from lightning_adam.callbacks._actions import ACTIONS, SEVERITIES, Actions, DivergenceError, check_choice, scale_rates
from lightning_adam.callbacks._lightning import (
    LOG,
    StepHooks,
    log_elsewhere,
    log_interval,
    never_raises,
    parameter_names,
    prefixes,
    scale_on_device,
    tensorboard_writers,
)
from lightning_adam.callbacks._watch import OptimizerWatch
from lightning_adam.diagnosis import Diagnosis, Finding, RunSignals, StepSignals, encode, findings_table
from lightning_adam.errors import ConfigError

KEPT_STEPS = 200
"""Steps whose signals are written to a file when something critical happens."""
STORED_EVERY = 100
"""Steps whose signals go into one event."""


class DivergenceMonitor(Callback):
    """Names what makes a run diverge, with the evidence and what to change; once per sickness.

    Looks at loss, gradient norm, clipping and finiteness at every step, and at all tensors (update ratios, moments against
    their bounds, zeros, rounding, …) on each of the first ten, on every 20th, and when a gradient stands out. Findings go to
    the console, to TensorBoard's text tab (``adam/findings``), to ``adam/findings_total`` and ``adam_events``; the signals
    themselves to ``adam_signals``, from which ``lightning-adam doctor`` repeats the diagnosis; and the last 200 steps to a
    file in the log folder when something critical happens. It changes nothing, unless asked to:

    Args:
        on_divergence: ``warn`` only tells. ``stop`` ends the run on a critical finding, with a checkpoint saved.
            ``skip_step`` leaves out steps whose gradient is not finite or 100 times the usual one. ``rollback`` goes back to
            the last good weights and moments on a critical finding (it keeps two copies), and lowers the learning rate to
            30 %. ``reduce_lr`` only lowers it, on a warning already. Each is told as a finding, and the same on all ranks.
        max_actions: at most so many of them.
        raise_on: raise :class:`DivergenceError` on a finding of this severity or a graver one: for tests and CI.
        trial: an Optuna trial: a critical finding raises ``optuna.TrialPruned``.
        every_n_steps: steps between two passes over all tensors.
        logits: globs of module names whose largest |output| is watched (attention scores, the head).

    Attributes:
        findings: all findings so far (:class:`lightning_adam.Finding`), in order.

    Raises:
        ConfigError: an argument is not allowed; the message has the nearest right spelling.
    """

    def __init__(
        self,
        on_divergence: str = "warn",
        *,
        max_actions: int = 3,
        raise_on: str | None = None,
        trial: Any = None,
        every_n_steps: int = 20,
        logits: Sequence[str] = (),
    ) -> None:
        check_choice("on_divergence", on_divergence, ACTIONS)
        if raise_on is not None:
            check_choice("raise_on", raise_on, SEVERITIES)
        _check_count("max_actions", max_actions)
        _check_count("every_n_steps", every_n_steps)
        if isinstance(logits, str):
            raise ConfigError(f"logits={logits!r}: give a list of globs, such as logits=[{logits!r}].")
        self.raise_on, self.trial, self.every_n_steps, self.logits = raise_on, trial, every_n_steps, tuple(logits)
        self._actions = Actions(on_divergence, max_actions)
        self._done: list[Finding] = []
        self._hooks = StepHooks()
        self._prefixes: list[str] = []
        self._diagnoses: list[Diagnosis] = []
        self._watches: list[OptimizerWatch] = []
        self._restored: dict[str, Any] = {}
        self._losses: list[Tensor] = []
        self._fresh: list[Finding] = []
        self._handles: list[RemovableHandle] = []
        self._logit: Tensor | None = None
        self._batch: Any = None
        self._batch_index = 0

    @property
    def findings(self) -> list[Finding]:
        """All findings so far, in order."""
        found = [f for index in range(len(self._diagnoses)) for f in self._findings_of(index)]
        if self._restored and not found:
            found = [Finding.from_dict(f) for stored in self._restored["diagnoses"] for f in stored["findings"]]
        return sorted([*found, *self._done], key=lambda finding: finding.step)

    def summary(self) -> str:
        """All findings as a Markdown table."""
        return findings_table(self.findings)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The optimizers exist and hold their restored state: listen to them."""
        self._trainer = trainer
        self._prefixes = prefixes(trainer.optimizers)
        self._diagnoses = [Diagnosis() for _ in trainer.optimizers]
        self._done, self._fresh, self._losses = [], [], []
        self._take_up()
        names = parameter_names(pl_module, trainer.optimizers)
        self._records: list[list[RunSignals | StepSignals]] = [[] for _ in trainer.optimizers]
        self._last: list[deque[StepSignals]] = [deque(maxlen=KEPT_STEPS) for _ in trainer.optimizers]
        self._watches = [
            OptimizerWatch(trainer, pl_module, i, names, self.every_n_steps, self._diagnoses[i], self._teller(i))
            for i in range(len(trainer.optimizers))
        ]
        self._hooks.attach(trainer.optimizers, self._after_step)
        watched = [m for name, m in pl_module.named_modules() if any(fnmatch(name, glob) for glob in self.logits)]
        self._handles = [module.register_forward_hook(self._see_logits) for module in watched]

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember which batch this is: a finding names it."""
        self._batch, self._batch_index = batch, batch_idx

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """The loss, before anything that it may spoil; fp16 has scaled it, accumulation has divided it."""
        parts = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
        self._losses.append(loss.detach() * parts / scale_on_device(trainer))

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Gradients are complete, unscaled and not yet clipped."""
        self._look_before(optimizer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The batch is over: take in a step that the GradScaler left out, and act on what was found."""
        self._after_skips()
        self._batch = None
        fresh, self._fresh = self._fresh, []
        self._act(trainer, pl_module, fresh)
        self._raise(fresh)

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run is over: write what is left, and let go of the optimizers."""
        self._end()
        self._raise(self._fresh)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The run broke; Lightning calls nothing else then."""
        self._end()

    @override
    def state_dict(self) -> dict[str, Any]:
        """Plain types: Lightning loads checkpoints with ``weights_only=True``."""
        return {
            "diagnoses": [diagnosis.state_dict() for diagnosis in self._diagnoses],
            "done": [finding.to_dict() for finding in self._done],
            "taken": self._actions.taken,
            "factor": self._actions.factor,
            "last_action": self._actions.last,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning restores callbacks before the optimizers exist: taken up in ``on_train_start``."""
        self._restored = dict(state_dict)

    def _take_up(self) -> None:
        restored, self._restored = self._restored, {}
        if not restored:
            return
        for diagnosis, stored in zip(self._diagnoses, restored["diagnoses"], strict=False):
            diagnosis.load_state_dict(stored)
        self._done = [Finding.from_dict(stored) for stored in restored["done"]]
        self._actions.taken, self._actions.factor = restored["taken"], restored["factor"]
        self._actions.last = restored["last_action"]
        if self._actions.factor != 1.0 and any(hasattr(o, "adam_schedule") for o in self._trainer.optimizers):
            scale_rates(self._trainer, self._actions.factor)  # the helper's schedule follows its configuration on a resume

    def _findings_of(self, index: int) -> list[Finding]:
        """With the optimizer's prefix, where there are several."""
        findings = self._diagnoses[index].findings
        if len(self._diagnoses) == 1 or index >= len(self._prefixes):
            return findings
        return [replace(finding, optimizer=self._prefixes[index]) for finding in findings]

    def _see_logits(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and module.training:
            largest = output.detach().abs().amax()
            self._logit = largest if self._logit is None else torch.maximum(self._logit, largest)

    @never_raises
    def _look_before(self, optimizer: Optimizer) -> None:
        watch = next(w for w in self._watches if w.optimizer is optimizer)
        watch.before_step(self._losses)
        if self._actions.vetoes(self._trainer, watch):
            norm, watch.vetoed = watch.gradient_norm(), True
            self._actions.leave_out(optimizer)
            self._tell_action(
                "NON-FINITE" if norm - norm else "BAD-BATCH", f"left out a step whose gradient norm is {norm:.3g}"
            )

    @never_raises
    def _after_step(self, index: int, optimizer: Optimizer) -> None:
        self._watches[index].after_step(self._losses, self._batch, self._batch_index, self._logit)
        self._losses, self._logit = [], None

    @never_raises
    def _after_skips(self) -> None:
        for watch in self._watches:
            if watch.attempted:
                watch.after_skip(self._losses, self._batch_index, self._logit)
                self._losses, self._logit = [], None

    def _teller(self, index: int) -> Any:
        return lambda record: self._take_in(index, record)

    def _take_in(self, index: int, record: RunSignals | StepSignals) -> None:
        """One record: into the diagnosis, the log, and the memory of the last steps."""
        self._records[index].append(record)
        if isinstance(record, RunSignals):
            self._diagnoses[index].run = record
            return
        self._last[index].append(record)
        known = len(self._diagnoses[index].findings)
        fresh = self._diagnoses[index].observe(record)
        if len(self._diagnoses) > 1:
            fresh = [replace(finding, optimizer=self._prefixes[index]) for finding in fresh]
        self._report(index, record.step, fresh, known)

    def _report(self, index: int, step: int, fresh: list[Finding], known: int) -> None:
        self._fresh += fresh
        for finding in fresh if self._trainer.is_global_zero else ():
            LOG.log(20 if finding.severity == "info" else 30, "%s", finding.line())
        critical = any(finding.severity == "critical" for finding in fresh)
        every = log_interval(self._trainer)
        if fresh or (every > 0 and (step + 1) % every == 0):
            self._write(index, step, fresh)
        if critical or len(self._records[index]) >= STORED_EVERY:
            self._store(index)
        if critical:
            self._keep_last_steps(index, step)

    def _write(self, index: int, step: int, fresh: Sequence[Finding]) -> None:
        prefix, findings = self._prefixes[index], self._findings_of(index)
        total = {f"{prefix}/findings_total": float(len(findings))}
        for writer in tensorboard_writers(self._trainer, prefix):
            writer.write_scalars(step, total)
            if fresh:
                writer.write_text(f"{prefix}/findings", findings_table(findings), step)
                writer.write_events(step, [finding.to_dict() for finding in fresh])
        log_elsewhere(self._trainer, total, step)

    def _store(self, index: int) -> None:
        records, self._records[index] = self._records[index], []
        step = next((r.step for r in reversed(records) if isinstance(r, StepSignals)), 0)
        for writer in tensorboard_writers(self._trainer, self._prefixes[index]) if records else ():
            writer.write_signals(step, encode(records))

    def _keep_last_steps(self, index: int, step: int) -> None:
        # not ``trainer.log_dir``: that broadcasts, and other ranks may have found something else
        folders = [folder for logger in self._trainer.loggers if (folder := getattr(logger, "log_dir", None))]
        if not folders or not self._trainer.is_global_zero:
            return
        folder = Path(folders[0])
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self._prefixes[index]}_last_steps_{step}.json"
        path.write_text(json.dumps([asdict(signals) for signals in self._last[index]]))

    @never_raises
    def _act(self, trainer: Trainer, module: LightningModule, fresh: Sequence[Finding]) -> None:
        lasting = [f for d in self._diagnoses for f in d.findings if not f.over]
        done = self._actions.answer(trainer, module, fresh, lasting)
        if done:
            found = [*lasting, *fresh]
            self._tell_action(
                found[-1].rule if found else "LOSS-DIVERGED", done if found else f"{done} (another rank's finding)"
            )
            for diagnosis in self._diagnoses:
                diagnosis.history.non_finite = False
        open_ = any(not f.over and f.severity == "critical" for d in self._diagnoses for f in d.findings)
        self._actions.keep(trainer, module, healthy=not done and not open_)

    def _tell_action(self, rule: str, what: str) -> None:
        step = self._trainer.global_step
        left = self._actions.most - self._actions.taken
        evidence: dict[str, float | str] = {"action": self._actions.kind, "actions_left": float(left)}
        finding = Finding(rule, "info", step, f"{self._actions.kind}: {what}.", evidence)
        self._done.append(finding)
        if self._trainer.is_global_zero:
            LOG.warning("%s", finding.line())
        for writer in tensorboard_writers(self._trainer, self._prefixes[0]):
            writer.write_events(step, [finding.to_dict()])

    def _raise(self, fresh: Sequence[Finding]) -> None:
        """What the user asked to be told by an exception; after everything is written."""
        if self.trial is not None and any(finding.severity == "critical" for finding in fresh):
            import optuna

            raise optuna.TrialPruned(fresh[-1].line())
        grave = [f for f in fresh if self.raise_on and SEVERITIES.index(f.severity) >= SEVERITIES.index(self.raise_on)]
        if grave:
            raise DivergenceError(grave[0].line())

    @never_raises
    def _end(self) -> None:
        self._hooks.detach()
        for handle in self._handles:
            handle.remove()
        for index, watch in enumerate(self._watches):
            watch.detach()
            self._store(index)
            last = self._last[index][-1].step if self._last[index] else 0
            if self._findings_of(index):
                self._write_end(index, last)
        if self._watches and self._trainer.is_global_zero and self.findings:
            Console(stderr=True).print(_summary_table(self.findings))
        self._watches, self._handles = [], []

    def _write_end(self, index: int, step: int) -> None:
        """The last steps of findings, and which are over, are known now."""
        for writer in tensorboard_writers(self._trainer, self._prefixes[index]):
            writer.write_text(f"{self._prefixes[index]}/findings", findings_table(self._findings_of(index)), step)


def _summary_table(findings: Sequence[Finding]) -> Table:
    colours = {"info": "dim", "warning": "yellow", "critical": "bold red"}
    table = Table("steps", "rule", "what", "what to do", title="What DivergenceMonitor found", title_justify="left")
    for f in findings:
        span = f"{f.step}" if f.last_step == f.step else f"{f.step}–{f.last_step}"
        whose = f"\n{f.optimizer}" if f.optimizer else ""
        table.add_row(span, f"{f.rule}{whose}", f.message, f.remedy, style=colours[f.severity])
    return table


def _check_count(argument: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{argument}={value!r}: give a positive whole number.")

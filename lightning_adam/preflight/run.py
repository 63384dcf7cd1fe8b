"""Everything in order, within the budget, and everything set back afterwards."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer

from lightning_adam.diagnosis import Finding
from lightning_adam.errors import ConfigError
from lightning_adam.preflight import (
    additivity,
    behaviour,
    behaviour_checks,
    data,
    data_checks,
    detached_checks,
    frozen_checks,
    gradients,
    loss_checks,
    made_labels,
    output_checks,
    padded_values,
    plan,
    probability_checks,
    sign_checks,
    structure_checks,
    trial,
    trial_checks,
    unseen,
)
from lightning_adam.preflight.alone import alone
from lightning_adam.preflight.batches import read, train_loader
from lightning_adam.preflight.causes import without_symptoms
from lightning_adam.preflight.facts import Check, Facts
from lightning_adam.preflight.guard import untouched
from lightning_adam.preflight.placing import place
from lightning_adam.preflight.plain import Loss, as_trained, refuse, refuse_no_trainer
from lightning_adam.preflight.progress import Display, display
from lightning_adam.preflight.report import PreflightReport
from lightning_adam.preflight.step import observe
from lightning_adam.preflight.task import OutOfTimeError, Task, silenced, stand_in, unwrapped
from lightning_adam.quiet import without_warnings

CHECKS: tuple[Check, ...] = (
    *data_checks.CHECKS,
    *padded_values.CHECKS,
    *made_labels.CHECKS,
    *loss_checks.CHECKS,
    *probability_checks.CHECKS,
    *sign_checks.CHECKS,
    *output_checks.CHECKS,
    *additivity.CHECKS,
    *structure_checks.CHECKS,
    *frozen_checks.CHECKS,
    *detached_checks.CHECKS,
    *behaviour_checks.CHECKS,
    *plan.CHECKS,
    *trial_checks.CHECKS,
)
RATES = ("LR-HIGH", "NO-WARMUP", "LR-LOW", "PROBE-DIVERGES")
"""What a run at the planned rate tells."""
BEGINNINGS = ("on_fit_start", "on_train_start", "on_train_epoch_start")
BATCH_BEGINS = "on_train_batch_start"
"""Hooks in which a module may still set modes; called only where no trainer will."""


def preflight(
    module: Any,
    data: Any,
    *,
    trainer: Any = None,
    budget: float = 60,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
) -> PreflightReport:
    """Say what is wrong with a run before it starts.

    One training step is looked at closely, then gradients, interventions on the input, and some short runs. Afterwards
    weights, buffers, gradients, modes, optimizers, schedulers and all random states are bit by bit as before. On a
    terminal or in a notebook a line shows what is done.

    Args:
        module: a LightningModule; of its parts only ``training_step`` must be there. Or an ``nn.Module``, with ``loss``.
        data: a DataLoader, another iterable of batches, several of them in a dict, or a datamodule.
        trainer: whose settings hold: length of the run, accumulation, clipping, device, precision.
        budget: seconds; what does not fit is said not to be judged.
        loss: of an ``nn.Module``: a function of (output, target) for batches that are pairs, whose last entry is the
            target; of (output, batch) for batches that are dicts.
        optimizer: of an ``nn.Module``; without it nothing is said of the rate.

    Returns:
        The findings, and what could not be judged.

    Raises:
        ConfigError: the module has neither training step nor loss, or both; the data have no batch; or the budget is not
            positive.

    Example:
        >>> report = preflight(LitModel(), loader)  # doctest: +SKIP
        >>> print(report)  # doctest: +SKIP
    """
    refuse(module, loss, optimizer)
    refuse_no_trainer(trainer)
    if not isinstance(budget, (int, float)) or isinstance(budget, bool) or not budget > 0:
        raise ConfigError(f"budget={budget!r}: give seconds, more than 0.")
    begun = time.monotonic()
    attached = getattr(module, "_trainer", None)
    known = trainer if trainer is not None else attached
    with ExitStack() as stack:
        bar = stack.enter_context(display(budget))
        for context in (alone(), untouched(module, data, known, optimizer), quietly(), as_trained(module, loss, optimizer)):
            stack.enter_context(context)
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        reading = read(train_loader(data), budget / 5)
        running = attached is not None and bool(getattr(attached, "optimizers", None))
        task = Task(module, reading, attached if running else stand_in(known, reading))
        facts = Facts(task)
        stack.enter_context(silenced(task))
        _begin(facts, None if running else known, is_setup=module is data)
        _measure(facts, begun + budget, bar)
        findings = _judge(facts)
    gaps, seconds = _gaps(facts, {f.rule for f in findings}), time.monotonic() - begun
    raised = facts.missing.get("gradients", "") if facts.step.error is not None else ""
    return PreflightReport(tuple(findings), gaps, seconds, len(reading.batches), raised)


@contextmanager
def quietly() -> Iterator[None]:
    """Warnings and Lightning's advice on what is only tried belong to nobody."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    with without_warnings(), torch.enable_grad():
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _begin(facts: Facts, planned: Any, is_setup: bool) -> None:
    """Optimizers and schedulers: the trainer's, or made anew where none is running."""
    task = facts.task
    if getattr(task.trainer, "optimizers", None):
        task.optimizers = list(task.trainer.optimizers)
        configs = getattr(task.trainer, "lr_scheduler_configs", [])
        task.schedulers = [{"scheduler": c.scheduler, "interval": c.interval, "frequency": c.frequency} for c in configs]
        return
    _prepare(facts, planned, is_setup)
    try:
        task.optimizers, task.schedulers = unwrapped(task.module.configure_optimizers())
    except Exception as error:
        facts.missing["optimizers"] = f"configure_optimizers raised {type(error).__name__}: {_short(error)}"
    for hook in BEGINNINGS:
        _attempt(facts, hook, getattr(task.module, hook, lambda: None))
    _attempt(facts, BATCH_BEGINS, lambda: getattr(task.module, BATCH_BEGINS, _nothing)(task.placed(task.usable()[0]), 0))


def _prepare(facts: Facts, planned: Any, is_setup: bool) -> None:
    """What Lightning does before it asks for optimizers: layers are made, moved, and seen by a first batch if lazy."""
    task = facts.task
    if not is_setup:  # reading a module's own data has done it
        _attempt(facts, "setup", partial(getattr(task.module, "setup", _nothing), "fit"))
    _attempt(facts, "configure_model", getattr(task.module, "configure_model", _nothing))
    if planned is not None:
        _attempt(facts, "placing", partial(place, task.module, planned))
    if any(isinstance(p, torch.nn.parameter.UninitializedParameter) for p in task.module.parameters()):
        _attempt(facts, "lazy", lambda: task.loss(task.reading.batches[0]))


def _nothing(*_: Any) -> None:
    return None


def _attempt(facts: Facts, part: str, measure: Callable[[], Any]) -> Any:
    """What it measures, entered under its name; or None, and the reason."""
    try:
        facts.measured[part] = measure()
        return facts.measured[part]
    except OutOfTimeError as error:
        facts.missing[part] = str(error)
        return None
    except Exception as error:  # the user's code may raise anything
        facts.missing[part] = f"{type(error).__name__}: {_short(error)}"
        return None


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:100] if lines else "no message"


def _measure(facts: Facts, deadline: float, bar: Display) -> None:
    """From the cheap to the dear; each may use a share of what is left."""
    task = facts.task
    bar.say("step")
    batch = task.usable()[0]
    step = facts.measured["step"] = observe(task, batch)
    task.deadline = deadline
    if not task.optimizers:
        facts.missing.setdefault("optimizers", "configure_optimizers gives none")
    if step.error is not None:
        reason = f"training_step raised {type(step.error).__name__}: {_short(step.error)}"
        facts.missing |= dict.fromkeys(OF_WHOLE_STEPS, reason)
    for part, stage in _stages(facts, batch, deadline).items():
        if step.error is None or part not in OF_WHOLE_STEPS:
            bar.say(part)
            _attempt(facts, part, stage)


OF_WHOLE_STEPS = ("gradients", "behaviour", "trial", "parts")
"""What is measured in training steps that do not raise."""


def _stages(facts: Facts, batch: Any, deadline: float) -> dict[str, Callable[[], Any]]:
    """By the part of the facts, in order. A step by hand may step its schedule at one of some batches only: the plan comes
    after several of them."""
    task, step = facts.task, facts.step
    return {
        "data": lambda: data.measure(task, step),
        "gradients": lambda: gradients.measure(task),
        "plan": lambda: plan.measure(task) if task.optimizers else None,
        "behaviour": lambda: behaviour.measure(task, step, batch),
        "parts": lambda: additivity.measure(task, batch),
        "trial": lambda: _try(facts, lambda: deadline - time.monotonic()),
    }


def _try(facts: Facts, left: Callable[[], float]) -> trial.Trial | None:
    """The runs; the long ones only where nothing worse is known yet."""
    task = facts.task
    if not facts.has("gradients"):
        facts.missing["trial"] = facts.missing["gradients"]
        return None
    found = trial.Trial()
    if facts.has("plan"):
        found = trial.measure_rates(task, facts.plan, gradients.matrices(task), facts.gradients, left() / 3)
    facts.measured["trial"] = found
    if found.is_cut:
        facts.missing |= dict.fromkeys(RATES, "the budget is used up")
    if any(f.severity != "info" for f in _judge(facts)):
        return found
    if not task.is_adversarial:
        _attempt(facts, "CANNOT-OVERFIT", lambda: trial.overfit(task, facts.step, facts.data, found, left() / 3))
        _attempt(facts, "NO-SIGNAL", lambda: unseen.unseen(task, facts.step, facts.data, found, left() * 0.8))
    return found


def _judge(facts: Facts) -> list[Finding]:
    findings: list[Finding] = []
    for check in CHECKS:
        if not _lacking(check, facts):
            findings += _attempt(facts, check.code, partial(_judged, check, facts)) or []
    return without_symptoms(findings)


def _judged(check: Check, facts: Facts) -> list[Finding]:
    return list(check.judge(facts))


def _lacking(check: Check, facts: Facts) -> str:
    """The first part that a check needs and that is not there; empty if none."""
    return next((part for part in check.needs if not facts.has(part)), "")


def _gaps(facts: Facts, said: set[str]) -> dict[str, str]:
    gaps = {}
    for check in (check for check in CHECKS if check.code not in said):
        part = _lacking(check, facts)
        if part:
            gaps[check.code] = facts.missing.get(part, f"needs {part}")
        elif check.code in facts.missing:
            gaps[check.code] = facts.missing[check.code]
    return gaps

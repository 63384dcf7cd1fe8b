"""The checks that cost next to nothing: for a monitor that is there anyway, on the first real training step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.diagnosis import Finding, FirstStepSignals
from lightning_adam.preflight import (
    frozen_checks,
    loss_checks,
    output_checks,
    probability_checks,
    sign_checks,
    structure_checks,
)
from lightning_adam.preflight.batches import Reading, size
from lightning_adam.preflight.causes import without_symptoms
from lightning_adam.preflight.constant_answers import costs_of_constant_answers
from lightning_adam.preflight.dropouts import largest_dropped_share
from lightning_adam.preflight.facts import Facts, found, some
from lightning_adam.preflight.gradients import matrices
from lightning_adam.preflight.negated import is_negated_error
from lightning_adam.preflight.one_sided import one_sided
from lightning_adam.preflight.recorder import Recorder
from lightning_adam.preflight.step import LAYERS, Step, prediction_call, target_path, traced
from lightning_adam.preflight.task import Task

FEWEST_LABELS = 4
"""Examples that are of one class by chance seldom enough."""
STRUCTURE = ("FROZEN", "EVAL-MODE", "INIT-SCALE")
"""Of the structure what needs no training step."""


class FirstStep:
    """Watches one training step that is taken anyway, between :meth:`begin` and :meth:`end`.

    Example:
        >>> first = FirstStep()  # doctest: +SKIP
        >>> first.begin(batch)  # doctest: +SKIP
        >>> loss = module.training_step(batch, 0)  # doctest: +SKIP
        >>> findings = cheap_checks(module, optimizers, batch, first.end())  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._stack, self._batch = ExitStack(), None

    def begin(self, batch: Any) -> None:
        """From here on calls are recorded."""
        self._batch, self._recorder = batch, Recorder()
        self._trace = self._stack.enter_context(traced())
        self._stack.enter_context(self._recorder)

    def end(self) -> Step:
        """What was seen; nothing is held afterwards."""
        self._stack.close()
        samples = size(self._batch)
        step = Step(self._recorder.record, self._trace, samples=samples, given=self._batch)
        step.target, step.prediction = target_path(step, self._batch), prediction_call(self._trace, samples)
        self._batch = None
        return step


def cheap_checks(module: Any, optimizers: Sequence[Optimizer], first_batch: Any, step: Step | None = None) -> list[Finding]:
    """Structure, modes, optimizer against module, and the loss call of a first step that was watched.

    Args:
        module: as training has it.
        optimizers: all of them.
        first_batch: as the training step gets it.
        step: of :class:`FirstStep`; without it the loss call is not looked at.
    """
    facts = Facts(Task(module, Reading((first_batch,), None, None), None, list(optimizers)))
    findings = [*_foreign(facts), *_alike(facts)]
    checks = [check for check in (*structure_checks.CHECKS, *frozen_checks.CHECKS) if check.code in STRUCTURE]
    if step is not None:
        facts.measured["step"] = step
        checks += [*loss_checks.CHECKS, *probability_checks.CHECKS, *sign_checks.CHECKS, *output_checks.CHECKS]
    for check in checks:
        if all(facts.has(part) for part in check.needs):
            findings += check.judge(facts)
    if all(finding.rule != "INIT-SCALE" for finding in findings):
        findings += one_sided(facts)
    if step is not None and all(finding.rule != "INIT-SCALE" for finding in findings):
        findings += _loud(facts)
    return without_symptoms(findings)


def first_step_of(
    module: Any, optimizers: Sequence[Optimizer], first_batch: Any, step: Step, loss: Tensor
) -> FirstStepSignals:
    """All that a monitor is to know of the first training step.

    Args:
        module: as training has it.
        optimizers: all of them.
        first_batch: as the training step gets it.
        step: how the loss was made.
        loss: before its backward.
    """
    findings = cheap_checks(module, optimizers, first_batch, step)
    if len(optimizers) == 1 and is_negated_error(loss) and all(f.rule != "WRONG-SIGN" for f in findings):
        findings = [_maximised(loss), *findings]
    facts = tuple(json.dumps(finding.to_dict()) for finding in findings)
    constants = costs_of_constant_answers(step, loss)
    return FirstStepSignals(facts, largest_dropped_share(loss), compares_with_one_class(step), constants)


def compares_with_one_class(step: Step) -> bool:
    """Whether the labels that the last loss call was given, four or more, are all the same."""
    labels = next((call.target for call in reversed(step.record.losses) if call.target is not None), None)
    if labels is None or labels.is_complex():
        return False
    known = labels[labels >= 0]
    is_classes = not known.is_floating_point() or bool(((known == 0) | (known == 1)).all())
    return known.numel() >= FEWEST_LABELS and is_classes and bool((known == known.flatten()[0]).all())


def _foreign(facts: Facts) -> Iterator[Finding]:
    """Without a backward pass: the optimizer holds others' tensors, and misses some of the module's."""
    held = structure_checks.held(facts.task)
    ours = {id(p) for p in facts.task.module.parameters()}
    alien = [p for i, p in held.items() if i not in ours and p.requires_grad]
    missing = [name for name, p in facts.task.trainable().items() if id(p) not in held]
    if alien and missing:
        yield found(
            "OPTIMIZER-STALE",
            "critical",
            f"The optimizer holds {len(alien)} tensors that are not the module's, and misses {some(missing)}.",
            "Build the optimizer after the last change of the model, from model.parameters().",
            {"tensors": len(alien)},
            missing,
        )


def _alike(facts: Facts) -> Iterator[Finding]:
    """Without a backward pass: most layers' weights, two or more, are filled with one number each, and not with zeros.

    Units that start the same and are read the same get the same gradient (Goodfellow et al. 2016, Deep Learning, section
    8.4). Tables, masks and factors of one's own may begin so and be read differently.
    """
    layers = {
        id(p) for part in facts.task.module.modules() if isinstance(part, LAYERS) for p in part.parameters(recurse=False)
    }
    weights = {
        n: w for n, w in matrices(facts.task).items() if id(w) in layers and w.shape[0] > 1 and w.numel() > w.shape[0]
    }
    alike = [name for name, w in weights.items() if _is_filled(w)]
    if len(alike) >= 2 and 2 * len(alike) > len(weights):
        yield structure_checks.starts_alike(f"All units of {some(alike)} start the same", alike)


def _is_filled(weight: Tensor) -> bool:
    """Two elements tell of nearly all that are not."""
    first, second = weight.detach().flatten()[:2].tolist()
    return first == second != 0 and bool((weight == first).all())


def _loud(facts: Facts) -> Iterator[Finding]:
    """The weights by what they do: a first loss far above what guessing costs, whichever layer makes it."""
    for finding in output_checks.initial_loss(facts):
        yield replace(finding, rule="INIT-SCALE")


def _maximised(loss: Tensor) -> Finding:
    return found(
        "WRONG-SIGN",
        "critical",
        f"The loss is an error with a minus before it ({float(loss.detach()):.3g}): training makes the error larger.",
        "Take the minus out: training makes the loss smaller.",
        {"loss": float(loss.detach())},
    )

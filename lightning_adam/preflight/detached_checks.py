"""Gradients that end where the net's output becomes a loss, or where a sample is drawn."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.batches import path_of, same_values
from lightning_adam.preflight.facts import Check, Facts, found
from lightning_adam.preflight.loss_checks import at
from lightning_adam.preflight.outputs import given
from lightning_adam.preflight.recorder import Call
from lightning_adam.preflight.step import Step, Trace
from lightning_adam.preflight.task import NoLossError


def drawn_between(step: Step) -> Call | None:
    """A draw around what a net gave, without a gradient, that is all that the predicting net gets; None if there is none.

    Noise around zeros, or around the batch's own numbers, hides no net.
    """
    asked = step.trace.asked[step.prediction] if step.prediction >= 0 else None
    for call in step.record.draws if asked is not None and asked.is_floating_point() else ():
        drawn, mean = call.output, call.input.detach()
        is_asked = asked is not None and drawn.numel() == asked.numel() and same_values(drawn, asked)
        if is_asked and float(mean.float().std()) > 0 and not path_of(mean, step.given) and _is_learnt(mean, step.trace):
            return call
    return None


def _is_learnt(mean: Tensor, trace: Trace) -> bool:
    """Whether a net gave these numbers, all of them or among others."""
    return any(_is_among(mean, value.detach()) for value in given(trace))


def _is_among(part: Tensor, whole: Tensor) -> bool:
    """In a slice of its last dimension."""
    if part.dim() != whole.dim() or part.shape[:-1] != whole.shape[:-1]:
        return False
    starts = range(0, whole.shape[-1] - part.shape[-1] + 1)
    return any(torch.equal(whole[..., k : k + part.shape[-1]], part) for k in starts)


def cut_off(facts: Facts) -> Iterator[Finding]:
    """What is left to learn from is a penalty, or a prior. Who compares derivatives of the output, as of an energy, has a
    loss that does not lead back to it either, but another gradient for each batch."""
    step = facts.step
    draw = drawn_between(step)
    if step.is_cut and _is_one(facts.gradients.totals):
        yield found(
            "NO-GRADIENT",
            "critical",
            "The loss has a gradient, and none of it comes from what the nets gave: nothing that is predicted counts.",
            "Look between the output and the loss for argmax, round, a comparison, .item(), detach() or no_grad(): train on "
            "a smooth loss such as F.cross_entropy, and only report the accuracy.",
        )
    elif draw is not None:
        yield found(
            "NO-GRADIENT",
            "warning",
            "The predicting net gets a sample that was drawn without a gradient: what gave its mean does not hear of the "
            "prediction.",
            "rsample() instead of sample(), or mean + std * torch.randn_like(std).",
            at(draw),
        )


def _is_one(norms: list[float]) -> bool:
    """Whether all batches have the same gradient."""
    return len(norms) > 1 and max(norms) - min(norms) <= 1e-5 * max(norms)


def nothing_returned(facts: Facts) -> Iterator[Finding]:
    """Who leaves out some batches has another return beside, and so has who fills a memory first."""
    method = facts.task.module.training_step
    is_trained = bool(facts.task.optimizers) and not facts.task.manual
    if isinstance(facts.step.error, NoLossError) and is_trained and _never_returns_anything(method):
        yield found(
            "NO-GRADIENT",
            "critical",
            "training_step has no return: Lightning leaves out each batch, and nothing is trained.",
            "return loss at its end; or self.automatic_optimization = False, and backward and step by hand.",
        )


def _never_returns_anything(method: Callable[..., Any]) -> bool:
    """By its source, where there is one: no ``return`` has a value, not even that of a function inside, and nothing is
    yielded. What wraps another function has a source of its own."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(method.__code__)))
    except (AttributeError, OSError, SyntaxError):
        return False
    nodes = list(ast.walk(tree))
    returned = [node.value for node in nodes if isinstance(node, ast.Return)]
    is_plain = isinstance(tree.body[0], ast.FunctionDef) and not any(isinstance(n, ast.Yield | ast.YieldFrom) for n in nodes)
    return is_plain and all(value is None or ast.unparse(value) == "None" for value in returned)


CHECKS = (
    Check("NO-GRADIENT", ("step", "gradients"), cut_off),
    Check("NO-GRADIENT", ("step",), nothing_returned),
)

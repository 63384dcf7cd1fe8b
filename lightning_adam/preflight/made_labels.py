"""Labels that the step makes of the batch, such as of masks or of words, and that all come out the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.batches import leaves, mapped
from lightning_adam.preflight.facts import Check, Facts, found
from lightning_adam.preflight.loss_checks import at
from lightning_adam.preflight.recorder import BINARY_LOSSES, CLASS_LOSSES, Recorder
from lightning_adam.preflight.step import Step, is_asked
from lightning_adam.preflight.task import OutOfTimeError, Task

BATCHES, FEWEST = 4, 64
CHANGES: tuple[Callable[[Tensor], Tensor], ...] = (lambda t: t * 255, lambda t: t + 1000, lambda t: -t - 1)
"""What undoes a scaling, passes a threshold, or turns a sign."""


def measure(task: Task, step: Step) -> Tensor | None:
    """The labels of some batches, where the step makes them of something in the batch; None where it makes them alone, as
    who says which of two nets' outputs is real."""
    is_judged = step.main is not None and step.main.name in (*CLASS_LOSSES, *BINARY_LOSSES)
    if step.error is not None or step.target or not is_judged or task.is_adversarial:
        return None
    batches = task.usable()[:BATCHES]
    made = [labels for batch in batches if (labels := _labels(task, batch)) is not None]
    every = torch.cat([labels.flatten() for labels in made]) if made else torch.zeros(0)
    is_one = len(every) > FEWEST and len(torch.unique(every)) == 1
    return every if is_one and _hangs_on_the_batch(task, step, batches[0], made[0]) else None


def _labels(task: Task, batch: Any) -> Tensor | None:
    """What the last loss of a step compares with; a step may raise on labels that no class has."""
    with Recorder() as recorder:
        try:
            task.loss(batch)
        except OutOfTimeError:
            raise
        except Exception:  # the user's code may raise anything
            recorder.record.losses = recorder.record.losses[-1:]
    return recorder.record.losses[-1].target if recorder.record.losses else None


def _hangs_on_the_batch(task: Task, step: Step, batch: Any, labels: Tensor) -> bool:
    """Whether other numbers in a tensor that no net gets give other labels, or words of the batch are looked at."""
    unread = [leaf for _, leaf in leaves(batch) if not is_asked(step, leaf) and not leaf.is_complex()]
    tried = (_labels(task, _with(batch, leaf, change(leaf))) for leaf in unread for change in CHANGES)
    others = [again for again in tried if again is not None and not _are_same(again, labels)]
    return bool(others) or _reads_words(task, batch)


def _with(batch: Any, leaf: Tensor, values: Tensor) -> Any:
    return mapped(batch, lambda part: values if part is leaf else part)


def _are_same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


class _Word(str):
    """Notes that someone compares it, looks it up, or calls a method of it."""

    __slots__ = ("notes",)
    notes: list[bool]

    def __eq__(self, other: object) -> bool:
        self.notes.append(True)
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        self.notes.append(True)
        return str.__hash__(self)

    def lower(self) -> str:
        """As of any string."""
        self.notes.append(True)
        return str.lower(self)


def _reads_words(task: Task, batch: Any) -> bool:
    notes: list[bool] = []

    def noted(word: str) -> str:
        watched = _Word(word)
        watched.notes = notes
        return watched

    def change(part: Any) -> Any:
        is_words = type(part) in (list, tuple) and part and all(type(one) is str for one in part)
        return type(part)(noted(word) for word in part) if is_words else part

    with suppress(OutOfTimeError):
        _labels(task, mapped(batch, change))
    return bool(notes)


def one_label(facts: Facts) -> Iterator[Finding]:
    """As the loss gets them: the batch's own may well differ."""
    labels = facts.data.made
    if labels is not None and facts.step.main is not None:
        yield found(
            "ONE-LABEL",
            "warning",
            f"All {len(labels)} labels that the loss gets in the first batches are {float(labels[0]):g}, whatever the batch "
            "has: the net need only learn to say that.",
            "Look at the line that makes the labels: a comparison that never holds, .long() of numbers that were divided.",
            at(facts.step.main, label=float(labels[0])),
        )


CHECKS = (Check("ONE-LABEL", ("data", "step"), one_label),)

"""What the labels of the batches show."""

from __future__ import annotations

from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.wording import loss_clause, number

ALIKE = 10
"""Batches that are looked at."""
SHUFFLE = "Shuffle the data: DataLoader(shuffle=True), or for a stream a buffer that is larger than a class."
LOOK = "Look at the labels of a few batches: the column, the mapping and the filter that they come from."


def sorted_batches(case: Case) -> Finding | None:
    """Ten batches hold one class each, and not the same one: the data are sorted by class, or drawn class by class.

    Chance does not do that to four examples or more. Where it is the same class in all of them it is ``ONE-LABEL``, and
    a suspicion: of a rare class ten batches may hold none, and nobody may use these labels.
    """
    past = case.past
    if case.now.heavy is None or not past.lasts("target_classes", ALIKE, ALIKE - 1, 0.5, 1.5):
        return None
    labels = sorted(set(past.recent("target_label", ALIKE)))
    is_sorted = len(labels) > 1
    return Finding(
        "SORTED" if is_sorted else "ONE-LABEL",
        "warning",
        case.now.step,
        f"each of the last {ALIKE} batches that were looked at holds one class only"
        f"{'' if is_sorted else f', always {number(labels[0])}'}{loss_clause(case)}.",
        {"classes": len(labels), "label": past.recent("target_label", 1)[-1]},
        remedy=SHUFFLE if is_sorted else LOOK,
    )

"""What the labels of the batches show."""

from __future__ import annotations

from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.finding import Finding
from lightning_adam.diagnosis.wording import loss_clause, number

ALIKE = 10
"""Batches that are looked at."""
BORDERS = 3
"""Of these, at most so many in which one class ends and the next begins."""
SHUFFLE = "Shuffle the data: DataLoader(shuffle=True), or for a stream a buffer that is larger than a class."
LOOK = "Look at the labels of a few batches: the column, the mapping and the filter that they come from."


def sorted_batches(case: Case) -> Finding | None:
    """Ten batches hold one class each, and not the same one: the data are sorted by class, or drawn class by class.

    Up to three of them may hold two: where one class ends and the next begins. Chance does not do that to four examples or
    more. Where it is the same class in all of them it is ``ONE-LABEL``, and a suspicion: of a rare class ten batches may
    hold none, and nobody may use these labels.
    """
    past = case.past
    if case.now.heavy is None or not past.lasts("target_classes", ALIKE, ALIKE - 1, 0.5, 2.5):
        return None
    seen = zip(past.recent("target_classes", ALIKE), past.recent("target_label", ALIKE), strict=False)
    of_one = [label for classes, label in seen if classes == 1]
    labels = sorted(set(of_one))
    is_sorted = len(labels) > 1
    if len(of_one) < (ALIKE - BORDERS if is_sorted else ALIKE):
        return None
    return Finding(
        "SORTED" if is_sorted else "ONE-LABEL",
        "warning",
        case.now.step,
        f"{'each' if len(of_one) == ALIKE else len(of_one)} of the last {ALIKE} batches that were looked at "
        f"{'holds' if len(of_one) == ALIKE else 'hold'} one class only"
        f"{'' if is_sorted else f', always {number(labels[0])}'}{loss_clause(case)}.",
        {"classes": len(labels), "label": past.recent("target_label", 1)[-1]},
        remedy=SHUFFLE if is_sorted else LOOK,
    )

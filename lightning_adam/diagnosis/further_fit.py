"""A trainer that fits once more: what is as it should be there."""

from __future__ import annotations

from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.finding import Finding


def made_anew(case: Case) -> Finding:
    """What Lightning does in every fit: wanted for the folds of a cross validation, and known to few otherwise."""
    return Finding(
        "STATE-LOST",
        "info",
        case.now.step,
        f"this fit began at step {case.now.step} with a new optimizer, whose moments start from zero.",
        remedy="Nothing, where it is a run of its own. To go on with the old moments, save a checkpoint after the first fit "
        "and pass it to the next one: trainer.fit(model, ckpt_path=...).",
    )

"""A loss that stands because training begins near a saddle, which it is about to leave.

Where a product of weights begins near zero (deep linear nets, matrix factorisation, embeddings, attention), gradient and
weights grow exponentially, and the loss stands until they are large: Saxe et al. 2014 (arXiv:1312.6120, section 1.2).
"""

from __future__ import annotations

from itertools import pairwise

from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.history import median

LOOKED_BACK = 120
"""Steps, of which each third is compared with the one before."""
FEWEST = 60
"""Steps that tell a growth from noise."""
GROWS = 1.15
"""Times, from third to third. Of 128 runs of the corpus in which nothing is learnt, or at too low a rate, one grows so: at a
rate that is too low for the run gradients do not, since they grow by the rate."""


def leaves_a_saddle(case: Case) -> bool:
    """Whether gradients have grown steadily under a loss that does not rise: it will fall when they are large enough."""
    norms = case.past.norms[-LOOKED_BACK:]
    third = len(norms) // 3
    if len(norms) < FEWEST or case.course == "rising":
        return False
    marks = [median(norms[k * third : (k + 1) * third]) for k in range(3)]
    return all(after > GROWS * before > 0 for before, after in pairwise(marks))

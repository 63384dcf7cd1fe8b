"""Whether a layer's weights are still those that its initialisation drew."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

FEWEST = 256
"""Elements: of fewer, a normal distribution's largest one is not far enough out."""
MOST = 1 << 16
"""Elements that are looked at."""
ERRORS = 5
"""Standard errors."""


@torch.no_grad()
def looks_untrained(weight: Tensor) -> bool:
    """Whether a matrix is uniformly distributed up to its largest element, as torch's layers begin.

    ``kaiming_uniform_`` and ``xavier_uniform_`` draw between two edges (He et al. 2015; Glorot & Bengio 2010), and steps
    take weights beyond them. With u the weights over the largest of them, the means of u² and u⁴ are 1/3 and 1/5, and their
    variances 4/45 and 16/225 over the count. Weights drawn from a normal distribution look like trained ones.

    Example:
        >>> looks_untrained(torch.nn.Linear(64, 64).weight), looks_untrained(torch.randn(64, 64))
        (True, False)
    """
    if type(weight) not in (Tensor, nn.Parameter) or weight.is_meta or not weight.is_floating_point():
        return False  # of a shard nobody knows the largest element without asking the other ranks
    if weight.dim() < 2 or weight.numel() < FEWEST:
        return False
    seen = weight.detach().flatten()[:MOST].float()
    count, largest = len(seen), float(seen.abs().max())
    if not 0 < largest < math.inf:
        return False
    squares = (seen / largest).square()
    second, fourth = float(squares.mean()), float(squares.square().mean())
    allowed = ERRORS / math.sqrt(count)
    return abs(second - 1 / 3) < allowed * math.sqrt(4 / 45) and abs(fourth - 1 / 5) < allowed * math.sqrt(16 / 225)


def most_look_untrained(weights: Iterable[Tensor]) -> bool:
    """Of those that are large enough to tell, more than half; False where none is."""
    large = [weight for weight in weights if weight.dim() >= 2 and weight.numel() >= FEWEST]
    return sum(map(looks_untrained, large)) > 0.5 * len(large)

"""What a tensor's name tells of it."""

from __future__ import annotations

import math
import re
from functools import lru_cache

ABSENT = -math.inf
"""The gradient norm of a tensor that a step has not, beside NaN in its other quantities: no norm is below 0."""
_VECTOR = re.compile(r"(.*[._])?(\w*bias|b|beta|gamma|(\w*norm|ln|bn)\w*\.(weight|scale))", re.IGNORECASE)

MOST_OF_NAME = 200
"""Characters of a name's end that are looked at: the pattern's time grows with their square."""


@lru_cache(maxsize=1 << 16)  # a picture asks for each name several times
def is_vector(name: str) -> bool:
    """Whether a tensor is a bias or a norm's scale, by its name: a log without records does not tell the shapes.

    Vectors start at 0 or 1: a bias moves by any multiple of its norm.

    Example:
        >>> [is_vector(name) for name in ("mlp.2.bias", "attn.in_proj_bias", "norm1.weight", "ln_f.weight", "mlp.2.weight")]
        [True, True, True, True, False]
    """
    return _VECTOR.fullmatch(name[-MOST_OF_NAME:]) is not None

"""The words of the references."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Gradients = Sequence[Array]
"""One tensor's, step by step."""

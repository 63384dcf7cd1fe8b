"""‖g‖₁ and ‖g‖² as ``la.suggest_lr`` takes them, against float64: of dense, sparse, complex and very large gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_adam.learning_rate import _norms

VALUES = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
GRADIENTS: dict[str, Callable[[], Tensor]] = {
    "dense": lambda: VALUES,
    "sparse": lambda: torch.sparse_coo_tensor(torch.tensor([[1, 3, 1]]), VALUES[:3], (40, 8)),
    "complex": lambda: torch.complex(VALUES, VALUES.flip(0)),
    "larger than float32's root": lambda: 1e30 * VALUES,
    "half": lambda: VALUES.half(),
}


@pytest.mark.parametrize("kind", GRADIENTS)
def test_sizes_are_those_of_float64(kind: str) -> None:
    gradient = GRADIENTS[kind]()
    dense = np.abs(gradient.to_dense().numpy()).astype(np.float64)

    assert _norms(gradient) == pytest.approx((dense.sum(), np.square(dense).sum()), rel=1e-5)

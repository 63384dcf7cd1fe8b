"""What the user was warned of once is not told again because something of ours has hidden a warning in between."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_adam as la
from lightning_adam.quiet import without_warnings


class Line(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        warnings.warn("of the user's own", UserWarning, stacklevel=1)
        return nn.functional.mse_loss(self.layer(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def preflight() -> None:
    x = torch.randn(64, 4)
    la.preflight(Line(), DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=16), budget=5)


def paged_optimizer() -> None:
    la.configure_optimizers(nn.Linear(2, 2), "paged_adamw", total_steps=10)


def once() -> None:
    warnings.warn("told once", UserWarning, stacklevel=1)


@pytest.mark.parametrize("hides", [preflight, paged_optimizer])
def test_a_warning_that_was_shown_once_is_not_shown_again(hides: Callable[[], None]) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        once()
        hides()
        once()
    assert [str(w.message) for w in told if w.category is UserWarning] == ["told once"]


def test_only_the_named_warning_is_hidden_and_only_for_a_while() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with without_warnings("Paged"):
            warnings.warn("Paged optimizers", UserWarning, stacklevel=1)
            warnings.warn("another", UserWarning, stacklevel=1)
        warnings.warn("Paged optimizers", UserWarning, stacklevel=1)
    assert [str(w.message) for w in told] == ["another", "Paged optimizers"]

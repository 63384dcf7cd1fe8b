"""Loaders side by side are read as Lightning reads them; steps by hand that read gradients or write weights are judged."""

from __future__ import annotations

from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

import lightning_adam as la
from lightning_adam.preflight.batches import leaves, read, train_loader
from lightning_adam.preflight.task import Task, gradients
from tests.benchmarks.preflight.cases import HEALTHY
from tests.benchmarks.preflight.data import loader
from tests.benchmarks.preflight.parts import Bare


def short_and_long() -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Of three and of five batches, in order."""
    return tuple(loader(torch.arange(4 * count) + 100 * count, size=4, shuffle=False) for count in (3, 5))  # type: ignore[return-value]


FORMS = {
    "dict": lambda: dict(zip("ab", short_and_long(), strict=True)),
    "list": lambda: list(short_and_long()),
    "min_size": lambda: CombinedLoader(dict(zip("ab", short_and_long(), strict=True)), "min_size"),
    "max_size_cycle": lambda: CombinedLoader(list(short_and_long()), "max_size_cycle"),
}


def trained_on(loaders: Any) -> list[Any]:
    """What a Trainer hands to the training step in one epoch."""

    class Module(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.batches = torch.nn.Parameter(torch.ones(())), []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.batches.append([value.tolist() for _, value in leaves(batch)])
            return self.weight.square()

    module = Module()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    L.Trainer(max_epochs=1, accelerator="cpu", **quiet).fit(module, loaders)  # type: ignore[arg-type]
    return module.batches


@pytest.mark.parametrize("form", FORMS)
def test_loaders_side_by_side_are_read_as_lightning_reads_them(form: str) -> None:
    """The same batches in the same order, and as many."""
    reading = read(train_loader(FORMS[form]()), seconds=5)

    assert [[value.tolist() for _, value in leaves(batch)] for batch in reading.batches] == trained_on(FORMS[form]())
    assert reading.length == len(reading.batches)


@pytest.mark.parametrize(
    "name", ["sharpness_aware_by_hand", "wasserstein_with_clipped_weights", "gradients_that_do_not_quarrel"]
)
def test_step_by_hand_that_reads_gradients_or_writes_weights_is_judged(name: str) -> None:
    """Its backward passes leave ``.grad``, and what is written after them does not void what was measured."""
    L.seed_everything(0, verbose=False)
    report = la.preflight(*HEALTHY[name]())

    assert not {"NO-GRADIENT", "GRAD-NOT-ZEROED", "LR-HIGH"} & report.not_judged.keys()


def test_gradients_of_a_manual_step_are_those_of_its_losses_together() -> None:
    """By hand: the derivative of (w - 1)² + 3w at w = 2 is 5, and ``.grad`` is as it was."""

    class Module(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.weight = torch.nn.Parameter(torch.tensor(2.0))

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.manual_backward((self.weight - 1).square())
            assert float(self.weight.grad) == 2  # type: ignore[arg-type]
            self.manual_backward(3 * self.weight)

    task = Task(Module(), read([torch.zeros(2)], 1), None)
    loss = task.loss(torch.zeros(2))

    assert gradients(task, loss, ["weight"])["weight"] == 5
    assert task.module.weight.grad is None

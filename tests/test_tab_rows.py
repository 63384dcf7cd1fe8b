"""Whose numbers a row of the tab's tables has, where tensors are unfrozen, and where a run is resumed with others frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import BaseFinetuning, Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch.optim import Optimizer

from lightning_adam.callbacks import OptimizerMonitor
from lightning_adam.tensorboard.tab.own_histogram import Place, own_histogram
from tests.digits import Digits, digits_loader, trainer
from tests.test_tab_series import reader

BODY, HEAD = ["net.0.weight", "net.0.bias"], ["net.2.weight", "net.2.bias"]


class Unfreezing(BaseFinetuning):
    """Lightning's callback: the body joins the optimizer after the first epoch."""

    def freeze_before_training(self, pl_module: Any) -> None:
        """All but the head."""
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Optimizer) -> None:
        """From the second epoch on."""
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer, lr=1e-4)


class Norms(Callback):
    """‖θ‖ of each tensor that is trained, by step and name: what ‖Δθ‖ = ratio · ‖θ‖ can be checked with."""

    def __init__(self) -> None:
        self.gradients: dict[int, dict[str, float]] = {}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """Unclipped gradients, in float64."""
        self.gradients[trainer.global_step] = {
            name: float(p.grad.double().norm()) for name, p in pl_module.named_parameters() if p.grad is not None
        }


def fit(folder: Path, module: Digits, *callbacks: Callback, epochs: int, ckpt_path: Path | None = None) -> Norms:
    """Into the folder ``run``, logged at every second of six steps an epoch; leaves a checkpoint ``last.ckpt``."""
    logger, norms = TensorBoardLogger(folder, name="", version="run"), Norms()
    watching = [*callbacks, OptimizerMonitor(every_n_steps=2), norms]
    run = trainer(max_epochs=epochs, limit_train_batches=6, logger=logger, callbacks=watching)
    run.fit(module, digits_loader(), ckpt_path=ckpt_path)
    run.save_checkpoint(folder / "last.ckpt")
    return norms


def shown(folder: Path) -> tuple[list[str], list[int], Any]:
    """The tab's names, steps, and gradient norms."""
    series, asking = reader(folder)
    (optimizer,) = series.optimizers(asking, "", "run")["run"]
    (matrix,) = series.matrices(asking, "", "run", ["adam_matrix/gradient_norm"]).values()
    return optimizer.names, matrix.steps.tolist(), matrix


def test_what_is_unfrozen_in_mid_run_has_its_name_and_numbers(tmp_path: Path) -> None:
    """TensorBoard tells of the names that the first event gives: later ones were rows without a name."""
    norms = fit(tmp_path, Digits(clip=None), Unfreezing(), epochs=2)
    names, steps, matrix = shown(tmp_path)

    assert names == [*HEAD, *BODY]
    for row, name in enumerate(names):
        wanted = [norms.gradients[step].get(name, np.nan) for step in steps]
        np.testing.assert_allclose(matrix.of_tensor(row), wanted, rtol=1e-5)


def test_a_run_resumed_with_another_part_frozen_keeps_each_tensors_row(tmp_path: Path) -> None:
    """The second process begins a file of its own, whose rows are other tensors."""
    modules = [Digits(clip=None, total_steps=24) for _ in range(2)]
    for module, frozen in zip(modules, (0, 2), strict=True):
        module.net[frozen].requires_grad_(False)
    before = fit(tmp_path, modules[0], epochs=1)
    after = fit(tmp_path, modules[1], epochs=2, ckpt_path=tmp_path / "last.ckpt")
    gradients = before.gradients | after.gradients
    names, steps, matrix = shown(tmp_path)

    assert names == [*HEAD, *BODY]
    assert min(steps) < 6 < max(steps)
    for row, name in enumerate(names):
        wanted = [gradients[step].get(name, np.nan) for step in steps]
        np.testing.assert_allclose(matrix.of_tensor(row), wanted, rtol=1e-5)
    series, asking = reader(tmp_path)
    for row, step in ((0, 0), (1, 0), (2, 10), (3, 10)):
        at_step, at_other = (
            own_histogram(series, Place((asking, ""), "run", "adam", row), "step_size", at).bins for at in (step, 10 - step)
        )
        assert at_step and not at_other

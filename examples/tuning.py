"""One search space, three tuning tools: ``python -m lightning_adam.examples.tuning optuna|hyperopt|ray``.

Each trains a small network on two spirals for ten trials; a trial that diverges is ended at once, with the reason.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.integrations.tuning import hyperopt_objective, ray_trainable

SPACE = la.search_space("adamw")


class Spirals(L.LightningModule):
    """Takes the helper's arguments as they were drawn."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
        self.arguments, self.losses = arguments, list[float]()

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Cross-entropy."""
        points, labels = batch
        loss = nn.functional.cross_entropy(self.net(points), labels)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        """Whatever the tool has chosen."""
        return la.configure_optimizers(self, **self.arguments)


def spirals(count: int = 2000) -> TensorDataset:
    """Points of two arms that wind around each other, and which arm each is of."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (count,), generator=generator)
    turn = torch.rand(count, generator=generator) * 9 + 1
    angle = turn + torch.pi * labels
    noise = 0.02 * torch.randn(count, 2, generator=generator)
    return TensorDataset(torch.stack([angle.cos(), angle.sin()], 1) * turn[:, None] / 10 + noise, labels)


def train(arguments: Mapping[str, Any], monitor: DivergenceMonitor) -> float:
    """The mean of the last ten losses of four passes."""
    module = Spirals(arguments)
    trainer = L.Trainer(
        max_epochs=4, accelerator="cpu", logger=False, callbacks=[monitor], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(spirals(), batch_size=64))
    return sum(module.losses[-10:]) / 10


def with_optuna(trials: int = 10) -> dict[str, Any]:
    """The best arguments, as Optuna names them."""
    import optuna

    def objective(trial: optuna.Trial) -> float:
        return train(SPACE.optuna(trial), DivergenceMonitor(trial=trial))

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=trials)
    return study.best_params


def with_hyperopt(trials: int = 10) -> dict[str, Any]:
    """The best arguments, as Hyperopt names them."""
    import numpy as np
    from hyperopt import fmin, tpe

    @hyperopt_objective
    def objective(arguments: Mapping[str, Any]) -> float:
        return train(arguments, DivergenceMonitor(raise_on="critical"))

    found: dict[str, Any] = fmin(
        objective,
        SPACE.hyperopt(),
        algo=tpe.suggest,
        max_evals=trials,
        rstate=np.random.default_rng(0),
        show_progressbar=False,
    )
    return found


def with_ray(trials: int = 10) -> dict[str, Any]:
    """The best arguments, as Ray Tune gives them."""
    from ray import tune

    @ray_trainable
    def trainable(arguments: dict[str, Any]) -> None:
        tune.report({"loss": train(arguments, DivergenceMonitor(raise_on="critical"))})

    settings = tune.TuneConfig(metric="loss", mode="min", num_samples=trials)
    results = tune.Tuner(trainable, param_space=SPACE.ray(), tune_config=settings).fit()
    best: dict[str, Any] = results.get_best_result().config
    return best


TOOLS = {"optuna": with_optuna, "hyperopt": with_hyperopt, "ray": with_ray}

if __name__ == "__main__":
    print(TOOLS[sys.argv[1] if len(sys.argv) > 1 else "optuna"]())

"""Search spaces are sane for every optimizer, in each tool's own form, and a trial that diverges says why."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.integrations.tuning import hyperopt_objective, ray_trainable
from lightning_adam.tuning import Choices, Range
from tests.digits import Digits, digits_loader, trainer

NAMES = [row.name for row in la.available_optimizers()]


@pytest.mark.parametrize("name", NAMES)
def test_every_point_of_a_space_is_taken_by_the_helper(name: str) -> None:
    """Nothing that is drawn is refused, and the catalogue's own rate lies inside."""
    space = la.search_space(name)
    for seed in range(5):
        la.configure_optimizers(nn.Linear(3, 3), **space.sample(seed), total_steps=50)
    lr = space.dimensions["lr"]
    assert isinstance(lr, Range)
    assert lr.low < next(row.lr for row in la.available_optimizers() if row.name == name) < lr.high


def test_ranges_are_drawn_evenly_on_their_scale() -> None:
    """Half of the rates lie below the geometric mean of the ends."""
    space = la.search_space("adamw")
    rates = [space.sample(seed)["lr"] for seed in range(400)]
    lr = space.dimensions["lr"]
    assert isinstance(lr, Range)
    assert sum(rate < math.sqrt(lr.low * lr.high) for rate in rates) == pytest.approx(200, abs=40)
    assert all(lr.low <= rate <= lr.high for rate in rates)


def test_a_module_says_around_which_rate_to_look() -> None:
    """Weights a hundred times as large move the range, and narrow it."""
    large = nn.Linear(8, 8)
    with torch.no_grad():
        large.weight.mul_(100)
    plain, moved = (la.search_space("adamw", module).dimensions["lr"] for module in (None, large))
    assert isinstance(plain, Range)
    assert isinstance(moved, Range)
    assert moved.low > 10 * plain.low
    assert moved.high / moved.low < plain.high / plain.low


def test_what_an_optimizer_has_not_is_not_searched() -> None:
    dimensions = {name: set(la.search_space(name).dimensions) for name in ("sgd", "lbfgs", "prodigy", "adamw")}

    assert dimensions["adamw"] == {"lr", "warmup", "weight_decay", "betas", "clip"}
    assert "betas" not in dimensions["sgd"] | dimensions["prodigy"]
    assert "clip" not in dimensions["lbfgs"]


def test_a_wrong_argument_is_said() -> None:
    with pytest.raises(la.ConfigError, match="Did you mean 'adamw'"):
        la.search_space("adamww")
    with pytest.raises(la.ConfigError, match="give the network"):
        la.search_space("adamw", module="net")  # type: ignore[arg-type]


class Explosive(Digits):
    """Turns to NaN at step 20 where its rate is above a limit."""

    def __init__(self, arguments: Any, limit: float = 0.0) -> None:
        super().__init__(poison=(20,) if arguments["lr"] > limit else (), **arguments)


def fit(arguments: Any, monitor: DivergenceMonitor, limit: float = 0.0, **options: Any) -> float:
    """The last loss of forty steps."""
    module = Explosive(arguments, limit)
    trainer(max_steps=40, callbacks=[monitor], **options).fit(module, digits_loader())
    return module.losses[-1] if module.losses else math.nan


def test_optuna_searches_and_prunes_with_the_reason() -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(logging.ERROR)
    space = la.search_space("adamw")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: fit(space.optuna(trial), DivergenceMonitor(trial=trial), limit=1e-3), n_trials=4)

    pruned = [trial for trial in study.trials if trial.state.name == "PRUNED"]
    assert {trial.number for trial in pruned} == {t.number for t in study.trials if t.params["lr"] > 1e-3}
    assert 0 < len(pruned) < 4
    assert all("NON-FINITE" in trial.user_attrs["diverged"] for trial in pruned)
    assert set(study.best_params) == set(space.dimensions)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_optuna_prunes_what_diverges_in_another_process(strategy: str, tmp_path: Path) -> None:
    """The child's exception arrives as text; the trial is pruned all the same, and says why."""
    optuna = pytest.importorskip("optuna")
    storage = f"sqlite:///{tmp_path / 'trials.db'}"
    study = optuna.create_study(storage=storage)
    space = la.search_space("adamw")
    study.optimize(lambda trial: fit(space.optuna(trial), DivergenceMonitor(trial=trial), strategy=strategy), n_trials=1)

    assert [trial.state.name for trial in study.trials] == ["PRUNED"]
    assert "NON-FINITE" in study.trials[0].user_attrs["diverged"]


def test_hyperopt_fails_what_diverges_with_the_reason() -> None:
    """Without Hyperopt: what it is told. With it: the search goes on, and the best trial did not diverge."""

    @hyperopt_objective
    def objective(arguments: Any) -> float:
        return fit(arguments, DivergenceMonitor(raise_on="critical"), limit=1e-3)

    assert objective({"lr": 1e-4})["status"] == "ok"
    failed = objective({"lr": 1e-2})
    assert failed["status"] == "fail"
    assert "NON-FINITE" in failed["diverged"]
    hyperopt = pytest.importorskip("hyperopt")
    import numpy as np

    trials = hyperopt.Trials()
    best = hyperopt.fmin(
        objective, la.search_space("adamw").hyperopt(), hyperopt.tpe.suggest, 4, trials=trials,
        rstate=np.random.default_rng(0), show_progressbar=False,
    )  # fmt: skip
    assert best["lr"] <= 1e-3
    assert {result["status"] for result in trials.results} == {"ok", "fail"}


@pytest.mark.slow
def test_ray_tune_stops_what_diverges_with_the_reason(tmp_path: Path) -> None:
    """Two trials in processes of their own."""
    ray = pytest.importorskip("ray")
    from ray import tune

    @ray_trainable
    def trainable(arguments: Any) -> None:
        tune.report({"loss": fit(arguments, DivergenceMonitor(raise_on="critical"), limit=1e-3)})

    space = la.search_space("adamw").ray() | {"lr": tune.grid_search([1e-4, 1e-2])}
    ray.init(num_cpus=1, include_dashboard=False)
    try:
        run = tune.RunConfig(storage_path=str(tmp_path))
        results = tune.Tuner(trainable, param_space=space, run_config=run).fit()
        by_rate = {result.config["lr"]: result.metrics for result in results}
    finally:
        ray.shutdown()

    assert by_rate[1e-4]["loss"] < 2.3
    assert by_rate[1e-2]["loss"] == math.inf
    assert "NON-FINITE" in by_rate[1e-2]["diverged"]


def test_choices_are_the_values_that_a_row_and_its_field_use() -> None:
    betas = la.search_space("adamw").dimensions["betas"]
    assert isinstance(betas, Choices)
    assert (0.9, 0.95) in betas.values
    assert (0.9, 0.999) in betas.values


@pytest.mark.parametrize("tool", ["optuna", "hyperopt"])
def test_the_example_finds_a_rate(tool: str) -> None:
    pytest.importorskip(tool)
    from lightning_adam.examples import tuning

    best = tuning.TOOLS[tool](2)
    assert 1e-4 <= best["lr"] <= 1e-2

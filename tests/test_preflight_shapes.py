"""With preflight a run ends bit for bit as without, in each precision, and for what torch wraps, changes or hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor, Preflight
from tests.benchmarks.preflight.cases import HEALTHY
from tests.benchmarks.preflight.data import clusters, loader, pictures
from tests.benchmarks.preflight.parts import Learner, convnet, perceptron


def normalised() -> Any:
    """BatchNorm, dropout and a schedule: each has a state that probing moves."""
    net = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4))
    schedule = lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)  # noqa: E731
    return Learner(net, F.cross_entropy, schedule=schedule), loader(*clusters())


def old_weight_norm() -> Any:
    """``torch.nn.utils.weight_norm`` as it was before parametrizations: a hook writes the weight before each call."""
    layers = [nn.utils.weight_norm(nn.Linear(12, 32)), nn.ReLU(), nn.utils.spectral_norm(nn.Linear(32, 4))]
    return Learner(nn.Sequential(*layers), F.cross_entropy), loader(*clusters())


def lazy_inside() -> Any:
    """Layers that take their shape from the first batch, as Lightning gives them one: in ``setup``."""

    class Model(Learner):
        def setup(self, stage: str) -> None:
            self.net(torch.zeros(2, 12))

    return Model(
        nn.Sequential(nn.LazyLinear(32), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(4)), F.cross_entropy
    ), loader(*clusters())


def compiled_outside() -> Any:
    """The whole module, which Lightning unwraps and compiles again."""

    class Model(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])  # without self.log, which torch cannot trace

    return torch.compile(Model(perceptron(12, 4), F.cross_entropy), backend="eager"), loader(*clusters())


def compiled_inside() -> Any:
    """Only the net."""
    net = torch.compile(convnet(norm=True), backend="aot_eager")
    return Learner(net, F.cross_entropy), loader(*pictures())  # type: ignore[arg-type]


def two_hooks() -> Any:
    """A hook before the net counts its calls and scales its input, and another is there for the gradient."""

    class Model(Learner):
        def __init__(self) -> None:
            super().__init__(perceptron(12, 4), F.cross_entropy)
            self.calls = 0
            self.net.register_forward_pre_hook(self.count)
            self.net.register_full_backward_hook(lambda net, given, got: (given[0],) if given[0] is not None else None)

        def count(self, net: nn.Module, given: Any) -> Any:
            self.calls += 1
            return (0.5 * given[0],)

    return Model(), loader(*clusters())


BUILT: dict[str, Callable[[], Any]] = {
    **{
        build.__name__: build
        for build in (normalised, old_weight_norm, lazy_inside, compiled_outside, compiled_inside, two_hooks)
    },
    **{
        name: HEALTHY[name]
        for name in (
            "wrapped_lightning_module",
            "weights_in_polar_form",
            "orthogonal_recurrence",
            "hooks_of_its_own",
            "conditional_gan_by_hand",
            "graphs_with_their_own_batch",
            "ordered_grades",
        )
    },
}


def ended(build: Callable[[], Any], precision: Any, *callbacks: L.Callback) -> dict[str, Tensor]:
    """Weights, buffers and the optimizers' states after six steps, and a number drawn then."""
    L.seed_everything(0, verbose=False)
    module, data = build()
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
    )
    trainer = L.Trainer(max_steps=6, accelerator="cpu", precision=precision, callbacks=[*callbacks], **quiet)
    trainer.fit(module, **{"datamodule" if isinstance(data, L.LightningDataModule) else "train_dataloaders": data})
    states = {f"{k} {i} {name}": value for k, optimizer in enumerate(trainer.optimizers)
              for i, state in enumerate(optimizer.state.values()) for name, value in state.items()}  # fmt: skip
    kept = {**module.state_dict(), **states, "drawn": torch.rand(1)}
    return {name: torch.as_tensor(value).clone() for name, value in kept.items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """To the last bit."""
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
@pytest.mark.parametrize("callback", [Preflight, DivergenceMonitor])
def test_run_is_bit_for_bit_as_without_in_each_precision(precision: str, callback: Callable[[], L.Callback]) -> None:
    """The probe runs under the trainer's autocast or dtype, and takes nothing of it along."""
    assert_same(ended(normalised, precision), ended(normalised, precision, callback()))


@pytest.mark.parametrize("name", BUILT)
def test_run_is_bit_for_bit_as_without_for_every_shape(name: str) -> None:
    """Hooks, parametrizations, compiled and lazy parts, modules in modules."""
    assert_same(ended(BUILT[name], "32-true"), ended(BUILT[name], "32-true", Preflight(budget=10)))


@pytest.mark.parametrize("name", ["old_weight_norm", "lazy_inside", "compiled_outside", "two_hooks"])
def test_healthy_shape_is_let_pass(name: str) -> None:
    """What torch does to a module is no fault of it."""
    L.seed_everything(0, verbose=False)
    module, data = BUILT[name]()

    assert [f.rule for f in la.preflight(module, data).findings if f.severity != "info"] == []

"""What Lightning's own clipping measures is read by the monitor, and nothing is measured or clipped another way for it."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins.precision import Precision
from torch import Tensor

from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.diagnosis import StepSignals
from lightning_adam.monitoring import Record
from tests.digits import Digits, digits_loader, trainer
from tests.test_light_steps import Norms

STEPS = 40
METHOD = "clip_grad_by_norm"


class Recording(DivergenceMonitor):
    """Keeps each step's signals."""

    def __init__(self) -> None:
        super().__init__(every_n_steps=1000)
        self.told: list[StepSignals] = []

    def on_record(self, position: int, record: Record) -> None:
        self.told.extend([record] if isinstance(record, StepSignals) else [])


class Plain(Digits):
    """Clipped by nobody but the Trainer; remembers its gradients' norm before that, as torch gives it."""

    def __init__(self, poison: tuple[int, ...] = ()) -> None:
        super().__init__(clip=None)
        self.spoilt, self.true = poison, list[float]()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Of each tensor: one of them is not finite in a poisoned step."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if self.global_step in self.spoilt:
            gradients[-1][0] = math.nan
        self.true.append(float(torch.nn.utils.get_total_norm(gradients)))


def fit(module: Digits, *callbacks: Callback, **options: Any) -> list[Tensor]:
    """The weights afterwards."""
    clipped = {"gradient_clip_val": 0.5, **options}
    trainer(max_steps=STEPS, callbacks=list(callbacks), log_every_n_steps=10, **clipped).fit(module, digits_loader())
    return [p.detach().clone() for p in module.parameters()]


def test_the_recorded_norm_is_that_of_lightnings_clipping_and_the_weights_are_its_own() -> None:
    """To the last bit that a signal keeps, and to the last bit of all."""
    module, monitor = Plain(), Recording()
    watched = fit(module, OptimizerMonitor(), monitor)

    assert all(torch.equal(one, other) for one, other in zip(watched, fit(Plain()), strict=True))
    assert [s.gradient_norm for s in monitor.told[1:]] == [float(f"{norm:.6g}") for norm in module.true[1:]]
    assert [s.clip_coefficient for s in monitor.told] == pytest.approx([min(1.0, 0.5 / n) for n in module.true], rel=1e-4)
    assert min(module.true) < 0.5 < max(module.true)


def norms_of_late_steps(*callbacks: Callback) -> int:
    """That are computed while the last twenty steps are taken, without those of the module's own."""
    counted = Norms()

    class Counting(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == STEPS - 20:
                counted.__enter__()

    try:
        fit(Digits(clip=None, lr=1e-4), *callbacks, Counting())
    finally:
        counted.__exit__(None, None, None)
    return counted.count


def test_no_norm_is_computed_beside_lightnings() -> None:
    """As many with both monitors as without, in logged steps, too."""
    assert norms_of_late_steps(Recording(), OptimizerMonitor()) == norms_of_late_steps() > 0


def test_tensor_that_is_not_finite_is_named_though_lightning_has_spoilt_all_of_them() -> None:
    """A norm that is not a number makes every gradient one."""
    monitor = Recording()
    fit(Plain(poison=(30,)), monitor)
    (found,) = [finding for finding in monitor.findings if finding.rule == "NON-FINITE"]

    assert (found.step, found.parameters) == (30, ("net.2.bias",))


class Breaking(Callback):
    """In the middle of the run."""

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 20:
            raise RuntimeError("broken")


@pytest.mark.parametrize("others", [(), (Breaking(),)], ids=["to its end", "broken"])
def test_the_plugin_is_as_it_was_after_the_fit(others: tuple[Callback, ...]) -> None:
    """Nothing of the monitor's is left at it."""
    plugin = Precision()
    with suppress(RuntimeError):
        fit(Plain(), Recording(), DivergenceMonitor(), *others, plugins=[plugin])

    assert METHOD not in vars(plugin)


class Halving(Precision):
    """A user's own clipping."""

    def clip_grad_by_norm(self, optimizer: Any, clip_val: float) -> None:
        torch._foreach_mul_([p.grad for p in self.main_params(optimizer)], 0.5)


def test_a_plugin_that_clips_its_own_way_goes_on_doing_so() -> None:
    """With the monitor and without."""
    watched, alone = (fit(Plain(), *callbacks, plugins=[Halving()]) for callbacks in ([Recording()], []))

    assert all(torch.equal(one, other) for one, other in zip(watched, alone, strict=True))


def test_clipping_goes_on_where_measuring_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """By Lightning's own method."""

    def broken(*args: Any) -> None:
        raise RuntimeError("no norms")

    monkeypatch.setattr("lightning_adam.callbacks.trainer_clipping.torchs_norms", broken)
    watched = fit(Plain(), Recording())
    monkeypatch.undo()

    assert all(torch.equal(one, other) for one, other in zip(watched, fit(Plain()), strict=True))

"""The learning rate from one look: near the best, in fewer than twenty steps, and nothing is left behind."""

from __future__ import annotations

import copy
import math
import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_adam as la
from lightning_adam.learning_rate import KINDS, OWN, look_at_weights
from tests.digits import Digits, digits_loader, trainer

NAMES = [row.name for row in la.available_optimizers() if row.name != "paged_ademamix"]


class Auto(Digits):
    """With the rate left to the helper."""

    def configure_optimizers(self) -> Any:
        return la.configure_optimizers(self, lr="auto", schedule="constant", warmup=0)


class Counting(Digits):
    """Counts its training steps and their backward passes: on the class, for instances are set back."""

    steps = backwards = 0

    def __init__(self) -> None:
        super().__init__()
        Counting.steps = Counting.backwards = 0

    def training_step(self, batch: Any, index: int) -> Tensor:
        Counting.steps += 1
        loss = super().training_step(batch, index)
        loss.register_hook(self.count)
        return loss

    @staticmethod
    def count(gradient: Tensor) -> None:
        """Of one backward pass."""
        Counting.backwards += 1


class Physics(Digits):
    """A loss that is made of derivatives by the inputs."""

    def training_step(self, batch: Any, index: int) -> Tensor:
        inputs = batch[0].requires_grad_()
        (slope,) = torch.autograd.grad(self.net(inputs).sum(), inputs, create_graph=True)
        return (slope - 1).square().mean()


def loss_at(lr: float, steps: int = 120) -> float:
    """The mean of the last ten losses on the digits at a constant rate."""
    torch.manual_seed(0)
    module = Digits(lr=lr, schedule="constant", warmup=0)
    trainer(max_steps=steps, max_epochs=-1).fit(module, digits_loader())
    return sum(module.losses[-10:]) / 10


def test_the_rate_is_near_the_best_of_a_grid() -> None:
    """On the digits within a fifth of the best loss of five rates from 1e-3 to 0.1, or under 1 % of the first loss."""
    torch.manual_seed(0)
    found = la.suggest_lr(Digits(), digits_loader())

    best = min(loss_at(10**k) for k in (-3, -2.5, -2, -1.5, -1))
    assert loss_at(found.lr) <= max(1.2 * best, 0.023)


def test_sixteen_steps_and_nine_evaluations_are_all_it_takes() -> None:
    module = Counting()
    la.suggest_lr(module, digits_loader())

    assert (module.steps, module.backwards) == (25, 16)


def test_a_loss_made_of_derivatives_can_be_tried() -> None:
    """As that of a physics-informed network."""
    assert la.suggest_lr(Physics(), digits_loader()).trials


def test_no_seed_is_queued_for_a_device_that_nobody_has_used() -> None:
    """It would be what the device begins with, instead of the user's own, and cannot be taken back."""
    before = len(torch.cuda._queued_calls)
    la.suggest_lr(Digits(), digits_loader())

    assert len(torch.cuda._queued_calls) == before


class Dice(Digits):
    """Draws from Python's and NumPy's random numbers, as augmentation does, and has a gradient from before."""

    def __init__(self) -> None:
        super().__init__()
        self.net[0].weight.grad = torch.ones_like(self.net[0].weight)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return super().training_step(batch, index) * (1 + 0.1 * random.random()) + 0.1 * float(np.random.rand())


def test_random_numbers_of_python_and_numpy_and_a_gradient_are_as_before() -> None:
    module, before = Dice(), (random.getstate(), np.random.get_state()[1].tolist())
    gradient = module.net[0].weight.grad
    la.suggest_lr(module, digits_loader())

    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert module.net[0].weight.grad is gradient
    assert gradient is not None
    assert torch.equal(gradient, torch.ones_like(gradient))


def test_everything_is_as_before_where_a_step_raises() -> None:
    module = Counting()
    before = copy.deepcopy(module.state_dict())

    def third_step_raises(batch: Any, index: int) -> Tensor:
        if index == 2:
            raise KeyError("pixels")
        return Digits.training_step(module, batch, index)

    module.training_step = third_step_raises  # type: ignore[method-assign]
    with pytest.raises(la.ConfigError, match="pixels"):
        la.suggest_lr(module, digits_loader())
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())


def test_everything_is_bit_for_bit_as_before() -> None:
    """Weights, buffers, gradients, modes, torch's random numbers and those of the loader's shuffling."""
    torch.manual_seed(0)
    module, shuffling = Digits(), torch.Generator().manual_seed(3)
    module.norm = nn.BatchNorm1d(4)
    module.train().norm.eval()
    data = TensorDataset(torch.randn(64, 64), torch.randint(0, 10, (64,)))
    loader = DataLoader(data, batch_size=8, shuffle=True, generator=shuffling)
    before = copy.deepcopy(module.state_dict()), torch.get_rng_state(), shuffling.get_state()
    la.suggest_lr(module, loader)

    assert all(torch.equal(module.state_dict()[name], value) for name, value in before[0].items())
    assert torch.equal(torch.get_rng_state(), before[1])
    assert torch.equal(shuffling.get_state(), before[2])
    assert all(p.grad is None for p in module.parameters())
    assert module.training
    assert not module.norm.training


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_gets_a_rate_at_which_it_learns(name: str) -> None:
    """Sophia and the two that need no looking get theirs without a single step."""
    torch.manual_seed(0)
    module = Counting()
    found = la.suggest_lr(module, digits_loader(), name)

    assert 0 < found.lr < math.inf
    assert found.reason
    tried = name not in OWN and KINDS.get(name, KINDS["sgd"]).tried
    assert bool(found.trials) == tried == (module.steps > 0)
    if tried:
        assert min(found.trials.values()) < 2.3
        assert found.lr < 0.52 * min(found.trials, key=found.trials.__getitem__), "hundreds of steps bear less than five"


def test_the_reason_names_what_was_tried() -> None:
    found = la.suggest_lr(Digits(), digits_loader())

    assert str(found).startswith(f"lr={found.lr:g}: ")
    assert all(f"{rate:.2g}" in found.reason for rate in found.trials)
    assert "% of the weights" in found.reason
    assert float(found) == found.lr


def test_a_hundred_times_larger_weights_want_larger_rates() -> None:
    """Adam's step does not know how large the weights are; what it may be is a share of their size."""
    small, large = nn.Linear(8, 8), nn.Linear(8, 8)
    with torch.no_grad():
        large.weight.copy_(100 * small.weight)
    assert look_at_weights(large) == pytest.approx(100 * look_at_weights(small))
    nn.init.zeros_(small.weight)
    assert look_at_weights(small) == pytest.approx(look_at_weights(large) / 100, rel=0.5), "as it would usually begin"
    assert look_at_weights(large, "prodigy") == look_at_weights(small, "prodigy") == 1.0


class Louder(Digits):
    """With a loss a hundred times as large."""

    def training_step(self, batch: Any, index: int) -> Tensor:
        return 100 * super().training_step(batch, index)


def test_sgd_takes_a_share_of_the_fastest_rate_that_falls_as_the_loss_is_scaled_up() -> None:
    """Its step is the gradient's size: what diverges must not be suggested, however small the gradient seemed at first."""
    rates = []
    for kind in (Digits, Louder):
        torch.manual_seed(0)
        found = la.suggest_lr(kind(), digits_loader(), "sgd", weight_decay=0.0)
        assert found.lr == pytest.approx(0.2 * min(found.trials, key=found.trials.__getitem__), rel=0.05)
        rates.append(found.lr)
    assert rates[0] == pytest.approx(100 * rates[1], rel=0.05)


def suggested(kind: type[Digits], optimizer: str = "adamw") -> float:
    """For a module of this kind, always with the same weights."""
    torch.manual_seed(0)
    return la.suggest_lr(kind(), digits_loader(), optimizer).lr


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "muon"])
def test_a_louder_loss_changes_nothing_for_steps_of_a_given_length(optimizer: str) -> None:
    """They do not know the gradient's size, and L/‖g‖₁ does not either."""
    assert suggested(Louder, optimizer) == pytest.approx(suggested(Digits, optimizer), rel=0.05)


class Sensitive(Digits):
    """With inputs thirty times as large, so that small changes of the weights change much."""

    def training_step(self, batch: Any, index: int) -> Tensor:
        return super().training_step([30 * batch[0], batch[1]], index)


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "muon"])
def test_where_little_changes_much_the_rate_is_lower(optimizer: str) -> None:
    assert suggested(Sensitive, optimizer) < suggested(Digits, optimizer) / 2


class Floorless(Digits):
    """With a loss that begins near zero and falls from there."""

    def training_step(self, batch: Any, index: int) -> Tensor:
        return super().training_step(batch, index) - math.log(10)


@pytest.mark.parametrize("optimizer", ["adamw", "lion", "muon"])
def test_a_loss_that_begins_at_zero_gets_no_rate_near_zero(optimizer: str) -> None:
    """How far it has been seen to fall stands for its size."""
    assert 1 / 4 < suggested(Floorless, optimizer) / suggested(Digits, optimizer) < 2


def test_muon_gets_about_adams_rate_though_five_of_its_steps_bear_more() -> None:
    """Its steps have the rms that Adam's come to, while Adam's first ones are several times as long."""
    found = {}
    for name in ("adamw", "muon"):
        torch.manual_seed(0)
        found[name] = la.suggest_lr(Digits(), digits_loader(), name)

    assert found["adamw"].lr / 3 < found["muon"].lr < 3 * found["adamw"].lr
    fastest = {name: min(one.trials, key=one.trials.__getitem__) for name, one in found.items()}
    assert found["muon"].lr / fastest["muon"] < found["adamw"].lr / fastest["adamw"]


def test_auto_in_a_trainer_says_what_it_took_and_keeps_it_on_resume(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The resumed run's weights would suggest another rate; the schedule must not jump."""
    first = trainer(max_steps=20, max_epochs=-1)
    first.fit(Auto(), digits_loader())
    lr = first.optimizers[0].param_groups[0]["lr"]
    first.save_checkpoint(tmp_path / "last.ckpt")
    assert f"lr='auto' is lr={lr:g}: " in caplog.text
    caplog.clear()

    again = trainer(max_steps=40, max_epochs=-1)
    again.fit(Auto(), digits_loader(), ckpt_path=tmp_path / "last.ckpt")
    assert again.optimizers[0].param_groups[0]["lr"] == lr
    assert "lr='auto'" not in caplog.text


def test_another_optimizer_after_a_reset_gets_a_rate_of_its_own(tmp_path: Path) -> None:
    """The checkpoint's is AdamW's; Lion's is a tenth of it or so."""
    first = trainer(max_steps=5, max_epochs=-1)
    first.fit(Auto(), digits_loader())
    first.save_checkpoint(tmp_path / "last.ckpt")

    class Another(Digits):
        def configure_optimizers(self) -> Any:
            return la.configure_optimizers(self, "lion", lr="auto", schedule="constant", warmup=0, reset_optimizer=True)

    again = trainer(max_steps=10, max_epochs=-1)
    with pytest.warns(la.LightningAdamWarning, match="reset_optimizer"):
        again.fit(Another(), digits_loader(), ckpt_path=tmp_path / "last.ckpt")
    assert again.optimizers[0].param_groups[0]["lr"] != first.optimizers[0].param_groups[0]["lr"]


def test_preflight_judges_a_module_that_leaves_the_rate_to_the_helper() -> None:
    """It finds the rate on the batches that preflight was given."""
    report = la.preflight(Auto(), digits_loader())

    assert not report.findings
    assert "OPTIMIZER-STALE" not in report.not_judged
    assert "LR-HIGH" not in report.not_judged


def test_a_description_before_training_says_that_the_rate_is_not_known_yet() -> None:
    told = str(la.describe(Auto()))

    assert "not known yet: " in told
    assert "lr='auto'" in told


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true", "bf16-true"])
def test_auto_under_a_precision(precision: Any) -> None:
    module = Auto()
    fit = trainer(max_steps=3, max_epochs=-1, precision=precision)
    fit.fit(module, digits_loader())

    assert 1e-3 < fit.optimizers[0].param_groups[0]["lr"] < 1


def test_auto_with_manual_optimization_looks_at_the_weights_alone() -> None:
    class Manual(Auto):
        automatic_optimization = False

        def training_step(self, batch: Any, index: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, index))
            optimizer.step()

    module = Manual()
    module.automatic_optimization = False
    fit = trainer(max_steps=3, max_epochs=-1)
    fit.fit(module, digits_loader())
    assert fit.optimizers[0].param_groups[0]["lr"] == pytest.approx(look_at_weights(Digits()), rel=0.3)


class Data(L.LightningDataModule):
    """The digits."""

    def train_dataloader(self) -> Any:
        return digits_loader()


def test_data_may_come_from_a_datamodule() -> None:
    """The digits come in order and there is no dropout: the rate is the same to the last bit."""
    by_hand = la.suggest_lr(Digits(), Data(), schedule="constant", warmup=0).lr
    fit = trainer(max_steps=3, max_epochs=-1)
    fit.fit(Auto(), datamodule=Data())
    assert fit.optimizers[0].param_groups[0]["lr"] == by_hand


def test_options_of_the_optimizer_are_tried_too() -> None:
    plain = la.suggest_lr(Digits(), digits_loader(), "sgd", momentum=0.0, nesterov=False)
    fast = la.suggest_lr(Digits(), digits_loader(), "sgd", momentum=0.99)

    assert all(plain.trials[rate] != fast.trials[rate] for rate in plain.trials)


class NotFinite(Digits):
    """Whose loss is no number."""

    def training_step(self, batch: Any, index: int) -> Tensor:
        return super().training_step(batch, index) * math.nan


class Flat(Digits):
    """A loss that nothing changes."""

    def training_step(self, batch: Any, index: int) -> Tensor:
        return 0.0 * super().training_step(batch, index)


class Broken(Digits):
    """Whose step raises."""

    def training_step(self, batch: Any, index: int) -> Tensor:
        raise KeyError("pixels")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: la.suggest_lr(nn.Linear(2, 2), digits_loader()), "give a LightningModule"),
        (lambda: la.suggest_lr(NotFinite(), digits_loader()), r"not finite at any of .*la\.preflight"),
        (lambda: la.suggest_lr(Broken(), digits_loader()), "trying rates raised KeyError: 'pixels'"),
        (lambda: la.suggest_lr(Flat(), digits_loader(), "sgd"), r"allow no rate .*la\.preflight"),
        (lambda: la.suggest_lr(Digits(), []), "has no batch"),
        (lambda: la.suggest_lr(Digits(), digits_loader(), lr=1e-3), "lr=0.001: suggest_lr finds it"),
        (lambda: la.suggest_lr(Digits(), digits_loader(), beta=(0.9, 0.9)), "Did you mean 'betas'"),
        (lambda: la.suggest_lr(Digits(), digits_loader(), betas=(1.9, 0.9)), r"betas=\(1\.9, 0\.9\)"),
        (lambda: la.suggest_lr(Digits(), digits_loader(), "adamww"), "Did you mean 'adamw'"),
        (lambda: la.configure_optimizers(Digits(), lr="auto", total_steps=9), "there is no trainer: write lr=float"),
        (lambda: la.configure_optimizers(Digits(), lr="automatic", total_steps=9), "Did you mean 'auto'"),  # type: ignore[arg-type]
        (lambda: la.optimizer_class("adamw", lr="auto")(Digits().parameters()), "needs data to look at"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_suggested_is_said(ask: Any, message: str) -> None:
    with pytest.raises(la.ConfigError, match=message):
        ask()

"""Several optimizers stepped by hand: each with its own part of the module, its own schedule and its own clipping."""

from __future__ import annotations

import warnings
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.diagnosis import Diagnosis
from lightning_adam.diagnosis.case import Case
from tests.digits import Digits, digits_loader, trainer


class DigitsGAN(L.LightningModule):
    """A generator of digits and its discriminator."""

    def __init__(self, extra: nn.Module | None = None, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64), nn.Sigmoid())
        self.discriminator = nn.Sequential(nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
        self.extra, self.options = extra, options
        self.used: dict[str, list[float]] = {"generator": [], "discriminator": []}
        self.norms: dict[str, list[float]] = {"generator": [], "discriminator": []}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One step of each."""
        fake = self.generator(torch.randn(len(batch[0]), 8))
        optimizers: Any = self.optimizers()
        for name, optimizer, loss in (
            ("discriminator", optimizers[1], self.realism(batch[0], 1) + self.realism(fake.detach(), 0)),
            ("generator", optimizers[0], self.realism(fake, 1)),
        ):
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.used[name].append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            self.norms[name].append(float(torch.nn.utils.get_total_norm([p.grad for p in getattr(self, name).parameters()])))

    def realism(self, images: Tensor, label: int) -> Tensor:
        """Cross-entropy of calling them real (1) or not (0)."""
        logits = self.discriminator(images)
        return nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(label)))

    def configure_optimizers(self) -> Any:
        """One call each."""
        parts = ("generator.*", "discriminator.*")
        return tuple([la.configure_optimizers(self, preset="gan", parameters=part, **self.options) for part in parts])


def test_schedules_share_max_steps() -> None:
    """Lightning's max_steps counts both optimizers' steps: with 20, each does ten, and its schedule ends with them."""
    module = DigitsGAN(schedule="linear", warmup=0)
    trainer(max_steps=20).fit(module, digits_loader())

    assert len(module.used["generator"]) == 10
    assert module.used["generator"] == pytest.approx([2e-4 * (1 - k / 10) for k in range(10)])
    assert module.used["discriminator"] == module.used["generator"]


def test_each_is_clipped_by_itself() -> None:
    """With clip=0.01 both reach that norm."""
    module = DigitsGAN(clip=0.01)
    trainer(max_steps=8).fit(module, digits_loader())

    assert module.norms["generator"] == pytest.approx([0.01] * 4, rel=1e-2)
    assert module.norms["discriminator"] == pytest.approx([0.01] * 4, rel=1e-2)


def test_groups_hold_their_part_only() -> None:
    """The pattern's names and no others."""
    module = DigitsGAN()
    fit = trainer(max_steps=2)
    fit.fit(module, digits_loader())
    names = [{n.split(".")[0] for g in o.param_groups for n in g["adam_names"]} for o in fit.optimizers]

    assert names == [{"generator"}, {"discriminator"}]


def test_parameters_without_an_optimizer_are_named_before_training() -> None:
    """A part that nobody trains is an error at the start, with the way out."""
    with pytest.raises(la.ConfigError, match=r"2 trainable parameters are in no optimizer \(extra.weight, extra.bias\)"):
        trainer(max_steps=2).fit(DigitsGAN(extra=nn.Linear(2, 2)), digits_loader())


def test_part_of_a_module_in_automatic_optimization_is_refused() -> None:
    """One optimizer for half of the module would leave the other half as it is."""
    with pytest.raises(la.ConfigError, match=r"leaves 2 trainable parameters \(net.2.weight"):
        trainer(max_steps=2).fit(Digits(parameters="net.0.*"), digits_loader())


class ByClosure(Digits):
    """Steps by hand; L-BFGS needs the closure."""

    def __init__(self, gives_closure: bool) -> None:
        super().__init__(optimizer="lbfgs")
        self.automatic_optimization, self.gives_closure = False, gives_closure

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:  # type: ignore[override]
        """One step."""
        optimizer: Any = self.optimizers()

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = super(ByClosure, self).training_step(batch, batch_idx)
            self.manual_backward(loss)
            return loss

        optimizer.step(closure) if self.gives_closure else optimizer.step()


def test_lbfgs_by_hand_trains_and_says_that_it_needs_a_closure() -> None:
    module = ByClosure(gives_closure=True)
    trainer(max_steps=3).fit(module, digits_loader())
    assert module.losses[-1] < module.losses[0]
    with pytest.raises(la.ConfigError, match=r"call optimizer.step\(closure\), with a closure that"):
        trainer(max_steps=1).fit(ByClosure(gives_closure=False), digits_loader())


def test_lbfgs_by_hand_says_nothing_of_its_loss() -> None:
    """torch warns, once in a process, where a loss with its graph becomes a number."""
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Converting a tensor with requires_grad=True")
            trainer(max_steps=1).fit(ByClosure(gives_closure=True), digits_loader())
    finally:
        torch.set_warn_always(False)


def test_sophia_passes_over_the_loss_of_another_optimizer() -> None:
    """The discriminator's, first of the two, does not depend on the generator."""
    gan = DigitsGAN(optimizer="sophia")
    gan.configure_optimizers = lambda: [  # type: ignore[method-assign]
        la.configure_optimizers(gan, name, parameters=part) for name, part in (("sophia", "gen*"), ("adamw", "disc*"))
    ]
    before = [p.detach().clone() for p in gan.generator.parameters()]
    trainer(max_epochs=1, limit_train_batches=3).fit(gan, digits_loader())
    assert not any(torch.equal(old, new) for old, new in zip(before, gan.generator.parameters(), strict=True))


def test_pattern_that_matches_nothing_is_refused() -> None:
    """The nearest name is offered."""
    with pytest.raises(la.ConfigError, match="Did you mean"):
        la.configure_optimizers(nn.Sequential(nn.Linear(2, 2)), parameters="0.wieght", total_steps=5)


def test_helper_and_monitors_leave_nothing_behind_after_a_second_fit() -> None:
    """Two fits of one trainer: as many callbacks as after the first, and no hooks on the optimizers."""
    fit = trainer(max_steps=4, callbacks=[OptimizerMonitor(1)])
    module = DigitsGAN()
    fit.fit(module, digits_loader())
    count = len(fit.callbacks)
    fit.fit_loop.epoch_loop.max_steps = 8
    fit.fit(module, digits_loader())

    assert len(fit.callbacks) == count
    assert not any(o._optimizer_step_post_hooks for o in fit.optimizers)


class AccumulatesByHand(Digits):
    """Steps once in four batches."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """A quarter of the loss each time."""
        optimizer: Any = self.optimizers()
        self.manual_backward(nn.functional.cross_entropy(self.net(batch[0]), batch[1]) / 4)
        if batch_idx % 4 == 3:
            optimizer.step()
            optimizer.zero_grad()


def test_progress_of_a_run_that_accumulates_by_hand_is_counted_in_its_own_steps() -> None:
    """The log's axis counts batches, ``max_steps`` counts steps: at the third of four, 75 % are over."""
    records: list[Any] = []

    class Recording(DivergenceMonitor):
        def on_record(self, position: int, record: Any) -> None:
            records.append(record)

    trainer(max_steps=4, callbacks=[Recording()]).fit(AccumulatesByHand(), digits_loader())
    run, *steps = records
    diagnosis = Diagnosis(run)
    for signals in steps[:2]:
        diagnosis.observe(signals)

    assert [signals.step for signals in steps] == [3, 7, 11, 15]
    assert Case(steps[2], diagnosis.history, run).progress == 0.75

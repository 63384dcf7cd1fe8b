"""A drill for DivergenceMonitor's actions: whatever is spoilt, the run goes on to learn, or stops with all saved."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, StochasticWeightAveraging
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.monitoring.gradients import are_finite, moments_of
from lightning_adam.optimizers import available_optimizers
from tests.digits import Digits, digits_loader, trainer

NAN = float("nan")
ACTIONS = ("rollback", "reduce_lr", "skip_step", "stop")


def _nan_batch(module: nn.Module, optimizer: Any) -> None:
    """Gradients of a batch with a NaN in it."""
    for parameter in module.parameters():
        assert parameter.grad is not None
        parameter.grad.fill_(NAN)


def _infinite_gradient(module: nn.Module, optimizer: Any) -> None:
    first = next(module.parameters())
    assert first.grad is not None
    first.grad[0, 0] = float("inf")


@torch.no_grad()
def _spiked_weights(module: nn.Module, optimizer: Any) -> None:
    for parameter in module.parameters():
        parameter.mul_(1e5)


def _corrupted_moments(module: nn.Module, optimizer: Any) -> None:
    for state in optimizer.state.values():
        state["exp_avg"].fill_(NAN)


FAULTS: dict[str, Callable[[nn.Module, Any], None]] = {
    "a NaN batch": _nan_batch,
    "an infinite gradient": _infinite_gradient,
    "spiked weights": _spiked_weights,
    "corrupted moments": _corrupted_moments,
}
STEPS = 100


def drill(
    action: str, fault: str, at: Sequence[int], steps: int = STEPS, most: int = 8
) -> tuple[Any, nn.Module, Any, list[float]]:
    """Regression on noise-free data, with the fault right before the optimizer's step."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-2)
    losses: list[float] = []
    with la.watch(module, optimizer, on_divergence=action, max_actions=most, check_every_n_steps=5) as watch:
        for step in range(steps):
            x = torch.randn(32, 8)
            optimizer.zero_grad()
            loss = (module(x) - x.sum(1, keepdim=True)).square().mean()
            losses.append(loss.item())
            watch.loss(loss).backward()
            if step in at:
                FAULTS[fault](module, optimizer)
            optimizer.step()
            if watch.should_stop:
                break
    return watch, module, optimizer, losses


@pytest.mark.parametrize("number_of_faults", [4, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("action", ACTIONS)
def test_faults_end_as_promised(action: str, number_of_faults: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At random steps: in the end weights and moments are finite and the loss is what it was, or all is saved."""
    chance = random.Random(action)
    for number in range(number_of_faults):
        fault, at = list(FAULTS)[number % 4], sorted(chance.sample(range(25, 70), 1 + number % 2))
        (tmp_path / str(number)).mkdir()
        monkeypatch.chdir(tmp_path / str(number))
        watch, module, optimizer, losses = drill(action, fault, at)
        case = f"{action}: {fault} at {at}"

        finite = are_finite([*module.parameters(), *(m for p in module.parameters() for m in moments_of(optimizer, p))])
        saved = list((tmp_path / str(number)).glob("adam_stopped_step_*.pt"))
        assert bool(saved) == watch.should_stop, case
        assert finite or watch.should_stop, case
        if action == "rollback":
            assert finite and len(losses) == STEPS and sum(losses[-5:]) < 0.9 * sum(losses[:5]), case
        if action == "skip_step" and fault in ("a NaN batch", "an infinite gradient"):
            assert finite and len(losses) == STEPS and losses[-1] < 0.3 * losses[0], case
        if action in ("stop", "reduce_lr") and fault != "spiked weights":
            assert watch.should_stop, case


@pytest.mark.parametrize("second", [72, 79, 85])
def test_a_spike_soon_after_an_action_is_answered_too(second: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was usual before the first one is known still, so that the second one stands out."""
    monkeypatch.chdir(tmp_path)
    watch, _, _, losses = drill("rollback", "spiked weights", (60, second), steps=110)

    done = [finding.step for finding in watch.findings if "action" in finding.evidence]
    assert len(done) == 2 and 0 <= done[1] - second <= 8
    assert losses[-1] < 0.3 * losses[0]


def test_an_action_that_does_not_help_ends_the_run_with_all_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lower rate mends no weights that have exploded: when none is left to lower it again, the run stops."""
    monkeypatch.chdir(tmp_path)
    watch, _, _, losses = drill("reduce_lr", "spiked weights", (60,), steps=140, most=2)

    assert watch.should_stop and len(losses) < 140
    assert len(list(tmp_path.glob("adam_stopped_step_*.pt"))) == 1
    assert "no action is left" in watch.findings[-1].message


def test_optimizers_that_step_at_different_paces_are_gone_back_with(tmp_path: Path) -> None:
    """The second one takes a step in ten: a NaN in it is answered, each time."""
    torch.manual_seed(0)
    module = nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1)])
    often, seldom = (torch.optim.AdamW(part.parameters(), lr=1e-2) for part in module)
    with la.watch(module, [often, seldom], on_divergence="rollback", check_every_n_steps=5) as watch:
        for step in range(300):
            now, part = (seldom, module[1]) if step % 10 == 9 else (often, module[0])
            now.zero_grad()
            loss = (part(torch.randn(16, 4)) - 1).square().mean() * (NAN if step in (199, 259) else 1.0)
            watch.loss(loss).backward()
            now.step()

    assert len([finding for finding in watch.findings if "action" in finding.evidence]) == 2
    assert are_finite(list(module.parameters()))


@pytest.mark.parametrize("at", [(0,), (60,), (60, 61), (60, 65), (60, 85)])
def test_a_nan_is_gone_back_from_whenever_it_comes(at: tuple[int, ...]) -> None:
    """At the first step, and again while the run has not answered the last rollback yet."""
    module, monitor = Digits(poison=at, schedule="constant"), DivergenceMonitor("rollback")
    trainer(max_steps=110, callbacks=[monitor]).fit(module, digits_loader())

    done = [finding for finding in monitor.findings if "action" in finding.evidence]
    assert [finding.step for finding in done] == list(at)
    assert all("random numbers" in finding.message for finding in done)
    assert are_finite(list(module.parameters())) and module.losses[-1] < module.losses[1]


class Handmade(Callback):
    """An average as people write it themselves."""

    def __init__(self) -> None:
        self.shadow: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        """Half of what was, half of what is."""
        for name, value in module.state_dict().items():
            self.shadow[name] = 0.5 * self.shadow.get(name, value) + 0.5 * value


@pytest.mark.parametrize("comes_first", [True, False], ids=["average first", "monitor first"])
@pytest.mark.parametrize("kind", ["EMA", "SWA", "handmade"])
def test_averages_go_back_with_the_weights(kind: str, comes_first: bool) -> None:
    """Whichever callback sees the batch first: the averaged model is finite, too."""
    handmade = Handmade()
    make: dict[str, Callable[[], Callback]] = {
        "EMA": EMAWeightAveraging,
        "SWA": lambda: StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=1),
        "handmade": lambda: handmade,
    }
    module, monitor = Digits(poison=(40,)), DivergenceMonitor("rollback")
    callbacks = [make[kind](), monitor] if comes_first else [monitor, make[kind]()]
    trainer(max_epochs=3, max_steps=84, callbacks=callbacks).fit(module, digits_loader())

    assert any("went back" in finding.message for finding in monitor.findings)
    assert are_finite([*module.parameters(), *handmade.shadow.values()])


class Normalised(Digits):
    """BatchNorm takes a batch into its averages before anybody sees the loss."""

    def __init__(self, bad: int, **options: Any) -> None:
        super().__init__(**options)
        self.net.insert(1, nn.BatchNorm1d(64))
        self.bad = bad

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """One batch is all NaN."""
        images, labels = batch
        return super().training_step((images * NAN if self.seen == self.bad else images, labels), batch_idx)


@pytest.mark.parametrize("action", ["skip_step", "rollback"])
def test_buffers_do_not_keep_what_was_left_out(action: str) -> None:
    """The running mean of BatchNorm is finite again."""
    module = Normalised(20)
    trainer(max_steps=40, callbacks=[DivergenceMonitor(action)]).fit(module, digits_loader())

    assert are_finite([*module.parameters(), *module.buffers()])


@pytest.mark.parametrize("action", ["rollback", "skip_step"])
@pytest.mark.parametrize("optimizer", [spec.name for spec in available_optimizers()])
def test_every_optimizer_survives_a_nan_batch(optimizer: str, action: str) -> None:
    """Weights and all that it keeps are finite afterwards, whatever its state looks like, and no step ends the run."""
    if action == "skip_step" and optimizer not in SKIPPING:
        pytest.skip("as adamw does it")
    module = Digits(optimizer=optimizer)
    module.poison = tuple(range(12, 60)) if optimizer == "lbfgs" else (12,)
    monitor = DivergenceMonitor(action, max_actions=40)
    fit = trainer(max_steps=4 if optimizer == "lbfgs" else 18, callbacks=[monitor])
    fit.fit(module, digits_loader())

    assert [finding for finding in monitor.findings if "action" in finding.evidence]
    kept = [moment for o in fit.optimizers for parameter in o.state for moment in moments_of(o, parameter)]
    assert monitor.failures == frozenset()
    assert are_finite([*module.parameters(), *kept]) or fit.should_stop


SKIPPING = ("adamw", "lion", "ranger21", "sophia", "schedulefree_adamw", "prodigy", "soap", "adafactor", "lbfgs")
"""Whose steps without a gradient are each another library's, or another kind."""


class Halves(Digits):
    """The body and the head have an optimizer of the same kind each, stepped by hand."""

    automatic_optimization = False  # type: ignore[assignment]

    def configure_optimizers(self) -> Any:
        """Two calls of the helper."""
        parts = ("net.0.*", "net.2.*")
        made = [la.configure_optimizers(self, **{**self.options, "parameters": part}) for part in parts]
        return [m["optimizer"] for m in made]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Both take the same backward."""
        loss, optimizers = super().training_step(batch, batch_idx), self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        return loss


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"accumulate_grad_batches": 2},
    "EMA first": {"callbacks": EMAWeightAveraging},
    "fp16": {"plugins": lambda: MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=16.0))},
}


@pytest.mark.slow
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("setting", [*SETTINGS, "two optimizers"])
@pytest.mark.parametrize("optimizer", [spec.name for spec in available_optimizers() if spec.name != "lbfgs"])
def test_every_optimizer_is_saved_in_every_setting(optimizer: str, setting: str, action: str, tmp_path: Path) -> None:
    """After a NaN batch all that is kept is finite and the run has its last step, or it has stopped with a checkpoint."""
    kind = Halves if setting == "two optimizers" else Digits
    module, monitor = kind(poison=(12, 13), optimizer=optimizer, total_steps=40), DivergenceMonitor(action, max_actions=8)
    made = {name: [make()] if callable(make) else make for name, make in SETTINGS.get(setting, {}).items()}
    callbacks = [*made.pop("callbacks", []), monitor]
    fit = trainer(max_steps=24, callbacks=callbacks, default_root_dir=tmp_path, **made)
    try:
        fit.fit(module, digits_loader())
    except la.ConfigError as refusal:
        pytest.skip(f"refused beforehand: {refusal}")

    kept = [moment for o in fit.optimizers for parameter in o.state for moment in moments_of(o, parameter)]
    finite, saved = are_finite([*module.parameters(), *kept]), list(tmp_path.glob("adam_stopped_step_*.ckpt"))
    assert monitor.failures == frozenset()
    assert fit.should_stop == bool(saved) or fit.global_step >= 24
    assert saved or finite
    assert saved or fit.global_step >= 24

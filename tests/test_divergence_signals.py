"""What DivergenceMonitor reads and writes in real runs: signals, several optimizers, resumes, a log to replay."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.diagnosis import RunSignals, StepSignals, decode, replay
from lightning_adam.diagnosis.finding import as_told
from lightning_adam.doctor import report
from lightning_adam.monitoring.guard import Guard
from lightning_adam.monitoring.zeroing import ZeroingWatch
from tests.digits import Digits, digits_loader, trainer


class Recording(DivergenceMonitor):
    """Keeps what the rules are told."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.told: list[RunSignals | StepSignals] = []

    def on_record(self, position: int, record: RunSignals | StepSignals) -> None:
        """What the rules see."""
        self.told.append(record)

    @property
    def steps(self) -> list[StepSignals]:
        """Without the run's records."""
        return [r for r in self.told if isinstance(r, StepSignals)]


def record(module: L.LightningModule, steps: int = 60, **options: Any) -> Recording:
    """Train with a recording monitor."""
    monitor = Recording()
    trainer(**{"max_steps": steps, "callbacks": [monitor], **options}).fit(module, digits_loader())
    return monitor


def test_log_can_be_replayed(tmp_path: Path) -> None:
    """The signals in the event file are those that the live rules saw: the same findings come out."""
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    monitor = record(Digits(poison=(130,), poison_factor=1e4, clip=None), 250, logger=logger)
    events = EventAccumulator(logger.log_dir, size_guidance={"tensors": 0}).Reload().Tensors("adam_signals")
    records = [r for event in events for r in decode(event.tensor_proto.string_val[0])]

    assert len(events) < 8
    assert repr(records) == repr(monitor.told)
    assert repr([as_told(finding) for finding in replay(records).findings]) == repr(monitor.findings)
    assert "BAD-BATCH" in [f.rule for f in monitor.findings]


def test_light_signals_come_every_step_and_heavy_ones_when_asked() -> None:
    """All tensors on each of the first ten steps and on every 20th."""
    steps = record(Digits()).steps

    assert [s.step for s in steps] == list(range(60))
    assert [s.step for s in steps if s.heavy is not None] == [*range(10), 20, 40]


def test_loss_and_norm_are_the_real_ones() -> None:
    """Six digits of the loss, and of the total gradient norm before clipping."""
    module = Digits(clip=0.1)
    norms: list[float] = []

    class Norms(L.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters()])))

    monitor = Recording()
    trainer(max_steps=30, callbacks=[monitor, Norms()]).fit(module, digits_loader())

    assert [s.loss for s in monitor.steps] == pytest.approx(module.losses, rel=1e-5)
    assert [s.gradient_norm for s in monitor.steps] == pytest.approx(norms, rel=1e-5)
    assert [s.clip_coefficient for s in monitor.steps] == pytest.approx([min(1.0, 0.1 / n) for n in norms], rel=1e-4)


def test_accumulated_loss_is_the_mean() -> None:
    """One record per optimizer step, whose loss is the mean over its batches."""
    module = Digits()
    steps = record(module, 10, accumulate_grad_batches=4).steps

    assert len(steps) == 10
    assert steps[3].loss == pytest.approx(sum(module.losses[12:16]) / 4, rel=1e-5)


def test_scaled_loss_is_told_unscaled() -> None:
    """Under fp16 the loss and the gradient norm are without the scale, and the scale is a signal."""
    plugin = MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    module = Digits()
    steps = record(module, 10, plugins=[plugin]).steps

    assert [s.loss for s in steps] == pytest.approx(module.losses, rel=1e-2)
    assert steps[0].gradient_norm < 10
    assert steps[0].scale == 1024.0


def test_first_step_is_measured_against_the_weights_before_it() -> None:
    """A step that is larger than the weights is told as such: at lr=1 every weight moves by 1."""
    module = Digits(lr=1.0, warmup=0, clip=None, weight_decay=0.0)
    before = float(module.net[0].weight.norm())
    first = record(module, 2).steps[0].heavy

    assert first is not None
    moved = math.sqrt(64 * 64)
    assert first.update_ratio_max >= 0.5 * moved / before > 1


def test_zero_initialised_matrix_is_not_an_alarm() -> None:
    """LoRA's second factor and many heads begin at zero: their first step is infinitely large, and harmless."""
    module = Digits(lr=1e-3, warmup=0)
    nn.init.zeros_(module.net[2].weight)

    assert [f.rule for f in record(module).findings if f.severity != "info"] == []


class ByHand(Digits):
    """Manual optimization; may forget to clear the gradients."""

    def __init__(self, forget: bool) -> None:
        super().__init__()
        self.forget, self.automatic_optimization = forget, False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        """Backward and step."""
        optimizer: Any = self.optimizers()
        if not self.forget:
            optimizer.zero_grad()
        self.manual_backward(nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
        optimizer.step()


@pytest.mark.parametrize("forget", [True, False])
def test_forgotten_zero_grad_is_seen_exactly(forget: bool) -> None:
    """From the second step on in the one case, never in the other."""
    assert [s.not_zeroed for s in record(ByHand(forget), 20).steps] == [False, *[forget] * 19]


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_that_another_loss_has_added_to_and_that_were_cleared_then_are_cleared(to_none: bool) -> None:
    """As in a GAN: the generator's loss adds to the discriminator's gradients between two of its steps."""
    layer = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    watch = ZeroingWatch(optimizer, Guard())
    for _ in range(3):
        optimizer.zero_grad(set_to_none=to_none)
        layer(torch.ones(1, 3)).sum().backward()
        assert not watch.not_zeroed
        optimizer.step()
        watch.after_step()
        layer(torch.ones(1, 3)).sum().backward()
    layer(torch.ones(1, 3)).sum().backward()

    assert watch.not_zeroed
    watch.detach()


class Pair(L.LightningModule):
    """Two networks with an optimizer each; the second one's rate is hopeless."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.a, self.b = nn.Linear(64, 10), nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One step each."""
        optimizers: Any = self.optimizers()
        for net, optimizer in zip((self.a, self.b), optimizers, strict=True):
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(net(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        """Plain Adam."""
        return [torch.optim.Adam(self.a.parameters(), lr=1e-3), torch.optim.Adam(self.b.parameters(), lr=1.0)]


def test_of_several_optimizers_the_sick_one_is_named() -> None:
    """The finding carries its prefix, on the console line too."""
    findings = [f for f in record(Pair(), 120).findings if f.severity != "info"]

    assert {f.optimizer for f in findings} == {"adam-Adam-1"}
    assert findings[0].rule == "LR-HIGH"
    assert "(adam-Adam-1)" in findings[0].line()


def test_lost_moments_are_found_on_resume(tmp_path: Path) -> None:
    """A checkpoint whose optimizer state was dropped: the first step after the resume says so; with the state, nothing."""
    first = trainer(max_steps=56, callbacks=[DivergenceMonitor()])
    first.fit(Digits(total_steps=112), digits_loader())
    first.save_checkpoint(tmp_path / "whole.ckpt")
    stored = torch.load(tmp_path / "whole.ckpt", weights_only=True)
    stored["optimizer_states"][0]["state"] = {}
    torch.save(stored, tmp_path / "stripped.ckpt")

    found = {}
    for name in ("whole", "stripped"):
        monitor = DivergenceMonitor()
        rest = trainer(max_steps=70, callbacks=[monitor])
        rest.fit(Digits(total_steps=112), digits_loader(), ckpt_path=tmp_path / f"{name}.ckpt")
        found[name] = [(f.rule, f.step) for f in monitor.findings]
    assert found == {"whole": [], "stripped": [("STATE-LOST", 56)]}


def test_a_further_fit_is_no_resume(recwarn: pytest.WarningsRecorder) -> None:
    """The folds of a cross validation by one trainer: a new optimizer is information, no checkpoint is missed."""
    monitor = DivergenceMonitor()
    folds = trainer(max_epochs=1, callbacks=[monitor])
    for epochs in (1, 2):
        folds.fit_loop.max_epochs = epochs
        folds.fit(Digits(), digits_loader())

    assert [(f.rule, f.severity, f.step) for f in monitor.findings] == [("STATE-LOST", "info", 28)]
    assert not [w for w in recwarn if issubclass(w.category, la.LightningAdamWarning)]


def test_unused_and_frozen_parameters_are_told_apart() -> None:
    """A trainable layer without gradients is advice; a frozen one is the user's will, one without elements is nothing."""

    class Spare(Digits):
        def __init__(self, spare: nn.Module) -> None:
            super().__init__(warmup=10)
            self.spare = spare

    def found(spare: nn.Module) -> list[tuple[str, str, tuple[str, ...]]]:
        return [(f.rule, f.severity, f.parameters) for f in record(Spare(spare), 30, max_epochs=-1).findings]

    assert found(nn.Linear(4, 4)) == [("UNUSED-PARAMETER", "info", ("spare.weight", "spare.bias"))]
    assert found(nn.Linear(4, 4).requires_grad_(False)) == []
    assert found(nn.ParameterList([torch.empty(0), torch.empty(4, 0)])) == []


def test_watched_logits_are_signals() -> None:
    """The largest |output| of the modules that the user names."""
    monitor = Recording(logits=["net.2"])
    trainer(max_steps=3, callbacks=[monitor]).fit(Digits(), digits_loader())

    assert all(0 < s.logit_max < 10 for s in monitor.steps)
    assert all(math.isnan(s.logit_max) for s in record(Digits(), 3).steps)


@pytest.mark.parametrize("optimizer", ["adafactor", "lion", "muon", "schedulefree_adamw", "adopt", "sgd", "adamw8bit"])
def test_optimizers_without_adams_moments_are_watched_quietly(optimizer: str) -> None:
    """The step is measured where no formula tells it, and no rule that needs moments speaks."""
    monitor = record(Digits(optimizer=optimizer, lr=1e-3), 60)

    assert monitor.failures == set()
    assert all(s.heavy is not None and s.heavy.update_ratio_p50 > 0 for s in monitor.steps[1:10])
    assert [f.rule for f in monitor.findings if f.severity != "info"] == []


@pytest.mark.parametrize(("optimizer", "like"), [("adafactor", "adam"), ("prodigy", "adapted"), ("adamw", "adam")])
def test_who_finds_its_own_rate_is_told_from_who_clips_by_d(optimizer: str, like: str) -> None:
    """torch's Adafactor calls its clipping threshold d, as Prodigy calls its estimate."""
    (run,) = (r for r in record(Digits(optimizer=optimizer), 2).told if isinstance(r, RunSignals))

    assert run.steps_like == like


def test_an_action_stands_beside_its_finding_in_the_log(tmp_path: Path) -> None:
    """Both are told of one step, and a reader of events keeps the last text that a step has."""
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    monitor = DivergenceMonitor(on_divergence="skip_step")
    module = Digits(poison=(60,), poison_factor=math.nan)
    trainer(max_steps=80, logger=logger, callbacks=[monitor]).fit(module, digits_loader())
    (run,) = report(logger.log_dir).runs

    told = [(finding.rule, finding.severity, "action" in finding.evidence) for finding in run.findings]
    assert sorted(told) == [("NON-FINITE", "critical", False), ("NON-FINITE", "info", True)]

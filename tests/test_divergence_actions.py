"""What DivergenceMonitor does about a finding when asked: runs that die without it finish with it."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor
from tests.digits import Digits, digits_loader, trainer


class Poisoned(Digits):
    """A finite loss whose gradient is NaN (the root of zero) at some steps."""

    def __init__(self, steps: tuple[int, ...], **options: Any) -> None:
        super().__init__(**options)
        self.steps = steps

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Cross-entropy, and a term that is zero."""
        loss = super().training_step(batch, batch_idx)
        bias: torch.Tensor = self.net[-1].bias
        nothing = torch.sqrt((bias - bias.detach()).square().sum())
        return loss + nothing if self.seen - 1 in self.steps else loss


class Rising(Digits):
    """The learning rate is grows by 3 % per step from step 80 on: plain AdamW and a LambdaLR."""

    def configure_optimizers(self) -> Any:
        """A foreign schedule."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.03 ** max(0, step - 80))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def train(module: Digits, monitor: DivergenceMonitor, **options: Any) -> Digits:
    """120 steps."""
    trainer(**{"max_steps": 120, "callbacks": [monitor], **options}).fit(module, digits_loader())
    return module


def is_finite(module: Digits) -> bool:
    """Whether the weights have survived."""
    return all(bool(torch.isfinite(p).all()) for p in module.parameters())


def test_without_an_action_the_weights_die() -> None:
    """The control: a NaN gradient ruins the weights one step later."""
    assert not is_finite(train(Poisoned((40,)), DivergenceMonitor()))


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize(("optimizer", "lr"), [("adamw", 1e-2), ("lion", 2e-3)])
def test_skip_step_saves_the_weights(optimizer: str, lr: float, accumulate: int) -> None:
    """The step with the NaN gradient is left out, also where it is one of four accumulated; the action is a finding."""
    monitor = DivergenceMonitor(on_divergence="skip_step")
    module = train(
        Poisoned((40,), optimizer=optimizer, lr=lr), monitor, max_steps=160 // accumulate, accumulate_grad_batches=accumulate
    )

    assert is_finite(module)
    assert np.mean(module.losses[-10:]) < 0.9 * np.mean(module.losses[:10])
    assert [f.evidence.get("action") for f in monitor.findings if "action" in f.evidence] == ["skip_step"]
    assert "NON-FINITE" in [f.rule for f in monitor.findings]


def test_skipped_step_counts_nowhere() -> None:
    """Neither the optimizer's t nor the helper's schedule advances with a step that was left out."""
    module = Poisoned((40, 60))
    fit = trainer(max_steps=120, callbacks=[DivergenceMonitor(on_divergence="skip_step")])
    fit.fit(module, digits_loader())
    optimizer: Any = fit.optimizers[0]

    assert {int(state["step"]) for state in optimizer.state.values()} == {118}
    assert optimizer.adam_schedule.last_epoch == 118


def test_skip_step_leaves_out_a_huge_gradient() -> None:
    """A batch of a ten-thousandfold loss does not get through."""
    monitor = DivergenceMonitor(on_divergence="skip_step")
    train(Digits(poison=(80,), poison_factor=1e4, clip=None), monitor)

    assert "left out a step" in next(f.message for f in monitor.findings if "action" in f.evidence)


def test_skip_step_under_fp16() -> None:
    """The scaler leaves the step out itself; nothing is counted twice, and the run goes on."""
    plugin = MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu", init_scale=16.0))
    module = train(Poisoned((40,)), DivergenceMonitor(on_divergence="skip_step"), plugins=[plugin])

    assert is_finite(module)


def test_stop_ends_the_run_with_a_checkpoint(tmp_path: Path) -> None:
    """The run stops in the batch of the critical finding, and its checkpoint can be loaded."""
    monitor = DivergenceMonitor(on_divergence="stop")
    module = train(Poisoned((40,)), monitor, default_root_dir=tmp_path)

    assert len(module.losses) == 41
    assert torch.load(next(tmp_path.glob("adam_stopped_step_*.ckpt")), weights_only=True)["global_step"] == 41


def test_rollback_takes_the_weights_back_and_goes_on() -> None:
    """After a NaN gradient the weights and moments of some steps before are there again; the rate is lower; it learns on."""
    monitor = DivergenceMonitor(on_divergence="rollback")
    module = train(Poisoned((70,), lr=1e-2), monitor, max_steps=160)

    assert is_finite(module)
    assert np.mean(module.losses[-10:]) < 0.7 * np.mean(module.losses[:10])
    done = next(f.message for f in monitor.findings if "action" in f.evidence)
    assert "went back to the weights and moments of step" in done
    assert "lowered the learning rate" in done


def test_reduce_lr_saves_a_run_that_a_schedule_ruins() -> None:
    """A foreign schedule whose rate grows and grows: without the action the loss is lost, with it the run recovers."""
    lost = train(Rising(), DivergenceMonitor(), max_steps=280)
    saved = train(Rising(), DivergenceMonitor(on_divergence="reduce_lr", max_actions=5), max_steps=280)

    assert np.mean(lost.losses[-20:]) > 1.5
    assert np.mean(saved.losses[-20:]) < 0.5 * np.mean(lost.losses[-20:])


def test_reduced_rate_survives_a_resume(tmp_path: Path) -> None:
    """The helper's schedule follows its configuration after a resume: the monitor lowers it again."""
    monitor = DivergenceMonitor(on_divergence="reduce_lr", max_actions=2)
    first = trainer(max_steps=56, callbacks=[monitor])
    first.fit(Digits(lr=0.5, schedule="constant", warmup=0, clip=None), digits_loader())
    lowered = first.optimizers[0].param_groups[0]["lr"]
    first.save_checkpoint(tmp_path / "a.ckpt")
    second = trainer(max_steps=60, callbacks=[DivergenceMonitor(on_divergence="reduce_lr", max_actions=2)])
    second.fit(Digits(lr=0.5, schedule="constant", warmup=0, clip=None), digits_loader(), ckpt_path=tmp_path / "a.ckpt")

    assert lowered < 0.5
    assert second.optimizers[0].param_groups[0]["lr"] == pytest.approx(lowered)


def test_actions_are_bounded() -> None:
    """After max_actions steps that were left out, the next one is taken."""
    monitor = DivergenceMonitor(on_divergence="skip_step", max_actions=2)
    module = train(Poisoned((30, 50, 70)), monitor)

    assert sum("action" in f.evidence for f in monitor.findings) == 2
    assert not is_finite(module)


def test_raise_on_ends_the_run_with_the_finding() -> None:
    """For CI: a critical finding is an error that carries its line."""
    with pytest.raises(RuntimeError, match=r"\[NON-FINITE\] step 40: the gradient"):
        train(Poisoned((40,)), DivergenceMonitor(raise_on="critical"))


def test_optuna_trial_is_pruned() -> None:
    """A trial whose run diverges is pruned, one that learns is not."""
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(logging.ERROR)

    def objective(trial: Any) -> float:
        module = Poisoned((40,) if trial.number == 0 else ())
        return float(train(module, DivergenceMonitor(trial=trial)).losses[-1])

    study = optuna.create_study()
    study.optimize(objective, n_trials=2)

    assert [trial.state.name for trial in study.trials] == ["PRUNED", "COMPLETE"]


def test_last_steps_are_kept_in_a_file(tmp_path: Path) -> None:
    """On a critical finding the signals of the last steps lie in the log folder, as JSON."""
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    train(Poisoned((40,)), DivergenceMonitor(), logger=logger)

    steps = json.loads((tmp_path / "run" / "adam_last_steps_40.json").read_text())
    assert [s["step"] for s in steps] == list(range(41))
    assert math.isnan(steps[-1]["gradient_norm"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on_divergence": "rolback"}, "Did you mean 'rollback'"),
        ({"raise_on": "critcal"}, "Did you mean 'critical'"),
        ({"max_actions": 0}, "max_actions=0"),
        ({"every_n_steps": 2.5}, "every_n_steps=2.5"),
        ({"logits": "head"}, "logits='head': give a list"),
    ],
)
def test_wrong_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    """The error names the argument, its value, and the nearest right spelling."""
    with pytest.raises(la.ConfigError, match=message):
        DivergenceMonitor(**arguments)

"""Clipping is right wherever the optimizer steps: the gradients that it uses have the norm asked for."""

from __future__ import annotations

import copy
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

import lightning_adam as la
from tests.digits import Digits, digits_loader, trainer
from tests.test_configure import ByHand


def scaled_half() -> MixedPrecision:
    """fp16 with a GradScaler, on a CPU."""
    return MixedPrecision("16-mixed", device="cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))


class Norms(L.Callback):
    """Total gradient norm as the optimizer used it, and as it was before."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen to the optimizer."""
        self.used: list[float] = []
        self.before: list[float] = []
        trainer.optimizers[0].register_step_post_hook(self._after)

    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        self.used.append(float(torch.linalg.vector_norm(torch.stack([g.double().norm() for g in gradients]))))
        self.before.append(float(optimizer.adam_clip.norm_before))


PLACES: dict[str, tuple[type[Digits], dict[str, Any], dict[str, Any]]] = {
    "32 bit": (Digits, {}, {}),
    "bf16": (Digits, {"precision": "bf16-mixed"}, {}),
    "bf16, fused": (Digits, {"precision": "bf16-mixed"}, {"fused": True}),
    "fp16": (Digits, {"plugins": "scaled"}, {}),
    "fp16, fused": (Digits, {"plugins": "scaled"}, {"fused": True}),
    "accumulation": (Digits, {"accumulate_grad_batches": 2}, {}),
    "manual": (ByHand, {}, {}),
    "manual, fp16": (ByHand, {"plugins": "scaled"}, {}),
}


@pytest.mark.parametrize("place", PLACES)
def test_norm_is_the_one_asked_for(place: str) -> None:
    """A total norm of 0.05 is reached from well above it, after unscaling."""
    kind, options, extra = PLACES[place]
    if "plugins" in options:
        options = {"plugins": [scaled_half()]}
    norms = Norms()
    trainer(max_steps=5, callbacks=[norms], **options).fit(kind(clip=0.05, **extra), digits_loader())

    assert norms.used == pytest.approx([0.05] * 5, rel=1e-2)
    assert all(0.2 < before < 20 for before in norms.before)


def test_same_weights_as_the_trainers_clipping() -> None:
    """In 32 bit the helper clips exactly as Trainer(gradient_clip_val=...) does."""
    ours, theirs = Digits(clip=0.1), Digits(clip=None)
    trainer(max_steps=10).fit(ours, digits_loader())
    trainer(max_steps=10, gradient_clip_val=0.1).fit(theirs, digits_loader())

    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_values_are_clamped() -> None:
    """ClipValue bounds every element, and records that it did."""
    rule, gradient = la.ClipValue(0.5), torch.tensor([-3.0, 0.2, 0.7])
    record = rule([gradient])

    assert gradient.tolist() == pytest.approx([-0.5, 0.2, 0.5])
    assert bool(record.clipped)
    assert float(record.norm_before) == pytest.approx(3.0870698)


def test_small_gradients_are_left_alone() -> None:
    """Below the threshold nothing changes, to the bit."""
    gradient = torch.tensor([0.3, 0.4])
    record = la.ClipNorm(1.0)([gradient])

    assert torch.equal(gradient, torch.tensor([0.3, 0.4]))
    assert not bool(record.clipped)


def test_optimizer_keeps_its_class_and_can_be_copied() -> None:
    """isinstance, the class name and deepcopy work as for the plain optimizer."""
    optimizer = la.configure_optimizers(nn.Linear(2, 2), total_steps=5)["optimizer"]

    assert isinstance(optimizer, torch.optim.AdamW)
    assert type(optimizer).__name__ == "AdamW"
    assert len(copy.deepcopy(optimizer).param_groups) == 2

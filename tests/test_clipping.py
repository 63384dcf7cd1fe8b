"""Clipping is right wherever the optimizer steps: the gradients that it uses have the norm asked for."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
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


def with_gradient(gradient: torch.Tensor) -> torch.Tensor:
    """A parameter of ones that has this gradient."""
    parameter = torch.ones_like(gradient)
    parameter.grad = gradient
    return parameter


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
    gradient = torch.tensor([-3.0, 0.2, 0.7])
    record = la.ClipValue(0.5)([with_gradient(gradient)])

    assert gradient.tolist() == pytest.approx([-0.5, 0.2, 0.5])
    assert bool(record.clipped)
    assert float(record.norm_before) == pytest.approx(3.0870698)


def test_small_gradients_are_left_alone() -> None:
    """Below the threshold nothing changes, to the bit."""
    gradient = torch.tensor([0.3, 0.4])
    record = la.ClipNorm(1.0)([with_gradient(gradient)])

    assert torch.equal(gradient, torch.tensor([0.3, 0.4]))
    assert not bool(record.clipped)


def test_optimizer_keeps_its_class() -> None:
    """isinstance, and the class's name, room and signature, are as for the plain optimizer."""
    optimizer = la.configure_optimizers(nn.Linear(2, 2), total_steps=5)["optimizer"]

    assert isinstance(optimizer, torch.optim.AdamW)
    assert (type(optimizer).__name__, type(optimizer).__module__) == ("AdamW", torch.optim.AdamW.__module__)
    assert inspect.signature(type(optimizer)) == inspect.signature(torch.optim.AdamW)


def total_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """torch's own, of the gradients that there are."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


class Seen:
    """Total gradient norms, as a hook before clipping sees them."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def __call__(self, optimizer: Any) -> None:
        """The hook."""
        self.norms.append(float(total_norm([p for group in optimizer.param_groups for p in group["params"]])))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("scale", [None, 1024.0])
def test_hook_before_clipping_sees_the_true_gradient(fused: bool, scale: float | None) -> None:
    """After the closure, unscaled and not yet clipped; a removed hook sees nothing more."""
    module, seen = nn.Linear(4, 3), Seen()
    optimizer = la.configure_optimizers(module, total_steps=5, clip=0.01, fused=fused)["optimizer"]
    handle = optimizer.register_before_clip_hook(seen)
    module(torch.ones(2, 4)).square().sum().backward()
    true = float(total_norm(list(module.parameters())))
    optimizer.zero_grad()
    step_on_squares(module, optimizer, scale)
    handle.remove()
    step_on_squares(module, optimizer, scale)

    assert seen.norms == pytest.approx([true])
    assert true > 0.1


def step_on_squares(module: nn.Module, optimizer: Any, scale: float | None) -> None:
    """One step, scaled by a GradScaler or with a closure."""

    def evaluate() -> torch.Tensor:
        optimizer.zero_grad()
        loss = module(torch.ones(2, 4)).square().sum()
        (loss if scale is None else scaler.scale(loss)).backward()
        return loss

    if scale is None:
        optimizer.step(evaluate)
    else:
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        evaluate()
        scaler.step(optimizer)


def test_hook_before_clipping_is_called_once_in_a_step_of_lbfgs() -> None:
    """With the gradient of the first of its evaluations, from the point that the step starts at."""
    module, seen = nn.Linear(4, 3), Seen()
    optimizer = la.configure_optimizers(module, "lbfgs", total_steps=5, clip=None)["optimizer"]
    optimizer.register_before_clip_hook(seen)
    true = []
    for _ in range(2):
        optimizer.zero_grad()
        module(torch.ones(2, 4)).square().sum().backward()
        true.append(float(total_norm(list(module.parameters()))))
        step_on_squares(module, optimizer, None)

    assert seen.norms == pytest.approx(true)


def test_adaptive_clipping_is_brocks_equation_three() -> None:
    """Each row's gradient is at most 0.01 of its weights' norm; a row that is under it is left alone."""
    weights = torch.tensor([[3.0, 4.0], [0.0, 0.0], [30.0, 40.0]])
    weights.grad = torch.tensor([[0.3, 0.4], [0.0, 1.0], [0.0, 0.1]])
    record = la.ClipAdaptive(0.01, eps=1e-3)([weights])

    torch.testing.assert_close(weights.grad, torch.tensor([[0.03, 0.04], [0.0, 1e-5], [0.0, 0.1]]))
    assert bool(record.clipped)


def norms_after(rule: Any, norms: list[float], dtype: torch.dtype = torch.float32) -> list[float]:
    """Feed gradients of these norms; the norms that are left."""
    left = []
    for norm in norms:
        parameter = with_gradient(torch.tensor([norm], dtype=dtype))
        rule([parameter])
        left.append(float(parameter.grad.abs()))  # type: ignore[union-attr]
    return left


def reference_zclip(norms: list[float], z: float = 2.5, alpha: float = 0.97, warmup: int = 25) -> list[float]:
    """ZClip section 3 in float64: statistics of the warmup as they are defined, then the paper's moving averages of the
    clipped norms, the variance about the new mean."""
    left = norms[:warmup]
    mean, variance = float(np.mean(left)), float(np.var(left))
    for norm in norms[warmup:]:
        deviation = math.sqrt(variance)
        score = (norm - mean) / deviation
        used = mean + z * deviation / (score / z) if score > z else norm
        mean = alpha * mean + (1 - alpha) * used
        variance = alpha * variance + (1 - alpha) * (used - mean) ** 2
        left.append(used)
    return left


def test_zclip_is_the_papers_in_float64() -> None:
    """Two hundred noisy norms with spikes, to 1e-6: the 1e-6 that torch adds to the norm is what is left."""
    norms = [1 + 0.1 * math.sin(7 * k) + (9 if k in (40, 50, 120) else 0.002 * k) for k in range(200)]
    left = norms_after(la.ZClip(), norms, torch.float64)

    assert left == pytest.approx(reference_zclip(norms), rel=2e-6)
    assert norms_after(la.ZClip(), norms) == pytest.approx(left, rel=1e-4)
    assert left[40] < 1.6


def test_zclip_takes_the_state_of_older_checkpoints() -> None:
    """They hold the mean square in place of the variance."""
    rule = la.ZClip()
    rule.load_state_dict({"seen": torch.tensor(30.0), "mean": torch.tensor(3.0), "square": torch.tensor(13.0)})

    assert float(rule.state_dict()["variance"]) == pytest.approx(4.0)


EVERY_RULE: dict[str, Any] = {
    "norm": lambda: la.ClipNorm(0.5),
    "value": lambda: la.ClipValue(0.1),
    "adaptive": lambda: la.ClipAdaptive(0.01),
    "zclip": lambda: la.ZClip(warmup=2),
    "percentile": lambda: la.ClipPercentile(10.0),
}
EVERY_DTYPE: dict[str, list[torch.dtype]] = {
    **{str(d).removeprefix("torch."): [d, d] for d in (torch.float64, torch.float32, torch.bfloat16, torch.float16)},
    **{str(d).removeprefix("torch."): [d, d] for d in (torch.complex64, torch.complex128)},
    "bfloat16 and float32": [torch.bfloat16, torch.float32],
    "complex64 and float32": [torch.complex64, torch.float32],
}


def spiked(rule: Any, dtypes: list[torch.dtype]) -> list[torch.Tensor]:
    """What a rule leaves of a gradient ten times as large as the thirty before it."""
    noise = torch.Generator().manual_seed(0)
    for step in range(31):
        parameters = [torch.ones(4, 3, dtype=d) for d in dtypes]
        for parameter in parameters:
            gradient = torch.rand(4, 3, generator=noise, dtype=torch.float64) * (10 if step == 30 else 1)
            parameter.grad = (gradient * (1 - 1j) if parameter.is_complex() else gradient).to(parameter.dtype)
        rule(parameters)
    return [p.grad.to(torch.complex128) for p in parameters if p.grad is not None]


@pytest.mark.parametrize("dtypes", EVERY_DTYPE)
@pytest.mark.parametrize("rule", EVERY_RULE)
def test_every_rule_clips_every_dtype_alike(rule: str, dtypes: str) -> None:
    """A spike is left at the size that it has in double precision, to the precision of the dtype."""
    kinds = EVERY_DTYPE[dtypes]
    left = spiked(EVERY_RULE[rule](), kinds)
    double = [torch.complex128 if d.is_complex else torch.float64 for d in kinds]
    bound = 4 * max(torch.finfo(d).eps for d in kinds) + 1e-6

    for got, want in zip(left, spiked(EVERY_RULE[rule](), double), strict=True):
        assert float((got - want).norm()) <= bound * float(want.norm())
        assert float(got.norm()) < 10


@pytest.mark.parametrize("rule", EVERY_RULE)
def test_every_rule_sees_unscaled_gradients_under_a_scaler(rule: str) -> None:
    """Its norms in five fp16 steps are those of 32 bit, to the precision of fp16, not 1,024 times as large."""
    seen = []
    for options in ({}, {"plugins": [scaled_half()]}):
        norms = Norms()
        module = Digits(clip=EVERY_RULE[rule](), schedule="constant", warmup=0)
        trainer(max_steps=5, callbacks=[norms], **options).fit(module, digits_loader())
        seen.append((norms.before, norms.used))

    assert seen[1][0] == pytest.approx(seen[0][0], rel=2e-2)
    assert seen[1][1] == pytest.approx(seen[0][1], rel=2e-2)


def test_one_nan_norm_does_not_poison_zclip() -> None:
    """After a NaN the statistics still clip the next spike."""
    norms = [1 + 0.1 * math.sin(7 * k) for k in range(40)] + [math.nan, 1.0, 10.0]

    assert norms_after(la.ZClip(), norms)[-1] < 1.5


def test_percentile_clipping_is_autoclips_algorithm() -> None:
    """Each norm is clipped at the percentile of all norms so far, itself included."""
    norms = [3.0, 1.0, 2.0, 5.0, 4.0]
    expected = [min(n, float(np.percentile(norms[: k + 1], 40))) for k, n in enumerate(norms)]

    assert norms_after(la.ClipPercentile(40.0), norms) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("make", [la.ZClip, la.ClipPercentile])
def test_adaptive_rule_resumes_from_the_checkpoint(make: Any, tmp_path: Path) -> None:
    """A run in two halves clips as one run does: its weights are bit for bit the same."""
    whole, first, second = (Digits(clip=make(), total_steps=84) for _ in range(3))
    trainer(max_epochs=3).fit(whole, digits_loader())
    half = trainer(max_epochs=2)
    half.fit(first, digits_loader())
    half.save_checkpoint(tmp_path / "half.ckpt")
    trainer(max_epochs=3).fit(second, digits_loader(), ckpt_path=tmp_path / "half.ckpt")

    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("make", [la.ZClip, la.ClipPercentile])
def test_two_optimizers_that_are_given_one_rule_remember_for_themselves(make: Any) -> None:
    """A GAN's two helpers; a module whose configuration serves a second fit."""
    rule = make()
    optimizers = [la.configure_optimizers(nn.Linear(2, 2), clip=rule, total_steps=10)["optimizer"] for _ in range(2)]
    untouched = rule.state_dict()
    for optimizer in optimizers[:1]:
        optimizer.param_groups[0]["params"][0].grad = torch.ones(2, 2)
        optimizer.step()
    first, second = (optimizer.adam_rule.state_dict() for optimizer in optimizers)

    assert str(second) == str(untouched) == str(rule.state_dict()) != str(first)


def test_rules_say_what_is_wrong() -> None:
    """Each refuses what cannot be, by name."""
    for make, message in [
        (lambda: la.ZClip(z=-1), "z=-1"),
        (lambda: la.ZClip(alpha=1.0), "alpha=1.0"),
        (lambda: la.ZClip(alpha="0.97"), "alpha='0.97'"),  # type: ignore[arg-type]
        (lambda: la.ZClip(warmup=10**400), "warmup=1000*"),
        (lambda: la.ClipPercentile(0), "percentile=0"),
        (lambda: la.ClipPercentile(True), "percentile=True"),
        (lambda: la.ClipPercentile(10, window=True), "window=True"),
        (lambda: la.ClipValue(10**400), "max_value=1000*"),
        (lambda: la.ClipAdaptive(clipping=0), "clipping=0"),
    ]:
        with pytest.raises(la.ConfigError, match=message):
            make()


def test_lbfgs_is_refused_under_fp16() -> None:
    """Its repeated closure cannot be unscaled; the message offers bf16."""
    with pytest.raises(la.ConfigError, match=r"lbfgs under precision='16-mixed'.*bf16-mixed"):
        trainer(max_steps=1, plugins=[scaled_half()]).fit(Digits(optimizer="lbfgs"), digits_loader())

"""Every optimizer is the one on its label: 100 steps in float64 against its paper's equations, written in NumPy.

The optimizer comes from the helper, with the row's own rate, betas and options; the reference has the paper's. The error is
relative to the distance moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lightning_adam as la
from tests.references import adam, models, others, own
from tests.references.kinds import Array

STEPS = 100
LOSSES = [3 - t / 50 if t < 50 else 0.5 for t in range(STEPS)] * 2
DECAY = 0.1
Runs = dict[str, list[Array]]


class Small(nn.Module):
    """A filter bank, matrices tall, wide and square, vectors with and without the name of a bias."""

    def __init__(self, square: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 2, 2)
        self.wide = nn.Linear(4 if square else 6, 4)
        self.q_proj = nn.Linear(4, 4, bias=False)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(4, 4 if square else 7)


def gradients(module: nn.Module, alike: bool = False, mean: float = 0.3) -> Runs:
    """100 per tensor with a spike every thirty; sizes from 1e-3 to 10 element by element, or ``alike`` as in real layers,
    of whose largest element 8 bits hold a share."""
    rng = np.random.default_rng(0)
    sizes = {n: 10.0 ** (rng.uniform(-3, 1, () if alike else tuple(p.shape))) for n, p in module.named_parameters()}
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    spikes = [30 if t % 30 == 20 and not alike else 1 for t in range(STEPS)]
    return {n: [(rng.standard_normal(shapes[n]) + mean) * s * spike for spike in spikes] for n, s in sizes.items()}


@dataclass(frozen=True)
class Case:
    """One optimizer.

    Attributes:
        reference: of one tensor, or of all where ``together``.
        error: what is allowed, relative to the distance moved.
        options: for the helper.
        decay: λ of the reference; the helper gets ``weight_decay`` from here, too, unless ``options`` has it.
        together: whether tensors know of each other.
        large: whether the tensors are large enough for 8-bit state, in float32.
        mean: of the gradients, in standard deviations; under one that never turns, Prodigy's estimate grows for ever.
        square: whether its matrices have to be square, and well-conditioned: no first gradient makes a tall one's basis.
        named: options of the reference by parameter name.
    """

    reference: Callable[..., Any]
    error: float = 1e-6
    options: dict[str, Any] = field(default_factory=dict)
    decay: float = DECAY
    together: bool = False
    large: bool = False
    mean: float = 0.3
    square: bool = False
    named: Callable[[str], dict[str, Any]] = lambda name: {}


def muon(theta: Array, steps: Sequence[Array], decay: float, hidden: bool) -> Array:
    """Hidden matrices by Muon, the rest by AdamW with its betas."""
    return others.muon(theta, steps, decay=decay) if hidden else adam.adamw(theta, steps, decay=decay, beta2=0.95)


def adamz(theta: Array, steps: Sequence[Array], decay: float) -> Array:
    """Adam at the rates of its losses."""
    return own.adam_at(theta, steps, [1e-3 * f for f in own.adamz_factors(LOSSES[:STEPS], 1e-3)])


def caadam(theta: Array, steps: Sequence[Array], decay: float, scale: float) -> Array:
    """Adam at the rate of its connections."""
    return own.adam_at(theta, steps, [1e-3 * scale] * STEPS, eps=1e-7)


COUNTS = [24, 24, 16, 28]
SCALES = {
    n: own.connection_scale(c, COUNTS, i)
    for i, (n, c) in enumerate(zip(("conv", "wide", "q_proj", "head"), COUNTS, strict=True))
}
EIGHT: dict[str, Any] = {"large": True, "error": 0.025}

CASES: dict[str, Case] = {
    "adam": Case(adam.adam),
    "adamw": Case(adam.adamw),
    "amsgrad": Case(adam.amsgrad),
    "nadam": Case(adam.nadam),
    "radam": Case(adam.radam),
    "adamax": Case(adam.adamax),
    "adafactor": Case(others.adafactor),
    "rmsprop": Case(others.rmsprop),
    "sgd": Case(others.sgd),
    "muon": Case(muon, 4e-3, named=lambda name: {"hidden": name in ("wide.weight", "q_proj.weight")}),
    "adam8bit": Case(adam.adam, **EIGHT),
    "adamw8bit": Case(adam.adamw, **EIGHT),
    "paged_adamw": Case(adam.adamw, 1e-5, large=True),
    "paged_adamw8bit": Case(adam.adamw, **EIGHT),
    "lion8bit": Case(others.lion, **EIGHT),
    "ademamix8bit": Case(adam.ademamix, **EIGHT),
    "lamb8bit": Case(adam.lamb, **EIGHT),
    "paged_lion": Case(others.lion, 1e-5, large=True),
    "paged_ademamix": Case(adam.ademamix, 1e-5, large=True),
    "adabelief": Case(adam.adabelief),
    "sm3": Case(others.sm3, decay=0.0),
    "ranger": Case(others.ranger),
    "ranger21": Case(models.ranger21, together=True),
    "lion": Case(others.lion),
    "sophia": Case(others.sophia, options={"weight_decay": DECAY / 100}, named=lambda name: {"hessians": hessians()[name]}),
    "adan": Case(adam.adan),
    "adopt": Case(adam.adopt),
    "ademamix": Case(adam.ademamix),
    "stableadamw": Case(adam.stableadamw),
    "adamp": Case(adam.adamp),
    "soap": Case(others.soap, square=True),
    "prodigy": Case(models.prodigy, together=True, mean=0.0),
    "schedulefree_adamw": Case(models.schedulefree_adamw),
    "schedulefree_radam": Case(models.schedulefree_radam),
    "schedulefree_sgd": Case(models.schedulefree_sgd),
    "grams": Case(adam.grams),
    "lamb": Case(adam.lamb),
    "adam_mini": Case(adam.adam_mini, named=lambda name: {"block": block(name)}),
    "adamz": Case(adamz, decay=0.0),
    "caadam": Case(caadam, decay=0.0, named=lambda n: {"scale": SCALES.get(n.removesuffix(".weight"), 1.0)}),
    "hn_adam": Case(own.hn_adam, options={"norm": 2.5}),
    "bds_adam": Case(own.bds_adam),
}


def hessians() -> Runs:
    """Estimates for Sophia: other numbers than the gradients, and of both signs."""
    return {name: [g[::-1] * 0.5 for g in steps] for name, steps in gradients(Small()).items()}


def block(name: str) -> str:
    """Adam-mini's, by what the tensor is."""
    if name.endswith("bias"):
        return "elements"
    return "tensor" if name == "norm.weight" else "rows"


class Large(nn.Module):
    """Two matrices of 64 x 64 and 64 x 128, which get 8-bit state, and a vector."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide = nn.Linear(64, 128)
        self.head = nn.Linear(64, 64, bias=False)


def real(name: str, case: Case) -> tuple[nn.Module, dict[str, Array], Runs]:
    """The helper's optimizer on these gradients: the module after it, its weights before, the gradients."""
    module = Large() if case.large else Small(case.square).double()
    runs = gradients(module, case.large or case.square, case.mean)
    start = {name: p.detach().double().numpy().copy() for name, p in module.named_parameters()}
    decay = None if name == "sm3" else case.decay
    options = {"weight_decay": decay, **case.options}
    made = la.configure_optimizers(module, name, schedule="constant", warmup=0, clip=None, total_steps=STEPS, **options)
    for t in range(STEPS):
        for key, parameter in module.named_parameters():
            parameter.grad = torch.tensor(runs[key][t], dtype=parameter.dtype)
        arguments = given(name, made["optimizer"], t)
        made["optimizer"].adam_arguments = arguments
        made["optimizer"].step()
    return module, start, runs


def given(name: str, optimizer: Any, t: int) -> dict[str, Any]:
    """What a companion hands to the step."""
    if name == "adamz":
        return {"loss": LOSSES[t]}
    if name != "sophia" or t % 10:
        return {}
    names = [n for group in optimizer.param_groups for n in group["adam_names"]]
    return {"hessian": [torch.tensor(hessians()[n][t].copy()) for n in names]}


def wanted(case: Case, start: dict[str, Array], runs: Runs) -> dict[str, Array]:
    """The reference's weights; decay is that of tensors with two or more dimensions."""
    decays = {name: case.decay if theta.ndim > 1 else 0.0 for name, theta in start.items()}
    if not case.together:
        return {n: case.reference(start[n], runs[n], decay=decays[n], **case.named(n)) for n in start}
    steps = [[runs[name][t] for name in start] for t in range(STEPS)]
    ended = case.reference(list(start.values()), steps, decay=list(decays.values()))
    return dict(zip(start, ended, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_hundred_steps_are_the_papers(name: str) -> None:
    """Every tensor, to 1e-6 of the distance that it moved; Muon, whose iteration is in bf16, to 0.4 %, and 8-bit state to
    2.5 %, its quantisation."""
    case = CASES[name]
    module, start, runs = real(name, case)
    ended = wanted(case, start, runs)
    for key, parameter in module.named_parameters():
        moved = np.linalg.norm(ended[key] - start[key])
        error = np.linalg.norm(parameter.detach().double().numpy() - ended[key])
        assert moved > 0
        assert error <= case.error * moved, f"{key}: {error / moved:.2g}"


def valley(theta: Tensor) -> Tensor:
    """Rosenbrock's, with its gradient."""
    theta.grad = None
    loss = (100 * (theta[1:] - theta[:-1] ** 2) ** 2 + (1 - theta[:-1]) ** 2).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss


def slope(x: Array) -> Array:
    """Its gradient by hand."""
    inner = x[1:] - x[:-1] ** 2
    found = np.zeros_like(x)
    found[:-1] = -400 * x[:-1] * inner - 2 * (1 - x[:-1])
    found[1:] += 200 * inner
    return found


def test_lbfgs_goes_where_the_two_loop_recursion_points() -> None:
    """Each of twelve iterations, from the last eight pairs; how far, no two libraries agree on, so that there its length is
    checked: it fulfils the strong Wolfe conditions (Nocedal & Wright 2006, equation 3.7) with c₁ = 1e-4 and c₂ = 0.9."""
    torch.manual_seed(0)
    theta = nn.Parameter(torch.randn(8, dtype=torch.float64))
    module = nn.Module()
    module.register_parameter("theta", theta)
    made = la.configure_optimizers(module, "lbfgs", schedule="constant", warmup=0, total_steps=20, max_iter=1, max_eval=99)
    points: list[Array] = []
    slopes: list[Array] = []
    heights: list[float] = []
    for _ in range(13):
        points.append(theta.detach().numpy().copy())
        heights.append(float(made["optimizer"].step(lambda: valley(theta))))
        slopes.append(slope(points[-1]))
    for k in range(12):
        pairs = range(max(0, k - 8), k)
        steps, changes = [points[i + 1] - points[i] for i in pairs], [slopes[i + 1] - slopes[i] for i in pairs]
        moved, direction = points[k + 1] - points[k], others.lbfgs_direction(slopes[k], steps, changes)
        along = moved @ direction / (direction @ direction)
        assert np.linalg.norm(moved - along * direction) <= 1e-9 * np.linalg.norm(moved)
        assert heights[k + 1] <= heights[k] + 1e-4 * slopes[k] @ moved
        assert abs(slopes[k + 1] @ moved) <= 0.9 * abs(slopes[k] @ moved)


def test_every_optimizer_has_a_reference() -> None:
    """L-BFGS's, whose line search no two libraries share, is the one above."""
    assert {*CASES, "lbfgs"} == {row.name for row in la.available_optimizers()}

"""Our four optimizers against NumPy float64 transcriptions of their equations, and against Adam where they reduce to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lightning_adam as la
from lightning_adam.optimizers.adamz import AdamZ
from lightning_adam.optimizers.bds_adam import BDSAdam
from lightning_adam.optimizers.caadam import CaAdam, connection_scales
from lightning_adam.optimizers.hn_adam import HNAdam
from tests.digits import Digits, digits_loader, trainer
from tests.references.kinds import Array
from tests.references.own import adam_at, adamz_factors, bds_adam, connection_scale, hn_adam

SHAPES = ((6, 4), (3,), (5, 2), (2, 8))
STEPS = 200


def gradients() -> list[list[Array]]:
    """200 steps of gradients for four tensors, with scales from 1e-3 to 10 and an occasional spike."""
    rng = np.random.default_rng(0)
    scales = [10.0 ** rng.uniform(-3, 1, shape) for shape in SHAPES]
    return [[(rng.standard_normal(s.shape) + 0.3) * s * (30 if t % 50 == 30 else 1) for s in scales] for t in range(STEPS)]


def losses() -> list[float]:
    """A loss that falls, then sits still, then rises to new maxima."""
    return [3 - t / 50 if t < 100 else 1 + 1e-4 * math.sin(t) if t < 190 else float(t) for t in range(STEPS)]


def run_ours(make: Callable[[Sequence[Any]], Any], dtype: torch.dtype = torch.float64) -> list[Array]:
    """Ours on these gradients, from zeros."""
    parameters = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in SHAPES]
    optimizer = make(parameters)
    for step, loss in zip(gradients(), losses(), strict=True):
        for parameter, gradient in zip(parameters, step, strict=True):
            parameter.grad = torch.tensor(gradient, dtype=dtype)
        optimizer.step(**({"loss": loss} if isinstance(optimizer, AdamZ) else {}))
    return [p.detach().double().numpy() for p in parameters]


def each(function: Callable[..., Array], **options: Any) -> list[Array]:
    """A reference on these gradients, tensor by tensor from zeros."""
    return [function(np.zeros(shape), [g[i] for g in gradients()], 0.01, **options) for i, shape in enumerate(SHAPES)]


def adamz() -> list[Array]:
    """The losses make its rates go up and down."""
    factors = adamz_factors(losses(), 0.01)
    assert min(factors) < 1 < max(factors)
    return each(lambda theta, gs, lr: adam_at(theta, gs, [lr * factor for factor in factors]))


def caadam(scaling: str) -> list[Array]:
    """With the median, the minimum and the maximum over the three matrices."""
    counts = [24, 10, 16]
    scales = [connection_scale(n, counts, i, scaling) for i, n in enumerate(counts)]
    of = dict(zip(((6, 4), (5, 2), (2, 8)), scales, strict=True))
    return each(lambda theta, gs, lr: adam_at(theta, gs, [lr * of.get(theta.shape, 1.0)] * STEPS, eps=1e-7))


CASES: dict[str, tuple[Callable[[Any], Any], Callable[[], list[Array]]]] = {
    "adamz": (lambda p: AdamZ(p, lr=0.01, max_norm=None), adamz),
    "caadam additive": (lambda p: CaAdam(p, lr=0.01), lambda: caadam("additive")),
    "caadam multiplicative": (
        lambda p: CaAdam(p, lr=0.01, scaling="multiplicative"),
        lambda: caadam("multiplicative"),
    ),
    "caadam depth": (lambda p: CaAdam(p, lr=0.01, scaling="depth"), lambda: caadam("depth")),
    "hn_adam": (lambda p: HNAdam(p, lr=0.01, norm=2.5), lambda: each(hn_adam)),
    "hn_adam from 2": (lambda p: HNAdam(p, lr=0.01, norm=2.0), lambda: each(hn_adam, norm=2.0)),
    "hn_adam from 4": (lambda p: HNAdam(p, lr=0.01, norm=4.0), lambda: each(hn_adam, norm=4.0)),
    "bds_adam": (lambda p: BDSAdam(p, lr=0.01), lambda: each(bds_adam)),
    "bds_adam with decay": (lambda p: BDSAdam(p, lr=0.01, weight_decay=0.1), lambda: each(bds_adam, decay=0.1)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_numpy_in_float64_over_200_steps(case: str, dtype: torch.dtype) -> None:
    """Every tensor to 1e-9 of its norm in double precision, and to 1e-5 in single."""
    ours, reference = CASES[case]
    bound = 1e-9 if dtype == torch.float64 else 1e-5
    for got, want in zip(run_ours(ours, dtype), reference(), strict=True):
        assert np.linalg.norm(got - want) <= bound * np.linalg.norm(want)


REDUCED: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "adamz without enough losses": (
        lambda p: AdamZ(p, lr=0.01, max_norm=None, patience=10_000),
        lambda p: torch.optim.Adam(p, lr=0.01),
    ),
    "caadam with gamma 0": (lambda p: CaAdam(p, lr=0.01, gamma=0.0, eps=1e-8), lambda p: torch.optim.Adam(p, lr=0.01)),
}


@pytest.mark.parametrize("case", REDUCED)
def test_reduces_to_adam(case: str) -> None:
    """What makes it special switched off, it is torch's Adam."""
    ours, adam = REDUCED[case]
    for got, want in zip(run_ours(ours), run_ours(adam), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-10)


def test_hn_adam_draws_one_norm_for_all_from_torchs_generator() -> None:
    """Between 2 and 4, in the first step; a group that comes later gets the same."""
    weights = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    for weight in weights:
        weight.grad = torch.ones(2)
    torch.manual_seed(7)
    optimizer = HNAdam([{"params": weights[0]}, {"params": weights[1]}])
    optimizer.step()
    optimizer.add_param_group({"params": weights[2]})
    optimizer.step()
    torch.manual_seed(7)

    assert [g["drawn_norm"] for g in optimizer.param_groups] == [pytest.approx(2 + 2 * float(torch.rand(())))] * 3


def test_bds_adam_steps_a_tensor_of_one_element() -> None:
    """Its deviation is NaN in the authors' code; here it is taken about 0, so that five steps go max_gradient_scale·α."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = BDSAdam([weight], lr=0.01)
    for _ in range(5):
        weight.grad = torch.full((1,), 0.2)
        optimizer.step()

    assert weight.item() == pytest.approx(-5 * 0.01 * 2.5, rel=1e-5)


def test_large_tensors_step_in_pieces_as_in_one() -> None:
    """The norm and the deviation are the whole tensor's, however many pieces the cache takes it in."""
    for kind in (HNAdam, BDSAdam):
        flat, square = nn.Parameter(torch.zeros(600 * 600)), nn.Parameter(torch.zeros(600, 600))
        square.grad = torch.randn(600, 600, generator=torch.Generator().manual_seed(0)).t()  # not contiguous: in one
        flat.grad = square.grad.reshape(-1)
        optimizer = kind([flat, square], lr=0.01)
        for _ in range(8):
            optimizer.step()

        torch.testing.assert_close(flat.detach(), square.detach().reshape(-1), rtol=1e-5, atol=1e-7)


def test_connections_all_alike_scale_nothing() -> None:
    """S = 1 for layers of one size, and where a median coincides with an end."""
    assert connection_scales([7, 7, 7]) == [1.0, 1.0, 1.0]
    assert connection_scales([5, 5, 9]) == pytest.approx([1.0, 1.0, 0.05])
    assert connection_scales([10, 20, 40], "multiplicative") == pytest.approx([5.0, 1.0, 0.2])


def test_adamz_sees_the_loss_in_lightning_and_keeps_the_schedule() -> None:
    """In manual optimization, too; the factor is beside the scheduled rate and inside the checkpointed state."""
    from tests.test_configure import ByHand

    for kind in (Digits, ByHand):
        module = kind(optimizer="adamz", patience=10, lr=1e-3, warmup=0, schedule="linear")
        fit = trainer(max_steps=40)
        fit.fit(module, digits_loader())
        group = fit.optimizers[0].state_dict()["param_groups"][0]

        assert group["losses"] == pytest.approx(module.losses[-10:])
        assert group["lr"] == pytest.approx(0.0, abs=1e-12)
        assert group["loss_factor"] != 1.0


def test_state_of_complex_and_frozen_parameters() -> None:
    """Complex weights step as pairs of real ones; a parameter without a gradient is left alone."""
    weight, frozen = nn.Parameter(torch.ones(3, dtype=torch.complex64)), nn.Parameter(torch.ones(2))
    weight.grad = torch.full((3,), 1 + 1j)
    optimizer = CaAdam([weight, frozen], lr=0.1)
    optimizer.step()

    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.9 - 0.1j), rtol=1e-5, atol=1e-6)
    assert frozen not in optimizer.state


@pytest.mark.parametrize("kind", [AdamZ, CaAdam, HNAdam, BDSAdam])
def test_wrong_hyper_parameters_are_named(kind: Any) -> None:
    """A beta of 1 or a negative rate fails when the optimizer is made."""
    with pytest.raises(la.ConfigError, match=r"beta2=1\.0"):
        kind([nn.Parameter(torch.ones(1))], betas=(0.9, 1.0))
    with pytest.raises(la.ConfigError, match="lr=-1"):
        kind([nn.Parameter(torch.ones(1))], lr=-1)

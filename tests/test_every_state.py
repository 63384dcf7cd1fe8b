"""The conformance suite of the moments: for each optimizer they equal a float64 recomputation from the gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import lightning_adam as la
from lightning_adam.moments import Moments, read_moments
from lightning_adam.statistics import COLUMNS, headline, read_optimizer, take_snapshot
from tests.steps_of import Stepped, Stepper

Array = NDArray[np.float64]
Pair = tuple[Array | None, Array | None]
NAMES = [row.name for row in la.available_optimizers()]
STEPS = 12


def average(values: Sequence[Array], beta: float, corrected: bool = True) -> Array:
    """Exponential moving average from zero."""
    total = np.zeros_like(values[0])
    for value in values:
        total = beta * total + (1 - beta) * value
    return total / (1 - beta ** len(values)) if corrected else total


def adam(beta1: float, beta2: float, corrected: bool = True) -> Callable[[list[Array]], Pair]:
    """m̂ and √v̂ of the gradients."""

    def reference(g: list[Array]) -> Pair:
        return average(g, beta1, corrected), np.sqrt(average([x**2 for x in g], beta2, corrected))

    return reference


def adamax(g: list[Array]) -> Pair:
    """Kingma & Ba 2014, algorithm 2; torch adds ε before the maximum."""
    largest = np.zeros_like(g[0])
    for x in g:
        largest = np.maximum(0.999 * largest, np.abs(x) + 1e-8)
    return average(g, 0.9), largest


def adabelief(g: list[Array]) -> Pair:
    """Zhuang et al. 2020, algorithm 2."""
    m, s = np.zeros_like(g[0]), np.zeros_like(g[0])
    for x in g:
        m = 0.9 * m + 0.1 * x
        s = 0.999 * s + 0.001 * (x - m) ** 2 + 1e-16
    return m / (1 - 0.9 ** len(g)), np.sqrt(s / (1 - 0.999 ** len(g)))


def adafactor(g: list[Array]) -> Pair:
    """Shazeer & Stern 2018, algorithm 4: row and column means of g², β₂ = 1 - t^-0.8, outer product over the mean."""
    if g[0].ndim == 1:
        v = np.zeros_like(g[0])
        for t, x in enumerate(g, 1):
            v += (x**2 - v) * t**-0.8
        return None, np.sqrt(v)
    rows, columns = np.zeros((len(g[0]), 1)), np.zeros((1, g[0].shape[1]))
    for t, x in enumerate(g, 1):
        rows += ((x**2).mean(1, keepdims=True) - rows) * t**-0.8
        columns += ((x**2).mean(0, keepdims=True) - columns) * t**-0.8
    return None, np.sqrt(rows @ columns / rows.mean())


def sm3(g: list[Array]) -> Pair:
    """Anil et al. 2019, algorithm 2: ν = min of the accumulators + g², each keeps its largest ν; m averages g/√ν."""
    kept = [np.zeros([n if i == axis else 1 for i in range(g[0].ndim)]) for axis, n in enumerate(g[0].shape)]
    m = np.zeros_like(g[0])
    for x in g:
        nu = np.broadcast_to(np.minimum.reduce(np.broadcast_arrays(*kept)), x.shape) + x**2
        others = [tuple(j for j in range(x.ndim) if j != i) for i in range(x.ndim)]
        kept = [np.maximum(k, nu.max(axis=axes, keepdims=True)) for k, axes in zip(kept, others, strict=True)]
        m = 0.9 * m + 0.1 * x / np.sqrt(nu + 1e-30)
    v = np.broadcast_to(np.minimum.reduce(np.broadcast_arrays(*kept)), g[0].shape)
    return m * np.sqrt(v), np.sqrt(v)


def adan(g: list[Array]) -> Pair:
    """Xie et al. 2022, algorithm 1: v of g + β₂·(difference); the first difference is 0."""
    differences = [np.zeros_like(g[0])] + [b - a for a, b in pairwise(g)]
    lifted = [(x + 0.92 * d) ** 2 for x, d in zip(g, differences, strict=True)]
    return average(g, 0.98), np.sqrt(average(lifted, 0.99))


def adopt(g: list[Array]) -> Pair:
    """Taniguchi et al. 2024, algorithm 2, with g/√v clipped to t^(1/4); the gradient before t = 1 only fills v."""
    v, m = g[0] ** 2, np.zeros_like(g[0])
    for t, x in enumerate(g[1:], 1):
        m = 0.9 * m + 0.1 * np.clip(x / np.maximum(np.sqrt(v), 1e-6), -(t**0.25), t**0.25)
        v = 0.9999 * v + 0.0001 * x**2
    return m * np.sqrt(v), np.sqrt(v)


def adam_mini(g: list[Array]) -> Pair:
    """Zhang et al. 2024: one v per row, of the mean of g²; biases are Adam's."""
    blocks = [np.broadcast_to((x**2).mean(1, keepdims=True), x.shape) if x.ndim > 1 else x**2 for x in g]
    return average(g, 0.9), np.sqrt(average(blocks, 0.999))


def muon(g: list[Array]) -> Pair:
    """The hidden matrix has a momentum of 0.95; the rest is AdamW."""
    return (average(g, 0.95, corrected=False), None) if g[0].shape == (96, 64) else adam(0.9, 0.95)(g)


def hn_adam(g: list[Array]) -> Pair:
    """Reyad, Sarhan & Arafa 2023, algorithm 2, from a norm of 2.5: √v̂ is v^(1/Λ) with the last Λ."""
    m, v = np.zeros_like(g[0]), np.zeros_like(g[0])
    for x in g:
        norm = 2.5 - np.abs(m) / np.maximum(np.maximum(np.abs(m), np.abs(x)), 1e-300)
        m, v = 0.9 * m + 0.1 * x, 0.999 * v + 0.001 * np.abs(x) ** norm
    return m, v ** (1 / norm)


def bds_adam(g: list[Array]) -> Pair:
    """wengshiqian/BDS-Adam: v of the smoothed gradient over its deviation, which √v̂ is given back; β₁ corrects only."""
    b, v = np.zeros_like(g[0]), np.zeros_like(g[0])
    for x in g:
        kappa = np.clip(0.75 * (1 - np.tanh(np.linalg.norm(x))), 0.1, 0.9)
        b = kappa * b + (1 - kappa) * x
        v = 0.999 * v + 0.001 * (b / b.std(ddof=1)) ** 2
    return b / (1 - 0.9 ** len(g)), np.sqrt(v) * b.std(ddof=1)


def soap(g: list[Array]) -> Pair:
    """The first step only makes the basis; vectors are not rotated, so there it is Adam on the rest."""
    return adam(0.95, 0.95)(g[1:])


REFERENCES: dict[str, Callable[[list[Array]], Pair]] = {
    **dict.fromkeys(("adam", "adamw", "amsgrad", "nadam", "radam", "ademamix", "adamp"), adam(0.9, 0.999)),
    **dict.fromkeys(
        ("adam8bit", "adamw8bit", "paged_adamw", "paged_adamw8bit", "ademamix8bit", "paged_ademamix", "lamb8bit"),
        adam(0.9, 0.999),
    ),
    **dict.fromkeys(("lamb", "grams", "adamz", "caadam"), adam(0.9, 0.999)),
    "prodigy": adam(0.9, 0.999, corrected=False),
    "hn_adam": hn_adam,
    "bds_adam": bds_adam,
    **dict.fromkeys(("lion", "lion8bit", "paged_lion"), lambda g: (average(g, 0.99), None)),
    "ranger": adam(0.95, 0.999),
    "stableadamw": adam(0.9, 0.99),
    "adamax": adamax,
    "adafactor": adafactor,
    "rmsprop": lambda g: (None, np.sqrt(average([x**2 for x in g], 0.99, corrected=False))),
    "sgd": lambda g: (0.1 * sum(x * 0.9**k for k, x in enumerate(reversed(g))), None),
    "muon": muon,
    "adabelief": adabelief,
    "sm3": sm3,
    "adan": adan,
    "adopt": adopt,
    "adam_mini": adam_mini,
    **dict.fromkeys(
        ("schedulefree_adamw", "schedulefree_radam"), lambda g: (None, np.sqrt(average([x**2 for x in g], 0.999)))
    ),
    "soap": soap,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "prodigy": {"growth_rate": 1.0},  # its distance stays what it is
    "hn_adam": {"norm": 2.5},  # and not drawn
    "ranger": {"use_gc": False},
}
EIGHT_BIT = {"lamb8bit", "adam8bit", "adamw8bit", "paged_adamw8bit", "ademamix8bit", "lion8bit"}


def corrected(moments: Moments | None) -> Pair:
    """m̂ and √v̂ in float64."""
    assert moments is not None
    first, second = (None if m is None else m.double().numpy() for m in (moments.first, moments.second))
    m_hat = None if first is None else first / (1 - moments.beta1**moments.step)
    root = None if second is None else np.sqrt(second / (1 - moments.beta2**moments.step))
    return m_hat, root


def run(name: str, **options: Any) -> tuple[Stepper, list[Stepped]]:
    """Twelve steps without weight decay, which would enter some of the gradients."""
    stepper = Stepper(name, weight_decay=0.0, **{**OPTIONS.get(name, {}), **options})
    return stepper, [stepper.step() for _ in range(STEPS)]


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_moments_equal_a_float64_recomputation(name: str) -> None:
    """m̂ and √v̂ from the state, against NumPy on the same gradients; 8-bit states to their quantisation error."""
    _, steps = run(name)

    for reading in steps[-1].readings:
        wanted = REFERENCES[name]([s.gradients[reading.name] for s in steps])
        if name == "soap" and "weight" in reading.name:
            continue  # in the eigenbasis: see the next test
        for got, want in zip(corrected(reading.moments), wanted, strict=True):
            assert (got is None) == (want is None), reading.name
            if got is not None and want is not None:
                quantised = name in EIGHT_BIT and "0.weight" in reading.name
                bound = 0.05 if quantised else 2e-5
                assert np.linalg.norm(got - want) <= bound * np.linalg.norm(want), reading.name


def test_soap_is_read_in_its_eigenbasis() -> None:
    """A rotation keeps the norm of m; v is that of the rotated gradients, whose sum is the same."""
    _, steps = run("soap", precondition_frequency=100)
    reading = next(r for r in steps[-1].readings if r.name == "0.weight")
    first, root = corrected(reading.moments)
    want_first, want_root = soap([s.gradients["0.weight"] for s in steps])

    assert np.linalg.norm(first) == pytest.approx(np.linalg.norm(want_first), rel=1e-4)
    assert np.linalg.norm(root) == pytest.approx(np.linalg.norm(want_root), rel=1e-4)


def test_sophia_divides_by_its_hessian_estimate() -> None:
    """m averages the gradients, √v the estimates (β₂ every ``update_period`` steps), neither corrected."""
    _, steps = run("sophia", update_period=1)
    reading = next(r for r in steps[-1].readings if r.name == "0.weight")
    first, root = corrected(reading.moments)
    beta1, beta2 = la.configure_optimizers(nn.Linear(1, 1), "sophia", total_steps=2)["optimizer"].param_groups[0]["betas"]

    np.testing.assert_allclose(first, average([s.gradients["0.weight"] for s in steps], beta1, False), rtol=1e-4, atol=1e-9)
    curvature = average([s.extra["0.weight"] for s in steps], beta2, False)
    np.testing.assert_allclose(root, np.maximum(curvature, 0), rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"lbfgs", "schedulefree_sgd"}))  # they have no moments
def test_every_reading_is_finite_and_has_the_shape_of_its_parameter(name: str) -> None:
    """With the options that the catalogue gives, factored and stacked states too; v is never negative."""
    stepper = Stepper(name)
    for _ in range(3):
        seen = stepper.step()

    for reading in seen.readings:
        assert reading.moments is not None
        kept = [m for m in (reading.moments.first, reading.moments.second, reading.moments.denominator) if m is not None]
        assert kept
        assert all(m.shape == reading.parameter.shape and bool(torch.isfinite(m).all()) for m in kept)
        assert reading.moments.second is None or bool((reading.moments.second >= 0).all())
        assert reading.moments.step in (1, 2, 3)


def test_eight_bit_is_what_the_librarys_own_dequantiser_says() -> None:
    """Bit for bit, for Adam and for AdEMAMix's stacked fast moment."""
    from bitsandbytes.functional import dequantize_blockwise

    for name in ("adamw8bit", "ademamix8bit"):
        stepper, steps = run(name)
        state = stepper.optimizer.state[stepper.named["0.weight"]]
        stored, absmax = state["state1"], state["absmax1"]
        if name == "ademamix8bit":
            stored, absmax = stored[0], absmax[0]
        want = dequantize_blockwise(stored, absmax=absmax, code=state["qmap1"], blocksize=256)
        got = next(r.moments for r in steps[-1].readings if r.name == "0.weight")
        assert got is not None
        assert torch.equal(got.first, want)  # type: ignore[arg-type]


def test_amsgrad_divides_by_the_largest() -> None:
    """The denominator is the maximum of v so far, beside v itself."""
    _, steps = run("amsgrad")
    moments = steps[-1].readings[0].moments
    assert moments is not None
    gradients = [s.gradients["0.weight"] for s in steps]
    v = [average([x**2 for x in gradients[: t + 1]], 0.999, corrected=False) for t in range(STEPS)]

    assert moments.denominator is not None
    np.testing.assert_allclose(moments.denominator.numpy(), np.max(v, axis=0), rtol=1e-5)


@pytest.mark.parametrize("options", [{"capturable": False, "foreach": True}, {"foreach": False}, {"amsgrad": True}])
def test_integer_and_tensor_steps_are_read(options: dict[str, Any]) -> None:
    """torch keeps the step as a tensor; old checkpoints hold an integer."""
    layer = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(layer.parameters(), **options)
    layer(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    as_tensor = read_moments(optimizer, optimizer.param_groups[0], layer.weight)
    optimizer.state[layer.weight]["step"] = 1
    as_integer = read_moments(optimizer, optimizer.param_groups[0], layer.weight)

    assert as_tensor is not None
    assert as_integer is not None
    assert as_tensor.step == as_integer.step == 1


class Eightfold(torch.Tensor):
    """A low-bit tensor as torchao makes them: the numbers are behind ``dequantize``."""

    def dequantize(self) -> torch.Tensor:  # type: ignore[override]
        """Eight times what is stored."""
        return self.as_subclass(torch.Tensor) * 8


def test_low_bit_tensors_are_dequantised() -> None:
    """Any tensor subclass with a ``dequantize`` of its own."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    stored = torch.tensor([1.0, 2.0, 3.0]).as_subclass(Eightfold)
    optimizer.state[weight] = {"step": torch.tensor(2.0), "exp_avg": stored, "exp_avg_sq": stored}
    moments = read_moments(optimizer, optimizer.param_groups[0], weight)

    assert moments is not None
    assert moments.first is not None
    assert moments.first.tolist() == [8.0, 16.0, 24.0]


@pytest.mark.parametrize("kind", ["AdamW8bit", "AdamW4bit", "AdamWFp8"])
def test_torchao_states_are_read(kind: str) -> None:
    """torchao's own low-bit AdamW, to its quantisation error."""
    low_bit = pytest.importorskip("torchao.optim", reason="torchao is not installed")
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(64, 128))
    optimizer = getattr(low_bit, kind)([weight], lr=1e-3)
    gradients = []
    for _ in range(3):
        weight.grad = torch.randn(64, 128)
        gradients.append(weight.grad.double().numpy().copy())
        with torch.compiler.set_stance("force_eager"):  # compiling its step takes half a minute, and is not ours
            optimizer.step()
    first, root = corrected(read_moments(optimizer, optimizer.param_groups[0], weight))
    want_first, want_root = adam(0.9, 0.999)(gradients)

    bound = 0.35 if kind == "AdamW4bit" else 0.1
    assert np.linalg.norm(first - want_first) <= bound * np.linalg.norm(want_first)
    assert np.linalg.norm(root - want_root) <= bound * np.linalg.norm(want_root)


def test_sixteen_bit_states_are_read() -> None:
    """bf16 weights keep bf16 moments; the statistics run in float32."""
    weight = nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([weight], lr=1e-2)
    weight.grad = torch.full_like(weight, 0.5)
    optimizer.step()

    snapshot = take_snapshot(0, read_optimizer(optimizer, {}))
    assert snapshot.column("first_moment_rms")[0] == pytest.approx(0.5, rel=5e-3)
    assert snapshot.column("second_moment_rms")[0] == pytest.approx(0.5, rel=5e-3)


def test_half_a_pair_gives_half_of_the_statistics() -> None:
    """Lion has m only, RMSprop v only: the rest is NaN, and the step is there."""
    lion = take_snapshot(0, run("lion")[1][-1].readings)
    rmsprop = take_snapshot(0, run("rmsprop")[1][-1].readings)

    assert np.isfinite(lion.column("first_moment_rms")).all()
    assert np.isnan(lion.column("second_moment_rms")).all()
    assert np.isnan(lion.column("effective_lr_p50")).all()
    assert np.isnan(lion.column("zero_second_moment_share")).all()
    assert np.isnan(rmsprop.column("first_moment_rms")).all()
    assert np.isfinite(rmsprop.column("effective_lr_p50")).all()
    assert np.isnan(rmsprop.column("signal_to_noise")).all()
    assert (lion.column("step_size_rms") > 0).all()
    assert (rmsprop.column("step_size_rms") > 0).all()


def test_headline_is_of_the_tensors_that_have_the_number() -> None:
    """Beside Muon's matrices, which have no v, the vectors' v is in the headline; a sick tensor's NaN stays."""
    snapshot = take_snapshot(0, run("muon")[1][-1].readings)
    assert np.isnan(snapshot.column("second_moment_rms")).sum() == 1
    assert np.isfinite(headline(snapshot)["log10_second_moment_rms"])
    assert np.isfinite(headline(snapshot)["signal_to_noise"])

    for column in ("gradient_norm", "second_moment_rms"):
        snapshot.table[0, COLUMNS.index(column)] = np.nan
    assert np.isnan(headline(snapshot)["log10_second_moment_rms"])


def test_gradients_are_those_that_the_optimizer_got() -> None:
    """Schedule-free AdamW divides ``.grad`` in place: the norm is that of before."""
    _, steps = run("schedulefree_adamw")
    snapshot = take_snapshot(0, steps[-1].readings)
    want = [np.linalg.norm(steps[-1].gradients[name]) for name in snapshot.names]

    assert snapshot.column("gradient_norm") == pytest.approx(want, rel=1e-5)

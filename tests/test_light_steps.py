"""A step that is not logged costs little: what is measured once is used twice, and rules are asked where they may speak."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.tensorboard import SummaryWriter

import lightning_adam as la
from lightning_adam import gradient_norms
from lightning_adam.diagnosis import Diagnosis, RunSignals, StepSignals, engine
from lightning_adam.diagnosis.due import is_due
from lightning_adam.diagnosis.history import Window, median
from lightning_adam.gradient_norms import measured
from lightning_adam.monitoring import optimizer_diagnosis, pass_signals
from lightning_adam.monitoring.signal_reader import SignalReader
from lightning_adam.statistics import RulesTable, read_optimizer, tensor_names
from lightning_adam.statistics.headline import _quantile


class Norms(TorchDispatchMode):
    """Counts norms of gradients and of lists of them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in (torch.ops.aten._foreach_norm, torch.ops.aten.linalg_vector_norm)
        return func(*args, **(kwargs or {}))


def network() -> nn.Sequential:
    """Six tensors."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))


def step(
    module: nn.Module, optimizer: torch.optim.Optimizer, watch: la.integrations.Watch | None, scale: float = 1.0
) -> None:
    """On the same batch."""
    optimizer.zero_grad()
    loss = module(torch.ones(3, 5)).square().mean() * scale
    (loss if watch is None else watch.loss(loss)).backward()
    optimizer.step()


def norms_of_a_step(is_watched: bool) -> int:
    """Of the helper's optimizer, once it has settled, in a step without a pass."""
    module = network()
    optimizer = la.configure_optimizers(module, total_steps=100, clip=0.01)["optimizer"]
    watch = la.watch(module, optimizer, check_every_n_steps=50, every_n_steps=50) if is_watched else None
    for _ in range(12):
        step(module, optimizer, watch)
    with Norms() as counted:
        step(module, optimizer, watch)
    if watch is not None:
        watch.close()
    return counted.count


def test_monitors_measure_no_norm_beside_clippings() -> None:
    """As many norms are computed with the monitors as without."""
    assert norms_of_a_step(is_watched=True) == norms_of_a_step(is_watched=False) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_norms_of_clipping_are_torchs_to_the_last_bit(dtype: torch.dtype) -> None:
    """The total as ``get_total_norm`` gives it, and each as ``linalg.vector_norm`` does."""
    gradients = [torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype) for size in (1, 7, 64, 1000)]
    total, each = measured(gradients)

    assert each is not None
    assert torch.equal(total, torch.nn.utils.get_total_norm(gradients))
    assert each.tolist() == [float(torch.linalg.vector_norm(g)) for g in gradients]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bunch", [64, 1 << 18], ids=lambda elements: f"matrices of {elements}")
def test_norms_of_many_small_gradients_are_torchs_to_the_last_bit(
    dtype: torch.dtype, bunch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one shape or of several, scalars, empty and large ones between them, and one whose elements lie transposed."""
    monkeypatch.setattr(gradient_norms, "BUNCH", bunch)
    gradient_norms._order.cache_clear()
    shapes: list[tuple[int, ...]] = [(3,), (3, 5), (), (64,), (9000,), (0,), (1,)]
    drawn = torch.Generator().manual_seed(0)
    gradients = [torch.randn(shapes[i % len(shapes)], generator=drawn).to(dtype) * 10.0 ** (i % 5) for i in range(140)]
    for several in (
        gradients,
        gradients[:9],
        gradients[::7],
        [*gradients, torch.randn(5, 3, generator=drawn).to(dtype).t()],
    ):
        total, each = measured(several)

        assert each is not None and torch.equal(each, torch.stack(torch._foreach_norm(several)))
        assert torch.equal(total, torch.nn.utils.get_total_norm(several))


@pytest.mark.parametrize("clip", [None, 1e-4, 100.0])
def test_recorded_norm_is_that_before_clipping(clip: float | None) -> None:
    """Whoever has measured it: the helper's clipping, that clips or does not, or the monitor itself."""
    module, told = network(), list[StepSignals]()
    optimizer = la.configure_optimizers(module, total_steps=100, clip=clip)["optimizer"]
    true = list[float]()
    optimizer.register_before_clip_hook(lambda _: true.append(total_norm(module)))
    watch = la.watch(module, optimizer, check_every_n_steps=7)
    diagnosis = watch._monitor._optimizers[0].diagnosis  # type: ignore[union-attr]
    assert diagnosis is not None
    diagnosis._on_record = lambda _, record: told.append(record) if isinstance(record, StepSignals) else None
    for _ in range(30):
        step(module, optimizer, watch)
    watch.close()

    assert [signals.gradient_norm for signals in told] == pytest.approx(true, rel=1e-5)
    assert all((signals.clip_coefficient < 0.9) == (clip == 1e-4) for signals in told)


def total_norm(module: nn.Module) -> float:
    """torch's."""
    return float(torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]))


def test_tensor_whose_gradient_is_not_finite_is_named_from_clippings_norms() -> None:
    """In a late step, whose norms the monitor has not measured itself."""
    module = network()
    optimizer = la.configure_optimizers(module, total_steps=100, clip=1.0)["optimizer"]
    with la.watch(module, optimizer, check_every_n_steps=50) as watch:
        for index in range(25):
            optimizer.zero_grad()
            watch.loss(module(torch.ones(3, 5)).square().mean()).backward()
            if index == 23:
                bias: Tensor = module[2].bias.grad  # type: ignore[union-attr, assignment]
                bias[1] = math.nan
            optimizer.step()
    (found,) = [finding for finding in watch.findings if finding.rule == "NON-FINITE"]

    assert (found.step, found.parameters) == (23, ("2.bias",))


def test_parameter_that_loses_its_gradient_late_is_missed() -> None:
    """Although nobody looks through the parameters while clipping tells of as many norms as there are parameters."""
    module = network()
    optimizer = la.configure_optimizers(module, total_steps=100, clip=1.0)["optimizer"]
    with la.watch(module, optimizer, check_every_n_steps=50) as watch:
        for index in range(60):
            optimizer.zero_grad()
            watch.loss(module(torch.ones(3, 5)).square().mean()).backward()
            if index >= 30:
                module[0].weight.grad = None
            optimizer.step()
    (found,) = [finding for finding in watch.findings if finding.rule == "UNUSED-PARAMETER"]

    assert (found.step, found.parameters) == (39, ("0.weight",))


@pytest.mark.parametrize("length", [1, 2, 25, 50])
def test_median_of_a_window_is_that_of_its_last_values(length: int) -> None:
    """With equal values among them, and after a restored list."""
    values = [float(random.Random(0).choice((1, 2, 5)) * random.Random(i).random()) for i in range(120)] + [1.0] * 30
    window = Window(values[:40], length)
    for count in range(40, len(values)):
        window.push(values[count])
        assert window.median() == median(values[: count + 1][-length:])


def records(total: int) -> list[StepSignals]:
    """A healthy run without a pass, and a heavy gradient with its loss at step 503."""
    numbers = random.Random(0)
    usual = {"clip_coefficient": 1.0, "lr": 1e-3, "beta1": 0.9, "beta2": 0.999}
    found = [
        StepSignals(
            k, loss=2 * math.exp(-k / 300) + 0.5 + 0.02 * numbers.random(), gradient_norm=1 + numbers.random(), **usual
        )
        for k in range(total)
    ]
    found[503] = StepSignals(503, loss=40.0, gradient_norm=500.0, **usual)
    return found


def findings(total: int) -> tuple[list[tuple[str, int, str]], int]:
    """By code, step and severity, and how often the rules were asked."""
    asked = 0

    class Counting(Diagnosis):
        def _judged(self, case: Any) -> Any:
            nonlocal asked
            asked += 1
            return super()._judged(case)

    diagnosis = Counting(RunSignals(total_steps=total, lr=1e-3))
    for signals in records(total):
        diagnosis.observe(signals)
    return [(f.rule, f.step, f.severity) for f in diagnosis.findings], asked


def test_rules_are_asked_where_they_may_speak_and_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A heavy gradient is told in its own step, and of a long healthy run hardly more than every fifth step is judged."""
    seldom, asked = findings(800)
    monkeypatch.setattr(engine, "is_due", lambda now, past, run: True)
    always, asked_always = findings(800)

    assert seldom == always and ("BAD-BATCH", 503) in [found[:2] for found in seldom]
    assert asked_always == 800 and asked < 400


def wild(seed: int) -> list[StepSignals]:
    """A loss that falls, jumps now and then, and turns for good; with the gradients and rates of such a run."""
    numbers, found = random.Random(seed), list[StepSignals]()
    turn, noise, shift = numbers.randrange(80, 400), numbers.choice((0.01, 0.1, 0.6)), numbers.choice((0.0, 0.0, -1.5))
    for k in range(400):
        loss = 2 * math.exp(-min(k, turn) / 80) * (1 + noise * numbers.random()) + max(0, k - turn) / 60 + shift
        jump = numbers.choice((1.0, 3.0, 8.0, 30.0)) if numbers.random() < 0.03 else 1.0
        rate = 1e-3 * min(1.0, k / numbers.choice((30, 100))) * (3.0 if numbers.random() < 0.01 else 1.0)
        found.append(StepSignals(k, loss=loss * jump, gradient_norm=jump * (1 + numbers.random()), lr=rate))
    return found


def test_steps_that_may_wait_are_those_in_which_no_rule_is_asked() -> None:
    """Limits that are taken up to four steps before: of no such step would it have been found later that it is due."""
    waited = 0
    for seed in range(12):
        diagnosis, waiting = Diagnosis(RunSignals(total_steps=400, lr=1e-3)), list[StepSignals]()
        for signals in wild(seed):
            if diagnosis.may_wait(signals.loss, signals.gradient_norm, signals.lr, len(waiting)):
                waiting.append(signals)
                continue
            for early in waiting:
                assert not is_due(early, diagnosis.history, diagnosis.run)
                assert not diagnosis.wants_measurement(10**6, early.gradient_norm)
                diagnosis.observe(early)
            waited, waiting = waited + len(waiting), []
            diagnosis.observe(signals)

    assert waited > 800


@pytest.mark.parametrize("does_wait", [True, False])
def test_what_is_found_is_told_in_its_step_though_the_steps_before_it_wait(
    does_wait: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a checkpoint knows of all steps."""
    if not does_wait:
        monkeypatch.setattr(SignalReader, "_waits", lambda *_: False)
    module, told = network(), list[Any]()
    optimizer = la.configure_optimizers(module, total_steps=100, clip=1.0)["optimizer"]
    with la.watch(module, optimizer) as watch:
        step(module, optimizer, watch)
        diagnosis = watch._monitor._optimizers[0].diagnosis  # type: ignore[union-attr]
        diagnosis._on_record = lambda _, record: told.append(record)  # type: ignore[union-attr]
        for index in range(1, 73):
            step(module, optimizer, watch)
            assert watch.findings == []
            assert (len(told) < index) == (does_wait and index > 50 and index % 5 != 0)
        assert watch.state_dict()["monitor"]["diagnoses"][0]["history"]["count"] == 73
        step(module, optimizer, watch, scale=math.nan)
        found = [(finding.rule, finding.step) for finding in watch.findings]

    assert found == [("NON-FINITE", 73)]


def loaded_by(code: str) -> set[str]:
    """Modules of a new process after it."""
    code += "; import sys; print(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_options_of_the_monitors_are_checked_without_torch() -> None:
    """They are all that a callback needs before its first fit."""
    loaded = loaded_by(
        "import lightning_adam.monitoring as m; m.DivergenceOptions(), m.StatisticsOptions(), m.MonitorState()"
    )

    assert "lightning_adam.monitoring.options" in loaded and not {"torch", "numpy"} & loaded


@pytest.mark.slow
def test_importing_the_callbacks_loads_neither_rules_nor_statistics() -> None:
    """Both come with the first fit."""
    loaded = loaded_by("from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor; DivergenceMonitor()")

    assert not {"lightning_adam.diagnosis.rules", "lightning_adam.statistics", "lightning_adam.configure"} & loaded


@pytest.mark.parametrize("is_logged", [True, False])
def test_signals_are_encoded_where_somebody_keeps_them(
    is_logged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a log nobody would ever read them."""
    encoded, original = list[int](), optimizer_diagnosis.encode

    def counting(records: list[Any]) -> bytes:
        encoded.append(len(records))
        return original(records)

    monkeypatch.setattr(optimizer_diagnosis, "encode", counting)
    module = network()
    optimizer = la.configure_optimizers(module, total_steps=300)["optimizer"]
    with la.watch(module, optimizer, writer=SummaryWriter(str(tmp_path)) if is_logged else None) as watch:
        for _ in range(120):
            step(module, optimizer, watch)

    assert (sum(encoded) > 120) if is_logged else encoded == []


@pytest.mark.parametrize("bunch", [1, 30, 1 << 18], ids=lambda elements: f"bunches of {elements}")
def test_alignment_is_the_cosine_with_the_momentum_before(bunch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all weight matrices, however many of them are reckoned with as one, and of two groups with a β₁ of their own."""
    monkeypatch.setattr(pass_signals, "BUNCH", bunch)
    module = network()
    matrices, vectors = ([p for p in module.parameters() if (p.dim() > 1) is is_matrix] for is_matrix in (True, False))
    groups = [{"params": [*vectors, matrices[0]], "betas": (0.8, 0.99)}, {"params": matrices[1:]}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    for _ in range(4):
        before = [optimizer.state[p]["exp_avg"].double().clone() for p in matrices if p in optimizer.state]
        step(module, optimizer, None)
    gradients = torch.cat([p.grad.double().flatten() for p in matrices if p.grad is not None])
    momentum = torch.cat([m.flatten() for m in before])

    found = pass_signals._alignment(RulesTable.of(read_optimizer(optimizer, tensor_names(module.named_parameters()))))
    assert found == pytest.approx(float(torch.cosine_similarity(gradients, momentum, dim=0)), rel=1e-4)


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_quantiles_of_the_headline_are_numpys(count: int) -> None:
    """To the last bit, with values that are missing or infinite."""
    values = np.random.default_rng(count).normal(size=count) * 10.0 ** np.arange(count)
    for holes in ([], [math.nan], [math.inf, math.nan, math.inf], [-math.inf]):
        all_ = np.array([*values, *holes])
        known = all_[~np.isnan(all_)]
        for q in (0.1, 0.5, 0.9):
            with np.errstate(invalid="ignore"):
                expected = np.quantile(known, q)
            assert np.array_equal(_quantile(all_, q), expected, equal_nan=True)

"""What is advised is near the best rate for the run's length, names what is wrong, and cures when applied as printed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lightning_adam as la
from lightning_adam.diagnosis import Finding, RunSignals, StepSignals
from lightning_adam.diagnosis.advice import lower_rate
from lightning_adam.diagnosis.bearable import bearable_rate
from lightning_adam.diagnosis.case import Case
from lightning_adam.diagnosis.history import History
from tests.benchmarks.advice_followed import follow
from tests.benchmarks.divergence.corpus.jobs import Job
from tests.healthy_run import RUN, both, diagnose, healthy, heavy, light
from tests.test_divergence_corpus import short
from tests.watched_loops import batches

SGD = RunSignals(optimizer="SGD", steps_like="sgd", total_steps=250.0, lr=30.0, momentum=0.0)
ADAM = RunSignals(optimizer="Adam", steps_like="adam", total_steps=250.0, lr=0.1)


def begun(run: RunSignals, unit_rate: float = 0.02) -> Case:
    """A first step whose loss is 4 and whose gradient's norm is 2; a matrix moves by its norm at ``unit_rate``."""
    return Case(StepSignals(0, loss=4.0, gradient_norm=2.0, lr=run.lr), History(unit_rate=unit_rate), run)


@pytest.mark.parametrize(
    "mistake", ["rate × 300", *(pytest.param(m, marks=pytest.mark.slow) for m in ("rate ÷ 100", "SGD's rate × 100"))]
)
def test_advice_followed_once_recovers_four_fifths(mistake: str) -> None:
    """A real Trainer, a network on a table, the finding's ``changes`` as they stand."""
    end = follow("table", mistake)

    assert end.is_harmed
    assert end.is_mended, end


@pytest.mark.parametrize(
    ("run", "share"),
    [
        (ADAM, 0.05),
        (replace(ADAM, total_steps=4000.0), 0.05 / 4 * 1.2),  # 1/√16, but no less than 0.015
        (replace(ADAM, total_steps=1000.0), 0.025),
        (replace(ADAM, total_steps=math.nan), 0.02),
        (replace(ADAM, steps_like="sign"), 0.05 / 7),
        (replace(ADAM, optimizer="RMSprop"), 0.5),  # whose first step is ten times the rate
    ],
)
def test_first_step_tells_what_rate_the_weights_can_bear(run: RunSignals, share: float) -> None:
    """A share of the rate that moves a matrix by its norm: 5 % in 250 steps, less in longer runs by the root."""
    assert bearable_rate(begun(run)) == pytest.approx(share * 0.02, rel=1e-6)


@pytest.mark.parametrize(
    ("run", "rate"),
    [
        (SGD, 0.3 * 4 / 2**2),
        (replace(SGD, momentum=0.9), 0.3 * math.sqrt(0.1) * 4 / 2**2),
        (replace(SGD, clip=0.5), 0.3 * 4 / (2 * 0.5)),  # the step is along a gradient of a quarter of its length
    ],
)
def test_loss_and_gradient_tell_what_rate_sgd_can_bear(run: RunSignals, rate: float) -> None:
    """Three tenths of Polyak's step L/‖g‖²; of momentum's 1/(1-μ) steps noise leaves the root."""
    assert bearable_rate(begun(run, unit_rate=1e3)) == pytest.approx(rate)


def test_sgd_is_advised_no_rate_that_moves_a_matrix_by_its_norm() -> None:
    """A flat start: Polyak's step is 0.3, a matrix of small weights moves by its norm at 0.02."""
    assert bearable_rate(begun(SGD)) == pytest.approx(0.15 * 0.02)


def convolved(rate: float, steps: int) -> tuple[list[float], list[Finding]]:
    """Losses and findings of momentum SGD on digits."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    )
    optimizer, losses = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9), []
    with la.watch(net, optimizer, total_steps=steps) as watch:
        for (_, (x, y)), _ in zip(batches(), range(steps), strict=False):
            loss = F.cross_entropy(net((x - x.mean()).view(-1, 1, 8, 8) / x.std()), y)
            optimizer.zero_grad()
            watch.loss(loss, batch=(x, y)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
    return losses, [f for f in watch.findings if f.severity != "info"]


@pytest.mark.parametrize("times", [300, 0.003])
def test_a_rate_advised_for_momentum_trains_a_convolutional_net(times: float) -> None:
    """Whose curvature grows as it learns: three times the share of the weights that is right for it ends at 2.3."""
    _, told = convolved(0.02 * times, 150)

    losses, _ = convolved(told[0].changes["lr"], 150)

    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("run", [replace(SGD, lr=math.nan), replace(ADAM, optimizer="RAdam")])
def test_what_first_steps_do_not_tell_is_not_made_up(run: RunSignals) -> None:
    """A loss that may be negative has no distance to zero; RAdam's first steps are SGD's."""
    case = begun(run)
    case.past.is_signed = True

    assert math.isnan(bearable_rate(case))


def test_too_much_momentum_is_named_with_what_to_write_instead() -> None:
    """No rate makes good that a thousand steps add up."""
    advice = lower_rate(begun(replace(SGD, momentum=0.999, lr=0.05), unit_rate=1e3))

    assert advice.text == "Use momentum=0.9 instead of 0.999, which adds up 1000 steps."
    assert advice.changes == {"momentum": 0.9}


def test_rate_under_which_the_loss_fell_is_not_lowered() -> None:
    """A schedule raises it three-hundredfold at step 150: what is advised is no less than what was configured."""
    first, raised = heavy(until=10, update_ratio_max=0.5), both(light(150, lr=0.3), light(152, loss=40.0))
    found = diagnose(map(both(first, raised), healthy()), replace(RUN, lr=1e-3))
    advised = [f.changes["lr"] for f in found if f.severity != "info" and "lr" in f.changes]

    assert advised
    assert min(advised) >= 1e-3


def test_a_warmup_that_outlasts_the_run_is_named_where_gradients_never_turn() -> None:
    """Its rate is a fiftieth of the configured one: another rate would be the wrong advice."""
    rising = both(heavy(alignment=0.97), lambda s: replace(s, lr=2e-5, loss=4 - 0.4 * s.step / 400))
    found = [f for f in diagnose(map(rising, healthy()), replace(RUN, lr=1e-3)) if f.severity != "info"]

    assert [f.rule for f in found] == ["SCHEDULE-NEVER-ARRIVES"]
    assert found[0].changes == {"warmup": 0.05}


@pytest.mark.parametrize(("optimizer", "most"), [("AdamW", 0.1), ("Adam", 5e-4)])
def test_weight_decay_that_is_advised_is_what_people_use(optimizer: str, most: float) -> None:
    """A decay of 100 is answered with AdamW's largest usual one; where it is added to the gradient, with L2's."""
    change = both(heavy(decay_ratio=1.0), light(loss=4.0))
    found = diagnose(map(change, healthy()), replace(RUN, optimizer=optimizer, weight_decay=100.0))

    assert found[0].rule == "DECAY-DOMINATES"
    assert found[0].changes == {"weight_decay": most}


def test_decay_is_not_blamed_where_clipping_leaves_no_step() -> None:
    """SGD's step is a thousandth of the gradient: any decay outweighs it."""
    sgd = replace(RUN, optimizer="SGD", steps_like="sgd", weight_decay=5e-4, clip=1e-3)
    change = both(heavy(decay_ratio=1.0), light(loss=4.0, clip_coefficient=1e-3))

    assert "DECAY-DOMINATES" not in [f.rule for f in diagnose(map(change, healthy()), sgd)]


def test_monitor_reads_momentum_and_the_peak_of_one_cycle() -> None:
    """Of real SGD with a momentum of 0.9; ``OneCycleLR`` is given its peak of 0.3, and starts at a 25th of it."""
    plain, cycled = (short(Job("parity-of-four", "healthy-1", setting=name)) for name in ("", "onecycle"))
    told, peak = plain.records[0][0], cycled.records[0][0]

    assert isinstance(told, RunSignals)
    assert isinstance(peak, RunSignals)
    assert told.momentum == 0.9
    assert peak.lr == pytest.approx(0.3)
    assert cycled.steps[0].lr == pytest.approx(0.3 / 25)

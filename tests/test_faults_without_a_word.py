"""Faults that people have and that once had no name, or a wrong one: real optimizers in a plain loop under la.watch."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

import lightning_adam as la
from lightning_adam.diagnosis import Finding
from lightning_adam.monitoring.options import DivergenceOptions
from lightning_adam.monitoring.pass_signals import batch_scale

Batch = tuple[Tensor, Tensor]
CLASSES, FEATURES = 5, 16


def network(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def clusters(step: int, label: int | None = None) -> Batch:
    """64 points about five centres; with a label, of its class only."""
    centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(1))
    drawn = torch.randint(0, CLASSES, (64,)) if label is None else torch.full((64,), label)
    return centres[drawn] + torch.randn(64, FEATURES), drawn


def curve(step: int) -> Batch:
    """A squashed sum of 16 features."""
    features = torch.randn(64, FEATURES)
    return features, features.sum(1, keepdim=True).div(4).tanh()


def classified(net: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(net(batch[0]), batch[1])


def squared(net: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(net(batch[0]), batch[1])


def trained(
    net: nn.Module,
    optimizer: Optimizer,
    steps: int,
    draw: Callable[[int], Batch] = clusters,
    loss_of: Callable[[nn.Module, Batch], Tensor] = classified,
    rate: Callable[[int], float] | None = None,
) -> list[Finding]:
    """What is found in a plain loop."""
    with la.watch(net, optimizer, total_steps=steps) as watch:
        for step in range(steps):
            if rate is not None:
                optimizer.param_groups[0]["lr"] = rate(step)
            batch = draw(step)
            optimizer.zero_grad()
            watch.loss(loss_of(net, batch), batch=batch).backward()
            optimizer.step()
    return watch.findings


@pytest.mark.parametrize("times", [100.0, 300.0])
def test_one_step_at_a_wrong_rate_is_the_rates_fault_and_no_batchs(times: float) -> None:
    """The gradients stand out one step later, when the rate is the usual one again."""
    net = network(FEATURES, 64, 64, CLASSES)
    slip = 80
    found = trained(net, Adam(net.parameters(), 3e-3), 120, rate=lambda step: 3e-3 * (times if step == slip else 1.0))

    assert {f.rule for f in found} <= {"LR-HIGH", "LOSS-SPIKE"}
    (named,) = (f for f in found if f.rule == "LR-HIGH")
    assert named.step in (slip, slip + 1, slip + 2)
    assert f"from 0.003 to {0.003 * times:g}" in named.message
    assert "Look at what sets the rate" in named.remedy


@pytest.mark.parametrize("size", [1e-24, 1e20])
def test_gradients_are_measured_whatever_their_size(size: float) -> None:
    """Their squares are 0 or infinite in float32; SGD with the rate that fits learns all the same."""
    net = network(FEATURES, 32, 1)

    assert trained(net, SGD(net.parameters(), 0.1 / size), 60, curve, lambda n, b: size * squared(n, b)) == []


def test_weights_that_were_not_finite_before_the_first_step_are_not_the_steps_doing() -> None:
    net = network(FEATURES, 32, CLASSES)
    nn.init.constant_(net[0].weight[:1], math.nan)
    (found,) = trained(net, Adam(net.parameters()), 5)

    assert (found.rule, found.severity, found.parameters) == ("NON-FINITE", "critical", ("0.weight",))
    assert found.message == "the parameter in 0.weight was NaN or Inf before the first step."
    assert "initialisation" in found.remedy and "eps" not in found.changes


def test_batches_of_one_class_are_named() -> None:
    """Each batch is another class. These are easy, and learnt all the same: then it is information."""
    net = network(FEATURES, 32, CLASSES)
    found = trained(net, Adam(net.parameters(), 3e-3), 120, lambda step: clusters(step, label=step % CLASSES))

    assert [(f.rule, f.severity) for f in found] == [("SORTED", "info")]
    assert "shuffle=True" in found[0].remedy


def test_one_label_for_all_is_information_until_another_one_comes() -> None:
    """A table that is sorted by class: the first 60 batches know one class, and the loss leaps with the next one."""
    net = network(FEATURES, 32, CLASSES)
    found = trained(net, Adam(net.parameters(), 3e-3), 200, lambda step: clusters(step, label=step // 60))

    assert [f.rule for f in found] == ["ONE-LABEL", "SORTED"]
    assert [f.severity == "info" for f in found] == [True, False]
    assert found[1].step >= 60


@pytest.mark.parametrize(
    "batch",
    [
        (torch.tensor(0.5), torch.zeros(8, dtype=torch.long)),
        (torch.randn(8, 3), torch.zeros(8, 5, dtype=torch.long)),
        (torch.randn(8, 3), torch.randn(8), torch.zeros(8)),
        (torch.randn(3, 3), torch.zeros(3)),
    ],
)
def test_masks_flags_and_very_few_examples_are_no_labels(batch: tuple[Tensor, ...]) -> None:
    """Only of inputs with one label each is it known how many classes a batch has."""
    assert math.isnan(batch_scale(batch).target_classes)


def test_what_a_rule_of_another_name_tells_can_be_ignored() -> None:
    assert DivergenceOptions(ignore=["ONE-LABEL", "ZERO-GRADIENT"]).ignore == ("ONE-LABEL", "ZERO-GRADIENT")


def test_a_rare_class_makes_no_alarm() -> None:
    """One example in 200 is positive: most batches hold one class, and now and then one holds both."""
    net = network(FEATURES, 32, 2)

    def rare(step: int) -> Batch:
        return torch.randn(64, FEATURES), (torch.rand(64) < 0.005).long()

    assert [f for f in trained(net, Adam(net.parameters(), 1e-3), 150, rare) if f.severity != "info"] == []


def test_layers_that_no_optimizer_has_are_named_with_what_they_cost() -> None:
    """The head learns on features that nobody trains: too slow for the run."""
    net = network(FEATURES, 32, 32, CLASSES)
    found = trained(net, SGD(net[4].parameters(), 0.02), 200)
    named = next(f for f in found if f.rule == "OPTIMIZER-MISSES")

    assert [f.rule for f in found if f.severity != "info"] == ["OPTIMIZER-MISSES"]
    assert named.step == 0 and named.parameters == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert "model.parameters()" in named.remedy


def test_a_probe_on_trained_layers_is_information() -> None:
    """Whoever trains the head alone may want the rest as it is."""
    net = network(FEATURES, 32, 32, CLASSES)
    for layer in (net[0], net[2]):
        nn.init.orthogonal_(layer.weight)
    found = trained(net, SGD(net[4].parameters(), 0.02), 200)

    assert [(f.rule, f.severity) for f in found if f.rule == "OPTIMIZER-MISSES"] == [("OPTIMIZER-MISSES", "info")]


def test_layers_that_are_frozen_as_they_were_initialised_are_named() -> None:
    net = network(FEATURES, 32, 32, CLASSES)
    optimizer = SGD(net.parameters(), 0.02)
    for parameter in [*net.parameters()][:4]:
        parameter.requires_grad_(False)
    found = trained(net, optimizer, 200)

    assert [f.rule for f in found if f.severity != "info"] == ["FROZEN"]
    assert {"0.weight", "2.weight"} <= {*found[0].parameters}


def test_frozen_layers_are_not_blamed_for_what_another_fault_does() -> None:
    """Random features that are frozen on purpose, and a loss that was cut off from the model."""
    net = network(FEATURES, 32, 32, CLASSES)
    net[0].requires_grad_(False)
    found = trained(net, Adam(net.parameters()), 90, loss_of=lambda n, b: classified(n, b).detach().requires_grad_())

    assert [(f.rule, f.severity) for f in found] == [("FROZEN", "info"), ("NO-GRADIENT", "critical")]


class Adversary(nn.Module):
    """Makes points of the plane, and tells them from others."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.judge = network(4, 32, 32, 2), network(2, 32, 32, 1)


def test_an_adversary_that_is_sure_of_everything_is_no_missing_gradient() -> None:
    """log(1 - D) is flat where D is 0 to the last digit: the generator's gradient becomes exactly zero."""
    net = Adversary()
    judge, generator = SGD(net.judge.parameters(), 0.0), Adam(net.generator.parameters(), 1e-3)
    with la.watch(net, [judge, generator], total_steps=60) as watch:
        for step in range(60):
            judge.zero_grad()
            watch.loss(F.softplus(-net.judge(torch.randn(32, 2) + 9)).mean()).backward()
            judge.step()
            if step == 20:
                nn.init.constant_(net.judge[4].bias, -200.0)
            generator.zero_grad()
            fooled = torch.sigmoid(net.judge(net.generator(torch.randn(32, 4))))
            watch.loss((1 - fooled).clamp(min=1e-7).log().mean()).backward()
            generator.step()
    (found,) = (f for f in watch.findings if f.rule.endswith("-GRADIENT"))

    assert (found.rule, found.severity) == ("ZERO-GRADIENT", "warning")
    assert "softplus(-logits)" in found.remedy


def test_a_margin_that_every_example_keeps_is_no_missing_gradient() -> None:
    """A hinge loss ends at zero, and so do its gradients: it is learnt."""
    net = network(2, 16, 1)

    def sides(step: int) -> Batch:
        side = torch.randint(0, 2, (64, 1)).float() * 2 - 1
        return side * 5 + torch.rand(64, 2), side

    found = trained(net, Adam(net.parameters(), 0.02), 150, sides, lambda n, b: F.relu(1 - b[1] * n(b[0])).mean())

    assert [f for f in found if f.severity != "info"] == []


def test_fine_tuning_that_gets_on_is_not_called_too_slow() -> None:
    """Small steps from a start that was trained, and noise that hides the fall for the first half of the run."""
    net = network(FEATURES, 64, 1)
    before = Adam(net.parameters(), 3e-3)
    for step in range(150):
        before.zero_grad()
        squared(net, curve(step)).backward()
        before.step()

    def shifted(step: int) -> Batch:
        features, targets = curve(step)
        return features, targets + 0.4 + 0.2 * torch.randn(64, 1)

    found = trained(net, Adam(net.parameters(), 1e-4), 250, shifted, squared)

    assert [f for f in found if f.severity != "info"] == []


def test_dropout_of_nearly_everything_is_named_where_it_is_what_holds_the_loss_up() -> None:
    """p is the share that is dropped, not the one that stays."""
    net = network(FEATURES, 32, 32, CLASSES)
    net.insert(2, nn.Dropout(0.97))
    net.insert(5, nn.Dropout(0.97))
    found = trained(net, Adam(net.parameters(), 1e-3), 200)

    assert [f.rule for f in found if f.severity != "info"] == ["NO-LEARNING"]
    assert "Dropout leaves 3 %" in found[-1].message and "instead of p=0.97" in found[-1].remedy


def test_gradients_whose_squares_vanish_leave_eps_alone_in_the_denominator() -> None:
    """The loss is scaled to 1e-24: Adam's v is zero in float32, and its steps are gradients over eps."""
    net = network(FEATURES, 32, 1)
    found = trained(net, Adam(net.parameters(), 3e-3), 80, curve, lambda n, b: 1e-24 * squared(n, b))

    assert [f.rule for f in found if f.severity != "info"] == ["EPS-HIGH"]
    assert "Scale the loss up" in found[0].remedy


@pytest.mark.parametrize(("rate", "named"), [(1e-5, ["LR-LOW", "LR-LOW"]), (3e-3, [])])
def test_adversaries_that_stay_where_they_were_initialised_have_too_low_a_rate(rate: float, named: list[str]) -> None:
    """Their losses tell nothing; the way that the weights have gone does."""
    net = Adversary()
    judge, generator = (Adam(part.parameters(), rate) for part in (net.judge, net.generator))
    with la.watch(net, [judge, generator], total_steps=200) as watch:
        for _ in range(200):
            real = torch.randn(32, 2) + torch.tensor([2.0, 0.0])
            judge.zero_grad()
            made = net.generator(torch.randn(32, 4))
            loss = F.softplus(-net.judge(real)).mean() + F.softplus(net.judge(made.detach())).mean()
            watch.loss(loss, batch=(real,)).backward()
            judge.step()
            generator.zero_grad()
            watch.loss(F.softplus(-net.judge(made)).mean(), batch=(real,)).backward()
            generator.step()

    assert [f.rule for f in watch.findings if f.severity != "info"] == named


def test_a_rate_that_stays_too_high_is_named_where_gradients_do_not_stand_out() -> None:
    """The loss rises after the rate went over what is configured; the slope of an absolute error is bounded."""
    net = network(FEATURES, 64, 1)
    found = trained(net, Adam(net.parameters(), 3e-3), 120, curve, lambda n, b: F.l1_loss(n(b[0]), b[1]),
                    lambda step: 3e-3 if step < 80 else 0.9)  # fmt: skip
    (named,) = (f for f in found if f.severity != "info")

    assert (named.rule, named.changes) == ("LR-HIGH", {"lr": 0.006})
    assert 80 <= named.step < 95


def test_a_wild_batch_among_the_first_is_named_and_no_first_step() -> None:
    """SGD's first steps are large, and the loss had fallen all the same when the batch came."""
    torch.manual_seed(0)
    net = nn.Linear(FEATURES, 1, bias=False)
    nn.init.constant_(net.weight, 1e-3)

    def draw(step: int) -> Batch:
        features = torch.randn(64, FEATURES) * (1e3 if step == 15 else 1.0)
        return features, features.sum(1, keepdim=True)

    found = trained(net, SGD(net.parameters(), 0.1), 60, draw, squared)

    assert [f.rule for f in found if f.severity != "info"] == ["BAD-BATCH"]
    assert next(f for f in found if f.rule == "BAD-BATCH").step == 15


def test_constant_inputs_are_named_although_the_loss_falls_to_what_guessing_gives() -> None:
    """Rare labels: answering no for all takes the loss from ln 2 to a third, over the whole run."""
    net = network(FEATURES, 32, 20)
    found = trained(net, Adam(net.parameters(), 3e-3), 200,
                    lambda step: (torch.ones(64, FEATURES), (torch.rand(64, 20) < 0.08).float()),
                    lambda n, b: F.binary_cross_entropy_with_logits(n(b[0]), b[1]))  # fmt: skip

    assert [(f.rule, f.severity) for f in found] == [("INPUT-CONSTANT", "warning")]


def test_a_rate_that_is_too_low_is_named_after_a_schedule_has_lowered_it_further() -> None:
    net = network(FEATURES, 64, 64, CLASSES)
    found = trained(net, Adam(net.parameters(), 1e-5), 200, rate=lambda step: 1e-5 * 0.25 ** (step // 50))

    assert [f.rule for f in found if f.severity != "info"] == ["LR-LOW"]


def test_one_row_in_every_place_of_a_batch_is_no_constant_input_and_no_sorted_class() -> None:
    """Batches differ from each other: an index that does not move within one of them."""

    def draw(step: int) -> Batch:
        features, labels = clusters(step)
        return features[:1].expand_as(features), labels[:1].expand_as(labels)

    net = network(FEATURES, 64, CLASSES)
    found = trained(net, Adam(net.parameters(), 1e-3), 150, draw)

    assert [f.rule for f in found if f.severity != "info"] == ["DUPLICATES"]

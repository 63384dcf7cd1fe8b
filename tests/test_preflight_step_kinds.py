"""Kinds that the training step shows: whose features it reads, what it makes of the batch, how its loss comes down again."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lightning_adam as la
from tests.benchmarks.preflight.data import chains, clusters, curve, loader, rows
from tests.benchmarks.preflight.nomads_parts import pretrained
from tests.benchmarks.preflight.parts import Bare, Built, Learner, Stepped, perceptron
from tests.preflight_kinds import Kinds, test_kind_is_named_by_its_cause, test_what_looks_like_the_kind_is_let_pass  # noqa: F401

KINDS = Kinds()
sick, healthy = KINDS.sick, KINDS.healthy


def features() -> nn.Sequential:
    """Four features with a norm and a dropout, new."""
    return nn.Sequential(nn.Linear(12, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 4))


def trained() -> nn.Module:
    """The same, trained on the same clusters."""
    return pretrained(features(), *clusters(), steps=60)


def without_gradients(module: Any, batch: Any) -> Tensor:
    """The head's loss on what the body gives under ``no_grad``; Adam has the parameters of both."""
    with torch.no_grad():
        h = module.body(batch[0])
    return F.cross_entropy(module.head(h), batch[1])


def detached(module: Any, batch: Any) -> Tensor:
    """The head's loss on a copy of what the body gives."""
    return F.cross_entropy(module.head(module.body(batch[0]).detach()), batch[1])


@healthy
def trained_body_in_evaluation_under_no_grad() -> Built:
    """As Lightning's page on transfer learning has it."""
    return Stepped(without_gradients, body=trained().eval(), head=nn.Linear(4, 4)), loader(*clusters())


@healthy
def trained_body_in_evaluation_detached() -> Built:
    return Stepped(detached, body=trained().eval(), head=nn.Linear(4, 4)), loader(*clusters())


@healthy
def trained_body_in_training_mode_under_no_grad() -> Built:
    return Stepped(without_gradients, body=trained(), head=nn.Linear(4, 4)), loader(*clusters())


@sick("NO-GRADIENT")
def new_body_under_no_grad() -> Built:
    return Stepped(without_gradients, body=features(), head=nn.Linear(4, 4)), loader(*clusters())


@sick("EVAL-MODE")
def trained_body_in_evaluation_that_is_to_be_tuned() -> Built:
    step = lambda module, batch: F.cross_entropy(module.head(module.body(batch[0])), batch[1])  # noqa: E731
    return Stepped(step, body=trained().eval(), head=nn.Linear(4, 4)), loader(*clusters())


def mixture(sign: float) -> Built:
    """The density of three Gaussians, by hand: a target in a column against three means."""

    def step(module: Any, batch: Any) -> Tensor:
        share, mean, log_std = module.net(batch[0]).chunk(3, 1)
        each = -0.5 * ((batch[1][:, None] - mean) / log_std.exp()) ** 2 - log_std
        return sign * torch.logsumexp(share.log_softmax(1) + each, 1).mean()

    return Stepped(step, net=perceptron(6, 9)), loader(*curve())


@sick("WRONG-SIGN")
def density_of_a_mixture() -> Built:
    return mixture(1.0)


@healthy
def minus_the_density_of_a_mixture() -> Built:
    return mixture(-1.0)


@sick("LOG-OF-PROBABILITY")
def logarithm_that_makes_the_run_end() -> Built:
    """It is not finite at the first batch, which is what comes of it."""
    x, y = clusters(classes=2)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        p = torch.sigmoid(100 * output[:, 0])
        return -(target * torch.log(p) + (1 - target) * torch.log(1 - p)).mean()

    return Learner(perceptron(12, 1), loss), loader(x, y.float())


def noise(uses_the_batch: bool) -> Built:
    """A net that is to tell the noise that was added, and may be given the time alone."""

    def step(module: Any, batch: Any) -> Tensor:
        x = batch["x"]
        time, added = torch.rand(len(x), 1), torch.randn_like(x)
        noisy = (1 - time) * x + time * added
        return F.mse_loss(module.net(torch.cat([noisy if uses_the_batch else torch.zeros_like(x), time], 1)), added)

    return Stepped(step, net=perceptron(7, 6)), rows(x=curve()[0])


@sick("IGNORES-INPUT")
def noise_told_by_the_time_alone() -> Built:
    return noise(uses_the_batch=False)


@healthy
def noise_told_by_what_is_noisy() -> Built:
    return noise(uses_the_batch=True)


@healthy
def points_drawn_by_the_step() -> Built:
    """The loader counts steps; the data are made of nothing."""

    def step(module: Any, batch: Any) -> Tensor:
        x = torch.rand(64, 2)
        return F.mse_loss(module.net(x)[:, 0], torch.sin(3 * x[:, 0]) * x[:, 1])

    return Stepped(step, net=perceptron(2, 1)), loader(torch.arange(960), torch.rand(960, 1))


class Slots(Bare):
    """Queries that begin at one number read the row's columns; what they read is averaged."""

    def __init__(self, places: Tensor, start: float) -> None:
        super().__init__()
        self.places, self.queries = places, nn.Parameter(torch.full((1, 4, 16), start))
        self.embed, self.head = nn.Linear(1, 16), perceptron(16, 4, 16)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        memory = self.embed(batch[0][:, :6, None])
        asked = (self.queries + self.places).expand(len(memory), -1, -1)
        read = F.scaled_dot_product_attention(asked, memory, memory)
        return F.cross_entropy(self.head(read).mean(1), batch[1])


@pytest.mark.parametrize("start", [0.0, 1.0])
@pytest.mark.parametrize(("places", "told"), [(torch.zeros(1), ["SYMMETRIC-INIT"]), (torch.eye(4, 16), [])])
def test_slots_that_begin_alike_are_told_unless_places_tell_them_apart(
    places: Tensor, told: list[str], start: float
) -> None:
    """As information."""
    findings = la.preflight(Slots(places, start), loader(*clusters())).findings
    assert [(f.rule, f.severity) for f in findings] == [(rule, "info") for rule in told]
    assert all("All rows of queries are equal" in f.message and "nn.init.normal_(q, std=0.02)" in f.remedy for f in findings)


@healthy
def first_of_each_pair_is_to_be_larger() -> Built:
    """A target of 1 everywhere is no label."""

    def step(module: Any, batch: Any) -> Tensor:
        better, worse = module.net(batch["better"])[:, 0], module.net(batch["worse"])[:, 0]
        return F.margin_ranking_loss(better, worse, batch["sign"], margin=0.5)

    x, y = curve()
    is_first = (y[:480] > y[480:])[:, None]
    better, worse = torch.where(is_first, x[:480], x[480:]), torch.where(is_first, x[480:], x[:480])
    return Stepped(step, net=perceptron(6, 1)), rows(better=better, worse=worse, sign=torch.ones(480))


@healthy
def few_labels_beside_many_rows_without() -> Built:
    """Lightning begins the shorter loader again until the longer one ends."""

    def step(module: Any, batch: Any) -> Tensor:
        (x, y), (unlabelled,) = batch["labelled"], batch["unlabelled"]
        sure = module.net(unlabelled).softmax(1)
        return F.cross_entropy(module.net(x), y) - 0.01 * (sure * sure.clamp_min(1e-6).log()).sum(1).mean()

    x, y = clusters()
    return Stepped(step, net=perceptron(12, 4)), {"labelled": loader(x[:160], y[:160]), "unlabelled": loader(x, size=64)}


@healthy
def better_answer_by_dpo() -> Built:
    """The worse one becomes less likely, and rightly so. All pairs weigh the same at the start, where both nets are one."""
    tokens = chains()
    policy = nn.Sequential(nn.Embedding(24, 16), nn.Linear(16, 24))
    reference = copy.deepcopy(policy).requires_grad_(False)

    def likely(net: nn.Module, words: Tensor) -> Tensor:
        return net(words[:, :-1]).log_softmax(-1).gather(2, words[:, 1:, None]).sum((1, 2))

    def step(module: Any, batch: Any) -> Tensor:
        better, worse = (likely(module.policy, w) - likely(module.reference, w) for w in batch)
        return -F.logsigmoid(0.1 * (better - worse)).mean()

    return Stepped(step, policy=policy, reference=reference), loader(tokens, tokens.flip(0))


@healthy
def mask_of_rows_times_a_scale_of_features() -> Built:
    """Stochastic depth and LayerScale, in a batch of as many rows as there are features."""

    def step(module: Any, batch: Any) -> Tensor:
        h = module.first(batch[0])
        kept = (torch.rand(len(h), 1) > 0.1).float() / 0.9
        return F.cross_entropy(module.last(h + kept * module.scale * torch.tanh(module.branch(h))), batch[1])

    parts = {"first": nn.Linear(12, 32), "branch": nn.Linear(32, 32), "last": nn.Linear(32, 4)}
    return Stepped(step, scale=nn.Parameter(0.1 * torch.ones(32)), **parts), loader(*clusters(), size=32)


@healthy
def biases_tuned_for_other_labels() -> Built:
    """Most weights are frozen and sure of what they have learnt: the first loss is high, and falls."""
    x, y = clusters()
    net = pretrained(perceptron(12, 4, 96), x, y, steps=150)
    for name, parameter in net.named_parameters():
        parameter.requires_grad = name.endswith("bias") or name.startswith("4")
    return Learner(net, F.cross_entropy), loader(x, (y + 1) % 4)


class Quantised(Bare):
    """A VQ-VAE of rows."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder, self.codes = perceptron(12, 8, 128), perceptron(8, 12, 128), nn.Embedding(32, 8)
        nn.init.uniform_(self.codes.weight, -1 / 32, 1 / 32)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        z = self.encoder(batch[0])
        q = self.codes(torch.cdist(z, self.codes.weight).argmin(1))
        told = self.decoder(z + (q - z).detach())
        return F.mse_loss(told, batch[0]) + F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@healthy
def codes_that_start_near_zero() -> Built:
    """What is encoded leaves them behind first, so that the loss rises far above its start before it falls."""
    return Quantised(), loader(*clusters())

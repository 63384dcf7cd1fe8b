"""Kinds of faults of the loss, in no textbook shape: written by hand, several of them, against the wrong target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lightning_adam as la
from tests.benchmarks.preflight.data import clusters, curve, generator, loader, pictures, rows
from tests.benchmarks.preflight.outsiders_parts import views_of_things
from tests.benchmarks.preflight.parts import Built, Stepped, perceptron
from tests.benchmarks.preflight.travellers_parts import pixelwise
from tests.preflight_kinds import Kinds, test_kind_is_named_by_its_cause, test_what_looks_like_the_kind_is_let_pass  # noqa: F401
from tests.test_preflight import graves

KINDS = Kinds()
sick, healthy = KINDS.sick, KINDS.healthy


@sick("DOUBLE-SOFTMAX")
def cross_entropy_by_logsumexp_of_a_softmax() -> Built:
    """Minus the label's score, plus what normalises all of them."""

    def step(m: Any, batch: Any) -> Tensor:
        told = m.net(batch[0]).softmax(-1)
        return (told.logsumexp(1) - told.gather(1, batch[1][:, None])[:, 0]).mean()

    return Stepped(step, net=perceptron(12, 4)), loader(*clusters())


@sick("DOUBLE-SIGMOID")
def binary_cross_entropy_by_softplus_of_a_sigmoid() -> Built:
    """softplus(x) - x y is the loss of logits."""

    def step(m: Any, batch: Any) -> Tensor:
        told = torch.sigmoid(m.net(batch[0])[:, 0])
        return (F.softplus(told) - told * batch[1]).mean()

    x, y = clusters(classes=2)
    return Stepped(step, net=perceptron(12, 1)), loader(x, y.float())


@sick("LOG-OF-PROBABILITY")
def softmax_by_hand() -> Built:
    """Exponentials over their sum, and then the logarithm."""

    def step(m: Any, batch: Any) -> Tensor:
        sizes = m.net(batch[0]).exp()
        return -(sizes / sizes.sum(1, keepdim=True)).log().gather(1, batch[1][:, None]).mean()

    return Stepped(step, net=perceptron(12, 4)), loader(*clusters())


@sick("BROADCAST")
def reward_as_a_column_plus_value_as_a_row() -> Built:
    """The target of the Bellman equation is (N, N) before the loss sees it."""

    def step(m: Any, batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            target = batch["reward"][:, None] + 0.9 * m.slow(batch["state"]).max(1)[0]
        return F.smooth_l1_loss(m.net(batch["state"]).gather(1, batch["action"][:, None]), target)

    x, y = clusters()
    parts = {"net": perceptron(12, 4), "slow": perceptron(12, 4).requires_grad_(False)}
    return Stepped(step, **parts), rows(state=x, action=y, reward=x[:, 0])


@sick("WRONG-SIGN")
def log_probability_of_torch_is_returned() -> Built:
    """Its mean is to rise."""

    def step(m: Any, batch: Any) -> Tensor:
        mean, scale = m.net(batch[0]).unbind(1)
        return torch.distributions.Normal(mean, F.softplus(scale) + 1e-3).log_prob(batch[1]).mean()

    return Stepped(step, net=perceptron(6, 2)), loader(*curve())


@sick("OUTPUT-RANGE")
def mean_of_a_gaussian_behind_a_relu() -> Built:
    """Half of the targets are below 0."""

    def step(m: Any, batch: Any) -> Tensor:
        mean, scale = m.net(batch[0]).unbind(1)
        return F.gaussian_nll_loss(mean.relu(), batch[1], F.softplus(scale) + 1e-3)

    return Stepped(step, net=perceptron(6, 2)), loader(*curve())


@sick("TARGET-SCALE")
def raw_prices_beside_a_loss_of_classes() -> Built:
    """The loss of the prices comes first."""

    def step(m: Any, batch: dict[str, Tensor]) -> Tensor:
        price, kind = m.net(batch["x"]).split([1, 4], 1)
        return F.smooth_l1_loss(price[:, 0], batch["price"]) + F.cross_entropy(kind, batch["kind"])

    x, y = clusters()
    return Stepped(step, net=perceptron(12, 5)), rows(x=x, kind=y, price=3e5 + 4e4 * x[:, 0])


def pairs(loss: Callable[[Tensor], Tensor]) -> Built:
    """Two towers, and what is made of their cosines."""
    step = lambda m, b: loss(F.cosine_similarity(m.one(b[0]), m.other(b[1])))  # noqa: E731
    return Stepped(step, one=perceptron(20, 16), other=perceptron(14, 16)), loader(*views_of_things())


@sick("WRONG-SIGN")
def cosines_made_smaller() -> Built:
    """What belongs together is driven apart."""
    return pairs(lambda cosine: cosine.mean())


@healthy
def cosines_made_larger() -> Built:
    return pairs(lambda cosine: 1 - cosine.mean())


@sick("WRONG-SIGN")
def local_likeness_made_smaller() -> Built:
    """By windows, as structural similarity (Wang et al. 2004) has it: the net comes to tell the opposite of each."""

    def step(m: Any, batch: dict[str, Tensor]) -> Tensor:
        told, true = (F.unfold(x, 4, stride=2) for x in (m.net(batch["noisy"]), batch["clean"]))
        told, true = told - told.mean(1, keepdim=True), true - true.mean(1, keepdim=True)
        return ((2 * (told * true).mean(1) + 1e-3) / (told.square().mean(1) + true.square().mean(1) + 1e-3)).mean()

    clean = pictures()[0]
    noisy = clean + 0.2 * torch.randn(clean.shape, generator=generator())
    return Stepped(step, net=pixelwise(1, 1)), rows(noisy=noisy, clean=clean, size=16)


@sick("NO-GRADIENT")
def share_of_wrong_answers_and_a_penalty() -> Built:
    """``argmax`` ends the gradient; that of the weights' size hides it."""

    def step(m: Any, batch: Any) -> Tensor:
        wrong = (m.net(batch[0]).argmax(1) != batch[1]).float().mean()
        return wrong + 1e-4 * sum(p.square().sum() for p in m.net.parameters())

    return Stepped(step, net=perceptron(12, 4)), loader(*clusters())


def autoencoder(draw: Callable[[torch.distributions.Normal], Tensor]) -> Built:
    """A variational one (Kingma and Welling 2014)."""

    def step(m: Any, batch: Any) -> Tensor:
        mean, log_var = m.encoder(batch[0]).chunk(2, 1)
        told = m.decoder(draw(torch.distributions.Normal(mean, torch.exp(0.5 * log_var))))
        return F.mse_loss(told, batch[0]) + 0.01 * (mean.square() + log_var.exp() - log_var - 1).sum(1).mean()

    return Stepped(step, encoder=perceptron(12, 8), decoder=perceptron(4, 12)), loader(*clusters())


@sick("NO-GRADIENT")
def code_is_a_sample_without_a_gradient() -> Built:
    """The encoder hears of its prior alone."""
    return autoencoder(lambda code: code.sample())


@healthy
def code_is_a_sample_with_a_gradient() -> Built:
    return autoencoder(lambda code: code.rsample())


@healthy
def slope_of_an_energy_as_a_force() -> Built:
    """The loss leads back to derivatives of what the net gave, and not to that itself."""

    def step(m: Any, batch: Any) -> Tensor:
        x = batch[0].requires_grad_()
        (slope,) = torch.autograd.grad(m.net(x).sum(), x, create_graph=True)
        return F.mse_loss(-slope, batch[1])

    x, _ = clusters()
    return Stepped(step, net=perceptron(12, 1, act=nn.SiLU)), loader(x, -x * (1 + x.square()).rsqrt())


@healthy
def heads_driven_apart_beside_a_loss_by_hand() -> Built:
    """What is made smaller is the likeness of two heads of one input."""

    def step(m: Any, batch: Any) -> Tensor:
        one, other = m.one(batch[0]), m.other(batch[0])
        wrong = (one + other).logsumexp(1) - (one + other).gather(1, batch[1][:, None])[:, 0]
        return wrong.mean() + 0.1 * F.cosine_similarity(one, other).mean()

    return Stepped(step, one=perceptron(12, 4), other=perceptron(12, 4)), loader(*clusters())


@pytest.mark.parametrize("seed", [27, 29])
def test_a_loss_divided_by_the_labels_that_count_pairs_nobody(seed: int) -> None:
    """The background is ignored on purpose: a target with more of it changes the share of every other sample alike."""
    images = torch.tensor(load_digits().images).float()[:, None] / 16
    labels = (images[:, 0] > 0.3).long() + (images[:, 0] > 0.7).long()
    L.seed_everything(seed, verbose=False)
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1))
    module = Stepped(lambda m, b: F.cross_entropy(m.net(b[0]), b[1], ignore_index=0), net=net)
    report = la.preflight(module, DataLoader(TensorDataset(images, labels), 64, shuffle=True))

    assert graves(report) == []


def likelihood(sign: float) -> Built:
    """Of what the batch has, under a normal distribution that the net says."""

    def step(m: Any, batch: Any) -> Tensor:
        mean, spread = m.net(batch[0]).unbind(1)
        return sign * torch.distributions.Normal(mean, F.softplus(spread) + 0.1).log_prob(batch[1]).mean()

    return Stepped(step, net=perceptron(6, 2)), loader(*curve())


@sick("WRONG-SIGN")
def log_prob_of_the_targets_as_the_loss() -> Built:
    """The minus is missing."""
    return likelihood(1)


@healthy
def minus_log_prob_of_the_targets() -> Built:
    """Maximum likelihood."""
    return likelihood(-1)


@healthy
def log_prob_of_what_is_drawn() -> Built:
    """The entropy of a policy is made large, and what it draws good (Haarnoja et al. 2018)."""

    def step(m: Any, batch: Any) -> Tensor:
        mean, spread = m.net(batch[0]).unbind(1)
        policy = torch.distributions.Normal(mean, F.softplus(spread) + 0.1)
        drawn = policy.rsample()
        return (0.1 * policy.log_prob(drawn) + (drawn - batch[1]) ** 2).mean()

    return Stepped(step, net=perceptron(6, 2)), loader(*curve())


@healthy
def better_of_two_answers() -> Built:
    """The worse one becomes less likely (Rafailov et al. 2023)."""
    x, y = clusters()

    def step(m: Any, batch: Any) -> Tensor:
        x, better, worse = batch
        said = torch.distributions.Categorical(logits=m.net(x))
        return -F.logsigmoid(said.log_prob(better) - said.log_prob(worse)).mean()

    return Stepped(step, net=perceptron(12, 4)), loader(x, y, (y + 1) % 4)


def told_again(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Built:
    """A code of six numbers that is punished for its size, and clusters from it."""

    def step(m: Any, batch: Any) -> Tensor:
        code = m.encoder(batch[0])
        return loss(m.decoder(code), batch[0], code.square().sum(1).mean())

    return Stepped(step, encoder=perceptron(12, 6), decoder=perceptron(6, 12)), loader(clusters()[0])


@sick("WRONG-SIGN")
def divergence_taken_off_a_loss_of_each_column() -> Built:
    """Summed over columns by hand."""
    return told_again(lambda told, x, size: F.mse_loss(told, x, reduction="none").sum(1).mean() - size)


@sick("WRONG-SIGN")
def divergence_taken_off_a_sum() -> Built:
    """Of all columns and samples."""
    return told_again(lambda told, x, size: F.mse_loss(told, x, reduction="sum") - 32 * size)


@healthy
def divergence_added_to_a_loss_of_each_column() -> Built:
    """As it should be."""
    return told_again(lambda told, x, size: F.mse_loss(told, x, reduction="none").sum(1).mean() + 0.01 * size)


@healthy
def logarithm_of_a_loss() -> Built:
    """A decibel scale: below 0 as soon as the error is below 1, and nothing is taken off."""
    return told_again(lambda told, x, size: torch.log(F.mse_loss(told, x)) + 0.01 * size)


def test_distributions_have_their_own_methods_afterwards() -> None:
    """While the step is looked at they are noted; a step that raises leaves nothing behind either."""
    before = torch.distributions.Normal.log_prob
    la.preflight(*likelihood(-1))

    def step(m: Any, batch: Any) -> Tensor:
        raise ValueError(torch.distributions.Normal(0.0, 1.0).log_prob(batch[1]))

    la.preflight(Stepped(step, net=perceptron(6, 2)), loader(*curve()))
    assert torch.distributions.Normal.log_prob is before

"""Kinds of faults in what a net starts with: weights, frozen layers, dropout, too few values of a channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import lightning_adam as la
from tests.benchmarks.preflight.data import clusters, loader, pictures
from tests.benchmarks.preflight.parts import Built, Learner, Stepped, convnet, perceptron
from tests.benchmarks.preflight.settlers_parts import ratings
from tests.preflight_kinds import Kinds, test_kind_is_named_by_its_cause, test_what_looks_like_the_kind_is_let_pass  # noqa: F401

KINDS = Kinds()
sick, healthy = KINDS.sick, KINDS.healthy


def deep(layers: int, deviation: float, norm: type[nn.Module]) -> Built:
    """Layers of 24 that all begin with one deviation."""
    blocks = [part for _ in range(layers) for part in (nn.Linear(24, 24), norm(24), nn.Tanh())]
    net = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), *blocks, nn.Linear(24, 4))
    for part in net:
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=deviation)
    return Learner(net, F.cross_entropy), loader(*clusters())


@sick("INIT-SCALE")
def small_weights_in_each_of_twelve_layers() -> Built:
    """A fourteenth is left by each layer, and nothing by all of them."""
    return deep(12, 0.015, nn.Identity)


@healthy
def small_weights_before_norms() -> Built:
    """What each layer takes away, its norm gives back."""
    return deep(3, 0.015, nn.LayerNorm)


def likes(first: float) -> Built:
    """Two tables, whose rows are multiplied."""
    users, films = nn.Embedding(40, 8), nn.Embedding(30, 8)
    nn.init.constant_(users.weight, 0.0)
    nn.init.normal_(films.weight, std=first) if first else nn.init.zeros_(films.weight)
    user, film, liked = ratings()

    def step(m: Any, batch: Any) -> torch.Tensor:
        return F.mse_loss((m.users(batch[0]) * m.films(batch[1])).sum(1), batch[2])

    return Stepped(step, users=users, films=films), loader(user, film, liked, size=64)


@sick("SYMMETRIC-INIT")
def both_tables_at_zero() -> Built:
    """The gradient of each is the other one."""
    return likes(0.0)


@healthy
def one_of_two_tables_at_zero() -> Built:
    """As in LoRA: the other one lets it go."""
    return likes(0.1)


@sick("FROZEN")
def head_frozen_and_body_trained() -> Built:
    """The wrong half of a fine-tuning."""
    net = nn.Sequential(convnet(32, norm=True), nn.ReLU(), nn.Linear(32, 4).requires_grad_(False))
    return Learner(net, F.cross_entropy), loader(*pictures())


@healthy
def head_of_a_fixed_simplex() -> Built:
    """A classifier that is chosen, and stays (Zhu et al. 2021): its values are none of torch's own."""
    net = nn.Sequential(perceptron(12, 32), nn.ReLU(), nn.Linear(32, 4).requires_grad_(False))
    nn.init.orthogonal_(net[-1].weight)
    return Learner(net, F.cross_entropy), loader(*clusters())


def dropping(share: float) -> Built:
    """Dropout behind both hidden layers."""
    parts = [nn.Linear(12, 64), nn.ReLU(), nn.Dropout(share), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(share)]
    return Learner(nn.Sequential(*parts, nn.Linear(64, 4)), F.cross_entropy), loader(*clusters())


@sick("DEAD-UNITS")
def share_that_was_to_be_kept() -> Built:
    """0.95 of the activations are dropped."""
    return dropping(0.95)


@healthy
def half_of_all_is_dropped() -> Built:
    """As usual."""
    return dropping(0.5)


def pooled(size: int, channels_at: int) -> Built:
    """A norm over what an average over all pixels leaves, or before it."""
    norm = nn.BatchNorm2d(16)
    body = [nn.Conv2d(1, 16, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4)]
    body.insert(channels_at, norm)
    return Learner(nn.Sequential(*body), F.cross_entropy), loader(*pictures(), size=size)


@sick("BATCHNORM-BATCH")
def norm_behind_an_average_of_three_pictures() -> Built:
    """Three values of each channel."""
    return pooled(3, channels_at=2)


@healthy
def norm_before_an_average_of_three_pictures() -> Built:
    """Three times all pixels."""
    return pooled(3, channels_at=1)


class Shares(nn.Softmax):
    """Of the features, as a layer's activation."""

    def __init__(self) -> None:
        super().__init__(dim=-1)


def squashed(act: type[nn.Module]) -> Built:
    """Four hidden layers of 40."""
    hidden = [part for _ in range(3) for part in (nn.Linear(40, 40), act())]
    net = nn.Sequential(nn.Linear(12, 40), act(), *hidden, nn.Linear(40, 4))
    return Learner(net, F.cross_entropy), loader(*clusters())


@sick("GRAD-VANISHING")
def softmax_between_all_layers() -> Built:
    """Each passes on a fortieth, and its slope is as small."""
    return squashed(Shares)


@healthy
def tanh_between_all_layers() -> Built:
    """As deep, and each passes on what it gets."""
    return squashed(nn.Tanh)


def cosines(scale: float) -> Built:
    """Scores are cosines of normalised vectors, times a scale."""

    def step(m: Any, batch: Any) -> Tensor:
        return F.cross_entropy(scale * F.normalize(m.net(batch[0])) @ F.normalize(m.classes, dim=0), batch[1])

    return Stepped(step, net=perceptron(12, 3), classes=nn.Parameter(torch.randn(3, 4))), loader(*clusters())


@sick("INITIAL-LOSS")
def cosines_divided_twice_by_a_temperature() -> Built:
    """0.07 of 0.07."""
    return cosines(1 / 0.07**2)


@healthy
def cosines_times_sixty_four() -> Built:
    """A scale of one's choice (Deng et al. 2019)."""
    return cosines(64)


def fine_tuned(drawn_anew: bool) -> tuple[Learner, DataLoader[Any]]:
    """Layers that were trained before, frozen together with a new one or without it, and a head that is trained."""
    body = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU())
    for p in body.parameters():
        nn.init.normal_(p, std=0.15)
    new = nn.Linear(48, 8)
    body.requires_grad_(False)
    new.requires_grad_(not drawn_anew)
    return Learner(nn.Sequential(body, new, nn.Linear(8, 4)), F.cross_entropy), loader(*clusters())


def test_layer_frozen_as_it_was_drawn_behind_trained_ones_is_told() -> None:
    """The loop that freezes the backbone ran after a new layer was put on; without it nothing is said."""
    late = la.preflight(*fine_tuned(drawn_anew=True)).findings
    assert [(f.rule, f.severity, f.parameters) for f in late] == [("FROZEN", "info", ("net.1.weight",))]
    assert la.preflight(*fine_tuned(drawn_anew=False)).findings == ()

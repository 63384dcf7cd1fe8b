"""Kinds of faults in what a loss takes for probabilities, scores and labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import chains, clusters, loader, rows
from tests.benchmarks.preflight.parts import Built, Stepped, perceptron
from tests.benchmarks.preflight.settlers_parts import tagged
from tests.preflight_kinds import Kinds, test_kind_is_named_by_its_cause, test_what_looks_like_the_kind_is_let_pass  # noqa: F401

KINDS = Kinds()
sick, healthy = KINDS.sick, KINDS.healthy


def scored(loss: Callable[[Tensor, Tensor], Tensor]) -> Built:
    """Four classes, and a loss of scores and class numbers."""
    return Stepped(lambda m, b: loss(m.net(b[0]), b[1]), net=perceptron(12, 4)), loader(*clusters())


def yes_or_no(loss: Callable[[Tensor, Tensor], Tensor]) -> Built:
    """Two classes, and a loss of one score and 0.0 or 1.0."""
    x, y = clusters(classes=2)
    return Stepped(lambda m, b: loss(m.net(b[0])[:, 0], b[1]), net=perceptron(12, 1)), loader(x, y.float())


@sick("LABEL-RANGE")
def hot_labels_before_scores() -> Built:
    """The loss is a line of the scores."""
    return scored(lambda told, y: F.cross_entropy(F.one_hot(y, 4).float(), told))


@healthy
def scores_before_smooth_labels() -> Built:
    """Shares of classes, which a batch may have."""
    return scored(lambda told, y: F.cross_entropy(told, 0.9 * F.one_hot(y, 4).float() + 0.025))


@sick("OUTPUT-RANGE")
def shares_by_a_clamp() -> Built:
    """``binary_cross_entropy`` of what was cut to (0, 1)."""
    return yes_or_no(lambda told, y: F.binary_cross_entropy(told.clamp(1e-4, 1 - 1e-4), y))


@healthy
def shares_by_a_sigmoid_and_a_clamp() -> Built:
    """The clamp keeps the logarithm finite."""
    return yes_or_no(lambda told, y: F.binary_cross_entropy(told.sigmoid().clamp(1e-4, 1 - 1e-4), y))


@sick("OUTPUT-RANGE")
def logarithm_of_scores() -> Built:
    """The softmax was forgotten; the loss is NaN, and the data are as they should be."""
    return scored(lambda told, y: -told.log().gather(1, y[:, None]).mean())


@sick("NLL-NEEDS-LOG")
def right_probability_by_gather() -> Built:
    """What is picked has no logarithm."""
    return scored(lambda told, y: -told.softmax(1).gather(1, y[:, None]).mean())


@healthy
def distance_of_probability_from_one() -> Built:
    """A loss that wrong labels do little harm to (Ghosh et al. 2017)."""
    return scored(lambda told, y: (2 - 2 * told.softmax(1).gather(1, y[:, None])).mean())


@sick("DOUBLE-SOFTMAX")
def shares_at_a_temperature() -> Built:
    """Cross entropy of shares that were multiplied by ten."""
    return scored(lambda told, y: F.cross_entropy(10 * told.softmax(1), y))


def tags(dim: int) -> Built:
    """Log-shares over a dimension, flattened for the loss."""

    def step(m: Any, batch: dict[str, Tensor]) -> Tensor:
        shares = F.log_softmax(m.net(m.words(batch["input_ids"])), dim=dim)
        return F.nll_loss(shares.reshape(-1, 3), batch["labels"].reshape(-1), ignore_index=-100)

    return Stepped(step, words=nn.Embedding(40, 16), net=perceptron(16, 3)), rows(**tagged())


@sick("SOFTMAX-DIM")
def shares_of_places_flattened() -> Built:
    """They sum to 1 over the words of a sentence."""
    return tags(1)


@healthy
def shares_of_tags_flattened() -> Built:
    """They sum to 1 over the tags."""
    return tags(2)


def next_words(dim: int) -> Built:
    """The logarithm of the next word's share, by hand."""

    def step(m: Any, batch: Any) -> Tensor:
        shares = m.head(m.cell(m.words(batch[0][:, :-1]))[0]).softmax(dim)
        return -torch.log(shares.gather(2, batch[0][:, 1:, None]) + 1e-9).mean()

    parts = {"words": nn.Embedding(24, 16), "cell": nn.GRU(16, 16, batch_first=True), "head": nn.Linear(16, 24)}
    return Stepped(step, **parts), loader(chains())


@sick("SOFTMAX-DIM")
def shares_of_words_over_the_batch() -> Built:
    """What ``nn.Softmax()`` takes where nobody says."""
    return next_words(0)


def brightness(scale: float) -> Built:
    """Told behind a tanh."""

    def step(m: Any, batch: Any) -> Tensor:
        return F.mse_loss(torch.tanh(m.net(batch[0])), scale * batch[1])

    x, y = clusters()
    return Stepped(step, net=perceptron(12, 1)), loader(x, y[:, None] / 3)


@sick("OUTPUT-RANGE")
def tanh_for_bytes() -> Built:
    """No scale of the rate reaches 255; that the targets are large is told by the same finding."""
    return brightness(255)


@healthy
def tanh_for_shares_of_bytes() -> Built:
    """Divided by 255."""
    return brightness(1)

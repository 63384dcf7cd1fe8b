"""What some mistakes of a guest change, who had not read the rules: habits of code, of loaders and of initialisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.divergence.corpus.family import Batch

CLASSIFIED = frozenset({
    "guest-one-bit-digits", "guest-cooler-answers", "guest-where-is-john", "guest-papers-that-cite",
})  # fmt: skip
"""Families with one class per row, or per position of a row."""
REGRESSIONS = frozenset({"guest-twenty-athletes", "guest-charges-in-flight", "guest-waves-that-break"})
"""Families whose targets are of order one and are compared with the output itself."""
SWITCHED = frozenset({
    "guest-census-rows", "guest-corrupted-rows", "guest-one-bit-digits", "guest-papers-that-cite", "resnet-digits",
    "normalises-first", "heartbeats", "audio-tags", "long-tailed-digits", "padded-bert", "gpt-with-dropout",
    "topics-of-documents",
})  # fmt: skip
"""Families with BatchNorm or dropout, which training and evaluation switch."""
SHUFFLED_TABLES = frozenset({
    "guest-power-of-houses", "guest-census-rows", "guest-docstrings-by-name", "guest-one-bit-digits",
    "guest-preferred-answers", "guest-cooler-answers", "guest-charges-in-flight", "guest-waves-that-break",
    "guest-different-digits", "guest-sorted-by-pointing", "guest-rare-defects", "guest-two-at-once", "guest-where-is-john",
    "guest-written-as-heard", "resnet-digits", "friedman-regression", "noisy-diabetes", "spectrogram-gru", "audio-tags",
    "depth-of-hills", "camera-pose", "heartbeats", "cloned-driver", "promoter-motifs",
})  # fmt: skip
"""Families whose batches are random rows of a table."""


def divided_by_milestones(step: int, steps: int) -> float:
    """A tenth at 30, 60 and 90, which were epochs to their author and are steps to the scheduler."""
    return float(0.1 ** sum(step >= milestone for milestone in (30, 60, 90)))


def viewed_for_permuted(step: int, steps: int, batch: Batch) -> Batch:
    """Reshaped where the axes had to be exchanged: each row is made of pieces of many rows."""
    x = batch[0]
    return (x.reshape(-1, len(x)).T.reshape(x.shape), *batch[1:])


def one_row_in_every_place(step: int, steps: int, batch: Batch) -> Batch:
    """An index that does not move: the whole batch is its first row."""
    return tuple(part[:1].expand_as(part).clone() for part in batch)


def drowned(step: int, steps: int, batch: Batch) -> Batch:
    """An augmentation whose noise is twenty times as wide as what it is laid on."""
    return (batch[0] + 20 * batch[0].std() * torch.randn(batch[0].shape), *batch[1:])


def rectified_at_the_end(net: nn.Module) -> None:
    """An activation after the last layer, as after all others: no logit is below zero."""
    net.register_forward_hook(lambda module, inputs, output: F.relu(output))


def decided_at_the_end(net: nn.Module) -> None:
    """Rounded predictions go into the loss, and rounding has no slope."""
    net.register_forward_hook(lambda module, inputs, output: output.round())


def squashed_at_the_end(net: nn.Module) -> None:
    """A tanh after the last layer, though the targets are larger than one."""
    net.register_forward_hook(lambda module, inputs, output: output.tanh())


def left_in_evaluation(net: nn.Module) -> None:
    """After a first evaluation nobody has called ``train()``."""
    net.eval()


@torch.no_grad()
def normal_of_one(net: nn.Module) -> None:
    """``normal_`` as it is, without a standard deviation, for every matrix that is trained."""
    for parameter in _trained_matrices(net):
        parameter.normal_()


@torch.no_grad()
def all_alike(net: nn.Module) -> None:
    """Every matrix that is trained is filled with one constant: no unit differs from another."""
    for parameter in _trained_matrices(net):
        parameter.fill_(0.05)


def _trained_matrices(net: nn.Module) -> list[Tensor]:
    return [parameter for parameter in net.parameters() if parameter.requires_grad and parameter.ndim >= 2]

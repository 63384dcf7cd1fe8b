"""What some mistakes of a lodger change, who had not read the rules: shapes, axes, loaders, and layers made too late."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.divergence.corpus.family import Batch

CLASSIFIED = frozenset({
    "lodger-moved-pictures", "lodger-whose-docstring", "lodger-wine-by-soft-trees", "lodger-offsets-alone",
    "lodger-worn-on-the-wrist",
})  # fmt: skip
"""Families with one class per row, whose network tells logits."""
REGRESSIONS = frozenset({
    "lodger-next-of-a-sine", "lodger-monthly-passengers", "lodger-house-prices", "lodger-cubic-for-a-sine",
})  # fmt: skip
"""Families whose targets are of order one to thirty, and are compared with the output itself."""
RECTIFIED = frozenset({
    "lodger-moved-pictures", "lodger-first-tutorial", "lodger-house-prices", "lodger-card-fraud", "lodger-basis-expansion",
    "lodger-rays-through-fog", "lodger-results-in-order", "lodger-gumbel-letters",
})  # fmt: skip
"""Families in which everything passes rectifiers."""
SWITCHED = frozenset({
    "lodger-moved-pictures", "lodger-whose-docstring", "lodger-house-prices", "lodger-card-fraud",
    "lodger-hazards-by-quarter", "lodger-worn-on-the-wrist",
})  # fmt: skip
"""Families with BatchNorm or dropout, which training and evaluation switch."""
SHUFFLED_TABLES = frozenset({
    "lodger-whose-docstring", "lodger-next-of-a-sine", "lodger-dates-rewritten", "lodger-house-prices",
    "lodger-card-fraud", "lodger-support-vectors", "lodger-wine-by-soft-trees", "lodger-basis-expansion",
    "lodger-results-in-order", "lodger-worn-on-the-wrist",
})  # fmt: skip
"""Families whose batches are random rows of a table."""
IGNORABLE = frozenset({
    "lodger-moved-pictures", "lodger-first-tutorial", "lodger-whose-docstring", "lodger-kinds-of-characters",
    "lodger-wine-by-soft-trees", "lodger-offsets-alone", "lodger-worn-on-the-wrist", "resnet-digits", "padded-bert",
    "mixed-images", "guest-papers-that-cite", "early-exits",
})  # fmt: skip
"""Families whose cross entropy leaves out -100, and takes the mean of what is left."""
COMPARED_ROWS = frozenset({
    "lodger-house-prices", "lodger-support-vectors", "lodger-rays-through-fog", "lodger-inducing-points",
    "plane-regression", "friedman-regression", "noisy-diabetes", "molecule-energies", "learnt-curves", "cloned-driver",
    "weights-in-doubt", "return-quantiles", "prices-in-thousands",
})  # fmt: skip
"""Families with one number per row, whose targets have no axis but that of the rows."""
TOLD_APART = frozenset({
    "lodger-card-fraud", "lodger-seen-or-not", "lodger-hazards-by-quarter", "guest-census-rows", "many-labels",
    "segmentation-blobs", "cancer-selu", "knowledge-tracing", "promoter-motifs", "parity-of-four",
})  # fmt: skip
"""Families whose whole output is logits of a binary cross entropy."""
TABLES = frozenset({
    "lodger-card-fraud", "lodger-support-vectors", "lodger-wine-by-soft-trees", "lodger-hazards-by-quarter", "wine-mlp",
    "iris-linear", "cancer-selu", "friedman-regression", "noisy-diabetes", "guest-census-rows", "guest-twenty-athletes",
    "all-at-once", "four-rows-at-a-time", "survival-times", "visit-counts", "ordered-grades",
})  # fmt: skip
"""Families whose inputs are a table's columns."""
NORMALISED = frozenset({
    "lodger-moved-pictures", "lodger-house-prices", "lodger-card-fraud", "lodger-worn-on-the-wrist", "resnet-digits",
    "normalises-first", "heartbeats", "audio-tags", "long-tailed-digits", "ever-harder-images",
})  # fmt: skip
"""Families with BatchNorm that can be trained on two rows."""
LAYERED = frozenset({
    "lodger-moved-pictures", "lodger-first-tutorial", "lodger-whose-docstring", "lodger-next-of-a-sine",
    "lodger-dates-rewritten", "lodger-house-prices", "lodger-monthly-passengers", "lodger-card-fraud",
    "lodger-hazards-by-quarter", "lodger-kinds-of-characters", "lodger-butterfly", "lodger-results-in-order",
    "lodger-arm-to-a-goal", "lodger-worn-on-the-wrist", "lodger-gumbel-letters", "lodger-rays-through-fog",
    "resnet-digits", "wine-mlp", "friedman-regression", "char-gru", "heartbeats", "point-sets", "padded-bert",
    "guest-census-rows", "deep-without-norms", "cloned-driver", "many-labels",
})  # fmt: skip
"""Families whose last linear layer is the last that is computed, and has others before it."""


def as_a_column(step: int, steps: int, batch: Batch) -> Batch:
    """Targets of [rows, 1] against outputs of [rows]: each is compared with all."""
    return (*batch[:-1], batch[-1][:, None])


def sigmoid_at_the_end(net: nn.Module) -> None:
    """The network tells probabilities, to a binary cross entropy that takes logits."""
    net.register_forward_hook(lambda module, inputs, output: output.sigmoid())


def softmax_over_rows(net: nn.Module) -> None:
    """``softmax(0)``: over the rows of the batch, where the classes were meant."""
    net.register_forward_hook(lambda module, inputs, output: output.softmax(0))


def head_made_anew(net: nn.Module) -> None:
    """The last layer is replaced after the optimizer has been made."""
    name = last_linear(net)
    owner, _, own = name.rpartition(".")
    head = copy.deepcopy(net.get_submodule(name))
    head.reset_parameters()  # type: ignore[operator]
    setattr(net.get_submodule(owner), own, head)


def features_detached(net: nn.Module) -> None:
    """What goes into the last layer is cut off from what made it."""
    net.get_submodule(last_linear(net)).register_forward_pre_hook(lambda module, inputs: _cut_off(inputs))


def _cut_off(inputs: Any) -> Any:
    return tuple(part.detach() if isinstance(part, Tensor) else part for part in inputs)


def last_linear(net: nn.Module) -> str:
    """The name of the last linear layer."""
    return [name for name, module in net.named_modules() if type(module) is nn.Linear][-1]


@torch.no_grad()
def loud_head(net: nn.Module) -> None:
    """The last layer's weights are a hundred times as large as they were to be."""
    net.get_submodule(last_linear(net)).weight.mul_(100.0)  # type: ignore[operator,union-attr]


@torch.no_grad()
def rand_for_randn(net: nn.Module) -> None:
    """``torch.rand`` for every matrix that is trained: no weight is below zero."""
    for parameter in net.parameters():
        if parameter.requires_grad and parameter.ndim >= 2:
            parameter.uniform_()


def put_back(net: nn.Module) -> None:
    """Weights of a checkpoint are loaded before each step, so that nothing of the last one is left."""
    kept = [parameter.detach().clone() for parameter in net.parameters()]

    def load(module: nn.Module, inputs: Any) -> None:
        for parameter, before in zip(net.parameters(), kept, strict=True):
            parameter.data.copy_(before)

    net.register_forward_pre_hook(load)


def nothing_to_learn_from(step: int, steps: int, batch: Batch) -> Batch:
    """One batch has no label but -100, after six tenths of the run: a mean of nothing."""
    return (*batch[:-1], torch.full_like(batch[-1], -100)) if step == round(0.6 * steps) else batch


def normalised_twice(step: int, steps: int, batch: Batch) -> Batch:
    """What has mean zero already is normalised as pixels of a photograph would be."""
    return ((batch[0] - 124) / 58, *batch[1:])


def mostly_blank(step: int, steps: int, batch: Batch) -> Batch:
    """Nine files of ten were not found, and the loader gives zeros for them."""
    x = batch[0]
    found = torch.rand(len(x)) < 0.1
    return (x * found.view(-1, *[1] * (x.ndim - 1)), *batch[1:])


def columns_in_any_order(step: int, steps: int, batch: Batch) -> Batch:
    """Columns are taken from a set, whose order is another one in each batch."""
    return (batch[0][..., torch.randperm(batch[0].shape[-1])], *batch[1:])


def a_column_in_cents(step: int, steps: int, batch: Batch) -> Batch:
    """The first column was forgotten when the others were normalised: an income in cents."""
    income = batch[0][..., :1] * 2e6 + 4e6
    return (torch.cat([income, batch[0][..., 1:]], -1), *batch[1:])


def two_rows(step: int, steps: int, batch: Batch) -> Batch:
    """As many as fit into memory, they thought: BatchNorm sees two rows."""
    return tuple(part[:2] for part in batch)


def upside_down(step: int, steps: int) -> float:
    """``StepLR`` with a gamma of four, where a quarter was meant, five times in the run."""
    return float(4.0 ** (5 * step // steps))

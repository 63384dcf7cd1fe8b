"""What some mistakes of a boarder change, who had not read the rules: things that go wrong half way, averages, bodies."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from tests.benchmarks.divergence.corpus.family import Batch
from tests.benchmarks.divergence.corpus.lodger_mishaps import last_linear

CLASSIFIED = frozenset({
    "boarder-columns-as-tokens", "boarder-hard-ones-first", "boarder-hubs-or-none", "boarder-soft-labels",
    "boarder-patches-by-muon", "boarder-sparse-pairs-of-letters", "boarder-adapters-for-new-digits",
})  # fmt: skip
"""Families with one class per row, whose network tells logits."""
REGRESSIONS = frozenset({
    "boarder-three-quantiles", "boarder-picture-of-sines", "boarder-four-times-the-pixels", "boarder-height-of-a-tone",
    "boarder-hours-of-a-shop", "boarder-two-numbers-added",
})  # fmt: skip
"""Families whose targets are of order one, and are compared with the output itself."""
RECTIFIED = frozenset({
    "boarder-malignant-or-not", "boarder-grades-of-progress", "boarder-traits-of-digits", "boarder-lists-in-order",
    "boarder-who-is-at-risk", "boarder-one-box-each", "boarder-height-of-a-tone", "boarder-near-its-own-kind",
    "boarder-clouds-through-a-neck",
})  # fmt: skip
"""Families in which everything passes rectifiers."""
SWITCHED = frozenset({
    "boarder-malignant-or-not", "boarder-columns-as-tokens", "boarder-two-layers-of-cells", "boarder-noise-of-a-camera",
})  # fmt: skip
"""Families with BatchNorm or dropout, which training and evaluation switch."""
SHUFFLED_TABLES = frozenset({
    "boarder-malignant-or-not", "boarder-hard-ones-first", "boarder-three-quantiles", "boarder-traits-of-digits",
    "boarder-four-times-the-pixels", "boarder-hubs-or-none", "boarder-bells-in-a-row", "boarder-hours-of-a-shop",
    "boarder-two-numbers-added", "boarder-spiral-by-its-slope", "boarder-soft-labels",
})  # fmt: skip
"""Families whose batches are random rows of a table."""
IGNORABLE = frozenset({
    "boarder-columns-as-tokens", "boarder-hubs-or-none", "boarder-soft-labels", "boarder-patches-by-muon",
    "boarder-adapters-for-new-digits",
})  # fmt: skip
"""Families whose cross entropy leaves out -100, and takes the mean of what is left."""
COMPARED_ROWS = frozenset({"boarder-height-of-a-tone", "boarder-two-numbers-added"})
"""Families with one number per row, whose targets have no axis but that of the rows."""
TOLD_APART = frozenset({"boarder-grades-of-progress", "boarder-traits-of-digits", "boarder-malignant-or-not"})
"""Families whose whole output is logits of a binary cross entropy."""
TABLES = frozenset({
    "boarder-malignant-or-not", "boarder-columns-as-tokens", "boarder-three-quantiles", "boarder-progress-as-counts",
    "boarder-grades-of-progress", "boarder-lists-in-order", "boarder-who-is-at-risk", "boarder-doubts-of-its-own",
})  # fmt: skip
"""Families whose inputs are a table's columns."""
NORMALISED = frozenset({"boarder-malignant-or-not"})
"""Families with BatchNorm that can be trained on two rows."""
LAYERED = frozenset({
    "boarder-malignant-or-not", "boarder-columns-as-tokens", "boarder-three-quantiles", "boarder-grades-of-progress",
    "boarder-traits-of-digits", "boarder-lists-in-order", "boarder-who-is-at-risk", "boarder-doubts-of-its-own",
    "boarder-picture-of-sines", "boarder-one-box-each", "boarder-clouds-through-a-neck", "boarder-hubs-or-none",
    "boarder-soft-labels", "boarder-patches-by-muon", "boarder-two-layers-of-cells", "boarder-sorted-by-reading",
    "boarder-bells-in-a-row", "boarder-height-of-a-tone", "boarder-hours-of-a-shop", "boarder-two-numbers-added",
    "boarder-adapters-for-new-digits", "boarder-digits-out-of-noise",
})  # fmt: skip
"""Families whose last linear layer is the last that is computed, and has others before it."""


def label_of_the_next_row(step: int, steps: int, batch: Batch) -> Batch:
    """Labels were read without the table's heading, and inputs with it: each row has the next one's."""
    return (*batch[:-1], batch[-1].roll(-1, 0))


def labels_apart_from_half_way(step: int, steps: int, batch: Batch) -> Batch:
    """A second loader, from half of the run on, shuffles inputs and labels each in its own way."""
    return batch if step < steps // 2 else (*batch[:-1], batch[-1][torch.randperm(len(batch[-1]))])


def raw_from_half_way(step: int, steps: int, batch: Batch) -> Batch:
    """A second loader, from half of the run on, does not normalise."""
    return batch if step < steps // 2 else (batch[0] * 100 + 120, *batch[1:])


def divided_by_no_spread(step: int, steps: int, batch: Batch) -> Batch:
    """The first column was constant, and was divided by its standard deviation: nothing by nothing."""
    x = batch[0].clone()
    x[..., 0] = math.nan
    return (x, *batch[1:])


def wrapped_around(step: int, steps: int, batch: Batch) -> Batch:
    """Standardised values times 50 as bytes without a sign: what is below zero comes out near 255."""
    return ((batch[0] * 50).round().remainder(256), *batch[1:])


def in_the_wrong_mode(step: int, steps: int) -> float:
    """``ReduceLROnPlateau`` with ``mode="max"`` on a loss: a tenth each eleven steps, down to a hundred-millionth."""
    return max(1e-8, float(0.1 ** (step // 11)))


def average_copied_back(net: nn.Module) -> None:
    """Before each step the weights are replaced by their running average, which was meant for evaluation only."""
    average = [parameter.detach().clone() for parameter in net.parameters()]

    def copy_back(module: nn.Module, inputs: Any) -> None:
        for parameter, mean in zip(net.parameters(), average, strict=True):
            mean.lerp_(parameter.detach(), 1e-3)
            parameter.data.copy_(mean)

    net.register_forward_pre_hook(copy_back)


def hot_logits(net: nn.Module) -> None:
    """Logits are divided by a temperature of a fiftieth, where they were to be multiplied by it or left."""
    net.register_forward_hook(lambda module, inputs, output: 50.0 * output)


def body_frozen(net: nn.Module) -> None:
    """All but the last layer was frozen for another experiment."""
    head = net.get_submodule(last_linear(net))
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    head.requires_grad_(True)


def body_made_anew(net: nn.Module) -> None:
    """All but the last layer is replaced by a copy after the optimizer has been made."""
    head = net.get_submodule(last_linear(net))
    for module in net.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if module is not head and parameter.requires_grad:
                setattr(module, name, copy.deepcopy(parameter))

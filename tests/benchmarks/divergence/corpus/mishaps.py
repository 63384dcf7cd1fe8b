"""What some mistakes change in a network, its batches or its rate."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.divergence.corpus.family import Batch

RECTIFIED = frozenset({
    "wine-mlp", "noisy-diabetes", "tones", "speech-ctc", "segmentation-blobs", "many-labels", "moons-imbalanced",
    "normalises-first", "survival-times", "prices-in-thousands", "ordered-grades", "weighted-tasks", "summed-over-the-batch",
    "return-quantiles", "all-at-once", "four-rows-at-a-time", "dilated-forecast", "prototypes", "parity-of-four",
    "ever-harder-images", "noughts-and-crosses", "camera-pose", "depth-of-hills", "long-tailed-digits", "cloned-driver",
    "four-bit-weights", "sparse-from-the-start",
})  # fmt: skip
"""Families in which everything passes rectifiers."""
REGRESSIONS = frozenset({
    "plane-regression", "friedman-regression", "noisy-diabetes", "forecast-gru", "molecule-energies", "dilated-forecast",
    "learnt-curves", "return-quantiles", "refined-flow", "weather-a-step-ahead", "sharper-digits", "weights-in-doubt",
})  # fmt: skip
"""Families whose targets are of order one to thirty, and are compared with the output itself."""
CLASSIFIED = frozenset({
    "resnet-digits", "patch-transformer-digits", "mixer-digits", "tones", "spectrogram-gru", "iris-linear", "wine-mlp",
    "point-sets", "normalises-first", "ordinal-addition", "frozen-backbone-head", "fine-tuning", "experts",
    "depthwise-layer-scale", "padded-bert", "state-space-rows", "tangent-kernel", "deep-without-norms",
    "summed-over-the-batch", "frozen-and-dropped", "mixed-images", "sums-around-the-clock", "ever-harder-images",
    "spiking-digits", "heartbeats", "long-tailed-digits", "four-bit-weights", "sparse-from-the-start", "fixed-point-layer",
    "reprogrammed-network",
})  # fmt: skip
"""Families with one class per row."""


def scaled(times: float) -> Callable[[nn.Module], None]:
    """Every matrix that is trained, at its start; of a weight that torch has split into size and direction, the size."""

    @torch.no_grad()
    def change(net: nn.Module) -> None:
        for name, parameter in net.named_parameters():
            if parameter.requires_grad and parameter.ndim >= 2 and not name.endswith(".original1"):
                parameter.mul_(times)

    return change


@torch.no_grad()
def biased_to_death(net: nn.Module) -> None:
    """A bias of -10 before each rectifier."""
    for chain in net.modules():
        parts = list(chain) if isinstance(chain, nn.Sequential) else []
        for layer, following in itertools.pairwise(parts):
            if isinstance(following, nn.ReLU) and isinstance(layer.bias, Tensor):
                layer.bias.sub_(10.0)


def half_frozen(net: nn.Module) -> None:
    """The first half of what the optimizer holds never gets a gradient."""
    held = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for parameter in held[: len(held) // 2]:
        parameter.requires_grad_(False)


def mostly_dropped(net: nn.Module) -> None:
    """Dropout of 95 % before each layer but the first."""
    layers = [module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)]
    for layer in layers[1:]:
        layer.register_forward_pre_hook(_dropped)


def _dropped(module: nn.Module, inputs: Any) -> Any:
    return (F.dropout(inputs[0], 0.95), *inputs[1:])


def hot_restarts(step: int, steps: int) -> float:
    """From a third of the run on, 300 times the rate at the start of each third, and down to it."""
    period = max(1, steps // 3)
    return 1.0 if step < period else float(300.0 ** (1 - step % period / period))


def mostly_shuffled(step: int, steps: int, batch: Batch) -> Batch:
    """Nine targets of ten are another row's."""
    target = batch[-1]
    others, wrong = torch.randperm(len(target)), torch.rand(len(target)) < 0.9
    return (*batch[:-1], target[torch.where(wrong, others, torch.arange(len(target)))])


def of_one_class(step: int, steps: int, batch: Batch) -> Batch:
    """The rows of the first row's class, as often as it takes: a table that is sorted by class."""
    rows = (batch[-1] == batch[-1][0]).nonzero()[:, 0]
    rows = rows[torch.arange(len(batch[-1])) % len(rows)]
    return tuple(part[rows] for part in batch)


def cleared_before_the_step(net: nn.Module) -> None:
    """Each gradient is gone as soon as it is there: ``zero_grad`` between ``backward`` and ``step``."""

    def clear(parameter: Tensor) -> None:
        parameter.grad = None

    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(clear)


def softmax_at_the_end(net: nn.Module) -> None:
    """The network tells probabilities, to a loss that takes logits."""
    net.register_forward_hook(lambda module, inputs, output: output.softmax(-1))


def missing_as_999(step: int, steps: int, batch: Batch) -> Batch:
    """Two values of a hundred were not measured, and a file says -999 for them."""
    return (batch[0].masked_fill(torch.rand(batch[0].shape) < 0.02, -999.0), *batch[1:])

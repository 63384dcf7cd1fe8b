"""Healthy runs,
most of them chosen because they look like sick ones to some detector. Rules were tuned on their seed 0."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from tests.benchmarks.divergence import faults as f
from tests.benchmarks.divergence.data import diabetes, digits, rare_words, rows, windows
from tests.benchmarks.divergence.models import BagOfWords, Cnn, Recurrent, Transformer, mlp, pretrained
from tests.benchmarks.divergence.scenario import Scenario, squared

DIGITS: dict[str, Any] = {"draw": rows(digits(), 64), "net": lambda: mlp([64, 64, 64, 10])}
CNN: dict[str, Any] = {"draw": rows(digits(), 64), "net": Cnn}
CODER: dict[str, Any] = {
    "draw": rows((digits()[0], digits()[0]), 64), "net": lambda: mlp([64, 48, 8, 48, 64], nn.Tanh), "loss": squared,
}  # fmt: skip
DIABETES: dict[str, Any] = {"draw": rows(diabetes(), 32), "net": lambda: mlp([10, 32, 32, 1]), "loss": squared}
TEXT: dict[str, Any] = {"draw": windows(12), "net": Transformer, "logits": ("net.blocks.*.scores",)}
GRU: dict[str, Any] = {"draw": windows(12), "net": Recurrent}
WORDS: dict[str, Any] = {"draw": rare_words(32), "net": BagOfWords}
GAN: dict[str, Any] = {"draw": rows(digits(), 64), "net": lambda: mlp([2, 2]), "gan": True}


def adam(parameters: Any, lr: float) -> Optimizer:
    """torch's Adam, with the decay in the gradient."""
    return torch.optim.Adam(parameters, lr=lr)


HEALTHY = (
    Scenario("digits", **DIGITS, lr=1e-3),
    Scenario("digits-cosine-torch", **DIGITS, lr=2e-3, factor=f.cosine(300, 20)),
    Scenario("digits-adam-torch", **DIGITS, lr=1e-3, optimizer=adam),
    Scenario("cnn-cosine", **CNN, lr=2e-3, warmup=20, schedule="cosine", steps=250),
    Scenario("diabetes", **DIABETES, lr=1e-3),
    Scenario("text-clip-cosine", **TEXT, lr=2e-3, betas=(0.9, 0.95), warmup=30, schedule="cosine", clip=1.0,
             weight_decay=0.1),
    Scenario("text-slow-beta2", **TEXT, lr=1e-3, warmup=30, schedule="cosine"),
    Scenario("text-eps-1e-6", **TEXT, lr=3e-3, eps=1e-6, warmup=30, clip=1.0, schedule="cosine", steps=250),
    Scenario("coder", **CODER, lr=2e-3, schedule="cosine"),
    Scenario("gru-clip", **GRU, lr=3e-3, clip=1.0, warmup=20, schedule="cosine", steps=250),
    Scenario("gru-no-clip", **GRU, lr=2e-3, warmup=20, steps=250),
    Scenario("label-noise", **DIGITS, lr=1e-3, batch_fault=f.noisy(0.3, 10), steps=400),
    Scenario("batch-of-4", draw=rows(digits(), 4), net=DIGITS["net"], lr=5e-4, steps=600),
    Scenario("rare-words", **WORDS, lr=1e-2, steps=600),
    Scenario("restarts", **DIGITS, lr=2e-3, factor=f.restarts(100), steps=400),
    Scenario("overfit-100", draw=rows(digits(), 32, first=100), net=DIGITS["net"], lr=1e-3, steps=600),
    Scenario("norm-large-rate", draw=rows(digits(), 64), net=lambda: mlp([64, 64, 64, 10], norm=True), lr=1e-2, warmup=40,
             schedule="cosine", steps=400),
    Scenario("small-rate", **DIGITS, lr=1e-4, warmup=30, schedule="cosine", steps=500),
    Scenario("augmented", **DIGITS, lr=1e-3, batch_fault=f.augmented_from(200), steps=400),
    Scenario("resumed", **DIGITS, lr=1e-3, resume=150),
    Scenario("bf16", **DIGITS, lr=3e-3, precision="bf16-true"),
    Scenario("always-clipped", **DIGITS, lr=1e-3, clip=1e-3, steps=400),
    Scenario("fp16", **DIGITS, lr=1e-3, precision="16-mixed"),
    Scenario("full-batch", draw=rows(diabetes(), 0, whole=True), net=DIABETES["net"], loss=squared, lr=1e-2),
    Scenario("strong-decay", **DIGITS, lr=1e-3, weight_decay=1.0, steps=400),
    Scenario("deep-norm", draw=rows(digits(), 64), net=lambda: mlp([64, *[64] * 6, 10], norm=True), lr=2e-3, warmup=30,
             clip=1.0, steps=350),
    Scenario("gan", **GAN, lr=3e-4),
    Scenario("adamw8bit", draw=rows(digits(), 64), net=lambda: mlp([64, 256, 256, 10]), optimizer="adamw8bit", lr=1e-3),
    Scenario("fine-tuned", draw=rows((digits()[0][900:], digits()[1][900:]), 32), net=pretrained, lr=1e-4),
    Scenario("low-rank", draw=rows((digits()[0][900:], digits()[1][900:]), 32), net=lambda: pretrained(True), lr=3e-3),
    Scenario("frozen-first-layer", **DIGITS, lr=1e-3, init=f.frozen("0.")),
    Scenario("accumulated", draw=rows(digits(), 16), net=DIGITS["net"], lr=1e-3, accumulate=4, steps=250),
    Scenario("adafactor", **DIGITS, optimizer="adafactor", lr=1e-2),
    Scenario("lion", **DIGITS, optimizer="lion", lr=3e-4, weight_decay=0.1),
    Scenario("sgd-momentum", **DIGITS, lr=0.03, optimizer=lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)),
    Scenario("radam", **TEXT, optimizer="radam", lr=2e-3, steps=250),
    Scenario("manual", **DIGITS, lr=1e-3, manual=True, steps=250),
)  # fmt: skip

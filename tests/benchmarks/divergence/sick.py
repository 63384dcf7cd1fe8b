"""Sick runs, each with its cure. Rules were tuned on their seed 0."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.benchmarks.divergence import faults as f
from tests.benchmarks.divergence.data import diabetes, digits, rows
from tests.benchmarks.divergence.healthy import CNN, CODER, DIABETES, DIGITS, GAN, GRU, TEXT, WORDS, adam
from tests.benchmarks.divergence.models import Transformer, TwoTowers, mlp
from tests.benchmarks.divergence.scenario import Scenario, squared

TOO_LARGE = frozenset({"LR-HIGH", "NO-WARMUP"})
"""Codes with one remedy: where a warmup alone is enough cannot be told from signals in general,
and both messages say both."""


def _rates() -> tuple[Scenario, ...]:
    def high(name: str, base: dict[str, Any], lr: float, good: float, **more: Any) -> Scenario:
        return Scenario(name, **base, lr=lr, cause="LR-HIGH", accepted=TOO_LARGE, cure={"lr": good}, **more)

    ramps = {"steps": 350, "onset": 100, "cause": "LR-HIGH"}
    return (
        high("lr-high-digits", DIGITS, 0.3, 1e-3, steps=250),
        high("lr-high-text", TEXT, 0.1, 3e-3, warmup=20, steps=250),
        high("lr-high-cnn", CNN, 1.0, 1e-3, steps=200),
        high("lr-high-coder", CODER, 0.3, 2e-3, steps=250),
        high("lr-high-gru", GRU, 0.3, 3e-3, steps=200),
        high("lr-high-diabetes", DIABETES, 1.0, 3e-3, steps=250),
        high("lr-high-8bit", {**DIGITS, "net": lambda: mlp([64, 256, 256, 10])}, 0.3, 1e-3, optimizer="adamw8bit",
                 steps=200),
        high("lr-high-lion", DIGITS, 0.1, 3e-4, optimizer="lion", steps=250),
        high("lr-high-adafactor", DIGITS, 1.0, 1e-2, optimizer="adafactor", steps=250),
        high("lr-high-sgd", DIGITS, 5.0, 0.03, optimizer=lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
                 steps=250),
        high("lr-high-accumulated", {**DIGITS, "draw": rows(digits(), 16)}, 0.3, 1e-3, accumulate=4, steps=150),
        high("lr-high-gan", GAN, 0.3, 3e-4, steps=250),
        high("lr-high-fine-tuned", {"draw": rows((digits()[0][900:], digits()[1][900:]), 32), "net": DIGITS["net"]},
                 0.2, 1e-4,
             steps=250),
        Scenario("lr-jump", **DIGITS, lr=1e-3, factor=f.jump(150, 300.0), steps=250, onset=150, cause="LR-HIGH",
                 cure={"factor": f.jump(150, 1.0)}),
        Scenario("lr-ramp-digits", **DIGITS, lr=1e-3, factor=f.ramp(100, 1.02), cure={"factor": f.ramp(100, 1.0)},
                 **{**ramps, "steps": 450}),
        Scenario("lr-ramp-text", **TEXT, lr=1e-3, factor=f.ramp(100, 1.025), cure={"factor": f.ramp(100, 1.0)}, **ramps),
        Scenario("lr-ramp-coder", **CODER, lr=1e-3, factor=f.ramp(100, 1.025), cure={"factor": f.ramp(100, 1.0)},
                 **ramps),
        Scenario("lr-ramp-gru", **GRU, lr=1e-3, factor=f.ramp(100, 1.025), cure={"factor": f.ramp(100, 1.0)}, **ramps),
        Scenario("no-warmup-text", **{**TEXT, "net": lambda: Transformer(layers=4)}, lr=1e-2, steps=250,
                 cause="NO-WARMUP",
                 accepted=TOO_LARGE, cure={"warmup": 80}),
        Scenario("no-warmup-cnn", **CNN, lr=0.1, steps=250, cause="NO-WARMUP", accepted=TOO_LARGE, cure={"warmup": 60}),
        Scenario("no-warmup-post-norm", **{**TEXT, "net": lambda: Transformer(layers=3, norm_first=False)}, lr=2e-2,
                 steps=250,
                 cause="NO-WARMUP", accepted=TOO_LARGE, cure={"warmup": 80, "lr": 5e-3}),
        Scenario("lr-low-digits", **DIGITS, lr=1e-6, cause="LR-LOW", cure={"lr": 1e-3}),
        Scenario("lr-low-text", **TEXT, lr=3e-6, steps=250, cause="LR-LOW", cure={"lr": 3e-3}),
        Scenario("lr-low-coder", **CODER, lr=1e-6, cause="LR-LOW", cure={"lr": 2e-3}),
        Scenario("schedule-collapsed-digits", **DIGITS, lr=1e-3, factor=f.collapse(0.9), steps=400,
                 cause="SCHEDULE-COLLAPSED",
                 cure={"factor": f.cosine(400)}),
        Scenario("schedule-collapsed-text", **TEXT, lr=2e-3, factor=f.collapse(0.93), cause="SCHEDULE-COLLAPSED",
                 cure={"factor": f.cosine(300)}),
        Scenario("dead-after-large-rate", **DIGITS, lr=1.0, factor=lambda t: 1.0 if t < 20 else 1e-3, cause="LR-HIGH",
                 accepted=TOO_LARGE | {"DEAD-PARAMETER"}, cure={"lr": 1e-3, "factor": None}),
        Scenario("spiky-deep", **{**DIGITS, "net": lambda: mlp([64, *[64] * 8, 10])}, lr=2e-2, cause="LR-HIGH",
                 accepted=TOO_LARGE | {"GRAD-EXPLODING"}, cure={"lr": 2e-3}),
    )  # fmt: skip


def _state() -> tuple[Scenario, ...]:
    stale = {"steps": 320, "onset": 250, "betas": (0.9, 0.9999), "lr": 3e-3, "cause": "BETA2-STALE"}
    deep = {**DIGITS, "net": lambda: mlp([64, *[64] * 4, 10])}
    return (
        Scenario("beta2-low-digits", **DIGITS, lr=3e-3, betas=(0.9, 0.5), cause="BETA2-LOW", cure={"betas": (0.9,
                 0.999)}, steps=400),
        Scenario("beta2-low-text", **TEXT, lr=3e-3, betas=(0.9, 0.3), warmup=20, steps=250, cause="BETA2-LOW",
                 cure={"betas": (0.9, 0.99)}),
        Scenario("beta2-low-coder", **CODER, lr=2e-3, betas=(0.95, 0.7), cause="BETA2-LOW", cure={"betas": (0.9, 0.99)}),
        Scenario("beta2-stale-digits", **deep, **stale, loss_fault=f.gradient_times(300.0, 250),
                 state_fault=f.aged_at(249),
                 cure={"betas": (0.9, 0.95), "state_fault": None}),
        Scenario("beta2-stale-text", **TEXT, **{**stale, "steps": 220, "onset": 150}, warmup=30,
                 loss_fault=f.gradient_times(300.0, 150), state_fault=f.aged_at(149), cure={"betas": (0.9, 0.95),
                 "state_fault": None}),
        Scenario("eps-high-digits", **DIGITS, lr=1e-3, eps=1.0, cause="EPS-HIGH", cure={"eps": 1e-8}),
        Scenario("eps-high-text", **TEXT, lr=1e-3, eps=0.1, warmup=20, steps=250, cause="EPS-HIGH", cure={"eps": 1e-8}),
        Scenario("eps-high-small-loss", **DIGITS, lr=1e-3, loss_fault=f.loss_times(1e-8), cause="EPS-HIGH",
                 cure={"eps": 1e-15}),
        Scenario("eps-zero-words", **WORDS, lr=3e-3, optimizer=lambda p, lr: torch.optim.AdamW(p, lr=lr, eps=0.0),
                 steps=150,
                 cause="NON-FINITE", cure={"optimizer": "adamw"}),
        Scenario("overclipped", **DIGITS, lr=1e-3, clip=1e-7, cause="CLIP-ALWAYS", accepted=frozenset({"EPS-HIGH"}),
                 cure={"clip": 1.0}),
        Scenario("overclipped-text", **TEXT, lr=1e-3, clip=1e-7, steps=250, cause="CLIP-ALWAYS",
                 accepted=frozenset({"EPS-HIGH"}), cure={"clip": 1.0}),
        Scenario("decay-digits", **DIGITS, lr=1e-3, weight_decay=50.0, steps=400, cause="DECAY-DOMINATES",
                 cure={"weight_decay": 0.01}),
        Scenario("decay-text", **TEXT, lr=1e-3, weight_decay=30.0, warmup=20, cause="DECAY-DOMINATES",
                 cure={"weight_decay": 0.01}),
        Scenario("decay-coupled", **DIGITS, lr=1e-3, weight_decay=1.0, steps=400, cause="DECAY-DOMINATES",
                 optimizer=lambda p, lr: torch.optim.Adam(p, lr=lr, weight_decay=1.0), cure={"optimizer": adam}),
        Scenario("resume-lost", tier="hygiene", **DIGITS, lr=1e-2, warmup=40, resume=150, resume_without_state=True,
                 steps=180, onset=150, cause="STATE-LOST", cure={"resume_without_state": False}),
        Scenario("resume-lost-text", **TEXT, lr=1e-2, warmup=30, resume=120, resume_without_state=True, steps=140,
                 onset=120,
                 cause="STATE-LOST", cure={"resume_without_state": False}),
        Scenario("v-lost", **DIGITS, lr=3e-3, state_fault=f.second_moment_lost(200), onset=200, cause="STATE-LOST",
                 accepted=frozenset({"STATE-CORRUPT"}), cure={"state_fault": None}),
        Scenario("coarse-state-text", **TEXT, lr=1e-3, warmup=20, steps=200, state_fault=f.coarse_state(),
                 cause="STATE-CORRUPT",
                 cure={"state_fault": None}),
        Scenario("coarse-state-digits", **DIGITS, lr=1e-3, steps=250, state_fault=f.coarse_state(), cause="STATE-CORRUPT",
                 cure={"state_fault": None}),
        Scenario("bf16-stall-digits", **DIGITS, lr=2e-5, precision="bf16-true", init=f.times(3.0), cause="BF16-STALL",
                 cure={"precision": "32-true"}, steps=400),
        Scenario("bf16-stall-text", **TEXT, lr=3e-5, precision="bf16-true", warmup=20, cause="BF16-STALL",
                 accepted=frozenset({"LR-LOW"}), cure={"precision": "32-true", "lr": 1e-3}),
        Scenario("fp16-overflow", **DIGITS, lr=1e-3, precision="16-mixed", init=f.times(4e4, first_only=True), steps=120,
                 cause="SCALER-SKIPS", cure={"init": None}),
        Scenario("fp16-skips", **DIGITS, lr=1e-3, precision="16-mixed", loss_fault=f.loss_times(1e9), steps=120,
                 cause="SCALER-SKIPS", cure={"loss_fault": None}, tier="hygiene"),
    )  # fmt: skip


def _gradients() -> tuple[Scenario, ...]:
    deep = {**DIGITS, "net": lambda: mlp([64, *[64] * 8, 10], nn.Sigmoid)}
    healed = {"net": lambda: mlp([64, *[64] * 8, 10])}
    raw = {"draw": rows(diabetes(True), 32), "net": DIABETES["net"], "loss": squared}
    return (
        Scenario("vanishing-sigmoid", **deep, lr=1e-3, cause="GRAD-VANISHING", cure=healed),
        Scenario("vanishing-tanh", **{**DIGITS, "net": lambda: mlp([64, *[64] * 12, 10], nn.Sigmoid)}, lr=3e-3,
                 cause="GRAD-VANISHING", cure={"net": lambda: mlp([64, *[64] * 4, 10])}),
        Scenario("dead-relu", **DIGITS, lr=1e-3, init=f.dead_units, cause="DEAD-PARAMETER", cure={"init": None}),
        Scenario("zero-weights", **DIGITS, lr=1e-3, init=f.all_zero, cause="NO-LEARNING",
                 accepted=frozenset({"DEAD-PARAMETER"}),
                 cure={"init": None}),
        Scenario("raw-diabetes", **raw, lr=1e-3, cause="INPUT-SCALE", cure={"draw": rows(diabetes(), 32)}),
        Scenario("raw-inputs", **DIGITS, lr=1e-3, batch_fault=f.everywhere(lambda x: x * 1e4 + 5e4), cause="INPUT-SCALE",
                 cure={"batch_fault": None}),
        Scenario("offset-inputs", **DIGITS, lr=1e-3, batch_fault=f.everywhere(lambda x: x + 300), cause="INPUT-SCALE",
                 cure={"batch_fault": None}),
        Scenario("bad-batch", **DIGITS, lr=1e-3, batch_fault=f.at((200, 201), f.inputs_times(1e4)), onset=200,
                 cause="BAD-BATCH",
                 accepted=frozenset({"GRAD-EXPLODING"}), cure={"clip": 1.0}),
        Scenario("bad-target", **DIABETES, lr=3e-3, batch_fault=f.at((200,), f.targets_become(1e5)), onset=200,
                 cause="BAD-BATCH",
                 cure={"clip": 1.0}),
        Scenario("bad-batch-text", **TEXT, lr=2e-3, warmup=20, loss_fault=lambda t, loss,
                 out: loss * 1e4 if t == 150 else loss,
                 steps=250, onset=150, cause="BAD-BATCH", cure={"loss_fault": None}, tier="hygiene"),
        Scenario("heavy-tail", **DIABETES, lr=3e-3, batch_fault=f.outliers(0.004, 3000.0), steps=450,
                 cause="GRAD-EXPLODING",
                 accepted=frozenset({"BAD-BATCH"}), cure={"clip": 1.0}),
        Scenario("nan-batch", **DIGITS, lr=1e-3, batch_fault=f.at((200,), f.one_nan), onset=200, steps=250,
                 cause="NON-FINITE",
                 cure={"batch_fault": None}),
        Scenario("nan-gradient", **DIGITS, lr=1e-3, loss_fault=f.nan_gradient(200), onset=200, steps=250,
                 cause="NON-FINITE",
                 cure={"loss_fault": None}),
        Scenario("nan-gradient-text", **TEXT, lr=1e-3, loss_fault=f.nan_gradient(150), onset=150, steps=200,
                 cause="NON-FINITE",
                 cure={"loss_fault": None}),
        Scenario("log-of-zero", **DIABETES, lr=1e-3, loss_fault=f.log_of_zero(200), onset=200, steps=250,
                 cause="NON-FINITE",
                 cure={"loss_fault": None}),
        Scenario("not-zeroed", **DIGITS, lr=1e-3, manual=True, zeroed=False, cause="GRAD-NOT-ZEROED",
                 cure={"zeroed": True}),
        Scenario("not-zeroed-text", **TEXT, lr=2e-3, manual=True, zeroed=False, steps=250, cause="GRAD-NOT-ZEROED",
                 cure={"zeroed": True}),
        Scenario("shuffled-labels", **DIGITS, lr=1e-3, batch_fault=f.shuffled(10), steps=400, cause="NO-LEARNING",
                 cure={"batch_fault": None}),
        Scenario("shuffled-targets", **CNN, lr=1e-3, batch_fault=f.shuffled(10), cause="NO-LEARNING",
                 cure={"batch_fault": None}),
        Scenario("logits-grow", **TEXT, lr=3e-2, warmup=40, betas=(0.9, 0.95), clip=1.0, steps=350, cause="LR-HIGH",
                 accepted=frozenset({"LOGIT-GROWTH"}), cure={"lr": 5e-3}),
        Scenario("late-overfit", draw=rows(digits(), 0, first=200, whole=True), net=lambda: mlp([64, 128, 128, 10]),
                 lr=1e-2,
                 betas=(0.9, 0.95), steps=700, cause="LOSS-DIVERGED", accepted=frozenset({"BAD-BATCH", "LR-HIGH",
                 "LOSS-SPIKE", "GRAD-EXPLODING", "OSCILLATION"}),
                 cure={"schedule": "cosine"}),
        Scenario("bouncing", **{**CODER, "draw": rows((digits()[0], digits()[0]), 0, first=512, whole=True)}, lr=0.1,
                 steps=250,
                 cause="LR-HIGH", accepted=TOO_LARGE | {"OSCILLATION"}, cure={"lr": 5e-3}),
        Scenario("no-decay-noisy", **{**DIGITS, "net": lambda: mlp([64, 10])}, lr=0.3, batch_fault=f.noisy(0.2, 10),
                 cause="LR-HIGH", accepted=TOO_LARGE | {"OSCILLATION"}, cure={"lr": 1e-2, "schedule": "cosine"}),
        Scenario("unused-tower", **{**DIGITS, "net": TwoTowers}, lr=1e-3, steps=150, cause="UNUSED-PARAMETER",
                 tier="hygiene",
                 cure={"net": DIGITS["net"]}),
    )  # fmt: skip


SICK = (*_rates(), *_state(), *_gradients())

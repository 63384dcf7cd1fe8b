"""A healthy run as the rules see it, and ways to make it sick."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from lightning_adam.diagnosis import (
    Finding,
    HeavySignals,
    RunSignals,
    StepSignals,
    replay,
)

RUN = RunSignals(
    optimizer="AdamW", beta1=0.9, beta2=0.999, eps=1e-8, smallest_eps=1e-8, plain_moments=True, warmup=10.0,
    total_steps=400.0, tensors=6, matrices=3,
)  # fmt: skip

HEAVY = HeavySignals(
    update_ratio_p50=2e-3, update_ratio_max=5e-3, update_ratio_max_in="net.0.weight", normalised_rms=0.23,
    normalised_rms_max=0.3, bound_excess=0.1, bound_excess_in="net.0.weight", surprise_max=1.5,
    surprise_max_in="net.0.weight", eps_share=1e-4, zero_gradients=0.1, zero_gradients_max=0.2,
    zero_gradients_max_in="net.0.weight", decay_ratio=0.01, first_last=0.3, first_matrix="net.0.weight", alignment=0.02,
    second_moment_p50=0.1, input_max=3.0, input_rms=1.0, input_offset=0.0,
)  # fmt: skip

Change = Callable[[StepSignals], StepSignals]


def healthy(steps: int = 260) -> list[StepSignals]:
    """A loss that falls from 4 to 1 with some noise, a warmup over 10 steps, steps of 0.2 %."""
    noise = np.random.default_rng(0).normal(size=(steps, 2))
    return [
        StepSignals(
            step=k,
            batch=k,
            loss=1 + 3 * math.exp(-k / 40) + 0.05 * float(noise[k, 0]),
            gradient_norm=1 + 0.1 * abs(float(noise[k, 1])),
            clip_coefficient=1.0,
            lr=1e-3 * min(1.0, (k + 1) / 10),
            beta1=0.9,
            beta2=0.999,
            heavy=replace(HEAVY, state_step=float(k + 1)) if k < 10 or k % 10 == 0 else None,
        )
        for k in range(steps)
    ]


def heavy(first: int = 0, until: int = 10**9, **changes: float | str) -> Change:
    """The pass over all tensors shows something else, from a step on."""

    def change(s: StepSignals) -> StepSignals:
        if s.heavy is None or not first <= s.step < until:
            return s
        return replace(s, heavy=replace(s.heavy, **changes))  # type: ignore[arg-type]

    return change


def light(first: int = 0, until: int = 10**9, **changes: object) -> Change:
    """A light signal is something else, from a step on."""
    return lambda s: replace(s, **changes) if first <= s.step < until else s  # type: ignore[arg-type]


def both(*changes: Change) -> Change:
    """One after the other."""

    def change(s: StepSignals) -> StepSignals:
        for one in changes:
            s = one(s)
        return s

    return change


def one_class(s: StepSignals) -> StepSignals:
    """Each batch holds one class, and the next one another."""
    return heavy(target_classes=1.0, target_label=float(s.step % 3))(s)


def falling_norm(first: int) -> Change:
    """After a bad batch the damaged model's gradients are heavy, and fall."""
    return lambda s: replace(s, gradient_norm=900.0 * 0.8 ** (s.step - first), loss=40.0) if s.step >= first else s


def diagnose(signals: Iterable[StepSignals], run: RunSignals = RUN) -> list[Finding]:
    """All findings of a sequence of signals."""
    return replay([run, *signals]).findings

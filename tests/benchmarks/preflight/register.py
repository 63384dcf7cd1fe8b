"""Where the cases are entered, and which of them may be looked at while checks are tuned."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable

from tests.benchmarks.preflight.parts import Built

Build = Callable[[], Built]

HEALTHY: dict[str, Build] = {}
FAULTY: dict[str, tuple[tuple[str, ...], Build]] = {}
"""The codes that name the cause, and how the fault is made."""

KEPT_APART = (
    *("fresh", "strangers", "newcomers", "outsiders", "latecomers", "visitors", "travellers", "pilgrims"),
    *("wayfarers", "settlers", "drifters", "nomads", "strays", "sojourners"),
)
"""Rounds, by how their files' names begin, that were written later and scored once before anything was changed for them."""


def name_of(build: Build) -> str:
    """Its name, unless another case has it: that one would be lost without a word.

    pytest reads a file twice, as a module that others import and for the examples in its docstrings.
    """
    name = build.__name__
    former = FAULTY[name][1] if name in FAULTY else HEALTHY.get(name)
    if former is not None and _where(former) != _where(build):
        raise ValueError(f"two cases are called {name}")
    return name


def _where(build: Build) -> tuple[str, int]:
    code = inspect.unwrap(build).__code__
    return code.co_filename, code.co_firstlineno


def healthy(build: Build) -> Build:
    """Enter it by its name."""
    HEALTHY[name_of(build)] = build
    return build


def faulty(*codes: str) -> Callable[[Build], Build]:
    """Enter it by its name, with the codes that name its cause."""

    def enter(build: Build) -> Build:
        FAULTY[name_of(build)] = (codes, build)
        return build

    return enter


def part_of(name: str) -> str:
    """Half of the first cases are for tuning, by their names alone."""
    build = FAULTY[name][1] if name in FAULTY else HEALTHY[name]
    round_ = build.__module__.rpartition(".")[2].partition("_")[0]
    if round_ in KEPT_APART:
        return round_
    return "held-out" if hashlib.sha256(name.encode()).digest()[0] % 2 else "tuning"

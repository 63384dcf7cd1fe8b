"""All cases: importing this enters every round of them."""

from __future__ import annotations

import hashlib

from tests.benchmarks.preflight import fresh
from tests.benchmarks.preflight.faulty_more import FAULTY
from tests.benchmarks.preflight.healthy_more import HEALTHY

__all__ = ["FAULTY", "HEALTHY", "part_of"]


def part_of(name: str) -> str:
    """Half of the cases are for tuning, by their names alone; of both halves the third round is kept apart."""
    if hasattr(fresh, name):
        return "fresh"
    return "held-out" if hashlib.sha256(name.encode()).digest()[0] % 2 else "tuning"

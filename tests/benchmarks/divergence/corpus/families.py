"""Every family of the corpus: importing their modules registers them."""

from __future__ import annotations

from tests.benchmarks.divergence.corpus import (  # noqa: F401
    adversaries,
    boarders,
    boarders_b,
    boarders_c,
    boarders_d,
    generative,
    guests,
    guests_b,
    guests_c,
    latecomers,
    libraries,
    lodgers,
    lodgers_b,
    lodgers_c,
    representation,
    strangers,
    strangers_b,
    structured,
    supervised,
    visitors,
    visitors_b,
    visitors_c,
)
from tests.benchmarks.divergence.corpus.family import FAMILIES

__all__ = ["FAMILIES"]

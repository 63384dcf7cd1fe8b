"""Sees of which values ``torch.distributions`` is asked how likely they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from lightning_adam.preflight.recorder import Call, Record, made_by, place


@contextmanager
def noted_in(record: Record) -> Iterator[None]:
    """Calls of ``log_prob`` are kept in ``densities``; of a distribution that is made of others the outer call alone.

    Afterwards the classes have their own methods again.
    """
    depth = [0]
    before = [(kind, kind.__dict__["log_prob"]) for kind in _kinds(Distribution) if "log_prob" in kind.__dict__]
    for kind, method in before:
        kind.log_prob = _noting(method, record, depth)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for kind, method in before:
            kind.log_prob = method  # type: ignore[method-assign]


def _kinds(kind: type[Distribution]) -> Iterator[type[Distribution]]:
    yield kind
    for other in kind.__subclasses__():
        yield from _kinds(other)


def _noting(method: Callable[..., Any], record: Record, depth: list[int]) -> Callable[..., Any]:
    @wraps(method)
    def log_prob(self: Distribution, value: Any) -> Any:
        depth[0] += 1
        try:
            output = method(self, value)
        finally:
            depth[0] -= 1
        if depth[0] == 0 and isinstance(value, Tensor) and isinstance(output, Tensor) and output.requires_grad:
            record.densities.append(Call("log_prob", output, value, output, {}, made_by(output), place()))
        return output

    return log_prob

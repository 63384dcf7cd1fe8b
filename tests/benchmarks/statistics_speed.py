"""A logged step's statistics by kind of optimizer: ``python -m tests.benchmarks.statistics_speed [millions]``.

What the copies before the step, the reading and the measuring take, over the pass of a fused AdamW with 32-bit weights over
as many elements in the same run; then AdamW's cost per tensor for thousands of tiny ones. Times are the best of several,
called in turn: a busy machine only ever adds.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

import lightning_adam as la
from lightning_adam.statistics import read_optimizer, take_snapshot, tensor_names
from lightning_adam.statistics.reading import Before, copy_parameters
from tests.benchmarks.measuring import Table, interleaved, path_taken

SIDE = 256


@dataclass(frozen=True)
class Kind:
    """An optimizer and the dtype of its weights."""

    title: str
    name: str
    dtype: torch.dtype = torch.float32


KINDS = (
    Kind("AdamW, 32-bit weights", "adamw"),
    Kind("AdamW, bf16 weights", "adamw", torch.bfloat16),
    Kind("adamw8bit", "adamw8bit"),
    Kind("Lion", "lion"),
    Kind("Adafactor", "adafactor"),
    Kind("Muon", "muon"),
    Kind("RMSprop", "rmsprop"),
    Kind("SGD", "sgd"),
)


def stepped(kind: Kind, millions: int) -> tuple[Any, dict[int, str], Before | None]:
    """The optimizer after its second step over square matrices, and what was copied before that."""
    torch.manual_seed(0)
    count = millions * 10**6 // SIDE**2
    module = nn.Sequential(*[nn.Linear(SIDE, SIDE, bias=False) for _ in range(count)]).to(kind.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: Any = la.configure_optimizers(module, kind.name, clip=None, warmup=0, total_steps=100)["optimizer"]
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-2
    made.step()
    before = copy_parameters(made)
    made.step()
    return made, tensor_names(module.named_parameters()), before


def logged(made: Any, names: dict[int, str], before: Before | None) -> Callable[[], object]:
    """Everything that a logged step adds."""

    def call() -> None:
        copy_parameters(made)
        take_snapshot(0, read_optimizer(made, names, before))

    return call


def by_kind(millions: int) -> Table:
    """Against the first of them."""
    rows = []
    plain = logged(*stepped(KINDS[0], millions))
    for kind in KINDS:
        base, own = interleaved([plain, logged(*stepped(kind, millions))], 12)
        rows.append((kind.title, f"{1e3 * own:.1f}", f"{own / base:.1f}"))
    title = f"A logged step over {millions}M elements in matrices of {SIDE} x {SIDE} ({path_taken()})"
    return Table(title, ("optimizer", "ms", "÷ AdamW, 32-bit"), rows)


def by_tensors() -> Table:
    """AdamW over ever more tensors of 64 elements."""
    rows = []
    for count in (300, 1000, 5000, 10000):
        module = nn.ParameterList([nn.Parameter(torch.randn(64)) for _ in range(count)])
        optimizer = torch.optim.AdamW(module.parameters(), fused=True)
        for parameter in module:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        (time,) = interleaved([partial(logged(optimizer, tensor_names(module.named_parameters()), None))], 5)
        rows.append((str(count), f"{1e3 * time:.1f}", f"{1e6 * time / count:.1f}"))
    return Table("The first logged step by the number of tensors", ("tensors", "ms", "µs per tensor"), rows)


def main() -> None:
    """Print both tables."""
    millions = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    print(by_kind(millions).text(markdown=True))
    print(by_tensors().text(markdown=True))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

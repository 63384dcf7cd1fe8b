"""Every public function refuses a wrong type by the argument's name, with what it got and what to give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor
from tests.digits import Digits, digits_loader

NOTHING: tuple[Any, ...] = ([], 3, {}, object())
"""What no argument below may be."""


def watched(**options: Any) -> Any:
    """A watch of a small network."""
    network = nn.Linear(2, 2)
    return la.watch(network, torch.optim.Adam(network.parameters()), **options)


CALLS: dict[str, tuple[str, Callable[[Any], Any], tuple[Any, ...]]] = {
    "search_space": ("optimizer", la.search_space, NOTHING),
    "search_space of a module": ("module", lambda wrong: la.search_space("adamw", wrong), NOTHING),
    "report": ("logdir", la.report, (*NOTHING, None, b"runs")),
    "describe": ("subject", la.describe, (*NOTHING, None, "adamw", [3], nn.Linear(2, 2))),
    "plot_schedule": ("config", lambda wrong: la.plot_schedule(wrong, 10), (*NOTHING, None)),
    "plot_schedule's steps": (
        "steps",
        lambda wrong: la.plot_schedule(la.OptimizerConfig(), wrong),
        ([], "x", None, -3, True),
    ),
    "suggest_lr": ("module", lambda wrong: la.suggest_lr(wrong, digits_loader()), (*NOTHING, None)),
    "suggest_lr's trainer": ("trainer", lambda wrong: la.suggest_lr(Digits(), digits_loader(), trainer=wrong), NOTHING),
    "preflight": ("module", lambda wrong: la.preflight(wrong, digits_loader()), (*NOTHING, None)),
    "preflight's trainer": ("trainer", lambda wrong: la.preflight(Digits(), digits_loader(), trainer=wrong), NOTHING),
    "preflight's budget": (
        "budget",
        lambda wrong: la.preflight(Digits(), digits_loader(), budget=wrong),
        ([], {}, None, "x", True, -1, float("nan")),
    ),
    "watch": ("module", lambda wrong: la.watch(wrong, torch.optim.Adam(nn.Linear(2, 2).parameters())), (*NOTHING, None)),
    "watch's optimizers": ("optimizers", lambda wrong: la.watch(nn.Linear(2, 2), wrong), (*NOTHING, None)),
    "watch's trial": ("trial", lambda wrong: watched(trial=wrong), NOTHING),
    "watch's schedulers": ("schedulers", lambda wrong: watched(schedulers=wrong), (3, {}, object(), [3])),
    "watch's passes": ("check_every_n_steps", lambda wrong: watched(check_every_n_steps=wrong), (0, -1, None, "x")),
    "DivergenceMonitor": ("trial", lambda wrong: DivergenceMonitor(trial=wrong), NOTHING),
    "8-bit state": (
        "min_8bit_size",
        lambda wrong: la.configure_optimizers(nn.Linear(2, 2), "adamw8bit", total_steps=5, min_8bit_size=wrong),
        (-1, 2.5, "x"),
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_type_is_refused_by_the_arguments_name(call: str) -> None:
    argument, function, wrongs = CALLS[call]
    for wrong in wrongs:
        with pytest.raises(la.ConfigError, match=argument):
            function(wrong)

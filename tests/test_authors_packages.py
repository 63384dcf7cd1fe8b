"""Where an optimizer's authors, or a library that we do not wrap, publish it: 100 steps of theirs beside 100 of ours.

The packages come with the ``dev`` extra. Both get the same gradients in float64; the error is relative to the distance
moved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import prodigyopt
import pytest
import torch
from torch import nn

import lightning_adam as la
from lightning_adam.moments import learning_rates, read_moments
from lightning_adam.optimizers import pages
from tests.test_independent_references import Small, gradients

STEPS, LR, DECAY = 100, 1e-3, 0.1


@dataclass(frozen=True)
class Theirs:
    """A class of another package, and what it has to be told to be the row.

    Attributes:
        path: module and class.
        options: for theirs.
        ours: for the helper.
        lr: of both; a package's decay may be absolute in it.
        decay: theirs for our 0.1.
        mean: of the gradients, in standard deviations.
    """

    path: str
    options: Mapping[str, Any] = field(default_factory=dict)
    ours: Mapping[str, Any] = field(default_factory=dict)
    lr: float = LR
    decay: float = DECAY
    mean: float = 0.3


ADAM: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8}
THEIRS: dict[str, Theirs] = {
    "adam": Theirs("optimi.Adam", ADAM),
    "adamw": Theirs("optimi.AdamW", ADAM),
    "adabelief": Theirs("adabelief_pytorch.AdaBelief", {"print_change_log": False, "rectify": False, "eps": 1e-16}),
    "adan": Theirs("optimi.Adan", {"betas": (0.98, 0.92, 0.99), "eps": 1e-8}),
    "lion": Theirs("lion_pytorch.Lion"),
    "prodigy": Theirs("prodigyopt.Prodigy", {"slice_p": 1}, lr=1.0, mean=0.0),
    "radam": Theirs("optimi.RAdam", {**ADAM, "eps": 1e-16, "decouple_wd": True}, {"eps": 1e-16}),
    "ranger": Theirs("optimi.Ranger", {"betas": (0.95, 0.999), "eps": 1e-16}, {"eps": 1e-16, "use_gc": False}),
    "schedulefree_adamw": Theirs("schedulefree.AdamWScheduleFreeReference"),
    "schedulefree_radam": Theirs("schedulefree.RAdamScheduleFree", {"foreach": False}),
    "schedulefree_sgd": Theirs("schedulefree.SGDScheduleFreeReference", {"foreach": False}),
    "stableadamw": Theirs("optimi.StableAdamW", {"betas": (0.9, 0.99), "eps": 1e-8, "triton": False}),
}


def after(step: Callable[[], object], module: nn.Module, runs: Mapping[str, Any]) -> None:
    """A hundred of them."""
    for t in range(STEPS):
        for name, parameter in module.named_parameters():
            parameter.grad = torch.tensor(runs[name][t], dtype=parameter.dtype)
        step()


@pytest.mark.parametrize("name", THEIRS)
def test_a_hundred_steps_are_those_of_another_package(name: str) -> None:
    """Every tensor with two or more dimensions is decayed, as the helper does it."""
    theirs = THEIRS[name]
    package, _, kind = theirs.path.rpartition(".")
    made = getattr(pytest.importorskip(package), kind)
    ours, other = Small().double(), Small().double()
    runs = gradients(ours, mean=theirs.mean)
    groups = [
        {"params": [p for p in other.parameters() if p.ndim > 1], "weight_decay": theirs.decay},
        {"params": [p for p in other.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    reference = made(groups, lr=theirs.lr, **theirs.options)
    plain = {"schedule": "constant", "warmup": 0, "clip": None, "total_steps": STEPS, "weight_decay": DECAY}
    helper: Any = la.configure_optimizers(ours, name, lr=theirs.lr, **{**plain, **theirs.ours})["optimizer"]
    before = Small().double()
    for optimizer in (reference, helper):
        getattr(optimizer, "train", lambda: None)()
    after(reference.step, other, runs)
    after(helper.step, ours, runs)
    for (key, was), mine, their in zip(before.named_parameters(), ours.parameters(), other.parameters(), strict=True):
        moved = (their - was).norm()
        assert moved > 0
        assert (mine - their).norm() <= 1e-6 * moved, f"{key}: {float((mine - their).norm() / moved):.2g}"


def test_the_page_of_an_optimizer_names_its_package() -> None:
    """Each that is compared here, and no other."""
    installed = {"optimi": "torch-optimi", "adabelief_pytorch": "adabelief-pytorch", "lion_pytorch": "lion-pytorch"}
    packages = {name: theirs.path.partition(".")[0] for name, theirs in THEIRS.items()}
    assert {name: installed.get(package, package) for name, package in packages.items()} == pages.PACKAGES


def test_prodigy_of_its_author_is_read_as_it_steps() -> None:
    """Its groups say ``use_bias_correction`` and ``k`` where pytorch-optimizer's say ``bias_correction`` and ``step``."""
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(20, dtype=torch.float64))
    optimizer = prodigyopt.Prodigy([parameter], lr=1.0)
    for _ in range(6):
        parameter.grad = 2 * parameter.detach() + torch.randn_like(parameter)
        before, old = plain_numbers(optimizer.param_groups[0]), parameter.detach().clone()
        optimizer.step()
        rate = learning_rates(optimizer, before)(optimizer.param_groups[0], parameter)
        m = read_moments(optimizer, optimizer.param_groups[0], parameter)

        assert m is not None and m.first is not None and m.second is not None
        assert m.step == optimizer.param_groups[0]["k"]
        assert torch.allclose(-rate * m.first / (m.second.sqrt() + 1e-8), parameter.detach() - old, rtol=1e-9, atol=0)


def plain_numbers(group: Mapping[str, Any]) -> dict[str, Any]:
    """As the monitor keeps them before a step."""
    return {name: value for name, value in group.items() if isinstance(value, (int, float))}

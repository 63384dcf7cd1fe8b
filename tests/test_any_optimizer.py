"""The optimizer may be a name, a class, a path, a callable, an instance or a mapping: all are served alike, or refused."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import pytorch_optimizer
import torch
from torch import Tensor, nn

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.names import OptimizerName, PresetName, ScheduleName
from lightning_adam.optimizers.choice import REFUSED
from lightning_adam.optimizers.sophia import prepare_step, takes_hessian
from lightning_adam.presets import PRESETS
from lightning_adam.schedules import SCHEDULES
from tests.digits import Digits, digits_loader, trainer

STEPS = 12
RECIPE: dict[str, Any] = {"schedule": "linear", "warmup": 3, "total_steps": STEPS, "clip": 0.1}


def network() -> nn.Sequential:
    """Two layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))


def loss_of(module: nn.Module, step: int) -> Tensor:
    """On data of this step."""
    inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
    return (module(inputs) - inputs[:, :2]).square().mean()


def train(module: nn.Module, optimizer: Any, first: int = 0, last: int = STEPS) -> list[Tensor]:
    """These steps; the weights after them."""
    for step in range(first, last):

        def closure(step: int = step) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(module, step)
            if takes_hessian(optimizer):
                prepare_step(optimizer, loss)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        optimizer.step(closure)
    return [p.detach().clone() for p in module.parameters()]


def by_hand(decay: float) -> list[Tensor]:
    """torch's Adagrad with torch's own clipping and rates written out: two groups, since vectors do not decay."""
    module = network()
    matrices, vectors = ([p for p in module.parameters() if (p.dim() > 1) is is_matrix] for is_matrix in (True, False))
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.Adagrad(groups, lr=0.05)
    for step in range(STEPS):
        rate = 0.05 * ((step + 1) / 3 if step < 3 else 1 - (step - 3) / (STEPS - 3))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss_of(module, step).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), 0.1)
        optimizer.step()
    return [p.detach().clone() for p in module.parameters()]


def grouped(module: nn.Module) -> torch.optim.Optimizer:
    """What the user's own code may do."""
    groups = [{"params": [p for p in module.parameters() if (p.dim() > 1) is m]} for m in (True, False)]
    return torch.optim.Adagrad([{**g, "weight_decay": d} for g, d in zip(groups, (0.1, 0.0), strict=True)], lr=0.05)


ADAGRAD: dict[str, tuple[Callable[[nn.Module], Any], dict[str, Any]]] = {
    "class": (lambda _: torch.optim.Adagrad, {"lr": 0.05, "weight_decay": 0.1}),
    "path": (lambda _: "torch.optim.Adagrad", {"lr": 0.05, "weight_decay": 0.1}),
    "partial": (lambda _: functools.partial(torch.optim.Adagrad, lr=0.05), {"weight_decay": 0.1}),
    "callable": (lambda _: lambda params: torch.optim.Adagrad(params, lr=0.05, weight_decay=0.1), {}),
    "callable and options": (lambda _: lambda params: torch.optim.Adagrad(params), {"lr": 0.05, "weight_decay": 0.1}),
    "instance": (grouped, {}),
    "Hydra's mapping": (lambda _: {"_target_": "torch.optim.Adagrad", "lr": 0.05, "weight_decay": 0.1}, {}),
    "LightningCLI's mapping": (
        lambda _: {"class_path": "torch.optim.Adagrad", "init_args": {"lr": 0.05}},
        {"weight_decay": 0.1},
    ),
    "a name in a mapping": (lambda _: {"name": "torch.optim.Adagrad", "lr": 0.05}, {"weight_decay": 0.1}),
}


@pytest.mark.parametrize("way", ADAGRAD)
def test_every_way_is_trained_as_by_hand(way: str) -> None:
    """Groups, schedule and clipping are those of a loop that is written out with torch's own."""
    module, (choice, options) = network(), ADAGRAD[way]
    made = la.configure_optimizers(module, choice(module), **RECIPE, **options)

    for ours, theirs in zip(train(module, made["optimizer"]), by_hand(0.1), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("way", ADAGRAD)
def test_every_way_is_copied_pickled_and_resumed_bit_for_bit(way: str) -> None:
    """In mid-run, with its schedule: the copy and the resumed run get where the other gets."""
    module, (choice, options) = network(), ADAGRAD[way]
    made = la.configure_optimizers(module, choice(module), **RECIPE, **options)
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    train(module, optimizer, 0, 5)
    states = copy.deepcopy((module.state_dict(), optimizer.state_dict(), schedule.state_dict()))
    copied, pickled = copy.deepcopy((module, optimizer)), pickle.loads(pickle.dumps((module, optimizer)))
    resumed = network()
    again = la.configure_optimizers(resumed, choice(resumed), **RECIPE, **options)
    resumed.load_state_dict(states[0])
    again["optimizer"].load_state_dict(states[1])
    again["lr_scheduler"]["scheduler"].load_state_dict(states[2])
    wanted = train(module, optimizer, 5)

    for other in (copied, pickled, (resumed, again["optimizer"])):
        assert all(torch.equal(a, b) for a, b in zip(train(*other, 5), wanted, strict=True))  # type: ignore[misc]


def test_an_instance_keeps_its_groups_rates_and_hooks() -> None:
    """Two groups at two rates: the schedule multiplies each; a hook that was registered before is called."""
    module, heard = network(), []
    own = torch.optim.SGD([{"params": module[0].parameters(), "lr": 0.4}, {"params": module[2].parameters()}], lr=0.2)
    own.register_step_post_hook(lambda *_: heard.append("stepped"))
    made = la.configure_optimizers(module, own, schedule="linear", warmup=0, total_steps=4)["optimizer"]
    train(module, made, 0, 2)

    assert heard == ["stepped", "stepped"]
    assert [group["lr"] for group in made.param_groups] == [0.2, 0.1]
    assert made.param_groups[1]["adam_names"] == ["2.weight", "2.bias"]


def test_a_class_without_decay_gets_none() -> None:
    """LBFGS aside, Rprop is torch's one that has none: nothing is put into its groups, and asking for it is refused."""
    made = la.configure_optimizers(network(), torch.optim.Rprop, total_steps=4)["optimizer"]

    assert not any("weight_decay" in group for group in made.param_groups)
    with pytest.raises(la.ConfigError, match="Rprop has no weight decay"):
        la.configure_optimizers(network(), torch.optim.Rprop, weight_decay=0.1, total_steps=4)


def test_a_class_is_trained_and_monitored_in_lightning(tmp_path: Path) -> None:
    """With both monitors, of a class whose state nobody knows: nothing fails, and the loss goes down."""
    monitors = [OptimizerMonitor(every_n_steps=2), DivergenceMonitor(every_n_steps=1)]
    module = Digits(optimizer="pytorch_optimizer.Tiger", lr=1e-3)
    fit = trainer(max_epochs=2, callbacks=monitors)
    fit.fit(module, digits_loader())
    fit.save_checkpoint(tmp_path / "run.ckpt")
    again = trainer(max_epochs=3)
    again.fit(Digits(optimizer="pytorch_optimizer.Tiger", lr=1e-3), digits_loader(), ckpt_path=tmp_path / "run.ckpt")

    assert not monitors[0].failures | monitors[1].failures
    assert again.global_step == 3 * 28
    images, labels = digits_loader().dataset.tensors  # type: ignore[attr-defined]
    assert (module.net(images).argmax(1) == labels).float().mean() > 0.5


NEEDS_OPTIONS = {
    "a2grad": None, "sara": {"lr": 1e-3}, "bsam": None, "adammini": None, "distributedmuon": None,
}  # fmt: skip
"""None: refused, for it has no rate, steps twice, is made of the model, or wants a group of processes."""
NEEDS_MORE = {"lorarite", "spectralsphere"}
"""LoRA's pairs of matrices; matrices only."""


def test_every_name_of_pytorch_optimizer_is_served_or_refused_in_one_sentence() -> None:
    """All 128: two steps that move the weights, or a ConfigError at configuration time."""
    refused = {name.lower() for name in REFUSED} | {name for name, options in NEEDS_OPTIONS.items() if options is None}
    for name in sorted(set(pytorch_optimizer.get_supported_optimizers()) - NEEDS_MORE):
        module = network()
        before = [p.detach().clone() for p in module.parameters()]
        options = {"total_steps": 20, **(NEEDS_OPTIONS.get(name) or {})}
        if name in refused:
            with pytest.raises(la.ConfigError):
                la.configure_optimizers(module, name, **options)
            continue
        optimizer = la.configure_optimizers(module, name, **options)["optimizer"]
        after = train(module, optimizer, 0, 5 if name == "schedulefreeradam" else 3)
        if name not in ("adashift", "sara"):  # its first ten gradients only wait; it moves weights near 0 only
            assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), name
        assert all(bool(torch.isfinite(p).all()) for p in after), name


WRONG: list[tuple[Any, dict[str, Any], str]] = [
    (3, {}, "optimizer=3: give a name"),
    (nn.Linear, {}, "give a name of the catalogue"),
    ("torch.optim.Adagradd", {}, "Did you mean 'Adagrad'"),
    ("torch.optimm.Adam", {}, "cannot be imported"),
    ("AdamW", {}, "Did you mean 'adamw'"),
    ("apolo", {}, "Did you mean 'apollo'"),
    ({"lr": 1e-3}, {}, "does not say which optimizer"),
    ({"name": "adamw", "lr": 1e-3}, {"lr": 1e-2}, "lr is given twice"),
    (torch.optim.SGD, {"betas": (0.9, 0.9)}, "SGD takes no option 'betas'"),
    (lambda params: None, {}, "must return an optimizer"),
    (lambda: None, {}, "failed when it was given the parameter groups"),
    (lambda params: torch.optim.SGD(params, lr=0.1), {"betas": (0.9, 0.9)}, "has no such option"),
    (pytorch_optimizer.SAM, {}, "SAM: it steps twice"),
    (pytorch_optimizer.LOMO, {}, "within the backward pass"),
    (pytorch_optimizer.AliG, {}, "no learning rate to set"),
    (pytorch_optimizer.BSAM, {}, "steps twice"),
    (pytorch_optimizer.A2Grad, {}, "pass lr="),
    (torch.optim.Muon, {}, "cannot be made"),
]


@pytest.mark.parametrize(("choice", "options", "message"), WRONG)
def test_what_cannot_be_stepped_is_refused_when_configured(choice: Any, options: dict[str, Any], message: str) -> None:
    """With the nearest right spelling, or what to do instead."""
    with pytest.raises(la.ConfigError, match=message):
        la.configure_optimizers(network(), choice, total_steps=10, **options)


def test_wrappers_and_arguments_beside_an_instance_are_refused() -> None:
    """Who clips and resumes the wrapped optimizer passes the wrapper by; an instance has its rates."""
    module = network()
    inner = torch.optim.SGD(module.parameters(), lr=0.1)
    with pytest.raises(la.ConfigError, match="wraps SGD"):
        la.configure_optimizers(module, pytorch_optimizer.Lookahead(inner), total_steps=10)
    with pytest.raises(la.ConfigError, match="lr given beside an optimizer that is made already"):
        la.configure_optimizers(module, inner, lr=0.1, total_steps=10)
    with pytest.raises(la.ConfigError, match="the helper's already"):
        la.configure_optimizers(module, la.configure_optimizers(module, total_steps=10)["optimizer"], total_steps=10)
    with pytest.warns(la.LightningAdamWarning, match="trains none of the parameters"):
        la.configure_optimizers(network(), inner, total_steps=10)


def test_literals_are_the_registries() -> None:
    """What type checkers allow is what there is."""
    assert set(get_args(OptimizerName)) == {row.name for row in la.available_optimizers()}
    assert set(get_args(ScheduleName)) == set(SCHEDULES)
    assert set(get_args(PresetName)) == set(PRESETS)

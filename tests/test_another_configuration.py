"""A resumed run follows its new configuration and says what has changed; another optimizer is refused with two ways out."""

from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.fresh_state import fresh_states, is_like
from tests.digits import Digits, digits_loader, trainer

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("adamw", {"amsgrad": True}),
    ("adamw", {"maximize": True}),
    ("adamw", {"fused": False, "foreach": True}),
    ("nadam", {"momentum_decay": 0.01}),
    ("rmsprop", {"alpha": 0.9}),
    ("rmsprop", {"centered": True}),
    ("rmsprop", {"momentum": 0.5}),
    ("sgd", {"momentum": 0.5}),
    ("sgd", {"nesterov": False}),
    ("adafactor", {"d": 2.0}),
    ("muon", {"momentum": 0.9}),
    ("muon", {"ns_steps": 3}),
    ("adamw8bit", {"betas": (0.8, 0.9)}),
    ("lion8bit", {"weight_decay": 0.3}),
    ("ademamix8bit", {"alpha": 8.0}),
    ("adabelief", {"ams_bound": True}),
    ("lion", {"weight_decouple": False}),
    ("ademamix", {"alpha": 8.0}),
    ("soap", {"precondition_frequency": 50}),
    ("prodigy", {"d_coef": 2.0}),
    ("schedulefree_adamw", {"r": 1.0}),
    ("hn_adam", {"norm": 3.0}),
]
"""Of every library; some need a state that the checkpoint has not (amsgrad's maximum, a momentum)."""
KEPT_OUTSIDE = [("sophia", {"update_period": 5}), ("adamw8bit", {"min_8bit_size": 1}), ("ranger", {"use_gc": False})]
"""Options that stand in no group."""
CHANGED = "The optimizer's configuration was changed since the checkpoint: "


def made(name: str, **options: Any) -> tuple[nn.Module, Any]:
    """A small net, one matrix of which is large enough for 8-bit state, and its optimizer."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    return module, la.configure_optimizers(module, name, **{"schedule": "constant", "total_steps": 20, **options})[
        "optimizer"
    ]


def step(module: nn.Module, optimizer: Any, seed: int = 0) -> None:
    """One, with gradients of this seed."""
    torch.manual_seed(seed)
    for p in module.parameters():
        p.grad = torch.randn_like(p)
    if "Sophia" in type(optimizer).__name__:
        optimizer.adam_arguments = {"hessian": [torch.ones_like(p) for g in optimizer.param_groups for p in g["params"]]}
    optimizer.step()


def resumed(name: str, new: dict[str, Any], to: str = "", old: dict[str, Any] | None = None) -> tuple[Any, Any, list[str]]:
    """Three steps of one, taken up by another; with what was said, and a step on."""
    module, first = made(name, **(old or {}))
    for seed in range(3):
        step(module, first, seed)
    saved = copy.deepcopy(first.state_dict())
    module, second = made(to or name, **new)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", la.LightningAdamWarning)
        second.load_state_dict(saved)
    step(module, second, 3)
    assert all(torch.isfinite(p).all() for p in module.parameters())
    return first, second, [str(w.message) for w in said if issubclass(w.category, la.LightningAdamWarning)]


@pytest.mark.parametrize(("name", "new"), OPTIONS, ids=[f"{n}-{next(iter(o))}" for n, o in OPTIONS])
def test_every_option_is_followed_and_named_once(name: str, new: dict[str, Any]) -> None:
    """Old and new value in one line, and the optimizer goes on with its counts."""
    first, second, said = resumed(name, new)

    for option, value in new.items():
        assert any(group.get(option) == value for group in second.param_groups)
        assert f"{option} {before(first, second, option)} -> {value}" in said[0]
    assert len(said) == 1
    assert said[0].startswith(CHANGED)
    assert counted(second) in (counted(first) + 1, 0)


def before(first: Any, second: Any, option: str) -> Any:
    """Its value in the group that changed."""
    return next(
        o[option] for o, n in zip(first.param_groups, second.param_groups, strict=True) if o.get(option) != n.get(option)
    )


def counted(optimizer: Any) -> int:
    """Updates by the optimizer's own count; 0 where it has none."""
    places = [*optimizer.state.values(), *optimizer.param_groups]
    return max((int(place["step"]) for place in places if "step" in place), default=0)


@pytest.mark.parametrize(("name", "new"), KEPT_OUTSIDE, ids=[name for name, _ in KEPT_OUTSIDE])
def test_options_that_stand_in_no_group_are_named_too(name: str, new: dict[str, Any]) -> None:
    """They are the new ones anyway, for a checkpoint has none of them."""
    _, _, said = resumed(name, new)

    assert any(line.startswith(CHANGED) and next(iter(new)) in line for line in said)


def test_nothing_changed_nothing_said() -> None:
    """Not even that a fused kernel was chosen."""
    for name in ("adamw", "muon", "adamw8bit", "prodigy", "adamz", "schedulefree_adamw"):
        assert resumed(name, {})[2] == []


def test_amsgrad_begins_its_maximum_at_zero_and_leaves_none_behind() -> None:
    """Switched on it has a maximum of its own, at least v; switched off the old maximum is gone."""
    _, on, _ = resumed("adamw", {"amsgrad": True})
    _, off, said = resumed("amsgrad", {}, "adamw")

    assert all((s["max_exp_avg_sq"] >= 0.999 * s["exp_avg_sq"]).all() for s in on.state.values())
    assert not any("max_exp_avg_sq" in s for s in off.state.values())
    assert "amsgrad True -> False" in said[0]


def test_a_new_clipping_rule_is_followed_and_named() -> None:
    """Its arguments, or another rule: which then begins without the other one's memory."""
    _, second, said = resumed("adamw", {"clip": la.ZClip(z=3.0)}, old={"clip": la.ZClip()})
    assert "clip ZClip(z=2.5, alpha=0.97, warmup=25) -> ZClip(z=3.0, alpha=0.97, warmup=25)" in said[0]
    assert (second.adam_rule.z, second.adam_rule.state_dict()["seen"]) == (3.0, 4.0)

    _, second, said = resumed("adamw8bit", {"clip": la.ZClip()}, old={"clip": la.ClipPercentile()})
    assert "clip ClipPercentile(percentile=10.0, window=1000) -> ZClip(" in said[0]
    assert second.adam_rule.state_dict()["seen"] == 1.0


@pytest.mark.parametrize(
    ("name", "to"),
    [
        ("adamw", "adamw8bit"), ("adamw8bit", "adamw"), ("adamw8bit", "paged_adamw"), ("sgd", "adamw"), ("adamw", "nadam"),
        ("adamw", "muon"), ("muon", "adamw"), ("adamw", "lion"), ("lion", "adamw"), ("adamw", "soap"), ("lion8bit", "lion"),
        ("schedulefree_adamw", "adamw"), ("adamw", "adafactor"), ("adopt", "adamp"),
    ],
)  # fmt: skip
def test_another_optimizer_is_refused_with_two_ways_out(name: str, to: str) -> None:
    """Both are named; nothing of the old state is half loaded. With reset_optimizer=True it starts afresh, and trains."""
    with pytest.raises(la.ConfigError, match=r"cannot go on.*reset_optimizer=True.*or resume with the optimizer that wrote"):
        resumed(name, {}, to)
    _, second, said = resumed(name, {"reset_optimizer": True}, to)
    module, fresh = made(to)
    step(module, fresh, 3)

    assert "starts afresh" in said[0]
    assert counted(second) == counted(fresh)
    assert {len(state) for state in second.state.values()} == {len(state) for state in fresh.state.values()}


@pytest.mark.parametrize(("name", "to"), [("adamw", "adam"), ("adam8bit", "adamw8bit"), ("adamw8bit", "paged_adamw8bit")])
def test_kin_go_on_with_each_others_state(name: str, to: str) -> None:
    """The same algorithm under another name: said, and its moments go on."""
    first, second, said = resumed(name, {}, to)

    assert re.search(rf"optimizer {first.adam_kind.__name__} -> {second.adam_kind.__name__}", said[0])
    assert counted(second) == counted(first) + 1


def test_reset_is_for_the_resume_alone() -> None:
    """A state that is loaded after a step (a rollback's) is this run's own."""
    module, optimizer = made("adamw", reset_optimizer=True)
    step(module, optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    step(module, optimizer, 1)
    optimizer.load_state_dict(saved)

    assert counted(optimizer) == 1


def test_reset_takes_true_or_false() -> None:
    """A string would be true."""
    with pytest.raises(la.ConfigError, match="reset_optimizer='no': give True or False"):
        made("adamw", reset_optimizer="no")


class PlainTorch(Digits):
    """What a user had before."""

    def configure_optimizers(self) -> Any:
        """Without names, in one group, with torch's scheduler."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)}


class Seen(L.Callback):
    """What the optimizer holds when training goes on."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restored, and not yet stepped."""
        optimizer: Any = trainer.optimizers[0]
        names = {id(p): name for name, p in pl_module.named_parameters()}
        self.moments = {names[id(p)]: s["exp_avg"].clone() for p, s in optimizer.state.items()}
        self.updates, self.rule = optimizer.adam_schedule.last_epoch, optimizer.adam_rule


def fit(module: L.LightningModule, steps: int, checkpoint: Path | None = None, *callbacks: L.Callback) -> L.Trainer:
    """That many steps in all."""
    run = trainer(max_steps=steps, callbacks=list(callbacks))
    run.fit(module, digits_loader(), ckpt_path=checkpoint)
    return run


def saved(module: L.LightningModule, folder: Path, steps: int = 12) -> tuple[L.Trainer, Path]:
    """A run of so many steps, in a file."""
    run = fit(module, steps)
    run.save_checkpoint(folder / "run.ckpt")
    return run, folder / "run.ckpt"


def test_a_checkpoint_of_plain_torch_goes_on(tmp_path: Path) -> None:
    """Its moments are found by position in the module's order (not the groups'), its updates by the state's count."""
    module = PlainTorch()
    run, file = saved(module, tmp_path)
    seen = Seen()
    with pytest.warns(la.LightningAdamWarning, match="no parameter names: it is matched by position"):
        fit(Digits(total_steps=40), 14, file, seen)

    state = run.optimizers[0].state
    assert seen.updates == 12
    assert all(torch.equal(seen.moments[name], state[p]["exp_avg"]) for name, p in module.named_parameters())


def test_a_plain_checkpoint_of_other_parameters_is_refused(tmp_path: Path) -> None:
    """By number or shape: a sentence, and not torch's own."""
    plain = torch.optim.AdamW(nn.Linear(3, 3).parameters())
    _, mine = made("adamw")
    with pytest.raises(la.ConfigError, match=r"no parameter names .* its 2 parameters are not the 6 .*reset_optimizer=True"):
        mine.load_state_dict(plain.state_dict())


def test_another_optimizer_goes_on_from_the_same_weights_and_step(tmp_path: Path) -> None:
    """In a Trainer: refused; with reset_optimizer=True the schedule and the steps go on, and the moments begin at zero."""
    _, file = saved(Digits(optimizer="sgd", clip=la.ZClip()), tmp_path)
    with pytest.raises(la.ConfigError, match=r"torch.optim.sgd.SGD's: torch.optim.adamw.AdamW cannot go on"):
        fit(Digits(clip=la.ZClip()), 14, file)
    seen, monitor, module = Seen(), DivergenceMonitor(), Digits(clip=la.ZClip(), reset_optimizer=True)
    with pytest.warns(la.LightningAdamWarning, match="starts afresh"):
        run = fit(module, 14, file, seen, monitor)

    assert (seen.updates, seen.moments, run.global_step) == (12, {}, 14)
    assert counted(run.optimizers[0]) == 2
    assert seen.rule.state_dict()["seen"] == 14.0
    assert monitor.findings == [], "the state was not lost, but given up as asked"


@pytest.mark.parametrize("betas", [(0.9, 0.9), (0.9, 0.95)])
def test_a_changed_beta2_is_no_lost_state(betas: tuple[float, float], tmp_path: Path) -> None:
    """v̂ is v under another correction then: it falls to a third at once, and nothing is lost or spoilt."""
    monitors = [DivergenceMonitor(every_n_steps=1) for _ in range(2)]
    run = fit(Digits(schedule="constant"), 40, None, monitors[0])
    run.save_checkpoint(tmp_path / "run.ckpt")
    fit(Digits(schedule="constant", betas=betas), 90, tmp_path / "run.ckpt", monitors[1])

    assert not {finding.rule for finding in monitors[1].findings} & {"STATE-LOST", "STATE-CORRUPT"}


@pytest.mark.parametrize("name", [row.name for row in la.available_optimizers() if row.name != "lbfgs"])
def test_the_fresh_state_is_that_of_a_first_step(name: str) -> None:
    """What a checkpoint is compared with, for every optimizer: it is found without moving a weight, a count or a seed."""
    module, optimizer = made(name)
    seed, before = torch.get_rng_state(), [p.detach().clone() for p in module.parameters()]
    fresh = fresh_states(optimizer)
    assert torch.equal(seed, torch.get_rng_state())
    assert all(torch.equal(old, p) for old, p in zip(before, module.parameters(), strict=True))
    assert counted(optimizer) == counted(made(name)[1])
    if hasattr(optimizer, "train"):
        optimizer.train()
    step(module, optimizer)

    assert fresh is not None
    assert all(is_like(optimizer.state[p], fresh[p]) for p in module.parameters())

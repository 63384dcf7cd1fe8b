"""What is kept between two logged steps gives what reading everything anew gives, or gives up."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.optim import Adam, AdamW, Optimizer

from lightning_adam.callbacks import OptimizerMonitor
from lightning_adam.statistics import (
    RepeatedPass,
    RulesPass,
    RulesTable,
    Snapshot,
    read_optimizer,
    take_snapshot,
    tensor_names,
)
from tests.digits import Digits, digits_loader, trainer


class Stepped:
    """A small network with two parameter groups, and one frozen layer, a few steps on."""

    def __init__(self, kind: type[Optimizer] = AdamW, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(8, 70), nn.Tanh(), nn.Linear(70, 70), nn.Linear(70, 3)).to(dtype)
        self.model[2].requires_grad_(False)
        first, rest = self.model[3].parameters(), self.model[:3].parameters()  # the groups' order is not the model's
        groups = [{"params": [*first], "weight_decay": 0.0}, {"params": [*rest], "lr": 3e-3}]
        self.optimizer = kind(groups, lr=1e-3, **options)  # type: ignore[call-arg]
        self.names = tensor_names(self.model.named_parameters())
        self.step()
        self.step()

    def step(self) -> None:
        """On other data each time."""
        self.optimizer.zero_grad()
        weight = self.model[0].weight
        self.model(torch.randn(16, 8, dtype=weight.dtype)).square().mean().backward()
        self.optimizer.step()

    def keep(self, only: set[int] | None = None) -> RepeatedPass | None:
        """What there is to be kept of this step."""
        return RepeatedPass.of(self.optimizer, self.names, read_optimizer(self.optimizer, self.names, only=only), only)

    def anew(self, only: set[int] | None = None) -> Snapshot:
        """This step, with everything read."""
        return take_snapshot(7, read_optimizer(self.optimizer, self.names, only=only))


def are_equal(one: Snapshot, other: Snapshot) -> bool:
    """Bit for bit."""
    plain = ("step", "names", "groups", "sizes", "lr")
    arrays = ("table", "hist_step_size", "hist_effective_lr")
    return all(getattr(one, name) == getattr(other, name) for name in plain) and all(
        np.array_equal(getattr(one, name), getattr(other, name), equal_nan=name == "table") for name in arrays
    )


@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}], ids=["loop", "fused", "foreach"])
def test_later_steps_are_those_read_anew(kind: type[Optimizer], options: dict[str, Any]) -> None:
    """Other gradients, learning rates, betas, decay and ε in each group: bit for bit the same snapshot."""
    of = Stepped(kind, **options)
    kept = of.keep()
    for changed in ({}, {"lr": 5e-4}, {"betas": (0.8, 0.95)}, {"weight_decay": 0.3}, {"eps": 1e-4}):
        of.step()
        of.optimizer.param_groups[1].update(changed)

        assert kept is not None
        found = kept.snapshot(7)
        assert found is not None
        assert are_equal(found, of.anew())


def test_only_the_chosen_tensors_are_looked_at() -> None:
    """With include and exclude too."""
    of = Stepped()
    chosen = {id(of.model[0].weight), id(of.model[3].bias)}
    kept = of.keep(chosen)
    of.step()

    assert kept is not None
    found = kept.snapshot(7)
    assert found is not None
    assert found.names == ["0.weight", "3.bias"]
    assert are_equal(found, of.anew(chosen))


def gain_a_group(of: Stepped) -> None:
    of.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(3))]})


def lose_a_gradient(of: Stepped) -> None:
    of.model[0].bias.grad = None


def thaw(of: Stepped) -> None:
    of.model[2].requires_grad_(True)
    of.step()


def load_a_checkpoint(of: Stepped) -> None:
    of.optimizer.load_state_dict(copy.deepcopy(of.optimizer.state_dict()))


def reset_a_moment(of: Stepped) -> None:
    state = of.optimizer.state[of.model[0].weight]
    state["exp_avg"] = torch.zeros_like(state["exp_avg"])


def reset_a_step(of: Stepped) -> None:
    of.optimizer.state[of.model[0].weight]["step"] = torch.tensor(1.0)


def move_a_moment(of: Stepped) -> None:
    moment = of.optimizer.state[of.model[0].weight]["exp_avg_sq"]
    moment.data = moment.data.clone()


def move_a_weight(of: Stepped) -> None:
    of.model[0].weight.data = of.model[0].weight.data.clone()


def transpose_a_gradient(of: Stepped) -> None:
    gradient = of.model[0].weight.grad
    assert gradient is not None
    of.model[0].weight.grad = gradient.t().contiguous().t()


def turn_amsgrad_on(of: Stepped) -> None:
    of.optimizer.state[of.model[0].weight]["max_exp_avg_sq"] = torch.ones_like(of.model[0].weight)


CHANGES = (
    gain_a_group,
    lose_a_gradient,
    thaw,
    load_a_checkpoint,
    reset_a_moment,
    reset_a_step,
    move_a_moment,
    move_a_weight,
    transpose_a_gradient,
    turn_amsgrad_on,
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_whatever_has_changed_is_noticed(change: Callable[[Stepped], None]) -> None:
    """Nothing is told of tensors that are no longer the optimizer's."""
    of = Stepped()
    kept = of.keep()
    assert kept is not None
    of.step()
    assert kept.snapshot(7) is not None
    change(of)

    assert kept.snapshot(7) is None


class OwnAdamW(AdamW):
    """May step in another way."""


@pytest.mark.parametrize(
    "make",
    [
        lambda: Stepped(AdamW, amsgrad=True),
        lambda: Stepped(torch.optim.RAdam),
        lambda: Stepped(OwnAdamW),
        lambda: Stepped(AdamW, torch.bfloat16),
        lambda: Stepped(AdamW, torch.float64),
    ],
    ids=["amsgrad", "radam", "derived", "bfloat16", "float64"],
)
def test_what_is_not_plain_adam_is_read_every_time(make: Callable[[], Stepped]) -> None:
    """Nothing is kept of it."""
    assert make().keep() is None


def test_without_the_kernel_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain torch looks at the tensors one by one anyway."""
    monkeypatch.setenv("LIGHTNING_ADAM_KERNEL", "eager")

    assert Stepped().keep() is None


def test_gradients_are_not_kept_alive() -> None:
    """zero_grad() frees them as without a monitor."""
    of = Stepped()
    kept = of.keep()
    assert kept is not None
    gradient = weakref.ref(of.model[0].weight.grad)  # type: ignore[arg-type]
    assert kept.snapshot(7) is not None
    of.optimizer.zero_grad()

    assert gradient() is None


def test_monitor_reads_once_and_logs_what_it_would_reading_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a training the second and later logged steps are kept passes, and the log is the same."""
    logs, original = [], RepeatedPass.snapshot
    for folder, again in (("kept", True), ("anew", False)):
        taken: list[int] = []

        def counted(self: RepeatedPass, step: int, extra_scalars: Any, again: bool = again, taken: list[int] = taken) -> Any:
            taken.append(step)
            return original(self, step, extra_scalars) if again else None

        with monkeypatch.context() as patch:
            patch.setattr(RepeatedPass, "snapshot", counted)
            logger = TensorBoardLogger(str(tmp_path), name="", version=folder)
            trainer(max_steps=12, logger=logger, callbacks=[OptimizerMonitor(2)]).fit(Digits(), digits_loader())
        assert len(taken) == 5
        events = EventAccumulator(str(tmp_path / folder), size_guidance={"tensors": 0}).Reload()
        logs.append({tag: [(e.step, e.tensor_proto) for e in events.Tensors(tag)] for tag in events.Tags()["tensors"]})

    assert {tag for tag in logs[0] if tag.startswith("adam_matrix/")}
    assert logs[0] == logs[1]


def assert_alike(found: RulesTable | None, of: Stepped) -> None:
    """What the rules read is, to the last bit, what a logged step of the same moment writes, and of the same tensors."""
    readings, snapshot = read_optimizer(of.optimizer, of.names), of.anew()
    assert found is not None
    assert found.columns.names == snapshot.names
    for name, values in found.values.items():
        np.testing.assert_array_equal(values, snapshot.column(name).astype(np.float64), err_msg=name)
    firsts = [None if r.moments is None else r.moments.first for r in readings]
    for ours, theirs in ((found.parameters, [r.parameter for r in readings]), (found.firsts, firsts)):
        assert [t.data_ptr() for t in ours if t is not None] == [t.data_ptr() for t in theirs if t is not None]
    assert [g is r.gradient for g, r in zip(found.gradients, readings, strict=True)] == [True] * len(readings)
    assert [*found.step] == [float(r.moments.step) for r in readings if r.moments is not None]
    assert [*found.beta1] == [r.moments.beta1 for r in readings if r.moments is not None]


@pytest.mark.parametrize("engine", ["compiled", "eager"])
@pytest.mark.parametrize("options", [{}, {"amsgrad": True}], ids=["kept", "anew"])
def test_a_diagnosis_reads_what_a_logged_step_writes(
    options: dict[str, Any], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a sample, in every pass, whatever has changed between them: betas, moments that were lost, a frozen layer."""
    if engine == "eager":
        monkeypatch.setenv("LIGHTNING_ADAM_KERNEL", "eager")
    of = Stepped(**options)
    passes = RulesPass(of.optimizer, of.names)
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: of.optimizer.param_groups[0].update(betas=(0.8, 0.95), lr=5e-4),
        of.optimizer.state.clear,
        lambda: of.model[0].requires_grad_(False),
    ]
    for change in changes:
        change()
        of.step()
        passes.after_step()

        assert_alike(passes.table(None), of)

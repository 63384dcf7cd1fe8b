"""Moments find their parameters by name; what the user changed is followed and said."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import lightning_adam as la


def trained(module: nn.Module, **options: Any) -> Any:
    """Three steps with gradients that tell the parameters apart."""
    optimizer = la.configure_optimizers(module, total_steps=10, clip=None, **options)["optimizer"]
    for step in range(3):
        for index, (_, parameter) in enumerate(sorted(module.named_parameters())):
            parameter.grad = torch.full_like(parameter, float(index + 1 + step))
        optimizer.step()
    return optimizer


def moments(module: nn.Module, optimizer: Any) -> dict[str, list[float]]:
    """First moments by name."""
    return {name: optimizer.state[p]["exp_avg"].flatten().tolist() for name, p in module.named_parameters()}


def two(first: str, second: str) -> nn.ModuleDict:
    """Two layers of equal shape, in this order."""
    return nn.ModuleDict({first: nn.Linear(2, 2), second: nn.Linear(2, 2)})


def test_reordered_parameters_keep_their_own_moments() -> None:
    """torch loads them by position, into each other's."""
    old, new = two("a", "b"), two("b", "a")
    saved = trained(old)
    fresh = la.configure_optimizers(new, total_steps=10)["optimizer"]
    fresh.load_state_dict(copy.deepcopy(saved.state_dict()))

    assert moments(new, fresh) == moments(old, saved)


def test_regrouped_parameters_keep_their_moments() -> None:
    """Two groups became four: torch would refuse."""
    module = two("a", "b")
    saved = trained(module)
    fresh = la.configure_optimizers(module, total_steps=10, layer_decay=0.5, param_groups={"a.*": {"lr": 1.0}})["optimizer"]
    fresh.load_state_dict(copy.deepcopy(saved.state_dict()))

    assert len(fresh.param_groups) > len(saved.param_groups)
    assert moments(module, fresh) == moments(module, saved)


@pytest.mark.parametrize("name", ["adamw8bit", "lion8bit", "adam_mini"])
def test_libraries_that_load_in_their_own_way_resume_by_name_too(name: str) -> None:
    """bitsandbytes' loading calls no hooks, and pytorch_optimizer's goes over the state again by position."""
    old, new = two("a", "b"), two("b", "a")
    saved, fresh = trained(old, optimizer=name), trained(new, optimizer=name)
    fresh.load_state_dict(copy.deepcopy(saved.state_dict()))

    kept = {name: tensors(saved.state[p]) for name, p in old.named_parameters()}
    assert kept["a.weight"] != kept["b.weight"]
    assert {name: tensors(fresh.state[p]) for name, p in new.named_parameters()} == kept


def tensors(state: dict[str, Any]) -> dict[str, Any]:
    """The numbers of one parameter's state."""
    return {key: value.tolist() for key, value in state.items() if isinstance(value, torch.Tensor)}


def test_changed_decay_is_followed() -> None:
    """The present configuration's weight decay holds, not the checkpoint's."""
    module = two("a", "b")
    saved = trained(module, weight_decay=0.1)
    fresh = la.configure_optimizers(module, total_steps=10, weight_decay=0.3)["optimizer"]
    fresh.load_state_dict(copy.deepcopy(saved.state_dict()))

    assert fresh.param_groups[0]["weight_decay"] == 0.3


def test_new_parameters_are_named() -> None:
    """A layer that the checkpoint does not know starts from zero, and the user is told."""
    saved = trained(two("a", "b"))
    grown = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2), "c": nn.Linear(2, 2)})
    fresh = la.configure_optimizers(grown, total_steps=10)["optimizer"]

    with pytest.warns(la.LightningAdamWarning, match=r"no optimizer state for 2 parameters \(c.weight, c.bias\)"):
        fresh.load_state_dict(copy.deepcopy(saved.state_dict()))
    assert grown["c"].weight not in fresh.state


def test_another_part_that_is_trained_is_no_change_of_configuration() -> None:
    """No tensor is known, but the groups are by their names: a decay that is as it was is not told as changed."""
    saved = trained(two("a", "b"))
    fresh = la.configure_optimizers(two("c", "d"), total_steps=10, clip=None)["optimizer"]

    with pytest.warns(la.LightningAdamWarning) as told:
        fresh.load_state_dict(copy.deepcopy(saved.state_dict()))
    assert ["no optimizer state for 4 parameters" in str(warning.message) for warning in told] == [True]

"""Optimizer state that is matched by parameter name on resume.

torch matches by position: re-ordered parameters of equal shape load each other's moments without a word, and a changed
grouping is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from lightning_adam.errors import LightningAdamWarning

CONFIGURED = ("lr", "initial_lr", "weight_decay", "betas", "eps", "momentum", "name", "adam_names", "fused", "foreach")
"""Options of a group that follow the present configuration; all others (counters, estimates) come from the checkpoint."""


def match_by_name(optimizer: Optimizer, state: Mapping[str, Any]) -> dict[str, Any] | None:
    """The saved state in the present order and grouping; None (torch's own way) where it holds no names."""
    saved, present = state["param_groups"], optimizer.param_groups
    if not all("adam_names" in group for group in [*saved, *present]):
        return None
    index = {name: i for group in saved for name, i in zip(group["adam_names"], group["params"], strict=False)}
    by_name = {group["name"]: group for group in saved}
    groups, moments, count = [], {}, 0
    for group in present:
        numbers = list(range(count, count + len(group["params"])))
        count += len(numbers)
        for number, name in zip(numbers, group["adam_names"], strict=False):
            if index.get(name) in state["state"]:
                moments[number] = state["state"][index[name]]
        groups.append({**_options(group, by_name.get(group["name"], saved[0])), "params": numbers})
    _say_what_is_new([name for group in present for name in group["adam_names"] if name not in index])
    return {**state, "state": moments, "param_groups": groups}


def _options(present: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in present.items() if key in CONFIGURED}
    return {**present, **{key: value for key, value in saved.items() if key not in CONFIGURED}, **own}


def _say_what_is_new(names: list[str]) -> None:
    if names:
        warnings.warn(
            f"The checkpoint has no optimizer state for {len(names)} parameters ({', '.join(names[:3])}): "
            "their moments start at zero.",
            LightningAdamWarning,
            stacklevel=4,
        )

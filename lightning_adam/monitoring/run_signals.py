"""What is known of an optimizer when its run begins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.diagnosis import RunSignals
from lightning_adam.moments import read_moments
from lightning_adam.monitoring.first_look import MOST_NAMES, eval_layers, idle_norms, largest_dropout
from lightning_adam.monitoring.parameters import is_empty
from lightning_adam.monitoring.run import Run
from lightning_adam.statistics import looks_untrained, most_look_untrained

MOST_LOOKED_AT = 64
"""Parameters; for each of them a GPU is waited for, once in a run."""
PLAIN = (
    "Adam",
    "AdamW",
    "NAdam",
    "RAdam",
    "Adam8bit",
    "AdamW8bit",
    "PagedAdam",
    "PagedAdamW",
    "PagedAdam8bit",
    "PagedAdamW8bit",
)
"""Optimizers whose m and v are averages of g and g² with two betas."""


def run_signals(
    run: Run,
    position: int,
    optimizer: Optimizer,
    first_step: int,
    zero_tensors: int,
    state: Mapping[str, Any] | None,
    names: Mapping[int, str],
) -> RunSignals:
    """What is known after the first step, when the state exists.

    Args:
        run: whose optimizer has stepped.
        position: of the optimizer.
        optimizer: itself, without wrappers.
        first_step: that it has taken, on the log's x-axis.
        zero_tensors: weight matrices that were all zero before it.
        state: of the diagnosis, after a resume.
        names: of the parameters by identity.
    """
    plan, held = run.plan(position), [p for g in optimizer.param_groups for p in g["params"]]
    parameters = [p for p in held if p.requires_grad and not is_empty(p)]
    in_eval_mode = eval_layers(run.module, names)
    return RunSignals(
        optimizer=type(optimizer).__name__,
        position=position,
        optimizers=len(run.optimizers),
        first_step=first_step,
        dtype=_smallest([p.dtype for p in parameters]),
        state_dtype=_smallest([_stored_dtype(optimizer, p) for p in parameters[:MOST_LOOKED_AT]]),
        schedule=plan.schedule,
        warmup=plan.warmup,
        total_steps=plan.total_steps,
        clip=float(getattr(getattr(optimizer, "adam_rule", None), "max_norm", run.clip_norm)),
        scaled=run.loss_scale is not None,
        tensors=len(parameters),
        zero_tensors=zero_tensors,
        matrices=sum(p.dim() >= 2 for p in parameters),
        mode=run.mode,
        strangers=_strangers(parameters, names),
        eval_modules=tuple(in_eval_mode)[:MOST_NAMES],
        idle_norms=idle_norms(in_eval_mode)[:MOST_NAMES],
        untrained=first_step == 0 and most_look_untrained(parameters[:MOST_LOOKED_AT]),
        dropout=largest_dropout(run.module),
        state=state,
        fits_again=run.fits_again,
        reset_asked=getattr(optimizer, "adam_was_reset", False),
        **_of_groups(optimizer),
        **_of_left_out(run),
    )


def _of_groups(optimizer: Optimizer) -> dict[str, Any]:
    """Signals that the optimizer's options tell."""
    groups = optimizer.param_groups
    moments = [m for g in groups for p in g["params"][:8] if (m := read_moments(optimizer, g, p)) is not None]
    epsilons = [float(g["eps"]) for g in groups if isinstance(g.get("eps"), float)]
    beta1, beta2 = betas_of(optimizer)
    return {
        "beta1": beta1,
        "beta2": beta2,
        "eps": max(epsilons, default=math.nan),
        "smallest_eps": min(epsilons, default=math.nan),
        "weight_decay": max((float(g.get("weight_decay") or 0.0) for g in groups), default=0.0),
        "momentum": max((float(g["momentum"]) for g in groups if "momentum" in g), default=math.nan),
        "plain_moments": type(optimizer).__name__ in PLAIN and bool(moments),
        "lr": max(map(configured_rate, groups), default=math.nan),
        "steps_like": steps_like(optimizer, bool(moments)),
    }


def _of_left_out(run: Run) -> dict[str, Any]:
    """Signals of trainable parameters that no optimizer has, and of those that had a gradient all the same."""
    left_out = _left_out(run)
    missed = {name: p for name, p in left_out.items() if p.grad is not None}
    return {
        "left_out": tuple(left_out)[:MOST_NAMES],
        "missed": tuple(missed)[:MOST_NAMES],
        "misses_untrained": any(map(looks_untrained, missed.values())),
    }


def configured_rate(group: Mapping[str, Any]) -> float:
    """What a schedule multiplies, or leads to: torch's schedulers and the helper's keep it in the group.

    ``OneCycleLR`` is given its peak, and starts at a 25th of it.
    """
    return float(group.get("max_lr", group.get("initial_lr", group["lr"])))


def steps_like(optimizer: Optimizer, has_moments: bool) -> str:
    """What its steps follow, by what it keeps: see :class:`RunSignals`."""
    group, name = optimizer.param_groups[0], type(optimizer).__name__
    if "d0" in group or ("d" in group and "beta2_decay" not in group):  # torch's Adafactor calls its clipping d
        return "adapted"
    if "lr_decay" in group:
        return "accumulated"
    if any(word in name for word in ("Lion", "Sign", "Tiger")):
        return "sign"
    if "momentum" in group and "nesterov" in group and "ns_steps" not in group:
        return "sgd"
    return "adam" if has_moments else ""


def _strangers(parameters: Sequence[Tensor], names: Mapping[int, str]) -> int:
    """Tensors of no layer of the model; flat ones are what sharding made of the model's."""
    unknown = [p for p in parameters if id(p) not in names]
    return len(unknown) if any(p.dim() >= 2 for p in unknown) else 0


def _left_out(run: Run) -> dict[str, Tensor]:
    """Trainable parameters of the model that no optimizer has."""
    held = held_by(run.optimizers)
    named = run.module.named_parameters()
    return {name: p for name, p in named if p.requires_grad and id(p) not in held and not is_empty(p)}


def held_by(optimizers: Sequence[Optimizer]) -> set[int]:
    """Their parameters, by identity."""
    return {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}


def _stored_dtype(optimizer: Optimizer, parameter: Tensor) -> torch.dtype:
    state = optimizer.state.get(parameter, {})
    kinds = [v.dtype for k, v in state.items() if isinstance(v, Tensor) and k in ("exp_avg_sq", "state2")]
    return min(kinds, key=lambda d: d.itemsize, default=torch.float32)


def betas_of(optimizer: Optimizer) -> tuple[float, float]:
    """β₁ and β₂ where the optimizer has exactly these two, of the group with the largest β₁; else NaN."""
    found: list[Any] = [betas for g in optimizer.param_groups if len(betas := g.get("betas") or ()) == 2]
    return max([(float(first), float(second)) for first, second in found], default=(math.nan, math.nan))


def _smallest(dtypes: Sequence[torch.dtype]) -> str:
    return str(min(dtypes, key=lambda dtype: dtype.itemsize, default=torch.float32)).removeprefix("torch.")

"""One optimizer's page: its rule, what it needs, its options, what it costs here, its source, how it was verified."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adam.configure import configure_optimizers
from lightning_adam.optimizers import OptimizerSpec, get_optimizer
from lightning_adam.optimizers.number_kinds import takes_complex, takes_sparse
from lightning_adam.optimizers.pages import RULES, verified

NEEDS = {
    "closure": "optimizer.step(closure), which Lightning gives; no accumulation, no clipping",
    "hessian": "the Hessian's diagonal, estimated; in Lightning a companion makes it (a second backward every tenth step)",
    "loss": "the loss of each step; in Lightning a companion hands it over",
    "matrices": "to know hidden matrices from embeddings and the output's; the helper finds them",
    "modes": "train() and eval(); in Lightning a companion switches",
    "total_steps": "the run's length; the trainer is asked",
}
"""What each of a row's needs means to who uses it."""
SIDE, STEPS = 512, 15
"""Of the matrices, and the steps, that are timed."""


def optimizer_page(name: str) -> str:
    """The page, as text; measures state and time on this machine's CPU in about a second.

    Raises:
        ConfigError: no optimizer has this name.
    """
    spec = get_optimizer(name)
    entries = [_entry(key, text) for key, text in {**described(spec), **_cost(spec)}.items()]
    return "\n".join([f"{name}: {spec.summary}", "", *entries])


def _cost(spec: OptimizerSpec) -> dict[str, str]:
    try:
        bytes_, seconds = measured(spec)
    except Exception as error:  # whatever a library raises where it cannot run: paged_ademamix without CUDA
        why = str(error).partition("\n")[0]
        return {"state": f"{spec.state}: {spec.state_bytes:g} bytes per parameter", "time": f"not measured here: {why}"}
    beside = seconds / measured(get_optimizer("adamw"))[1]
    return {
        "state": f"{spec.state}: {bytes_:.3g} bytes per parameter, counted on a matrix of {SIDE} x {SIDE}",
        "time": f"{beside:.1f} times AdamW's, a step on this CPU (three such matrices, {seconds * 1e3:.2g} ms)",
    }


def described(spec: OptimizerSpec) -> dict[str, str]:
    """What the page says without measuring: an entry's name to its text, entries with nothing to say left out."""
    entries = {
        "update": RULES[spec.name],
        "needs": "\n".join(NEEDS[need] for need in spec.needs) or "nothing",
        "options": ", ".join(_options(spec)),
        "takes": ", ".join(["real", *_numbers(spec)]) + " parameters",
        "source": spec.source,
        "from": spec.path,
        "verified": verified(spec.name),
        "note": spec.note,
    }
    return {key: text for key, text in entries.items() if text}


def _numbers(spec: OptimizerSpec) -> list[str]:
    return ["complex"] * takes_complex(spec) + ["sparsely looked-up"] * takes_sparse(spec)


def _entry(key: str, text: str) -> str:
    return f"  {key:<10}" + text.replace("\n", "\n" + " " * 12)


def _options(spec: OptimizerSpec) -> list[str]:
    """With the row's values where it has some, else the class's own defaults."""
    found = inspect.signature(spec.load()).parameters
    own = {name: found[name].default for name in spec.options()}
    decay = {"weight_decay": spec.weight_decay} if "weight_decay" in own else {}
    values = {**own, **decay, **spec.fixed, "lr": spec.lr}
    return [name if value is inspect.Parameter.empty else f"{name}={_brief(value)}" for name, value in values.items()]


def _brief(value: Any) -> str:
    return getattr(value, "__name__", repr(value))


def measured(spec: OptimizerSpec) -> tuple[float, float]:
    """Bytes of state per element of a square matrix, and the fastest step's seconds without what it needs beside."""
    torch.manual_seed(0)
    layers = [nn.Linear(SIDE, SIDE, bias=False) for _ in range(3)]
    module = nn.Sequential(*layers)
    made: Any = configure_optimizers(module, spec.name, clip=None, total_steps=STEPS + 1)["optimizer"]
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter)
    seconds = [_timed(made, module, spec) for _ in range(STEPS)]
    middle = layers[1].weight
    kept, count = (made.state[middle], 1) if middle in made.state else (made.state, len(layers))
    return _bytes(kept) / count / middle.numel(), min(seconds)


def _timed(made: Any, module: nn.Module, spec: OptimizerSpec) -> float:
    zeros = [torch.zeros_like(p) for group in made.param_groups for p in group["params"]]
    made.adam_arguments = {"loss": {"loss": 1.0}, "hessian": {"hessian": zeros}}.get("".join(spec.needs), {})
    inputs = torch.randn(32, SIDE)

    def closure() -> Tensor:
        made.zero_grad()
        loss: Tensor = module(inputs).sin().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    began = time.perf_counter()
    made.step(closure if "closure" in spec.needs else None)
    return time.perf_counter() - began


def _bytes(state: Any) -> int:
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    values = state.values() if isinstance(state, Mapping) else state if isinstance(state, (list, tuple)) else ()
    return sum(_bytes(value) for value in values)

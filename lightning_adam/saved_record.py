"""What a checkpoint says of the optimizer that wrote it: who it was, how it was set, and what its clipping rule remembers.

It lies behind the parameters' names in the first group. torch.distributed.checkpoint (FSDP2) drops what a state dict holds
beside ``state`` and ``param_groups``, and refuses a checkpoint that lacks any entry of today's groups: the names have been
there from the first version on, and as a tuple they are stored as one value, whatever is in it.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from lightning_adam.clipping import AdaptiveClip, describe_rule

NAMES = "adam_names"
FOUND_LR = "adam_found_lr"
"""Where a group keeps the rate that ``lr="auto"`` has found, for a resumed run to go on with."""
OLD_CLIP_STATE = "adam_clip_rule"
"""Where earlier versions kept the clipping rule's memory."""
_PLAIN = (bool, int, float, str, type(None))


def names_of(group: Mapping[str, Any]) -> list[str]:
    """The names of a group's parameters."""
    return [name for name in group.get(NAMES, ()) if isinstance(name, str)]


def parameter_names(group: Mapping[str, Any]) -> list[str] | None:
    """The same; None where they are not one for each parameter."""
    names = names_of(group)
    return names if len(names) == len(group["params"]) else None


def record_of(optimizer: Any) -> dict[str, Any]:
    """Who this optimizer is, and how it is set beside its groups' options; plain types."""
    kind: type = optimizer.adam_kind
    bases = kind.__mro__[: kind.__mro__.index(Optimizer)]
    return {
        "classes": [f"{base.__module__}.{base.__qualname__}" for base in bases],
        "algorithm": getattr(optimizer, "optimizer_name", None),  # of bitsandbytes: classes of one algorithm are siblings
        "library": _library(kind),
        "settings": _settings(optimizer, kind),
        "clip": describe_rule(optimizer.adam_rule),
    }


def with_record(optimizer: Any, state: dict[str, Any]) -> dict[str, Any]:
    """The state dict with the record, and with what the clipping rule remembers."""
    rule = optimizer.adam_rule
    memory = dict(rule.state_dict()) if isinstance(rule, AdaptiveClip) else {}
    first, *others = state["param_groups"]
    named = {**first, NAMES: (*names_of(first), {**record_of(optimizer), "memory": memory})}
    return {**state, "param_groups": [named, *others]}


def read_record(state: Mapping[str, Any]) -> dict[str, Any]:
    """The record without the memory; empty where an earlier version or plain torch wrote the state."""
    return {key: value for key, value in _found(state).items() if key != "memory"}


def read_memory(state: Mapping[str, Any], rule: Any) -> Mapping[str, Any] | None:
    """What a rule of this kind remembered; None where there was another rule or none."""
    record = _found(state)
    if not record:
        memory = state.get(OLD_CLIP_STATE)
    else:
        memory = record.get("memory") if record["clip"].startswith(f"{type(rule).__name__}(") else None
    return memory if isinstance(memory, Mapping) and memory else None


def _found(state: Mapping[str, Any]) -> dict[str, Any]:
    stored = [entry for group in state["param_groups"][:1] for entry in group.get(NAMES, ()) if isinstance(entry, Mapping)]
    if not stored or not (isinstance(stored[0].get("classes"), list) and isinstance(stored[0].get("clip"), str)):
        return {}
    return {"algorithm": None, "settings": {}, **stored[0]}  # torch loses empty dicts where it gathers all shards


def _library(kind: type) -> str:
    """With its version: another one may keep another state."""
    package = next(b.__module__ for b in kind.__mro__ if not b.__module__.startswith("lightning_adam")).partition(".")[0]
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return package


def _settings(optimizer: Any, kind: type) -> dict[str, Any]:
    """Options that are kept in the optimizer itself, and not in its groups."""
    in_groups = {key for group in optimizer.param_groups for key in group}
    kept = {**getattr(getattr(optimizer, "args", None), "__dict__", {}), **vars(optimizer)}  # bitsandbytes has args
    names = [name for name in inspect.signature(kind).parameters if name in kept and name not in in_groups]
    return {name: kept[name] for name in names if isinstance(kept[name], _PLAIN)}

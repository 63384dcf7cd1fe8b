"""Parameter groups: weight decay on matrices only, overrides by name, and a readable name for every group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from lightning_adam.errors import ConfigError, nearest

Overrides = Mapping[str, Mapping[str, Any]]


def plain_name(name: str) -> str:
    """The name as the user wrote the module, without what torch.compile and FSDP put in."""
    for wrapper in ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."):
        name = name.replace(wrapper, "")
    return name


def split_parameters(module: nn.Module, weight_decay: float, overrides: Overrides | None = None) -> list[dict[str, Any]]:
    """Groups for torch: ``decay`` for tensors of two or more dimensions, ``no_decay`` (0.0) for the others.

    Frozen parameters are left out, tied ones are taken once. A glob of ``overrides`` puts what it matches into groups of
    its own with these options; the first match wins. Each group has a unique ``name``, and its parameters' names under
    ``adam_names`` (torch's own ``param_names`` would forbid adding a group without names in mid-run).

    Raises:
        ConfigError: a pattern matches nothing, or nothing is trainable.
    """
    named = [(plain_name(n), p) for n, p in module.named_parameters() if p.requires_grad]
    if not named:
        raise ConfigError(f"{type(module).__name__} has no trainable parameters: nothing for the optimizer to do.")
    patterns = dict(overrides or {})
    _check_patterns(patterns, [name for name, _ in named])
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in named:
        pattern = next((p for p in patterns if fnmatchcase(name, p)), None)
        _add(groups, name, parameter, weight_decay, pattern, patterns.get(pattern or "", {}))
    return list(groups.values())


def _check_patterns(patterns: Iterable[str], names: list[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"param_groups: the pattern {pattern!r} matches no trainable parameter.{nearest(pattern, names)} "
                f"Names look like {', '.join(map(repr, names[:3]))}."
            )


def _add(
    groups: dict[str, dict[str, Any]],
    name: str,
    parameter: Tensor,
    weight_decay: float,
    pattern: str | None,
    options: Mapping[str, Any],
) -> None:
    decays = parameter.dim() >= 2
    key = ("decay" if decays else "no_decay") + (f":{pattern}" if pattern else "")
    fresh = {"params": [], "name": key, "adam_names": [], "weight_decay": weight_decay if decays else 0.0, **options}
    group = groups.setdefault(key, fresh)
    group["params"].append(parameter)
    group["adam_names"].append(name)

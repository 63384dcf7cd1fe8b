"""What timm's models say of their own layers: ``group_matcher``, patterns in order from the stem to the last block."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from lightning_adam.plain_names import plain_name

AS_BEFORE = 99999.0
"""timm's mark of parameters that belong to the layer before them."""
HEAD = (float("inf"),)
"""What no pattern matches."""
Key = tuple[float, ...]


def said_by_models(names: Sequence[str], module: nn.Module) -> dict[str, tuple[str, int | None]]:
    """Name to the model that it is a part of and its layer there, from 0; None is the head.

    Args:
        names: of parameters; those that no model speaks for are left out.
        module: may hold such models as parts.
    """
    said: dict[str, tuple[str, int | None]] = {}
    for owner, part in _owners(module):
        start = f"{owner}." if owner else ""
        own = [name for name in names if name.startswith(start) and name not in said]
        said |= {name: (owner, depth) for name, depth in _layers(own, len(start), part).items()}
    return said


def _owners(module: nn.Module) -> list[tuple[str, Any]]:
    """Outermost first: they speak for their parts."""
    found = [(plain_name(name), part) for name, part in module.named_modules()]
    return [(name, part) for name, part in found if callable(getattr(part, "group_matcher", None))]


def _layers(names: Sequence[str], start: int, model: Any) -> dict[str, int | None]:
    key_of = _keys(model.group_matcher(coarse=False))
    keys = {name: key_of(name[start:]) for name in names}
    depth, depths = -1, dict[Key, int | None]({HEAD: None})
    for key in sorted(set(keys.values()) - {HEAD}):
        depth += depth < 0 or key[-1] != AS_BEFORE
        depths[key] = depth
    return {name: depths[key] for name, key in keys.items()}


def _keys(matcher: Mapping[str, Any] | Callable[[str], Any]) -> Callable[[str], Key]:
    """What sorts names by layer; a model may give it as a function."""
    if callable(matcher):
        return lambda name: tuple(map(float, found if isinstance(found := matcher(name), Iterable) else (found,)))
    patterns = list(_patterns(matcher))
    return lambda name: next((key for pattern in patterns if (key := _match(name, *pattern))), HEAD)


def _patterns(matcher: Mapping[str, Any]) -> Iterable[tuple[re.Pattern[str], float, Key]]:
    for ordinal, spec in enumerate(matcher.values()):
        for pattern, suffix in [(spec, None)] if isinstance(spec, str) else spec or ():
            yield re.compile(pattern), float(ordinal), tuple(map(float, suffix or ()))


def _match(name: str, pattern: re.Pattern[str], ordinal: float, suffix: Key) -> Key | None:
    found = pattern.match(name)
    return (ordinal, *(float(part) for part in found.groups() if part is not None), *suffix) if found else None

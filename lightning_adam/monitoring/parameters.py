"""The parameters of a run: what they are called, which are looked at, and what each rank holds of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from lightning_adam.monitoring.selection import Patterns, as_patterns, selected
from lightning_adam.statistics import flat_shards, tensor_names


@dataclass(frozen=True)
class NamedParameters:
    """By the parameter's identity, as :mod:`lightning_adam.statistics` takes them.

    Attributes:
        names: in model order.
        chosen: which of them are looked at; None for all.
        shards: under FSDP1, elements before this rank's stretch and elements of the whole tensor.
        embeddings: names of embedding tables, whose gradients are zero for tokens that a batch has not.
    """

    names: Mapping[int, str]
    chosen: frozenset[int] | None = None
    shards: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    embeddings: frozenset[str] = frozenset()


def named_parameters(
    module: nn.Module,
    optimizers: Sequence[Optimizer],
    include: Patterns = None,
    exclude: Patterns = None,
    in_flat_shards: bool = False,
) -> NamedParameters:
    """Of a module and its optimizers; all ranks call it together, once, when training starts.

    Raises:
        ConfigError: a pattern that matches no parameter.
    """
    names = parameter_names(module, optimizers)
    chosen: frozenset[int] | None = None
    if include is not None or exclude is not None:
        known = selected(as_patterns("include", include), as_patterns("exclude", exclude), names.values())
        chosen = frozenset(key for key, name in names.items() if name in known)
    shards: dict[int, tuple[int, int]] = {}
    for optimizer in optimizers if in_flat_shards else ():
        shards |= flat_shards(optimizer)
    return NamedParameters(names, chosen, shards, _embedding_names(module, names))


def parameter_names(module: nn.Module, optimizers: Sequence[Optimizer]) -> dict[int, str]:
    """Names by identity: the module's, and those that the helper stored for parameters outside of it."""
    names = tensor_names(module.named_parameters())
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter, name in zip(group["params"], group.get("adam_names", ()), strict=False):
                names.setdefault(id(parameter), name)
    return names


def _embedding_names(module: nn.Module, names: Mapping[int, str]) -> frozenset[str]:
    """Of a table under spectral norm, too, whose ``weight`` would be computed anew if it were asked for."""
    tables = [m for m in module.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
    return frozenset(names[id(p)] for table in tables for p in table.parameters() if id(p) in names)


def are_known(optimizers: Sequence[Optimizer]) -> bool:
    """Whether there are any, and all exist: a lazy module makes its own in the first forward pass."""
    return bool(optimizers) and not any(is_lazy(p) for o in optimizers for group in o.param_groups for p in group["params"])


def prefixes(optimizers: Sequence[Optimizer]) -> list[str]:
    """``adam`` for one optimizer; for several ``adam-AdamW``, ``adam-AdamW-1``, as LearningRateMonitor names them."""
    if len(optimizers) == 1:
        return ["adam"]
    seen: Counter[str] = Counter()
    keys = []
    for optimizer in optimizers:
        name = type(optimizer).__name__
        keys.append(f"adam-{name}-{seen[name]}" if seen[name] else f"adam-{name}")
        seen[name] += 1
    return keys


def is_empty(parameter: Tensor) -> bool:
    """Whether it has no element: a gradient would say nothing, and nothing of it can be learnt."""
    return not is_lazy(parameter) and parameter.numel() == 0

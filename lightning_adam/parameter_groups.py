"""Parameter groups: decay on matrices only, layer-wise learning rates, overrides by name, and a name for every group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_adam.errors import ConfigError, nearest
from lightning_adam.optimizers.muon_head import output_matrices

Overrides = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Split:
    """How to make groups.

    Attributes:
        lr: the learning rate that ``layer_decay`` multiplies.
        weight_decay: of tensors of two or more dimensions; others get none. None leaves it out.
        parameters: glob of the names that are taken; None takes all.
        overrides: glob of parameter names to options of groups of their own.
        layer_decay: factor of the learning rate per layer towards the input (Clark et al. 2020, arXiv:2003.10555).
        matrices: mark hidden matrices with ``muon`` (embeddings and the output's are not hidden).
        embedding_bits: ``optim_bits`` of embeddings (Dettmers et al. 2022, arXiv:2110.02861, section 2.3).
    """

    lr: float
    weight_decay: float | None
    parameters: str | None = None
    overrides: Overrides | None = None
    layer_decay: float | None = None
    matrices: bool = False
    embedding_bits: int | None = None


def plain_name(name: str) -> str:
    """The name as the user wrote the module, without what torch.compile and FSDP put in."""
    for wrapper in ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."):
        name = name.replace(wrapper, "")
    return name


def split_parameters(module: nn.Module, split: Split) -> list[dict[str, Any]]:
    """Groups for torch, each with a unique ``name`` and its parameters' names under ``adam_names``.

    Frozen parameters are left out, tied ones are taken once. torch's own ``param_names`` would forbid adding a group
    without names in mid-run.

    Raises:
        ConfigError: a pattern matches nothing, two match one parameter, nothing is trainable, or a parameter is lazy.
    """
    named = [(plain_name(n), p) for n, p in module.named_parameters() if p.requires_grad]
    if not named:
        raise ConfigError(f"{type(module).__name__} has no trainable parameters: nothing for the optimizer to do.")
    if split.parameters is not None:
        named = _chosen(split.parameters, named)
    _refuse_lazy(named)
    patterns = dict(split.overrides or {})
    matched = _match_patterns(patterns, [name for name, _ in named])
    depths = layer_depths([name for name, _ in named])
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    outputs = output_matrices(module, named) if split.matrices else set()
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in named:
        labels, options = _decay(split, parameter)
        if split.layer_decay is not None:
            labels, options = _add_layer(split, name, depths, labels, options)
        if split.embedding_bits is not None and id(parameter) in embeddings:
            labels, options = f"{labels}:embedding", {**options, "optim_bits": split.embedding_bits}
        if split.matrices:
            hidden = parameter.dim() == 2 and id(parameter) not in {*embeddings, *outputs}
            labels, options = f"{labels}:{'muon' if hidden else 'adamw'}", {**options, "muon": hidden}
        if pattern := matched.get(name):
            labels, options = f"{labels}:{pattern}", {**options, **patterns[pattern]}
        group = groups.setdefault(labels, {"params": [], "name": labels, "adam_names": [], **options})
        group["params"].append(parameter)
        group["adam_names"].append(name)
    return list(groups.values())


def _chosen(pattern: str, named: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    chosen = [(name, p) for name, p in named if fnmatchcase(name, pattern)]
    if not chosen:
        names = [name for name, _ in named]
        raise ConfigError(
            f"parameters={pattern!r} matches no trainable parameter.{nearest(pattern, names)} "
            f"Names look like {', '.join(map(repr, names[:3]))}."
        )
    return chosen


def _refuse_lazy(named: Iterable[tuple[str, Tensor]]) -> None:
    lazy = next((name for name, p in named if is_lazy(p)), None)
    if lazy is not None:
        raise ConfigError(
            f"{lazy} is lazy: it has no shape before the module has seen a batch, and an optimizer needs one. Run one batch "
            "through the module first (in setup() or configure_model(): with torch.no_grad(): self(batch)), or write the "
            "sizes out: nn.Linear in place of nn.LazyLinear."
        )


def _decay(split: Split, parameter: Tensor) -> tuple[str, dict[str, Any]]:
    decays = parameter.dim() >= 2
    options = {} if split.weight_decay is None else {"weight_decay": split.weight_decay if decays else 0.0}
    return "decay" if decays else "no_decay", options


def _add_layer(
    split: Split, name: str, depths: Mapping[str, int], labels: str, options: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    depth, deepest = depths[name], max(depths.values())
    scale = (split.layer_decay or 1.0) ** (deepest - depth)
    return f"{labels}:layer{depth}", {**options, "lr": split.lr * scale}


def layer_depths(names: Sequence[str]) -> dict[str, int]:
    """Depth from the input of every parameter, by its name.

    Numbered modules (``blocks.3``, ``layer1.0``, ``stages.0.blocks.1``) count in order of appearance; what stands before
    them is depth 0, what stands after is the deepest.

    Example:
        >>> list(layer_depths(["embed.weight", "blocks.0.w", "blocks.1.w", "head.weight"]).values())
        [0, 1, 2, 3]
    """
    keys = [_layer_key(name) for name in names]
    order = {key: index for index, key in enumerate(dict.fromkeys(k for k in keys if k), 1)}
    depths: dict[str, int] = {}
    seen_numbered = False
    for name, key in zip(names, keys, strict=True):
        seen_numbered = seen_numbered or key is not None
        depths[name] = order[key] if key else (len(order) + 1 if seen_numbered else 0)
    return depths


_NESTED = ("blocks", "block", "layers", "layer")


def _layer_key(name: str) -> str | None:
    """The name up to its first number, and to a second one that counts blocks within a stage."""
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if first is None:
        return None
    nested = len(parts) > first + 2 and parts[first + 1] in _NESTED and parts[first + 2].isdigit()
    return ".".join(parts[: first + 3 if nested else first + 1])


def _match_patterns(patterns: Iterable[str], names: list[str]) -> dict[str, str]:
    """Parameter name to the one pattern that matches it."""
    matched: dict[str, str] = {}
    for pattern in patterns:
        hits = [name for name in names if fnmatchcase(name, pattern)]
        if not hits:
            raise ConfigError(
                f"param_groups: the pattern {pattern!r} matches no trainable parameter.{nearest(pattern, names)} "
                f"Names look like {', '.join(map(repr, names[:3]))}."
            )
        for name in hits:
            if name in matched:
                raise ConfigError(
                    f"param_groups: {name!r} matches both {matched[name]!r} and {pattern!r}: make one of them narrower."
                )
            matched[name] = pattern
    return matched

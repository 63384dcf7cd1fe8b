"""Parameter groups: decay on matrices only, layer-wise learning rates, overrides by name, and a name for every group."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_adam.errors import ConfigError, LightningAdamWarning, nearest
from lightning_adam.layer_depth import layer_depths
from lightning_adam.no_decay import without_decay
from lightning_adam.optimizers.muon_head import output_matrices
from lightning_adam.plain_names import plain_name as plain_name

Overrides = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Split:
    """How to make groups.

    Attributes:
        lr: the learning rate that ``layer_decay`` multiplies.
        weight_decay: of all but those that ``no_decay`` names (vectors, norms, biases, tokens). None leaves it out.
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


def split_parameters(module: nn.Module, split: Split) -> list[dict[str, Any]]:
    """Groups for torch, each with a unique ``name`` and its parameters' names under ``adam_names``.

    Frozen parameters are left out, tied ones are taken once. torch's own ``param_names`` would forbid adding a group
    without names in mid-run.

    Raises:
        ConfigError: a pattern matches nothing, two match one parameter, nothing is trainable, or a parameter is lazy.
    """
    named = _trainable(module, split.parameters)
    marks = _Marks.of(module, split, named)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in named:
        label, options = marks.of_parameter(name, parameter)
        group = groups.setdefault(label, {"params": [], "name": label, "adam_names": [], **options})
        group["params"].append(parameter)
        group["adam_names"].append(name)
    return list(groups.values())


@dataclass(frozen=True)
class _Marks:
    """What sets parameters apart: those that are alike in all of it make a group.

    Attributes:
        split: how to make groups.
        spared: names that are not to decay.
        rates: by name, under ``layer_decay``.
        embeddings: by identity.
        outputs: the output's matrices by identity.
        matched: name to the pattern of ``overrides`` that matches it.
    """

    split: Split
    spared: frozenset[str]
    rates: Mapping[str, Rate]
    embeddings: frozenset[int]
    outputs: frozenset[int]
    matched: Mapping[str, str]

    @classmethod
    def of(cls, module: nn.Module, split: Split, named: list[tuple[str, Any]]) -> _Marks:
        """Of all parameters that are taken."""
        return cls(
            split,
            frozenset(plain_name(name) for name in without_decay(module)),
            _rates(module, split),
            frozenset(
                id(p) for m in module.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for p in m.parameters()
            ),
            frozenset(output_matrices(module, named) if split.matrices else ()),
            _match_patterns(split.overrides or {}, [name for name, _ in named]),
        )

    def of_parameter(self, name: str, parameter: Tensor) -> tuple[str, dict[str, Any]]:
        """Its group's name and options; later ones win."""
        split, marks = self.split, [_decay(self.split, name in self.spared)]
        if split.layer_decay is not None:
            marks.append((f"layer{self.rates[name].layer}", {"lr": self.rates[name].lr}))
        if split.embedding_bits is not None and id(parameter) in self.embeddings:
            marks.append(("embedding", {"optim_bits": split.embedding_bits}))
        if split.matrices:
            real = not parameter.is_complex()  # which torch's Muon takes alone
            hidden = real and parameter.dim() == 2 and id(parameter) not in self.embeddings | self.outputs
            marks.append(("muon" if hidden else "adamw", {"muon": hidden}))
        if (pattern := self.matched.get(name)) is not None:
            marks.append((pattern, {**(split.overrides or {})[pattern]}))
        return ":".join(label for label, _ in marks), {key: value for _, options in marks for key, value in options.items()}


def _trainable(module: nn.Module, pattern: str | None) -> list[tuple[str, Any]]:
    """Those that are taken, by name."""
    named = [(plain_name(n), p) for n, p in module.named_parameters() if p.requires_grad]
    if not named:
        raise ConfigError(f"{type(module).__name__} has no trainable parameters: nothing for the optimizer to do.")
    if pattern is not None:
        named = _chosen(pattern, named)
    _refuse_lazy(named)
    return named


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


def _decay(split: Split, spared: bool) -> tuple[str, dict[str, Any]]:
    options = {} if split.weight_decay is None else {"weight_decay": 0.0 if spared else split.weight_decay}
    return "no_decay" if spared else "decay", options


class Rate(NamedTuple):
    """A layer's own learning rate."""

    layer: int
    lr: float


def _rates(module: nn.Module, split: Split) -> dict[str, Rate]:
    """By name, under ``layer_decay``; frozen layers count, too, and other optimizers' do not."""
    if split.layer_decay is None:
        return {}
    names = [plain_name(name) for name, _ in module.named_parameters()]
    depths = layer_depths([name for name in names if fnmatchcase(name, split.parameters or "*")], module)
    deepest = max(depths.values())
    if deepest == 0:
        _warn_of_no_layers(split, module, names)
    return {name: Rate(depth, split.lr * split.layer_decay ** (deepest - depth)) for name, depth in depths.items()}


def _warn_of_no_layers(split: Split, module: nn.Module, names: list[str]) -> None:
    warnings.warn(
        f"layer_decay={split.layer_decay!r} changes nothing: no layers can be told apart by the names of "
        f"{type(module).__name__}'s parameters ({', '.join(names[:3])}, …). Number them (nn.ModuleList, layer1, layer2), or "
        "give each its rate by param_groups=.",
        LightningAdamWarning,
        stacklevel=5,
    )


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

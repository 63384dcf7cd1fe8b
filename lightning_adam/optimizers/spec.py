"""What the catalogue knows about an optimizer, and how one is made from it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch.optim import Optimizer

from lightning_adam.errors import ConfigError, nearest
from lightning_adam.once_per_class import once_per_class
from lightning_adam.quiet import without_warnings

Need = Literal["closure", "hessian", "loss", "matrices", "modes", "total_steps"]


@dataclass(frozen=True)
class OptimizerSpec:
    """One optimizer.

    Attributes:
        name: what ``configure_optimizers`` takes.
        path: the class, as a dotted path.
        summary: one line.
        state: what is kept per parameter.
        state_bytes: bytes of state per parameter (large tensors, 32-bit weights).
        lr: the rate that it starts from when none is given; the library's or the paper's.
        source: paper.
        weight_decay: what it starts from when none is given; 0 where decay enters the gradient.
        fixed: options that make the row what it is, or that its source recommends.
        needs: what the helper arranges for it: the loss, a repeated closure, a Hessian estimate, train and eval modes,
            the run's length, or a split by matrices.
        fused: whether torch has a fused kernel.
        betas: decay rates that it starts from when none are given; empty where it takes none.
        experimental: the equations are our reading of a paper that could not be had in full.
        shared: options that all groups have alike: it takes the first group's for all.
        note: where it is not its source's algorithm, in one sentence.
    """

    name: str
    path: str
    summary: str
    state: str
    state_bytes: float
    lr: float
    source: str
    weight_decay: float = 0.01
    fixed: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[Need, ...] = ()
    fused: bool = False
    betas: tuple[float, ...] = (0.9, 0.999)
    experimental: bool = False
    shared: tuple[str, ...] = ()
    note: str = ""

    @property
    def takes_any(self) -> bool:
        """Whether options that its class does not name are for it to judge."""
        return False

    @property
    def library(self) -> str:
        """The package that it comes from."""
        return "bitsandbytes" if self.path.startswith("lightning_adam.optimizers.eight_bit") else self.path.split(".")[0]

    def load(self) -> type[Optimizer]:
        """Import the class; what its library prints while loading is kept from the user."""
        module, _, name = self.path.rpartition(".")
        return getattr(import_quietly(module, self.library), name)  # type: ignore[no-any-return]

    def options(self) -> list[str]:
        """The names that its class takes, besides the parameters."""
        names = signature_of(self.load()).items()
        return [name for name, p in names if name not in ("self", "params") and p.kind is not p.VAR_KEYWORD]


@once_per_class
def signature_of(kind: type[Optimizer]) -> Mapping[str, inspect.Parameter]:
    """What its class takes, by name: reading it anew takes longer than a step of a small network."""
    return inspect.signature(kind).parameters


def build_optimizer(
    spec: OptimizerSpec,
    groups: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    total_steps: float = math.inf,
    kind: type[Optimizer] | None = None,
) -> Optimizer:
    """Make the optimizer.

    Args:
        spec: the row.
        groups: from ``split_parameters``.
        options: for its class, beside what the row fixes.
        total_steps: for those that want the run's length.
        kind: the class to make it of, derived from the row's own; by default that one.

    Raises:
        ConfigError: an option that its class does not take, or what it needs is not known.
    """
    _refuse_unknown(spec, options)
    given = {**spec.fixed, **options}
    if "total_steps" in spec.needs:
        given.setdefault("num_iterations", _known_length(spec, total_steps))
    _refuse_own_rates(spec, groups, given)
    _refuse_missing(spec, given)
    parameters: Any = [dict(group) for group in groups]
    if "closure" in spec.needs:  # they take one group only
        parameters = [p for group in groups for p in group["params"]]
    with without_warnings("Paged optimizers are not supported on CPU"):
        return _made(spec, kind or spec.load(), parameters, given)


def _refuse_unknown(spec: OptimizerSpec, options: Mapping[str, Any]) -> None:
    """A class of the user's own may take any; a catalogue's passes what it does not know over."""
    accepted = spec.options()
    for name in options:
        if name not in accepted and not spec.takes_any:
            allowed = ", ".join(accepted)
            raise ConfigError(f"{spec.name} takes no option {name!r}.{nearest(name, accepted)} It takes: {allowed}.")


def _refuse_missing(spec: OptimizerSpec, given: Mapping[str, Any]) -> None:
    _, *parameters = signature_of(spec.load()).values()
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    missing = [p.name for p in named if p.default is p.empty and p.name not in given]
    if missing:
        raise ConfigError(f"{spec.name} needs {', '.join(missing)}: pass {missing[0]}=... beside it.")


def _made(spec: OptimizerSpec, kind: Any, parameters: Any, options: Mapping[str, Any]) -> Optimizer:
    try:
        return kind(parameters, **options)  # type: ignore[no-any-return]
    except ConfigError:
        raise
    except Exception as error:  # whatever a library raises on options that it does not like
        shown = ", ".join(f"{name}={value!r}" for name, value in options.items()) or "its defaults"
        raise ConfigError(
            f"{spec.name} cannot be made with {shown} and these groups: {str(error) or type(error).__name__}"
        ) from error


def _known_length(spec: OptimizerSpec, total_steps: float) -> int:
    if not math.isfinite(total_steps):
        raise ConfigError(f"{spec.name} needs the run's length: pass total_steps=... or Trainer(max_steps=...).")
    return max(2, int(total_steps))


def _refuse_own_rates(spec: OptimizerSpec, groups: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> None:
    """Groups with options of their own, where the first group's would silently hold for all."""
    for name in spec.shared:
        asked = {repr(group.get(name, options.get(name))) for group in groups}
        if len(asked) > 1:
            raise ConfigError(
                f"param_groups, layer_decay: {spec.name} has one {name} for all groups, and is asked for "
                f"{' and '.join(sorted(asked))}. Leave it out of the groups, or take another optimizer, such as adamw."
            )


def import_quietly(module: str, package: str) -> Any:
    """Import; bitsandbytes prints and logs a line about kernels when it loads on a CPU.

    Raises:
        ConfigError: the library is missing, or lacks what the optimizer is made of.
    """
    if module in sys.modules:  # setting a logger's level, even to what it is, empties the caches of all
        return sys.modules[module]
    logger = logging.getLogger(package)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return importlib.import_module(module)
    except ImportError as error:
        missing = {"lightning_adam": "torch"}.get(package, package)  # ours are made of torch's
        raise ConfigError(f"{module} cannot be imported ({error}): pip install --upgrade {missing}.") from error
    finally:
        logger.setLevel(level)

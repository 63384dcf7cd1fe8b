"""What the catalogue knows about an optimizer, and how one is made from it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch.optim import Optimizer

from lightning_adam.errors import ConfigError, nearest

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
    def library(self) -> str:
        """The package that it comes from."""
        return "bitsandbytes" if self.path.startswith("lightning_adam.optimizers.eight_bit") else self.path.split(".")[0]

    def load(self) -> type[Optimizer]:
        """Import the class; what its library prints while loading is kept from the user."""
        module, _, name = self.path.rpartition(".")
        return getattr(_import_quietly(module, self.library), name)  # type: ignore[no-any-return]

    def options(self) -> list[str]:
        """The names that its class takes, besides the parameters."""
        names = inspect.signature(self.load()).parameters.items()
        return [name for name, p in names if name not in ("self", "params") and p.kind is not p.VAR_KEYWORD]


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
    accepted = spec.options()
    for name in options:
        if name not in accepted:
            allowed = ", ".join(accepted)
            raise ConfigError(f"{spec.name} takes no option {name!r}.{nearest(name, accepted)} It takes: {allowed}.")
    given = {**spec.fixed, **options}
    if "total_steps" in spec.needs:
        given.setdefault("num_iterations", _known_length(spec, total_steps))
    _refuse_own_rates(spec, groups, given)
    make: Any = kind or spec.load()
    if "closure" in spec.needs:
        return make([p for group in groups for p in group["params"]], **given)  # type: ignore[no-any-return]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
        return make([dict(group) for group in groups], **given)  # type: ignore[no-any-return]


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


def _import_quietly(module: str, package: str) -> Any:
    """bitsandbytes prints and logs a line about kernels when it loads on a CPU."""
    logger = logging.getLogger(package)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{package} cannot be imported ({error}): pip install {package}.") from error
    finally:
        logger.setLevel(level)

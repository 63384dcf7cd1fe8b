"""The catalogue: one row per optimizer. Libraries are imported when their optimizer is asked for."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer

from lightning_adam.errors import ConfigError, nearest


@dataclass(frozen=True)
class OptimizerSpec:
    """One optimizer.

    Attributes:
        name: what ``configure_optimizers`` takes.
        path: the class, as a dotted path.
        summary: one line.
        state_bytes: bytes of state per parameter (large tensors).
        lr: the rate that it starts from when none is given.
        fixed: options that make the row what it is.
        source: paper.
    """

    name: str
    path: str
    summary: str
    state_bytes: float
    lr: float
    source: str
    fixed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def library(self) -> str:
        """The package that it comes from."""
        return self.path.split(".")[0]

    def load(self) -> type[Optimizer]:
        """Import the class; what its library prints while loading is kept from the user."""
        module, _, name = self.path.rpartition(".")
        return getattr(_import_quietly(module), name)  # type: ignore[no-any-return]


_ADAM, _ADAMW = "Kingma & Ba 2014, arXiv:1412.6980", "Loshchilov & Hutter 2019, arXiv:1711.05101"
_EIGHT_BIT = "Dettmers et al. 2022, arXiv:2110.02861"

_ROWS = (
    OptimizerSpec("adam", "torch.optim.Adam", "Adam; weight decay enters the gradient", 8, 1e-3, _ADAM),
    OptimizerSpec("adamw", "torch.optim.AdamW", "Adam with decoupled weight decay", 8, 1e-3, _ADAMW),
    OptimizerSpec("adam8bit", "bitsandbytes.optim.Adam8bit", "Adam with 8-bit state", 2, 1e-3, _EIGHT_BIT),
    OptimizerSpec("adamw8bit", "bitsandbytes.optim.AdamW8bit", "AdamW with 8-bit state", 2, 1e-3, _EIGHT_BIT),
    OptimizerSpec(
        "amsgrad",
        "torch.optim.AdamW",
        "AdamW that divides by the largest second moment so far",
        12,
        1e-3,
        "Reddi et al. 2018, arXiv:1904.09237",
        {"amsgrad": True},
    ),
)
OPTIMIZERS: dict[str, OptimizerSpec] = {row.name: row for row in _ROWS}


def available_optimizers() -> tuple[OptimizerSpec, ...]:
    """Every optimizer of the catalogue."""
    return tuple(OPTIMIZERS.values())


def get_optimizer(name: str) -> OptimizerSpec:
    """The row of this name.

    Raises:
        ConfigError: there is none; the message has the nearest and all names.
    """
    if name not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        raise ConfigError(f"optimizer={name!r} is not in the catalogue.{nearest(str(name), OPTIMIZERS)} Known: {known}.")
    return OPTIMIZERS[name]


def build_optimizer(spec: OptimizerSpec, groups: Iterable[Mapping[str, Any]], options: Mapping[str, Any]) -> Optimizer:
    """Make the optimizer.

    Raises:
        ConfigError: an option that its class does not take.
    """
    kind = spec.load()
    accepted = [name for name in inspect.signature(kind).parameters if name not in ("self", "params")]
    for name in options:
        if name not in accepted:
            allowed = ", ".join(accepted)
            raise ConfigError(f"{spec.name} takes no option {name!r}.{nearest(name, accepted)} It takes: {allowed}.")
    return kind([dict(group) for group in groups], **{**spec.fixed, **options})


def _import_quietly(module: str) -> Any:
    """bitsandbytes prints and logs a line about kernels when it loads on a CPU."""
    logger = logging.getLogger(module.split(".")[0])
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{module} cannot be imported ({error}): pip install {module.split('.')[0]}.") from error
    finally:
        logger.setLevel(level)

"""A plain ``nn.Module`` with its loss and its optimizer, as probing sees them: with a training step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_adam.errors import ConfigError
from lightning_adam.preflight.batches import mapped
from lightning_adam.preflight.task import shadowed

Loss = Callable[[Any, Any], Tensor]


def refuse_no_trainer(trainer: Any) -> None:
    """What cannot say how a run is set.

    Raises:
        ConfigError: with what to give instead.
    """
    if trainer is not None and not hasattr(trainer, "max_epochs"):
        raise ConfigError(f"trainer={trainer!r}: give the Trainer that will fit the module, or leave it out.")


def refuse(module: Any, loss: Any, optimizer: Any) -> None:
    """Arguments that do not go together.

    Raises:
        ConfigError: with what to write instead.
    """
    name = type(module).__name__
    if not isinstance(module, nn.Module):
        raise ConfigError(f"module={name}: give a LightningModule with a training_step, or an nn.Module with loss=.")
    if callable(getattr(module, "training_step", None)):
        given = [said for said, value in (("loss", loss), ("optimizer", optimizer)) if value is not None]
        if given:
            raise ConfigError(
                f"{given[0]}=: {name} has a training_step and says so itself. Leave {' and '.join(given)} out."
            )
        return
    if not callable(loss):
        what = "no training_step" if loss is None else f"no training_step, and loss={loss!r} cannot be called"
        raise ConfigError(
            f"module={name}: it has {what}. Give loss=F.cross_entropy, or any function of (output, target) for batches "
            "that are pairs and of (output, batch) for dicts; or give a LightningModule."
        )
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise ConfigError(f"optimizer={optimizer!r}: give the optimizer that trains the module, such as AdamW(...).")


@contextmanager
def as_trained(module: nn.Module, loss: Loss | None, optimizer: Optimizer | None) -> Iterator[None]:
    """For a while it has the methods that probing calls; nothing for a module that brings its own."""
    if loss is None:
        yield
        return
    methods = {
        "training_step": lambda batch, batch_idx: loss(*_called(module, batch)),
        "configure_optimizers": lambda: optimizer,
        "transfer_batch_to_device": lambda batch, device, _: mapped(batch, lambda part: _moved(part, device)),
        "on_before_batch_transfer": lambda batch, _: batch,
        "on_after_batch_transfer": lambda batch, _: batch,
    }
    with shadowed(module, methods):
        yield


def _moved(part: Any, device: torch.device) -> Any:
    return part.to(device) if isinstance(part, Tensor) else part


def _called(module: nn.Module, batch: Any) -> tuple[Any, Any]:
    """The output, and what the loss compares it with."""
    if isinstance(batch, (list, tuple)) and len(batch) > 1:
        return module(*batch[:-1]), batch[-1]
    if isinstance(batch, Mapping) or hasattr(batch, "keys"):
        return module(**_accepted(module, batch)), batch
    raise ValueError(f"a batch of type {type(batch).__name__} is neither (input, target) nor a dict: give a LightningModule")


def _accepted(module: nn.Module, batch: Any) -> dict[str, Any]:
    """Those of the batch's entries that ``forward`` takes."""
    parameters = inspect.signature(module.forward).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {name: batch[name] for name in batch if takes_all or name in parameters}

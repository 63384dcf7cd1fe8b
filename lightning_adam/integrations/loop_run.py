"""A plain loop, Fabric's or Accelerate's, as a monitor sees it."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_adam.clipping import norms_of_helper
from lightning_adam.describe import planned
from lightning_adam.gradient_norms import GradientNorms
from lightning_adam.monitoring import Plan, Sink


class LoopRun:
    """A run without a Trainer (:class:`lightning_adam.monitoring.Run`). Each optimizer counts its own steps.

    Args:
        module: the network, without wrappers.
        optimizers: all that step.
        scaler: the gradient scaler, if there is one.
        total_steps: planned optimizer steps; None where nobody knows.
        steps_per_epoch: optimizer steps of an epoch; None where nobody knows.
        log_interval: optimizer steps between two logged ones.
        accumulation: what each loss is divided by before its backward.
        clip_norm: the total norm that the loop itself clips to; None where it does not.
        schedulers: torch's, whose base rates change when a rate is lowered.

    Attributes:
        sinks: where it is logged to.
        folder: where a stopped run is saved.
        steps: how many each optimizer has taken or was kept from taking.
        should_stop: whether a finding has asked for the end.
    """

    has_batches = False
    flat_shards = False
    fits_again = False
    mode = "loop"

    def __init__(
        self,
        module: nn.Module,
        optimizers: Sequence[Optimizer],
        scaler: Any,
        total_steps: int | None,
        steps_per_epoch: float | None,
        log_interval: int,
        accumulation: int,
        clip_norm: float | None,
        schedulers: Sequence[Any] = (),
    ) -> None:
        self.module, self.optimizers, self.log_interval, self.accumulation = module, optimizers, log_interval, accumulation
        self.sinks: Sequence[Sink] = ()
        self.folder = Path()
        self.steps = [0] * len(optimizers)
        self.should_stop = False
        self.clip_norm = math.nan if clip_norm is None else float(clip_norm)
        self._scaler, self._steps_per_epoch = scaler, steps_per_epoch
        self._schedulers = schedulers
        self._total_steps = math.nan if total_steps is None else float(total_steps)

    @property
    def loss_scale(self) -> Tensor | float | None:
        """The scaler's own tensor once it has one: asking for the number would wait for the device."""
        if self._scaler is None or not self._scaler.is_enabled():
            return None
        scale = getattr(self._scaler, "_scale", None)
        return scale.detach() if isinstance(scale, Tensor) else float(self._scaler.get_scale())

    @property
    def is_main(self) -> bool:
        """Rank zero, or the only process."""
        return not _is_distributed() or dist.get_rank() == 0

    def step(self, position: int) -> int:
        """Of this optimizer, from zero."""
        return self.steps[position]

    def gradient_scale(self, optimizer: Optimizer) -> Tensor | float:
        """While a fused optimizer steps, it holds the scale itself; before that the scaler knows whether it has unscaled."""
        scale = self.loss_scale
        if scale is None:
            return 1.0
        if hasattr(optimizer, "grad_scale"):
            own: Tensor | float | None = optimizer.grad_scale
            return 1.0 if own is None else own
        return scale if self._scaler._per_optimizer_states[id(optimizer)]["stage"].name == "READY" else 1.0

    def norms_of_clipping(self, optimizer: Optimizer) -> GradientNorms | None:
        """The helper's: a loop that clips by hand tells nobody."""
        return norms_of_helper(optimizer)

    def plan(self, position: int) -> Plan:
        """From the helper's schedule, and what the caller said."""
        return planned(self.optimizers[position], self._total_steps, self._steps_per_epoch)

    def any_rank(self, decision: bool) -> bool:
        """One all-reduce, where there are several processes."""
        if not _is_distributed():
            return decision
        device = next((p.device for p in self.module.parameters()), torch.device("cpu"))
        votes = torch.tensor(float(decision), device=device)
        dist.all_reduce(votes)
        return bool(votes > 0)

    def schedulers(self) -> Sequence[Any]:
        """Those that the caller has named; the helper's are found at their optimizers."""
        return self._schedulers

    def averages(self) -> Sequence[Any]:
        """A loop does not tell."""
        return ()

    def stop(self) -> str:
        """The loop has to look at ``watch.should_stop``; weights and moments are saved."""
        self.should_stop = True
        step = max(self.steps) + 1
        path = self.folder / f"adam_stopped_step_{step}.pt"
        saved = f"with weights and moments saved in {path}"
        if self.is_main:
            try:
                self._save(path, step)
            except Exception as error:  # a full disk: the loop is to stop all the same
                saved = f"but nothing could be saved in {path} ({type(error).__name__}: {error})"
        return f"asked the loop to stop at step {step} (watch.should_stop), {saved}"

    def _save(self, path: Path, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        torch.save({"module": self.module.state_dict(), "optimizers": optimizers, "step": step}, path)

    def tell(self, line: str) -> None:
        """To stderr: a plain program has no logging set up."""
        if self.is_main:
            print(line, file=sys.stderr)

    def end(self) -> None:
        """Nothing was put anywhere."""


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def unwrapped(module: Any) -> nn.Module:
    """The network in Fabric's, DDP's and torch.compile's wrappers."""
    seen: list[Any] = []
    while not any(module is one for one in seen):
        seen.append(module)
        if type(module).__name__ in ("_FabricModule", "DistributedDataParallel", "DataParallel"):
            module = module.module
        module = getattr(module, "_orig_mod", module)
    return module  # type: ignore[no-any-return]

"""Reads one optimizer's steps into signals: light ones always and without waiting for a GPU, heavy ones when asked."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_adam.callbacks._heavy import betas_of, embedding_names, heavy_signals, input_scale, run_signals
from lightning_adam.callbacks._lightning import gradient_scale, log_step, scale_on_device
from lightning_adam.callbacks._zeroing import ZeroingWatch
from lightning_adam.diagnosis import Diagnosis, HeavySignals, NonFinite, RunSignals, StepSignals
from lightning_adam.moments import read_moments
from lightning_adam.statistics import copy_parameters, read_optimizer

LIGHT = ("loss", "scale", "clip_coefficient", "logit_max", "lr", "overflowed")
"""The numbers of a light step that come from the device, before the tensors' gradient norms."""
MOST_AHEAD = 8
"""Steps whose numbers may still be on their way from a GPU: then the host waits for the oldest."""


@dataclass(frozen=True)
class _Light:
    """One step's numbers on their way to the host, and what the host knew already."""

    values: Tensor
    arrived: Any
    names: tuple[str, ...]
    known: Mapping[str, Any]
    has_loss: bool
    spoilt: NonFinite | None
    vetoed: bool


class OptimizerWatch:
    """One optimizer's steps.

    Args:
        trainer: that trains it.
        module: whose parameters it holds.
        index: its position among the trainer's optimizers.
        names: parameter names by identity.
        every: steps between two passes over all tensors.
        diagnosis: that is asked whether a step is worth a pass.
        tell: is handed each record, in order.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        index: int,
        names: Mapping[int, str],
        every: int,
        diagnosis: Diagnosis,
        tell: Callable[[RunSignals | StepSignals], None],
    ) -> None:
        self.trainer, self.optimizer, self.diagnosis = trainer, trainer.optimizers[index], diagnosis
        self.attempted, self.vetoed = False, False
        self._names, self._every, self._tell = names, every, tell
        self._embeddings = embedding_names(module, names)
        self._zeroing = ZeroingWatch(self.optimizer)
        self._waiting: deque[_Light] = deque()
        self._begun, self._zero_tensors = False, 0
        self._unused: tuple[str, ...] = ()
        self._missing = 0

    def detach(self) -> None:
        """The run is over: take in what is on its way, and leave nothing behind."""
        self._arrive(everything=True)
        self._zeroing.detach()

    def before_step(self, losses: Sequence[Tensor]) -> None:
        """Gradients are complete, unscaled and not yet clipped: take what is gone after the step."""
        self.attempted, self.vetoed = True, False
        self._arrive(everything=len(self._waiting) >= MOST_AHEAD)
        with_gradient = [p for g in self.optimizer.param_groups for p in g["params"] if p.grad is not None]
        self._graded = tuple(self._names.get(id(p), "a parameter") for p in with_gradient)
        self._norms = norms_of([p.grad for p in with_gradient if p.grad is not None])
        self._bad_before: NonFinite | None = None
        on_host = self._norms is None or self._norms.device.type == "cpu"
        if on_host and losses and not all(bool(torch.isfinite(loss).all()) for loss in losses):
            self._bad_before = self._spoilt()
        self._measured = self.diagnosis.wants_measurement(self._every, ahead=len(self._waiting))
        self._copies = copy_parameters(self.optimizer) if self._measured else None
        self._norms_before = self._parameter_norms() if self._measured else {}
        if not self._begun:
            self._zero_tensors = sum(norm == 0 for norm in self._matrix_norms().values())

    def gradient_norm(self) -> float:
        """‖g‖ now, before clipping; waits for the device."""
        if self._norms is None:
            return math.nan
        return float(torch.linalg.vector_norm(self._norms) / gradient_scale(self.trainer, self.optimizer))

    def after_step(self, losses: Sequence[Tensor], batch: Any, batch_index: int, logit: Tensor | None) -> None:
        """The step was taken."""
        self.attempted = False
        known = self._known(batch_index)
        self._zeroing.after_step()
        light = self._send(losses, logit, {**known, "skipped": self.vetoed})
        if light.arrived is None and not self._measured:
            norm = _total(light.values[len(LIGHT) :])
            self._measured = self.diagnosis.wants_measurement(self._every, norm)
        if self._measured and not self.vetoed:
            self._arrive(everything=True)
            self._finish(light, self._heavy(batch))
        else:
            self._waiting.append(light)
            self._arrive(everything=light.arrived is None)

    def after_skip(self, losses: Sequence[Tensor], batch_index: int, logit: Tensor | None) -> None:
        """The scaler left the step out."""
        self.attempted = False
        self._waiting.append(self._send(losses, logit, {**self._known(batch_index), "skipped": True}))
        self._arrive(everything=True)

    def _known(self, batch_index: int) -> dict[str, Any]:
        """What the host knows without asking the device."""
        groups = self.optimizer.param_groups
        rates = [g["lr"] for g in groups if not isinstance(g["lr"], Tensor) or g["lr"].device.type == "cpu"]
        beta1, beta2 = betas_of(self.optimizer)
        missing = sum(p.grad is None for g in groups for p in g["params"] if p.requires_grad)
        if missing != self._missing:
            unused = (p for g in groups for p in g["params"] if p.requires_grad and p.grad is None)
            self._unused = tuple(self._names.get(id(p), "a parameter") for p in unused)[:5]
            self._missing = missing
        return {
            "step": log_step(self.trainer),
            "batch": batch_index,
            "lr": max(map(float, rates), default=math.nan),
            "beta1": beta1,
            "beta2": beta2,
            "not_zeroed": self._zeroing.not_zeroed,
            "without_gradient": 0 if self.vetoed else missing,
            "unused": () if self.vetoed else self._unused,
        }

    def _send(self, losses: Sequence[Tensor], logit: Tensor | None, known: Mapping[str, Any]) -> _Light:
        """All numbers of the step in one vector, on its way to pinned memory where the device is a GPU."""
        device = self._norms.device if self._norms is not None else torch.device("cpu")
        nan = torch.full((), math.nan, device=device)
        loss = torch.stack([part.float().mean().to(device) for part in losses]).mean() if losses else nan
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        scale = scale_on_device(self.trainer) if scaled else nan
        overflowed = getattr(self.optimizer, "found_inf", 0.0)  # GradScaler tells a fused optimizer, and calls it
        rates = [g["lr"] for g in self.optimizer.param_groups if isinstance(g["lr"], Tensor)]
        lr = torch.stack([r.float().to(device) for r in rates]).max() if rates else nan
        watched = nan if logit is None else logit.to(device)
        scalars = [loss, _on(scale, device), self._clip_coefficient(nan), watched, lr, _on(overflowed, device)]
        norms = self._norms if self._norms is not None else torch.zeros(0)
        left = _on(gradient_scale(self.trainer, self.optimizer), device)
        values = torch.cat([torch.stack([s.float().reshape(()) for s in scalars]), norms / left])
        rest = (self._graded, known, bool(losses), self._bad_before, self.vetoed)
        if device.type != "cuda":
            return _Light(values.cpu(), None, *rest)
        host = torch.empty(values.shape, pin_memory=True)
        host.copy_(values, non_blocking=True)
        arrived: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        return _Light(host, arrived, *rest)

    def _clip_coefficient(self, nan: Tensor) -> Tensor:
        """What the helper's rule says, or the trainer's clipping; 1 where there is none."""
        record = getattr(self.optimizer, "adam_clip", None)
        if record is not None:
            after = torch.where(record.norm_after.isnan(), record.norm_before, record.norm_after)
            left: Tensor = after / record.norm_before.clamp(min=1e-30)
            return left
        limit = self.trainer.gradient_clip_val
        if limit is None or self.trainer.gradient_clip_algorithm == "value" or self._norms is None:
            return torch.ones_like(nan)
        scale: Tensor = (float(limit) / (torch.linalg.vector_norm(self._norms) + 1e-6)).clamp(max=1.0)
        return scale

    def _arrive(self, everything: bool) -> None:
        """Hand over what has arrived, in order."""
        while self._waiting and (everything or self._waiting[0].arrived is None or self._waiting[0].arrived.query()):
            light = self._waiting.popleft()
            if light.arrived is not None:
                light.arrived.synchronize()
            self._finish(light, None)

    def _finish(self, light: _Light, heavy: HeavySignals | None) -> None:
        if light.arrived is not None:
            light.arrived.synchronize()
        values = light.values.tolist()
        numbers, norms = dict(zip(LIGHT, values, strict=False)), values[len(LIGHT) :]
        rate, overflowed = numbers.pop("lr"), numbers.pop("overflowed") > 0
        known = {**light.known, "lr": rate if math.isfinite(rate) else light.known["lr"]}
        known["skipped"] = known["skipped"] or overflowed
        bad = self._first_non_finite(light, numbers["loss"], norms, bool(known["skipped"]), heavy)
        norm = math.sqrt(sum(n * n for n in norms)) if norms else math.nan
        self._begin(known["step"])
        self._tell(StepSignals(**{**numbers, **known}, gradient_norm=norm, non_finite=bad, heavy=heavy))

    def _begin(self, step: int) -> None:
        """The run's record comes before its first step's."""
        if self._begun:
            return
        self._begun = True
        state = self.diagnosis.state_dict() if self.diagnosis.history.count else None
        self._tell(run_signals(self.trainer, self.optimizer, step, self._zero_tensors, state))

    def _first_non_finite(
        self, light: _Light, loss: float, norms: Sequence[float], skipped: bool, heavy: HeavySignals | None
    ) -> NonFinite | None:
        """In the order in which a step computes: the state that the last step left, loss, gradients, state."""
        if light.spoilt is not None:
            return light.spoilt
        if light.has_loss and not math.isfinite(loss):
            return NonFinite("loss")
        bad = tuple(name for name, norm in zip(light.names, norms, strict=True) if not math.isfinite(norm))
        if bad:
            return None if skipped and not light.vetoed else NonFinite("gradient", bad)
        if heavy is not None and not math.isfinite(sum(self._parameter_norms().values())):
            return self._spoilt()
        return None

    def _spoilt(self) -> NonFinite | None:
        """Which parameters are not finite, and whether their moments are not, either."""
        placed = [(g, p) for g in self.optimizer.param_groups for p in g["params"] if p.numel()]
        bad = [(g, p) for g, p in placed if not bool(torch.isfinite(p.detach()).all())]
        if not bad:
            return None
        moments = read_moments(self.optimizer, *bad[0])
        kept = [m for m in (moments.first, moments.second) if m is not None] if moments is not None else []
        finite = all(bool(torch.isfinite(moment).all()) for moment in kept)
        names = tuple(self._names.get(id(p), "a parameter") for _, p in bad)
        return NonFinite("parameter" if finite else "moment", names)

    def _parameter_norms(self) -> dict[str, float]:
        parameters = [p for g in self.optimizer.param_groups for p in g["params"] if p.requires_grad and p.numel()]
        norms = norms_of([p.detach() for p in parameters])
        values = [] if norms is None else norms.tolist()
        return {self._names.get(id(p), "a parameter"): v for p, v in zip(parameters, values, strict=True)}

    def _matrix_norms(self) -> dict[str, float]:
        matrices = {self._names.get(id(p)) for g in self.optimizer.param_groups for p in g["params"] if p.dim() >= 2}
        return {name: norm for name, norm in self._parameter_norms().items() if name in matrices}

    def _heavy(self, batch: Any) -> HeavySignals | None:
        readings = read_optimizer(self.optimizer, self._names, self._copies)
        self._copies = None
        return heavy_signals(readings, self._norms_before, self._embeddings, input_scale(batch))


def norms_of(tensors: Sequence[Tensor]) -> Tensor | None:
    """‖·‖ of each tensor, float32 [n] on the first one's device; None for no tensors."""
    dense = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    if not dense:
        return None
    norms = torch._foreach_norm(dense, 2, torch.float32) if dense[0].element_size() < 4 else torch._foreach_norm(dense)
    whole = [n.full_tensor() if hasattr(n, "full_tensor") else n for n in norms]
    on_one = len({n.device for n in whole}) == 1
    return torch.stack(whole if on_one else [n.to(whole[0].device) for n in whole]).detach().float()


def _total(norms: Tensor) -> float:
    return float(torch.linalg.vector_norm(norms)) if norms.numel() else math.nan


def _on(value: Tensor | float, device: torch.device) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return torch.full((), value, device=device)

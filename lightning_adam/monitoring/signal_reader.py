"""Reads one optimizer's steps into signals: light ones always and without waiting for a GPU, heavy ones when asked."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.clipping import ClipRecord
from lightning_adam.diagnosis import Diagnosis, HeavySignals, NonFinite, RunSignals, StepSignals
from lightning_adam.diagnosis.due import LARGE_LOGIT
from lightning_adam.moments import read_moments
from lightning_adam.monitoring.first_look import FirstLook
from lightning_adam.monitoring.gradients import are_finite, moments_of, norms_of
from lightning_adam.monitoring.guard import Guard
from lightning_adam.monitoring.parameters import NamedParameters
from lightning_adam.monitoring.pass_signals import batch_scale, heavy_signals
from lightning_adam.monitoring.run import Run
from lightning_adam.monitoring.run_signals import betas_of, run_signals
from lightning_adam.monitoring.step_gradients import StepGradients, on_device
from lightning_adam.monitoring.zeroing import ZeroingWatch
from lightning_adam.statistics import Before, RulesPass, copy_parameters

LIGHT = 6
"""Numbers of a light step that come from the device, before the tensors' gradient norms: loss, scale, clip coefficient,
largest logit, learning rate, and whether the step overflowed."""
MOST_AHEAD = 8
"""Steps whose numbers may still be on their way from a GPU: then the host waits for the oldest."""
MOST_LOSSES = 1024
"""Backward passes of one step whose losses are kept: those that lead to no step must not pile up."""


@dataclass
class StepInputs:
    """What the loop has told of the present step.

    Attributes:
        losses: of its backward passes, without fp16's scale; numbers where reading them waits for no device.
        batch: the last one.
        batch_index: its index in the epoch.
        largest_logit: largest |output| of the modules that the user watches, if any.
    """

    losses: deque[Tensor | float] = field(default_factory=lambda: deque(maxlen=MOST_LOSSES))
    batch: Any = None
    batch_index: int = 0
    largest_logit: Tensor | None = None

    def forget(self) -> None:
        """The next step's begin empty, with the same batch."""
        self.losses.clear()
        self.largest_logit = None


@dataclass(slots=True)
class _StepInFlight:
    """One step's numbers on their way to the host, and what the host knew already.

    Norms of single tensors are among them where the host does not know the total, or it is not finite. What has arrived
    already may wait for the next look.
    """

    values: Tensor | list[float]
    arrived: Any
    names: tuple[str, ...]
    known: dict[str, Any]
    has_loss: bool
    spoilt: NonFinite | None
    vetoed: bool
    planned: Any
    total: float = math.nan


class SignalReader:
    """One optimizer's steps.

    Args:
        run: whose optimizer it is.
        position: of the optimizer.
        optimizer: itself, without wrappers.
        parameters: their names.
        every: steps between two passes over all tensors.
        diagnosis: that is asked whether a step is worth a pass.
        tell: is handed each record, in order.
        guard: that catches what autograd's hooks raise.
        may_wait: whether nobody asks in between what the diagnosis remembers: then steps in which nothing can be found are
            handed over together, with the next one in which rules are asked.

    Attributes:
        is_vetoed: whether an action has left the present step out.
    """

    def __init__(
        self,
        run: Run,
        position: int,
        optimizer: Optimizer,
        parameters: NamedParameters,
        every: int,
        diagnosis: Diagnosis,
        tell: Callable[[RunSignals | StepSignals], None],
        guard: Guard,
        may_wait: bool = False,
    ) -> None:
        self.optimizer, self.diagnosis = optimizer, diagnosis
        self.is_vetoed = False
        self._run, self._position = run, position
        self._names, self._embeddings = parameters.names, parameters.embeddings
        self._every, self._tell, self._may_wait = every, tell, may_wait
        self._zeroing = ZeroingWatch(optimizer, guard)
        self._look = FirstLook(run.module, guard)
        self._in_flight: deque[_StepInFlight] = deque()
        self._has_begun, self._zero_tensors = False, 0
        self._planned: Any = None
        is_clipped = not math.isnan(run.clip_norm)
        self._gradients = StepGradients(optimizer, parameters.names, run.norms_of_clipping, is_clipped)
        self._copies: Before | None = None
        self._pass = RulesPass(optimizer, parameters.names)
        self._has_copied, self._measured = False, False
        self._norms_before: dict[str, float] = {}
        self._spoilt_before: NonFinite | None = None

    def catch_up(self) -> None:
        """Hand over what is on its way."""
        self._arrive(everything=True)

    def detach(self) -> None:
        """The run is over: take in what is on its way, and leave nothing behind."""
        self.catch_up()
        self._zeroing.detach()
        self._look.detach()
        self._pass.forget()

    def begin_again(self) -> None:
        """The next step's record comes after a new one of the run, with the diagnosis' state."""
        self._has_begun = False

    def before_closure(self) -> None:
        """A closure is about to compute the gradients: take what is gone after the step."""
        self._measured = self.diagnosis.wants_measurement(self._every, ahead=len(self._in_flight))
        self._copy()
        self._has_copied = True

    def before_clipping(self, losses: Sequence[Tensor | float]) -> None:
        """Gradients are complete, unscaled and not yet clipped: take what is gone after the step."""
        self.is_vetoed = False
        self._arrive(everything=len(self._in_flight) >= MOST_AHEAD)
        self._gradients.take()
        self._spoilt_before = None
        if self._gradients.on_host and not math.isfinite(sum(map(_mean, losses))):
            self._spoilt_before = self._spoilt()
        if not self._has_copied:
            self._measured = self.diagnosis.wants_measurement(self._every, ahead=len(self._in_flight))
            self._copy()
        self._has_copied = False

    def _copy(self) -> None:
        self._copies = copy_parameters(self.optimizer) if self._measured else None
        self._norms_before = self._parameter_norms() if self._measured else {}
        if not self._has_begun:
            self._zero_tensors = sum(norm == 0 for norm in self._matrix_norms().values())

    def gradient_norm(self) -> float:
        """‖g‖ now, before clipping; waits for the device."""
        self._gradients.ask()
        return self._gradients.total(self._run.gradient_scale(self.optimizer))

    def after_step(self, inputs: StepInputs) -> None:
        """The step was taken."""
        self._gradients.after_step()
        self._pass.after_step()
        step = self._send(inputs, self._known(inputs.batch_index))
        self._zeroing.after_step()
        if not self._waits(step):
            self._take_in(step, inputs.batch)
        self._look.after_step()

    def _waits(self, step: _StepInFlight) -> bool:
        """Put it to those on their way where no rule could say anything of it: what it takes is counted when it is due."""
        if not self._may_wait or self._measured or step.arrived is not None or step.names or step.spoilt is not None:
            return False
        loss, scale, _, logit, rate, overflowed = step.values
        known, has_plan = step.known, self._has_begun and step.planned is self._planned
        is_odd = known["skipped"] or known["not_zeroed"] or known["without_gradient"] or overflowed or scale < 1
        if is_odd or logit > LARGE_LOGIT or not has_plan or not math.isnan(rate):
            return False
        may_wait = self.diagnosis.may_wait(loss, step.total, known["lr"], len(self._in_flight))
        if may_wait:
            self._in_flight.append(step)
        return may_wait

    def _take_in(self, step: _StepInFlight, batch: Any) -> None:
        """Now, or as soon as its numbers are there."""
        if step.arrived is None:
            self.catch_up()
            self._measured = self._measured or self.diagnosis.wants_measurement(self._every, step.total)
        if self._measured and not self.is_vetoed:
            self.catch_up()
            self._finish(step, self._heavy(batch))
        else:
            self._in_flight.append(step)
            self._arrive(everything=step.arrived is None)

    def after_skip(self, inputs: StepInputs) -> None:
        """The gradient scaler left the step out."""
        self._gradients.after_step()
        self._in_flight.append(self._send(inputs, self._known(inputs.batch_index) | {"skipped": True}))
        self._arrive(everything=True)

    def _known(self, batch_index: int) -> dict[str, Any]:
        """What the host knows without asking the device."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        known_rates = [float(rate) for rate in rates if not isinstance(rate, Tensor) or rate.is_cpu]
        beta1, beta2 = betas_of(self.optimizer)
        return {
            "step": self._run.step(self._position),
            "batch": batch_index,
            "lr": max(known_rates, default=math.nan),
            "beta1": beta1,
            "beta2": beta2,
            "skipped": self.is_vetoed,
            "not_zeroed": self._zeroing.not_zeroed,
            "without_gradient": 0 if self.is_vetoed else self._gradients.missing,
            "unused": () if self.is_vetoed else self._gradients.unused,
        }

    def _send(self, inputs: StepInputs, known: dict[str, Any]) -> _StepInFlight:
        """All numbers of the step in one vector, on its way to pinned memory where the device is a GPU."""
        device, scale = self._gradients.device, self._run.gradient_scale(self.optimizer)
        scalars, each = self._scalars(inputs), self._gradients.each(scale)
        graded = () if each is None else self._gradients.graded
        planned = getattr(getattr(self.optimizer, "adam_schedule", None), "phases", None)
        rest = (graded, known, bool(inputs.losses), self._spoilt_before, self.is_vetoed, planned)
        if self._gradients.on_host:  # nothing to wait for, and Python's floats are quicker than small tensors
            norms = [] if each is None else each.tolist()
            return _StepInFlight([*map(float, scalars), *norms], None, *rest, self._gradients.total(scale))
        numbers = torch.stack([on_device(s, device).float().reshape(()) for s in scalars])
        values = numbers if each is None else torch.cat([numbers, each])
        if device.type != "cuda":
            return _StepInFlight(values.tolist(), None, *rest, self._gradients.total(scale))
        host = torch.empty(values.shape, pin_memory=True)
        host.copy_(values, non_blocking=True)
        arrived: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        return _StepInFlight(host, arrived, *rest)

    def _scalars(self, inputs: StepInputs) -> list[Tensor | float]:
        """As :data:`LIGHT` counts them."""
        logit, scale = inputs.largest_logit, self._run.loss_scale
        overflowed = getattr(self.optimizer, "found_inf", 0.0)  # GradScaler tells a fused optimizer, and calls it
        rates = [g["lr"] for g in self.optimizer.param_groups if isinstance(g["lr"], Tensor)]
        lr = torch.stack([r.float().to(self._gradients.device) for r in rates]).max() if rates else math.nan
        watched = math.nan if logit is None else logit
        scale = math.nan if scale is None else scale
        return [self._loss(inputs.losses), scale, self._clip_coefficient(), watched, lr, overflowed]

    def _loss(self, losses: Sequence[Tensor | float]) -> Tensor | float:
        """The mean of the step's backward passes."""
        if not losses:
            return math.nan
        if self._gradients.on_host:
            return sum(map(_mean, losses)) / len(losses)
        parts = [part.float().mean() if isinstance(part, Tensor) else part for part in losses]
        return torch.stack([on_device(part, self._gradients.device) for part in parts]).mean()

    def _clip_coefficient(self) -> Tensor | float:
        """What the helper's rule says, or the trainer's clipping; 1 where there is none."""
        record = getattr(self.optimizer, "adam_clip", None)
        if record is not None:
            return _left_by(record)
        limit = self._run.clip_norm
        if math.isnan(limit):
            return 1.0
        each, total = self._gradients.each(1.0), self._gradients.total
        if each is None or each.is_cpu:
            return 1.0 if each is None and math.isnan(total(1.0)) else _share(limit, total(1.0))
        scale: Tensor = (limit / (torch.linalg.vector_norm(each) + 1e-6)).clamp(max=1.0)
        return scale

    def _arrive(self, everything: bool) -> None:
        """Hand over what has arrived, in order."""
        while self._in_flight and (everything or _has_arrived(self._in_flight[0].arrived)):
            step = self._in_flight.popleft()
            if step.arrived is not None:
                step.arrived.synchronize()
            self._finish(step, None)

    def _finish(self, step: _StepInFlight, heavy: HeavySignals | None) -> None:
        if step.arrived is not None:
            step.arrived.synchronize()
        values = step.values if isinstance(step.values, list) else step.values.tolist()
        loss, scale, clip, logit, rate, overflowed = values[:LIGHT]
        norms, known = values[LIGHT:], step.known
        known["lr"] = rate if math.isfinite(rate) else known["lr"]
        known["skipped"] = known["skipped"] or overflowed > 0
        bad = self._first_non_finite(step, loss, norms, known["skipped"], heavy)
        norm = math.sqrt(sum(n * n for n in norms)) if norms else step.total
        self._begin(known["step"], step.planned)
        light = StepSignals(
            loss=loss, scale=scale, clip_coefficient=clip, logit_max=logit, gradient_norm=norm, non_finite=bad, heavy=heavy,
            **known,
        )  # fmt: skip
        self._tell(light)

    def _begin(self, step: int, planned: Any) -> None:
        """The run's record comes before its first step's, and again where the helper has planned the run anew."""
        if self._has_begun and planned is self._planned:
            return
        self._has_begun, self._planned = True, planned
        is_known = self.diagnosis.history.count or self.diagnosis.findings
        state = self.diagnosis.state_dict() if is_known else None
        self._tell(run_signals(self._run, self._position, self.optimizer, step, self._zero_tensors, state, self._names))

    def _first_non_finite(
        self, step: _StepInFlight, loss: float, norms: Sequence[float], skipped: bool, heavy: HeavySignals | None
    ) -> NonFinite | None:
        """In the order in which a step computes: the state that the last step left, loss, gradients, state."""
        if step.spoilt is not None:
            return step.spoilt
        if step.has_loss and not math.isfinite(loss):
            return NonFinite("loss")
        if not math.isfinite(sum(norms)):
            bad = tuple(name for name, norm in zip(step.names, norms, strict=True) if not math.isfinite(norm))
            return None if skipped and not step.vetoed else NonFinite("gradient", bad)
        if heavy is not None and not math.isfinite(sum(self._parameter_norms().values())):
            return self._spoilt()
        if heavy is not None and not math.isfinite(heavy.normalised_rms) and (lost := self._lost_moments()):
            return NonFinite("moment", lost)
        return None

    def _lost_moments(self) -> tuple[str, ...]:
        """Whose moments are not finite, though the weights are: Lion's sign of NaN is 0, and it stands still.

        A pass whose rms of m̂/(√v̂+ε) is finite has read them all already.
        """
        placed = {p: moments_of(self.optimizer, p) for g in self.optimizer.param_groups for p in g["params"]}
        if are_finite([moment for moments in placed.values() for moment in moments]):
            return ()
        return tuple(self._names.get(id(p), "a parameter") for p, moments in placed.items() if not are_finite(moments))

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
        table, self._copies = self._pass.table(self._copies), None
        scale = batch_scale(batch, self._look.scale())
        known = (self._norms_before, self._embeddings, scale, self._look.order)
        return None if table is None else heavy_signals(table, *known)


def _has_arrived(event: Any) -> bool:
    """On the host; what has been there from the start waits until it is asked for."""
    return event is not None and bool(event.query())


def _mean(loss: Tensor | float) -> float:
    """Of a loss; a loss is a single number but for a slip."""
    if isinstance(loss, float):
        return loss
    return float(loss) if loss.numel() == 1 else float(loss.float().mean())


def _left_by(record: ClipRecord) -> Tensor | float:
    """The share of the gradient that clipping has left; 1 where its rule does not tell."""
    if record.norm_before.is_cpu:
        norm, rest = float(record.norm_before), float(record.norm_after)
        return (norm if math.isnan(rest) else rest) / max(norm, 1e-30)
    after = torch.where(record.norm_after.isnan(), record.norm_before, record.norm_after)
    left: Tensor = after / record.norm_before.clamp(min=1e-30)
    return left


def _share(limit: float, norm: float) -> float:
    """As ``torch.nn.utils.clip_grad_norm_``; what is not finite stays so."""
    return norm if math.isnan(norm) else min(1.0, limit / (norm + 1e-6))

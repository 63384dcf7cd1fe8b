"""Watches every optimizer step, and says what is wrong while there is still something to save."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lightning_adam.callbacks._lightning import (
    LOG,
    StepHooks,
    gradient_scale,
    log_elsewhere,
    log_interval,
    log_step,
    loss_scale,
    never_raises,
    parameter_names,
    prefixes,
    tensorboard_writers,
)
from lightning_adam.diagnosis import Diagnosis, Finding, NonFinite, StepSignals, findings_table
from lightning_adam.moments import read_moments
from lightning_adam.statistics import Before, copy_parameters, read_optimizer, update_ratios

MEASURE_EVERY = 10


class DivergenceMonitor(Callback):
    """Names what makes a run diverge, with the evidence and what to change; once per episode.

    Looks at loss, gradient norm and finiteness at every step, and at the weights' update ratios on each of the first
    ten, on every tenth, and when a gradient stands out. Findings go to the console, to TensorBoard's text tab
    (``adam/findings``, the whole table each time), to ``adam/findings_total`` and to ``adam_events``.

    Attributes:
        findings: all findings so far (:class:`lightning_adam.Finding`), in order.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._hooks = StepHooks()
        self._names: dict[int, str] = {}
        self._prefixes: list[str] = []
        self._diagnoses: list[Diagnosis] = []
        self._restored: list[dict[str, Any]] = []
        self._losses: list[Tensor] = []
        self._batch = 0
        self._begin_batch()

    def summary(self) -> str:
        """All findings as a Markdown table."""
        return findings_table(self.findings)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The optimizers exist and hold their restored state: listen to them."""
        self._trainer = trainer
        self._names = parameter_names(pl_module, trainer.optimizers)
        self._prefixes = prefixes(trainer.optimizers)
        self._diagnoses = [Diagnosis() for _ in trainer.optimizers]
        for diagnosis, stored in zip(self._diagnoses, self._restored, strict=False):
            diagnosis.load_state_dict(stored)
        if not self._restored:
            self.findings = []
        self._restored = []
        self._losses = []
        self._hooks.attach(trainer.optimizers, self._after_step)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember which batch this is: a finding names it."""
        self._batch = batch_idx
        self._begin_batch()

    @override
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """The loss, before anything that it may spoil; fp16 has scaled it, accumulation has divided it."""
        parts = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
        self._losses.append(loss.detach() * (parts / loss_scale(trainer)))

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Gradients are complete, unscaled and not yet clipped."""
        self._attempted = True
        self._look_before(trainer, optimizer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step that was tried and did not happen: the GradScaler skipped it; a NaN loss must still be told."""
        if self._attempted and not self._stepped:
            self._after_skip()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run is over: let go of the optimizers."""
        self._hooks.detach()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The run broke; Lightning calls nothing else then."""
        self._hooks.detach()

    @override
    def state_dict(self) -> dict[str, Any]:
        """Plain types: Lightning loads checkpoints with ``weights_only=True``."""
        return {
            "findings": [finding.to_dict() for finding in self.findings],
            "diagnoses": [diagnosis.state_dict() for diagnosis in self._diagnoses],
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Lightning restores callbacks before the optimizers exist: taken up in ``on_train_start``."""
        self.findings = [Finding.from_dict(stored) for stored in state_dict["findings"]]
        self._restored = list(state_dict["diagnoses"])

    def _begin_batch(self) -> None:
        self._attempted = self._stepped = False
        self._norm: dict[int, float] = {}
        self._bad_gradients: dict[int, tuple[str, ...]] = {}
        self._before: dict[int, Before | None] = {}

    @never_raises
    def _look_before(self, trainer: Trainer, optimizer: Optimizer) -> None:
        norms = self._gradient_norms(optimizer)
        scale = gradient_scale(trainer, optimizer)
        self._norm[id(optimizer)] = math.sqrt(sum(norm * norm for norm in norms.values())) / scale
        self._bad_gradients[id(optimizer)] = tuple(name for name, norm in norms.items() if not math.isfinite(norm))
        if self._is_measured(optimizer):
            self._before[id(optimizer)] = copy_parameters(optimizer)

    def _gradient_norms(self, optimizer: Optimizer) -> dict[str, float]:
        """‖g‖ by tensor name; one host read."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad.coalesce().values() if p.grad.is_sparse else p.grad for p in parameters]
        if not gradients:
            return {}
        norms = torch.stack([norm.float() for norm in torch._foreach_norm(gradients)]).tolist()
        return {self._names.get(id(p), "a parameter"): norm for p, norm in zip(parameters, norms, strict=True)}

    def _is_measured(self, optimizer: Optimizer) -> bool:
        index = next(i for i, known in enumerate(self._trainer.optimizers) if known is optimizer)
        return self._diagnoses[index].wants_measurement(self._norm[id(optimizer)], MEASURE_EVERY)

    @never_raises
    def _after_step(self, index: int, optimizer: Optimizer) -> None:
        self._stepped = True
        ratios = None
        if self._is_measured(optimizer):
            ratios = update_ratios(read_optimizer(optimizer, self._names, self._before.get(id(optimizer))))
        self._diagnose(index, optimizer, self._first_non_finite(optimizer), ratios)

    @never_raises
    def _after_skip(self) -> None:
        if any(not bool(torch.isfinite(loss).all()) for loss in self._losses):
            self._diagnose(0, self._trainer.optimizers[0], NonFinite("loss"), None)
        self._losses = []

    def _diagnose(self, index: int, optimizer: Optimizer, bad: NonFinite | None, ratios: dict[str, float] | None) -> None:
        loss = float(torch.stack([part.float().mean() for part in self._losses]).mean()) if self._losses else None
        betas = [group["betas"][1] for group in optimizer.param_groups if len(group.get("betas", ())) > 1]
        signals = StepSignals(
            step=log_step(self._trainer),
            loss=loss,
            gradient_norm=self._norm.get(id(optimizer), math.nan),
            lr=max(float(group["lr"]) for group in optimizer.param_groups),
            beta2=max(betas, default=math.nan),
            batch=self._batch,
            non_finite=bad,
            update_ratios=ratios or None,
        )
        self._losses = []
        self._report(index, signals.step, self._diagnoses[index].observe(signals))

    def _first_non_finite(self, optimizer: Optimizer) -> NonFinite | None:
        """In the order in which a step computes: loss, gradients, then moments and parameters."""
        if any(not bool(torch.isfinite(loss).all()) for loss in self._losses):
            return NonFinite("loss")
        if bad := self._bad_gradients.get(id(optimizer)):
            return NonFinite("gradient", bad)
        return self._non_finite_state(optimizer)

    def _non_finite_state(self, optimizer: Optimizer) -> NonFinite | None:
        placed = [(group, p) for group in optimizer.param_groups for p in group["params"] if p.numel()]
        norms = torch.stack([n.float() for n in torch._foreach_norm([p.detach() for _, p in placed])]).tolist()
        bad = [pair for pair, norm in zip(placed, norms, strict=True) if not math.isfinite(norm)]
        if not bad:
            return None
        names = tuple(self._names.get(id(p), "a parameter") for _, p in bad)
        moments = read_moments(optimizer, *bad[0])
        kept = [m for m in (moments.first, moments.second) if m is not None] if moments is not None else []
        spoiled = not all(bool(torch.isfinite(moment).all()) for moment in kept)
        return NonFinite("moment" if spoiled else "parameter", names)

    def _report(self, index: int, step: int, fresh: list[Finding]) -> None:
        self.findings += fresh
        for finding in fresh if self._trainer.is_global_zero else ():
            LOG.warning("%s", finding.line())
        every = log_interval(self._trainer)
        if fresh or (every > 0 and (step + 1) % every == 0):
            self._write(index, step, fresh)

    def _write(self, index: int, step: int, fresh: list[Finding]) -> None:
        prefix = self._prefixes[index]
        total = {f"{prefix}/findings_total": float(len(self._diagnoses[index].findings))}
        for writer in tensorboard_writers(self._trainer, prefix):
            writer.write_scalars(step, total)
            if fresh:
                writer.write_text(f"{prefix}/findings", findings_table(self._diagnoses[index].findings), step)
                writer.write_events(step, [finding.to_dict() for finding in fresh])
        log_elsewhere(self._trainer, total, step)

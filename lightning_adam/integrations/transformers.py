"""Both monitors in Hugging Face's Trainer. transformers is imported with this module, and by nothing else of the package."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lightning_adam.diagnosis import Finding, findings_table
from lightning_adam.integrations.loop import Watch, watch
from lightning_adam.monitoring.guard import Guard
from lightning_adam.monitoring.validation import loss_among


class AdamCallback(TrainerCallback):  # type: ignore[misc]
    """What :func:`lightning_adam.watch` does, for ``transformers.Trainer(..., callbacks=[AdamCallback()])``.

    The x-axis is ``global_step`` before the step: what the Trainer logs at 10 stands at 9, as under Lightning. The loss is
    read from the model's output; where it has none (label smoothing, ``compute_loss_func``), the diagnosis has gradients and
    steps only. Gradient norms are those before the Trainer's clipping. A resumed run's diagnosis begins anew.

    Args:
        writer: where to log, as ``la.watch`` takes it; by default the W&B run, if the Trainer reports to one, and else
            TensorBoard in ``<output_dir>/runs/adam``.
        log_dir: another folder for TensorBoard.
        every_n_steps: optimizer steps between two logged steps; the Trainer's ``logging_steps`` by default.
        **options: what else :func:`lightning_adam.watch` takes, such as ``on_divergence="stop"``.

    Attributes:
        findings: all findings so far (:class:`lightning_adam.Finding`), in order.
    """

    def __init__(
        self, *, writer: Any = None, log_dir: str | Path | None = None, every_n_steps: int | None = None, **options: Any
    ) -> None:
        self._writer, self._log_dir, self._every_n_steps, self._options = writer, log_dir, every_n_steps, options
        self._watch: Watch | None = None
        self._guard = Guard()
        self._found: list[Finding] = []
        self._handle: RemovableHandle | None = None
        self._parts: list[Tensor] = []
        self._accumulation, self._are_summands = 1, False

    @property
    def findings(self) -> list[Finding]:
        """All findings so far, in order."""
        return self._found if self._watch is None else self._watch.findings

    def summary(self) -> str:
        """All findings as a Markdown table."""
        return findings_table(self.findings)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Model and optimizer are prepared: listen to them."""
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        self._accumulation, self._parts = args.gradient_accumulation_steps, []
        norm = args.max_grad_norm  # 0 and below turn clipping off; infinity only measures
        self._watch = watch(
            model,
            optimizer,
            **self._target(args),
            total_steps=state.max_steps if state.max_steps > 0 else None,
            first_step=state.global_step,
            every_n_steps=self._every_n_steps or max(1, int(state.logging_steps)),
            clip_norm=norm if norm and 0 < norm < math.inf else None,
            scaler=getattr(optimizer, "scaler", None),
            schedulers=kwargs.get("lr_scheduler", ()),
            **self._options,
        )
        self._handle = model.register_forward_hook(self._see_output, with_kwargs=True)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The last step of an epoch may have fewer batches than the others: its loss is complete only now."""
        self._hand_over()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A finding may ask for the end of the run."""
        if self._watch is not None and self._watch.should_stop:
            control.should_training_stop = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Its loss goes to the rules."""
        loss = self._guard.value("validation's loss", math.nan, loss_among, kwargs.get("metrics") or {})
        if self._watch is not None and math.isfinite(loss):
            self._watch.validated(loss)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The run is over: write what is left, and let go of model and optimizer."""
        watched, self._watch = self._watch, None
        if self._handle is not None:
            self._handle.remove()
        self._handle, self._parts = None, []
        if watched is not None:
            watched.close()
            self._found = watched.findings

    def _target(self, args: TrainingArguments) -> dict[str, Any]:
        """Where to log, as arguments of ``watch``."""
        if self._writer is not None or self._log_dir is not None:
            return {"writer": self._writer, "log_dir": self._log_dir}
        if "wandb" in (args.report_to or ()) and (run := _wandb_run()) is not None:
            return {"writer": run}
        return {"log_dir": Path(args.output_dir or ".", "runs", "adam")}

    def _see_output(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        """The loss of one batch; the model divides it by the items of all accumulated batches if it is told their number."""
        loss = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", None)
        if not (module.training and isinstance(loss, Tensor) and loss.requires_grad):
            return
        if self._watch is not None:
            self._watch.look_at(loss)
        self._are_summands = kwargs.get("num_items_in_batch") is not None
        self._parts.append(loss.detach())
        if len(self._parts) == self._accumulation:
            self._hand_over()
            loss.register_hook(self._at_the_end_of_backward)  # type: ignore[no-untyped-call]

    def _hand_over(self) -> None:
        parts, self._parts = self._parts, []
        if parts and self._watch is not None:
            whole = torch.stack([part.float().mean() for part in parts])
            self._watch.loss(whole.sum() if self._are_summands else whole.mean())

    def _at_the_end_of_backward(self, gradient: Tensor) -> None:
        """The Trainer clips before it tells anybody: its callbacks see the gradients too late."""
        torch.autograd.Variable._execution_engine.queue_callback(self._before_clipping)  # type: ignore[attr-defined]

    def _before_clipping(self) -> None:
        if self._watch is not None:
            self._watch.before_clipping()

    def __getstate__(self) -> dict[str, Any]:
        """Without the run that it follows: a copy follows its own."""
        return {**self.__dict__, "_watch": None, "_handle": None, "_parts": [], "_found": list(self.findings)}


def _wandb_run() -> Any:
    import wandb

    return wandb.run

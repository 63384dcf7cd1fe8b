"""Both monitors for whoever trains without Lightning's Trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from typing_extensions import Self

from lightning_adam.describe import hyperparameters
from lightning_adam.diagnosis import Finding, findings_table
from lightning_adam.diagnosis.stored import is_list_of
from lightning_adam.errors import ConfigError, say_left_out
from lightning_adam.integrations.first_look import first_look
from lightning_adam.integrations.loop_checks import as_loss, check_loop
from lightning_adam.integrations.loop_run import LoopRun, unwrapped
from lightning_adam.monitoring import DivergenceOptions, Granularity, Monitor, MonitorState, Sink, StatisticsOptions
from lightning_adam.monitoring.console import print_findings
from lightning_adam.monitoring.guard import Guard
from lightning_adam.monitoring.step_hooks import StepHooks, with_hooks
from lightning_adam.preflight.nodes import can_be_read
from lightning_adam.real_numbers import plain_number
from lightning_adam.sinks import sinks_of


def watch(
    module: nn.Module,
    optimizers: Optimizer | Sequence[Optimizer],
    *,
    writer: Any = None,
    log_dir: str | Path | None = None,
    total_steps: int | None = None,
    steps_per_epoch: float | None = None,
    first_step: int = 0,
    every_n_steps: int = 50,
    accumulation: int = 1,
    clip_norm: float | None = None,
    scaler: Any = None,
    schedulers: Any = (),
    tensors: str | Sequence[str] | None = None,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] | None = None,
    granularity: Granularity = "parameter",
    top: int = 5,
    on_divergence: str = "warn",
    max_actions: int = 3,
    raise_on: str | None = None,
    trial: Any = None,
    check_every_n_steps: int = 20,
    logits: Sequence[str] = (),
    ignore: Sequence[str] = (),
) -> Watch:
    """What OptimizerMonitor and DivergenceMonitor do, in a plain PyTorch, Fabric or Accelerate loop.

    Steps are seen by the optimizers' own hooks; hand over each loss before its backward::

        with la.watch(model, optimizer, log_dir="runs/plain", total_steps=1000) as watch:
            for batch in batches:
                optimizer.zero_grad()
                loss = criterion(model(batch))
                watch.loss(loss).backward()
                optimizer.step()

    Args:
        module: the network; wrapped by Fabric, DDP or torch.compile or not.
        optimizers: one, or all that step; the helper's or any other, wrapped or not.
        writer: where to log: a torch ``SummaryWriter``, a logger of Lightning or Fabric, a W&B run, or a list of these.
        log_dir: instead of that, a folder for TensorBoard. With neither, findings go to the console only.
        total_steps: planned optimizer steps, which some rules want to know.
        steps_per_epoch: optimizer steps of an epoch: the configuration's text then tells durations in epochs, too.
        first_step: where the log's x-axis begins, of a run that goes on without the watch's own state.
        every_n_steps: optimizer steps between two logged steps.
        accumulation: what each loss is divided by before its backward; 1 where gradients of several are summed undivided.
        clip_norm: the total norm that the loop clips to by hand (0 or infinite: to none); see :meth:`Watch.before_clipping`.
        scaler: the ``torch.amp.GradScaler``, if there is one; the loss may then be handed over scaled or not.
        schedulers: torch's learning-rate schedulers, one or several, for ``on_divergence``: they would take back a rate that
            it lowers.
        tensors: as OptimizerMonitor takes it, like ``include``, ``exclude``, ``granularity`` and ``top``.
        include: globs of the parameter names to look at.
        exclude: globs of parameter names to leave out.
        granularity: ``"model"``, ``"group"`` or ``"parameter"``.
        top: tensors in the tables of those that stand out.
        on_divergence: as DivergenceMonitor takes it, like ``max_actions``, ``raise_on``, ``trial``, ``logits`` and
            ``ignore``. A stop sets ``watch.should_stop``, which the loop has to look at.
        max_actions: at most so many of them.
        raise_on: raise DivergenceError, out of ``optimizer.step()``, on a finding of this severity or a graver one.
        trial: an Optuna trial to prune.
        check_every_n_steps: steps between two of the diagnosis' passes over all tensors.
        logits: globs of module names whose largest |output| is watched.

    Raises:
        ConfigError: an argument is wrong; the message says what is allowed.
    """
    found = _optimizers(module, optimizers)
    if writer is not None and log_dir is not None:
        raise ConfigError(f"log_dir={str(log_dir)!r} and a writer: give one of them; a writer has a folder already.")
    total_steps, steps_per_epoch, first_step = map(plain_number, (total_steps, steps_per_epoch, first_step))
    every_n_steps, accumulation, clip_norm = map(plain_number, (every_n_steps, accumulation, clip_norm))
    check_every_n_steps = plain_number(check_every_n_steps)
    clip_norm = None if clip_norm in (0, math.inf) else clip_norm  # people measure the norm so, and switch clipping off
    check_loop(every_n_steps=every_n_steps, accumulation=accumulation, total_steps=total_steps, first_step=first_step)
    check_loop(check_every_n_steps=check_every_n_steps)
    check_loop(steps_per_epoch=steps_per_epoch, clip_norm=clip_norm, scaler=scaler, log_dir=log_dir)
    statistics = StatisticsOptions(every_n_steps, tensors, include, exclude, granularity, top)
    divergence = DivergenceOptions(on_divergence, max_actions, raise_on, trial, check_every_n_steps, logits, ignore)
    named = schedulers if isinstance(schedulers, (list, tuple)) else [] if schedulers is None else [schedulers]
    check_loop(schedulers=named)
    run = LoopRun(
        unwrapped(module), found, scaler, total_steps, steps_per_epoch, every_n_steps, accumulation, clip_norm, named
    )
    run.steps = [first_step] * len(found)
    return Watch(run, statistics, divergence, writer, log_dir)


class Watch:
    """Follows one loop, from :func:`watch` to :meth:`close`; also a context manager.

    Attributes:
        findings: all findings so far (:class:`lightning_adam.Finding`), in order; of a closed one, too.
        should_stop: whether an action asks the loop to end.
    """

    def __init__(
        self,
        run: LoopRun,
        statistics: StatisticsOptions,
        divergence: DivergenceOptions,
        writer: Any = None,
        log_dir: str | Path | None = None,
    ) -> None:
        self._options = (statistics, divergence)
        self._own_writer = None if log_dir is None or not run.is_main else _summary_writer(log_dir)
        given = self._own_writer if writer is None else writer
        writers = [] if given is None else list(given) if isinstance(given, (list, tuple)) else [given]
        run.sinks = _sinks(writers) if run.is_main else ()
        run.folder = Path(log_dir or getattr(writers[0] if writers else None, "log_dir", None) or ".")
        self._run: LoopRun | None = run
        self._counting, self._clip_hooks = StepHooks(), list[RemovableHandle]()
        self._losses, self._last_scale, self._steps_before = 0, math.nan, list(run.steps)
        self._steps_unheard = 0
        self._kept: tuple[list[Finding], dict[str, Any]] = ([], {})
        self._failures, self._has_stopped, self._has_looked = frozenset[str](), False, False
        for sink in run.sinks:
            Guard().run("the hyper-parameters", sink.hyperparameters, hyperparameters(run.optimizers))
        self._monitor: Monitor | None = None
        try:
            self._monitor = self._started(run, MonitorState())
        except ConfigError:
            if self._own_writer is not None:
                self._own_writer.close()
            raise

    @property
    def findings(self) -> list[Finding]:
        """All findings so far, in order."""
        return self._kept[0] if self._monitor is None else self._monitor.findings

    @property
    def should_stop(self) -> bool:
        """Whether ``on_divergence="stop"`` asks the loop to end."""
        return self._has_stopped if self._run is None else self._run.should_stop

    @property
    def failures(self) -> frozenset[str]:
        """What the monitor could not do, in words; each was told about once."""
        return self._failures if self._monitor is None else frozenset(self._monitor.guard.failures)

    def loss(self, loss: Tensor, *, batch: Any = None, batch_index: int | None = None) -> Tensor:
        """Hand over the loss right before its backward, once for each; returns it.

        Args:
            loss: as it is, or as the gradient scaler has scaled it.
            batch: what it was computed from, for the rules that look at the inputs' scale.
            batch_index: its index in the epoch, for messages; by default the losses are counted.

        Raises:
            ConfigError: it is no tensor and no number, such as a model's whole output; None is told of, and ends nothing.
        """
        if loss is None and self._monitor is not None:
            self._monitor.guard.tell("a loss", "watch.loss() was given None: leave it out where a batch has no loss.")
            return loss
        if not isinstance(loss, Tensor):
            self.loss(as_loss(loss), batch=batch, batch_index=batch_index)
            return loss
        self.look_at(loss, batch)
        if self._monitor is not None and self._run is not None:
            self._monitor.guard.run("skipped steps", self._see_skipped_steps, self._run, self._monitor)
            self._monitor.begin_batch(batch, self._losses if batch_index is None else batch_index)
            self._losses += 1
            self._monitor.guard.run("a loss", self._hand_over, loss, self._run, self._monitor)
        return loss

    def validated(self, loss: Tensor | float) -> None:
        """Hand over what a validation cost, in the size of the training loss; also before the first step.

        What is no number is told of, and ends nothing.
        """
        if (monitor := self._monitor) is not None:
            monitor.guard.run("a validation's loss", lambda: monitor.validated(float(loss)))

    def look_at(self, loss: Tensor, batch: Any = None) -> None:
        """See how the very first loss was made, and what is wrong with the module; :meth:`loss` does it by itself.

        Args:
            loss: with its autograd graph.
            batch: what it was computed from.
        """
        if self._has_looked or self._monitor is None or self._run is None:
            return
        self._has_looked = True
        if not any(self._run.steps):
            self._monitor.guard.run("the checks of the first step", first_look, loss, batch, self._run, self._monitor)

    def before_clipping(self, optimizer: Optimizer | None = None) -> None:
        """Call it before ``clip_grad_norm_`` (and after ``scaler.unscale_``) in a loop that clips by hand.

        Norms are then those before clipping; without it they are what the optimizer gets. The helper's optimizers need no
        such call.

        Args:
            optimizer: whose gradients are complete; all by default.
        """
        if self._monitor is None or self._run is None:
            return
        for one in self._run.optimizers if optimizer is None else [optimizer]:
            self._monitor.before_clipping(one)

    def summary(self) -> str:
        """All findings as a Markdown table."""
        return findings_table(self.findings)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint, beside the optimizers' states: plain types and tensors."""
        if self._monitor is not None and self._run is not None:
            self._monitor.guard.run("its state in a checkpoint", self._keep, self._monitor, self._run)
        return self._kept[1]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, before the first step."""
        if self._monitor is None or self._run is None:
            raise ConfigError("This watch is closed: make a new one with la.watch(...), and load the state into that.")
        steps: Any = state.get("steps")
        losses = state.get("losses")
        if is_list_of(int, steps) and len(steps) == len(self._run.steps) and type(losses) is int:
            self._run.steps, self._losses = list(steps), losses
        else:
            say_left_out("watch", ["the steps so far, which count from 0"])
        self._detach(self._monitor)
        self._monitor = self._started(self._run, MonitorState.from_dict(state.get("monitor", {})))

    def close(self) -> None:
        """The loop is over: write what is left, and let go of the module and the optimizers; may be called twice."""
        monitor, run = self._monitor, self._run
        if monitor is None or run is None:
            return
        try:
            monitor.guard.run("skipped steps", self._see_skipped_steps, run, monitor)
            self._detach(monitor)
            monitor.end()
        finally:
            self.state_dict()
            self._monitor = self._run = None
            if self._own_writer is not None:
                monitor.guard.run("the end of its log", self._own_writer.close)
            if run.is_main:
                monitor.guard.run("the table of findings", print_findings, self.findings)
            self._failures, self._has_stopped = frozenset(monitor.guard.failures), run.should_stop

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _keep(self, monitor: Monitor, run: LoopRun) -> None:
        """What is known now, for a checkpoint or for the time after the end."""
        self._kept = monitor.findings, self._kept[1]  # whatever becomes of the state
        state = {"monitor": monitor.state().to_dict(), "steps": list(run.steps), "losses": self._losses}
        self._kept = self._kept[0], state

    def _started(self, run: LoopRun, state: MonitorState) -> Monitor:
        monitor = Monitor(run, *self._options, state)
        monitor.begin()
        registering = [getattr(optimizer, "register_before_clip_hook", None) for optimizer in run.optimizers]
        self._clip_hooks = [register(monitor.before_clipping) for register in registering if register is not None]

        def count(position: int) -> None:
            run.steps[position] += 1
            self._steps_unheard += 1
            if self._losses == 0 and self._steps_unheard == PATIENCE:
                run.tell(NO_LOSS)

        self._counting.attach(run.optimizers, lambda position, has_closure: None, count)  # after the monitor's hooks
        return monitor

    def _detach(self, monitor: Monitor) -> None:
        monitor.detach()
        self._counting.detach()
        for handle in self._clip_hooks:
            handle.remove()

    def _hand_over(self, loss: Tensor, run: LoopRun, monitor: Monitor) -> None:
        monitor.loss(loss, is_scaled=_is_scaled(loss, run.loss_scale))

    def _see_skipped_steps(self, run: LoopRun, monitor: Monitor) -> None:
        """A gradient scaler that leaves a step out calls nobody; it lowers its scale.

        Of several optimizers it was that of those which have not stepped since the last loss, and are behind the others.
        """
        scale = run.loss_scale
        if scale is None or all(getattr(o, "_step_supports_amp_scaling", False) for o in run.optimizers):
            return  # a fused optimizer is called all the same, and nobody waits for the scale
        before, self._last_scale = self._last_scale, float(scale)
        steps_before, self._steps_before = self._steps_before, list(run.steps)
        if not self._last_scale < before:
            return
        idle = [position for position, steps in enumerate(run.steps) if steps == steps_before[position]]
        for position in [p for p in idle if run.steps[p] < max(run.steps)] or idle:
            monitor.skipped(position)
            run.steps[position] += 1
        self._steps_before = list(run.steps)


def _optimizers(module: Any, optimizers: Any) -> list[Optimizer]:
    if not isinstance(module, nn.Module):
        given = repr(module).splitlines()[0]  # an optimizer's has many lines
        raise ConfigError(f"module={given}: give the network, an nn.Module.")
    found = list(optimizers) if isinstance(optimizers, (list, tuple)) else [optimizers]
    wrong = [one for one in found if not hasattr(one, "param_groups")]
    if wrong or not found:
        what = type(wrong[0]).__name__ if wrong else "nothing"
        raise ConfigError(
            f"optimizers: got {what}. Give an optimizer or a list of them; of la.configure_optimizers(...) its "
            '["optimizer"].'
        )
    return [with_hooks(optimizer) or optimizer for optimizer in found]


def _sinks(writers: Sequence[Any]) -> list[Sink]:
    """Of all writers; one that fails to open loses itself only."""
    found: list[Sink] = []
    for writer in writers:
        Guard().run(f"the log of {type(writer).__name__}", _open, writer, found)
    return found


def _open(writer: Any, found: list[Sink]) -> None:
    found += sinks_of([writer])


def _summary_writer(log_dir: str | Path) -> Any:
    from torch.utils.tensorboard.writer import SummaryWriter

    return SummaryWriter(str(log_dir))


PATIENCE = 10
"""Steps after which a loop that has handed over no loss is told so."""
NO_LOSS = (
    f"la.watch: no loss was handed over in the first {PATIENCE} steps, and whatever looks at it stays silent. Write "
    "watch.loss(loss).backward() in place of loss.backward()."
)
NODES = 16
"""Operations before the loss among which the scaler's is looked for: what comes after it is a division or a sum."""


def _is_scaled(loss: Tensor, scale: Tensor | float | None) -> bool:
    """Whether ``scaler.scale`` is among what made the loss: a product with the scaler's own tensor."""
    nodes = [loss.grad_fn] if isinstance(scale, Tensor) else []
    for node in nodes:
        if _is_product_with(node, scale):
            return True
        if len(nodes) < NODES:
            nodes += [before for before, _ in getattr(node, "next_functions", ()) if before is not None]
    return False


def _is_product_with(node: Any, scale: Any) -> bool:
    try:
        if not can_be_read(node):
            return False
        factors = [getattr(node, name, None) for name in ("_saved_other", "_saved_self")]
    except RuntimeError:  # a backward has freed them
        return False
    return any(isinstance(factor, Tensor) and _is_same_scale(factor, scale) for factor in factors)


def _is_same_scale(factor: Tensor, scale: Tensor) -> bool:
    """The scaler's own tensor; of a list of losses it takes a copy, whose number costs a GPU's host a wait."""
    if factor.data_ptr() == scale.data_ptr():
        return True
    return factor.is_cpu and factor.numel() == 1 and not factor.requires_grad and float(factor) == float(scale)

"""Both monitors of one run, whoever trains: they listen, measure, diagnose, write and act."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lightning_adam.diagnosis import Finding, FirstStepSignals
from lightning_adam.diagnosis.finding import reach, readable_findings
from lightning_adam.errors import ConfigError, nearest
from lightning_adam.monitoring.actions import Actions, DivergenceError, scale_rates
from lightning_adam.monitoring.all_sinks import AllSinks
from lightning_adam.monitoring.forward_hook import ForwardHook
from lightning_adam.monitoring.guard import LOG, Guard
from lightning_adam.monitoring.monitored_optimizer import MonitoredOptimizer
from lightning_adam.monitoring.optimizer_diagnosis import OptimizerDiagnosis, Record
from lightning_adam.monitoring.optimizer_statistics import FEW_TENSORS, OptimizerStatistics
from lightning_adam.monitoring.options import DivergenceOptions, StatisticsOptions
from lightning_adam.monitoring.parameters import NamedParameters, are_known, named_parameters, prefixes
from lightning_adam.monitoring.ranks import Ranks
from lightning_adam.monitoring.run import Run
from lightning_adam.monitoring.selection import as_patterns, matching
from lightning_adam.monitoring.signal_reader import SignalReader, StepInputs
from lightning_adam.monitoring.situation import Situation
from lightning_adam.monitoring.state import MonitorState
from lightning_adam.monitoring.step_hooks import StepHooks, with_hooks
from lightning_adam.monitoring.stopping import prune

MOST_ATTEMPTS = 3
"""Times that a beginning which fails is tried again."""


class Monitor:
    """Watches the optimizers of one run from :meth:`begin` to :meth:`end`.

    It changes nothing but by an action that was asked for, and nothing that goes wrong in it reaches the training.

    Args:
        run: who trains.
        statistics: what is logged of the optimizers; None for nothing.
        divergence: how the run is diagnosed; None for not at all.
        state: of an earlier part of the run, from :meth:`state`.
        on_record: is handed the optimizer's position and each record, as the rules see it.
    """

    def __init__(
        self,
        run: Run,
        statistics: StatisticsOptions | None = None,
        divergence: DivergenceOptions | None = None,
        state: MonitorState | None = None,
        on_record: Callable[[int, Record], None] | None = None,
    ) -> None:
        self.guard = Guard()
        self._run, self._statistics, self._divergence = run, statistics, divergence
        self._ranks = Ranks(run, self.guard)
        self._before, self._on_record = state or MonitorState(), on_record
        self._sinks = AllSinks(run.sinks, self.guard)
        self._actions = Actions(divergence.on_divergence, divergence.max_actions) if divergence else Actions("warn", 1)
        self._optimizers: list[MonitoredOptimizer] = []
        self._inputs = StepInputs()
        self._hooks = StepHooks()
        self._logit_hooks: list[RemovableHandle] = []
        self._unheard: list[Optimizer] = []
        self._attempts = 0

    @property
    def findings(self) -> list[Finding]:
        """All so far, and what was done about them, in order."""
        diagnoses = self._diagnoses()
        if not diagnoses:
            return self._before.findings
        found = [finding for d in diagnoses for finding in d.findings]
        done = [finding for d in diagnoses for finding in d.actions_taken]
        return sorted([*found, *done], key=lambda finding: finding.step)

    def begin(self, is_everywhere: bool = True) -> None:
        """The optimizers exist and hold their restored state: listen to them.

        Args:
            is_everywhere: whether each rank has a monitor. Where one has none, nobody acts, for all have to act alike.

        Raises:
            ConfigError: a pattern among the options matches no parameter.
        """
        if not is_everywhere:
            self._only_warn()
        try:
            self.guard.run("the optimizer's steps", self._listen)
            self.guard.run("the start of the run", self._watched)
        except ConfigError:
            self.detach()
            raise

    def loss(self, loss: Tensor, is_scaled: bool = True) -> None:
        """The loss, right before its backward: divided by the accumulation.

        Args:
            loss: as it is then.
            is_scaled: whether fp16's scale is in it, where there is one.
        """
        if self._divergence is not None:
            self.guard.run("a loss", self._take_loss, loss, is_scaled)

    def begin_batch(self, batch: Any, batch_index: int) -> None:
        """Remember which batch this is: a finding names it."""
        self._inputs.batch, self._inputs.batch_index = batch, batch_index

    def know(self, first: FirstStepSignals) -> None:
        """What the first training step shows; the first optimizer's diagnosis tells it."""
        for diagnosis in self._diagnoses()[:1]:
            diagnosis.first = first

    def validated(self, loss: float) -> None:
        """What validation costs with the weights of now; before the first step with those that training begins with."""
        for diagnosis in self._diagnoses():
            self.guard.run("a validation's loss", diagnosis.validated, loss)

    def before_clipping(self, optimizer: Any) -> None:
        """Gradients are complete, unscaled and not yet clipped."""
        self.guard.run("a step", self._before_clipping, optimizer)

    def forget_losses(self) -> None:
        """The losses so far lead to no step."""
        self._inputs.forget()

    def after_batch(self) -> None:
        """Take in steps that a gradient scaler left out, and act on what was found.

        Raises:
            DivergenceError: a finding that the user asked to be raised; or ``optuna.TrialPruned``.
        """
        if self._run.has_batches:
            self.guard.run("skipped steps", self._take_skips)
        self._inputs.batch = None
        if self._divergence is not None:
            fresh: list[Finding] = []
            self.guard.run("an action", self._take_fresh if self._actions.kind == "warn" else self._act, fresh)
            if fresh:
                self._raise(fresh)

    def skipped(self, position: int) -> None:
        """A gradient scaler left out the step of this optimizer, of a run that has no batches.

        Raises:
            DivergenceError: as in :meth:`after_batch`.
        """
        self.guard.run("skipped steps", self._take_skip, position)
        self.after_batch()

    def end(self) -> None:
        """The run is over, or broke: write what is left, and let go of everything that trains.

        Raises:
            DivergenceError: as in :meth:`after_batch`.
        """
        self.detach()
        self.guard.run("the end of the run", self._run.end)
        for watched in self._optimizers:
            self.guard.run(f"the end of {watched.prefix}", watched.end)
        self._sinks.end()
        fresh: list[Finding] = []
        self.guard.run("the last findings", self._take_fresh, fresh)
        self._raise(fresh)

    def detach(self) -> None:
        """Listen no more; may be called twice."""
        self._hooks.detach()
        for handle in self._logit_hooks:
            handle.remove()
        self._inputs, self._logit_hooks = StepInputs(), []

    def state(self) -> MonitorState:
        """Plain types and tensors: what a checkpoint holds of the run."""
        if not self._optimizers:
            return self._before
        statistics = {w.prefix: w.statistics.state_dict() for w in self._optimizers if w.statistics is not None}
        diagnoses = [d.state_dict() for d in self._diagnoses()]
        done = [finding.to_dict() for d in self._diagnoses() for finding in d.actions_taken]
        return MonitorState(statistics, diagnoses, done, self._actions.state_dict())

    def _listen(self) -> None:
        self._unheard = self._hooks.attach(self._run.optimizers, self._before_step, self._after_step)
        for optimizer in self._unheard:
            name = type(optimizer).__name__
            LOG.warning("%s has no step hooks and wraps no optimizer that has: it is not monitored.", name)
        modules = dict(self._run.module.named_modules())
        for glob in self._divergence.logits if self._divergence is not None else ():
            found = [name for name in modules if fnmatch(name, glob)]
            if not found:
                raise ConfigError(f"logits={glob!r} matches no module of the model.{nearest(glob, modules)}")
            hook = ForwardHook(self._take_logits)
            self._logit_hooks += [modules[name].register_forward_hook(hook) for name in found]

    def _watched(self) -> list[MonitoredOptimizer]:
        """All optimizers; what could not be prepared at the beginning (a lazy module's) is prepared now."""
        if not self._optimizers and self._attempts < MOST_ATTEMPTS and are_known(self._run.optimizers):
            self._attempts += 1
            is_prepared = self.guard.run("the start of the run", self._prepare)
            if self._actions.kind != "warn":
                self._agree_to_act(is_prepared)
        return self._optimizers

    def _agree_to_act(self, is_prepared: bool) -> None:
        """All ranks, or none: one that sees no optimizer would never vote."""
        some = self._ranks.any("an action", lambda: is_prepared)
        if some and self._ranks.all("an action", lambda: is_prepared):
            self._actions.keep(self._ranks, self._run.step(0) - 1, True)
        elif some:
            self._only_warn()

    def _only_warn(self) -> None:
        self._actions.kind = "warn"
        self.guard.tell("its actions", "The monitor of one of the ranks could not begin.")

    def _prepare(self) -> None:
        options = self._statistics or StatisticsOptions()
        optimizers = [with_hooks(optimizer) or optimizer for optimizer in self._run.optimizers]
        parameters = named_parameters(self._run.module, optimizers, options.include, options.exclude, self._run.flat_shards)
        if (tensors := as_patterns("tensors", options.tensors)) is not None:
            matching("tensors", tensors, parameters.names.values())
        tags = prefixes(optimizers)
        self._optimizers = [
            self._monitored(position, optimizer, tag, parameters)
            for position, (optimizer, tag) in enumerate(zip(optimizers, tags, strict=True))
        ]
        self._take_up_actions()
        if self._statistics is not None:
            each = options.granularity == "parameter" and len(parameters.names) <= FEW_TENSORS
            self.guard.run("the beginning of the log", self._write_beginning, tags, each)

    def _monitored(
        self, position: int, optimizer: Optimizer, prefix: str, parameters: NamedParameters
    ) -> MonitoredOptimizer:
        known = (self._run, position, optimizer, prefix, parameters)
        statistics, diagnosis = None, None
        if self._statistics is not None:
            before = self._before.statistics.get(prefix)
            statistics = OptimizerStatistics(*known, self._statistics, self._sinks, before)
        if self._divergence is not None:
            diagnosed = self._before.diagnoses[position] if position < len(self._before.diagnoses) else None
            diagnosis = OptimizerDiagnosis(*known, self._divergence, self._sinks, self.guard, diagnosed, self._on_record)
        return MonitoredOptimizer(optimizer, prefix, statistics, diagnosis, self.guard)

    def _take_up_actions(self) -> None:
        """What was done before a resume; the helper's schedule follows its configuration then, and is lowered again."""
        self._actions.load_state_dict(self._before.actions)
        for d in self._diagnoses()[:1]:
            d.actions_taken = [f for f in readable_findings(self._before.actions_taken) if f is not None]
        if self._actions.factor != 1.0 and any(hasattr(o, "adam_schedule") for o in self._run.optimizers):
            scale_rates(self._run, self._actions.factor)

    def _write_beginning(self, tags: Sequence[str], each_tensor: bool) -> None:
        for position, tag in enumerate(tags):
            self._sinks.configuration(tag, self._run.step(position), self._run.plan(position).configuration)
        self._sinks.layout(tags, each_tensor)
        for address in self._sinks.addresses():
            self._run.tell(address)

    def _diagnoses(self) -> list[OptimizerDiagnosis]:
        return [watched.diagnosis for watched in self._optimizers if watched.diagnosis is not None]

    def _take_loss(self, loss: Tensor, is_scaled: bool) -> None:
        if self._unheard and len(self._unheard) == len(self._run.optimizers):  # no step would ever take it
            return
        scale, batches = self._run.loss_scale if is_scaled else None, self._run.accumulation
        if scale is None and batches == 1 and loss.is_cpu and loss.numel() == 1:
            return self._inputs.losses.append(float(loss.item()))
        loss = loss.detach() if batches == 1 else loss.detach() * batches
        self._inputs.losses.append(loss if scale is None else loss / scale)

    def _take_logits(self, module: nn.Module, output: Any) -> None:
        self.guard.run("watched logits", self._see_logits, module, output)

    def _see_logits(self, module: nn.Module, output: Any) -> None:
        if isinstance(output, Tensor) and module.training and output.numel():
            largest = output.detach().abs().amax()
            known = self._inputs.largest_logit
            self._inputs.largest_logit = largest if known is None else torch.maximum(known, largest)

    def _gradients_complete(self, watched: MonitoredOptimizer) -> None:
        self.guard.run("a step", watched.before_clipping, self._inputs)
        if watched.diagnosis is not None and self._actions.kind != "warn":
            self._leave_out_if_bad(watched, watched.diagnosis)

    def _leave_out_if_bad(self, watched: MonitoredOptimizer, diagnosis: OptimizerDiagnosis) -> None:
        spared = self._actions.spares_first_step(self._ranks, diagnosis.reader)
        if spared or self._actions.vetoes(self._ranks, diagnosis.reader):
            self._actions.taken += not spared
            self.guard.run("an action", self._leave_out, watched, diagnosis.reader, spared)

    def _leave_out(self, watched: MonitoredOptimizer, reader: SignalReader, spared: bool) -> None:
        norm, reader.is_vetoed = reader.gradient_norm(), True
        self._actions.leave_out(self._run, watched.optimizer)
        if not spared:
            rule = "NON-FINITE" if norm != norm else "BAD-BATCH"
            self._tell_action(rule, f"left out a step whose gradient norm is {norm:.3g}")

    def _before_clipping(self, optimizer: Any) -> None:
        inner = with_hooks(optimizer)
        if inner is None:
            self.forget_losses()
        for watched in self._watched() if inner is not None else ():
            if watched.optimizer is inner:
                self._gradients_complete(watched)

    def _before_step(self, position: int, has_closure: bool) -> None:
        self.guard.run("a step", self._prepare_step, position, has_closure)

    def _prepare_step(self, position: int, has_closure: bool) -> None:
        if position >= len(self._watched()):
            return
        watched = self._optimizers[position]
        if not self._run.has_batches and not watched.attempts:
            if has_closure:
                watched.before_closure()
            else:
                self._gradients_complete(watched)
        watched.before_step()

    def _after_step(self, position: int) -> None:
        self.guard.run("a step", self._take_step, position)
        self._inputs.forget()  # whatever became of them: they are of the step that ends here
        if not self._run.has_batches:
            self.after_batch()

    def _take_step(self, position: int) -> None:
        if position >= len(self._optimizers):
            return
        watched = self._optimizers[position]
        if not self._run.has_batches and not watched.attempts:
            watched.before_clipping(self._inputs)  # the closure has computed the gradients, and they are still there
        watched.after_step(self._inputs)

    def _take_skip(self, position: int) -> None:
        watched = self._watched()[position]
        if not watched.attempts:
            watched.before_clipping(self._inputs)
        watched.skipped(self._inputs, by_scaler=True)
        self._inputs.forget()

    def _take_skips(self) -> None:
        for watched in self._watched():
            if watched.attempts:
                watched.skipped(self._inputs, by_scaler=self._run.loss_scale is not None)
                self._inputs.forget()

    def _take_fresh(self, fresh: list[Finding]) -> None:
        """Move there what nobody has acted on yet."""
        for watched in self._optimizers:
            if watched.diagnosis is not None and watched.diagnosis.fresh:
                fresh += watched.diagnosis.fresh
                watched.diagnosis.fresh.clear()

    def _act(self, fresh: list[Finding]) -> None:
        step, seen = self._run.step(0), list[Situation]()
        done = self._actions.answer(self._ranks, step, lambda: self._see(seen))
        self._take_fresh(fresh)
        lasting = seen[0].lasting if seen else ()
        if done:
            self.guard.run("what an action did", self._tell_done, done, [*lasting, *fresh])
        self._actions.keep(self._ranks, step, is_healthy=not done and bool(seen) and not seen[0].is_critical)

    def _see(self, seen: list[Situation]) -> Situation:
        seen.append(Situation.of(self._diagnoses()))
        return seen[0]

    def _tell_done(self, done: str, found: Sequence[Finding]) -> None:
        rule = found[-1].rule if found else "LOSS-DIVERGED"
        self._tell_action(rule, done if found else f"{done} (another rank's finding)")
        gone_back, self._actions.gone_back = self._actions.gone_back, 0
        for d in self._diagnoses():
            d.diagnosis.history.non_finite = False
            if gone_back:
                d.went_back(gone_back)

    def _tell_action(self, rule: str, what: str) -> None:
        evidence: dict[str, float | str] = {"action": self._actions.kind, "actions_left": float(self._actions.left)}
        finding = Finding(rule, "info", self._run.step(0), f"{self._actions.kind}: {what}.", evidence)
        self._diagnoses()[0].tell_action(finding)

    def _raise(self, fresh: Sequence[Finding]) -> None:
        """What the user asked to be told by an exception; after everything is written."""
        if self._divergence is None:
            return
        critical = [finding for finding in fresh if finding.severity == "critical"]
        if self._divergence.trial is not None and critical:
            prune(self._divergence.trial, critical[-1].line())
        asked = self._divergence.raise_on
        grave = [f for f in fresh if asked and reach([f], asked)]
        if grave:
            raise DivergenceError(grave[0].line())

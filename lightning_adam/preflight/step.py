"""The first training step: what was called, what the net got and gave, and which parameters the loss leads to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.modules import module as hooks
from torch.utils._pytree import tree_leaves

from lightning_adam.preflight.batches import path_of, same_values, size
from lightning_adam.preflight.densities import noted_in
from lightning_adam.preflight.nodes import nodes_behind
from lightning_adam.preflight.outputs import ends_before
from lightning_adam.preflight.recorder import Call, Record, Recorder
from lightning_adam.preflight.rivals import Answer, Plays, pulls, valued
from lightning_adam.preflight.signs import (
    favoured,
    grows_without_end,
    lowered,
    parted,
    punished,
    remainder,
    repelled,
    rewards_in,
    slopes,
    unlikely,
)
from lightning_adam.preflight.spoiling import first_spoiled
from lightning_adam.preflight.task import NORMS, Task

LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.Bilinear, nn.MultiheadAttention)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@dataclass
class Entry:
    """A layer's call on what no layer has worked on yet."""

    layer: nn.Module
    values: Tensor


@dataclass
class Trace:
    """The modules that were called.

    Attributes:
        outer: modules with parameters that no other module called, in order, with what they gave.
        asked: what each of those got first; None where that is no tensor.
        asked_of_a_net: whether anything that each of those got has a gradient, as what another net gave has.
        entries: the net's inputs, where layers get them first; an embedding's are its indices.
        called: ids of all.
        called_with_grad: ids of those that were called with gradients on.
        per_channel: by a BatchNorm's id how many values of each channel it got, at least.
    """

    outer: list[tuple[nn.Module, Any]] = field(default_factory=list)
    asked: list[Tensor | None] = field(default_factory=list)
    asked_of_a_net: list[bool] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    called: set[int] = field(default_factory=set)
    called_with_grad: set[int] = field(default_factory=set)
    per_channel: dict[int, int] = field(default_factory=dict)


@contextmanager
def traced() -> Iterator[Trace]:
    """Every module's calls, also of those that are not registered anywhere."""
    tracing = _Tracing()
    handles = [hooks.register_module_forward_pre_hook(tracing.before), hooks.register_module_forward_hook(tracing.after)]
    try:
        yield tracing.trace
    finally:
        for handle in handles:
            handle.remove()


class _Tracing:
    """What is done before and after each module's forward."""

    def __init__(self) -> None:
        self.trace, self._depth, self._has_begun = Trace(), 0, False

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._depth += 1
        self.trace.called.add(id(module))
        if torch.is_grad_enabled():
            self.trace.called_with_grad.add(id(module))
        values = args[0] if args and isinstance(args[0], Tensor) else None
        if values is not None and isinstance(module, NORMS) and values.dim() > 1 and values.numel():
            few = values.numel() // values.shape[1]
            self.trace.per_channel[id(module)] = min(few, self.trace.per_channel.get(id(module), few))
        if values is not None and isinstance(module, LAYERS + EMBEDDINGS):
            is_first = not values.requires_grad if isinstance(module, EMBEDDINGS) else not self._has_begun
            is_first = is_first and not _has_passed_a_matrix(values)
            if is_first or not (values.requires_grad or _frozen(module)):
                self.trace.entries.append(Entry(module, values.detach()))
        if isinstance(module, LAYERS + EMBEDDINGS + _NORMS):
            self._has_begun = True  # what comes behind a norm is normalised

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._depth -= 1
        if self._depth == 0 and next(module.parameters(), None) is not None:
            self.trace.outer.append((module, output))
            self.trace.asked.append(args[0].detach() if args and isinstance(args[0], Tensor) else None)
            self.trace.asked_of_a_net.append(any(isinstance(one, Tensor) and one.requires_grad for one in args))


def _has_passed_a_matrix(values: Tensor) -> bool:
    """Whether the module has multiplied it with a parameter of its own; a scale of each feature is none."""
    nodes = nodes_behind(values, FEW_NODES) if values.requires_grad else ()
    return any(isinstance(p := getattr(node, "variable", None), nn.Parameter) and p.dim() > 1 for node in nodes)


FEW_NODES = 200
"""Operations before a layer's input that are looked at."""
_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def _frozen(module: nn.Module) -> bool:
    return not any(p.requires_grad for p in module.parameters())


@dataclass
class Step:
    """What one training step showed.

    Attributes:
        record: its calls of losses and activations.
        trace: its calls of modules.
        loss: its value; NaN where it raised.
        error: what it raised.
        samples: of the batch.
        target: path of the batch's tensor that a loss got as its target as it is; empty if none.
        prediction: which of the outer calls gave the prediction; -1 if none.
        slopes: for each loss call the derivative of the total to it: below 0 it is maximised.
        writes: whether it wrote weights itself between its losses, so that a prediction hangs on the batch by them, too.
        punished: log-probabilities of moves that the total makes smaller by as much as they are rewarded; None if none.
        repelled: the difference from a target, by hand, that the total makes larger; None if none.
        lowered: the log-probabilities, by hand or of ``torch.distributions``, that the total makes smaller, all of them
            equally much; None if none.
        rest: what the total has beside its one loss call, whose elements all count the same; NaN where it has no such.
        parted: the likenesses of vectors that the total makes smaller, all of them equally much; None if none.
        leaves: parameters that the loss leads to.
        given: the batch.
        ends: of each loss, whether it leads back to nothing that a net gave, though it leads back to parameters.
        spoiled: where the step makes NaN or Inf of finite numbers; empty where it does not.
        plays: of two players' step, what each one's loss does to what the nets say.
        runs_away: whether the total falls without end as what the net gave grows, in proportion to it.
        favoured: the probabilities whose mean, one for each sample, the total is the negative of; None if none.
    """

    record: Record
    trace: Trace
    loss: float = math.nan
    error: Exception | None = None
    samples: int = 0
    target: str = ""
    prediction: int = -1
    slopes: list[float] = field(default_factory=list)
    writes: bool = False
    punished: Call | None = None
    repelled: Call | None = None
    lowered: Call | None = None
    rest: float = math.nan
    parted: Call | None = None
    leaves: list[Tensor] = field(default_factory=list)
    given: Any = None
    ends: list[bool] = field(default_factory=list)
    spoiled: str = ""
    favoured: Call | None = None
    plays: Plays = field(default_factory=Plays)
    runs_away: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether no loss leads back to what a net gave."""
        return bool(self.ends) and all(self.ends)

    @property
    def is_quantised(self) -> bool:
        """Whether the nearest entry of a table goes on in the place of what was computed."""
        tables = [e.values for e in self.trace.entries if isinstance(e.layer, EMBEDDINGS)]
        picks = [call.output for call in self.record.picks if isinstance(call.output, Tensor)]
        return any(t.numel() == p.numel() and same_values(t, p) for t in tables for p in picks)

    @property
    def main(self) -> Call | None:
        """The last loss call."""
        return self.record.losses[-1] if self.record.losses else None

    @property
    def compared(self) -> Call | None:
        """The last loss call; of a loss that is written by hand the last difference from something given."""
        return self.main or (self.record.differences[-1] if self.record.differences else None)


def observe(task: Task, batch: Any, seed: int = 0) -> Step:
    """Run the training step on a batch, once, and keep what it shows; an exception of it, too."""
    samples, recorder = size(batch), Recorder(measures_gains=True)
    versions = [(p, p._version) for p in task.trainable().values()]
    values = [(p, p.detach().clone()) for p, _ in versions] if task.manual else []
    with traced() as trace, noted_in(recorder.record), recorder:
        step = Step(recorder.record, trace, samples=samples)
        task.on_loss = partial(_note_loss, step, task, values)  # by hand: later the graph may be void
        try:
            loss = task.loss(batch, seed=seed)
        except Exception as error:
            step.error, loss = error, None
        finally:
            task.on_loss = None
    step.given, step.writes = task.given, step.writes or any(p._version != before for p, before in versions)
    step.target = target_path(step, task.given)
    step.prediction = prediction_call(trace, samples)
    if loss is not None:
        step.loss, step.leaves = float(loss.detach()), graph_leaves(loss)
        if not task.manual:
            _note_signs(step, task, loss)
        if not math.isfinite(step.loss):
            step.spoiled = first_spoiled(lambda: task.loss(batch, seed=seed))
    return step


def _note_loss(step: Step, task: Task, before: Sequence[tuple[Tensor, Tensor]], loss: Tensor) -> None:
    """Of one of a manual step's losses. Weights that are written through ``.data``, and set back before the step ends, as by
    sharpness-aware minimisation (Foret et al. 2021), keep their version: they are to be seen by their values, and now."""
    step.writes = step.writes or any(not torch.equal(p.detach(), values) for p, values in before)
    if task.is_adversarial:
        _note_plays(step, task, loss)
    _note_signs(step, task, loss)


def _note_plays(step: Step, task: Task, loss: Tensor) -> None:
    """Of one of two players' losses."""
    calls = zip(step.trace.outer, step.trace.asked, step.trace.asked_of_a_net, strict=True)
    answers = [Answer(net, given, asked, is_made) for (net, given), asked, is_made in calls]
    step.plays.pulls.append(pulls(loss, answers, lambda asked: bool(path_of(asked, task.given))))
    step.plays.valued.append(valued(loss, step.record.losses, answers, rewards_in(task.given)))


def _note_signs(step: Step, task: Task, loss: Tensor) -> None:
    """Of one backward pass; of several that of the first one counts that a loss call goes into."""
    if task.is_adversarial:
        return
    known = dict(enumerate(slopes(loss, step.record.losses)))
    earlier = {k: slope for k, slope in enumerate(step.slopes) if not math.isnan(slope)}
    step.slopes = list((known | earlier).values())
    step.ends.append(ends_before(loss, step.trace))
    step.favoured = step.favoured or favoured(loss, step.record)
    step.rest = remainder(loss, step.record.losses)
    made_smaller = None if rewards_in(task.given) else lowered(loss, step.record)
    step.lowered = step.lowered or made_smaller or unlikely(loss, step.record, task.given)
    step.parted = step.parted or parted(loss, step.record)
    step.punished = step.punished or punished(loss, step.record, task.given)
    step.repelled = step.repelled or repelled(loss, step.record, task.given)
    step.runs_away = step.runs_away or _runs_away(step, loss)


def _runs_away(step: Step, loss: Tensor) -> bool:
    """By the output of the predicting net; where directions count, its length may well be made large."""
    which = prediction_call(step.trace, step.samples)
    told = main_tensor(step.trace.outer[which][1], step.samples) if which >= 0 and not step.record.directions else None
    return told is not None and grows_without_end(loss, told)


def target_path(step: Step, batch: Any) -> str:
    """The path of the leaf that the last loss call, or a difference by hand, compares with."""
    target = step.compared.target if step.compared is not None else None
    if target is None or (step.main is None and is_asked(step, target)):
        return ""
    return path_of(target, batch)


def is_asked(step: Step, target: Tensor) -> bool:
    """Whether a net got the target as its input, as one that tells its input again does."""
    return any(g is not None and g.numel() == target.numel() and same_values(g, target) for g in step.trace.asked)


def prediction_call(trace: Trace, samples: int) -> int:
    """The last outer call that gave something for each sample with a gradient."""
    found = [
        k
        for k, (_, output) in enumerate(trace.outer)
        if (main := main_tensor(output, samples)) is not None and main.requires_grad
    ]
    return found[-1] if found else -1


def main_tensor(output: Any, samples: int) -> Tensor | None:
    """The prediction in an output of any make: the first float tensor with an entry per sample, ``logits`` before others."""
    for value in _values(output):
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() and value.shape[0] == samples:
            return value
    return None


def _values(output: Any) -> list[Any]:
    if isinstance(output, Distribution):
        return _centre(output)
    logits = getattr(output, "logits", None)
    values = tree_leaves(dict(output) if hasattr(output, "items") else output)
    return ([logits] if isinstance(logits, Tensor) else []) + values


def _centre(output: Distribution) -> list[Any]:
    """Of a distribution what it expects; some cannot say."""
    try:
        return [output.mean]
    except NotImplementedError:
        return []


def graph_leaves(loss: Tensor) -> list[Tensor]:
    """All tensors that the loss leads back to."""
    return [node.variable for node in nodes_behind(loss) if hasattr(node, "variable")]


@contextmanager
def remembering_nothing(module: nn.Module) -> Iterator[None]:
    """What modules keep in their attributes, such as a recurrent state for the next batch, is afterwards as before."""
    before = [(part.__dict__, dict(part.__dict__)) for part in module.modules()]
    try:
        yield
    finally:
        for attributes, entries in before:
            attributes.clear()
            attributes.update(entries)


def predict(task: Task, batch: Any, which: int, seed: int = 0) -> Tensor | None:
    """What the net predicts for a batch, inside the training step; None where it gives none."""
    return asked_and_given(task, batch, which, seed)[1]


def asked_and_given(task: Task, batch: Any, which: int, seed: int = 0) -> tuple[Tensor | None, Tensor | None]:
    """What the net gets for a batch, inside the training step, and what it predicts; None where that is no tensor."""
    samples = size(batch)
    with remembering_nothing(task.module), traced() as trace:
        task.loss(batch, seed=seed)
    if not 0 <= which < len(trace.outer):
        return None, None
    found = main_tensor(trace.outer[which][1], samples)
    return trace.asked[which], None if found is None else found.detach()

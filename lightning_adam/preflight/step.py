"""The first training step: what was called, what the net got and gave, and which parameters the loss leads to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.modules import module as hooks
from torch.utils._pytree import tree_leaves

from lightning_adam.preflight.batches import leaves, size
from lightning_adam.preflight.nodes import nodes_behind
from lightning_adam.preflight.outputs import ends_before
from lightning_adam.preflight.recorder import Call, Record, Recorder, softmax_axis
from lightning_adam.preflight.spoiling import first_spoiled
from lightning_adam.preflight.task import NORMS, Task

LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.Bilinear, nn.MultiheadAttention)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
REWARDS = ("reward", "rewards", "return", "returns", "advantage", "advantages")
"""Names of what is to be large, in a batch of moves."""


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
        entries: the net's inputs, where layers get them first; an embedding's are its indices.
        called: ids of all.
        per_channel: by a BatchNorm's id how many values of each channel it got, at least.
    """

    outer: list[tuple[nn.Module, Any]] = field(default_factory=list)
    asked: list[Tensor | None] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    called: set[int] = field(default_factory=set)
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
        lowered: the log-probabilities by hand that the total makes smaller, whose they are equally much; None if none.
        parted: the likenesses of vectors that the total makes smaller, all of them equally much; None if none.
        leaves: parameters that the loss leads to.
        given: the batch.
        ends: of each loss, whether it leads back to nothing that a net gave, though it leads back to parameters.
        spoiled: where the step makes NaN or Inf of finite numbers; empty where it does not.
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
    parted: Call | None = None
    leaves: list[Tensor] = field(default_factory=list)
    given: Any = None
    ends: list[bool] = field(default_factory=list)
    spoiled: str = ""
    favoured: Call | None = None

    @property
    def is_cut(self) -> bool:
        """Whether no loss leads back to what a net gave."""
        return bool(self.ends) and all(self.ends)

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
    with traced() as trace, recorder:
        step = Step(recorder.record, trace, samples=samples)
        task.on_loss = partial(_note_signs, step, task)  # by hand: weights may be written later, and the graph is void
        try:
            loss = task.loss(batch, seed=seed)
        except Exception as error:
            step.error, loss = error, None
        finally:
            task.on_loss = None
    step.given, step.writes = task.given, any(p._version != before for p, before in versions)
    step.target = target_path(step, task.given)
    step.prediction = prediction_call(trace, samples)
    if loss is not None:
        step.loss, step.leaves = float(loss.detach()), graph_leaves(loss)
        if not task.manual:
            _note_signs(step, task, loss)
        if not math.isfinite(step.loss):
            step.spoiled = first_spoiled(lambda: task.loss(batch, seed=seed))
    return step


def _note_signs(step: Step, task: Task, loss: Tensor) -> None:
    """Of one backward pass; of several that of the first one counts that a loss call goes into."""
    if task.is_adversarial:
        return
    known = dict(enumerate(slopes(loss, step.record.losses)))
    earlier = {k: slope for k, slope in enumerate(step.slopes) if not math.isnan(slope)}
    step.slopes = list((known | earlier).values())
    step.ends.append(ends_before(loss, step.trace))
    step.favoured = step.favoured or favoured(loss, step.record)
    step.lowered = step.lowered or lowered(loss, step.record)
    step.parted = step.parted or parted(loss, step.record)
    step.punished = step.punished or punished(loss, step.record, task.given)
    step.repelled = step.repelled or repelled(loss, step.record, task.given)


def target_path(step: Step, batch: Any) -> str:
    """The path of the leaf that the last loss call, or a difference by hand, compares with."""
    target = step.compared.target if step.compared is not None else None
    if target is None or (step.main is None and is_asked(step, target)):
        return ""
    return path_of(target, batch)


def path_of(values: Tensor, batch: Any) -> str:
    """The path of the batch's tensor that has these values; empty if none has."""
    for path, leaf in leaves(batch):
        if leaf.numel() == values.numel() and leaf.numel() and same_values(leaf, values):
            return path
    return ""


def is_asked(step: Step, target: Tensor) -> bool:
    """Whether a net got the target as its input, as one that tells its input again does."""
    return any(g is not None and g.numel() == target.numel() and same_values(g, target) for g in step.trace.asked)


def same_values(leaf: Tensor, target: Tensor) -> bool:
    """Whether a tensor of the batch is another one, or what that is a view of."""
    if leaf.untyped_storage().data_ptr() == target.untyped_storage().data_ptr():
        return True
    return torch.equal(leaf.detach().flatten().double(), target.detach().flatten().double())


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


def slopes(loss: Tensor, calls: list[Call]) -> list[float]:
    """The derivative of the loss to the output of each loss call; its mean over the elements; NaN where there is none."""
    outputs = [c.output for c in calls if isinstance(c.output, Tensor) and c.output.requires_grad]
    if not loss.requires_grad or not outputs:
        return []
    found = torch.autograd.grad(loss, outputs, retain_graph=True, allow_unused=True)
    return [math.nan if g is None else float(g.sum()) if bool((g <= 0).all() or (g >= 0).all()) else math.nan for g in found]


def lowered(loss: Tensor, record: Record) -> Call | None:
    """Log-probabilities, or what they are normalised by, that go into the loss with the sign that makes them smaller.

    Weights that differ are left alone: a policy's log-probabilities are weighed by rewards of either sign. So are those of
    all classes at once, which an entropy takes.
    """
    for call in (call for call in record.squashes if call.name == "log_softmax"):
        slope = slope_to(loss, call.output)
        if _is_one_number(slope) and bool((slope == 0).any()):
            return call
    return next((c for c in record.normalisers if _is_one_number(-slope_to(loss, c.output)) and _shifts(loss, c)), None)


def favoured(loss: Tensor, record: Record) -> Call | None:
    """Probabilities of which the loss is minus a mean: one of each sample, and each as much as the others."""
    for call in (call for call in record.squashes if call.name == "softmax"):
        slope, shares = slope_to(loss, call.output), call.output.detach()
        is_picked = _is_one_number(-slope) and bool(((slope != 0).sum(softmax_axis(call)) == 1).all())
        if is_picked and math.isclose(float(loss.detach()), float((slope * shares).sum()), rel_tol=1e-4):
            return call
    return None


def parted(loss: Tensor, record: Record) -> Call | None:
    """Cosines that the loss makes smaller, each by as much, where it is made of nothing else but a whole number."""
    cosines = [call for call in record.directions if call.name == "cosine_similarity"]
    pulls = [slope_to(loss, call.output) for call in cosines]
    rest = float(loss.detach()) - sum(float((p * c.output.detach()).sum()) for p, c in zip(pulls, cosines, strict=True))
    is_all = bool(cosines) and all(_is_one_number(pull) for pull in pulls) and abs(rest - round(rest)) < 1e-4
    return cosines[0] if is_all else None


def punished(loss: Tensor, record: Record, batch: Any) -> Call | None:
    """Log-probabilities of moves that the loss makes smaller where their reward is large, and larger where it is not."""
    rewards = [leaf for path, leaf in leaves(batch) if path.rpartition(".")[2].lower() in REWARDS]
    told = [(c, 1.0) for c in record.squashes if c.name == "log_softmax"] + [(c, -1.0) for c in record.normalisers]
    for call, sign in told if rewards else ():
        pull = sign * slope_to(loss, call.output).flatten(1).sum(1) if call.output.dim() > 1 else torch.zeros(0)
        if any(
            reward.shape == pull.shape and bool((pull * reward >= 0).all() and (pull * reward).any()) for reward in rewards
        ):
            return call
    return None


def repelled(loss: Tensor, record: Record, batch: Any) -> Call | None:
    """A prediction's difference from a tensor of the batch: nearly everywhere the loss falls as it grows."""
    for call in record.differences:
        pull = slope_to(loss, call.output) * call.output.detach()
        acting = pull[pull != 0]
        is_away = acting.numel() > 8 and float((acting < 0).double().mean()) > 0.99
        if is_away and call.target is not None and path_of(call.target, batch):
            return call
    return None


def _is_one_number(slope: Tensor) -> bool:
    """Above 0, wherever it is not 0."""
    acting = slope[slope != 0]
    return acting.numel() > 0 and float(acting.min()) > 0.99 * float(acting.max()) > 0


def _shifts(loss: Tensor, call: Call) -> bool:
    """Whether adding a number to all scores changes nothing: they are compared with their own normaliser, which the
    logarithm of a mixture's density is not."""
    slope = slope_to(loss, call.input)
    return abs(float(slope.sum())) < 1e-3 * float(slope.abs().sum())


def slope_to(loss: Tensor, values: Tensor) -> Tensor:
    """The derivative of the loss to values on its way; zeros where they are not."""
    if not loss.requires_grad or not values.requires_grad:
        return torch.zeros_like(values)
    (found,) = torch.autograd.grad(loss, [values], retain_graph=True, allow_unused=True)
    return torch.zeros_like(values) if found is None else found


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

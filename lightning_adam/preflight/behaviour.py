"""Interventions on the input, in evaluation: who depends on whom."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.batches import leaves, size, take
from lightning_adam.preflight.facts import Check, Facts, found
from lightning_adam.preflight.gradients import walk
from lightning_adam.preflight.recorder import CLASS_LOSSES, Call, Recorder
from lightning_adam.preflight.step import (
    EMBEDDINGS,
    LAYERS,
    Entry,
    Step,
    asked_and_given,
    main_tensor,
    predict,
    same_values,
)
from lightning_adam.preflight.task import Task, kept, mode

SAMPLES = 8
CHANGED = 1e-3
"""Of the output's standard deviation; another order of summation changes 1e-6."""


@dataclass
class Behaviour:
    """What the prediction depends on.

    Attributes:
        mixing: change of a sample's output when the others are replaced, over the output's spread; NaN if not to be had.
        leak: change of earlier outputs with later inputs, of a model that predicts the next; NaN if it does not.
        copies: whether the targets are the input's tokens at the same places, and nothing narrow is between.
        spread: of the output over samples, relative to its size; NaN if not to be had.
        dropouts: dropout that is on in evaluation.
        noisy: whether the net gives something else for the same input at another draw of random numbers.
    """

    mixing: float = math.nan
    leak: float = math.nan
    copies: bool = False
    spread: float = math.nan
    dropouts: tuple[Call, ...] = ()
    noisy: bool = False


def measure(task: Task, step: Step, batch: Any) -> Behaviour:
    """On the first samples of a batch."""
    found = Behaviour()
    with exactly(task), mode(task.module, training=False), kept(task.module):
        found.dropouts, found.noisy = _active_dropouts(task, batch), _draws(task, step, batch)
        n = size(batch)
        if n < 4 or step.prediction < 0:
            return found
        few = take(batch, range(min(n - 1, SAMPLES)))  # fewer than all: an output of pairs is to be seen by its size
        found.spread = _spread(task, step, batch)
        found.mixing = _mixing(task, step, few)
        found.leak, found.copies = _order(task, step, few)
    return found


@contextmanager
def exactly(task: Task) -> Iterator[None]:
    """Without autocast: bfloat16 has 8 bits, and another order of the samples may change the last of them."""
    before, task.is_exact = task.is_exact, True
    try:
        yield
    finally:
        task.is_exact = before


def _active_dropouts(task: Task, batch: Any) -> tuple[Call, ...]:
    with Recorder() as recorder:
        task.loss(batch)
    return tuple(call for call in recorder.record.dropouts if _is_on(call))


def _draws(task: Task, step: Step, batch: Any) -> bool:
    """Of a net that is judged by targets: noise that the training step adds before it has changed its input. Who tells
    the input again, as a variational autoencoder does, draws on purpose."""
    if not step.target or step.prediction < 0 or _is_input(step):
        return False
    (asked, first), (_, again), (later, other) = (asked_and_given(task, batch, step.prediction, k) for k in (0, 0, 1))
    if asked is None or later is None or not torch.equal(asked, later) or first is None or again is None or other is None:
        return False
    least = CHANGED * (float(first.float().std()) + 1e-12)
    return bool((again - first).abs().max() <= least < (other - first).abs().max())


def _is_input(step: Step) -> bool:
    target, asked = step.main.target if step.main is not None else None, step.trace.asked[step.prediction]
    return target is None or asked is None or (asked.numel() == target.numel() and same_values(asked, target))


def _is_on(call: Call) -> bool:
    if call.name == "scaled_dot_product_attention":
        return float(call.options.get("dropout_p", 0.0)) > 0
    return bool(call.options.get("training", True)) and float(call.options.get("p", 0.5)) > 0


def _spread(task: Task, step: Step, batch: Any) -> float:
    """Of a zero-initialised head, after a few steps: it starts the same for all."""
    now = _relative_spread(predict(task, batch, step.prediction))
    if now < 1e-6:
        with kept(task.module):
            walk(task, list(task.trainable()))
            now = _relative_spread(predict(task, batch, step.prediction))
    return now


def _relative_spread(output: Tensor | None) -> float:
    if output is None or not bool(torch.isfinite(output).all()):
        return math.nan
    return (
        float(output.flatten(1).float().std(0).max()) / (float(output.abs().max()) + 1e-12)
        if output.dim() > 1
        else (float(output.float().std()) / (float(output.abs().max()) + 1e-12))
    )


@contextmanager
def _reordered(net: nn.Module, order: list[int]) -> Iterator[None]:
    """The net gets its samples in another order."""

    def before(_: nn.Module, args: Any, kwargs: Any) -> Any:
        return take(list(args), order), take(kwargs, order)

    handle = net.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _mixing(task: Task, step: Step, few: Any) -> float:
    """The first and the last sample keep their places while the others move or become one: attention over the batch does
    not see a permutation."""
    n = size(few)
    before = predict(task, few, step.prediction)
    if before is None or _is_relational(task, step) or (_grows(step, before) and not _are_pairs(before)):
        return math.nan
    columns = _grows(step, before)
    again = predict(task, few, step.prediction, seed=1)
    is_outside = again is None or not torch.equal(again, before) or _mixes_targets(step)
    net = step.trace.outer[step.prediction][0] if is_outside else None
    spread = float(before.float().std()) + 1e-12
    orders = [[0, n - 1, *range(1, n - 1)], [*range(1, n - 1), 0, n - 1], [0] + [1] * (n - 1)]
    changes = []
    for order in orders:
        with _reordered(net, order) if net is not None else nullcontext():
            after = predict(task, few if net is not None else take(few, order), step.prediction)
        if after is None or after.shape != before.shape:
            return math.nan
        places = [place for place in (0, n - 1) if order[place] == place]
        for place in places:
            change = (after[place] - before[place]).abs()
            changes.append(float(change[place] if columns else change.max()) / spread)
    return max(changes)


def _mixes_targets(step: Step) -> bool:
    """Whether the step makes its targets itself, as it does where it mixes samples on purpose (Zhang et al. 2018)."""
    return step.main is not None and step.main.target is not None and not step.target


def _grows(step: Step, few: Tensor) -> bool:
    """Whether the output has a column for each sample."""
    whole = main_tensor(step.trace.outer[step.prediction][1], step.samples)
    return whole is not None and whole.shape[1:] != few.shape[1:] and step.samples != few.shape[0]


def _are_pairs(output: Tensor) -> bool:
    """Likenesses of each sample with each: the entry of a sample with itself is to hang on that sample alone, unless
    rows or columns are normalised."""
    if output.dim() != 2 or output.shape[0] != output.shape[1]:
        return False
    sums = [f(dim) for dim in (0, 1) for f in (output.sum, output.logsumexp)]
    return all(float(total.std()) > 1e-3 * (float(total.abs().mean()) + 1) for total in sums)


def _is_relational(task: Task, step: Step) -> bool:
    """Samples are meant to see each other, as nodes of one graph are, or do so by weights that the step writes."""
    n = step.samples
    square = any(_is_graph(t, n) for t in (*task.module.buffers(), *(leaf for _, leaf in leaves(step.given))))
    edges = (
        any(leaf.dim() == 2 and leaf.shape[0] == 2 and not leaf.is_floating_point() for _, leaf in leaves(step.given))
        and n > 2
    )
    norms = [m for m in task.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return square or edges or step.writes or any(not m.track_running_stats for m in norms)


def _is_graph(tensor: Tensor, nodes: int) -> bool:
    """An adjacency: a number, or yes and no, for each pair."""
    return tensor.shape == (nodes, nodes) and (tensor.is_floating_point() or int(tensor.max()) <= 1)


def _order(task: Task, step: Step, few: Any) -> tuple[float, bool]:
    """The change of earlier outputs with later inputs, and whether the targets are the inputs."""
    main = step.main
    if main is None or main.target is None:
        return math.nan, False
    calls: Counter[int] = Counter()
    for entry in (*step.trace.entries, *_nets(step)):
        calls[id(entry.layer)] += 1
        which = calls[id(entry.layer)] - 1
        for axis in (1, 2)[: entry.values.dim() - 1]:
            relation = _relation(entry.values.transpose(1, axis), main.target, main.name in CLASS_LOSSES)
            if relation == "next":
                return _leak(task, step, few, entry.layer, which, axis), False
            if relation == "same" and isinstance(entry.layer, EMBEDDINGS):
                return math.nan, _follows_own_place(task, step, few, entry.layer, which)
    return math.nan, False


def _nets(step: Step) -> Iterator[Entry]:
    """What whole nets get, before they pad or reshape it; layers that are called by themselves are entries already."""
    for (net, _), given in zip(step.trace.outer, step.trace.asked, strict=True):
        if given is not None and not isinstance(net, LAYERS + EMBEDDINGS):
            yield Entry(net, given)


def _relation(given: Tensor, target: Tensor, is_tokens: bool) -> str:
    """Whether a sequence's target is its ``next`` entry, the ``same`` one, or neither (empty)."""
    if given.dim() < 2 or given.shape[1] < 3 or is_tokens == given.is_floating_point() or not given.numel():
        return ""
    n, length = given.shape[0], given.shape[1]
    rest = given.shape[2:]
    size_of_one = n * rest.numel()
    if target.numel() == size_of_one * length:
        aligned = target.reshape(n, length, *rest)
        if _alike(given[:, 1:], aligned[:, :-1]):
            return "next"
        return "same" if _alike(given, aligned) else ""
    if target.numel() == size_of_one * (length - 1):
        return "next" if _alike(given[:, 1:], target.reshape(n, length - 1, *rest)) else ""
    return ""


def _alike(given: Tensor, target: Tensor) -> bool:
    valid = target >= 0 if not target.is_floating_point() else torch.ones_like(target, dtype=torch.bool)
    if int(valid.sum()) < 16 or len(torch.unique(target[valid])) < 3:
        return False
    return float((given == target)[valid].double().mean()) > 0.98


def _leak(task: Task, step: Step, few: Any, layer: nn.Module, which: int, axis: int) -> float:
    before = predict(task, few, step.prediction)
    with _replaced(layer, which, width=None, axis=axis) as cut:
        changes = _changes(before, predict(task, few, step.prediction), cut)
    if before is None or changes is None:
        return math.nan
    return float(changes[: cut[0][0]].max()) / (float(before.float().std()) + 1e-12)


def _follows_own_place(task: Task, step: Step, few: Any, layer: nn.Module, which: int) -> bool:
    """Whether an output looks at its own place most: a summary of the whole, as an autoencoder has it, does not."""
    before = predict(task, few, step.prediction)
    with _replaced(layer, which, width=1) as cut:
        changes = _changes(before, predict(task, few, step.prediction), cut)
    if changes is None:
        return False
    place = cut[0][0]
    others = torch.cat([changes[:place], changes[place + 1 :]])
    return bool(changes[place] > 3 * others.median())


def _changes(before: Tensor | None, after: Tensor | None, cut: list[tuple[int, int]]) -> Tensor | None:
    """The largest change at each place of the sequence; None where the output has none."""
    if before is None or after is None or not cut or after.shape != before.shape:
        return None
    length = cut[0][1]
    axis = next((a for a in (1, 2)[: before.dim() - 1] if before.shape[a] in (length, length - 1)), None)
    return None if axis is None else (after - before).abs().transpose(0, axis).flatten(1).amax(1)


@contextmanager
def _replaced(layer: nn.Module, which: int, width: int | None, axis: int = 1) -> Iterator[list[tuple[int, int]]]:
    """From its middle on, what a layer gets in one call is another sample's; yields where it is cut, and the length."""
    cut: list[tuple[int, int]] = []
    calls = count()

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if next(calls) != which or not args or not isinstance(args[0], Tensor) or args[0].dim() <= axis:
            return None
        length = args[0].shape[axis]
        middle = length // 2
        cut.append((middle, length))
        values = args[0].clone()
        places = torch.arange(middle, length if width is None else middle + width, device=values.device)
        values.index_copy_(axis, places, args[0].roll(1, 0).index_select(axis, places))
        return (values, *args[1:])

    handle = layer.register_forward_pre_hook(before)
    try:
        yield cut
    finally:
        handle.remove()


def batch_mixing(facts: Facts) -> Iterator[Finding]:
    """Each sample is to be judged by itself."""
    if facts.behaviour.mixing > CHANGED:
        yield found(
            "BATCH-MIXING",
            "critical",
            f"A sample's output changes by {facts.behaviour.mixing:.2g} standard deviations when the other samples of "
            "its batch do.",
            "Look for batch_first=True that is missing, view() or reshape() where transpose() is meant, and softmax or "
            "mean over dim 0.",
            {"change over std": facts.behaviour.mixing},
        )


def not_causal(facts: Facts) -> Iterator[Finding]:
    """Who predicts the next entry must not see it."""
    if facts.behaviour.leak > CHANGED:
        yield found(
            "NOT-CAUSAL",
            "critical",
            "The targets are the next entries of the input, and earlier outputs change with later inputs (by "
            f"{facts.behaviour.leak:.2g} "
            "standard deviations): the model sees what it is to predict.",
            "Give attention a causal mask (is_causal=True), pad convolutions on the left only, use no bidirectional RNN.",
            {"change over std": facts.behaviour.leak},
        )


def target_is_input(facts: Facts) -> Iterator[Finding]:
    """Of token sequences."""
    if facts.behaviour.copies:
        yield found(
            "TARGET-IS-INPUT",
            "warning",
            "The target tokens are the input tokens at the same places: the model learns to copy.",
            "Shift by one: logits[:, :-1] against tokens[:, 1:]; or mask the input where it is to be predicted.",
        )


def ignores_input(facts: Facts) -> Iterator[Finding]:
    """The same output for every sample, also after a few steps."""
    if facts.behaviour.spread < 1e-6:
        yield found(
            "IGNORES-INPUT",
            "critical",
            "Every sample gets the same output: the input does not reach it.",
            "Look where x is lost in forward: overwritten, multiplied by 0, normalised over a single feature, a wrong "
            "variable.",
            {"relative spread": facts.behaviour.spread},
        )


def nondeterministic(facts: Facts) -> Iterator[Finding]:
    """Dropout or noise that does not heed the mode; a loss with a term of its own beside may be a Bayesian net's."""
    if facts.behaviour.dropouts:
        call = facts.behaviour.dropouts[0]
        yield found(
            "NONDETERMINISTIC",
            "warning",
            f"{call.name} is on in evaluation too: F.dropout drops by default, whatever the mode.",
            "F.dropout(x, p, training=self.training), or an nn.Dropout module; dropout_p=p if self.training else 0.0.",
            {"calls": len(facts.behaviour.dropouts)} | ({"at": call.place} if call.place else {}),
        )
    elif facts.behaviour.noisy:
        main = facts.step.main
        alone = main is not None and isinstance(main.output, Tensor) and math.isclose(main.output.mean(), facts.step.loss)
        yield found(
            "NONDETERMINISTIC",
            "warning" if alone else "info",
            "In evaluation the net gives something else each time for the same input: it draws random numbers, whatever "
            "the mode.",
            "Draw only where self.training is true: if self.training: x = x + std * torch.randn_like(x).",
        )


CHECKS = (
    Check("BATCH-MIXING", ("behaviour",), batch_mixing),
    Check("NOT-CAUSAL", ("behaviour",), not_causal),
    Check("TARGET-IS-INPUT", ("behaviour",), target_is_input),
    Check("IGNORES-INPUT", ("behaviour",), ignores_input),
    Check("NONDETERMINISTIC", ("behaviour",), nondeterministic),
)

"""Samples that come again within an epoch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.batches import leaves
from lightning_adam.preflight.data import Data, distinct, flat_samples, is_for_each_worker, is_replacing, length
from lightning_adam.preflight.facts import Check, Facts, found
from lightning_adam.preflight.step import is_asked

FEW = 0.1
"""Of what is drawn with replacement, and of what there is: below it chance is no reason."""


def duplicates(facts: Facts) -> Iterator[Finding]:
    """Within one epoch; few values allow few samples."""
    data = facts.data
    told = [data.targets] if _is_read(facts) else []  # of a model that tells its input the target is one
    wide = [r for t in (*data.inputs.values(), *told) if t and t[0].dim() > 1 and (r := flat_samples(t)).shape[1] > 3]
    if data.reaches is not False and _is_one_each(data):
        yield _repeated(data, len(data.reading.batches), sum(len(t) for t in next(iter(data.inputs.values()))))
        return
    if not wide or data.reaches is False or _is_whole(data) or getattr(data.reading.loader, "repeats", False):
        return
    rows = torch.cat([r.double() for r in wide if len(r) == len(wide[0])], 1)
    is_rich = _is_rich(rows) or not wide[0].is_floating_point()
    kinds = distinct(rows)
    fewest = 0 if is_one_sample(data) else 1  # one input with several targets has a code of its own
    if len(rows) >= 32 and is_rich and fewest < kinds < _fewest(data, len(rows)):
        yield _repeated(data, kinds, len(rows))


def is_one_sample(data: Data) -> bool:
    """Whether inputs and targets are the same in all samples, and no blank picture: the data set gives one sample always."""
    every = [flat_samples(t) for t in (*data.inputs.values(), data.targets) if t and t[0].dim()]
    is_one = bool(data.targets) and all(bool((rows == rows[:1]).all()) for rows in every)
    return is_one and any(len(torch.unique(rows[0])) > 1 for rows in every)


def _is_read(facts: Facts) -> bool:
    """Whether a net got the target, or a part of it."""
    target = dict(leaves(facts.step.given)).get(facts.data.target)
    return target is not None and is_asked(facts.step, target)


def _is_rich(rows: Tensor) -> bool:
    """Whether chance makes no two samples alike: many values, or several of them at many places, as pixels have."""
    values = len(torch.unique(rows[:64]))
    return values > 32 or (values > 8 and rows.shape[1] >= 32)


def _is_whole(data: Data) -> bool:
    """Whether each batch is the very same tensor, and collated by nobody: a graph that is all of the data, once a step."""
    if getattr(data.reading.loader, "batch_size", None) is not None:
        return False
    every = [tensors for tensors in data.inputs.values() if len(tensors) > 1]
    return bool(every) and all(t.data_ptr() == tensors[0].data_ptr() for tensors in every for t in tensors)


def _fewest(data: Data, drawn: int) -> float:
    """Different samples that are enough; those who draw with replacement know that some come again."""
    loader = data.reading.loader
    if is_replacing(loader):
        return FEW * min(drawn, length(loader) or 0)
    return (0.501 if is_for_each_worker(loader) else 0.5) * drawn  # two workers: exactly half


def _is_one_each(data: Data) -> bool:
    """Whether all samples of each batch are the same, and those of another batch are not: they share their memory."""
    tensors = [t for t in data.inputs.values() if t and t[0].dim() and t[0].is_floating_point()]
    batches = [batch.flatten(1) if batch.dim() > 1 else batch[:, None] for inputs in tensors for batch in inputs]
    if len(batches) < 4 or min(len(batch) for batch in batches) < 4:
        return False
    return all(bool((b == b[:1]).all()) for b in batches) and not torch.equal(batches[0][0], batches[1][0])


def _repeated(data: Data, kinds: int, samples: int) -> Finding:
    return found(
        "DUPLICATES",
        "warning",
        f"Only {kinds} of the first {samples} samples of an epoch are different.",
        "Look at the data set's __getitem__ and __len__, at memory that all samples share, at how the workers share an "
        "iterable data set, and at a sampler's weights, of which each sample needs one.",
        {"different": kinds, "samples": samples},
        data.inputs,
    )


CHECKS = (Check("DUPLICATES", ("data", "step"), duplicates),)

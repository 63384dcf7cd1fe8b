"""What the batches show: scales, labels and their order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

from lightning_adam.preflight import made_labels
from lightning_adam.preflight.batches import LABEL_NAMES, Reading, is_finite, leaves, mapped, same_values
from lightning_adam.preflight.leaks import leaks
from lightning_adam.preflight.step import EMBEDDINGS, Step, is_asked, main_tensor
from lightning_adam.preflight.task import OutOfTimeError, Task, gradients

MOST_SAMPLES = 1024
FEWEST_BATCHES = 8
"""From which it is seen whether consecutive ones are alike."""
FAR = 200
"""Samples that are looked at across the whole of data which are read in order."""


@dataclass
class Data:
    """What was read, and which tensors play which part.

    Attributes:
        reading: the batches.
        samples: of the first batch.
        inputs: the other tensors, by path, of all batches.
        target: path of the target; empty where it is not known.
        targets: its tensors, of all batches.
        bad: paths with NaN or Inf, and whether the loss and its gradient are finite all the same.
        reaches: whether the loss changes with the float inputs; None where there are none.
        leaks: places of the inputs, by path, that have the target.
        far: labels across the data set, in its order, where it is read in order.
        made: labels that the step makes of the batch, where all are the same.
        is_as_read: whether the loss gets the targets as the loader gives them; a hook between may mix or scale them.
    """

    reading: Reading
    samples: int
    inputs: dict[str, list[Tensor]]
    target: str
    targets: list[Tensor]
    bad: dict[str, bool] = field(default_factory=dict)
    reaches: bool | None = None
    leaks: dict[str, list[str]] = field(default_factory=dict)
    far: Tensor | None = None
    made: Tensor | None = None
    is_as_read: bool = True

    @property
    def labels(self) -> Tensor | None:
        """One whole number per sample, of all batches; 0.0 and 1.0 count."""
        flat = [t.squeeze(-1) if t.dim() == 2 and t.shape[1] == 1 else t for t in self.targets]
        if not flat or any(t.dim() != 1 for t in flat):
            return None
        every = torch.cat(flat)
        whole = not every.is_floating_point() or bool(((every == 0) | (every == 1)).all())
        return every.long() if whole and not every.is_complex() else None


def measure(task: Task, step: Step) -> Data:
    """Which part each tensor plays, by the first training step where it shows, else by the field's names."""
    rows = [dict(leaves(batch)) for batch in task.reading.batches]
    target = step.target or named_target(task.reading.batches[0]) or _left_over(step)
    inputs = {path: [row[path] for row in rows if path in row] for path in rows[0] if path != target}
    data = Data(task.reading, step.samples, inputs, target, [row[target] for row in rows if target in row])
    data.bad = _bad(task)
    data.reaches = _reaches(task, step, inputs)
    data.leaks = leaks(task, step, inputs, data.targets) if step.error is None else {}
    data.far = _far(task.reading.loader, target)
    data.made = made_labels.measure(task, step)
    data.is_as_read = _is_as_read(task, step, target)
    return data


def _is_as_read(task: Task, step: Step, target: str) -> bool:
    read, given = (dict(leaves(batch)).get(target) for batch in (task.usable()[0], step.given))
    return read is None or given is None or (read.numel() == given.numel() and same_values(read, given))


def named_target(batch: Any) -> str:
    """By its name in a dict, or as the second of two."""
    paths = [path for path, _ in leaves(batch)]
    named = [path for path in paths if path.rsplit(".", 1)[-1] in LABEL_NAMES]
    return named[0] if named else "1" if paths == ["0", "1"] else ""


def _left_over(step: Step) -> str:
    """The one tensor that no net gets and that is as large as the prediction: what a loss by hand compares it with."""
    output = main_tensor(step.trace.outer[step.prediction][1], step.samples) if step.prediction >= 0 else None
    unasked = [(path, leaf) for path, leaf in leaves(step.given) if not is_asked(step, leaf)]
    floats = [(path, leaf) for path, leaf in unasked if leaf.is_floating_point()]
    candidates = floats or [(path, leaf) for path, leaf in unasked if leaf.dim() > 2]  # a mask's whole numbers
    is_one = len(candidates) == 1 and output is not None and candidates[0][1].numel() == output.numel()
    return candidates[0][0] if is_one else ""


def _bad(task: Task) -> dict[str, bool]:
    bad: dict[str, bool] = {}
    for index, batch in enumerate(task.reading.batches):
        if not is_finite(batch):
            paths = [p for p, t in leaves(batch) if t.is_floating_point() and not bool(torch.isfinite(t).all())]
            finite = _stays_finite(task, batch, index)
            bad |= {path: finite and bad.get(path, True) for path in paths}
    return bad


def _stays_finite(task: Task, batch: Any, index: int) -> bool:
    """Loss and gradient: a gate that is wide open, or a mask, makes an infinite input finite, and not its gradient."""
    try:
        loss = task.loss(batch, index)
        slopes = gradients(task, loss, list(task.trainable())) if loss.requires_grad or task.manual else {}
    except OutOfTimeError:
        raise
    except Exception:  # the first step has told of it
        return False
    return all(bool(torch.isfinite(t).all()) for t in (loss.detach(), *slopes.values()) if t is not None)


def _value(task: Task, batch: Any) -> float:
    try:
        return float(task.loss(batch).detach())
    except OutOfTimeError:
        raise
    except Exception:  # the first step has told of it
        return math.nan


def _reaches(task: Task, step: Step, inputs: dict[str, list[Tensor]]) -> bool | None:
    if step.error is not None or not any(tensors[0].is_floating_point() for tensors in inputs.values()):
        return None
    changed = {id(tensors[0]) for tensors in inputs.values() if tensors[0].is_floating_point()}
    noise = torch.Generator().manual_seed(0)

    def change(part: Any) -> Any:
        return part + torch.randn(part.shape, generator=noise).to(part) if id(part) in changed else part

    first = task.reading.batches[0]
    return _value(task, mapped(first, change)) != _value(task, first)


def _far(loader: Any, target: str) -> Tensor | None:
    """Labels across data that are not shuffled: the first batches may all be of one class."""
    sampler, data = getattr(loader, "sampler", None), getattr(loader, "dataset", None)
    if not isinstance(loader, DataLoader) or not isinstance(sampler, SequentialSampler) or not target:
        return None
    try:
        places = torch.linspace(0, len(data) - 1, min(FAR, len(data))).long().tolist()  # type: ignore[arg-type]
        labels = [dict(leaves(_as_batch(data[place])))[target] for place in places]  # type: ignore[index]
        return torch.stack(labels).squeeze()
    except Exception:  # a data set of another make than its batches
        return None


def _as_batch(sample: Any) -> Any:
    """Numbers of a sample become tensors, as the loader makes them."""
    return tree_map(lambda part: torch.as_tensor(part) if isinstance(part, (int, float)) else part, sample)


def flat_samples(tensors: list[Tensor]) -> Tensor:
    """One row per sample."""
    alike = [t for t in tensors if t.dim() and t.shape[1:] == tensors[0].shape[1:]]
    rows = torch.cat([t.flatten(1) if t.dim() > 1 else t[:, None] for t in alike])
    return rows[:MOST_SAMPLES]


def is_replacing(loader: Any) -> bool:
    """Whether samples are drawn with replacement: then they repeat. A stream may, but not once for each worker."""
    if is_for_each_worker(loader):
        return False
    sampler = getattr(loader, "sampler", None)
    return getattr(sampler, "replacement", False) or not isinstance(sampler, (RandomSampler, SequentialSampler, type(None)))


def length(loader: Any) -> int | None:
    """Samples of the data set; None where nobody knows."""
    try:
        return len(loader.dataset)
    except (AttributeError, TypeError, NotImplementedError):
        return None


def is_for_each_worker(loader: Any) -> bool:
    """Whether several workers read the same stream, each from its beginning unless they share it out."""
    return isinstance(getattr(loader, "dataset", None), IterableDataset) and getattr(loader, "num_workers", 0) > 1


def distinct(rows: Tensor) -> int:
    """How many different rows; told apart by a random projection, which is exact but for chance."""
    weights = torch.linspace(1, 2, rows.shape[1], dtype=torch.float64).cos()
    return len(torch.unique(rows.double().nan_to_num() @ weights))


def entropy(labels: Tensor) -> float:
    """In nats."""
    counts = torch.unique(labels, return_counts=True)[1].double()
    shares = counts / counts.sum()
    return float(-(shares * shares.log()).sum())


def order(data: Data) -> tuple[float, float] | None:
    """Mean entropy of the labels inside a batch, and what it would be were they shuffled."""
    batches = _label_batches(data)
    if len(batches) < 3:
        return None
    labels = torch.cat(batches)
    pool = labels if data.far is None or data.far.dim() != 1 else torch.cat([labels, data.far.long()])
    inside = sum(entropy(part) for part in batches) / len(batches)
    chance = torch.Generator().manual_seed(0)
    draws = [pool[torch.randint(len(pool), (len(batches[0]),), generator=chance)] for _ in range(32)]
    return inside, sum(entropy(draw) for draw in draws) / len(draws)


def _label_batches(data: Data) -> list[Tensor]:
    """Batch by batch, the last one of an epoch left out where it is shorter; empty where a sample has no single label."""
    sizes = [len(t) for t in data.targets]
    labels = data.labels
    if labels is None or min(sizes) < 1:
        return []
    return [part for part in torch.split(labels, sizes) if 2 * len(part) > len(data.targets[0]) > 1]


def drift(data: Data) -> float:
    """How unlike the labels of consecutive batches are, over how unlike those of any two; 1 is chance."""
    batches = _label_batches(data)
    if len(batches) < FEWEST_BATCHES:
        return 1.0
    most = int(torch.cat(batches).max()) + 1
    if most > MOST_SAMPLES or min(int(part.min()) for part in batches) < 0:
        return 1.0
    shares = torch.stack([torch.bincount(part, minlength=most) / len(part) for part in batches])
    apart = torch.cdist(shares, shares, p=1)
    usual = float(apart.sum()) / (len(batches) * (len(batches) - 1))
    return float(apart.diagonal(1).mean()) / usual if usual > 0 else 1.0


def rising(data: Data) -> float:
    """The share of consecutive float targets that do not fall; 0.5 is chance, and said where hardly any two differ."""
    if not data.targets or not data.targets[0].is_floating_point() or data.labels is not None:
        return 0.5
    values = torch.cat([t.flatten() if t.dim() > 1 and t[0].numel() == 1 else t for t in data.targets])
    if values.dim() != 1 or len(values) < 64:
        return 0.5
    changes = values.diff()
    return float((changes >= 0).double().mean()) if int((changes > 0).sum()) > 2 else 0.5


def last_batch(loader: Any) -> int | None:
    """Samples of an epoch's last batch."""
    sized, data = getattr(loader, "batch_size", None), getattr(loader, "dataset", None)
    if not isinstance(loader, DataLoader) or not sized or loader.drop_last:
        return None
    try:
        return int(len(data) % sized or sized)  # type: ignore[arg-type]
    except TypeError:
        return None


def token_share(step: Step, labels: Tensor) -> tuple[float, float, int]:
    """How much of the labels the most frequent one is, how much of the input it is, and which."""
    values, counts = torch.unique(labels[labels >= 0], return_counts=True)
    if len(counts) < 3:
        return 0.0, 0.0, -1
    top = int(values[counts.argmax()])
    tokens = [e.values for e in step.trace.entries if isinstance(e.layer, EMBEDDINGS)]
    share = max((float((t == top).double().mean()) for t in tokens), default=0.0)
    return float(counts.max() / counts.sum()), share, top


def behind_the_ends(batch: Any, labels: Tensor, counted: Tensor) -> tuple[float, int]:
    """The share of the labels that count and stand behind the ends of sequences, and which label that is; 0 without one.

    Ends are read off a mask, 1 until a sequence is over and 0 behind it; or off the input: whole numbers of the labels'
    shape, of which rows end in runs of one and the same.
    """
    for behind in _masked_ends(batch, labels):
        told = labels.reshape(behind.shape)[behind]
        told = told[torch.isin(told, counted)]
        if counted.numel() and len(torch.unique(told)) == 1:
            return len(told) / counted.numel(), int(told[0])
    inputs = [leaf for _, leaf in leaves(batch) if leaf.dim() == 2 and not leaf.is_floating_point()]
    shifted = [leaf[:, 1:] for leaf in inputs if leaf.shape[1] > 2]  # whose first token is given
    for tokens in (*inputs, *shifted) if counted.numel() else ():
        if tokens.numel() != labels.numel() or labels.dim() > 2:
            continue
        last = tokens[:, -1].mode().values
        behind = (tokens == last).flip(1).int().cumprod(1).flip(1).bool()
        runs = behind.sum(1)
        told = labels.reshape(tokens.shape)[behind]
        is_padded = bool((runs >= 2).double().mean() > 0.25) and len(torch.unique(runs)) > 2
        if is_padded and len(torch.unique(told)) == 1 and bool((counted == told[0]).any()):
            return float(behind.sum()) / counted.numel(), int(told[0])
    return 0.0, -1


def _masked_ends(batch: Any, labels: Tensor) -> Iterator[Tensor]:
    """Of each mask of the labels' shape where its rows are over; a sequence's first token may be given, and no label."""
    masks = [leaf for path, leaf in leaves(batch) if leaf.dim() == 2 and path.endswith("mask") and not leaf.is_complex()]
    for mask in (*masks, *(mask[:, 1:] for mask in masks)):
        over = mask == 0
        is_told = mask.numel() == labels.numel() and bool((over | (mask == 1)).all())
        if is_told and bool(over[:, -1].double().mean() > 0.25) and bool((over[:, 1:] >= over[:, :-1]).all()):
            yield over

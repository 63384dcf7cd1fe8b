"""Batches of any make: their tensors, their samples, and how they are read as training reads them."""

from __future__ import annotations

import time
from collections import Counter, UserDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_adam.errors import ConfigError

MOST = 24
"""Batches that are read: the criteria of the data were measured on so many."""
MOST_BYTES = 400_000_000
LABEL_NAMES = ("labels", "label", "targets", "target", "y", "mc_labels", "class", "classes")


def parts(batch: Any) -> list[tuple[str, Any]]:
    """What a container holds, by name; empty for anything else."""
    if isinstance(batch, (Mapping, UserDict)):
        return [(str(key), value) for key, value in batch.items()]
    if isinstance(batch, (list, tuple)):
        names = getattr(batch, "_fields", range(len(batch)))
        return [(str(name), value) for name, value in zip(names, batch, strict=True)]
    if is_dataclass(batch) and not isinstance(batch, type):
        return [(f.name, getattr(batch, f.name)) for f in fields(batch)]
    return []


def leaves(batch: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Its tensors with their paths, such as ``0`` or ``targets.boxes``."""
    if isinstance(batch, Tensor):
        yield prefix or "batch", batch
    for name, part in parts(batch):
        yield from leaves(part, f"{prefix}.{name}" if prefix else name)


def mapped(batch: Any, change: Callable[[Any], Any]) -> Any:
    """A batch of the same make; ``change`` gets tensors and lists, and gives back what it does not change."""
    changed = change(batch)
    if changed is not batch or isinstance(batch, Tensor):
        return changed
    if isinstance(batch, UserDict):
        twin = copy(batch)
        twin.data = {key: mapped(value, change) for key, value in batch.items()}
        return twin
    if isinstance(batch, dict):
        return type(batch)((key, mapped(value, change)) for key, value in batch.items())
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(mapped(value, change) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(mapped(value, change) for value in batch)
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(batch, **{f.name: mapped(getattr(batch, f.name), change) for f in fields(batch) if f.init})
    return batch


def size(batch: Any) -> int:
    """Samples in it: the first dimension that most of its tensors share, the first one's at a tie; 0 if unknown.

    Where each sample has a dict of its own, as targets of detection do, there are as many samples as dicts.
    """
    listed = [len(part) for part in _lists(batch) if part and all(isinstance(one, Mapping) for one in part)]
    if listed:
        return listed[0]
    counts = Counter(tensor.shape[0] for _, tensor in leaves(batch) if tensor.dim())
    return max(counts, key=counts.__getitem__) if counts else 0


def _lists(batch: Any) -> Iterator[Sequence[Any]]:
    """All lists and tuples in it, itself included; from the outside in."""
    if isinstance(batch, (list, tuple)):
        yield batch
    for _, part in parts(batch):
        yield from _lists(part)


def take(batch: Any, samples: Sequence[int], n: int | None = None) -> Any:
    """The batch of these samples, in this order; repeats are allowed. ``n`` says of how many, where the batch does not."""
    n = size(batch) if n is None else n

    def change(part: Any) -> Any:
        if isinstance(part, Tensor) and part.dim() and part.shape[0] == n:
            return part[torch.as_tensor(list(samples), device=part.device)]
        if isinstance(part, (list, tuple)) and len(part) == n and not _are_batches(part, n):
            return type(part)([part[i] for i in samples]) if type(part) in (list, tuple) else part
        return part

    return mapped(batch, change)


def _are_batches(part: Sequence[Any], n: int) -> bool:
    """Whether these are several tensors of all samples rather than one entry for each of them."""
    return all(isinstance(one, Tensor) and one.dim() and one.shape[0] == n for one in part)


def is_finite(batch: Any) -> bool:
    """Whether no tensor of it has NaN or Inf."""
    return all(bool(torch.isfinite(t).all()) for _, t in leaves(batch) if t.is_floating_point())


@dataclass(frozen=True)
class Reading:
    """What was read of the data.

    Attributes:
        batches: the first ones, in training's order.
        length: batches of an epoch; None where nobody knows.
        loader: where they came from.
    """

    batches: tuple[Any, ...]
    length: int | None
    loader: Any


def read(loader: Any, seconds: float, most: int = MOST) -> Reading:
    """The first batches of an epoch, at most so many.

    Raises:
        ConfigError: there are none, or reading them would take them away from training.
    """
    if not isinstance(loader, Iterable):
        raise ConfigError(
            f"dataloaders={type(loader).__name__}: give a DataLoader or another iterable of batches, or a datamodule."
        )
    if iter(loader) is loader:
        raise ConfigError("dataloaders is an iterator: reading it would take its batches away. Give what it iterates over.")
    batches = tuple(_first(loader, time.monotonic() + seconds, most))
    if not batches:
        raise ConfigError("dataloaders has no batch. Is the data set empty, or smaller than one batch with drop_last=True?")
    return Reading(batches, _length(loader), loader)


def _first(loader: Iterable[Any], deadline: float, most: int) -> Iterator[Any]:
    space = MOST_BYTES
    for count, batch in enumerate(loader, 1):
        yield batch
        space -= sum(t.numel() * t.element_size() for _, t in leaves(batch))
        if count == most or space < 0 or time.monotonic() > deadline:
            return


def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def train_loader(source: Any) -> Any:
    """The loader of a datamodule, or the source itself where it is one."""
    if not hasattr(source, "train_dataloader"):
        return _combined(source)
    for hook, arguments in (("prepare_data", ()), ("setup", ("fit",))):
        getattr(source, hook, lambda *_: None)(*arguments)
    return train_loader(_own_train_dataloader(source))


def _own_train_dataloader(source: Any) -> Any:
    """Lightning's own ``train_dataloader`` of a class that writes none raises when it is called."""
    try:
        return source.train_dataloader()
    except Exception as error:
        if type(error).__name__ != "MisconfigurationException":
            raise
        what = type(source).__name__
        raise ConfigError(
            f"{what} has no train_dataloader. Give a loader or a datamodule: la.preflight(module, loader), "
            "lightning-adam check file.py:Module --data file.py:DataModule."
        ) from error


@dataclass(frozen=True)
class _Together:
    """Several loaders read side by side, as Lightning does: until the longest ends, where those that have ended begin
    again, or until the shortest does."""

    loaders: dict[Any, Any]
    kind: type
    cycles: bool

    def __iter__(self) -> Iterator[Any]:
        streams = {key: iter(loader) for key, loader in self.loaders.items()}
        ended: set[Any] = set()
        while True:
            row = {key: self._next(key, streams, ended) for key in self.loaders}
            if ended and (not self.cycles or len(ended) == len(streams)):
                return
            yield self.kind(row) if self.kind is dict else self.kind(row.values())

    def _next(self, key: Any, streams: dict[Any, Iterator[Any]], ended: set[Any]) -> Any:
        for batch in streams[key]:
            return batch
        ended.add(key)
        streams[key] = iter(self.loaders[key])
        return next(streams[key], None)

    @property
    def repeats(self) -> bool:
        """Whether a shorter one, such as the labelled part of the data, comes again within an epoch."""
        return self.cycles and len({_length(loader) for loader in self.loaders.values()}) > 1

    def __len__(self) -> int:
        return (max if self.cycles else min)(len(loader) for loader in self.loaders.values())


def _combined(source: Any) -> Any:
    """Loaders in a dict or list, and Lightning's CombinedLoader of them, side by side; anything else as it is."""
    loaders, mode = getattr(source, "iterables", source), getattr(source, "_mode", "max_size_cycle")
    if isinstance(loaders, dict):
        return _Together(loaders, dict, mode != "min_size")
    return _Together(dict(enumerate(loaders)), type(loaders), mode != "min_size") if _are_loaders(loaders) else source


def _are_loaders(source: Any) -> bool:
    return isinstance(source, (list, tuple)) and bool(source) and all(isinstance(one, DataLoader) for one in source)


def path_of(values: Tensor, batch: Any) -> str:
    """The path of the batch's tensor that has these values; empty if none has."""
    for path, leaf in leaves(batch):
        if leaf.numel() == values.numel() and leaf.numel() and same_values(leaf, values):
            return path
    return ""


def same_values(leaf: Tensor, target: Tensor) -> bool:
    """Whether a tensor of the batch is another one, or what that is a view of."""
    if leaf.untyped_storage().data_ptr() == target.untyped_storage().data_ptr():
        return True
    return torch.equal(leaf.detach().flatten().double(), target.detach().flatten().double())

"""Leaves everything as it was: probing steps weights, draws random numbers and calls the user's code."""

from __future__ import annotations

import random
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

LEFT_ALONE = frozenset((
    "builtins", "threading", "_thread", "logging", "queue", "io", "_io", "multiprocessing", "concurrent", "socket",
    "subprocess", "asyncio", "contextvars", "weakref", "tensorboard", "wandb", "mlflow", "comet_ml", "neptune",
    "tqdm", "rich", "typing", "inspect", "abc", "re",
))  # fmt: skip
"""Packages whose objects live on their own (threads, files, servers): setting them back would break them."""

ATOMS = (
    str,
    bytes,
    int,
    float,
    complex,
    bool,
    type(None),
    type,
    types.ModuleType,
    torch.dtype,
    torch.device,
    torch.Size,
    range,
)
LONGEST = 20_000
"""Entries of a plain container beyond which it holds data, which probing only reads."""

Undo = Callable[[], None]


@contextmanager
def untouched(*roots: Any) -> Iterator[None]:
    """Everything that can be reached from the roots, and all global random states, are afterwards bit by bit as before.

    Reached are tensors (values, gradients, flags), modules, optimizers, schedulers, containers, generators of random
    numbers, closures and plain objects, in place: whoever holds them too sees no change. A data set's tensors are only read
    by training, and not copied. Python's own generators and iterators cannot be set back.
    """
    undo = [*_random_states(), *_Capture().of(roots)]
    try:
        yield
    finally:
        with ExitStack() as stack:  # what one of them raises does not keep the others from being called
            for back in undo:
                stack.callback(back)


def _random_states() -> list[Undo]:
    states: list[Undo] = [
        partial(torch.set_rng_state, torch.get_rng_state()),
        partial(random.setstate, random.getstate()),
        partial(np.random.set_state, np.random.get_state()),
    ]
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states.append(partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    return states


class _Capture:
    """One walk over a graph of objects: what undoes each, and what it leads to."""

    def __init__(self) -> None:
        self._seen: dict[int, Any] = {}  # the objects themselves: an id may be used again once its owner is gone

    def of(self, roots: Iterable[Any]) -> list[Undo]:
        """What puts back everything that can be reached from these objects."""
        undo: list[Undo] = []
        todo = [(root, False) for root in roots]
        while todo:
            thing, is_data = todo.pop()
            if isinstance(thing, ATOMS) or id(thing) in self._seen:
                continue
            self._seen[id(thing)] = thing
            is_data = is_data or isinstance(thing, Dataset)
            back, children = _captured(thing, is_data)
            undo += back
            todo += [(child, is_data) for child in children]
        return undo


def _captured(thing: Any, is_data: bool) -> tuple[list[Undo], Iterable[Any]]:
    for kinds, capture in _CAPTURES:
        if isinstance(thing, kinds):
            return capture(thing, is_data)
    return _object(thing, is_data)


def _tensor(tensor: Tensor, is_data: bool) -> tuple[list[Undo], Iterable[Any]]:
    if is_data:
        return [], ()
    kind, needs, gradient = type(tensor), tensor.requires_grad, tensor.grad if tensor.is_leaf else None
    alias = tensor.data
    values = alias.clone() if alias.layout == torch.strided and not _is_lazy(tensor) else None
    if values is not None and 0 in alias.stride():
        values = None  # an expanded view: its base is walked where it can be reached
    extra = dict(getattr(tensor, "__dict__", {}))

    def back() -> None:
        tensor.__class__ = kind
        if tensor.is_leaf:
            tensor.data, tensor.grad = alias, gradient
            tensor.requires_grad = needs  # a lazy one refuses requires_grad_
        if values is not None:
            alias.copy_(values)
        if getattr(tensor, "__dict__", extra) != extra:
            tensor.__dict__.clear()
            tensor.__dict__.update(extra)

    return [back], (gradient, *extra.values())


def _is_lazy(tensor: Tensor) -> bool:
    return isinstance(tensor, (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer))


def _dict(thing: dict[Any, Any], is_data: bool) -> tuple[list[Undo], Iterable[Any]]:
    if len(thing) > LONGEST:
        return [], ()
    before = dict(thing)

    def back() -> None:
        dict.clear(thing)
        dict.update(thing, before)

    return [back], before.values()


def _sequence(thing: Any, is_data: bool) -> tuple[list[Undo], Iterable[Any]]:
    if len(thing) > LONGEST:
        return [], ()
    before = list(thing)

    def back() -> None:
        thing.clear()
        thing.extend(before)

    return [back], before


def _set(thing: set[Any], is_data: bool) -> tuple[list[Undo], Iterable[Any]]:
    before = set(thing)

    def back() -> None:
        thing.clear()
        thing.update(before)

    return [back], ()


def _array(array: np.ndarray[Any, Any], is_data: bool) -> tuple[list[Undo], Iterable[Any]]:
    if is_data or not array.flags.writeable or array.dtype.hasobject:
        return [], ()
    return [partial(np.copyto, array, array.copy())], ()


def _function(function: Any, is_data: bool) -> tuple[list[Undo], Iterable[Any]]:
    """What a closure remembers: a loss may hold the net itself, or a counter."""
    undo: list[Undo] = []
    children = list(function.__defaults__ or ())
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:  # not yet filled
            continue
        undo.append(partial(setattr, cell, "cell_contents", content))
        children.append(content)
    return undo, children


def _object(thing: Any, is_data: bool) -> tuple[list[Undo], Iterable[Any]]:
    """Any other: its attributes, past whatever its class does on setting one."""
    attributes = getattr(thing, "__dict__", None)
    if type(attributes) is not dict:
        return _contents(thing, is_data)
    if type(thing).__module__.split(".")[0] in LEFT_ALONE:
        return [], ()
    kind, before = type(thing), dict(attributes)

    def back() -> None:
        if type(thing) is not kind:  # a lazy module that has become another
            object.__setattr__(thing, "__class__", kind)
        attributes.clear()
        attributes.update(before)

    parts, children = _contents(thing, is_data)
    return [*parts, back], (*before.values(), *children)


def _contents(thing: Any, is_data: bool) -> tuple[list[Undo], Iterable[Any]]:
    """Of a container class with attributes, such as a Counter or an OrderedDict of its own."""
    if isinstance(thing, dict):
        return _dict(thing, is_data)
    if isinstance(thing, (list, deque)):
        return _sequence(thing, is_data)
    return [], ()


def _state_of(get: str, put: str) -> Callable[[Any, bool], tuple[list[Undo], Iterable[Any]]]:
    return lambda thing, is_data: ([partial(getattr(thing, put), getattr(thing, get)())], ())


def _bits(generator: np.random.Generator, is_data: bool) -> tuple[list[Undo], Iterable[Any]]:
    return [partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)], ()


def _parts(*names: str) -> Callable[[Any, bool], tuple[list[Undo], Iterable[Any]]]:
    return lambda thing, is_data: ([], [getattr(thing, name) for name in names])


_CAPTURES: tuple[tuple[Any, Callable[[Any, bool], tuple[list[Undo], Iterable[Any]]]], ...] = (
    (Tensor, _tensor),
    (torch.Generator, _state_of("get_state", "set_state")),
    (random.Random, _state_of("getstate", "setstate")),
    (np.random.RandomState, _state_of("get_state", "set_state")),
    (np.random.Generator, _bits),
    (np.ndarray, _array),
    (types.FunctionType, _function),
    (types.MethodType, _parts("__self__", "__func__")),
    (partial, _parts("func", "args", "keywords")),
    ((tuple, frozenset), lambda thing, is_data: ([], thing if len(thing) <= LONGEST else ())),
    (set, _set),
)

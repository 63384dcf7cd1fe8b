"""Whether a model is trained against a copy of itself that moves: its loss may rise while it learns."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

ALIKE = 0.5
"""Of a matrix' norm: a copy that follows, or is renewed at times, differs by less; another initialisation by 1.4."""
COMPARED = 64
"""Elements by which a copy is seen to have moved."""


class TargetNetwork:
    """A copy of what is trained, such as the target network of Q-learning, or the encoder that follows in BYOL and MoCo.

    What training does not call is an average of the weights, and what never changes a teacher or frozen layers: neither
    counts.

    Args:
        module: the whole model.
        held: the parameters that optimizers have, by identity.
    """

    def __init__(self, module: nn.Module, held: Collection[int]) -> None:
        copied = copy_of_trained(module, held)
        self._module = module
        self._is_called, self._has_moved = False, False
        self._weight = None if copied is None else next(_matrices(copied))
        self._before = None if self._weight is None else _sample(self._weight)
        parts = [] if copied is None else copied.modules()
        self._hooks = [part.register_forward_hook(self._note_call) for part in parts]

    def has_moved(self) -> bool:
        """Whether it has answered, and changed since training began."""
        if self._is_called and not self._has_moved and self._weight is not None and self._before is not None:
            self._has_moved = not torch.equal(_sample(self._weight), self._before)
        return self._has_moved

    def detach(self) -> None:
        """Leave nothing behind; may be called twice."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _note_call(self, *_: Any) -> None:
        if self._module.training:  # not in validation
            self._is_called = True
            self.detach()


def copy_of_trained(module: nn.Module, held: Collection[int]) -> nn.Module | None:
    """The first part that is not trained and has the shapes and nearly the values of a trained one."""
    if all(id(p) in held for p in module.parameters()):
        return None  # as in most models, which may have thousands of parts
    parts = [(part, found) for part in module.modules() if (found := list(_matrices(part)))]
    trained = {_shapes(found): found for _, found in parts if all(id(p) in held for p in found)}
    untrained = [(part, found) for part, found in parts if not any(id(p) in held for p in found)]
    alike = [(part, found[0], trained[_shapes(found)][0]) for part, found in untrained if _shapes(found) in trained]
    return next((part for part, kept, now in alike if _is_copy(kept, now)), None)


def _matrices(part: nn.Module) -> Iterator[Tensor]:
    return (p for p in part.parameters() if not is_lazy(p) and p.dim() >= 2)


def _shapes(tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)


def _is_copy(kept: Tensor, trained: Tensor) -> bool:
    if kept.device != trained.device or not kept.is_floating_point() or hasattr(kept, "to_local"):
        return False  # on another device, of whole numbers, or only a shard
    now = trained.detach().float()
    return not hasattr(trained, "to_local") and bool((kept.detach().float() - now).norm() < ALIKE * now.norm())


def _sample(weight: Tensor) -> Tensor:
    return weight.detach().flatten()[:COMPARED].clone()

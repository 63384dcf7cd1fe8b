"""Whether a model keeps a copy of what it trains, whose answers its loss compares with."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor, nn

ALIKE = 0.5
"""Of a matrix' norm: a copy that follows, or is renewed at times, differs by less; another initialisation by 1.4."""


def has_target_network(module: nn.Module, held: Collection[int], called: Collection[int] | None = None) -> bool:
    """Whether a part that is not trained has the shapes and nearly the values of a trained one.

    As the target network of Q-learning, or the encoder that follows in BYOL and MoCo, does.

    Args:
        module: the whole model.
        held: the parameters that optimizers have, by identity.
        called: the modules that a training step calls, by identity; None where that is not known. A copy that none calls
            is an average of the weights, and no target.
    """
    matrices = [(part, found) for part in module.modules() if (found := [p for p in part.parameters() if p.dim() >= 2])]
    trained = {_shapes(found): found for _, found in matrices if all(id(p) in held for p in found)}
    untrained = [(part, found) for part, found in matrices if not any(id(p) in held for p in found)]
    kept = [found for part, found in untrained if called is None or id(part) in called]
    return any(_is_copy(found[0], trained[_shapes(found)][0]) for found in kept if _shapes(found) in trained)


def _shapes(tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)


def _is_copy(kept: Tensor, trained: Tensor) -> bool:
    if kept.device != trained.device or not kept.is_floating_point() or type(kept.data) is not type(trained.data):
        return False  # on another device, of whole numbers, or only one of them sharded
    now = trained.detach().float()
    return bool((kept.detach().float() - now).norm() < ALIKE * now.norm())

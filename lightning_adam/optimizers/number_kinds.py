"""Which names of the catalogue take complex parameters and sparse gradients; each is tried in ``test_every_group``."""

from __future__ import annotations

from torch import nn

from lightning_adam.optimizers.choice import ClassSpec
from lightning_adam.optimizers.spec import OptimizerSpec

REAL_ONLY = {"adafactor", "ademamix", "prodigy", "ranger21", "sm3", "soap", "sophia"}
"""Beside all of bitsandbytes, whose kernels know real numbers only."""
TAKES_SPARSE = {"lbfgs", "sgd", "sm3"}


def takes_complex(spec: OptimizerSpec) -> bool:
    """Of a user's own class nothing is known: it may."""
    return spec.name not in REAL_ONLY and spec.library != "bitsandbytes"


def takes_sparse(spec: OptimizerSpec) -> bool:
    """Of a user's own class nothing is known: it may."""
    return spec.name in TAKES_SPARSE or isinstance(spec, ClassSpec)


def sparse_embeddings(module: nn.Module) -> dict[int, str]:
    """Identity of the weights whose gradients are sparse, to the module's name."""
    found = [(name, part) for name, part in module.named_modules() if isinstance(part, (nn.Embedding, nn.EmbeddingBag))]
    return {id(part.weight): name or type(part).__name__ for name, part in found if part.sparse}

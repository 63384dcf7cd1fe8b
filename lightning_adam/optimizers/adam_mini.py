"""Adam-mini: Adam with one v per block of a tensor (Zhang et al. 2024, arXiv:2406.16793)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_adam.errors import ConfigError
from lightning_adam.optimizers._foreach import ForeachOptimizer, Tensors, check_adam, column, corrections

QUERY_AND_KEY = frozenset({"q_proj", "k_proj", "wq", "wk", "query", "key"})
"""Modules that hold queries and keys, as the authors' package knows them."""


class AdamMini(ForeachOptimizer):
    """Adam that keeps one v per output neuron, and so half of Adam's state.

    v averages the mean of g² over a block. The blocks are those of the authors' package 1.1.1 (paper, algorithm 3):

    - a matrix: one block per row, that is per output neuron or token; filters of a convolution likewise
    - queries and keys, with ``num_heads``: one block per attention head
    - biases: every element, as in Adam
    - other vectors, such as a norm's: the whole tensor

    Where the authors' package does not know a matrix's name, it takes the whole of it as one block; here the rows.

    Args:
        params: groups from the helper (``adam_names`` holds their parameters' names), or parameters: then no name tells
            queries, keys and biases.
        lr: learning rate.
        betas: decay rates of the moments.
        eps: added to √v̂.
        weight_decay: decoupled.
        num_embeds: width of the queries, such as 768; with ``num_heads`` it tells how many rows a head has.
        num_heads: attention heads, such as 12; without the two, queries and keys go by rows.

    Raises:
        ConfigError: a hyper-parameter out of range, or the heads do not divide the rows.
    """

    buffers = ("exp_avg",)
    in_pieces = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        num_embeds: int | None = None,
        num_heads: int | None = None,
    ) -> None:
        check_adam(lr, betas, eps, weight_decay)
        self.head_rows = _head_rows(num_embeds, num_heads)
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Checks the size of a head against what is there."""
        super().add_param_group(param_group)
        for parameter, name in _named(self.param_groups[-1]):
            _check_heads(self.head_rows, name, parameter)

    def prepare(self, group: dict[str, Any], parameter: Tensor) -> None:
        """The block's kind is found once, by name and shape."""
        super().prepare(group, parameter)
        state = self.state[parameter]
        if "block_sq" not in state:
            name = next((n for p, n in _named(group) if p is parameter), "")
            state["block_rows"] = rows_per_block(name, parameter, self.head_rows)
            state["block_sq"] = torch.zeros_like(block_means(state["exp_avg"], state["block_rows"]))

    def update(self, group: dict[str, Any], weights: Tensors, gradients: Tensors, states: Sequence[Any]) -> None:
        """Adam, v of the blocks."""
        beta1, beta2 = group["betas"]
        first, second = column(states, "exp_avg"), column(states, "block_sq")
        means = [block_means(g * g, state["block_rows"]) for g, state in zip(gradients, states, strict=True)]
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_lerp_(second, means, 1 - beta2)
        ones, roots = corrections(group, states)
        for weight, m, v, one, root in zip(weights, first, second, ones, roots, strict=True):
            weight.sub_(m / (v.sqrt() / root + group["eps"]), alpha=group["lr"] / one)


def rows_per_block(name: str, parameter: Tensor, head_rows: int) -> int:
    """Rows that share a v; 0 where every element has its own, -1 where the tensor has one."""
    if parameter.dim() < 2:
        return 0 if name.endswith("bias") else -1
    return head_rows if _is_query_or_key(name) else 1


def block_means(squares: Tensor, rows: int) -> Tensor:
    """Means over the blocks, in a shape that spreads over the tensor: a head's stands in each of its rows."""
    if rows == 0:
        return squares
    if rows == -1:
        return squares.mean().reshape((1,) * squares.dim())
    means = squares.mean(dim=tuple(range(1, squares.dim())), keepdim=True)
    if rows == 1:
        return means
    heads = means.reshape(-1, rows, *means.shape[1:]).mean(1, keepdim=True)
    return heads.expand(-1, rows, *means.shape[1:]).reshape(means.shape)


def _named(group: dict[str, Any]) -> list[tuple[Tensor, str]]:
    names = group.get("adam_names") or [""] * len(group["params"])
    return list(zip(group["params"], names, strict=False))


def _is_query_or_key(name: str) -> bool:
    return not QUERY_AND_KEY.isdisjoint(name.split("."))


def _head_rows(num_embeds: int | None, num_heads: int | None) -> int:
    """Rows of a query or key matrix that share a v."""
    if num_embeds is None and num_heads is None:
        return 1
    for name, value in (("num_embeds", num_embeds), ("num_heads", num_heads)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name}={value!r}: give both num_embeds and num_heads, such as 768 and 12, or neither.")
    if num_embeds % num_heads:  # type: ignore[operator]
        raise ConfigError(f"num_heads={num_heads!r}: {num_heads} heads do not divide a width of num_embeds={num_embeds}.")
    return num_embeds // num_heads  # type: ignore[operator]


def _check_heads(head_rows: int, name: str, parameter: Tensor) -> None:
    if parameter.dim() >= 2 and _is_query_or_key(name) and len(parameter) % head_rows:
        raise ConfigError(
            f"num_embeds, num_heads: {name} has {len(parameter)} rows, which heads of {head_rows} do not fill. "
            "Give the width of the queries and the number of their heads, or leave both out."
        )

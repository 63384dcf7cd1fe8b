"""The operations behind a loss, as autograd has recorded them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Any

from torch import Tensor


def nodes_behind(loss: Tensor, most: float = math.inf) -> Iterator[Any]:
    """Each once, the nearest first.

    Args:
        loss: before its backward, which frees what the graph holds.
        most: of them.
    """
    due: deque[Any] = deque([loss.grad_fn])
    seen: set[Any] = set()
    while due and len(seen) < most:
        node = due.popleft()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        due.extend(following for following, _ in node.next_functions)

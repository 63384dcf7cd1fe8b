"""A histogram of each tensor's sampled elements, packed: most bins are empty, and with each logged step 80 numbers of every
tensor and quantity would outweigh all the rest of the log."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.util import tensor_util

from lightning_adam.statistics import LOG10_EDGES

HISTOGRAMS = "_histograms/"
COUNTED = ("step_size", "effective_lr")
"""What they are of, as their names in the tags and as the rows of ``Snapshot.histograms``."""
BINS = len(LOG10_EDGES) - 1
MOST_BYTES = 1 << 24
"""Of a step's histograms: 100,000 tensors."""
FASTEST = 1
"""zlib's level: a better one takes four times as long for a tenth less."""


def packed(counts: NDArray[np.int32]) -> NDArray[np.uint8]:
    """First occupied bin, number of bins from there, and of these uint16 [n_tensors, n_bins] deflated.

    Args:
        counts: [n_tensors, BINS], none above 65,535: the sample of a tensor has at most 4,096 elements.
    """
    used = np.flatnonzero(counts.any(axis=0))
    first, end = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
    content = np.ascontiguousarray(counts[:, first:end], dtype="<u2").tobytes()
    return np.frombuffer(bytes([first, end - first]) + zlib.compress(content, FASTEST), np.uint8)


def unpacked(stored: NDArray[Any]) -> NDArray[np.uint16]:
    """Counts [n_tensors, BINS]; of no tensors where all are empty, or where it is not what :func:`packed` writes."""
    content = stored.reshape(-1).tobytes() if stored.dtype == np.uint8 else b""
    first, n_bins = content[:2] if len(content) > 2 else (0, 0)
    counted = np.frombuffer(_inflated(content[2:]), np.uint8)
    if n_bins == 0 or first + n_bins > BINS or len(counted) % (2 * n_bins):
        return np.zeros((0, BINS), np.uint16)
    rows = counted.view("<u2").reshape(-1, n_bins)
    return np.pad(rows, ((0, 0), (first, BINS - first - n_bins)))


def counts_nothing(stored: NDArray[Any]) -> bool:
    """Whether :func:`packed` wrote it at a step where no tensor had a value other than 0 that is finite."""
    return stored.dtype == np.uint8 and stored.size > 2 and not stored.reshape(-1)[:2].any()


def _inflated(content: bytes) -> bytes:
    """At most so much as is sensible of what somebody else may have written."""
    try:
        return zlib.decompressobj().decompress(content, MOST_BYTES)
    except zlib.error:
        return b""


def about(names: Sequence[str]) -> Mapping[str, Any]:
    """What a reader has to know beside the counts: the rows, and where log10 of the values is cut into bins."""
    return {"version": 1, "rows": [*names], "log10_edges": [float(LOG10_EDGES[0]), float(LOG10_EDGES[-1]), BINS]}


def as_tensor(counts: NDArray[np.int32]) -> Any:
    """As TensorBoard stores it."""
    return tensor_util.make_tensor_proto(packed(counts))

"""The few tensors that stand out at a step, as Markdown tables."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightning_adam.statistics import Snapshot

VIEWS: tuple[tuple[str, str, str, bool], ...] = (
    ("Largest update ratio", "update_ratio", "‖Δθ‖/‖θ‖, about 2e-3 is healthy", True),
    ("Largest surprise", "gradient_surprise", "rms of g/√v̂; above 4 for long: v is stale", True),
    ("Smallest step", "step_size_rms", "rms of |Δθ|; 0: it does not move", False),
)
"""Title, column, what it means, and whether the largest come first."""

OTHER_COLUMNS = ("update_ratio", "step_size_rms", "gradient_norm", "gradient_surprise")


def top_tables(snapshot: Snapshot, count: int) -> str:
    """One table per view, ``count`` tensors each; what is not finite comes first of all."""
    return "\n\n".join([f"Step {snapshot.step}", *(_view(snapshot, view, count) for view in VIEWS)])


def _view(snapshot: Snapshot, view: tuple[str, str, str, bool], count: int) -> str:
    title, column, meaning, largest = view
    rows = ranked(snapshot.column(column), largest)[:count]
    others = [name for name in OTHER_COLUMNS if name != column]
    lines = [
        f"**{title}** ({meaning})",
        "",
        f"| tensor | group | {' | '.join(name.replace('_', ' ') for name in (column, *others))} |",
        f"|---|---|{'---|' * (1 + len(others))}",
    ]
    for row in rows:
        numbers = " | ".join(f"{snapshot.column(name)[row]:.3g}" for name in (column, *others))
        lines.append(f"| {snapshot.names[row]} | {snapshot.groups[row]} | {numbers} |")
    return "\n".join(lines)


def ranked(values: NDArray[np.float32], largest: bool) -> list[int]:
    """Rows in the order of their values; infinite ones first, rows without a value (NaN) left out if others have one."""
    known = ~np.isnan(values)
    key = np.where(np.isinf(values), -np.inf, -values if largest else values)
    order = [int(row) for row in np.argsort(key, kind="stable")]
    return [row for row in order if known[row]] if known.any() else order

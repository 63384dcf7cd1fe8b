"""Rows of a W&B run's history, which are numbered by themselves: a row that has gone by cannot be written any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STEP = "trainer/global_step"
"""The x-axis of Lightning's WandbLogger, and ours."""


class WandbHistory:
    """Adds values to a run's history.

    Beside Lightning's logger, which ends a row with each call and never numbers one, each of ours is a row too. A plain
    loop may number its own (``run.log(values, step=step)``), and W&B drops what comes for a number that has gone by: so
    ours go into the row that is open, and a row is ended only when the next logged step begins. A loop that numbers its
    rows by optimizer steps, or not at all, loses nothing then; one that numbers them by epochs should make its epoch a
    metric instead (``run.define_metric``), as W&B recommends.

    Args:
        run: what ``wandb.init`` returned.
        is_shared: whether somebody else may number the rows.
    """

    def __init__(self, run: Any, is_shared: bool) -> None:
        self._run, self._is_shared = run, is_shared
        self._has_axis = False
        self._open: tuple[int, int] | None = None  # our step, and the number of the row that it is in

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Values by their full tags, at one logged step."""
        self._define_axis()
        if self._is_shared:
            self._end_earlier_row(step)
        self._run.log({**values, STEP: step}, commit=not self._is_shared)

    def _define_axis(self) -> None:
        if not self._has_axis:
            self._run.define_metric(STEP)
            self._run.define_metric("adam*", step_metric=STEP)
            self._has_axis = True

    def _end_earlier_row(self, step: int) -> None:
        row = int(self._run.step)
        if self._open is not None and self._open[0] != step and self._open[1] == row:
            self._run.log({}, commit=True)
            row = int(self._run.step)
        self._open = (step, row)

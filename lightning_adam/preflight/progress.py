"""What a person at a terminal sees while preflight works."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

WORDS = {
    "step": "looking at one training step",
    "data": "looking at the data",
    "plan": "simulating the schedule",
    "gradients": "gradients of the first batches",
    "behaviour": "changing the input",
    "parts": "comparing a batch with its halves",
    "trial": "short runs",
}


class Display:
    """A line that says what is done now; nothing where nobody looks."""

    def __init__(self, bar: Progress | None, task: TaskID | None = None) -> None:
        self._bar, self._task, self._begun = bar, task, 0

    def say(self, part: str) -> None:
        """The next part begins."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=f"preflight: {WORDS[part]}", completed=self._begun)
            self._begun += 1


@contextmanager
def display(budget: float) -> Iterator[Display]:
    """Shown on a terminal, and gone afterwards; never under pytest, nor into a pipe, nor in a notebook: what is shown there
    leaves an empty output before the report."""
    console = Console(stderr=True)
    if not console.is_terminal or console.is_jupyter or "PYTEST_CURRENT_TEST" in os.environ:
        yield Display(None)
        return
    limit = TextColumn(f"of at most {budget:g} s")
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeElapsedColumn(), limit)
    with Progress(*columns, console=console, transient=True) as bar:
        yield Display(bar, bar.add_task("preflight: reading batches", total=len(WORDS)))

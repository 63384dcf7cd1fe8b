"""What all ranks decide together: each of them votes, whatever has failed in it.

A rank that failed before its vote would leave the others waiting for it, and its own next collective, of the training
itself, would meet their vote: both stand still until the process group gives up, half an hour later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec

from lightning_adam.monitoring.guard import Guard
from lightning_adam.monitoring.run import Run

P = ParamSpec("P")


class Ranks:
    """Asks all of them; all ask together, in the same order.

    Args:
        run: that knows the other ranks.
        guard: that catches what a decision raises.
    """

    def __init__(self, run: Run, guard: Guard) -> None:
        self.run, self.guard = run, guard

    def any(self, part: str, decide: Callable[P, bool], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Whether any rank decides so; one that fails to decide does not.

        Args:
            part: what is lost on a rank that fails, as :meth:`Guard.run` takes it.
            decide: of this rank alone: it may call no collective that the others do not.
            *args: for it.
            **kwargs: for it.
        """
        return self._vote(self.guard.value(part, False, decide, *args, **kwargs))

    def all(self, part: str, decide: Callable[P, bool], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Whether all ranks decide so; one that fails to decide does not. Arguments as :meth:`any`'s."""
        return not self._vote(not self.guard.value(part, False, decide, *args, **kwargs))

    def _vote(self, own: bool) -> bool:
        return self.guard.value("a vote of the ranks", own, self.run.any_rank, own)

"""Copies of a monitor's callback: each follows a fit of its own."""

from __future__ import annotations

import copy
from typing import Any

from typing_extensions import Self

from lightning_adam.callbacks._lightning import ATTACHED
from lightning_adam.callbacks.first_step import FirstStepChecks
from lightning_adam.callbacks.outcome import Outcome


class CopiedWithoutRun:
    """Pickled and deep-copied without the run that it follows, and without what Lightning has attached for it."""

    _outcome: Outcome

    def __getstate__(self) -> dict[str, Any]:
        """For a copy, which follows a run of its own."""
        kept = {name: value for name, value in vars(self).items() if name not in ATTACHED}
        return {**kept, "_monitor": None, "_first": FirstStepChecks(), "_has_begun": False}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """With an outcome of its own, which the original shows as long as it has none: Lightning's tuner makes one."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        vars(copied).update(copy.deepcopy(self.__getstate__(), memo))
        self._outcome.copies.append(copied._outcome)
        return copied

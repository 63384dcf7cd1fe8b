"""How a run that diverged is ended for a tuning tool or a test, from whichever process it ran in."""

from __future__ import annotations

from typing import Any, NoReturn

from lightning_adam.monitoring.actions import DivergenceError
from lightning_adam.monitoring.options import DivergenceOptions

REASON = "diverged"
"""The key under which a trial keeps why it was ended: Optuna's ``user_attrs``, Hyperopt's result, Ray Tune's metrics."""
PRUNED, DIVERGED = "TrialPruned: ", "DivergenceError: "


def prune(trial: Any, reason: str) -> NoReturn:
    """End an Optuna trial, with the reason in its ``user_attrs``.

    Raises:
        optuna.TrialPruned: always.
    """
    import optuna

    trial.set_user_attr(REASON, reason)
    raise optuna.TrialPruned(reason)


def raise_again(error: BaseException, asked: DivergenceOptions | None) -> None:
    """Of strategies that start processes (``ddp_spawn``, ``ddp_fork``): what was raised in one of them, here.

    torch gives the parent a ``ProcessRaisedException`` with the child's traceback as text, which no tuning tool knows.

    Args:
        error: that ended the run.
        asked: of the monitor; None where it diagnoses nothing.

    Raises:
        optuna.TrialPruned: the child has pruned the trial.
        DivergenceError: the child has raised that.
    """
    if asked is None or type(error).__name__ != "ProcessRaisedException":
        return
    last = str(error).strip().splitlines()[-1]
    if asked.trial is not None and PRUNED in last:
        prune(asked.trial, last.partition(PRUNED)[2])
    if DIVERGED in last:
        raise DivergenceError(last.partition(DIVERGED)[2]) from error

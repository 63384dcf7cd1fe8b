"""The doctor's report on a run that the page shows.

The one place of ``tensorboard`` that knows the doctor: here the tab is a program of its own, as the command line is.
"""

from __future__ import annotations

from pathlib import Path

from tensorboard import errors


def report_page(logdir: str, run: str) -> str:
    """A page of its own, as ``lightning-adam doctor --output`` writes it.

    Args:
        logdir: what TensorBoard was started with.
        run: one of the runs that it lists.

    Raises:
        NotFoundError: the run's folder is not on this machine's disk, or holds nothing to judge.
    """
    from lightning_adam.doctor.reporting import report_on_run
    from lightning_adam.doctor.sources import UnusableLog

    folder = Path(logdir, run)
    if not logdir or not folder.is_dir():
        raise errors.NotFoundError(
            f"The report is made from the run's files, and {run!r} is no folder in {logdir or '--logdir'}."
        )
    try:
        return report_on_run(folder).to_html()
    except UnusableLog as error:
        raise errors.NotFoundError(str(error)) from error

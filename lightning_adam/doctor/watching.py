"""Follows running jobs: looks again and again, and says what is new."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from lightning_adam.diagnosis import Finding
from lightning_adam.doctor.reporting import Report, report
from lightning_adam.doctor.sources import UnusableLog
from lightning_adam.tensorboard.files import folders


def follow(
    logdir: str | os.PathLike[str],
    say: Callable[[str, Finding], None],
    every: float = 5.0,
    looks: int | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Report | None:
    """Tell each finding once, when it is there; a folder that does not exist yet is waited for.

    Args:
        logdir: as :func:`lightning_adam.report` takes it.
        say: is handed the run's name and a finding that is new.
        every: seconds between two looks.
        looks: how often; for ever by default.
        sleep: waits between two looks.

    Returns:
        The last report; None where there was nothing to judge.
    """
    told: set[tuple[str, str, str, int]] = set()
    state, last = None, None
    for _ in _counted(looks, every, sleep):
        seen = _state(Path(logdir))
        if seen != state:
            state, last = seen, _report(logdir) or last
            for run, finding in _fresh(last, told):
                say(run, finding)
    return last


def _counted(looks: int | None, every: float, sleep: Callable[[float], None]) -> Iterator[int]:
    look = 0
    while looks is None or look < looks:
        if look:
            sleep(every)
        yield look
        look += 1


def _fresh(found: Report | None, told: set[tuple[str, str, str, int]]) -> Iterator[tuple[str, Finding]]:
    """Of a sickness that is renamed or becomes graver when more is known, that is news."""
    for run, finding in found.findings if found is not None else ():
        if (key := (run, finding.rule, finding.severity, finding.step)) not in told:
            told.add(key)
            yield run, finding


def _report(logdir: str | os.PathLike[str]) -> Report | None:
    try:
        return report(logdir)
    except UnusableLog:
        return None


def _state(root: Path) -> tuple[tuple[str, int], ...]:
    """Names and sizes of all files: as long as they are the same there is nothing to read again."""
    files = [folder / name for folder, names in folders(root) for name in names] if root.is_dir() else [root]
    return tuple((str(file), _size(file)) for file in files)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return -1

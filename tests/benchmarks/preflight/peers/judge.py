"""``python -m tests.benchmarks.preflight.peers.judge ADAPTER CASE…``, in the tool's environment: a line of JSON a case."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from tests.benchmarks.preflight.peers.case import Case, Unfit

LIMIT = 60.0
"""CPU seconds that a tool has for a case."""


class TooLong(BaseException):
    """Not an Exception: tools catch those."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises TooLong after so many CPU seconds, wherever the tool is."""

    def stop(*_: Any) -> None:
        raise TooLong(f"longer than {seconds:g} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def judged(adapter: Any, name: str) -> dict[str, Any]:
    """What a tool says of a case: the checks that alarmed, or why there is no judgement; and its CPU seconds.

    The case is built before the clock starts. CPU seconds of one thread do not change with what else the machine does.
    """
    case = Case(name)
    _ = case.module
    begun, alarms, unfit = time.process_time(), None, ""
    try:
        with limited(LIMIT), contextlib.redirect_stdout(io.StringIO()):
            alarms = sorted(set(adapter.alarms(case)))
    except Unfit as why:
        unfit = str(why)
    except (Exception, TooLong) as error:
        unfit = f"{type(error).__name__}: {error}".splitlines()[0]
    return {"case": name, "alarms": alarms, "unfit": unfit, "seconds": time.process_time() - begun}


def main(adapter: str, *names: str) -> None:
    """All of them, each printed as soon as it is judged."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    module = importlib.import_module(f"tests.benchmarks.preflight.peers.{adapter}")
    for name in names:
        print(json.dumps(judged(module, name)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

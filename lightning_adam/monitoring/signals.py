"""While something is written, the process' signals wait: a handler may close the very log that is being written.

Python runs a signal's handler between any two steps of the main thread. Lightning's handler for SLURM's requeue closes all
loggers and saves a checkpoint; where it comes in the middle of TensorBoard's writer, which holds a lock that the same thread
cannot take twice, it waits for ever, and the job ends without a checkpoint.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ENDINGS = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What schedulers and machines announce an end by. Ctrl-C is not among them: its handler only raises."""


@contextmanager
def signals_wait() -> Iterator[None]:
    """Handlers of :data:`ENDINGS` that come meanwhile are called at the end, in their order."""
    came: list[tuple[int, FrameType | None]] = []
    handlers = _handlers() if threading.current_thread() is threading.main_thread() else {}

    def note(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))

    for number in handlers:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is note:
                signal.signal(number, handler)
        for arrived, frame in came:
            handlers[arrived](arrived, frame)


def _handlers() -> dict[int, Callable[[int, FrameType | None], Any]]:
    """Those that are Python's: the others end the process, or do nothing."""
    return {number: handler for number in ENDINGS if callable(handler := signal.getsignal(number))}

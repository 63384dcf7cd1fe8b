"""Signals that come while a log is written wait for the end of it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lightning_adam.monitoring.signals import signals_wait


@pytest.fixture
def called() -> Iterator[list[int]]:
    """The signals that a handler was called for."""
    came: list[int] = []
    numbers = (signal.SIGUSR1, signal.SIGTERM)
    before = {number: signal.signal(number, lambda n, frame: came.append(n)) for number in numbers}
    yield came
    for number, handler in before.items():
        signal.signal(number, handler)


def test_they_wait_and_come_in_their_order(called: list[int]) -> None:
    """Each once, to the handler that was there before, which is there again."""
    mine = signal.getsignal(signal.SIGTERM)
    with signals_wait():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert called == []

    assert called == [signal.SIGTERM, signal.SIGUSR1]
    assert signal.getsignal(signal.SIGTERM) is mine


def test_they_come_after_an_exception_too(called: list[int]) -> None:
    """What is raised goes on its way."""
    with pytest.raises(OSError), signals_wait():
        os.kill(os.getpid(), signal.SIGUSR1)
        raise OSError
    assert called == [signal.SIGUSR1]


def test_a_handler_that_is_set_meanwhile_stays(called: list[int]) -> None:
    """Whoever sets one from inside has the last word."""

    def other(number: int, frame: Any) -> None:
        called.append(-number)

    with signals_wait():
        signal.signal(signal.SIGUSR1, other)
    assert signal.getsignal(signal.SIGUSR1) is other


def test_other_threads_are_left_alone(called: list[int]) -> None:
    """Only the main thread may set handlers, and only there they run."""
    failed: list[BaseException] = []

    def write() -> None:
        try:
            with signals_wait():
                pass
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert failed == []

"""Faults entered by their names beside what looks like them and is none; a test file for each subject asks for both."""

from __future__ import annotations

from collections.abc import Callable

import lightning as L

import lightning_adam as la
from tests.benchmarks.preflight.parts import Built
from tests.test_preflight import graves

Build = Callable[[], Built]


class Kinds:
    """What a file of tests enters."""

    def __init__(self) -> None:
        self.faults: dict[str, tuple[str, Build]] = {}
        self.sound: dict[str, Build] = {}

    def sick(self, code: str) -> Callable[[Build], Build]:
        """Enter a fault under its name."""

        def enter(build: Build) -> Build:
            self.faults[build.__name__] = (code, build)
            return build

        return enter

    def healthy(self, build: Build) -> Build:
        """Enter what looks like a fault and is none."""
        self.sound[build.__name__] = build
        return build

    def first_alarm(self, name: str) -> list[str]:
        """The code of the first warning on a fault."""
        return alarms(self.faults[name][1])[:1]


def alarms(build: Build) -> list[str]:
    """The codes of all warnings on what is built."""
    L.seed_everything(0, verbose=False)
    module, data, *options = build()
    return graves(la.preflight(module, data, **(options[0] if options else {})))

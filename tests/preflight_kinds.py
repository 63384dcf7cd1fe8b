"""Faults entered by their names beside what looks like them and is none; a test file for each subject asks for both.

Such a file has ``KINDS`` and imports the two tests, which run once for each entry (``pytest_generate_tests`` in conftest).
"""

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
        self.fault: dict[str, tuple[str, Build]] = {}
        self.sound: dict[str, Build] = {}

    def sick(self, code: str) -> Callable[[Build], Build]:
        """Enter a fault under its name."""

        def enter(build: Build) -> Build:
            self.fault[build.__name__] = (code, build)
            return build

        return enter

    def healthy(self, build: Build) -> Build:
        """Enter what looks like a fault and is none."""
        self.sound[build.__name__] = build
        return build


def alarms(build: Build) -> list[str]:
    """The codes of all warnings on what is built."""
    L.seed_everything(0, verbose=False)
    module, data, *options = build()
    return graves(la.preflight(module, data, **(options[0] if options else {})))


def test_kind_is_named_by_its_cause(fault: tuple[str, Build]) -> None:
    """Whatever the shape that it comes in."""
    code, build = fault
    assert alarms(build)[:1] == [code]


def test_what_looks_like_the_kind_is_let_pass(sound: Build) -> None:
    """The same form, and meant so."""
    assert alarms(sound) == []

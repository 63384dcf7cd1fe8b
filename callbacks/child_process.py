"""What a run in a child process leaves to its parent: ``ddp_spawn`` and ``ddp_fork`` train copies of the callbacks."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import uuid
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

if TYPE_CHECKING:
    from lightning_adam.diagnosis import Finding


class ChildReport:
    """A file that a child process writes and its parent takes in; named when the callback is made, in the parent."""

    def __init__(self) -> None:
        self._name, self._parent = f"lightning_adam-{uuid.uuid4().hex}.json", os.getpid()
        weakref.finalize(self, _remove, self._name, self._parent)

    def write(self, findings: Iterable[Finding], failures: Iterable[str]) -> None:
        """In a child of the process that made it; does nothing in any other."""
        parent = multiprocessing.parent_process()
        if parent is not None and parent.pid == self._parent:
            content = {"findings": [finding.to_dict() for finding in findings], "failures": sorted(failures)}
            _place(self._name).write_text(json.dumps(content), encoding="utf-8")

    def take(self) -> tuple[list[Finding], frozenset[str]] | None:
        """What a child has written since this was asked last; None for nothing."""
        from lightning_adam.diagnosis.finding import readable_findings

        try:
            content = json.loads(_place(self._name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        _remove(self._name, os.getpid())
        return [found for found in readable_findings(content["findings"]) if found], frozenset(content["failures"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy in the same process follows a run of its own."""
        return type(self)()


def _place(name: str) -> Path:
    return Path(tempfile.gettempdir()) / name


def _remove(name: str, process: int) -> None:
    """Not in a child that was forked, where the object of the parent is collected, too."""
    if os.getpid() == process:
        _place(name).unlink(missing_ok=True)

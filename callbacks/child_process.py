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
            _path(self._name).write_text(json.dumps(content), encoding="utf-8")

    def read_once(self) -> tuple[list[Finding], frozenset[str]] | None:
        """What a child has written since this was asked last; None for nothing. Only the parent reads it."""
        if os.getpid() != self._parent:
            return None
        try:
            content = json.loads(_path(self._name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):  # a child may have been killed while it wrote
            content = None
        _remove(self._name, self._parent)
        return _read(content) if isinstance(content, dict) else None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy in the same process follows a run of its own."""
        return type(self)()


def _read(content: dict[str, Any]) -> tuple[list[Finding], frozenset[str]]:
    from lightning_adam.diagnosis.finding import readable_findings

    failures = content.get("failures")
    known = [found for found in readable_findings(content.get("findings")) if found]
    return known, frozenset(map(str, failures if isinstance(failures, list) else []))


def _path(name: str) -> Path:
    return Path(tempfile.gettempdir()) / name


def _remove(name: str, process: int) -> None:
    """Not in a child that was forked, where the object of the parent is collected, too."""
    if os.getpid() == process:
        _path(name).unlink(missing_ok=True)

"""Our files in a run's folder, for loggers that have one: ``findings.json``, ``adam_signals.jsonl`` and texts."""

from __future__ import annotations

import os
from pathlib import Path

from lightning_adam.diagnosis.archive import FINDINGS_FILE, SIGNALS_FILE, Stretch, stretch_line
from lightning_adam.sinks.known_findings import KnownFindings


class RunFiles:
    """Files beside a log. Whoever reads one while it is written sees the old content or the new one, never half of it.

    Args:
        folder: of the run; made when the first file is written.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = str(folder)

    def write(self, name: str, content: str) -> Path:
        """A text file, in place of an earlier one of that name; returns its path."""
        path = self._path(name)
        unfinished = path.with_name(f".{name}.{os.getpid()}")
        try:
            unfinished.write_text(content, encoding="utf-8")
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        return path

    def write_findings(self, known: KnownFindings) -> Path:
        """``findings.json`` anew; returns its path."""
        return self.write(FINDINGS_FILE, known.document())

    def append_signals(self, prefix: str, step: int, payload: bytes) -> Path:
        """One more line of ``adam_signals.jsonl``; returns its path."""
        path = self._path(SIGNALS_FILE)
        with path.open("ab") as file:
            start = b"\n" if _ends_within_a_line(path) else b""
            file.write(start + stretch_line(Stretch(prefix, step, payload)).encode() + b"\n")
        return path

    def _path(self, name: str) -> Path:
        if "://" in self._folder:
            raise OSError(f"{self._folder} is no local folder: {name} is not written")
        folder = Path(self._folder)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name


def _ends_within_a_line(path: Path) -> bool:
    """A run that was killed may have left half a line, which would spoil the next one."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"

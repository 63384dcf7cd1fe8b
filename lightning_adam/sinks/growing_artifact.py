"""``adam_signals.jsonl`` as an MLflow artifact: a store takes whole files only, and the file grows."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning_adam.diagnosis.archive import SIGNALS_FILE
from lightning_adam.sinks.run_files import RunFiles

GROWTH = 1.25
"""Uploaded again when it has grown by a quarter: in all, five times the bytes of the file at most."""


class GrowingArtifact:
    """Recorded signals of one run: appended to a local copy, which is uploaded from time to time and at the end.

    Args:
        logger: Lightning's MLFlowLogger.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._folder: TemporaryDirectory[str] | None = None
        self._stored_bytes = 0

    def append(self, prefix: str, step: int, payload: bytes) -> None:
        """One more stretch."""
        self._folder = self._folder or self._begun()
        path = RunFiles(self._folder.name).append_signals(prefix, step, payload)
        if path.stat().st_size >= GROWTH * self._stored_bytes:
            self._upload(path)

    def end(self) -> None:
        """Upload what is new."""
        if self._folder is not None:
            path = Path(self._folder.name, SIGNALS_FILE)
            if path.exists() and path.stat().st_size > self._stored_bytes:
                self._upload(path)
            self._folder.cleanup()
            self._folder = None

    def _begun(self) -> TemporaryDirectory[str]:
        """A run that goes on has the file already: uploading a new one would replace it."""
        folder = TemporaryDirectory(prefix="lightning_adam_")
        client, run = self._logger.experiment, self._logger.run_id
        if any(artifact.path == SIGNALS_FILE for artifact in client.list_artifacts(run)):
            client.download_artifacts(run, SIGNALS_FILE, folder.name)
        return folder

    def _upload(self, path: Path) -> None:
        self._logger.experiment.log_artifact(self._logger.run_id, str(path))
        self._stored_bytes = path.stat().st_size

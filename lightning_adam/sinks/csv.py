"""CSVLogger: scalars in metrics.csv, and everything else as files beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from lightning_adam.diagnosis import Finding
from lightning_adam.monitoring.sink import Sink
from lightning_adam.sinks.known_findings import KnownFindings
from lightning_adam.sinks.run_files import RunFiles


def of_logger(logger: Any) -> Sink:
    """Its experiment is made first: it warns of a folder with files in it, and ours would be such files."""
    _ = logger.experiment
    return CsvSink(logger)


class CsvSink(Sink):
    """Scalars, and in the same folder ``findings.json``, ``adam_signals.jsonl``, ``adam_config.md``.

    Args:
        logger: Lightning's or Fabric's CSVLogger.
    """

    def __init__(self, logger: Any) -> None:
        self._logger, self._files, self._known = logger, RunFiles(logger.log_dir), KnownFindings()

    def hyperparameters(self, values: Mapping[str, Any], trainer_follows: bool = False) -> None:
        """Into ``hparams.yaml``, which Fabric's logger does not write."""
        with suppress(NotImplementedError):
            self._logger.log_hyperparams(dict(values))

    def configuration(self, prefix: str, step: int, markdown: str) -> None:
        self._files.write(f"{prefix}_config.md", markdown)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._logger.log_metrics(dict(values), step=step)

    def findings(self, prefix: str, step: int, fresh: Sequence[Finding], known: Sequence[Finding]) -> None:
        self._known.update(prefix, known)
        self._files.write_findings(self._known)

    def records(self, prefix: str, step: int, payload: bytes) -> None:
        self._files.append_signals(prefix, step, payload)

    def file(self, name: str, content: str) -> None:
        self._files.write(name, content)

    def end(self) -> None:
        self._logger.save()

    def has_failed(self, is_over: bool) -> None:
        """What is not saved yet is saved when the logger closes, which would raise again."""
        if is_over:
            self._logger.experiment.metrics = []

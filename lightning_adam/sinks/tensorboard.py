"""TensorBoard: everything, through the logger's own SummaryWriter."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_adam.diagnosis import Finding, findings_table
from lightning_adam.diagnosis.finding import MOST_ROWS
from lightning_adam.monitoring.heatmap import Heatmap
from lightning_adam.monitoring.sink import Sink
from lightning_adam.sinks.pictures import picture_of
from lightning_adam.sinks.run_files import RunFiles
from lightning_adam.statistics import Snapshot
from lightning_adam.tensorboard import TensorBoardWriter, top_tables

LONGEST_ADDRESS = 120


def of_logger(logger: Any) -> Sink:
    """Of Lightning's or Fabric's TensorBoardLogger."""
    return TensorBoardSink(logger.experiment, logger)


def of_writer(writer: Any) -> Sink:
    """Of a torch ``SummaryWriter`` that no known logger is around."""
    return TensorBoardSink(writer)


class TensorBoardSink(Sink):
    """All tags, texts and pictures of :class:`lightning_adam.tensorboard.TensorBoardWriter`.

    Args:
        writer: a torch ``SummaryWriter``; a logger's own, for a second one in the same folder would not be read.
        logger: the TensorBoardLogger that it belongs to, if it belongs to one.
    """

    def __init__(self, writer: Any, logger: Any = None) -> None:
        self._writer, self._logger = writer, logger
        self._failures = 0
        self._told: tuple[tuple[str, int], list[Finding]] = ("", -1), []

    @property
    def address(self) -> str | None:
        """The Adam tab, and the command that serves it."""
        return tab_address(self._writer.log_dir)

    def hyperparameters(self, values: Mapping[str, Any], trainer_follows: bool = False) -> None:
        """For the HParams tab, which keeps the first set of a run only: call it before the user's are logged.

        It also keeps the columns of the first "experiment" only. Where Lightning will write one, with its ``hp_metric``,
        ours comes first and has the same; else there is none of ours, which would hide the metrics of the user's own.
        """
        from torch.utils.tensorboard.summary import hparams

        lightnings = trainer_follows and getattr(self._logger, "_default_hp_metric", False)
        plain = {name: v if isinstance(v, (bool, int, float, str)) else str(v) for name, v in _flat(values).items()}
        columns, start, end = hparams(plain, {"hp_metric": -1} if lightnings else {})  # type: ignore[no-untyped-call]
        for summary in (columns, start, end) if lightnings else (start, end):
            self._writer._get_file_writer().add_summary(summary)

    def configuration(self, prefix: str, step: int, markdown: str) -> None:
        self._tags(prefix).write_text(f"{prefix}/config", markdown, step)

    def layout(self, prefixes: Sequence[str], each_tensor: bool) -> None:
        self._tags().write_layout(prefixes, each_tensor)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._tags().write_scalars(step, values)

    def snapshot(
        self, prefix: str, values: Mapping[str, float], snapshot: Snapshot, rows: Sequence[int], matrix: bool
    ) -> None:
        self._tags(prefix).write_snapshot(snapshot.step, values, snapshot, rows, matrix)

    def heatmap(self, prefix: str, heatmap: Heatmap) -> None:
        self._tags(prefix).write_heatmap(heatmap.steps[-1], picture_of(heatmap))

    def standouts(self, prefix: str, snapshot: Snapshot, count: int) -> None:
        self._tags(prefix).write_text(f"{prefix}/top", top_tables(snapshot, count), snapshot.step)

    def findings(self, prefix: str, step: int, fresh: Sequence[Finding], known: Sequence[Finding]) -> None:
        if known and (len(known) <= MOST_ROWS or len(known) % 10 == 0 or not fresh):  # a log is only ever added to
            self._tags(prefix).write_text(f"{prefix}/findings", findings_table(known), step)
        if fresh:
            before = self._told[1] if self._told[0] == (prefix, step) else []
            self._told = (prefix, step), [*before, *fresh]  # a reader keeps the last text of a step
            self._tags(prefix).write_events(step, [finding.to_dict() for finding in self._told[1]])

    def records(self, prefix: str, step: int, payload: bytes) -> None:
        self._tags(prefix).write_signals(step, payload)
        self._writer.flush()  # a process that is killed loses one stretch, and not what the writer holds for two minutes

    def file(self, name: str, content: str) -> None:
        RunFiles(self._writer.log_dir).write(name, content)

    def end(self) -> None:
        self._writer.flush()

    def has_failed(self, is_over: bool) -> None:
        """The thread that writes a file ends at its first error (a full disk), and whoever uses the file gets that error
        from then on, also the logger when it closes it. A new file begins where the writer has none.

        Each takes a few bytes: there is one at the first, second, fourth, eighth failure and so on.
        """
        self._failures += 1
        if is_over or self._failures & (self._failures - 1) == 0:
            self._writer.file_writer = self._writer.all_writers = None

    def _tags(self, prefix: str = "adam") -> TensorBoardWriter:
        return TensorBoardWriter(self._writer, prefix)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their paths, as Lightning logs them: ``model/width``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def tab_address(log_dir: str) -> str:
    """``Adam tab: http://…  (tensorboard --logdir DIR)``; the command is left out where it would make the line too long."""
    sentence = "Adam tab: http://127.0.0.1:6006/#lightning_adam"
    full = f"{sentence}  (tensorboard --logdir {shlex.quote(_shortest(str(log_dir)))})"
    return full if len(full) <= LONGEST_ADDRESS else sentence


def _shortest(folder: str) -> str:
    if "://" in folder:
        return folder
    try:
        return min(folder, os.path.relpath(folder), key=len)
    except ValueError:  # on another drive
        return folder

"""TensorBoard: everything, through the logger's own SummaryWriter."""

from __future__ import annotations

import copy
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lightning_adam.diagnosis import Finding, findings_table
from lightning_adam.monitoring.heatmap import Heatmap
from lightning_adam.monitoring.sink import Sink
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
        writer: a torch ``SummaryWriter``.
        logger: the TensorBoardLogger that it belongs to, if it belongs to one.
    """

    def __init__(self, writer: Any, logger: Any = None) -> None:
        self._writer, self._logger = writer, logger

    @property
    def address(self) -> str | None:  # type: ignore[override]
        """The Adam tab, and the command that serves it."""
        return tab_address(self._writer.log_dir)

    def hyperparameters(self, values: Mapping[str, Any]) -> None:
        """For the HParams tab, which keeps the first set of a run only: call it before the user's are logged."""
        if self._logger is None:
            self._write_session(values)
            return
        with _hparams_kept(self._logger):
            self._logger.log_hyperparams(dict(values))

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
        self._tags(prefix).write_heatmap(heatmap.steps[-1], heatmap.steps, heatmap.names, heatmap.matrix())

    def standouts(self, prefix: str, snapshot: Snapshot, count: int) -> None:
        self._tags(prefix).write_text(f"{prefix}/top", top_tables(snapshot, count), snapshot.step)

    def findings(self, prefix: str, step: int, fresh: Sequence[Finding], known: Sequence[Finding]) -> None:
        if known:
            self._tags(prefix).write_text(f"{prefix}/findings", findings_table(known), step)
        if fresh:
            self._tags(prefix).write_events(step, [finding.to_dict() for finding in fresh])

    def records(self, prefix: str, step: int, payload: bytes) -> None:
        self._tags(prefix).write_signals(step, payload)

    def file(self, name: str, content: str) -> None:
        RunFiles(self._writer.log_dir).write(name, content)

    def end(self) -> None:
        self._writer.flush()

    def _tags(self, prefix: str = "adam") -> TensorBoardWriter:
        return TensorBoardWriter(self._writer, prefix)

    def _write_session(self, values: Mapping[str, Any]) -> None:
        """The run's values alone, and no "experiment": TensorBoard shows the metrics of the first one that it finds, and
        the user's own ``add_hparams``, which names some, would show none of them beside ours."""
        from torch.utils.tensorboard.summary import hparams

        plain = {name: v if isinstance(v, (int, float, str)) else str(v) for name, v in values.items()}
        _, start, end = hparams(plain, {})  # type: ignore[no-untyped-call]
        for summary in (start, end):
            self._writer._get_file_writer().add_summary(summary)


@contextmanager
def _hparams_kept(logger: Any) -> Iterator[None]:
    """A Lightning logger's ``hparams`` go to ``hparams.yaml``, from which a checkpoint may be loaded: only the user's
    arguments belong there. Fabric's has none."""
    theirs = copy.copy(vars(logger).get("hparams"))
    try:
        yield
    finally:
        if theirs is not None:
            logger.hparams = theirs


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

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_adam.diagnosis import findings_table
from lightning_adam.monitoring.sink import Sink
from lightning_adam.tensorboard import TensorBoardWriter, top_tables


class TensorBoardSink(Sink):
    def __init__(self, logger: Any, writer: Any) -> None:
        self.logger, self.w = logger, writer

    @property
    def address(self) -> Any:
        return f"Adam tab: http://127.0.0.1:6006/#lightning_adam  (tensorboard --logdir {self.w.log_dir})"[:120]

    def hyperparameters(self, values: Any) -> None:
        if self.logger:
            self.logger.log_hyperparams(dict(values))

    def configuration(self, prefix: str, step: int, markdown: str) -> None:
        self.w.add_text(f"{prefix}/config", markdown, step)

    def layout(self, prefixes: Any, each_tensor: bool) -> None:
        TensorBoardWriter(self.w).write_layout(prefixes, each_tensor)

    def scalars(self, step: int, values: Any) -> None:
        TensorBoardWriter(self.w).write_scalars(step, values)

    def snapshot(self, prefix: str, values: Any, snapshot: Any, rows: Any, matrix: bool) -> None:
        TensorBoardWriter(self.w, prefix).write_snapshot(snapshot.step, values, snapshot, rows, matrix)

    def heatmap(self, prefix: str, h: Any) -> None:
        TensorBoardWriter(self.w, prefix).write_heatmap(h.steps[-1], h.steps, h.names, h.matrix())

    def standouts(self, prefix: str, snapshot: Any, count: int) -> None:
        TensorBoardWriter(self.w, prefix).write_text(f"{prefix}/top", top_tables(snapshot, count), snapshot.step)

    def findings(self, prefix: str, step: int, fresh: Any, known: Any) -> None:
        w = TensorBoardWriter(self.w, prefix)
        if known:
            w.write_text(f"{prefix}/findings", findings_table(known), step)
        if fresh:
            w.write_events(step, [f.to_dict() for f in fresh])

    def records(self, prefix: str, step: int, payload: bytes) -> None:
        TensorBoardWriter(self.w, prefix).write_signals(step, payload)

    def file(self, name: str, content: str) -> None:
        Path(self.w.log_dir, name).write_text(content)

"""Where numbers, pictures and words go: one file per kind of logger, known by what it can do."""

from __future__ import annotations

from typing import Any


def sinks_of(loggers: Any) -> list[Any]:
    from lightning_adam.sinks.tensorboard import TensorBoardSink

    class Scalar:
        pass

    out: list[Any] = []
    for logger in loggers:
        names = {c.__name__ for c in type(logger).__mro__}
        if "SummaryWriter" in names:
            out.append(TensorBoardSink(None, logger))
        elif "TensorBoardLogger" in names:
            out.append(TensorBoardSink(logger, logger.experiment))
        elif "DummyLogger" in names:
            continue
        else:
            from lightning_adam.monitoring.sink import Sink

            class S(Sink):
                def __init__(self, l: Any) -> None:
                    self.l = l

                def scalars(self, step: int, values: Any) -> None:
                    self.l.log_metrics(dict(values), step=step)

            out.append(S(logger))
    return out


def merged_hyperparameters(theirs: Any, ours: Any) -> dict[str, Any]:
    return {**ours, **theirs}

"""Which sink writes to which kind of logger: known by its class, never by what it answers to.

Lightning's DummyLogger of ``fast_dev_run`` has every attribute that one asks for. And a class is known by its name among
its bases: ``lightning``, ``pytorch_lightning`` and Fabric have one each, and none of them need be installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any, NamedTuple

from lightning_adam.errors import ConfigError
from lightning_adam.monitoring.sink import Sink
from lightning_adam.sinks.scalars import ScalarSink

LIGHTNING = ("lightning", "pytorch_lightning", "lightning_fabric")


class Kind(NamedTuple):
    """One kind of logger.

    Attributes:
        name: of its class, or of one of its bases.
        packages: top-level packages that the class may be from.
        module: of ``lightning_adam.sinks`` that writes to it; imported when the first one is met. Empty for nothing.
        maker: function there that takes the logger and returns its sink, or None if it is switched off.
    """

    name: str
    packages: tuple[str, ...]
    module: str = ""
    maker: str = "of_logger"


KINDS: tuple[Kind, ...] = (
    Kind("DummyLogger", LIGHTNING),
    Kind("TensorBoardLogger", LIGHTNING, "tensorboard"),
    Kind("WandbLogger", LIGHTNING, "wandb"),
    Kind("MLFlowLogger", LIGHTNING, "mlflow"),
    Kind("CSVLogger", LIGHTNING, "csv"),
    Kind("CometLogger", LIGHTNING, "comet"),
    Kind("SummaryWriter", ("torch",), "tensorboard", "of_writer"),
    Kind("Run", ("wandb",), "wandb", "of_run"),
)


def sinks_of(loggers: Iterable[Any]) -> list[Sink]:
    """The sinks of a run's loggers, without those that log nothing."""
    return [sink for logger in loggers if (sink := sink_of(logger)) is not None]


def sink_of(logger: Any) -> Sink | None:
    """What writes to a logger; None for one that logs nothing (Lightning's DummyLogger, a disabled W&B run).

    Args:
        logger: of Lightning or Fabric, of their subclasses, or any other with ``log_metrics``, which then gets the
            scalars; or, without a logger around it, a torch ``SummaryWriter``, a W&B run, or a :class:`Sink`.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(logger, Sink):
        return logger
    if (kind := _kind_of(logger)) is not None:
        return _made(kind, logger)
    held = getattr(logger, "experiment", None)
    if (kind := _kind_of(held)) is not None:
        return _made(kind, held)
    if callable(getattr(type(logger), "log_metrics", None)):
        return ScalarSink(logger)
    raise ConfigError(
        f"writer={logger!r}: a {type(logger).__name__} is nothing to log to. Give a torch SummaryWriter, a logger of "
        "Lightning or Fabric (or any object with log_metrics), a W&B run, or a lightning_adam.monitoring Sink."
    )


def _kind_of(logger: Any) -> Kind | None:
    bases = {(base.__name__, base.__module__.partition(".")[0]) for base in type(logger).__mro__}
    return next((kind for kind in KINDS if any((kind.name, package) in bases for package in kind.packages)), None)


def _made(kind: Kind, logger: Any) -> Sink | None:
    if not kind.module:
        return None
    sink: Sink | None = getattr(import_module(f"lightning_adam.sinks.{kind.module}"), kind.maker)(logger)
    return sink

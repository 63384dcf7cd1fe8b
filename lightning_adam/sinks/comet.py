"""Comet: scalars, parameters, texts, the heatmap, and ``findings.json`` as an asset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_adam.diagnosis import Finding, findings_table
from lightning_adam.diagnosis.archive import FINDINGS_FILE
from lightning_adam.monitoring.heatmap import Heatmap
from lightning_adam.monitoring.sink import Sink
from lightning_adam.sinks.hyperparameters import new_hyperparameters
from lightning_adam.sinks.known_findings import KnownFindings
from lightning_adam.sinks.pictures import picture_of


def of_logger(logger: Any) -> Sink:
    """Of Lightning's CometLogger."""
    return CometSink(logger)


class CometSink(Sink):
    """One Comet experiment.

    Args:
        logger: Lightning's CometLogger.
    """

    def __init__(self, logger: Any) -> None:
        self._logger, self._known = logger, KnownFindings()

    def hyperparameters(self, values: Mapping[str, Any], trainer_follows: bool = False) -> None:
        theirs = {name: value for name in values if (value := self._parameter(name)) is not None}
        self._logger.log_hyperparams(new_hyperparameters(theirs, values))

    def configuration(self, prefix: str, step: int, markdown: str) -> None:
        self._log_text(f"{prefix}/config", markdown, step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._logger.log_metrics(dict(values), step=step)

    def heatmap(self, prefix: str, heatmap: Heatmap) -> None:
        picture = picture_of(heatmap)
        name = f"{prefix}.dist/update_ratio_heatmap"
        self._logger.experiment.log_image(picture, name=name, overwrite=True, step=heatmap.steps[-1])

    def findings(self, prefix: str, step: int, fresh: Sequence[Finding], known: Sequence[Finding]) -> None:
        self._known.update(prefix, known)
        self.file(FINDINGS_FILE, self._known.document())
        self._logger.experiment.log_other("adam/worst_finding", self._known.worst())
        if known:
            self._log_text(f"{prefix}/findings", findings_table(known), step)

    def file(self, name: str, content: str) -> None:
        self._logger.experiment.log_asset_data(content, name=name, overwrite=True)

    def _parameter(self, name: str) -> Any:
        try:
            return self._logger.experiment.get_parameter(name)
        except KeyError:
            return None

    def _log_text(self, tag: str, markdown: str, step: int) -> None:
        self._logger.experiment.log_text(markdown, step=step, metadata={"tag": tag})

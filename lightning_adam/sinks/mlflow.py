"""MLflow: metrics, parameters, a tag to sort runs by, and files as artifacts."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_adam.diagnosis import Finding
from lightning_adam.diagnosis.archive import FINDINGS_FILE
from lightning_adam.monitoring.heatmap import Heatmap
from lightning_adam.monitoring.sink import Sink
from lightning_adam.sinks.growing_artifact import GrowingArtifact
from lightning_adam.sinks.hyperparameters import new_hyperparameters
from lightning_adam.sinks.known_findings import KnownFindings
from lightning_adam.sinks.pictures import picture_of

LONGEST_NAME = 250
LONGEST_VALUE = 250
"""Of a parameter: so much of it Lightning's logger keeps, on every version of MLflow."""


def of_logger(logger: Any) -> Sink:
    """Of Lightning's MLFlowLogger."""
    return MlflowSink(logger)


class MlflowSink(Sink):
    """One MLflow run.

    Args:
        logger: Lightning's MLFlowLogger.
    """

    def __init__(self, logger: Any) -> None:
        self._logger, self._known, self._tag = logger, KnownFindings(), ""
        self._signals = GrowingArtifact(logger)

    def hyperparameters(self, values: Mapping[str, Any], trainer_follows: bool = False) -> None:
        """MLflow refuses another value for a parameter that the run has.

        Through the logger, because it logs the user's after us and has to write them in just the same way.
        """
        theirs = self._client.get_run(self._logger.run_id).data.params
        changed = {k: v for k, v in values.items() if theirs.get(k) != str(v)[:LONGEST_VALUE]}
        self._logger.log_hyperparams(new_hyperparameters(theirs, changed))

    def configuration(self, prefix: str, step: int, markdown: str) -> None:
        self._client.log_text(self._logger.run_id, markdown, f"{prefix}_config.md")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._logger.log_metrics({metric_name(tag): value for tag, value in values.items()}, step=step)

    def heatmap(self, prefix: str, heatmap: Heatmap) -> None:
        picture = picture_of(heatmap)
        self._client.log_image(self._logger.run_id, picture, f"{prefix}.dist/update_ratio_heatmap.png")

    def findings(self, prefix: str, step: int, fresh: Sequence[Finding], known: Sequence[Finding]) -> None:
        self._known.update(prefix, known)
        self._client.log_text(self._logger.run_id, self._known.document(), FINDINGS_FILE)
        if self._known.worst() != self._tag:
            self._client.set_tag(self._logger.run_id, "adam.worst_finding", self._known.worst())
            self._tag = self._known.worst()

    def records(self, prefix: str, step: int, payload: bytes) -> None:
        self._signals.append(prefix, step, payload)

    def file(self, name: str, content: str) -> None:
        self._client.log_text(self._logger.run_id, content, name)

    def end(self) -> None:
        self._signals.end()

    @property
    def _client(self) -> Any:
        return self._logger.experiment


def metric_name(tag: str) -> str:
    """What MLflow takes for a name, which is also a path in some of its stores.

    Example:
        >>> metric_name("adam.groups/log10_lr/blocks[0]")
        'adam.groups/log10_lr/blocks_0_'
    """
    return posixpath.normpath(re.sub(r"[^a-zA-Z0-9_/. -]", "_", tag))[:LONGEST_NAME]

"""Weights & Biases: charts, histograms, the heatmap, a table of findings, alerts, and files that are uploaded."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_adam.diagnosis import Finding
from lightning_adam.monitoring.heatmap import Heatmap
from lightning_adam.monitoring.sink import Sink
from lightning_adam.sinks.hyperparameters import new_hyperparameters
from lightning_adam.sinks.known_findings import KnownFindings
from lightning_adam.sinks.pictures import picture_of
from lightning_adam.sinks.run_files import RunFiles
from lightning_adam.sinks.wandb_history import WandbHistory
from lightning_adam.statistics import LOG10_EDGES, Snapshot

COLUMNS = ["first step", "last step", "rule", "severity", "what", "evidence", "parameters", "what to do", "over"]


def of_logger(logger: Any) -> Sink | None:
    """Of Lightning's WandbLogger; None where its run is disabled."""
    run = logger.experiment
    return None if run.disabled else WandbSink(run, logger)


def of_run(run: Any) -> Sink | None:
    """Of what ``wandb.init`` returned; None where it is disabled."""
    return None if run.disabled else WandbSink(run)


class WandbSink(Sink):
    """One W&B run.

    Args:
        run: what ``wandb.init`` returned.
        logger: the WandbLogger that it belongs to, if it belongs to one.
    """

    def __init__(self, run: Any, logger: Any = None) -> None:
        self._run, self._logger = run, logger
        self._history = WandbHistory(run, is_shared=logger is None)
        self._files, self._known = RunFiles(run.dir), KnownFindings()
        self._uploaded: set[str] = set()
        self._alerted: set[tuple[str, str, int]] = set()

    def hyperparameters(self, values: Mapping[str, Any], trainer_follows: bool = False) -> None:
        """What the configuration does not have yet; the logger knows how to make plain values of the user's objects."""
        new = new_hyperparameters(dict(self._run.config), values)
        if self._logger is not None:
            self._logger.log_hyperparams(new)
        else:
            self._run.config.update(new)

    def configuration(self, prefix: str, step: int, markdown: str) -> None:
        self._run.config.update({f"{prefix}/config": markdown}, allow_val_change=True)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._history.add(step, values)

    def snapshot(
        self, prefix: str, values: Mapping[str, float], snapshot: Snapshot, rows: Sequence[int], matrix: bool
    ) -> None:
        from wandb import Histogram

        counted = {"log10_step_size": snapshot.hist_step_size, "log10_effective_lr": snapshot.hist_effective_lr}
        pictures = {f"{prefix}.dist/{name}": Histogram(np_histogram=(n, LOG10_EDGES)) for name, n in counted.items()}
        self._history.add(snapshot.step, {**values, **pictures})

    def heatmap(self, prefix: str, heatmap: Heatmap) -> None:
        from wandb import Image

        picture = Image(picture_of(heatmap))
        self._history.add(heatmap.steps[-1], {f"{prefix}.dist/update_ratio_heatmap": picture})

    def findings(self, prefix: str, step: int, fresh: Sequence[Finding], known: Sequence[Finding]) -> None:
        """The whole table each time: W&B shows the last one."""
        from wandb import Table

        self._known.update(prefix, known)
        self._upload(self._files.write_findings(self._known))
        self._run.summary["adam/worst_finding"] = self._known.worst()
        if known:
            self._history.add(step, {f"{prefix}/findings": Table(columns=COLUMNS, data=[_cells(f) for f in known])})
        for finding in known:
            if finding.severity == "critical" and not finding.over:
                self._alert(prefix, finding)

    def records(self, prefix: str, step: int, payload: bytes) -> None:
        """They grow through the whole run: the file is uploaded once, at its end."""
        self._upload(self._files.append_signals(prefix, step, payload), policy="end")

    def file(self, name: str, content: str) -> None:
        self._upload(self._files.write(name, content))

    def _alert(self, prefix: str, finding: Finding) -> None:
        """Once: a finding stays known, and one may turn critical later."""
        which = (prefix, finding.rule, finding.step)
        if which not in self._alerted:
            self._run.alert(title=f"{finding.rule} ({prefix})"[:63], text=finding.line(), level="ERROR")
            self._alerted.add(which)

    def _upload(self, path: Path, policy: str = "live") -> None:
        """Whenever the file changes, or at the end; of itself, what lies in the run's folder stays here."""
        if path.name not in self._uploaded:
            self._run.save(glob.escape(str(path)), base_path=str(path.parent), policy=policy)
            self._uploaded.add(path.name)


def _cells(finding: Finding) -> list[Any]:
    numbers = [f"{name} {v if isinstance(v, str) else format(v, '.3g')}" for name, v in finding.evidence.items()]
    named = ", ".join(finding.parameters)
    return [
        *(finding.step, finding.last_step, finding.rule, finding.severity, finding.message),
        *(", ".join(numbers), named, finding.remedy, finding.over),
    ]

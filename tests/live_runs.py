"""Real runs with both kinds of logger, and what their monitors leave beside a log."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.diagnosis import Finding
from lightning_adam.diagnosis.archive import FINDINGS_FILE, SIGNALS_FILE, Stretch, findings_document, stretch_line
from lightning_adam.doctor import RunReport, report
from lightning_adam.doctor.roles import prefixes
from lightning_adam.doctor.sources import read_runs
from lightning_adam.tensorboard.reader import RECORDS
from tests.digits import Digits, digits_loader, trainer

OFFLINE = "offline-run-20260101_120000-abc123"


@dataclass(frozen=True)
class Live:
    """A real run, and what its monitor knew when it ended.

    Attributes:
        findings: by the optimizer's prefix.
        stretches: the recorded signals.
        events: the folder with its event file.
        metrics: its ``metrics.csv``.
    """

    findings: dict[str, list[Finding]]
    stretches: list[Stretch]
    events: Path
    metrics: Path

    @property
    def told(self) -> list[dict[str, Any]]:
        """All findings in their order, as the JSON report has them."""
        ordered = sorted((f for found in self.findings.values() for f in found), key=lambda finding: finding.step)
        return [finding.to_dict() for finding in ordered]

    def leave(self, folder: Path, findings: bool = True, signals: bool = True) -> Path:
        """What a sink of a logger without a place for them writes."""
        folder.mkdir(parents=True, exist_ok=True)
        if findings:
            (folder / FINDINGS_FILE).write_text(findings_document(self.findings))
        if signals:
            (folder / SIGNALS_FILE).write_text("".join(f"{stretch_line(stretch)}\n" for stretch in self.stretches))
        return folder


def lived(folder: Path, module: Any, steps: int, *others: Callback) -> Live:
    """Train with both kinds of logger."""
    loggers = [kind(folder, name=kind.__name__, version="run") for kind in (TensorBoardLogger, CSVLogger)]
    monitor = DivergenceMonitor()
    fit = trainer(max_steps=steps, log_every_n_steps=10, logger=loggers, callbacks=[*others, monitor])
    fit.fit(module, digits_loader())
    (events,) = read_runs(folder / "TensorBoardLogger")
    names = prefixes(events)
    found = {name: [finding for finding in monitor.findings if finding.optimizer in (name, "")] for name in names}
    stretches = [Stretch(name, step, payload) for name in names for step, payload in events.texts[name + RECORDS]]
    return Live(found, stretches, Path(loggers[0].log_dir), Path(loggers[1].log_dir) / "metrics.csv")


def sick_run(folder: Path) -> Live:
    """A learning rate that is too high from the first step on, and a NaN at step 170; three stretches of signals."""
    live = lived(folder, Digits(lr=0.3, poison=(170,)), 180)
    assert [(f.rule, f.severity) for f in live.findings["adam"]] == [("LR-HIGH", "warning"), ("NON-FINITE", "critical")]
    assert len(live.stretches) == 3
    return live


def calm_run(folder: Path) -> Live:
    """A run in which nothing was found."""
    live = lived(folder, Digits(lr=1e-3), 60)
    assert live.findings == {"adam": []}
    return live


def judged(place: Path) -> RunReport:
    """The only run there."""
    (run,) = report(place).runs
    return run


def assert_as_live(run: RunReport, live: Live) -> None:
    """The same findings to the last digit, NaN included."""
    np.testing.assert_equal([finding.to_dict() for finding in run.findings], live.told)


def beside_csv(folder: Path, live: Live) -> None:
    """Where CSVLogger writes."""
    live.leave(folder / "lightning_logs/version_0")
    shutil.copy(live.metrics, folder / "lightning_logs/version_0")


def beside_events(folder: Path, live: Live) -> None:
    """Where an event file has the same signals already."""
    shutil.copytree(live.events, folder / "version_0")
    live.leave(folder / "version_0")

"""The report on all runs of a log folder, and the forms that it takes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lightning_adam.diagnosis import Finding
from lightning_adam.diagnosis.finding import as_dataframe, reach
from lightning_adam.doctor.judgement import RunReport, judge, ranked
from lightning_adam.doctor.sources import read_runs

if TYPE_CHECKING:
    import pandas


class Found(NamedTuple):
    """A finding, and the run that it is of."""

    run: str
    finding: Finding


@dataclass(frozen=True)
class Report:
    """What the doctor says about a log folder. In a notebook it shows as a page with plots.

    Attributes:
        logdir: what was read.
        runs: one report per run, the most troubled first.
    """

    logdir: str
    runs: tuple[RunReport, ...]

    @property
    def findings(self) -> list[Found]:
        """The findings of all runs, in their order."""
        return [Found(run.name, finding) for run in self.runs for finding in run.findings]

    def reaches(self, severity: str) -> bool:
        """Whether any finding is at least this severe.

        Args:
            severity: ``info``, ``warning`` or ``critical``.
        """
        return reach((finding for _, finding in self.findings), severity)

    def to_dataframe(self) -> pandas.DataFrame:
        """The findings as a table, one row each: run, step, rule, severity, message, remedy, parameters, evidence.

        Raises:
            ImportError: pandas is not installed.
        """
        columns = ["run", "step", "rule", "severity", "message", "remedy", "parameters", "evidence"]
        rows = [{"run": run, **finding.to_dict()} for run, finding in self.findings]
        return as_dataframe(rows, columns)

    def to_text(self, width: int = 100) -> str:
        """As the terminal shows it, without colour."""
        from lightning_adam.doctor.terminal import as_text

        return as_text(self, width)

    def to_markdown(self) -> str:
        """For an issue or a pull request."""
        from lightning_adam.doctor.markdown import as_markdown

        return as_markdown(self)

    def to_json(self) -> str:
        """For a program; NaN and infinities are the strings "NaN", "Infinity" and "-Infinity"."""
        from lightning_adam.doctor.machine import as_json

        return as_json(self)

    def to_html(self) -> str:
        """A page of its own: nothing is loaded from anywhere."""
        from lightning_adam.doctor.page import as_page

        return as_page(self)

    def _repr_html_(self) -> str:
        from lightning_adam.doctor.page import as_fragment

        return as_fragment(self)

    def __repr__(self) -> str:
        return self.to_text()


def report(logdir: str | os.PathLike[str]) -> Report:
    """Diagnose the runs of a log folder, as ``lightning-adam doctor`` does.

    Args:
        logdir: a folder with runs in it, a run's own folder, or one file: an event file, a ``metrics.csv``, W&B's
            ``run-….wandb`` or a history exported from there, a ``findings.json``.

    Raises:
        UnusableLog: there is nothing at ``logdir`` that could be judged.
    """
    runs = ranked(judge(run) for run in read_runs(logdir))
    return Report(os.fspath(logdir), tuple(runs))


def report_on_run(folder: Path) -> Report:
    """Diagnose the run of one folder, without those in folders below it.

    Raises:
        UnusableLog: there is nothing in the folder that could be judged.
    """
    return Report(os.fspath(folder), tuple(judge(run) for run in read_runs(folder, below=False)))

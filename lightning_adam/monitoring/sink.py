"""Where the numbers, pictures and words of a run go, as a monitor sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_adam.diagnosis import Finding
from lightning_adam.monitoring.heatmap import Heatmap
from lightning_adam.statistics import Snapshot


class Sink:
    """One place that a run is logged to. Each kind overrides what it can show; what it cannot, it passes over.

    ``prefix`` is the first part of an optimizer's tags: ``adam``, or ``adam-AdamW`` and so on where there are several.
    ``step`` is the log's x-axis.
    """

    @property
    def address(self) -> str | None:
        """What to tell the user to open, in one short sentence; None for nothing."""
        return None

    @property
    def keeps_records(self) -> bool:
        """Whether it does anything with :meth:`records`: where no sink does, nobody encodes any."""
        return type(self).records is not Sink.records

    def hyperparameters(self, values: Mapping[str, Any], trainer_follows: bool = False) -> None:
        """Before training, once: what the runs of a project are sorted by (``lr``, ``betas``, ``schedule``, …).

        Args:
            values: ours and the user's.
            trainer_follows: whether the trainer will log the user's itself, right afterwards.
        """

    def configuration(self, prefix: str, step: int, markdown: str) -> None:
        """When training starts: the parameter groups as a Markdown table, the schedule and clipping in words."""

    def layout(self, prefixes: Sequence[str], each_tensor: bool) -> None:
        """When training starts: how the run's charts are arranged.

        Args:
            prefixes: of all optimizers.
            each_tensor: whether tensors have scalars of their own.
        """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars by their full tags."""

    def snapshot(
        self, prefix: str, values: Mapping[str, float], snapshot: Snapshot, rows: Sequence[int], matrix: bool
    ) -> None:
        """One logged step: its scalars, histograms, and every quantity of every tensor. By default the scalars.

        Args:
            prefix: of the optimizer.
            values: the headline and the other scalars by their full tags.
            snapshot: the tables.
            rows: tensors that also get a scalar per quantity.
            matrix: whether every quantity of every tensor is wanted.
        """
        self.scalars(snapshot.step, values)

    def heatmap(self, prefix: str, heatmap: Heatmap) -> None:
        """The update ratios so far, about twenty times in a run; each call replaces the last picture."""

    def standouts(self, prefix: str, snapshot: Snapshot, count: int) -> None:
        """The ``count`` tensors that stand out, beside each heatmap."""

    def findings(self, prefix: str, step: int, fresh: Sequence[Finding], known: Sequence[Finding]) -> None:
        """What was found: as it is found, and once more when the run ends (then ``fresh`` is empty).

        Args:
            prefix: of the optimizer.
            step: where.
            fresh: what begins, or got a better name, at this step.
            known: all findings of this optimizer so far, brought up to date (last step, severity, whether it is over).
        """

    def records(self, prefix: str, step: int, payload: bytes) -> None:
        """A stretch of the diagnosis' signals (:func:`lightning_adam.diagnosis.encode`), for the doctor to replay."""

    def file(self, name: str, content: str) -> None:
        """A text file beside the log."""

    def end(self) -> None:
        """The run is over, or broke: nothing comes any more."""

    def has_failed(self, is_over: bool) -> None:
        """One of the calls above has raised: see to it that the logger can go on, or at least end, without raising again.

        Args:
            is_over: whether that was the last one.
        """

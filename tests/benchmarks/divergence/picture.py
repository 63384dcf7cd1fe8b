"""Draws examples/divergence.png: one sick run, the moment of the warning, and the cured run.

``python -m tests.benchmarks.divergence.picture``
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from tests.benchmarks.divergence.running import Run, train
from tests.benchmarks.divergence.scoring import event_step
from tests.benchmarks.divergence.sick import SICK

NAME = "lr-ramp-gru"
OUT = Path("examples/divergence.png")
SICK_COLOUR, CURED_COLOUR, WARNING_COLOUR = "#c0392b", "#2c7fb8", "#e67e22"


def main() -> None:
    """Train the sick and the cured run, and draw both."""
    scenario = next(s for s in SICK if s.name == NAME)
    sick, cured = train(scenario, 0), train(scenario.cured(), 0)
    finding = next(f for f in sick.findings if f.severity != "info")
    lost = event_step(sick.losses, False)
    figure = Figure(figsize=(9, 6.4), layout="constrained", dpi=110)
    axes = figure.subplots(3, 1, sharex=True)
    draw_losses(axes[0], sick, cured)
    draw_signal(axes[1], sick, cured, "update_ratio_p50", "update ratio ‖Δθ‖/‖θ‖\n(median)", 0.03, "limit of LR-HIGH")
    draw_signal(axes[2], sick, cured, "surprise_max", "gradient surprise\nRMS_t (largest)", 1.0, "pure noise")
    for axis in axes:
        axis.axvline(finding.step, color=WARNING_COLOUR, linewidth=2)
        axis.grid(alpha=0.25)
        if lost is not None:
            axis.axvline(lost, color="0.4", linestyle=":")
    axes[0].annotate(
        f" {finding.rule}, step {finding.step}", (finding.step, axes[0].get_ylim()[1]), color=WARNING_COLOUR, weight="bold",
        va="top", ha="left",
    )  # fmt: skip
    if lost is not None:
        axes[0].annotate(f" loss gone,\n step {lost}", (lost, 4), color="0.3", fontsize=8, va="bottom", ha="left")
    axes[2].set_xlabel("optimizer step")
    figure.suptitle(finding.line().split(";")[0], fontsize=9, color="0.2")
    figure.savefig(OUT)
    print(OUT, finding.line(), sep="\n")


def draw_losses(axis: Axes, sick: Run, cured: Run) -> None:
    """Both losses."""
    axis.plot(sick.losses, color=SICK_COLOUR, linewidth=1, label="the rate grows 2.5 % per step from step 100 on")
    axis.plot(cured.losses, color=CURED_COLOUR, linewidth=1, label="cured: the rate stays")
    axis.set(ylabel="loss", ylim=(1.5, 9.5))
    axis.legend(loc="upper left", fontsize=8, frameon=False)


def draw_signal(axis: Axes, sick: Run, cured: Run, signal: str, label: str, limit: float, limit_label: str) -> None:
    """A signal of the passes over all tensors, and what it is held against."""
    for run, colour in ((sick, SICK_COLOUR), (cured, CURED_COLOUR)):
        measured = [(s.step, getattr(s.heavy, signal)) for s in run.steps if s.heavy is not None]
        steps, values = np.array(measured).T
        axis.plot(steps, values, "o-", color=colour, markersize=2.5, linewidth=1)
    axis.axhline(limit, color="0.4", linestyle="--", linewidth=1)
    axis.annotate(limit_label, (395, limit), color="0.4", fontsize=8, va="bottom", ha="right")
    axis.set(ylabel=label, yscale="log", xlim=(-8, 400))
    ticks = (0.002, 0.005, 0.01, 0.03, 0.1) if limit < 1 else (0.5, 1, 2, 4)
    axis.set_yticks(ticks, [f"{100 * t:g} %" if limit < 1 else f"{t:g}" for t in ticks])
    axis.yaxis.set_minor_formatter(NullFormatter())


if __name__ == "__main__":
    main()

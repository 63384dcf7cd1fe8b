"""What the doctor's charts draw beside a curve."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from lightning_adam.diagnosis import HeavySignals, RunSignals, StepSignals
from lightning_adam.diagnosis.theory import LARGE_RATIO, SMALL_RATIO
from lightning_adam.doctor.curves import Curve, curves
from lightning_adam.doctor.plots import HEIGHT, chart
from lightning_adam.tensorboard.reader import RunLog


def ratios(beta1: float) -> Curve:
    """The chart's curve of a run whose median update ratio is 0.2 %."""
    steps = [StepSignals(step, 0, heavy=HeavySignals(update_ratio_p50=2e-3, update_ratio_max=4e-3)) for step in range(9)]
    records = {"adam": [RunSignals(beta1=beta1), *steps]}
    (curve,) = [curve for curve in curves(RunLog("run", Path()), records) if "ratio" in curve.title]
    return curve


@pytest.mark.parametrize(("beta1", "factor"), [(0.9, 1.0), (0.5, (0.5 / 1.5 * 1.9 / 0.1) ** 0.5)])
def test_the_dotted_lines_of_the_update_ratio_are_where_the_rules_begin_to_mind(beta1: float, factor: float) -> None:
    """One limit in the messages, in the tab and in the report; less momentum makes usual steps larger."""
    curve = ratios(beta1)
    drawn = chart(curve, [], (0, 8))
    dotted = [float(y) for y in re.findall(r'la-limit" [^/]*y1="([\d.]+)"', drawn)]

    assert curve.limits == pytest.approx((SMALL_RATIO, LARGE_RATIO * factor))
    assert "rules mind &lt; 0.015 % and &gt; " in drawn
    assert len(dotted) == 2 and 0 < dotted[1] < dotted[0] < HEIGHT


def test_a_limit_that_lies_beyond_the_axis_is_not_drawn_at_its_edge() -> None:
    """Ratios over twelve decades: the axis keeps the largest ones."""
    steps, values = np.arange(9), np.full(9, 1e9)
    values[0] = 1e-3

    assert chart(Curve("ratio", "tag", steps, values, limits=(1e-4, 1e-2)), [], (0, 8)).count("la-limit") == 0

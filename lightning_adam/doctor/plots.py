"""Small charts as inline SVG: no script, no request, colours from the page's own variables."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_adam.diagnosis import Finding
from lightning_adam.diagnosis.wording import percent
from lightning_adam.doctor.curves import Curve
from lightning_adam.doctor.wording import shown

WIDTH, HEIGHT = 860, 150
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 24, 20
MOST_POINTS = 700
"""Points per curve; with more, each bucket of steps keeps its lowest and its highest value, so no spike is lost."""

MOST_DECADES = 8
FARTHEST = 1e300
"""What is farther from zero is drawn there: the difference of two such floats is still one."""

Axis = tuple[float, float, bool]
"""Lower end, upper end, logarithmic."""


def escaped(text: str) -> str:
    """Text of a log as it may stand in HTML."""
    return html.escape(shown(text))


def charts(curves: Sequence[Curve], findings: Sequence[Finding], steps: tuple[int, int]) -> list[str]:
    """All curves of a run on one axis; the findings' codes stand over the first."""
    labels = [_labels(findings, steps)] + [""] * len(curves)
    return [chart(curve, findings, steps, label) for curve, label in zip(curves, labels, strict=False)]


def chart(curve: Curve, findings: Sequence[Finding], steps: tuple[int, int], labels: str = "") -> str:
    """One curve with the findings as marks: a line where each began, and a shade while it lasted.

    Args:
        curve: what to draw.
        findings: a line at each one's step; hovering tells what it says.
        steps: the first and the last step of the axis, the same for all charts of a run.
        labels: what stands over the marks.
    """
    axis = _axis(curve)
    title = escaped(curve.title)
    parts = [
        f'<svg class="la-chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">',
        _title(curve),
        f'<text class="la-tag" x="{WIDTH - RIGHT}" y="14" text-anchor="end">{escaped(curve.tag)}</text>',
        *_grid(axis, steps),
        *_limits(curve, axis),
        _band(curve, axis, steps),
        *_marks(findings, steps),
        *_line(curve, axis, steps),
        *_missing(curve, steps),
        labels,
        "</svg>",
    ]
    return "".join(parts)


def _axis(curve: Curve) -> Axis:
    """Logarithmic where values span more than a factor of 20, over eight decades at most: the largest are never cut off."""
    rows = [row for row in (curve.values, curve.low, curve.high) if row is not None]
    values = np.concatenate([*rows, curve.limits or ()])
    finite = values[np.isfinite(values)].clip(-FARTHEST, FARTHEST)
    if not finite.size:
        return 0.0, 1.0, False
    positive = finite[finite > 0]
    if positive.size and finite.min() >= 0 and positive.max() > 20 * positive.min():
        high = math.log10(positive.max())
        return max(math.log10(positive.min()), high - MOST_DECADES) - 0.05, high + 0.05, True
    low, high = float(finite.min()), float(finite.max())
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room, False


def _x(step: float, steps: tuple[int, int]) -> float:
    first, last = steps
    return LEFT + (WIDTH - LEFT - RIGHT) * (step - first) / max(last - first, 1)


def _y(values: NDArray[np.float64], axis: Axis) -> NDArray[np.float64]:
    low, high, logarithmic = axis
    with np.errstate(divide="ignore", invalid="ignore"):
        placed = np.log10(values) if logarithmic else values
    share = (np.clip(placed, low, high) - low) / (high - low)
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _grid(axis: Axis, steps: tuple[int, int]) -> list[str]:
    parts = []
    for value in ticks(axis):
        y = float(_y(np.array([value]), axis)[0])
        parts.append(f'<line class="la-grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="la-tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for step in step_ticks(*steps):
        x = _x(step, steps)
        parts.append(f'<text class="la-tick" x="{x:.1f}" y="{HEIGHT - 5}" text-anchor="middle">{step}</text>')
    return parts


def _limits(curve: Curve, axis: Axis) -> list[str]:
    """Those that the axis reaches."""
    low, high, logarithmic = axis
    ends = (10.0**low, 10.0**high) if logarithmic else (low, high)
    there = [limit for limit in curve.limits or () if ends[0] <= limit <= ends[1]]
    places = _y(np.array(there), axis).tolist()
    return [f'<line class="la-limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>' for y in places]


def _title(curve: Curve) -> str:
    """With what the dotted lines are: beside them, the words would lie on the curve."""
    told = ""
    if curve.limits is not None:
        low, high = map(percent, curve.limits)
        told = f'<tspan class="la-aside" dx="10">dotted: at the full rate, rules mind &lt; {low} and &gt; {high}</tspan>'
    return f'<text class="la-title" x="{LEFT}" y="14">{escaped(curve.title)}{told}</text>'


def ticks(axis: Axis) -> list[float]:
    """Three to six round values.

    Example:
        >>> ticks((0.0, 1.0, False))
        [0.0, 0.25, 0.5, 0.75, 1.0]
        >>> ticks((-4.05, -1.95, True))
        [0.0001, 0.001, 0.01]
    """
    low, high, logarithmic = axis
    if logarithmic and high - low >= 2:
        every = math.ceil((high - low) / 5)
        return [10.0**e for e in range(math.ceil(low), math.floor(high) + 1) if e % every == 0]
    if logarithmic:
        powers = range(math.floor(low), math.ceil(high) + 1)
        return [m * 10.0**e for e in powers for m in (1, 2, 5) if low <= math.log10(m * 10.0**e) <= high]
    return _linear_ticks(low, high)


def _linear_ticks(low: float, high: float) -> list[float]:
    width = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(width))
    stride = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(s - width))
    first, last = math.ceil(low / stride), math.floor(high / stride)
    return [round(i * stride, 12) for i in range(first, last + 1)]


def step_ticks(first: int, last: int) -> list[int]:
    """Round steps along the axis.

    Example:
        >>> step_ticks(9, 199)
        [50, 100, 150]
        >>> step_ticks(7, 7)
        [7]
    """
    if last - first < 4:
        return list(range(first, last + 1))
    return [int(value) for value in _linear_ticks(first, last) if value == int(value)]


def _band(curve: Curve, axis: Axis, steps: tuple[int, int]) -> str:
    if curve.low is None or curve.high is None:
        return ""
    there = np.isfinite(curve.low) & np.isfinite(curve.high)
    kept = np.flatnonzero(there)[:: max(1, int(there.sum()) // MOST_POINTS)]
    if len(kept) < 2:
        return ""
    x = [_x(step, steps) for step in curve.steps[kept].tolist()]
    upper = zip(x, _y(curve.high[kept], axis), strict=True)
    lower = zip(x[::-1], _y(curve.low[kept][::-1], axis), strict=True)
    return f'<polygon class="la-band" points="{_points([*upper, *lower])}"/>'


def _line(curve: Curve, axis: Axis, steps: tuple[int, int]) -> list[str]:
    """One line per stretch without a gap; a stretch of a single point is a dot."""
    x = np.array([_x(step, steps) for step in curve.steps.tolist()])
    y = _y(curve.values, axis)
    parts = []
    for stretch in _stretches(np.isfinite(curve.values) & np.isfinite(y)):
        kept = thin(y[stretch], MOST_POINTS)
        pairs = list(zip(x[stretch][kept], y[stretch][kept], strict=True))
        if len(pairs) == 1:
            parts.append(f'<circle class="la-dot" cx="{pairs[0][0]:.1f}" cy="{pairs[0][1]:.1f}" r="2.5"/>')
        else:
            parts.append(f'<polyline class="la-line" points="{_points(pairs)}"/>')
    return parts


def _stretches(there: NDArray[np.bool_]) -> list[slice]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]]).astype(np.int8)))
    return [slice(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def thin(values: NDArray[np.float64], most: int) -> NDArray[np.intp]:
    """Indices of at most about ``most`` points: the lowest and the highest of each bucket, and both ends."""
    if len(values) <= most:
        return np.arange(len(values))
    buckets = np.array_split(np.arange(len(values)), most // 2)
    extremes = [bucket[[int(np.argmin(values[bucket])), int(np.argmax(values[bucket]))]] for bucket in buckets]
    return np.unique(np.concatenate([*extremes, [0, len(values) - 1]]))


def _missing(curve: Curve, steps: tuple[int, int]) -> list[str]:
    """NaN and Inf as crosses at the top: a gap alone is easily overlooked."""
    bad = curve.steps[~np.isfinite(curve.values)].tolist()
    kept = bad[:: max(1, len(bad) // 60)]
    return [f'<text class="la-nan" x="{_x(step, steps):.1f}" y="{TOP + 8}" text-anchor="middle">×</text>' for step in kept]


def _marks(findings: Sequence[Finding], steps: tuple[int, int]) -> list[str]:
    parts = []
    for finding in findings:
        x = _x(finding.step, steps)
        told = escaped(f"{finding.rule}, step {finding.step}: {finding.message}")
        width = _x(finding.last_step, steps) - x
        lasts = f'<rect x="{x:.1f}" y="{TOP}" width="{width:.1f}" height="{HEIGHT - TOP - BOTTOM}"/>' if width > 1 else ""
        line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        head = f'<circle cx="{x:.1f}" cy="{TOP}" r="4"/>'
        severity = escaped(finding.severity)
        parts.append(f'<g class="la-mark la-{severity}"><title>{told}</title>{lasts}{line}{head}</g>')
    return parts


def _labels(findings: Sequence[Finding], steps: tuple[int, int]) -> str:
    """Each finding's code beside its mark, on the side that has room; none where it would cover another."""
    parts, free = [], LEFT + 8.0
    for finding in sorted(findings, key=lambda f: f.step):
        x, width = _x(finding.step, steps), 7.5 * len(finding.rule) + 8
        to_the_left = x + width > WIDTH - RIGHT
        start = x - width if to_the_left else x
        if start + 8 < free and finding is not findings[0]:
            continue
        anchor, place = ("end", x - 8) if to_the_left else ("start", x + 8)
        free = start + width + 8
        style = f'class="la-code la-{escaped(finding.severity)}"'
        code = escaped(finding.rule)
        parts.append(f'<text {style} x="{place:.1f}" y="{TOP + 4}" text-anchor="{anchor}">{code}</text>')
    return "".join(parts)


def _points(pairs: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)

"""What was measured of each code: a picture of a real run, and how often the code was right.

Both come from ``explanations/measured.json``, which ``python -m tests.benchmarks.explained`` writes.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

STORED = files("lightning_adam") / "explanations" / "measured.json"
BARS = "▁▂▃▄▅▆▇█"
SPAN = 20.0
"""Values that differ by more than this factor are drawn on a logarithmic scale."""
WIDTH, HEIGHT, LEFT, GAP = 640, 64, 150, 14
RIGHT = WIDTH - 8
"""Where the curves end: half of a cross reaches beyond."""


@dataclass(frozen=True)
class Series:
    """One quantity of a run, in as many stretches as there are values.

    Attributes:
        name: of the quantity.
        values: the largest of each stretch; None where it was not finite.
    """

    name: str
    values: tuple[float | None, ...]

    def shares(self) -> list[float | None]:
        """Where each value lies between the smallest, 0, and the largest, 1."""
        known = [v for v in self.values if v is not None]
        low, high = min(known, default=0.0), max(known, default=0.0)
        if self.is_logarithmic():
            low, high = math.log(low), math.log(high)
            return [None if v is None else (math.log(v) - low) / (high - low) for v in self.values]
        return [None if v is None else (v - low) / (high - low) if high > low else 0.0 for v in self.values]

    def is_logarithmic(self) -> bool:
        """Whether the values are all positive and far apart."""
        known = [v for v in self.values if v is not None]
        return bool(known) and min(known) > 0 and max(known) > SPAN * min(known)

    def ends(self) -> str:
        """The smallest and the largest value, and the scale where it is not the usual one."""
        known = [v for v in self.values if v is not None]
        told = f"{min(known):.2g} to {max(known):.2g}" if known else "never finite"
        return f"{told}, log" if self.is_logarithmic() else told


@dataclass(frozen=True)
class Picture:
    """A real run in which a code was found.

    Attributes:
        of: the run, in words.
        steps: of the run.
        at: the step of the finding.
        message: what it said.
        series: from the first step to the last.
    """

    of: str
    steps: int
    at: int
    message: str
    series: tuple[Series, ...]

    def as_text(self) -> str:
        """For a terminal of 80 columns: a row of bars per quantity, its range below them, and where the finding was."""
        width = max(len(s.name) for s in self.series)
        rows = [row for s in self.series for row in (f"{s.name:{width}}  {_bars(s)}", f"{'':{width}}  {s.ends()}")]
        return "\n".join([*rows, f"{'':{width}}  {self._mark()}"])

    def _mark(self) -> str:
        """Beside the arrow, on the side that has room."""
        told, place = f"found at step {self.at} of {self.steps}", self._place()
        return f"{told + ' ▲':>{place + 1}}" if place > len(told) + 1 else f"{' ' * place}▲ {told}"

    def as_svg(self) -> str:
        """For a page: in the page's own colour of text, so that it suits light and dark."""
        height = (HEIGHT + GAP) * len(self.series) + 20
        x = LEFT + self._share() * (RIGHT - LEFT)
        name = html.escape(f"{', '.join(s.name for s in self.series)} over {self.steps} steps; found at step {self.at}")
        mark = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 20}" stroke="#d9650f" stroke-dasharray="4 3"/>'
        anchor = "end" if x > WIDTH / 2 else "start"
        label = f'<text x="{x:.1f}" y="{height - 4}" text-anchor="{anchor}">▲ found at step {self.at}</text>'
        drawn = "".join(_drawn(s, at * (HEIGHT + GAP) + 6) for at, s in enumerate(self.series))
        style = 'font-size="12" font-family="system-ui,sans-serif" fill="currentColor"'
        return (
            f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" style="max-width:100%;height:auto" role="img" '
            f'aria-label="{name}" {style}>{mark}{drawn}{label}</svg>'
        )

    def _share(self) -> float:
        return min(self.at / max(1, self.steps - 1), 1.0)

    def _place(self) -> int:
        return int(self._share() * (len(self.series[0].values) - 1))


@dataclass(frozen=True)
class Rates:
    """How often a code was right over the runs of one benchmark.

    Attributes:
        among: which benchmark, a key of ``AMONG``.
        faults: runs whose planted fault has this code.
        named: of these, those whose first warning was this code.
        related: those whose first warning was another name of the same fault.
        silent: those without a warning.
        interval: of 95 %, of the share of ``named``.
        first: sick runs whose first warning was this code, whatever their fault.
        right: of these, those for which it is the fault's name or another name of it.
        healthy: runs without a fault.
        alarmed: of these, those that got a warning of this code.
    """

    among: str
    faults: int
    named: int
    related: int
    silent: int
    interval: tuple[float, float]
    first: int
    right: int
    healthy: int
    alarmed: int

    def as_text(self) -> str:
        """In two or three sentences."""
        where = AMONG[self.among]
        parts = [f"Among {where}:", self._of_faults() if self.faults else "no run has this as its planted fault;"]
        parts.append(f"{self.first - self.right or 'none'} with another fault got it first;")
        if self.healthy:
            parts.append(f"of {self.healthy} healthy ones {self.alarmed or 'none'} got a warning of it;")
        return " ".join(parts).removesuffix(";") + "."

    def _of_faults(self) -> str:
        low, high = (round(100 * end) for end in self.interval)
        counts = {
            "a related name": self.related,
            "another": self.faults - self.named - self.related - self.silent,
            "no warning": self.silent,
        }
        others = "".join(f", {count} {what}" for what, count in counts.items() if count)
        interval = f" (95 % interval {low} to {high} %)" if self.faults > 2 else ""
        return f"of {self.faults} with this fault {self.named} got this code first{interval}{others};"


AMONG = {
    "corpus": "runs of task families that no threshold was chosen on",
    "scenarios": "scenarios that no threshold was chosen on",
    "scenarios-tuned": "scenarios that thresholds were chosen on",
    "preflight": "models that preflight was not built with (mistakes found there have been mended since)",
    "preflight-tuned": "models that preflight was built with",
}


@dataclass(frozen=True)
class Measured:
    """Of one code.

    Attributes:
        picture: a real run, or None.
        said: what it said of a real model before training, or nothing.
        rates: per benchmark.
    """

    picture: Picture | None = None
    said: str = ""
    rates: tuple[Rates, ...] = ()


def measured(code: str) -> Measured:
    """What was measured of a code; nothing for one that no benchmark has."""
    return _all().get(code, Measured())


@cache
def _all() -> dict[str, Measured]:
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    return {code: _measured(**fields) for code, fields in stored.items()}


def _measured(picture: dict[str, object] | None, said: str, rates: Sequence[dict[str, object]]) -> Measured:
    drawn = None
    if picture is not None:
        series = tuple(Series(name, tuple(values)) for name, values in picture.pop("series"))  # type: ignore[attr-defined]
        drawn = Picture(**picture, series=series)  # type: ignore[arg-type]
    return Measured(drawn, said, tuple(Rates(**{**r, "interval": tuple(r["interval"])}) for r in rates))  # type: ignore[arg-type]


def _bars(series: Series) -> str:
    return "".join("×" if share is None else BARS[round(share * (len(BARS) - 1))] for share in series.shares())


def _drawn(series: Series, top: float) -> str:
    """The curve, a cross where it was not finite, and the name with both ends beside it."""
    shares = series.shares()
    places = [LEFT + (RIGHT - LEFT) * at / max(1, len(shares) - 1) for at in range(len(shares))]
    heights = [None if s is None else top + HEIGHT * (1 - s) for s in shares]
    stretches: list[list[str]] = [[]]
    crosses = []
    for x, y in zip(places, heights, strict=True):
        if y is None:
            crosses.append(f'<text x="{x:.0f}" y="{top + 12:.0f}" text-anchor="middle">×</text>')
            stretches.append([])
        else:
            stretches[-1].append(f"{x:.0f},{y:.0f}")
    lines = "".join(
        f'<polyline points="{" ".join(s)}" fill="none" stroke="currentColor" stroke-width="1.5"/>' for s in stretches if s
    )
    name = f'<text x="0" y="{top + 14:.0f}">{html.escape(series.name)}</text>'
    ends = f'<text x="0" y="{top + 30:.0f}" opacity="0.75">{html.escape(series.ends())}</text>'
    return f"{lines}{''.join(crosses)}{name}{ends}"

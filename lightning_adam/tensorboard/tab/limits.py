"""Between which values the diagnosis finds nothing: what the heatmap leaves pale.

Every limit is a rule's own constant; a quantity that no rule judges has no band, and its colours only tell magnitudes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_adam.diagnosis import RunSignals
from lightning_adam.diagnosis.rules_gradients import HEAVY
from lightning_adam.diagnosis.rules_state import EPS_RULES, STALE_SURPRISE
from lightning_adam.diagnosis.rules_steps import LARGE_FIRST_STEP
from lightning_adam.diagnosis.theory import LARGE_RATIO, SMALL_RATIO, agreement, noise_floor, update_bound

Floats = NDArray[np.float32]

EARLY_STEPS = 30
"""Before so many, LR-HIGH and LR-LOW do not ask for the usual size of steps, only for a first step that is the damage."""


@dataclass(frozen=True)
class Band:
    """The values of a quantity that no rule minds.

    Attributes:
        low, high: the band's ends.
        early: its upper end in the first steps, where only this is judged; NaN where they are like any others.
        agree: the signal to noise under which a value below the band is not minded: small steps that disagree are noise.
        full: so many times beyond an end, the colour is full.
        over, under: the codes that mind what is above the band, and below it.
        matrices: only weight matrices are judged: biases and norms start at 0 or 1, and move by any share of that.
        planned: judged as if the learning rate were still at its peak, see :func:`planned_share`.
        usual: judged in multiples of the tensor's own usual value.
    """

    low: float = 0.0
    high: float = math.inf
    early: float = math.nan
    agree: float = 0.0
    full: float = 30.0
    over: tuple[str, ...] = ()
    under: tuple[str, ...] = ()
    matrices: bool = False
    planned: bool = False
    usual: bool = False

    def excess(self, steps: NDArray[np.int64], values: Floats) -> Floats:
        """How far outside: 0 in the band, up to 1 above it, down to -1 below; NaN where the value is not known."""
        is_early = (steps < EARLY_STEPS)[:, None] & ~np.isnan(self.early)
        low, high = np.where(is_early, 0.0, self.low), np.where(is_early, self.early, self.high)
        outside, bound = (values < low) | (values > high), np.where(values > high, high, low)
        signed = np.zeros(values.shape)
        with np.errstate(divide="ignore"):
            signed[outside] = np.log(values[outside] / bound[outside])
        return np.clip(signed / math.log(self.full), -1, 1).astype(np.float32)

    def plain(self) -> dict[str, Any]:
        """For the page; JSON has no infinity."""
        return {name: None if value == math.inf or value != value else value for name, value in asdict(self).items()}


MEAN_OVER_RMS = math.sqrt(2 / math.pi)
"""Of normally distributed values: LR-LOW asks for the rms of u, the log has its mean size."""


def bands(known: RunSignals) -> dict[str, Band]:
    """The band of each quantity that is judged for an optimizer that is so configured.

    Surprise and signal to noise have limits only where m and v are averages of g and g², as in Adam.
    """
    beta1 = known.beta1
    floor = noise_floor(beta1) / noise_floor(0.9) if 0 <= beta1 < 1 else 1.0
    ratio = Band(
        SMALL_RATIO,
        LARGE_RATIO * floor,
        LARGE_FIRST_STEP,
        MEAN_OVER_RMS * agreement(beta1),
        over=("LR-HIGH", "NO-WARMUP"),
        under=("LR-LOW",),
        matrices=True,
        planned=True,
    )
    judged = {
        "update_ratio": ratio,
        "eps_dominated": Band(high=EPS_RULES, full=1 / EPS_RULES, over=("EPS-HIGH", "CLIP-ALWAYS"), matrices=True),
        "gradient_norm": Band(
            high=float(HEAVY), over=("BAD-BATCH", "GRAD-EXPLODING"), under=("DEAD-PARAMETER",), usual=True
        ),
    }
    if known.plain_moments:
        bound = update_bound(beta1, known.beta2)
        judged["gradient_surprise"] = Band(high=STALE_SURPRISE, over=("BETA2-STALE",))
        judged["signal_to_noise"] = Band(high=bound, over=("STATE-CORRUPT",))
    return judged


def planned_share(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the highest learning rate so far, at each step; NaN where the rate is zero or not known.

    So far: a warmup is there to keep the first steps small, and they are judged as they were.
    """
    known = np.where(rates > 0, rates, 0.0)
    highest = np.maximum.accumulate(known)
    return np.divide(known, highest, out=np.full_like(known, np.nan), where=(known > 0) & (highest > 0))


USUAL_STEPS = 50
"""What is usual is a tensor's median over so many steps before, as in the rules."""
FEWEST = 4
"""Logged steps before which nothing counts as usual."""
MOST_MEDIANS = 500
"""In a log of more steps than that, some share their median with the one before."""
AT_ONCE = 1 << 20
"""Numbers whose medians are taken together: a call for each step would be half of the time of a first picture."""


def usual(steps: NDArray[np.int64], values: Floats) -> Floats:
    """The median of each tensor over the last 50 steps before each step, at least of four logged ones; else NaN."""
    found = np.full_like(values, np.nan)
    stride = max(1, len(steps) // MOST_MEDIANS)
    ends = np.arange(FEWEST, len(steps), stride)
    begins = np.minimum(np.searchsorted(steps, steps[ends] - USUAL_STEPS), ends - FEWEST)
    for part in _alike(ends - begins, values.shape[1]):
        windows = begins[part, None] + np.arange(ends[part[0]] - begins[part[0]])
        middles = np.median(values[windows], axis=1)
        for end, middle in zip(ends[part], middles, strict=True):
            found[end : end + stride] = middle
    found[np.isinf(found)] = np.nan
    return found


def _alike(widths: NDArray[np.int64], tensors: int) -> Iterator[NDArray[np.int64]]:
    """Places of windows of one width, as many as are taken together."""
    for width in np.unique(widths).tolist():
        places = np.flatnonzero(widths == width)
        most = max(1, AT_ONCE // max(1, width * tensors))
        yield from np.split(places, range(most, len(places), most))

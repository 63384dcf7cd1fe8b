"""The update ratios of all tensors over the run as one picture: NumPy and Pillow, no plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lightning_adam.diagnosis import RunSignals
from lightning_adam.tensorboard.tab.judged import AGREEMENT, Judge
from lightning_adam.tensorboard.tab.limits import EARLY_STEPS, Band, bands
from lightning_adam.tensorboard.tab.marks import Flags, Mark, marked
from lightning_adam.tensorboard.tab.tiles import Matrix

RATIO = "update_ratio"
LOW, HIGH = -6.0, 0.0
SCALE = np.array([
    [8, 48, 107], [33, 113, 181], [133, 188, 220], [243, 241, 236], [242, 163, 94], [210, 92, 18], [122, 36, 3.0],
])  # fmt: skip
"""The Adam tab's blue, neutral and orange of a light page, which colour-blind readers can tell apart."""
PALE = SCALE[3]
GREY, BLACK = (205, 208, 212), (0, 0, 0)
"""No step at all, and not finite: black is far from the whole scale for every eye; magenta is blue to a protanope."""
MARKED = (255, 216, 77)
"""Within the limits, but a finding concerns it: as a text marker does."""
EDGE = 0.3
"""How much of the way to the full colour a cell begins with that is just outside of the limits."""
FAINT = 0.25
"""Of its colour is left to a cell at a step at which no finding says that it does harm, see ``static/scale.js``."""

WIDTH, HEIGHT = 620, 400
LEFT, TOP, RIGHT, BOTTOM = 130, 30, 14, 44


@dataclass(frozen=True)
class Circumstances:
    """What the ratios are judged by, as in the Adam tab; what is not known is not judged.

    Attributes:
        beta1: of the optimizer: without momentum usual steps are larger.
        rates: learning rate of each column; NaN where it is not known.
        agreement: signal to noise, [rows, columns]: small steps that disagree are noise.
        marks: what the findings concern; None where nobody watches for findings, and all colours are full.
    """

    beta1: float = float("nan")
    rates: Sequence[float] = ()
    agreement: NDArray[np.floating[Any]] | None = None
    marks: Sequence[Mark] | None = None

    @property
    def band(self) -> Band:
        """What LR-LOW and LR-HIGH leave alone."""
        return bands(RunSignals(beta1=self.beta1))[RATIO]

    def known_rates(self) -> NDArray[np.float64] | None:
        """Columns of a checkpoint that had no rates are taken as of the first that is known."""
        rates = np.array(self.rates, dtype=np.float64)
        known = rates[np.isfinite(rates)]
        return np.where(np.isfinite(rates), rates, known[0]) if known.size else None


NOTHING = Circumstances()


def judged(
    steps: Sequence[int], names: Sequence[str], ratios: NDArray[np.floating[Any]], known: Circumstances = NOTHING
) -> NDArray[np.float32]:
    """How far each cell is outside of the limits, as in the Adam tab: at the planned rate, and vectors are not judged."""
    at = np.asarray(steps, np.int64)
    matrices = {RATIO: Matrix(at, ratios.T.astype(np.float32))}
    if known.agreement is not None:
        matrices[AGREEMENT] = Matrix(at, known.agreement.T.astype(np.float32))
    rates = known.known_rates()
    judge = Judge({RATIO: known.band}, names, None if rates is None else (at, rates))
    excess = judge.judge(RATIO, matrices).excess
    assert excess is not None
    return excess.T


def strengths(excess: NDArray[np.floating[Any]], marks: Flags | None = None) -> NDArray[np.float64]:
    """How strongly each cell is coloured: -1, far too small, over 0, pale, to 1, far too large; [rows, columns].

    Faint where no finding at that step says that it does harm: the rules raise no alarm before the loss agrees either.
    """
    full: NDArray[np.float64] = np.sign(excess) * (EDGE + (1 - EDGE) * np.abs(excess))
    return full if marks is None else full * np.where(marks.any(axis=0), 1.0, FAINT)


def shades(strength: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """RGB [..., 3] on the scale."""
    places = (strength + 1) / 2 * (len(SCALE) - 1)
    anchors = np.arange(len(SCALE))
    return np.stack([np.interp(places, anchors, channel) for channel in SCALE.T], axis=-1).astype(np.uint8)


def colours(
    ratios: NDArray[np.floating[Any]],
    excess: NDArray[np.float32] | None = None,
    band: Band = NOTHING.band,
    marks: Flags | None = None,
) -> NDArray[np.uint8]:
    """RGB [rows, columns, 3] of ‖Δθ‖/‖θ‖: pale within limits, blue below, orange above; grey: zero, black: not finite.

    Yellow is within its limits, but a finding concerns it.
    """
    if excess is None:
        settled = np.full(len(ratios), EARLY_STEPS)
        excess = band.excess(settled, np.nan_to_num(ratios, nan=band.high, posinf=band.high).astype(np.float32))
    picture = shades(strengths(np.nan_to_num(excess), marks))
    picture[ratios == 0] = GREY
    if marks is not None:
        picture[marks & (excess == 0)] = MARKED
    picture[~np.isfinite(ratios)] = BLACK
    return picture


def few_colours(picture: Image.Image) -> Image.Image:
    """The picture in a palette of its own colours: one that is made up may turn a rare colour into a frequent one."""
    full, faint = strengths(np.linspace(-1, 1, 121)), FAINT * strengths(np.linspace(-1, 1, 60))
    scale = shades(np.concatenate([full, faint])).tolist()
    ink = [(value, value, value) for value in range(0, 256, 17)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([int(part) for colour in (*scale, *ink, GREY, MARKED, BLACK) for part in colour])
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def draw_heatmap(
    steps: Sequence[int], names: Sequence[str], ratios: NDArray[np.floating[Any]], known: Circumstances = NOTHING
) -> Image.Image:
    """The picture, 620 x 400.

    Args:
        steps: logged steps, [columns].
        names: tensors in model order, [rows].
        ratios: ‖Δθ‖/‖θ‖, [rows, columns].
        known: what they are judged by.
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=12)
    size = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
    fits = len(names) <= size[1] and len(steps) <= size[0]
    resampling = Image.Resampling.NEAREST if fits else Image.Resampling.BOX
    marks = None if known.marks is None else marked(known.marks, np.asarray(steps, np.int64), names).T
    body = colours(ratios, judged(steps, names, ratios, known), marks=marks)
    image.paste(Image.fromarray(body).resize(size, resampling), (LEFT, TOP))
    bad = Image.fromarray((~np.isfinite(ratios)).astype(np.float32)).resize(size, resampling)
    image.paste(BLACK, (LEFT, TOP), Image.fromarray(np.asarray(bad) > 0))  # one among many is not averaged away
    draw.text((8, 6), _title(known), fill="black", font=font)
    _label_rows(draw, font, names, size[1])
    _label_steps(draw, font, steps, size[0])
    _legend(image, draw, font, known)
    return image


def _title(known: Circumstances) -> str:
    relative = " at the planned rate" if known.known_rates() is not None else ""
    return f"update ratio of each tensor{relative}; pale: {known.band.low:.2g} to {known.band.high:.2g}, no finding"


def _label_rows(draw: ImageDraw.ImageDraw, font: Any, names: Sequence[str], height: int) -> None:
    """One label per module, where there is room for it."""
    last_module, last_y = "", -100.0
    for row, name in enumerate(names):
        module = ".".join(name.split(".")[:2])
        y = TOP + row * height / len(names)
        if module != last_module and y - last_y >= 13:
            draw.text((LEFT - 6, y), module[-18:], fill="black", font=font, anchor="ra")
            last_y = y
        last_module = module


def _label_steps(draw: ImageDraw.ImageDraw, font: Any, steps: Sequence[int], width: int) -> None:
    for part, anchor in ((0.0, "la"), (0.5, "ma"), (1.0, "ra")):
        step = steps[round(part * (len(steps) - 1))]
        draw.text((LEFT + part * width, HEIGHT - BOTTOM + 4), str(step), fill="black", font=font, anchor=anchor)


def _legend(image: Image.Image, draw: ImageDraw.ImageDraw, font: Any, known: Circumstances) -> None:
    scale = colours(np.logspace(LOW, HIGH, 150)[None, :], band=known.band)
    top = HEIGHT - 18
    image.paste(Image.fromarray(scale).resize((150, 10)), (LEFT + 26, top))
    draw.text((LEFT + 20, top - 2), "1e-6", fill="black", font=font, anchor="ra")
    draw.text((LEFT + 182, top - 2), "1", fill="black", font=font)
    of_findings = [(LEFT + 382, MARKED, "a finding")] if known.marks else []
    for x, colour, text in ((LEFT + 230, GREY, "zero"), (LEFT + 300, BLACK, "not finite"), *of_findings):
        draw.rectangle((x, top, x + 12, top + 10), fill=colour)
        draw.text((x + 18, top - 2), text, fill="black", font=font)

"""The update ratios of all tensors over the run as one picture: NumPy and Pillow, no plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lightning_adam.diagnosis import RunSignals
from lightning_adam.tensorboard.tab.judged import Judge
from lightning_adam.tensorboard.tab.limits import EARLY_STEPS, bands
from lightning_adam.tensorboard.tab.tiles import Matrix

RATIO = "update_ratio"
LIMITS = bands(RunSignals())[RATIO]
"""What LR-LOW and LR-HIGH leave alone, at a constant rate and β₁ = 0.9: the picture knows neither."""
LOW, HIGH = -6.0, 0.0
BLUE, PALE, RED = np.array([33, 102, 172.0]), np.array([247, 247, 240.0]), np.array([178, 24, 43.0])
"""Ends and middle of ColorBrewer's RdBu, which colour-blind readers can tell apart (Brewer 2003)."""
GREY, BLACK = (205, 205, 205), (0, 0, 0)
"""No step at all, and not finite: black is far from the whole scale for every eye; magenta is blue to a protanope."""
EDGE = 0.3
"""How much of the way to the full colour a cell begins with that is just outside of the limits."""

WIDTH, HEIGHT = 620, 400
LEFT, TOP, RIGHT, BOTTOM = 130, 30, 14, 44


def judged(steps: Sequence[int], names: Sequence[str], ratios: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """How far each cell is outside of the limits, as in the Adam tab: vectors are not judged, first steps by what harms.

    What is not known here is not judged either: the schedule, and whether small steps agree.
    """
    matrix = Matrix(np.asarray(steps, np.int64), ratios.T.astype(np.float32))
    excess = Judge({RATIO: LIMITS}, names).judge(RATIO, {RATIO: matrix}).excess
    assert excess is not None
    return excess.T


def colours(ratios: NDArray[np.floating[Any]], excess: NDArray[np.float32] | None = None) -> NDArray[np.uint8]:
    """RGB [rows, columns, 3] of ‖Δθ‖/‖θ‖: pale within the limits, blue below, red above; grey: zero, black: not finite."""
    if excess is None:
        settled = np.full(len(ratios), EARLY_STEPS)
        excess = LIMITS.excess(settled, np.nan_to_num(ratios, nan=LIMITS.high, posinf=LIMITS.high).astype(np.float32))
    excess = np.nan_to_num(excess)
    share = np.where(excess == 0, 0, EDGE + (1 - EDGE) * np.abs(excess))
    end = np.where((excess < 0)[..., None], BLUE, RED)
    picture: NDArray[np.uint8] = (PALE + (end - PALE) * share[..., None]).astype(np.uint8)
    picture[ratios == 0] = GREY
    picture[~np.isfinite(ratios)] = BLACK
    return picture


def few_colours(picture: Image.Image) -> Image.Image:
    """The picture in a palette of its own colours: one that is made up may turn a rare colour into a frequent one."""
    scale = colours(np.logspace(LOW, HIGH, 180)[None, :])[0].tolist()
    ink = [(value, value, value) for value in range(0, 256, 17)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([int(part) for colour in (*scale, *ink, GREY, BLACK) for part in colour])
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def draw_heatmap(steps: Sequence[int], names: Sequence[str], ratios: NDArray[np.floating[Any]]) -> Image.Image:
    """The picture, 620 x 400.

    Args:
        steps: logged steps, [columns].
        names: tensors in model order, [rows].
        ratios: ‖Δθ‖/‖θ‖, [rows, columns].
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=12)
    size = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
    fits = len(names) <= size[1] and len(steps) <= size[0]
    resampling = Image.Resampling.NEAREST if fits else Image.Resampling.BOX
    body = colours(ratios, judged(steps, names, ratios))
    image.paste(Image.fromarray(body).resize(size, resampling), (LEFT, TOP))
    bad = Image.fromarray((~np.isfinite(ratios)).astype(np.float32)).resize(size, resampling)
    image.paste(BLACK, (LEFT, TOP), Image.fromarray(np.asarray(bad) > 0))  # one among many is not averaged away
    draw.text(
        (8, 6),
        f"update ratio per tensor and step; pale: {LIMITS.low:g} to {LIMITS.high:g}, no finding",
        fill="black",
        font=font,
    )
    _label_rows(draw, font, names, size[1])
    _label_steps(draw, font, steps, size[0])
    _legend(image, draw, font)
    return image


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


def _legend(image: Image.Image, draw: ImageDraw.ImageDraw, font: Any) -> None:
    scale = colours(np.logspace(LOW, HIGH, 150)[None, :])
    top = HEIGHT - 18
    image.paste(Image.fromarray(scale).resize((150, 10)), (LEFT + 26, top))
    draw.text((LEFT + 20, top - 2), "1e-6", fill="black", font=font, anchor="ra")
    draw.text((LEFT + 182, top - 2), "1", fill="black", font=font)
    for x, colour, text in ((LEFT + 230, GREY, "zero"), (LEFT + 300, BLACK, "not finite")):
        draw.rectangle((x, top, x + 12, top + 10), fill=colour)
        draw.text((x + 18, top - 2), text, fill="black", font=font)

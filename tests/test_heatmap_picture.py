"""The heatmap's picture, and its colours: as the Adam tab draws it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_adam.diagnosis import Finding
from lightning_adam.monitoring.heatmap import Heatmap
from lightning_adam.sinks import tensorboard
from lightning_adam.sinks.pictures import picture_of
from lightning_adam.statistics import COLUMNS, LOG10_EDGES, Snapshot
from lightning_adam.tensorboard.heatmap import (
    BLACK,
    BOTTOM,
    HEIGHT,
    LEFT,
    MARKED,
    PALE,
    RIGHT,
    SCALE,
    TOP,
    WIDTH,
    Circumstances,
    colours,
    draw_heatmap,
    few_colours,
)
from lightning_adam.tensorboard.heatmap import (
    judged as judged_picture,
)
from lightning_adam.tensorboard.tab.marks import Mark, marked, marks_of
from lightning_adam.tensorboard.tab.plugin import STATIC
from tests import tab_runs

NAMES = ["body.weight", "body.bias"]
STEPS = np.arange(40, 140, 10)


def test_picture_of_the_heatmap_never_shows_a_healthy_cell_in_the_colour_of_what_is_not_finite() -> None:
    """One NaN among thousands of healthy cells: its colour and the legend's swatch are the same, and nowhere else."""
    ratios = np.full((40, 100), 2e-3)
    ratios[7, 50] = np.nan
    drawn = np.asarray(few_colours(draw_heatmap(range(100), [f"m{i}.weight" for i in range(40)], ratios)).convert("RGB"))
    rows, columns = np.nonzero((drawn[TOP : HEIGHT - BOTTOM, LEFT : WIDTH - RIGHT] == BLACK).all(axis=-1))

    assert (drawn[TOP + 200, LEFT + 100] == PALE.astype(int)).all()
    assert (drawn[HEIGHT - 13, LEFT + 306] == BLACK).all()
    assert 0 < len(rows) <= 9 * 6
    assert set(((rows + 0.5) * 40 / (HEIGHT - TOP - BOTTOM)).astype(int)) == {7}
    assert set(((columns + 0.5) * 100 / (WIDTH - LEFT - RIGHT)).astype(int)) == {50}


def test_one_cell_that_is_not_finite_is_seen_among_more_steps_than_pixels() -> None:
    ratios = np.full((3, 5000), 2e-3)
    ratios[1, 2500] = np.inf
    drawn = np.asarray(draw_heatmap(range(5000), ["a.weight", "b.weight", "c.weight"], ratios))

    assert (drawn[TOP : HEIGHT - BOTTOM, LEFT : WIDTH - RIGHT] == BLACK).all(axis=-1).any()


def snapshot(step: int, ratio: float, rate: float, agreement: float) -> Snapshot:
    """Of one weight matrix and one bias."""
    table = np.full((2, len(COLUMNS)), 1e-2, np.float32)
    table[:, COLUMNS.index("update_ratio")], table[:, COLUMNS.index("signal_to_noise")] = ratio, agreement
    counts = np.zeros(len(LOG10_EDGES) - 1, dtype=np.int64)
    return Snapshot(step, NAMES, ["all"] * 2, [1] * 2, {"all": rate}, table, counts, counts)


RUNS = {
    "decays with its rate": ([(2e-3 * 0.4**i, 1e-3 * 0.4**i, 0.9) for i in range(10)], 0.9, [0] * 10),
    "stays while its rate decays": ([(2e-3, 1e-3 * 0.2**i, 0.9) for i in range(10)], 0.9, [0] * 2 + [1] * 8),
    "small steps that agree": ([(1e-5, 1e-3, 0.9)] * 10, 0.9, [-1] * 10),
    "small steps that are noise": ([(1e-5, 1e-3, 0.1)] * 10, 0.9, [0] * 10),
    "no momentum": ([(0.1, 1e-3, 0.9)] * 10, 0.0, [0] * 10),
    "momentum": ([(0.1, 1e-3, 0.9)] * 10, 0.9, [1] * 10),
}
"""Ratio, rate and agreement of each step, β₁, and on which side of its limits the weight matrix is drawn."""


@pytest.mark.parametrize("name", RUNS)
def test_picture_of_the_heatmap_judges_as_the_tab_does(name: str) -> None:
    """At the planned rate, by the optimizer's own limits, and after a checkpoint as before."""
    steps, beta1, sides = RUNS[name]
    heatmap = Heatmap()
    heatmap.beta1 = beta1
    for at, (ratio, rate, agreement) in zip(STEPS.tolist(), steps, strict=True):
        heatmap.add(snapshot(at, ratio, rate, agreement))
    resumed = Heatmap.restore(heatmap.state_dict())
    known = Circumstances(beta1, resumed.rates, resumed.agreement())

    assert np.sign(judged_picture(resumed.steps, NAMES, resumed.matrix(), known)[0]).tolist() == sides


def test_heatmap_of_a_version_that_kept_no_rates_is_judged_as_it_was() -> None:
    """Its columns count as of the first rate that is known."""
    heatmap = Heatmap()
    heatmap.add(snapshot(100, 0.1, 1e-3, 0.9))
    old = {name: value for name, value in heatmap.state_dict().items() if name not in ("rates", "agreement")}
    resumed = Heatmap.restore(old)
    resumed.add(snapshot(110, 0.1, 1e-3, 0.9))
    known = Circumstances(0.9, resumed.rates, resumed.agreement())

    assert (judged_picture(resumed.steps, NAMES, resumed.matrix(), known)[0] > 0).all()


def test_picture_of_the_heatmap_has_the_colours_of_the_tab() -> None:
    text = (STATIC / "colours.js").read_text()
    scale = re.findall(r"'(\w{6})'", re.search(r"light: \[('[^\]]*)\]", text)[1])

    assert [[int(colour[i : i + 2], 16) for i in (0, 2, 4)] for colour in scale] == SCALE.tolist()
    assert json.loads(re.search(r"light: {.*marked: (\[.*?\])", text)[1]) == list(MARKED)


WARNED = Finding("LR-HIGH", "warning", 60, "large steps", parameters=("body.bias",), last_step=75)
SUSPECTED = replace(WARNED, severity="info", step=40, last_step=200)


def test_a_finding_marks_its_tensors_from_its_first_step_to_its_last_and_all_where_it_names_none_here() -> None:
    """A column reaches half-way to its neighbours: that of step 80 begins at 75. What is ``info`` marks nothing."""
    own = marked(marks_of([WARNED, SUSPECTED]), STEPS, NAMES)
    all_of_them = marked(marks_of([replace(WARNED, parameters=("elsewhere.weight",))]), STEPS, NAMES)

    assert [name for name, flags in zip(NAMES, own.T, strict=True) if flags.any()] == ["body.bias"]
    assert STEPS[own[:, 1]].tolist() == [60, 70, 80]
    np.testing.assert_array_equal(all_of_them, own[:, [1, 1]])
    assert marked([], np.array([], np.int64), NAMES).shape == (0, 2)


def test_picture_of_the_heatmap_is_faint_without_a_finding_and_yellow_where_one_concerns_a_pale_cell() -> None:
    """As the tab: large steps of the weight, the finding is on the bias; nobody who watches, and all of it is in full."""
    ratios = np.array([[0.5] * 10, [1e-3] * 10])
    excess = judged_picture(STEPS.tolist(), NAMES, ratios)
    flags = marked([Mark(60, 75, ("body.bias",))], STEPS, NAMES).T
    drawn, unwatched = (colours(ratios, excess, marks=marks).astype(int) for marks in (flags, None))
    told = [*STEPS].index(60)

    np.testing.assert_array_equal(drawn[0, told], unwatched[0, told])
    assert (np.abs(drawn[0, 0] - PALE) <= 0.6 * np.abs(drawn[0, told] - PALE)).all()
    assert (drawn[0, 0] != PALE.astype(int)).any()
    assert [tuple(cell) == MARKED for cell in drawn[1]] == flags[1].tolist()
    assert (unwatched[1] == PALE.astype(int)).all()


def test_last_picture_of_a_watched_run_is_drawn_with_all_its_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digits whose loss is NaN at step 15; where nobody watches, no finding is missed, and the colours are full."""
    seen: list[list[str] | None] = []

    def noting(heatmap: Heatmap) -> Image.Image:
        seen.append(None if heatmap.findings is None else [finding.rule for finding in heatmap.findings])
        return picture_of(heatmap)

    monkeypatch.setattr(tensorboard, "picture_of", noting)
    last = [seen[-1] for is_watched in (True, False) if tab_runs.train(tmp_path, str(is_watched), is_watched)]

    assert last == [["NON-FINITE"], None]


DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""On linear RGB: Machado, Oliveira and Fernandes (2009), table 1, severity 1.0."""


def lightness(colours: list[list[int]], deficiency: str) -> np.ndarray:
    """Relative luminance (WCAG 2.1) as an eye with this deficiency sees it."""
    share = np.array(colours) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return np.clip(linear @ np.array(DEFICIENCIES[deficiency]).T, 0, 1) @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_not_finite_is_darker_than_every_colour_of_the_scale_for_every_eye(theme: str, deficiency: str) -> None:
    text = (STATIC / "colours.js").read_text()
    scale = re.findall(r"'(\w{6})'", re.search(rf"{theme}: \[('[^\]]*)\]", text)[1])
    (not_finite,) = lightness([json.loads(re.search(r"NOT_FINITE = (\[.*?\])", text)[1])], deficiency)
    darkest = lightness([[int(colour[i : i + 2], 16) for i in (0, 2, 4)] for colour in scale], deficiency).min()

    assert (darkest + 0.05) / (not_finite + 0.05) > 1.5


def test_picture_of_the_heatmap_minds_neither_a_bias_nor_the_usual_first_steps() -> None:
    steps, names = [0, 10, 100], ["a.weight", "a.bias"]
    ratios = np.array([[0.1, 0.1, 0.1], [0.5, 0.5, 0.5]])
    assert (judged_picture(steps, names, ratios) > 0).tolist() == [[False, False, True], [False, False, False]]

"""What the Adam tab leaves pale, and what it colours."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard import context
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from torch.utils.tensorboard import SummaryWriter

from lightning_adam.diagnosis import Finding, RunSignals
from lightning_adam.diagnosis.finding import findings_table
from lightning_adam.monitoring.heatmap import Heatmap
from lightning_adam.sinks import tensorboard
from lightning_adam.sinks.pictures import picture_of
from lightning_adam.statistics import COLUMNS, LOG10_EDGES, Snapshot
from lightning_adam.tensorboard import TensorBoardWriter
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
from lightning_adam.tensorboard.tab import series
from lightning_adam.tensorboard.tab.condition import condition
from lightning_adam.tensorboard.tab.findings import spans
from lightning_adam.tensorboard.tab.judged import GRADIENT, OVERVIEW, Judge
from lightning_adam.tensorboard.tab.limits import bands, planned_share
from lightning_adam.tensorboard.tab.marks import Mark, marked, marks_of
from lightning_adam.tensorboard.tab.overview import Overviews, losses
from lightning_adam.tensorboard.tab.plugin import STATIC
from lightning_adam.tensorboard.tab.series import SeriesReader
from lightning_adam.tensorboard.tab.tiles import Matrix
from tests import tab_runs
from tests.benchmarks.divergence.healthy import HEALTHY
from tests.benchmarks.divergence.sick import SICK
from tests.benchmarks.tab_colours import record, separation, shares
from tests.tab_runs import FINDING

ADAM = RunSignals(optimizer="AdamW", beta1=0.9, beta2=0.999, plain_moments=True)
NAMES = ["body.weight", "body.bias"]
STEPS = np.arange(40, 140, 10)


def judged(values: list[float], rates: list[float] | None = None, quantity: str = "update_ratio") -> list[float]:
    """Excess of the weight matrix at ten steps; all steps agree, so that small ones are minded, too."""
    columns = np.array([values, values], np.float32).T
    matrices = {quantity: Matrix(STEPS, columns), "signal_to_noise": Matrix(STEPS, np.ones_like(columns))}
    matrices[GRADIENT] = matrices.get(GRADIENT, Matrix(STEPS, np.ones_like(columns)))
    logged = None if rates is None else (STEPS, np.array(rates))
    found = Judge(bands(ADAM), NAMES, logged).judge(quantity, matrices).excess
    assert found is not None
    return [float(value) for value in found[:, 0]]


@pytest.mark.parametrize(("ratio", "side"), [(1.4e-4, -1), (1.6e-4, 0), (2e-3, 0), (0.029, 0), (0.031, 1), (0.99, 1)])
def test_band_of_the_update_ratio_is_that_of_lr_low_and_lr_high(ratio: float, side: int) -> None:
    """0.015 % to 3 %, as the rules have it; the farther outside, the stronger the colour."""
    assert {math.copysign(1, e) if e else 0 for e in judged([ratio] * 10)} == {side}


def test_band_widens_where_a_smaller_beta1_makes_steps_larger() -> None:
    """The limit scales with the noise floor √((1-β₁)/(1+β₁)): 4.36 times that of 0.9 without momentum."""
    wide = bands(replace(ADAM, beta1=0.0))["update_ratio"].high

    assert wide / bands(ADAM)["update_ratio"].high == pytest.approx(math.sqrt(0.1 / 1.9) ** -1)


def test_decay_of_the_schedule_is_divided_out_and_a_warmup_is_not() -> None:
    """A ratio that falls with its rate stays pale to the end; one that stays while the rate falls does not."""
    rates = [1e-3 * 0.4**i for i in range(10)]

    assert judged([2e-3 * 0.4**i for i in range(10)], rates) == [0] * 10
    assert judged([2e-3] * 10, rates)[-1] > 0
    np.testing.assert_allclose(planned_share(np.array([1.0, 2.0, 4.0, 2.0, 0.0])), [1, 1, 1, 0.5, math.nan])


def test_small_steps_that_disagree_are_noise() -> None:
    """LR-LOW only minds them where they point the same way."""
    small, noise = np.full((10, 2), 1e-5, np.float32), np.full((10, 2), 0.1, np.float32)
    matrices = {"update_ratio": Matrix(STEPS, small), "signal_to_noise": Matrix(STEPS, noise)}
    found = Judge(bands(ADAM), NAMES).judge("update_ratio", matrices).excess

    assert found is not None and not found.any()


def test_biases_and_what_began_at_zero_are_not_judged_by_their_ratio() -> None:
    """They move by any share of their norm; a head that began at zero is all step."""
    values = np.full((10, 2), 0.5, np.float32)
    values[0, 0] = 1.0
    found = Judge(bands(ADAM), NAMES).judge("update_ratio", {"update_ratio": Matrix(STEPS, values)}).excess

    assert found is not None and not found.any()


def test_gradient_of_twenty_times_its_usual_size_and_none_at_all_are_coloured() -> None:
    """As BAD-BATCH and DEAD-PARAMETER have it; before four logged steps nothing is usual."""
    found = judged([1, 1, 1, 1, 1, 19, 21, 1, 0, math.nan], quantity=GRADIENT)

    assert found[:6] == [0] * 6 and found[6] > 0 and found[7:9] == [0, -1] and math.isnan(found[9])


def test_overview_shows_of_each_cell_what_is_farthest_outside() -> None:
    """Its value, how far, and which quantity it is."""
    usual = {name: Matrix(STEPS, np.full((10, 2), 1e-2, np.float32)) for name in bands(ADAM)}
    usual["eps_dominated"].values[4, 0] = 0.9
    overview = Judge(bands(ADAM), NAMES).judge(OVERVIEW, usual)

    assert overview.excess is not None and overview.worst is not None
    assert np.argwhere(overview.excess).tolist() == [[4, 0]]
    assert overview.values[4, 0] == pytest.approx(0.9)
    assert list(bands(ADAM))[int(overview.worst[4, 0])] == "eps_dominated"


def test_sick_runs_are_coloured_and_healthy_ones_are_pale(tmp_path: Path) -> None:
    """Four short runs of the benchmark; ``python -m tests.benchmarks.tab_colours`` has the figures of all."""
    known = {s.name: s for s in (*HEALTHY, *SICK)}
    names = ("digits", "digits-cosine-torch", "lr-high-digits", "eps-high-digits")
    found = [shares(record(replace(known[name], steps=60), 0, tmp_path)).full for name in names]

    assert max(found[:2]) < 0.05 < 0.2 < min(found[2:])
    assert separation(found[:2], found[2:]) == 1.0


def reader(folder: Path) -> tuple[SeriesReader, context.RequestContext]:
    """What the tab reads with, over TensorBoard's Python loader."""
    events = plugin_event_multiplexer.EventMultiplexer(size_guidance={"scalars": 0, "tensors": 0})
    events.AddRunsFromDirectory(str(folder))
    events.Reload()
    provider = data_provider.MultiplexerDataProvider(events, str(folder))
    return SeriesReader(provider, {"scalars": 0, "lightning_adam": 0}), context.RequestContext()


def write(folder: Path, steps: range, loss: float, finding: int | None) -> None:
    """A part of a run, in a file of its own.

    TensorBoard reads files in the order of their names, and two of one second by a number that is compared as text: here
    they are a second apart, as those of a run that is resumed.
    """
    before = {*folder.glob("events*")}
    with SummaryWriter(str(folder), filename_suffix=f".{steps[0]}") as files:
        for step in steps:
            files.add_scalar("train_loss", loss, step)
            files.add_scalar("adam/log10_lr", -3.0, step)
            if step == finding:
                TensorBoardWriter(files).write_events(step, [{**FINDING, "step": step}])
    (written,) = {*folder.glob("events*")} - before
    written.rename(folder / f"events.out.tfevents.{1_700_000_000 + len(before)}.host")


def test_long_run_is_sketched_from_some_of_its_steps_until_it_has_been_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first picture has each sketched step as the whole has it; a run that is shorter than a sketch needs none."""
    monkeypatch.setattr(series, "SKETCHED_CELLS", 20 * len(tab_runs.NAMES))
    for name, steps in (("long", 200), ("short", 15)):
        tab_runs.write(tmp_path / name, range(steps), finding=False)
    data, where = reader(tmp_path)
    asked = ("long", "adam", OVERVIEW, True)
    sketch, whole, again = (data.judged(where, "", *asked, sketch=few) for few in (True, False, True))

    assert (sketch.sketch, whole.sketch, again.sketch) == (True, False, False)
    assert (len(sketch.matrix.steps), len(whole.matrix.steps)) == (20, 200)
    assert sketch.matrix.steps[-1] == 199
    np.testing.assert_array_equal(sketch.matrix.values, whole.matrix.at(sketch.matrix.steps).values)
    assert not data.judged(where, "", "short", "adam", OVERVIEW, True, sketch=True).sketch


@pytest.mark.parametrize(("again", "left"), [(30, []), (33, []), (36, [33])])
def test_resumed_run_shows_one_line_and_only_what_it_did_not_do_again(tmp_path: Path, again: int, left: list[int]) -> None:
    """A finding at step 33 is void where the run went back before it or to it; what was written over is kept apart."""
    write(tmp_path / "run", range(40), 9.0, finding=33)
    write(tmp_path / "run", range(again, 50), 1.0, finding=None)
    series, asking = reader(tmp_path)
    steps, values = series.scalars(asking, "", "run", ["train_loss"])["train_loss"]
    lost = series.scalars(asking, "", "run", ["train_loss"], overwritten=True)["train_loss"]

    assert steps == [*range(50)] and values == [9.0] * again + [1.0] * (50 - again)
    assert lost == [[*range(again, 40)], [9.0] * (40 - again)]
    assert [f["step"] for f in series.findings(asking, "", "run", "adam")] == left


def test_line_of_a_run_tells_its_gravest_finding_and_its_last_loss(tmp_path: Path) -> None:
    """A warning outweighs the advice before it."""
    write(tmp_path / "run", range(40), 2.5, finding=7)
    with SummaryWriter(str(tmp_path / "run"), filename_suffix=".more") as files:
        TensorBoardWriter(files).write_events(40, [{**FINDING, "step": 40, "severity": "critical", "rule": "NON-FINITE"}])
    (line,) = Overviews().lines(*reader(tmp_path), "")

    assert (line.rule, line.severity, line.step, line.findings) == ("NON-FINITE", "critical", 40, 2)
    assert (line.loss, line.loss_tag, line.steps, line.state) == (2.5, "train_loss", 40, "running")
    assert line.settings["lr"] == "0.001"


LASTS, IS_OVER = FINDING | {"over": False}, FINDING | {"over": True}


@pytest.mark.parametrize(
    ("told", "logged", "word"),
    [
        ([], [2.3, 0.4], ""),
        ([LASTS | {"severity": "info"}], [2.3, 0.4], ""),
        ([LASTS], [2.3, 1.9], "sick"),
        ([LASTS], [], "sick"),
        ([LASTS], [2.3, 4.0], "diverged"),
        ([LASTS], [-2.3, -1.0], "sick"),
        ([LASTS | {"rule": "LOSS-DIVERGED"}], [2.3, 1.9], "diverged"),
        ([IS_OVER], [2.3, 0.4], "was sick"),
        ([IS_OVER], [2.3, 2.2], "sick"),
        ([IS_OVER | {"rule": "LOSS-DIVERGED"}], [2.3, 0.4], "was sick"),
        ([IS_OVER | {"rule": "NON-FINITE"}], [2.3, 0.4], "sick"),
        ([IS_OVER | {"rule": "NON-FINITE"}], [], "diverged"),
        ([], [2.3, math.nan], "diverged"),
    ],
)
def test_a_run_that_diverged_is_called_so(told: list[dict[str, Any]], logged: list[float], word: str) -> None:
    """Whether it has ended or not: a damage of the first steps is past only where the loss has fallen since."""
    assert condition(told, logged) == word


def test_what_is_over_is_known_from_the_table_of_findings() -> None:
    """The event was written when it began."""
    found = Finding("LR-HIGH", "warning", 3, "large steps", last_step=9)
    rows = [
        found,
        replace(found, rule="BAD-BATCH", over=True),
        replace(found, rule="EPS-HIGH", optimizer="adam-1", over=True),
    ]

    assert spans(findings_table(rows)) == {
        ("LR-HIGH", 3): (9, False),
        ("BAD-BATCH", 3): (9, True),
        ("EPS-HIGH", 3): (9, True),
    }


def test_a_suspicion_that_the_loss_confirmed_is_one_finding(tmp_path: Path) -> None:
    """Told as information at its step, and as a warning of the same step later: the page shows the warning."""
    with SummaryWriter(str(tmp_path / "run")) as files:
        for at, severity in ((0, "info"), (40, "warning")):
            TensorBoardWriter(files).write_events(at, [{**FINDING, "step": 0, "severity": severity}])
    found, where = reader(tmp_path)

    assert [(f["rule"], f["severity"]) for f in found.findings(where, "", "run", "adam")] == [("LR-HIGH", "warning")]


def test_a_finding_that_a_long_table_leaves_out_is_still_shown(tmp_path: Path) -> None:
    """Of a hundred the table has the first and the last ones; what a whole table lacks was another finding."""
    for run, count, left in (("many", 100, 100), ("few", 9, 8)):
        told = [Finding("LR-HIGH", "warning", step, "large steps") for step in range(count)]
        with SummaryWriter(str(tmp_path / run)) as files:
            writer = TensorBoardWriter(files)
            for found in told:
                writer.write_events(found.step, [found.to_dict()])
            writer.write_text("adam/findings", findings_table(told if run == "many" else told[1:]), count)
        data, where = reader(tmp_path)
        assert len(data.findings(where, "", run, "adam")) == left


def test_training_loss_is_known_by_its_name() -> None:
    """The surest name first; what cannot be one is left out."""
    assert losses(["val_loss", "epoch", "adam/log10_lr", "lr-Adam", "accuracy", "train_loss"])[:2] == [
        "train_loss",
        "val_loss",
    ]


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

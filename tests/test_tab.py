"""The Adam tab, in a real TensorBoard and a real Chromium."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from lightning_adam.statistics import COLUMNS
from tests import tab_runs
from tests.tab_browser import Tab, get, parse, tensorboard
from tests.tab_fixtures import OURS, STEPS
from tests.tab_runs import ELEMENTS, EVIL, FINDING, NAMES, table


def test_wrong_request_gets_a_sentence(server: SimpleNamespace) -> None:
    """A missing argument, a run or row that is not there: an answer, never a traceback."""
    with pytest.raises(HTTPError) as error:
        get(server, "run")

    assert error.value.code == 400
    assert "error" in json.load(error.value)
    assert get(server, "run?run=nowhere")["optimizers"] == []
    assert get(server, "rows?run=known&prefix=adam&row=999&quantity=update_ratio&quantity=nothing") == {}
    assert get(server, "scalars?run=known&tag=nothing") == {}


def test_tab_draws_a_trained_run(server: SimpleNamespace, opened: Callable[..., Tab], logdir: Path) -> None:
    """Real training, read live from its event file: hover shows the number that the file holds."""
    tab = opened(server, run="trained", quantity="update_ratio", rate="plain")
    stored = (
        EventAccumulator(str(logdir / "trained"), size_guidance={"tensors": 0}).Reload().Tensors("adam_matrix/update_ratio")
    )
    names = get(server, "run?run=trained")["optimizers"][0]["names"]
    at = {e.step: float(tensor_util.make_ndarray(e.tensor_proto)[names.index("net.2.weight")]) for e in stored}

    text = tab.hover(7, "net.2.weight")

    assert float(text.split()[0]) == pytest.approx(at[7], rel=5e-4)
    assert "step 7" in text and "net.2.weight" in text
    assert tab.frame.locator(".mark").count() >= 1


def test_click_on_a_finding_tells_it(server: SimpleNamespace, opened: Callable[..., Tab]) -> None:
    """Message, evidence and remedy; what comes from the file is text, never markup."""
    tab = opened(server, run="known")
    tab.frame.get_by_label("warning: LR-HIGH at step 60").click()
    text = tab.frame.locator(".finding-detail").inner_text()

    assert str(FINDING["message"]) in text
    assert str(FINDING["remedy"]) in text
    assert EVIL in text and "0.25" in text and "NaN" in text
    assert tab.frame.locator("script").count() == 1  # TensorBoard's own
    assert tab.frame.title() != "broken"
    tab.frame.locator(".chip").click()
    assert tab.frame.get_by_label("tensor", exact=True).evaluate("s => s.selectedOptions[0].textContent") == EVIL


def test_bad_input_never_gives_a_blank_page(server: SimpleNamespace, opened: Callable[..., Tab]) -> None:
    """NaN, infinity, zeros, one step, none, a cut file, contents that are not ours: each run opens and says what it has."""
    tab = opened(server, run="known", quantity="update_ratio")
    for run, status in {
        "bad-numbers": "11 tensors, last step 190",
        "one-step": "11 tensors, last step 7",
        "no-step": "no-step has no tensors to show: OptimizerMonitor was not attached, or has not logged a step yet",
        "truncated": "11 tensors, last step 80",
        "nonsense": "4 tensors, last step 3",
    }.items():
        tab.choose("run", run)
        assert tab.frame.locator(".status").inner_text() == status
        assert tab.frame.locator(".banner").is_hidden(), tab.frame.locator(".banner").inner_text()
    tab.choose("run", "bad-numbers")
    assert tab.frame.locator(".special").all_inner_texts() == ["not finite", "no value"]
    assert "+Inf" in tab.hover(100, "blocks.0.a.weight")
    assert "NaN at every step" in tab.hover(100, "embed.weight")


def test_all_runs_come_first_and_a_click_opens_one(server: SimpleNamespace, opened: Callable[..., Tab]) -> None:
    """The sickest first and called so; what differs is marked; the way back is there, and the search finds what is asked."""
    tab = opened(server)
    lines = [" ".join(text.split()) for text in tab.frame.locator("table.runs tbody tr").all_inner_texts()]
    places = {line.split()[0]: line for line in lines}
    order = [list(places).index(name) for name in ("trained", "known", "one-step")]

    assert set(places) == OURS and tab.frame.locator("main").is_hidden()
    assert order == sorted(order) and "NON-FINITE" in places["trained"] and "LR-HIGH step 60" in places["known"]
    assert "✗ diverged, " in places["trained"] and "▲ sick, " in places["known"] and "✓" not in places["trained"]
    assert tab.frame.locator("tr", has_text="one-step").locator(".differs", has_text="0.3").count() == 1
    tab.frame.get_by_placeholder("search runs").fill("lr-high lr=0.001")
    tab.frame.get_by_text("4 of 8 runs").wait_for()
    tab.frame.get_by_role("button", name="known", exact=True).press("Enter")
    tab.settle()
    assert tab.frame.locator(".status").inner_text() == "11 tensors, last step 190"
    assert "p.lightning_adam.run=known" in tab.page.url
    tab.page.go_back()
    tab.frame.locator("table.runs").wait_for(state="visible")


def test_what_is_outside_of_its_limits_is_faint_where_no_finding_says_that_it_does_harm(
    server: SimpleNamespace, opened: Callable[..., Tab]
) -> None:
    """As the rules raise no alarm before the loss agrees; what is not finite is black whatever they say."""
    told = opened(server, run="known").frame.evaluate(
        """async () => {
            const load = (name) => import(`${location.origin}/data/plugin/lightning_adam/static/${name}.js`);
            const [{marks, markedColumns}, {ColourScale}] = await Promise.all(['marks', 'scale'].map(load));
            const findings = [
                {severity: 'warning', step: 12, last_step: 15, parameters: ['b', 'elsewhere']},
                {severity: 'info', step: 0, last_step: 30, parameters: []},
            ];
            const found = marks([[0, 10], [10, 20], [20, 30]], findings, ['a', 'b']);
            const scale = new ColourScale({name: 'update_ratio', log: true}, true, {}, false);
            const yellow = scale.specialPixels.marked;
            const red = (excess, minded) => scale.pixel(1, excess, minded) & 255;
            const blue = (excess, minded) => (scale.pixel(1, excess, minded) >> 16) & 255;
            return {
                minded: [...markedColumns(found, 3)],
                marked: [[0], [1], [0, 1]].map((rows) => [...markedColumns(found, 3, rows)]),
                yellow: [[1, 0], [1, 0.5], [1, NaN], [NaN, 0]].map((at) => scale.pixel(...at, 1, 1) === yellow),
                over: [blue(0, 1), blue(1, 0), blue(0.1, 1), blue(1, 1)],
                under: [red(0, 1), red(-1, 0), red(-0.1, 1), red(-1, 1)],
                broken: [scale.pixel(NaN, NaN, 1), scale.pixel(NaN, NaN, 0)],
            };
        }"""
    )

    assert told["minded"] == [0, 1, 0]
    assert told["marked"] == [[0, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert told["yellow"] == [True, False, False, False]
    assert told["over"] == sorted(told["over"], reverse=True) and told["over"][1] > told["over"][2] + 5
    assert told["under"] == sorted(told["under"], reverse=True)
    assert told["broken"][0] == told["broken"][1] == 0xFF000000


def test_finding_is_drawn_around_its_tensor_from_its_step_on(server: SimpleNamespace, opened: Callable[..., Tab]) -> None:
    """The outline has the severity's colour, at the finding's step and row only."""
    tab = opened(server, run="known")
    shot = (
        "a => {const c = document.querySelector('.heat canvas.plot'), r = devicePixelRatio, b = c.getBoundingClientRect();"
    )
    shot += "const g = c.getContext('2d').getImageData((a[0] - b.x) * r - 8, (a[1] - b.y) * r - 12, 16, 24).data;"
    shot += "const w = [138, 82, 0]; let n = 0; for (let i = 0; i < g.length; i += 4)"
    shot += " n += w.every((v, k) => Math.abs(g[i + k] - v) < 3); return n}"

    assert tab.frame.evaluate(shot, list(tab.heat(60, EVIL))) > 20
    assert tab.frame.evaluate(shot, list(tab.heat(60, "embed.weight"))) < 20  # the finding's vertical line passes
    assert tab.frame.evaluate(shot, list(tab.heat(120, EVIL))) == 0


def test_spread_of_a_tensor_tells_whether_its_steps_have_heavy_tails(
    server: SimpleNamespace, opened: Callable[..., Tab]
) -> None:
    """Samples of known distributions are told apart by their largest value; the numbers below are the file's."""
    tab = opened(server, run="known", tensor="embed.weight", step="60")
    rng = np.random.default_rng(0)
    samples = [draw(size=ELEMENTS) for draw in (rng.uniform, rng.normal, lambda size: rng.standard_t(2, size))]
    ratios = [float(np.abs(sample).max() / np.sqrt(np.mean(sample**2))) for sample in samples]
    script = "async ([url, ratios, n]) => { const {tails} = await import(url); return ratios.map((r) => tails(r, n)); }"
    told = tab.frame.evaluate(script, [f"{server.url}/data/plugin/lightning_adam/static/spread.js", ratios, ELEMENTS])
    logged = table(60)[NAMES.index("embed.weight")]
    rms, largest = (float(logged[COLUMNS.index(f"step_size_{what}")]) for what in ("rms", "max"))

    assert [text.partition(" (")[0] for text in told] == ["no heavy tails", "no heavy tails", "heavy tails"]
    shown = tab.frame.locator(".spread").inner_text()
    assert "step 60" in shown and f"The largest step is {largest / rms:.3g} × rms: no heavy tails (of 65,536" in shown
    assert f"rms {rms * 1e3:.3g}e-3, largest {largest * 1e3:.3g}e-3" in shown


def test_numbers_and_picture_of_the_heatmap_can_be_saved(server: SimpleNamespace, opened: Callable[..., Tab]) -> None:
    """The CSV holds the file's numbers; the PNG is as wide as the card, and in colour."""
    tab = opened(server, run="known", quantity="update_ratio", rate="plain")
    with tab.page.expect_download() as saved:
        tab.frame.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(Path(saved.value.path()).read_text().splitlines()))
    at = next(row for row in rows if row["tensor"] == NAMES[3] and row["first_step"] == "70")
    assert len(rows) == len(NAMES) * len(STEPS)
    assert float(at["update_ratio"]) == pytest.approx(tab_runs.update_ratio(STEPS, NAMES[3], 70), rel=1e-6)
    with tab.page.expect_download() as saved:
        tab.frame.get_by_role("button", name="PNG").last.click()
    picture = Image.open(saved.value.path()).convert("RGB")

    assert picture.width == pytest.approx(tab.frame.locator("section.card").nth(2).bounding_box()["width"], abs=1)
    assert len(set(picture.getdata())) > 50


def test_a_finding_unfolds_into_its_explanation(server: SimpleNamespace, opened: Callable[..., Tab]) -> None:
    """The same text as `lightning-adam explain`; it is asked for only when it is wanted."""
    tab = opened(server, run="known")
    tab.frame.get_by_label("warning: LR-HIGH at step 60").click()
    assert not any("explanation" in url for url in tab.requests)
    tab.frame.get_by_text("What LR-HIGH means").click()
    tab.frame.get_by_role("heading", name="What to do, in order").wait_for()
    assert "Measured error rates" in tab.frame.locator(".about-code").inner_text()


def test_the_report_of_a_run_can_be_saved(server: SimpleNamespace, opened: Callable[..., Tab]) -> None:
    """The doctor's page, with the curves of what was trained."""
    tab = opened(server, run="trained")
    with tab.page.expect_download() as saved:
        tab.frame.get_by_role("button", name="Report").click()
    page = Path(saved.value.path()).read_text()
    assert saved.value.suggested_filename == "trained-report.html"
    assert "lightning-adam doctor" in page and "NON-FINITE" in page and "<polyline" in page


def test_two_runs_and_their_difference(server: SimpleNamespace, opened: Callable[..., Tab]) -> None:
    """Both heatmaps on one step axis, or the first over the second: a run against its equal shows a factor of one."""
    tab = opened(server, run="known", other="truncated", quantity="update_ratio")
    assert tab.frame.locator(".heat:visible").count() == 2
    tab.frame.get_by_role("button", name="Difference").click()
    tab.settle()

    assert tab.frame.locator(".heat:visible").count() == 1
    assert tab.hover(40, "blocks.2.c.bias").startswith("×1 ")
    assert "not logged" in tab.hover(150, "blocks.2.c.bias")
    tab.choose("run", "truncated")
    others = tab.frame.get_by_label("run to compare with").locator("option").all_inner_texts()
    assert others == ["no other run", *sorted(OURS - {"truncated"})]


def test_empty_folder_says_what_to_do_and_fills_by_itself(browser: Any, opened: Callable[..., Tab], tmp_path: Path) -> None:
    """With the Python loader and a path prefix: an empty state, then the run that starts, then the steps that it adds."""
    (tmp_path / "runs").mkdir()
    with tensorboard(tmp_path / "runs", "--load_fast=false", "--path_prefix=/some/where", "--reload_interval=1") as server:
        tab = opened(server)
        empty = tab.frame.locator(".empty").inner_text()
        assert "OptimizerMonitor()" in empty and "lightning-adam demo" in empty
        steps = range(0, 900, 10)
        tab_runs.write(tmp_path / "runs" / "live", steps)
        tab.frame.locator("main").wait_for(state="visible", timeout=20_000)
        tab.settle()

        assert tab.frame.locator(".status").inner_text() == "11 tensors, last step 890"
        assert len(
            parse(
                urlopen(f"{server.url}/data/plugin/lightning_adam/matrix?run=live&prefix=adam&quantity=update_ratio").read()
            )[0]["first"]
        ) == len(steps)
        tab.choose("quantity", "update_ratio")
        tab.frame.get_by_label("relative to the planned rate").uncheck()
        tab.settle()
        written = tab_runs.update_ratio(steps, "blocks.1.a.weight", 300)
        assert float(tab.hover(300, "blocks.1.a.weight").split()[0]) == pytest.approx(written, rel=5e-4)
        tab_runs.write(tmp_path / "runs" / "live", range(900, 1000, 10))
        tab.frame.get_by_text("11 tensors, last step 990").wait_for(timeout=20_000)
        assert "Traceback" not in server.log()
        tab.page.close()


def test_of_two_optimizers_the_one_that_a_finding_concerns_is_shown_first(
    server: SimpleNamespace, opened: Callable[..., Tab]
) -> None:
    """The generator is well: whoever opens the run is to see what the discriminator has, and the table has both rates."""
    line = next(line for line in get(server, "table") if line["run"] == "two-optimizers")
    tab = opened(server, run="two-optimizers")
    names = tab.frame.get_by_label("optimizer", exact=True).locator("option").all_inner_texts()
    shown = tab.frame.locator(".finding-detail h3").inner_text()
    tab.choose("optimizer", "adam-generator")

    assert line["settings"]["lr"] == "0.001 / 0.3"
    assert names == ["adam-generator", "adam-judge (findings: 1)"] and "LR-HIGH" in shown
    assert "No findings in this optimizer" in tab.frame.locator(".finding-detail").inner_text()

"""The Adam tab, in a real TensorBoard and a real Chromium."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
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
from lightning_adam.tensorboard.tab.plugin import STATIC
from tests import tab_runs
from tests.tab_browser import CHROMIUM, QUIET, Tab, get, is_error, parse, tensorboard, wait_for
from tests.tab_runs import ELEMENTS, EVIL, FINDING, NAMES, table

STEPS = range(0, 200, 10)
TEXTS = """const texts = [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() &&
  [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));"""
SMALLEST = f"(() => {{ {TEXTS} return Math.min(...texts.map((e) => parseFloat(getComputedStyle(e).fontSize))); }})()"
FAINTEST = f"""(() => {{ {TEXTS}
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => {{ for (; e; e = e.parentElement) {{
    const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] !== 0) return c; }} return [255, 255, 255]; }};
  const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  return Math.min(...texts.filter((e) => !e.disabled && !e.closest('.legend-scale, option'))
    .map((e) => contrast(light(rgb(getComputedStyle(e).color)), light(behind(e))))); }})()"""
"""WCAG 2.1's contrast of every text with what is behind it; a disabled button is exempt."""


@pytest.fixture(scope="module")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, a made-up one, and everything that can be wrong with a run."""
    folder = tmp_path_factory.mktemp("tab") / "runs"
    tab_runs.train(folder)
    tab_runs.write(folder / "known", STEPS)
    tab_runs.write(folder / "bad-numbers", STEPS, bad=True)
    tab_runs.write(folder / "one-step", range(7, 8), finding=False, lr=0.3)
    tab_runs.write(folder / "no-step", range(0))
    tab_runs.write_foreign(folder / "foreign")
    tab_runs.write_truncated(folder / "truncated")
    tab_runs.write_nonsense(folder / "nonsense")
    return folder


OURS = {"trained", "known", "bad-numbers", "one-step", "no-step", "truncated", "nonsense"}


@pytest.fixture(scope="module")
def server(logdir: Path) -> Iterator[SimpleNamespace]:
    """TensorBoard as it starts by itself; at the end its log must hold no traceback."""
    with tensorboard(logdir) as running:
        wait_for(running, OURS)
        yield running
        assert "Traceback" not in running.log()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium, or name it in the variable CHROMIUM")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in QUIET])
        yield started
        started.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Tab]]:
    """Opens the tab of a server; afterwards the page must not have complained, nor asked another machine."""
    tabs: list[Tab] = []

    def open_tab(server: SimpleNamespace, around: str = "", **asked: str) -> Tab:
        """The tab alone, or with TensorBoard ``around`` it, which takes seconds: its theme, ``light`` or ``dark``."""
        page = browser.new_page(viewport={"width": 1400, "height": 1800})
        tab = Tab(page, page, [], [])
        tabs.append(tab)
        page.on("request", lambda request: tab.requests.append(request.url))
        page.on("pageerror", lambda error: tab.complaints.append(str(error)))
        page.on(
            "console",
            lambda message: tab.complaints.append(f"{message.text} {message.location}") if is_error(message) else None,
        )
        choices = "lightning_adam" + "".join(f"&p.lightning_adam.{name}={value}" for name, value in asked.items())
        if around:
            page.goto(f"{server.url}/?darkMode={'true' if around == 'dark' else 'false'}#{choices}")
            page.wait_for_selector("iframe", state="attached")
            tab.frame = next(frame for frame in page.frames if frame != page.main_frame)
        else:
            page.goto(f"{server.url}/data/plugin_entry.html?name=lightning_adam#{choices}")
        tab.frame.wait_for_selector("body[data-ready]")
        tab.settle()
        return tab

    yield open_tab
    for tab in tabs:
        tab.page.close()
        assert tab.complaints == []
        assert [url for url in tab.requests if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []


def test_assets_are_small_and_complete() -> None:
    """Under 500 KB, and the page asks for nothing that is not in the folder."""
    texts = {path.name: path.read_text() for path in STATIC.iterdir()}
    imported = {name for text in texts.values() for name in re.findall(r"(?:from |import\()'\./([\w.]+)'", text)}

    assert sum(len(text.encode()) for text in texts.values()) < 500_000
    assert imported | {"index.js", "style.css"} == set(texts)


def test_all_modules_are_asked_for_at_once() -> None:
    """One that is left out costs a round trip more; one that is gone, an error in the console."""
    listed = re.findall(r"'(\w+)'", re.findall(r"MODULES = \[(.*?)\];", (STATIC / "index.js").read_text(), re.DOTALL)[0])

    assert {f"{name}.js" for name in listed} | {"index.js"} == {path.name for path in STATIC.glob("*.js")}


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
        "no-step": "no-step has findings, but no OptimizerMonitor data",
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


def test_brush_zooms_all_panels_and_a_double_click_shows_all(server: SimpleNamespace, opened: Callable[..., Tab]) -> None:
    """A drag over the heatmap is a drag over the step axis that all panels share."""
    tab = opened(server, run="known")
    before = [tab.frame.locator("canvas.plot").nth(i).screenshot() for i in (0, 3, 5)]
    tab.page.mouse.move(*tab.heat(50, "blocks.1.a.weight"))
    tab.page.mouse.down()
    tab.page.mouse.move(*tab.heat(100, "blocks.1.b.weight"), steps=4)
    tab.page.mouse.up()
    tab.settle()
    low, high = tab.frame.evaluate("window.adamTab.view.shown")

    assert (low, high) == (pytest.approx(50, abs=1), pytest.approx(100, abs=1))
    assert all(tab.frame.locator("canvas.plot").nth(i).screenshot() != old for i, old in zip((0, 3, 5), before, strict=True))
    tab.frame.locator("canvas.plot").first.dblclick(position={"x": 600, "y": 40})
    assert tab.frame.evaluate("window.adamTab.view.range") is None


def test_modules_fold_and_the_filter_keeps_what_matches(server: SimpleNamespace, opened: Callable[..., Tab]) -> None:
    """Rows stand in model order under their modules; a folded module shows its worst tensor."""
    tab = opened(server, run="known")
    rows = [title.split(":")[0] for title in tab.frame.locator(".row-label").evaluate_all("all => all.map(l => l.title)")]
    assert [name for name in rows if name in NAMES] == [*NAMES[:4], EVIL, *NAMES[4:-1]]
    tab.frame.get_by_role("button", name="Fold", exact=True).click()
    tab.settle()
    assert tab.frame.locator(".row-label").count() == 2
    assert "farthest from healthy of 10: blocks." in tab.hover(100, "blocks: 10 tensors")
    tab.frame.get_by_placeholder("filter tensors").fill("b.weight")
    tab.settle()
    assert tab.frame.locator(".row-label:not(.module)").count() == 3


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
    tab.frame.get_by_text("3 of 7 runs").wait_for()
    tab.frame.get_by_role("button", name="known", exact=True).press("Enter")
    tab.settle()
    assert tab.frame.locator(".status").inner_text() == "11 tensors, last step 190"
    assert "p.lightning_adam.run=known" in tab.page.url
    tab.page.go_back()
    tab.frame.locator("table.runs").wait_for(state="visible")


def test_address_holds_what_is_shown(server: SimpleNamespace, opened: Callable[..., Tab]) -> None:
    """Run, tensor, quantity, zoom and step: who gets the link sees the same."""
    tab = opened(server, run="known", quantity="update_ratio")
    tab.frame.locator('.row-label[title="blocks.1.b.weight"]').click()
    tab.frame.evaluate("window.adamTab.view.zoom([50, 120])")
    tab.frame.evaluate("window.adamTab.view.choose(70)")
    tab.settle()
    asked = dict(pair.removeprefix("p.lightning_adam.").split("=") for pair in tab.page.url.split("#")[1].split("&")[1:])
    expected = {"run": "known", "quantity": "update_ratio", "tensor": "blocks.1.b.weight", "zoom": "50_120", "step": "70"}
    assert asked == expected
    again = opened(server, **asked)

    assert again.frame.evaluate("[window.adamTab.view.range, window.adamTab.view.chosen]") == [[50, 120], 70]
    selected = again.frame.get_by_label("tensor", exact=True).evaluate("s => s.selectedOptions[0].textContent")
    assert selected == "blocks.1.b.weight"


def test_link_to_a_run_that_is_gone_says_so(server: SimpleNamespace, opened: Callable[..., Tab]) -> None:
    """And shows the runs that there are."""
    tab = opened(server, run="deleted")

    assert "“deleted” is not in this log folder" in tab.frame.get_by_role("alert").inner_text()
    assert tab.frame.locator("table.runs").is_visible()


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


def test_every_name_is_readable_and_nothing_is_cut_off_at_1024_pixels(
    server: SimpleNamespace, opened: Callable[..., Tab]
) -> None:
    """Texts of 12 pixels or more, at a contrast of 4.5 or more against the card behind them, in both themes."""
    for theme in ("light", "dark"):
        tab = opened(server, theme, run="known")
        tab.page.set_viewport_size({"width": 1024, "height": 900})
        tab.settle()
        assert tab.frame.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert tab.frame.evaluate(SMALLEST) >= 12
        assert tab.frame.evaluate(FAINTEST) >= 4.5


def test_a_narrow_page_shows_the_findings_under_each_other(server: SimpleNamespace, opened: Callable[..., Tab]) -> None:
    """Half of a laptop's screen: the list is there, and what it tells stands below it."""
    tab = opened(server, run="known")
    tab.page.set_viewport_size({"width": 700, "height": 900})
    tab.frame.get_by_label("warning: LR-HIGH at step 60").click()
    tab.settle()
    above, below = (tab.frame.locator(name).bounding_box() for name in (".finding-list", ".finding-detail"))

    assert above["height"] > 20 and below["y"] >= above["y"] + above["height"]


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


def test_keys_move_the_step(server: SimpleNamespace, opened: Callable[..., Tab]) -> None:
    """Every chart can be reached and used without a pointer."""
    tab = opened(server, run="known")
    chart = tab.frame.locator("canvas.plot").first
    chart.focus()
    for key in ("ArrowRight", "ArrowRight", "+"):
        chart.press(key)

    assert tab.frame.evaluate("window.adamTab.view.chosen") == pytest.approx(4, abs=2)
    assert tab.frame.get_by_role("button", name="Show all steps").is_enabled()
    chart.press("Escape")
    assert tab.frame.evaluate("window.adamTab.view.range") is None


def test_dark_page_follows_tensorboard(server: SimpleNamespace, opened: Callable[..., Tab]) -> None:
    """TensorBoard does not tell its frames: the tab looks at the page around it, also when the switch is used."""
    tab = opened(server, "dark", run="known")
    background = "getComputedStyle(document.body).backgroundColor"
    assert tab.frame.evaluate(background) == "rgb(29, 31, 33)"
    tab.page.evaluate("document.body.classList.remove('dark-mode')")
    tab.settle()

    assert tab.frame.evaluate(background) == "rgb(244, 245, 247)"


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

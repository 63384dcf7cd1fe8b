"""The Adam tab as a page, in a real Chromium: readable in both themes, used by keys and pointer, known by its address."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from tests.tab_browser import Tab
from tests.tab_runs import EVIL, NAMES

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
  const colours = texts.filter((e) => !e.closest('.legend-scale, option')).map((e) => [getComputedStyle(e), e]);
  const fields = [...document.querySelectorAll('input')].filter((e) => e.placeholder && e.checkVisibility());
  return Math.min(...[...colours, ...fields.map((e) => [getComputedStyle(e, '::placeholder'), e])]
    .map(([{{color, opacity}}, e]) => opacity < 1 ? 0 : contrast(light(rgb(color)), light(behind(e))))); }})()"""
"""WCAG 2.1's contrast of every text with what is behind it; of disabled buttons and empty fields, too."""

BACKGROUND = "getComputedStyle(document.body).backgroundColor"
DARK, LIGHT = "rgb(29, 31, 33)", "rgb(244, 245, 247)"
TO_LIGHT = "document.body.classList.remove('dark-mode')"
"""What TensorBoard's switch does to the page around the tab."""


def test_in_the_theme_of_tensorboard_all_is_readable_and_nothing_cut_off_at_1024_pixels(
    server: SimpleNamespace, opened: Callable[..., Tab]
) -> None:
    """Texts of 12 pixels or more, at a contrast of 4.5 or more against the card behind them, dark and light.

    TensorBoard does not tell its frames: the tab looks at the page around it, also when the switch is used.
    """
    tab = opened(server, "dark", run="known")
    tab.page.set_viewport_size({"width": 1024, "height": 900})
    for background in DARK, LIGHT:
        tab.settle()
        assert tab.frame.evaluate(BACKGROUND) == background
        assert tab.frame.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert tab.frame.evaluate(SMALLEST) >= 12
        assert tab.frame.evaluate(FAINTEST) >= 4.5
        tab.page.evaluate(TO_LIGHT)


def test_a_narrow_page_shows_the_findings_under_each_other(server: SimpleNamespace, opened: Callable[..., Tab]) -> None:
    """Half of a laptop's screen: the list is there, and what it tells stands below it."""
    tab = opened(server, run="known")
    tab.page.set_viewport_size({"width": 700, "height": 900})
    tab.frame.get_by_label("warning: LR-HIGH at step 60").click()
    tab.settle()
    above, below = (tab.frame.locator(name).bounding_box() for name in (".finding-list", ".finding-detail"))

    assert above["height"] > 20 and below["y"] >= above["y"] + above["height"]


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


def test_a_screen_reader_hears_the_step_and_the_values_that_the_arrow_keys_reach(
    server: SimpleNamespace, opened: Callable[..., Tab]
) -> None:
    """Charts are sliders: a picture's name that changes while it has the focus is not announced."""
    tab = opened(server, run="known", tensor="embed.weight")
    loss, heat = (tab.frame.get_by_role("slider", name=name) for name in ("Loss over the steps", "tensors by steps"))
    loss.focus()
    loss.press("ArrowLeft")
    tab.settle()
    step = tab.frame.evaluate("window.adamTab.view.chosen")
    shown = tab.frame.locator(".strip .value").first.inner_text()

    assert loss.get_attribute("aria-valuetext") == f"step {step}: {shown}"
    assert float(loss.get_attribute("aria-valuemin")) <= step <= float(loss.get_attribute("aria-valuemax"))
    assert "embed.weight" in heat.get_attribute("aria-valuetext")


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


FOCUSABLE = """[...document.querySelectorAll('button, select, input, summary, a[href], [tabindex]')]
  .filter((e) => e.checkVisibility() && !e.disabled)"""
NAMELESS = f"""{FOCUSABLE}
  .filter((e) => !(e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent).trim())
  .map((e) => e.outerHTML)"""
ONLY_POINTED_AT = f"""(() => {{ const reached = {FOCUSABLE}; return [...document.querySelectorAll('body *')]
  .filter((e) => e.onclick && !e.disabled && e.checkVisibility() && !reached.some((r) => e.contains(r)))
  .map((e) => e.outerHTML); }})()"""


@pytest.mark.parametrize("run", ["known", ""])
def test_what_can_be_clicked_has_a_name_and_is_reached_with_the_tab_key(
    run: str, server: SimpleNamespace, opened: Callable[..., Tab]
) -> None:
    """A run, and the table of all; within the tree of tensors the arrow keys move."""
    tab = opened(server, **({"run": run} if run else {}))
    wanted = tab.frame.evaluate(f"{FOCUSABLE}.filter((e) => e.tabIndex >= 0).length")
    tab.frame.evaluate("window.reached = new Set(); document.activeElement.blur()")
    for _ in range(wanted):
        tab.page.keyboard.press("Tab")
        tab.frame.evaluate("window.reached.add(document.activeElement)")

    assert wanted > 5
    assert tab.frame.evaluate("window.reached.size") == wanted
    assert tab.frame.evaluate(NAMELESS) == []
    assert tab.frame.evaluate(ONLY_POINTED_AT) == []


def test_a_tensor_is_chosen_and_a_module_folded_with_the_keyboard(
    server: SimpleNamespace, opened: Callable[..., Tab]
) -> None:
    """Each says its whole name and how deep it lies: indentation is not heard."""
    tab = opened(server, run="known")
    rows = tab.frame.get_by_role("treeitem")
    module, first = rows.nth(1), rows.first
    assert (first.get_attribute("aria-label"), module.get_attribute("aria-level")) == ("embed.weight", "1")
    first.focus()
    for key in ("Enter", "ArrowDown", "ArrowLeft"):
        tab.page.keyboard.press(key)
    tab.settle()

    chosen = tab.frame.get_by_label("tensor", exact=True).evaluate("s => s.selectedOptions[0].textContent")
    assert chosen == "embed.weight"
    assert module.get_attribute("aria-expanded") == "false"

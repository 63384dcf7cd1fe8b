"""A log folder with all that can be wrong with a run, TensorBoard over it, and a browser: for the tests of the tab."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.tab_browser import CHROMIUM, QUIET, Tab, is_error, tensorboard, wait_for

STEPS = range(0, 200, 10)
VIEWPORT = {"width": 1400, "height": 1800}
OURS = {"trained", "known", "bad-numbers", "one-step", "no-step", "truncated", "nonsense", "two-optimizers"}
"""The runs that have data of ours."""


@pytest.fixture(scope="session")
def logdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, a made-up one, and everything that can be wrong with a run."""
    from tests import tab_runs  # trains: most tests have no use for it

    folder = tmp_path_factory.mktemp("tab") / "runs"
    tab_runs.train(folder)
    tab_runs.write(folder / "known", STEPS)
    tab_runs.write(folder / "bad-numbers", STEPS, bad=True)
    tab_runs.write(folder / "one-step", range(7, 8), finding=False, lr=0.3)
    tab_runs.write(folder / "no-step", range(0))
    tab_runs.write_two_optimizers(folder / "two-optimizers")
    tab_runs.write_foreign(folder / "foreign")
    tab_runs.write_truncated(folder / "truncated")
    tab_runs.write_nonsense(folder / "nonsense")
    return folder


@pytest.fixture(scope="session")
def server(logdir: Path) -> Iterator[SimpleNamespace]:
    """TensorBoard as it starts by itself; at the end its log must hold no traceback."""
    with tensorboard(logdir) as running:
        wait_for(running, OURS)
        yield running
        assert "Traceback" not in running.log()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium, or name it in the variable CHROMIUM")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in QUIET])
        yield started
        started.close()


@pytest.fixture(scope="session")
def idle_tabs() -> list[Tab]:
    """Blank pages that a test is done with: a new one takes a process of its own, and twice the time."""
    return []


def new_tab(browser: Any) -> Tab:
    """A page that keeps what it asked for and what it complained of."""
    page = browser.new_page(viewport=VIEWPORT)
    tab = Tab(page, page, [], [])
    page.on("request", lambda request: tab.requests.append(request.url))
    page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    page.on(
        "console",
        lambda message: tab.complaints.append(f"{message.text} {message.location}") if is_error(message) else None,
    )
    return tab


def blanked(tab: Tab) -> Tab:
    """The same page as if it were new, with the pointer where nothing is."""
    tab.page.mouse.move(0, 0)
    tab.page.goto("about:blank")
    tab.page.set_viewport_size(VIEWPORT)
    return Tab(tab.page, tab.page, tab.requests, tab.complaints)


@pytest.fixture
def opened(browser: Any, idle_tabs: list[Tab]) -> Iterator[Callable[..., Tab]]:
    """Opens the tab of a server; afterwards the page must not have complained, nor asked another machine."""
    tabs: list[Tab] = []

    def open_tab(server: SimpleNamespace, around: str = "", **asked: str) -> Tab:
        """The tab alone, or with TensorBoard ``around`` it, which takes seconds: its theme, ``light`` or ``dark``."""
        tab = idle_tabs.pop() if idle_tabs and not around else new_tab(browser)
        tabs.append(tab)
        choices = "lightning_adam" + "".join(f"&p.lightning_adam.{name}={value}" for name, value in asked.items())
        if around:
            tab.page.goto(f"{server.url}/?darkMode={'true' if around == 'dark' else 'false'}#{choices}")
            tab.page.wait_for_selector("iframe", state="attached")
            tab.frame = next(frame for frame in tab.page.frames if frame != tab.page.main_frame)
        else:
            tab.page.goto(f"{server.url}/data/plugin_entry.html?name=lightning_adam#{choices}")
        tab.frame.wait_for_selector("body[data-ready]")
        tab.settle()
        return tab

    yield open_tab
    for tab in tabs:
        if tab.frame == tab.page and not tab.page.is_closed():
            idle_tabs.append(blanked(tab))
        else:  # TensorBoard keeps its choices in the page's storage
            tab.page.close()
        complaints, requests = tab.complaints[:], tab.requests[:]
        tab.complaints.clear()
        tab.requests.clear()
        assert complaints == []
        assert [url for url in requests if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []

"""The pictures of TensorBoard and of the doctor's page that README and docs show, from runs of the demo.

lightning-adam demo --logdir runs/pictures
for sick in lr-high no-warmup nan; do lightning-adam demo --logdir runs/pictures --sick $sick; done
python -m tests.tab_pictures runs/pictures
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from lightning_adam.doctor.reporting import report_on_run
from lightning_adam.tensorboard import deep_link
from tests.tab_browser import CHROMIUM, QUIET, get, tensorboard, wait_for

OUT = Path(__file__).resolve().parents[1] / "examples"
WIDTH = 1440


def picture(browser: Any, url: str, name: str, dark: bool = False, difference: bool = False, hover: str = "") -> None:
    """One page from top to bottom."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 1000})
    page.goto(url.replace("#", f"?darkMode={'true' if dark else 'false'}#"))
    page.wait_for_selector("iframe", state="attached")
    frame = next(f for f in page.frames if f != page.main_frame)
    frame.wait_for_selector("body[data-ready]")
    if difference:
        frame.get_by_role("button", name="Difference").click()
    page.wait_for_timeout(1500)
    height = frame.evaluate("document.documentElement.scrollHeight") + 64
    page.set_viewport_size({"width": WIDTH, "height": height})
    page.wait_for_timeout(500)
    if hover:
        row = frame.locator(f'.row-label[title="{hover}"]').first.bounding_box()
        page.mouse.move(WIDTH * 0.45, row["y"] + row["height"] / 2)
        page.wait_for_timeout(500)
    save(page, name)


def dashboard(browser: Any, url: str, name: str, drawn: str) -> None:
    """One of TensorBoard's own pages, once this many of its cards are drawn."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 1050})
    page.goto(url)
    page.wait_for_selector(drawn, timeout=120_000)
    page.wait_for_timeout(4000)
    save(page, name)


def doctors_page(browser: Any, folder: Path) -> None:
    """The report on one run, from top to bottom."""
    page = browser.new_page(viewport={"width": 1000, "height": 400})
    page.set_content(report_on_run(folder).to_html())
    page.set_viewport_size({"width": 1000, "height": page.evaluate("document.documentElement.scrollHeight")})
    save(page, "doctor")


def table_of_runs(browser: Any, server: Any) -> None:
    """Where the tab begins, as high as it is."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 320})
    page.goto(f"{server.url}/?darkMode=false#lightning_adam")
    page.wait_for_selector("iframe", state="attached")
    next(f for f in page.frames if f != page.main_frame).wait_for_selector("body[data-ready]")
    page.wait_for_timeout(1000)
    save(page, "adam_tab_runs")


def few_colours(shot: Image.Image) -> Image.Image:
    """Half of the palette are the most frequent colours as they are, half cover the rest: no stripes, no tinted page."""
    counts: Any = shot.getcolors(shot.width * shot.height)
    frequent = [colour for _, colour in sorted(counts, reverse=True)[:128]]
    rest: Any = shot.quantize(128, Image.Quantize.MAXCOVERAGE).getpalette()
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in frequent for part in colour] + rest[: 3 * 128])
    return shot.quantize(palette=palette, dither=Image.Dither.NONE)


def save(page: Any, name: str) -> None:
    """What the page shows, in 256 colours: a third of the size."""
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    few_colours(shot).save(OUT / f"{name}.png", optimize=True)
    print(f"{name}.png", f"{(OUT / f'{name}.png').stat().st_size / 1e3:.0f} KB")
    page.close()


def main(logdir: Path) -> None:
    """All runs; light with the sick one, dark with the healthy one, and both compared; the built-in tabs; the doctor."""
    with sync_playwright() as driver, tensorboard(logdir) as server:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in QUIET])
        wait_for(server, {folder.name for folder in logdir.iterdir() if folder.is_dir()})
        runs = sorted(get(server, "runs")["runs"])
        healthy, sick = (next(run for run in runs if name in run) for name in ("healthy", "lr-high"))
        tab = f"{server.url}/#lightning_adam&p.lightning_adam.step=100&p.lightning_adam.run="
        picture(browser, tab + sick, "adam_tab", hover="blocks.1.qkv.weight")
        picture(browser, tab + healthy, "adam_tab_dark", dark=True, hover="blocks.1.qkv.weight")
        table_of_runs(browser, server)
        doctors_page(browser, logdir / sick)
        both = f"{tab}{sick}&p.lightning_adam.other={healthy}"
        picture(browser, both, "adam_tab_comparison", difference=True, hover="blocks.1.qkv.weight")
        dashboard(browser, deep_link(int(server.url.rsplit(":", 1)[1]), run=sick), "tensorboard", "image-card img")
        dashboard(
            browser, f"{server.url}/#custom_scalars", "custom_scalars", "vz-line-chart2, tf-custom-scalar-card-heading"
        )
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The README's pictures of TensorBoard, from a log folder with a healthy run and a sick one.

lightning-adam demo --logdir runs/pictures --steps 400
lightning-adam demo --logdir runs/pictures --steps 400 --sick lr-high
python -m tests.tab_pictures runs/pictures
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from lightning_adam.tensorboard import deep_link
from tests.tab_browser import CHROMIUM, QUIET, get, tensorboard

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
    page.wait_for_selector(drawn, timeout=30_000)
    page.wait_for_timeout(4000)
    save(page, name)


def save(page: Any, name: str) -> None:
    """What the page shows, in 240 colours: enough for a page, and half the size."""
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    shot.quantize(240, dither=Image.Dither.NONE).save(OUT / f"{name}.png", optimize=True)
    print(f"{name}.png", f"{(OUT / f'{name}.png').stat().st_size / 1e3:.0f} KB")
    page.close()


def main(logdir: Path) -> None:
    """Light with the sick run, dark with the healthy one, and both compared."""
    with sync_playwright() as driver, tensorboard(logdir) as server:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in QUIET])
        runs = sorted(get(server, "runs")["runs"])
        healthy, sick = (next(run for run in runs if name in run) for name in ("healthy", "lr-high"))
        tab = f"{server.url}/#lightning_adam&p.lightning_adam.run="
        picture(browser, tab + sick, "adam_tab", hover="blocks.1.qkv.weight")
        picture(browser, tab + healthy, "adam_tab_dark", dark=True, hover="blocks.1.qkv.weight")
        both = f"{tab}{sick}&p.lightning_adam.other={healthy}"
        picture(browser, both, "adam_tab_comparison", difference=True, hover="blocks.1.qkv.weight")
        dashboard(browser, deep_link(int(server.url.rsplit(":", 1)[1]), run=healthy), "tensorboard", "image-card img")
        dashboard(
            browser, f"{server.url}/#custom_scalars", "custom_scalars", "vz-line-chart2, tf-custom-scalar-card-heading"
        )
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

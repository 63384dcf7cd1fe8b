"""How fast the Adam tab opens and scrolls with 1,000 tensors × 2,000 logged steps, measured in Chromium.

Seconds are the clock's, in which other work on the machine counts; of the first picture the processor time is told, too: of
the page's thread, and of TensorBoard with its data server.

    python -m tests.benchmarks.tab_speed [LOGDIR]

Writes the run into LOGDIR (a temporary folder by default; 120 MB, 20 s) unless it is there, and prints one line per loader.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from playwright.sync_api import Page, sync_playwright
from torch.utils.tensorboard import SummaryWriter

from lightning_adam.statistics import COLUMNS, LOG10_EDGES, Snapshot
from lightning_adam.tensorboard import TensorBoardWriter
from tests.tab_browser import CHROMIUM, QUIET, get, tensorboard, wait_for

TENSORS, STEPS, SCROLLS = 1000, 2000, 60
PARTS = ("norm1.weight", "norm1.bias", "qkv.weight", "qkv.bias", "out.weight", "out.bias")
PARTS += ("mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias")
NAMES = [f"model.layers.{i // len(PARTS)}.{PARTS[i % len(PARTS)]}" for i in range(TENSORS)]


def write(run: Path) -> None:
    """Update ratios of a long run: a slow decay, a jump at three fifths, seven tensors that hardly move."""
    rng, counts = np.random.default_rng(0), np.arange(len(LOG10_EDGES) - 1, dtype=np.int64)
    base = rng.normal(-2.7, 0.4, (TENSORS, len(COLUMNS)))
    base[TENSORS // 2 : TENSORS // 2 + 7] -= 3
    with SummaryWriter(str(run), max_queue=1000) as files:
        writer = TensorBoardWriter(files)
        for step in range(STEPS):
            jump = 1.5 * (0.6 < step / STEPS < 0.62)
            table = 10.0 ** (base + rng.normal(0, 0.1, base.shape) + jump - step / STEPS)
            sizes, groups = [1] * TENSORS, ["all"] * TENSORS
            shot = Snapshot(step, NAMES, groups, sizes, {"all": 1e-3}, table.astype(np.float32), counts, counts)
            writer.write_snapshot(step, {"adam/log10_lr": -3.0, "train_loss": 3 * 0.999**step}, shot)


def opened(page: Page, url: str) -> tuple[float, float, Any]:
    """Seconds from the address to the drawn heatmap (all of TensorBoard; our frame alone), and the frame."""
    started = time.perf_counter()
    page.goto(f"{url}/#lightning_adam")
    page.wait_for_selector("iframe", state="attached")
    frame = next(f for f in page.frames if f != page.main_frame)
    frame.wait_for_selector("body[data-ready]")
    return time.perf_counter() - started, frame.evaluate("performance.now()") / 1000, frame


def processor_seconds(browser: Any, server: Any) -> tuple[float, float]:
    """Of the page's thread and of TensorBoard's processes, for the tab alone until its heatmap is drawn."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    before = server_seconds(server)
    page.goto(f"{server.url}/data/plugin_entry.html?name=lightning_adam")
    page.wait_for_selector("body[data-ready]")
    metrics = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    after = server_seconds(server)
    page.close()
    return float(metrics["TaskDuration"]), after - before


def server_seconds(server: Any) -> float:
    """Processor time so far of TensorBoard and what it has started."""
    main = psutil.Process(server.process)
    times = [process.cpu_times() for process in (main, *main.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def frame_times(frame: Any) -> list[float]:
    """Milliseconds between frames while the unfolded heatmap scrolls by 48 pixels per frame."""
    frame.get_by_role("button", name="Unfold").click()
    script = """async (count) => {
        const box = document.querySelector('.heat-scroll'), times = [];
        box.scrollIntoView();
        let last = await new Promise(requestAnimationFrame);
        for (let i = 0; i < count; i++) {
            box.scrollTop += 48;
            const now = await new Promise(requestAnimationFrame);
            times.push(now - last);
            last = now;
        }
        return times;
    }"""
    return sorted(frame.evaluate(script, SCROLLS))


def seconds_to(frame: Any, action: str) -> float:
    """Seconds until the page is idle again after an action."""
    script = "async (a) => { const t = performance.now(); await eval(a); return (performance.now() - t) / 1000; }"
    return float(frame.evaluate(script, action))


def measure(browser: Any, logdir: Path, *options: str) -> str:
    """One line of figures."""
    with tensorboard(logdir, *options) as server:
        wait_for(server, {"big"})
        while get(server, "run?run=big")["optimizers"][0]["max_step"] < STEPS - 1:
            time.sleep(0.2)
        time.sleep(1)
        in_page, in_server = processor_seconds(browser, server)
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        cold, own, frame = opened(page, server.url)
        frame.wait_for_selector("body[aria-busy=false]")
        switch = seconds_to(frame, "(adamTab.tensors.quantity = 'effective_lr_p50', adamTab.tensors.load())")
        layer = seconds_to(frame, "adamTab.layer.show(adamTab.runs, 501)")
        times = frame_times(frame)
        page.close()
        page = browser.new_page(viewport={"width": 1440, "height": 1000})
        warm = opened(page, server.url)[0]
        page.close()
    median, late = statistics.median(times), times[int(len(times) * 0.95)]
    return (
        f"the tab alone takes {in_page:.2f} s of the page's processor time and {in_server:.2f} s of the server's; with "
        f"TensorBoard around it, it opens in {cold:.2f} s ({own:.2f} s of it in the tab), again in {warm:.2f} s; "
        f"other quantity {switch:.2f} s, other tensor {layer:.2f} s; "
        f"scrolling: median {median:.1f}, 95th percentile {late:.1f} ms per frame"
    )


def main(logdir: Path) -> None:
    """Both loaders."""
    if not (logdir / "big").exists():
        write(logdir / "big")
    print(f"{TENSORS} tensors × {STEPS} steps, {sum(f.stat().st_size for f in (logdir / 'big').iterdir()) / 1e6:.0f} MB")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[f"--{flag}" for flag in QUIET])
        print("data server   ", measure(browser, logdir))
        print("Python loader ", measure(browser, logdir, "--load_fast=false"))
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder) / "runs")

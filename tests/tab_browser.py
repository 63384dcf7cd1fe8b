"""A real TensorBoard and a real Chromium, for the Adam tab's tests, benchmark and pictures."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
QUIET = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
QUIET += ["disable-component-update", "disable-sync"]


@contextmanager
def tensorboard(logdir: Path, *options: str) -> Iterator[SimpleNamespace]:
    """A running TensorBoard: its address, its log so far, and its process."""
    log = logdir.parent / f"{logdir.name}.log"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--host", "127.0.0.1", "--port", "0"]
    with log.open("w") as output:
        process = subprocess.Popen([*command, *options], cwd=ROOT, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 40
        while not (found := re.search(r"http://127\.0\.0\.1:\d+\S*", log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield SimpleNamespace(url=found[0].rstrip("/"), log=log.read_text, process=process.pid)
    finally:
        process.terminate()
        process.wait()


def get(server: SimpleNamespace, route: str) -> Any:
    """What the plugin answers, from JSON."""
    with urlopen(f"{server.url}/data/plugin/lightning_adam/{route}") as answer:
        return json.load(answer)


def parse(data: bytes) -> tuple[dict[str, Any], Any]:
    """Header and values of a tile, as the page reads them."""
    length = int(np.frombuffer(data[:4], "<u4")[0])
    header = json.loads(data[4 : 4 + length])
    values = np.frombuffer(data[4 + length :], "<f4")[: header["rows"] * header["columns"]]
    return header, values.reshape(header["rows"], header["columns"])


def wait_for(server: SimpleNamespace, runs: set[str]) -> None:
    """Until TensorBoard has read these runs."""
    deadline = time.monotonic() + 30
    while not runs <= set(get(server, "runs")["runs"]):
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.1)


@dataclass
class Tab:
    """The opened tab: TensorBoard's page, our frame in it, and every address that was asked for."""

    page: Any
    frame: Any
    requests: list[str]
    complaints: list[str]

    def choose(self, label: str, value: str) -> None:
        """Choose in a list, and wait for what follows."""
        self.frame.get_by_label(label, exact=True).select_option(value)
        self.settle()

    def settle(self) -> None:
        """Nothing under way, and everything drawn."""
        self.frame.evaluate(
            "new Promise((done) => setTimeout(done, 150))"
        )  # by the page's clock, longer than it waits itself
        self.frame.wait_for_selector("body[aria-busy=false]")
        self.frame.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def heat(self, step: int, row: str) -> tuple[float, float]:
        """Where on the page the heatmap's cell of a visible row is."""
        label = self.frame.locator(f'.row-label[title="{row}"]').first.bounding_box()
        canvas = self.frame.locator(".heat canvas.plot").first.bounding_box()
        left, width = canvas["x"] + 216, canvas["width"] - 216 - 14
        low, high = self.frame.evaluate("window.adamTab.view.shown")
        return left + (step - low) / (high - low) * width, label["y"] + label["height"] / 2

    def hover(self, step: int, row: str) -> str:
        """The tooltip's text over a cell."""
        self.page.mouse.move(*self.heat(step, row))
        self.frame.locator(".tip").wait_for(state="visible")
        return str(self.frame.locator(".tip").inner_text())

    def colours(self) -> int:
        """How many colours the first heatmap shows."""
        count = """() => { const c = document.querySelector('.heat canvas.plot');
            const {data} = c.getContext('2d').getImageData(0, 0, c.width, c.height);
            return new Set(new Uint32Array(data.buffer)).size; }"""
        return int(self.frame.evaluate(count))


def is_error(message: Any) -> bool:
    """An error of ours: under a path prefix, TensorBoard misses some fonts of its own."""
    missing = "Failed to load resource" in message.text
    return message.type == "error" and (not missing or "/lightning_adam/" in message.location["url"])

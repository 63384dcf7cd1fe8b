"""A long run with both monitors at every step: whether time per step and memory stay what they were.

Run: ``python -m tests.benchmarks.long_run [steps]``, 100,000 by default, on a model of 40 tensors in a plain loop. It
prints a line per tenth of the run: ms of processor time per step with the monitors and without them (measured beside each
other; the thread that writes the log included), resident memory, and the bytes that the log has.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lightning_adam as la

WIDTH, LAYERS = 16, 20


def made() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A small model, so that what is measured is the monitors."""
    torch.manual_seed(0)
    layers = [layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    module = nn.Sequential(*layers)
    return module, torch.optim.AdamW(module.parameters(), lr=1e-4)


def steps(module: nn.Module, optimizer: torch.optim.Optimizer, count: int, watch: la.Watch | None) -> float:
    """Seconds of processor time that so many steps take: what else the machine does is not in them."""
    began = time.process_time()
    for _ in range(count):
        x = torch.randn(8, WIDTH)
        optimizer.zero_grad()
        loss = (module(x) - x).square().mean()
        (watch.loss(loss) if watch is not None else loss).backward()
        optimizer.step()
    return time.process_time() - began


def resident() -> float:
    """MiB."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096 / 2**20


def main(total: int) -> None:
    """A line per tenth."""
    torch.set_num_threads(1)
    part, (plain, plain_optimizer), (module, optimizer) = total // 10, made(), made()
    watching: dict[str, Any] = {"every_n_steps": 1, "check_every_n_steps": 1, "total_steps": total}
    with tempfile.TemporaryDirectory() as folder, la.watch(module, optimizer, log_dir=folder, **watching) as watch:
        print(f"{'steps':>8}{'watched':>10}{'alone':>10}{'memory':>12}{'log':>12}{'findings':>10}")
        for tenth in range(1, 11):
            alone = steps(plain, plain_optimizer, max(1, part // 10), None) / max(1, part // 10)
            watched = steps(module, optimizer, part, watch) / part
            size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) / 2**20
            times = f"{1e3 * watched:>7.2f} ms{1e3 * alone:>7.2f} ms"
            print(f"{tenth * part:>8}{times}{resident():>8.0f} MiB{size:>8.1f} MiB{len(watch.findings):>10}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)

"""Trains one scenario with DivergenceMonitor attached, and keeps what it recorded."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import tempfile
import time
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Generator
from torch.utils.data import DataLoader

from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.diagnosis import Finding, RunSignals, StepSignals, decode, encode
from lightning_adam.monitoring import console
from tests.benchmarks.divergence.scenario import Adversaries, Scenario, Trained

Records = list[RunSignals | StepSignals]


@dataclass(frozen=True)
class Run:
    """What is kept of one run.

    Attributes:
        name: of the scenario.
        seed: of weights and batches.
        records: per optimizer.
        findings: what the monitor found, live.
        final: the median of the last losses; infinite where they are not finite.
        seconds: of training, with everything.
        start: what ``final`` was before, where it is a measure of the task's own.
    """

    name: str
    seed: int
    records: list[Records]
    findings: list[Finding]
    final: float
    seconds: float
    start: float = math.nan

    @property
    def steps(self) -> list[StepSignals]:
        """Of the first optimizer."""
        return [r for r in self.records[0] if isinstance(r, StepSignals)]

    @property
    def losses(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """One per step of the first optimizer; NaN where it was not finite."""
        return np.array([s.loss for s in self.steps])

    def save(self, path: Path) -> None:
        """One zip file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        numbers = {"final": self.final, "seconds": self.seconds, "start": self.start}
        meta = {"name": self.name, "seed": self.seed, **numbers}
        with zipfile.ZipFile(path, "w") as stored:
            stored.writestr("meta.json", json.dumps({**meta, "findings": [f.to_dict() for f in self.findings]}))
            for index, records in enumerate(self.records):
                stored.writestr(f"{index}.signals", encode(records))

    @classmethod
    def load(cls, path: Path) -> Run:
        """The inverse of :meth:`save`."""
        with zipfile.ZipFile(path) as stored:
            meta = json.loads(stored.read("meta.json"))
            names = sorted(n for n in stored.namelist() if n.endswith(".signals"))
            records = [decode(stored.read(name)) for name in names]
        findings = [Finding.from_dict(f) for f in meta.pop("findings")]
        return cls(**meta, records=records, findings=findings)


class _Keeping(DivergenceMonitor):
    """The monitor, which also keeps all records."""

    def __init__(self, logits: tuple[str, ...]) -> None:
        super().__init__(logits=logits)
        self.kept: dict[int, Records] = {}

    def on_record(self, position: int, record: RunSignals | StepSignals) -> None:
        """What the rules see."""
        self.kept.setdefault(position, []).append(record)


def train(scenario: Scenario, seed: int) -> Run:
    """Run it; the same seed gives the same run."""
    with quiet():
        return _train(scenario, seed)


def _train(scenario: Scenario, seed: int) -> Run:
    began = time.perf_counter()
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed + 1)
    batches = [_batch(scenario, k, generator) for k in range(scenario.steps * scenario.accumulate)]
    module: L.LightningModule = Adversaries(scenario) if scenario.gan else Trained(scenario)
    monitor = _Keeping(scenario.logits)
    if scenario.resume:
        module, monitor = _until(scenario, module, monitor, batches)
    else:
        _trainer(scenario, monitor, scenario.steps).fit(module, _loader(batches))
    if monitor.failures:
        raise RuntimeError(f"{scenario.name}: the monitor lost {set(monitor.failures)}.")
    records = [monitor.kept.get(i, []) for i in range(max(monitor.kept, default=0) + 1)]
    run = Run(scenario.name, seed, records, monitor.findings, 0.0, time.perf_counter() - began)
    return replace(run, final=final_loss(run.losses))


def final_loss(losses: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """The median of the last tenth, at most 25 steps."""
    last = losses[-max(5, min(25, len(losses) // 8)) :]
    return float(np.median(np.where(np.isfinite(last), last, np.inf))) if len(last) else math.inf


def _batch(scenario: Scenario, index: int, generator: Generator) -> Any:
    batch = scenario.draw(generator)
    return batch if scenario.batch_fault is None else scenario.batch_fault(index // scenario.accumulate, batch)


def _loader(batches: list[Any]) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=None, shuffle=False)  # type: ignore[arg-type]


def _until(scenario: Scenario, module: L.LightningModule, monitor: _Keeping, batches: list[Any]) -> tuple[Any, _Keeping]:
    """Train to the step of the resume, save, and go on from the file in a new trainer."""
    first = _trainer(scenario, monitor, scenario.resume)
    first.fit(module, _loader(batches[: scenario.resume]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "saved.ckpt"
        first.save_checkpoint(path)
        if scenario.resume_without_state:
            _forget_moments(path)
        second = _Keeping(scenario.logits)
        second.kept = monitor.kept
        _trainer(scenario, second, scenario.steps).fit(module, _loader(batches[scenario.resume :]), ckpt_path=path)
    return module, second


def _forget_moments(path: Path) -> None:
    """As a resume that loads the weights and starts a new optimizer."""
    stored = torch.load(path, weights_only=False)
    for state in stored["optimizer_states"]:
        state["state"] = {}
    torch.save(stored, path)


def _trainer(scenario: Scenario, monitor: DivergenceMonitor, steps: int) -> L.Trainer:
    foreign = scenario.factor is not None or not isinstance(scenario.optimizer, str)
    precision: dict[str, Any] = {"precision": scenario.precision}
    if scenario.precision == "16-mixed":
        scaler = torch.amp.GradScaler("cpu", growth_interval=200)  # type: ignore[attr-defined]
        precision = {"plugins": [MixedPrecision("16-mixed", device="cpu", scaler=scaler)]}
    return L.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_steps=steps * (2 if scenario.gan else 1), max_epochs=-1, callbacks=[monitor],
        accumulate_grad_batches=scenario.accumulate, gradient_clip_val=scenario.clip if foreign else None, **precision,
    )  # fmt: skip


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No messages of some hundred runs; afterwards all is as it was: tests of other things run in this process."""
    loggers = [
        logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric", "lightning_adam", "pytorch_lightning")
    ]
    levels, threads, shown = [logger.level for logger in loggers], torch.get_num_threads(), console.Console
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        torch.set_num_threads(1)
        console.Console = _Silent  # type: ignore[misc,assignment]
        try:
            yield
        finally:
            console.Console = shown  # type: ignore[misc]
            torch.set_num_threads(threads)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


class _Silent:
    """The table at the end of each of some hundred runs helps nobody."""

    def __init__(self, **options: Any) -> None:
        pass

    def print(self, *what: Any) -> None:
        """Nothing."""

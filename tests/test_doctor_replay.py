"""The doctor replays what DivergenceMonitor recorded, and finds what was found live."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.diagnosis import Diagnosis, HeavySignals, NonFinite, RunSignals, StepSignals, encode
from lightning_adam.diagnosis.finding import as_told
from lightning_adam.doctor import report
from lightning_adam.tensorboard import TensorBoardWriter
from tests.benchmarks.divergence import running
from tests.benchmarks.divergence.healthy import HEALTHY
from tests.benchmarks.divergence.sick import SICK
from tests.digits import Digits
from tests.doctor_runs import finding_event, train

RUN = RunSignals(optimizer="AdamW", beta1=0.9, beta2=0.999, eps=1e-8, smallest_eps=1e-8, plain_moments=True, total_steps=200)


def signals(step: int, **changes: Any) -> StepSignals:
    """A healthy step, with changes."""
    heavy = HeavySignals(update_ratio_p50=2e-3, update_ratio_max=5e-3, update_ratio_max_in="w", surprise_max=1.5)
    usual = {"loss": 2.3 * math.exp(-step / 60), "gradient_norm": 1.0, "lr": 1e-3, "beta1": 0.9, "beta2": 0.999}
    return StepSignals(step, **{**usual, "heavy": heavy if step % 10 == 0 else None, **changes})


def recorded_run(folder: Path, stretches: list[list[Any]], later: str = "") -> Path:
    """An event file with recorded signals, a stretch per event, as DivergenceMonitor writes them."""
    writer = SummaryWriter(folder, filename_suffix=later)
    for stretch in stretches:
        TensorBoardWriter(writer).write_signals(stretch[-1].step, encode(stretch))
    writer.close()
    return folder


def live(records: list[Any]) -> list[Any]:
    """What a monitor that saw these records told."""
    diagnosis = Diagnosis(records[0])
    for record in records[1:]:
        diagnosis.observe(record)
    return [as_told(finding) for finding in diagnosis.findings]


def test_recorded_signals_are_replayed(tmp_path: Path) -> None:
    """A spike at step 90 and a NaN at step 150: the same findings, evidence and remedies as live, from the file alone."""
    steps = [signals(step) for step in range(200)]
    steps[90] = signals(90, gradient_norm=900.0, loss=50.0, batch=90)
    steps[150:] = [signals(s, loss=math.nan, gradient_norm=math.nan, non_finite=NonFinite("loss")) for s in range(150, 200)]
    (run,) = report(recorded_run(tmp_path, [[RUN, *steps[:120]], steps[120:]])).runs

    assert [finding.rule for finding in run.findings] == ["BAD-BATCH", "NON-FINITE"]
    np.testing.assert_equal([f.to_dict() for f in run.findings], [f.to_dict() for f in live([RUN, *steps])])
    assert run.gaps == ()
    assert run.basis == "the recorded signals of 200 steps"


def test_recorded_curves_have_every_step(tmp_path: Path) -> None:
    """The spike between two logged steps is in the picture; where the loss was not finite, the curve is NaN."""
    steps = [signals(step) for step in range(50)]
    steps[33] = signals(33, loss=70.0)
    steps[49] = signals(49, loss=math.nan, non_finite=NonFinite("loss"))
    (run,) = report(recorded_run(tmp_path, [[RUN, *steps]])).runs
    loss = next(curve for curve in run.curves if curve.title == "loss")

    assert loss.steps.tolist() == list(range(50))
    assert loss.values[33] == 70.0
    assert math.isnan(loss.values[49])


def test_resumed_records_go_on_where_the_checkpoint_was(tmp_path: Path) -> None:
    """The first part ran to step 99, the second goes on at step 80 with the state of that checkpoint: 80-99 count once."""
    steps = [signals(step) for step in range(160)]
    steps[60] = signals(60, gradient_norm=900.0, loss=50.0)
    abandoned = [signals(s, loss=math.nan, non_finite=NonFinite("loss")) if s == 95 else signals(s) for s in range(80, 100)]
    half = Diagnosis(RUN)
    for step in steps[:80]:
        half.observe(step)
    rest = RunSignals(**{**vars(RUN), "first_step": 80, "state": json.loads(json.dumps(half.state_dict()))})
    recorded_run(tmp_path, [[RUN, *steps[:80]], abandoned], ".a")
    next(tmp_path.glob("*tfevents*")).rename(tmp_path / "events.out.tfevents.1000000000.host")
    recorded_run(tmp_path, [[rest, *steps[80:]]], ".b")
    (run,) = report(tmp_path).runs

    assert [f.to_dict() for f in run.findings] == [f.to_dict() for f in live([rest, *steps[80:]])]
    assert [f.rule for f in run.findings] == ["BAD-BATCH"]
    assert run.curves[0].steps.tolist() == list(range(160))


@pytest.mark.parametrize("stored", [b"", b"{}", b"x\x9c nonsense", encode([RUN])[:-9]])
def test_damaged_records_are_noted(tmp_path: Path, stored: bytes) -> None:
    """A stretch that cannot be decoded is left out; the others are judged."""
    recorded_run(tmp_path, [[RUN, signals(0)]])
    writer = SummaryWriter(tmp_path, filename_suffix=".b")
    TensorBoardWriter(writer).write_signals(9, stored)
    writer.close()
    (run,) = report(tmp_path).runs

    assert "damaged" in run.notes[0]
    assert run.basis == "the recorded signals of 1 step"


AGREEING = (
    "resumed",
    "lr-high-digits",
    pytest.param("lr-high-gan", marks=pytest.mark.slow),
    pytest.param("no-warmup-cnn", marks=pytest.mark.slow),
    "bad-batch",
    "nan-gradient",
    "v-lost",
    "resume-lost",
    "fp16-overflow",
    "not-zeroed",
)


@pytest.mark.parametrize("name", AGREEING)
def test_doctor_finds_what_the_live_monitor_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The benchmark's scenario through a real Trainer with a TensorBoardLogger: the log alone gives the same findings."""
    scenario = next(s for s in (*HEALTHY, *SICK) if s.name == name)
    bare = running._trainer

    def with_logger(*arguments: Any) -> Any:
        made = bare(*arguments)
        made.logger = TensorBoardLogger(tmp_path, name="", version="run")
        return made

    monkeypatch.setattr(running, "_trainer", with_logger)
    found = running.train(scenario, seed=0).findings
    (run,) = report(tmp_path).runs

    assert [repr(finding) for finding in run.findings] == [repr(finding) for finding in found]
    assert any(finding.severity != "info" for finding in found) == bool(scenario.cause)
    assert run.gaps == ()


def test_what_the_monitor_did_is_told(tmp_path: Path) -> None:
    """A rollback is in no signal: the doctor takes it from the findings that were written live."""
    monitor = DivergenceMonitor(on_divergence="rollback")
    train(Digits(poison=(40,)), TensorBoardLogger(tmp_path, name="", version="run"), [monitor])
    (run,) = report(tmp_path).runs

    assert [repr(finding) for finding in run.findings] == [repr(finding) for finding in monitor.findings]
    assert "rollback" in " ".join(finding.message for finding in run.findings)


def test_killed_run_keeps_findings_whose_signals_are_lost(tmp_path: Path) -> None:
    """Signals are written in stretches of 100 steps: the finding of step 130 is there, and its loss in the picture."""
    finding_event(tmp_path, step=130)
    writer = SummaryWriter(tmp_path, filename_suffix=".b")
    TensorBoardWriter(writer).write_signals(99, encode([RUN, *(signals(step) for step in range(100))]))
    writer.add_scalar("train_loss", 7.0, 131)
    writer.close()
    (run,) = report(tmp_path).runs

    assert [(finding.rule, finding.step) for finding in run.findings] == [("NON-FINITE", 130)]
    assert run.curves[0].steps.tolist() == [*range(100), 131]
    assert run.steps == (0, 131)

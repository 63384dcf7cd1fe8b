"""What the Adam tab reads of a log folder: one line per run, what counts of a resumed one, and its findings."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard import context
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.diagnosis import Finding
from lightning_adam.diagnosis.finding import findings_table
from lightning_adam.tensorboard import TensorBoardWriter
from lightning_adam.tensorboard.tab import series
from lightning_adam.tensorboard.tab.condition import condition
from lightning_adam.tensorboard.tab.findings import spans
from lightning_adam.tensorboard.tab.judged import OVERVIEW
from lightning_adam.tensorboard.tab.overview import Overviews, losses
from lightning_adam.tensorboard.tab.recorded import RECORDED, RECORDED_LOSS
from lightning_adam.tensorboard.tab.series import SeriesReader
from tests import tab_runs
from tests.digits import Digits, digits_loader, trainer
from tests.tab_runs import FINDING


def reader(folder: Path) -> tuple[SeriesReader, context.RequestContext]:
    """What the tab reads with, over TensorBoard's Python loader."""
    events = plugin_event_multiplexer.EventMultiplexer(size_guidance={"scalars": 0, "tensors": 0})
    events.AddRunsFromDirectory(str(folder))
    events.Reload()
    provider = data_provider.MultiplexerDataProvider(events, str(folder))
    return SeriesReader(provider, {"scalars": 0, "lightning_adam": 0}), context.RequestContext()


def write(folder: Path, steps: range, loss: float, finding: int | None) -> None:
    """A part of a run, in a file of its own.

    TensorBoard reads files in the order of their names, and two of one second by a number that is compared as text: here
    they are a second apart, as those of a run that is resumed.
    """
    before = {*folder.glob("events*")}
    with SummaryWriter(str(folder), filename_suffix=f".{steps[0]}") as files:
        for step in steps:
            files.add_scalar("train_loss", loss, step)
            files.add_scalar("adam/log10_lr", -3.0, step)
            if step == finding:
                TensorBoardWriter(files).write_events(step, [{**FINDING, "step": step}])
    (written,) = {*folder.glob("events*")} - before
    written.rename(folder / f"events.out.tfevents.{1_700_000_000 + len(before)}.host")


def test_long_run_is_sketched_from_some_of_its_steps_until_it_has_been_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first picture has each sketched step as the whole has it; a run that is shorter than a sketch needs none."""
    monkeypatch.setattr(series, "SKETCHED_CELLS", 20 * len(tab_runs.NAMES))
    for name, steps in (("long", 200), ("short", 15)):
        tab_runs.write(tmp_path / name, range(steps), finding=False)
    data, where = reader(tmp_path)
    asked = ("long", "adam", OVERVIEW, True)
    sketch, whole, again = (data.judged(where, "", *asked, sketch=few) for few in (True, False, True))

    assert (sketch.sketch, whole.sketch, again.sketch) == (True, False, False)
    assert (len(sketch.matrix.steps), len(whole.matrix.steps)) == (20, 200)
    assert sketch.matrix.steps[-1] == 199
    np.testing.assert_array_equal(sketch.matrix.values, whole.matrix.at(sketch.matrix.steps).values)
    assert not data.judged(where, "", "short", "adam", OVERVIEW, True, sketch=True).sketch


@pytest.mark.parametrize(("again", "left"), [(30, []), (33, []), (36, [33])])
def test_resumed_run_shows_one_line_and_only_what_it_did_not_do_again(tmp_path: Path, again: int, left: list[int]) -> None:
    """A finding at step 33 is void where the run went back before it or to it; what was written over is kept apart."""
    write(tmp_path / "run", range(40), 9.0, finding=33)
    write(tmp_path / "run", range(again, 50), 1.0, finding=None)
    series, asking = reader(tmp_path)
    steps, values = series.scalars(asking, "", "run", ["train_loss"])["train_loss"]
    lost = series.scalars(asking, "", "run", ["train_loss"], overwritten=True)["train_loss"]

    assert steps == [*range(50)] and values == [9.0] * again + [1.0] * (50 - again)
    assert lost == [[*range(again, 40)], [9.0] * (40 - again)]
    assert [f["step"] for f in series.findings(asking, "", "run", "adam")] == left


def test_line_of_a_run_tells_its_gravest_finding_and_its_last_loss(tmp_path: Path) -> None:
    """A warning outweighs the advice before it."""
    write(tmp_path / "run", range(40), 2.5, finding=7)
    with SummaryWriter(str(tmp_path / "run"), filename_suffix=".more") as files:
        TensorBoardWriter(files).write_events(40, [{**FINDING, "step": 40, "severity": "critical", "rule": "NON-FINITE"}])
    (line,) = Overviews().lines(*reader(tmp_path), "")

    assert (line.rule, line.severity, line.step, line.findings) == ("NON-FINITE", "critical", 40, 2)
    assert (line.loss, line.loss_tag, line.steps, line.state) == (2.5, "train_loss", 40, "running")
    assert line.settings["lr"] == "0.001"


LASTS, IS_OVER = FINDING | {"over": False}, FINDING | {"over": True}


@pytest.mark.parametrize(
    ("told", "logged", "word"),
    [
        ([], [2.3, 0.4], ""),
        ([LASTS | {"severity": "info"}], [2.3, 0.4], ""),
        ([LASTS], [2.3, 1.9], "sick"),
        ([LASTS], [], "sick"),
        ([LASTS], [2.3, 4.0], "diverged"),
        ([LASTS], [-2.3, -1.0], "sick"),
        ([LASTS | {"rule": "LOSS-DIVERGED"}], [2.3, 1.9], "diverged"),
        ([IS_OVER], [2.3, 0.4], "was sick"),
        ([IS_OVER], [2.3, 2.2], "sick"),
        ([IS_OVER | {"rule": "LOSS-DIVERGED"}], [2.3, 0.4], "was sick"),
        ([IS_OVER | {"rule": "NON-FINITE"}], [2.3, 0.4], "sick"),
        ([IS_OVER | {"rule": "NON-FINITE"}], [], "diverged"),
        ([], [2.3, math.nan], "diverged"),
    ],
)
def test_a_run_that_diverged_is_called_so(told: list[dict[str, Any]], logged: list[float], word: str) -> None:
    """Whether it has ended or not: a damage of the first steps is past only where the loss has fallen since."""
    assert condition(told, logged) == word


def test_what_is_over_is_known_from_the_table_of_findings() -> None:
    """The event was written when it began."""
    found = Finding("LR-HIGH", "warning", 3, "large steps", last_step=9)
    rows = [
        found,
        replace(found, rule="BAD-BATCH", over=True),
        replace(found, rule="EPS-HIGH", optimizer="adam-1", over=True),
    ]

    assert spans(findings_table(rows)) == {
        ("LR-HIGH", 3): (9, False),
        ("BAD-BATCH", 3): (9, True),
        ("EPS-HIGH", 3): (9, True),
    }


def test_a_suspicion_that_the_loss_confirmed_is_one_finding(tmp_path: Path) -> None:
    """Told as information at its step, and as a warning of the same step later: the page shows the warning."""
    with SummaryWriter(str(tmp_path / "run")) as files:
        for at, severity in ((0, "info"), (40, "warning")):
            TensorBoardWriter(files).write_events(at, [{**FINDING, "step": 0, "severity": severity}])
    found, where = reader(tmp_path)

    assert [(f["rule"], f["severity"]) for f in found.findings(where, "", "run", "adam")] == [("LR-HIGH", "warning")]


def test_a_finding_that_a_long_table_leaves_out_is_still_shown(tmp_path: Path) -> None:
    """Of a hundred the table has the first and the last ones; what a whole table lacks was another finding."""
    for run, count, left in (("many", 100, 100), ("few", 9, 8)):
        told = [Finding("LR-HIGH", "warning", step, "large steps") for step in range(count)]
        with SummaryWriter(str(tmp_path / run)) as files:
            writer = TensorBoardWriter(files)
            for found in told:
                writer.write_events(found.step, [found.to_dict()])
            writer.write_text("adam/findings", findings_table(told if run == "many" else told[1:]), count)
        data, where = reader(tmp_path)
        assert len(data.findings(where, "", run, "adam")) == left


def test_the_loss_of_a_module_that_logs_none_is_the_recorded_one(tmp_path: Path) -> None:
    """A real run with a DivergenceMonitor alone has its line, with its settings and the loss that the module returned."""
    module = Digits()
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    trainer(max_steps=30, callbacks=[DivergenceMonitor()], logger=logger, log_every_n_steps=10).fit(module, digits_loader())
    series, asking = reader(tmp_path)
    (line,) = Overviews().lines(series, asking, "")
    found = series.scalars(asking, "", "run", [*RECORDED.values()])
    losses, rates, norms = (found[tag][1] for tag in RECORDED.values())

    assert (line.loss_tag, line.steps, line.condition, line.watched) == (RECORDED_LOSS, 30, "", True)
    assert (line.settings["optimizer"], line.settings["lr"], line.total) == ("AdamW", "0.003", 30)
    assert [steps for steps, _ in found.values()] == [[*range(30)]] * 3
    assert losses == pytest.approx(module.losses, rel=1e-5)
    assert line.loss == losses[-1]
    assert max(rates) == pytest.approx(3e-3) and min(norms) > 0


def test_the_recorded_loss_comes_before_what_no_training_has() -> None:
    """But after one that is named as the training loss."""
    logged = ["accuracy", "val_loss", "train_loss"]

    assert losses(logged, recorded=True) == ["train_loss", RECORDED_LOSS, "val_loss", "accuracy"]
    assert losses(["val/loss", "evaluation"], recorded=True)[0] == RECORDED_LOSS
    assert losses(["train/value_loss", "val_loss"], recorded=True)[0] == "train/value_loss"


def test_what_was_logged_stands_in_for_a_loss_that_the_diagnosis_was_not_told(tmp_path: Path) -> None:
    """A plain loop that never calls ``watch.loss``: its signals have none."""
    net = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(net.parameters())
    with SummaryWriter(str(tmp_path / "run")) as files, la.watch(net, optimizer, writer=files) as watch:
        for step in range(25):
            optimizer.zero_grad()
            net(torch.ones(4, 2)).square().mean().backward()
            optimizer.step()
            files.add_scalar("val_loss", 0.5, step)
    (line,) = Overviews().lines(*reader(tmp_path), "")

    assert watch.failures == frozenset()
    assert (line.loss_tag, line.loss) == ("val_loss", 0.5)


def test_training_loss_is_known_by_its_name() -> None:
    """The surest name first; what cannot be one is left out."""
    assert losses(["val_loss", "epoch", "adam/log10_lr", "lr-Adam", "accuracy", "train_loss"])[:2] == [
        "train_loss",
        "val_loss",
    ]

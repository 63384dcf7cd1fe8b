"""The doctor on what anybody may have put into a log folder: each file gives a report, and none spoils the others'."""

from __future__ import annotations

import functools
import json
import os
import tempfile
import tracemalloc
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from lightning_adam.cli import main
from lightning_adam.diagnosis import Diagnosis, StepSignals, decode, rules
from lightning_adam.doctor import Report, report
from lightning_adam.doctor.judgement import MOST_NOTES
from lightning_adam.tensorboard import reader
from tests import hostile
from tests.hostile import EVENTS, EVIL_TEXT

HEALTHY = b"".join(hostile.scalar(step, "train_loss", 1 / (step + 1)) for step in range(50))


def folder_with(place: Path, name: str, content: bytes) -> Path:
    """That file beside a healthy run."""
    for run, file, stored in (("healthy", EVENTS, HEALTHY), ("bad", name, content)):
        (place / run).mkdir()
        (place / run / file).write_bytes(stored)
    return place


def assert_is_a_report(found: Report) -> None:
    """The healthy run is judged; every form can be written, and none carries what steers a terminal or a browser."""
    (healthy,) = [run for run in found.runs if run.name == "healthy"]
    assert (healthy.findings, healthy.notes) == ((), ())
    assert all(len(run.notes) <= MOST_NOTES + 1 for run in found.runs)
    forms = {"text": found.to_text(), "markdown": found.to_markdown(), "json": found.to_json(), "html": found.to_html()}
    json.loads(forms["json"])
    for form in forms.values():
        form.encode()
        steering = {sign for sign in form if unicodedata.category(sign) in ("Cc", "Cs") or sign == "\u202e"}
        assert steering <= {"\n"}
    for form in (forms["markdown"], forms["html"]):
        assert "<script" not in form and "<img" not in form


def assert_reported(name_and_content: tuple[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as place:
        assert_is_a_report(report(folder_with(Path(place), *name_and_content)))


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@given(hostile.hostile_files)
@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
def test_any_file_gives_a_report(name_and_content: tuple[str, bytes]) -> None:
    """Bytes and values of real logs changed, events and tables made up."""
    assert_reported(name_and_content)


@pytest.mark.slow
@given(hostile.hostile_files)
@settings(max_examples=5000, deadline=None, suppress_health_check=QUIET, derandomize=False)
def test_five_thousand_files_give_a_report(name_and_content: tuple[str, bytes]) -> None:
    """About five minutes of the same."""
    assert_reported(name_and_content)


@functools.cache
def bomb() -> bytes:
    """A quarter of a gigabyte once it is inflated; made when it is needed, as it takes a second."""
    return zlib.compress(b" " * 2**28, 9)


DEEP = b"[" * 200_000
FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "deep JSON in signals": (EVENTS, lambda: hostile.text(1, "adam_signals", zlib.compress(DEEP))),
    "deep JSON in findings": (EVENTS, lambda: hostile.text(1, "adam_events", DEEP)),
    "deep JSON in names": (EVENTS, lambda: hostile.matrix(1, "adam_matrix/update_ratio", DEEP, [1.0])),
    "signals that inflate": (EVENTS, lambda: hostile.text(1, "adam_signals", bomb())),
    "names without end": (
        EVENTS,
        lambda: hostile.matrix(1, "adam_matrix/update_ratio", hostile.rows([*range(100_000)]), [1.0]),
    ),
    "other names at each step": (
        EVENTS,
        lambda: b"".join(
            hostile.matrix(i, "adam_matrix/update_ratio", hostile.rows([i, -i]), [1e-3, 1e-3]) for i in range(1, 3000)
        ),
    ),
    "damage between all records": (EVENTS, lambda: (b"\xff" * 13 + hostile.header(1) + b"\xff" + b"\0" * 4) * 20_000),
    "steps that go to and fro": (
        EVENTS,
        lambda: b"".join(hostile.text(20_000 + i % 2 if i > 4000 else i, "adam_events", b"[]") for i in range(8_000)),
    ),
    "purged again and again": (
        EVENTS,
        lambda: b"".join(hostile.scalar(i, "loss", 1.0) + hostile.start(2**40) for i in range(4000)),
    ),
    "damaged findings at each step": (EVENTS, lambda: b"".join(hostile.text(i, "adam_events", b"x") for i in range(2000))),
    "optimizers without end": (EVENTS, lambda: b"".join(hostile.scalar(1, f"adam-{i}/log10_lr", -3.0) for i in range(2000))),
    "a tag that takes patterns long": (EVENTS, lambda: hostile.scalar(1, "train" * 100_000, 1.0)),
    "largest floats": (
        "metrics.csv",
        lambda: b"step,loss\n" + b"".join(b"%d,%s1.7e308\n" % (i, b"-" * (i % 2)) for i in range(60)),
    ),
    "largest steps": ("metrics.csv", lambda: b"step,loss\n1e19,1\n9.2e18,1\n-9.2e18,2\n"),
    "words that steer": ("metrics.csv", lambda: f"step,loss,{EVIL_TEXT!r}\n1,1,1".encode()),
    "nothing but quotes": ("metrics.csv", lambda: b'step,"' * 50_000),
}


SWOLLEN = ("signals that inflate", "names without end", "other names at each step")
"""Whose memory is measured, which takes time."""


@pytest.mark.parametrize("kind", FILES)
def test_time_and_memory_follow_the_bytes(kind: str, tmp_path: Path) -> None:
    """Whatever they say: a few megabytes are read within seconds, in memory of their order."""
    name, make = FILES[kind]
    folder = folder_with(tmp_path, name, make())
    if kind not in SWOLLEN:
        assert_is_a_report(report(folder))
        return
    tracemalloc.start()
    try:
        assert_is_a_report(report(folder))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 200 * 2**20


def test_long_and_wide_tables_are_read_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every n-th step up to the last one, which is told."""
    monkeypatch.setattr(reader, "MOST_CELLS", 30)
    events = b"".join(hostile.matrix(i, "adam_matrix/update_ratio", hostile.rows(["a", "b"]), [i, 2 * i]) for i in range(40))
    (tmp_path / EVENTS).write_bytes(events)
    run = reader.read_run("run", tmp_path, [tmp_path / EVENTS])
    table = run.tables["adam_matrix/update_ratio"]

    assert table.steps.tolist() == list(range(0, 40, 3)) and table.steps[-1] == 39
    assert table.values.tolist() == [[step, 2 * step] for step in table.steps.tolist()]
    assert run.notes == ["adam_matrix/update_ratio has 40 steps of 2 tensors: one in 3 was read"]


def test_names_that_are_no_text_are_shown_as_far_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with a Latin-1 name, and one that would turn the terminal's title."""
    for name in (b"caf\xe9", b"\x1b]0;owned\x07"):
        place = os.fsencode(tmp_path) + b"/" + name
        os.mkdir(place)
        Path(os.fsdecode(place), EVENTS).write_bytes(HEALTHY)

    for form in ("text", "json", "markdown", "html"):
        assert main(["doctor", str(tmp_path), "--format", form]) == 0
    told = capsys.readouterr().out
    assert "caf\N{REPLACEMENT CHARACTER}" in told and "\x1b" not in told


def test_a_rule_that_raises_is_that_rules_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others judge, live and in the doctor; the run's report says which one could not."""

    def broken(case: Any) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setitem(rules.RULES, "PLATEAU", broken)
    (tmp_path / EVENTS).write_bytes(hostile.CORPUS[EVENTS])
    (run,) = report(tmp_path).runs
    live = Diagnosis()
    live.observe(StepSignals(0, loss=float("nan")))

    assert [finding.rule for finding in run.findings] == ["LR-HIGH", "NON-FINITE"]
    assert run.notes == ("the rule broken could not judge this run (RuntimeError: no such thing)",)
    assert live.failures == {"broken": "RuntimeError: no such thing"}


def test_a_run_that_cannot_be_judged_is_that_runs_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report has the others."""
    from lightning_adam.doctor import judgement

    original = judgement.curves
    monkeypatch.setattr(judgement, "curves", lambda run, *more: 1 / (run.name != "bad") and original(run, *more))
    found = report(folder_with(tmp_path, EVENTS, HEALTHY))

    notes = {run.name: run.notes for run in found.runs}
    assert notes == {"healthy": (), "bad": ("it could not be judged: ZeroDivisionError: division by zero",)}


NO_STRETCHES: dict[str, Callable[[], bytes]] = {
    "inflates": bomb,
    "cut off": lambda: zlib.compress(b"1" * 5000)[:-3],
    "not compressed": lambda: b"x",
    "an empty list": lambda: zlib.compress(b"[]"),
    "an empty object": lambda: zlib.compress(b"{}"),
}


@pytest.mark.parametrize("kind", NO_STRETCHES)
def test_what_is_no_stretch_of_signals_is_a_value_error(kind: str) -> None:
    """One kind of error for all: who reads needs no list of what JSON and zlib raise."""
    with pytest.raises(ValueError, match="not recorded signals"):
        decode(NO_STRETCHES[kind]())

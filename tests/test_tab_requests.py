"""The Adam tab's server side: whatever is asked, by however many at once, whatever the log holds."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from werkzeug.test import Client

from lightning_adam.tensorboard.tab import tiles
from lightning_adam.tensorboard.tab.going_back import parted
from lightning_adam.tensorboard.tab.judged import Judge
from lightning_adam.tensorboard.tab.plugin import AdamPlugin
from tests import hostile, tab_runs
from tests.hostile import EVENTS, EVIL_TEXT

Apps = dict[str, Client]
ASKED = ("/runs", "/table", "/run", "/scalars", "/rows", "/histogram", "/matrix", "/report", "/explanation")


class Forgetful(data_provider.MultiplexerDataProvider):  # type: ignore[misc]
    """As TensorBoard's data server reads: what a resumed run wrote over is gone."""

    def read_scalars(self, *where: Any, **asked: Any) -> Any:
        """Only what counts of each series."""
        found = super().read_scalars(*where, **asked)
        return {run: {tag: parted(points)[0] for tag, points in series.items()} for run, series in found.items()}


def serving(logdir: Path, provider: Any = data_provider.MultiplexerDataProvider) -> Apps:
    """The plugin on TensorBoard's own reader, without a server around it: a client for each route."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer(size_guidance={"scalars": 0, "tensors": 0})
    multiplexer.AddRunsFromDirectory(str(logdir))
    multiplexer.Reload()
    context = SimpleNamespace(
        data_provider=provider(multiplexer, str(logdir)),
        logdir=str(logdir),
        sampling_hints={},
    )
    return {route: Client(app) for route, app in AdamPlugin(context).get_plugin_apps().items()}


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Apps:
    """Of a run that is as it should be, and of three that are not."""
    folder = tmp_path_factory.mktemp("requests")
    tab_runs.write(folder / "known", range(0, 200, 10))
    tab_runs.write_truncated(folder / "truncated")
    tab_runs.write_nonsense(folder / "nonsense")
    (folder / "hostile").mkdir()
    deep, many = (
        b"[" * 100_000,
        [{"step": 10**30, "evidence": {"a": [[]], "b": 1}}, {"step": 1e999}, {"step": 3, "rule": EVIL_TEXT}],
    )
    events = [
        hostile.matrix(0, "adam_matrix/update_ratio", deep, [1.0]),
        hostile.matrix(2**62, "adam_matrix/update_ratio", hostile.rows([EVIL_TEXT]), [float("nan")] * 3),
        hostile.text(1, "adam_events", deep),
        *(hostile.text(2 + i, "adam_events", json.dumps([one]).encode()) for i, one in enumerate(many)),
        hostile.text(5, "adam_matrix/signal_to_noise", b"words"),
    ]
    (folder / "hostile" / EVENTS).write_bytes(b"".join(events))
    return serving(folder)


def test_a_hostile_run_is_answered_with_what_is_readable(apps: Apps) -> None:
    """Its findings have the fields that the page relies on; its words stay words."""
    told = json.loads(apps["/run"].get("/run", query_string={"run": "hostile"}).data)
    (optimizer,) = told["optimizers"]

    assert [finding["rule"] for finding in optimizer["findings"]] == [EVIL_TEXT, "?"]
    assert optimizer["findings"][1] | {"step": 0, "last_step": 0} == {
        "last_step": 0,
        **{"rule": "?", "severity": "info", "step": 0, "message": "", "evidence": {"b": 1}, "parameters": [], "remedy": ""},
        "over": False,
    }
    assert (
        apps["/matrix"]
        .get("/matrix", query_string={"run": "hostile", "prefix": "adam", "quantity": "update_ratio"})
        .status_code
        == 200
    )


_WORDS = st.sampled_from(
    ("known", "hostile", "nonsense", "", "..", "../../../etc/passwd", "adam", "update_ratio", EVIL_TEXT, "x" * 5000)
)
_NUMBERS = st.sampled_from(
    ("0", "-1", "1", "99999", str(2**63), str(-(2**70)), "9" * 5000, "1e3", "nan", "", "0x10")
) | st.integers().map(str)
_QUERY = st.dictionaries(st.sampled_from(("run", "prefix", "quantity", "tag", "code")), _WORDS).flatmap(
    lambda words: st.dictionaries(st.sampled_from(("row", "step", "columns", "first", "last")), _NUMBERS).map(
        lambda numbers: {**words, **numbers}
    )
)


def _status(apps: Apps, route: str, query: dict[str, str]) -> tuple[int, Any]:
    """Of the answer, which is JSON where it is no matrix."""
    answer = apps[route].get(route, query_string=query)
    is_json = answer.status_code != 200 or route not in ("/matrix", "/report")
    return answer.status_code, json.loads(answer.data) if is_json else answer.data


QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@given(st.sampled_from(ASKED), _QUERY)
@settings(max_examples=150, deadline=None, suppress_health_check=QUIET)
def test_any_request_gets_an_answer(apps: Apps, route: str, query: dict[str, str]) -> None:
    """Data, or a sentence with status 400 or 404; never an exception."""
    status, told = _status(apps, route, query)
    assert status in (200, 400, 404), told


@pytest.mark.slow
@given(st.sampled_from(ASKED), _QUERY)
@settings(max_examples=20_000, deadline=None, suppress_health_check=QUIET)
def test_twenty_thousand_requests_get_answers(apps: Apps, route: str, query: dict[str, str]) -> None:
    """A few minutes of the same."""
    status, told = _status(apps, route, query)
    assert status in (200, 400, 404), told


def test_two_hundred_at_once_get_the_same_answer(apps: Apps, monkeypatch: pytest.MonkeyPatch) -> None:
    """What many ask for is read once, the quantity and the two that its colours need, and held once."""
    read: list[int] = []
    original = tiles.Matrix.stack
    monkeypatch.setattr(tiles.Matrix, "stack", classmethod(lambda _, points: read.append(1) or original(points)))
    query, gate = {"run": "truncated", "prefix": "adam", "quantity": "gradient_norm"}, threading.Barrier(200)

    def ask(_: int) -> tuple[int, bytes]:
        gate.wait(30)
        answer = apps["/matrix"].get("/matrix", query_string=query)
        return answer.status_code, answer.data

    with ThreadPoolExecutor(200) as pool:
        answers = set(pool.map(ask, range(200)))

    assert len(answers) == 1 and next(iter(answers))[0] == 200
    assert len(read) == len(Judge({}, ()).needed("gradient_norm"))


def test_the_report_of_a_run_is_the_doctors_page(apps: Apps) -> None:
    """Of this run alone; a folder that TensorBoard lists no run for is not read."""
    answer = apps["/report"].get("/report", query_string={"run": "known"})
    page = answer.data.decode()
    assert answer.mimetype == "text/html"
    assert "LR-HIGH" in page and "lightning-adam doctor" in page and "truncated" not in page
    for run in ("..", "nowhere", "../known"):
        assert apps["/report"].get("/report", query_string={"run": run}).status_code == 404


def test_an_explanation_is_html_without_a_script(apps: Apps) -> None:
    """A code from somebody else's log is no code: nothing of it is answered."""
    told = json.loads(apps["/explanation"].get("/explanation", query_string={"code": "LR-HIGH"}).data)["html"]
    assert "<h2>What to do, in order</h2>" in told and "<script" not in told
    assert json.loads(apps["/explanation"].get("/explanation", query_string={"code": EVIL_TEXT}).data) == {"html": ""}


def test_no_route_leads_out_of_the_static_folder(apps: Apps) -> None:
    """The files are those that were there at the start, each under its own name."""
    static = [route for route in apps if route.startswith("/static/")]

    assert static and all(".." not in route and route.count("/") == 2 for route in static)
    assert (
        apps["/static/index.js"].get("/static/../../plugin.py").data == apps["/static/index.js"].get("/static/index.js").data
    )


def test_a_row_of_great_width_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """One event must not make all others as wide."""
    monkeypatch.setattr(tiles, "MOST_CELLS", 30)
    matrix = tiles.Matrix.stack((step, np.ones(1000 if step == 3 else 2, np.float32)) for step in range(10))

    assert matrix.values.shape == (10, 3)


@pytest.mark.parametrize("provider", [data_provider.MultiplexerDataProvider, Forgetful])
def test_what_a_resumed_run_does_again_replaces_what_was_there(tmp_path: Path, provider: Any) -> None:
    """It blew up at step 33 and was resumed from 30 into the same folder: charts and findings are the second try's.

    What it wrote over is still there to be drawn, though the data server forgets it.
    """

    def logged(step: int, time: float, loss: float) -> bytes:
        return hostile.scalar(step, "train_loss", loss, time) + hostile.scalar(step, "adam/log10_lr", -3.0, time)

    def told(step: int, time: float) -> bytes:
        return hostile.text(step, "adam_events", json.dumps([{"rule": "BAD-BATCH", "step": step}]).encode(), time)

    first = [told(0, 0.0), *(logged(step, float(step), 9.0) for step in range(36)), told(33, 33.5)]
    second = [*(logged(step, 70.0 + step, 1.0) for step in range(30, 50)), told(40, 110.5)]
    (tmp_path / EVENTS).write_bytes(b"".join(first))
    (tmp_path / "events.out.tfevents.2").write_bytes(b"".join(second))
    apps = serving(tmp_path, provider)
    steps, losses = json.loads(apps["/scalars"].get("/scalars?run=.&tag=train_loss").data)["train_loss"]
    lost = json.loads(apps["/scalars"].get("/scalars?run=.&tag=train_loss&overwritten=1").data)["train_loss"]
    (optimizer,) = json.loads(apps["/run"].get("/run?run=.").data)["optimizers"]

    assert steps == [*range(50)] and losses == [9.0] * 30 + [1.0] * 20
    assert lost == [[*range(30, 36)], [9.0] * 6]
    assert [finding["step"] for finding in optimizer["findings"]] == [0, 40]

"""Answers the page's requests."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tensorboard import errors, plugin_util
from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import wrappers
from werkzeug.exceptions import HTTPException

from lightning_adam.explain import codes, explanation
from lightning_adam.tensorboard.tab.overview import Overviews, losses
from lightning_adam.tensorboard.tab.overwritten import Overwritten
from lightning_adam.tensorboard.tab.own_histogram import Place, own_histogram
from lightning_adam.tensorboard.tab.recorded import RECORDED
from lightning_adam.tensorboard.tab.report import report_page
from lightning_adam.tensorboard.tab.series import MATRIX, SeriesReader
from lightning_adam.tensorboard.tab.tiles import tile
from lightning_adam.tensorboard.tags import PLUGIN, QUANTITY_TEXTS

LOG = logging.getLogger(__name__)
STATIC = Path(__file__).parent / "static"
MIME = {".js": "text/javascript", ".css": "text/css"}
USUAL_COLUMNS, MOST_COLUMNS = 1024, 4096
LARGEST = 2**63 - 1
"""Step: arrays of steps hold no larger one."""

Where = tuple[Any, str]
"""TensorBoard's request context and experiment: the first arguments of every reader method."""


class AdamPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """The tab's server side.

    Args:
        context: TensorBoard's ``TBContext``.
    """

    plugin_name = PLUGIN

    def __init__(self, context: Any) -> None:
        self._series = SeriesReader(context.data_provider, context.sampling_hints or {})
        self._overviews = Overviews()
        self._logdir = getattr(context, "logdir", None) or ""
        self._overwritten = Overwritten(self._logdir)

    def is_active(self) -> bool:
        """TensorBoard shows the tab by itself where a run has our series; else it is in the list of inactive ones."""
        return False

    def frontend_metadata(self) -> Any:
        """The page's entry module and the tab's name."""
        return base_plugin.FrontendMetadata(es_module_path="/static/index.js", tab_name="Adam")

    def get_plugin_apps(self) -> dict[str, Any]:
        """Route to WSGI application; the files are those that exist at the start, so no path leads out of the folder."""
        answers = {
            "/runs": self._runs,
            "/table": self._table,
            "/run": self._run,
            "/scalars": self._scalars,
            "/rows": self._rows,
            "/histogram": self._histogram,
            "/own_histogram": self._own_histogram,
            "/explanation": _explanation,
        }
        files = {f"/static/{path.name}": _file(path) for path in STATIC.iterdir() if path.suffix in MIME}
        return (
            files
            | {route: _application(make, "application/json") for route, make in answers.items()}
            | {"/matrix": _application(self._matrix, "application/octet-stream")}
            | {"/report": _application(self._report, "text/html")}
        )

    def _runs(self, request: wrappers.Request) -> dict[str, Any]:
        where = _where(request)
        ours = self._series.optimizers(*where)
        return {
            "runs": {run: max(o.max_wall_time for o in optimizers) for run, optimizers in ours.items()},
            "others": [run for run in self._series.runs(*where) if run not in ours],
        }

    def _table(self, request: wrappers.Request) -> list[dict[str, Any]]:
        """A line per run with data of ours."""
        return [asdict(line) for line in self._overviews.lines(self._series, *_where(request))]

    def _run(self, request: wrappers.Request) -> dict[str, Any]:
        where, run = _where(request), request.args["run"]
        optimizers = self._series.optimizers(*where, run).get(run, [])
        tags = self._series.scalar_tags(*where, [run]).get(run, [])
        recorded = any(optimizer.recorded for optimizer in optimizers)
        return {
            "run": run,
            "scalars": tags,
            "losses": losses(tags, recorded),
            "recorded": RECORDED if recorded else {},
            "texts": QUANTITY_TEXTS,
            "optimizers": [
                asdict(o) | {"findings": self._series.findings(*where, run, o.prefix) if o.findings else []}
                for o in optimizers
            ],
        }

    def _scalars(self, request: wrappers.Request) -> dict[str, Any]:
        run, tags, overwritten = request.args["run"], request.args.getlist("tag"), "overwritten" in request.args
        found = self._series.scalars(*_where(request), run, tags, overwritten)
        if overwritten and not any(steps for steps, _ in found.values()) and self._lists(request, run):
            return self._overwritten.scalars(run, tags)
        return found

    def _matrix(self, request: wrappers.Request) -> bytes:
        run, prefix, quantity = (request.args[name] for name in ("run", "prefix", "quantity"))
        planned = request.args.get("rate", "planned") == "planned"
        judged = self._series.judged(*_where(request), run, prefix, quantity, planned, "sketch" in request.args)
        columns = min(max(_whole(request, "columns") or USUAL_COLUMNS, 1), MOST_COLUMNS)
        first, last = _whole(request, "first"), _whole(request, "last")
        about = {"bands": {name: band.plain() for name, band in judged.bands.items()}, "sketch": judged.sketch}
        return tile(judged.matrix.between(first, last), columns, about)

    def _rows(self, request: wrappers.Request) -> dict[str, Any]:
        """One tensor's quantities over time: {quantity: [steps, values]}."""
        row, prefix = _whole(request, "row") or 0, request.args["prefix"] + MATRIX
        tags = [prefix + quantity for quantity in request.args.getlist("quantity")]
        found = self._series.matrices(*_where(request), request.args["run"], tags)
        return {
            tag.removeprefix(prefix): [matrix.steps.tolist(), matrix.of_tensor(row)]
            for tag, matrix in found.items()
            if 0 <= row < matrix.values.shape[1]
        }

    def _histogram(self, request: wrappers.Request) -> dict[str, Any]:
        step = _whole(request, "step") or 0
        return self._series.histogram(*_where(request), request.args["run"], request.args["tag"], step)

    def _own_histogram(self, request: wrappers.Request) -> dict[str, Any]:
        """Of one tensor, at the step nearest to the one that is asked for."""
        run, prefix, quantity = (request.args[name] for name in ("run", "prefix", "quantity"))
        place = Place(_where(request), run, prefix, _whole(request, "row") or 0)
        return asdict(own_histogram(self._series, place, quantity, _whole(request, "step") or 0))

    def _report(self, request: wrappers.Request) -> str:
        """The doctor's page on one run; a name is only taken for a folder where TensorBoard lists such a run."""
        run = request.args["run"]
        if not self._lists(request, run):
            raise errors.NotFoundError(f"There is no run {run!r}.")
        return report_page(self._logdir, run)

    def _lists(self, request: wrappers.Request, run: str) -> bool:
        """Whether TensorBoard has such a run: only then its name may be part of a path."""
        return run in self._series.runs(*_where(request))


def _explanation(request: wrappers.Request) -> dict[str, str]:
    """What ``lightning-adam explain`` says, as HTML; empty for a code that this version does not know."""
    code = request.args["code"]
    return {"html": explanation(code).as_html() if code in codes() else ""}


def _where(request: wrappers.Request) -> Where:
    return plugin_util.context(request.environ), plugin_util.experiment_id(request.environ)


def _whole(request: wrappers.Request, name: str) -> int | None:
    """An argument; None where it is missing or no whole number."""
    number = request.args.get(name, type=int)
    return None if number is None else min(max(number, -LARGEST), LARGEST)


def _file(path: Path) -> Any:
    return _application(lambda _: path.read_bytes(), MIME[path.suffix])


def _application(make: Callable[[wrappers.Request], Any], content_type: str) -> Any:
    """A WSGI application. What goes wrong is told to the page in a sentence and to the log in a line."""

    @wrappers.Request.application
    def answer(request: wrappers.Request) -> wrappers.Response:
        try:
            return http_util.Respond(request, make(request), content_type)  # type: ignore[no-any-return]
        except Exception as error:
            code, text = _reason(error)
            LOG.warning("Adam tab: %s: %s", request.path, text)
            return http_util.Respond(request, {"error": text}, "application/json", code=code)  # type: ignore[no-any-return]

    return answer


def _reason(error: Exception) -> tuple[int, str]:
    if isinstance(error, HTTPException):
        return error.code or 400, str(error)
    if isinstance(error, errors.PublicError):
        return error.http_code, str(error)
    return 500, f"{type(error).__name__}: {error}"

"""Histories as tables: Lightning's ``metrics.csv``, and what WandB exports as CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lightning_adam.tensorboard.files import open_plain, read_plain
from lightning_adam.tensorboard.reader import RunLog, Series, latest

STEPS = ("trainer/global_step", "_step", "step", "Step", "global_step")
"""Names of the column that holds the step; the first that is there counts (WandB's ``_step`` counts its own calls)."""

OF_TRANSFORMERS = "log_history"
"""What holds the rows in the ``trainer_state.json`` of Hugging Face's Trainer."""

MOST_STEPS = 2**63
"""What no step reaches: numpy's whole numbers end there."""

Row = Mapping[str, Any]


def is_history(place: Path) -> bool:
    """Whether a table that has no telling name is a history: WandB's begins with a column ``_step``."""
    try:
        file, _ = open_plain(place)
    except OSError:
        return False
    with file:
        beginning = file.read(4096)
    if place.suffix != ".csv":
        return b'"_step"' in beginning or f'"{OF_TRANSFORMERS}"'.encode() in beginning
    header = beginning.splitlines()[0].lstrip(b"\xef\xbb\xbf") if beginning else b""
    columns = [column.strip(b'"') for column in header.split(b",")]
    return b"_step" in columns or columns[0] == b"Step"


def read_history(place: Path, name: str) -> list[RunLog]:
    """The run in one table; several where WandB's chart export put them side by side ("<run> - <metric>").

    Args:
        place: a CSV file, a JSON list of rows, JSON lines, or a JSON object of columns.
        name: the run's name.
    """
    run = RunLog(name, place)
    try:
        text = _text(read_plain(place))
        rows = _csv_rows(text, run.notes) if place.suffix == ".csv" else list(_json_rows(text))
    except (ValueError, OSError, RecursionError, csv.Error) as error:
        run.notes.append(f"{place.name} could not be read: {error}")
        return [run]
    run.scalars = series_of(rows, run.notes)
    return _side_by_side(run) if any("Step" in row for row in rows[:1]) else [run]


UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""How a file that Excel or PowerShell has saved anew may begin."""
DELIMITERS = ",;\t"


def _text(content: bytes) -> str:
    return content.decode("utf-16" if content.startswith(UTF_16) else "utf-8-sig", errors="replace")


LONGEST_FIELD = 2**31 - 1
"""What ``csv`` can be told on every system; its own limit of 131,072 characters is less than a picture as text has."""


def _csv_rows(text: str, notes: list[str]) -> list[Row]:
    """Spreadsheets part the columns with semicolons or tabs where a comma is for decimals."""
    delimiter = max(DELIMITERS, key=text.partition("\n")[0].count)
    with _long_fields():
        rows: list[Row] = list(csv.DictReader(io.StringIO(text.replace("\0", ""), newline=""), delimiter=delimiter))
    if text.count('"') % 2 and any(isinstance(cell, str) and "\n" in cell for row in rows[-1:] for cell in row.values()):
        notes.append("a quotation mark is not closed: what follows it could not be read")
    return rows if delimiter == "," else _with_points(rows)


DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+,\d+([eE][+-]?\d+)?\s*")


def _with_points(rows: list[Row]) -> list[Row]:
    """Decimal commas as points, in columns that have none; a comma in a step parts thousands."""
    cells = [(name, cell) for row in rows for name, cell in row.items() if isinstance(cell, str) and name not in STEPS]
    commas = {name for name, cell in cells if DECIMAL_COMMA.fullmatch(cell)} - {name for name, cell in cells if "." in cell}
    return [{name: _with_point(cell) if name in commas else cell for name, cell in row.items()} for row in rows]


def _with_point(cell: Any) -> Any:
    return cell.replace(",", ".") if isinstance(cell, str) and DECIMAL_COMMA.fullmatch(cell) else cell


@contextmanager
def _long_fields() -> Iterator[None]:
    """The limit is the process's: others get it back."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _json_rows(text: str) -> Iterable[Row]:
    try:
        content = json.loads(text)
    except ValueError:
        return _json_lines(text)
    if isinstance(content, dict) and isinstance(content.get(OF_TRANSFORMERS), list):
        content = content[OF_TRANSFORMERS]
    if isinstance(content, dict):
        return _rows_of_columns(content) if any(isinstance(v, list | dict) for v in content.values()) else [content]
    if isinstance(content, list):
        return [row for row in content if isinstance(row, dict)]
    raise ValueError("neither a list of rows nor an object of columns")


def _json_lines(text: str) -> list[Row]:
    """One object per line; the last may be cut off."""
    lines = [line for line in text.splitlines() if line.strip()]
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines) or number == 1:
                raise ValueError(f"line {number} is not JSON ({error})") from error
    return [row for row in rows if isinstance(row, dict)]


def _rows_of_columns(columns: Mapping[str, Any]) -> list[Row]:
    """``DataFrame.to_json()`` gives columns: {"loss": {"0": 2.3, "1": 2.1}}, or lists."""
    rows: dict[str, dict[str, Any]] = {}
    for name, column in columns.items():
        cells = column.items() if isinstance(column, dict) else enumerate(column) if isinstance(column, list) else ()
        for index, value in cells:
            rows.setdefault(str(index), {})[name] = value
    return list(rows.values())


def series_of(rows: Sequence[Row], notes: list[str]) -> dict[str, Series]:
    """The numbers of each column by step.

    Args:
        rows: by column; a cell that is no number is passed over.
        notes: gets a word where no column holds the step.
    """
    key = next((name for name in STEPS if any(name in row for row in rows[:50])), None)
    if key is None:
        if rows:
            told = "; it counts epochs, too far apart to be judged by" if any("epoch" in row for row in rows[:50]) else ""
            notes.append(f"no column is named {', '.join(STEPS[:-1])} or {STEPS[-1]}{told}")
        return {}
    points: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        step = number(row.get(key))
        if step is None or not abs(step) < MOST_STEPS:
            continue
        for name, cell in row.items():
            value = number(cell) if name != key and isinstance(name, str) else None
            if value is not None:
                steps, values = points.setdefault(name, ([], []))
                steps.append(int(step))
                values.append(value)
    return {name: _series(*columns) for name, columns in points.items()}


def _series(steps: list[int], values: list[float]) -> Series:
    array = np.asarray(steps, dtype=np.int64)
    kept = latest(array)
    return Series(array[kept], np.asarray(values, dtype=np.float64)[kept])


def number(cell: Any) -> float | None:
    """A cell as a number; None for an empty one and for words. "NaN" and "Infinity" are numbers.

    Example:
        >>> number("1e-3"), number(""), number("Infinity"), number(True)
        (0.001, None, inf, None)
    """
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        return None
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return None


def _side_by_side(run: RunLog) -> list[RunLog]:
    """WandB's chart export: columns "<run> - <metric>" with their minimum and maximum beside them."""
    runs: dict[str, RunLog] = {}
    for column, series in run.scalars.items():
        name, dash, metric = column.rpartition(" - ")
        if metric.endswith(("__MIN", "__MAX")) or metric == "_step":
            continue
        full = f"{run.name}/{name}" if dash else run.name
        runs.setdefault(full, RunLog(full, run.path, notes=run.notes)).scalars[metric] = series
    return list(runs.values()) or [run]

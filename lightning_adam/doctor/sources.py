"""Finds the runs below a folder: event files, Lightning's ``metrics.csv``, and histories exported from WandB."""

from __future__ import annotations

import os
from pathlib import Path

from lightning_adam.doctor.tabular import is_history, read_history
from lightning_adam.errors import ConfigError
from lightning_adam.tensorboard.reader import EVENT_FILE, RunLog, find_event_files, read_run

TABLES = (".csv", ".json", ".jsonl")
"""Endings of the tables that may be a run's history."""
LAST_VALUES = "wandb-summary.json"
"""What WandB keeps beside a run: it has a ``_step``, and no history."""


class UnusableLog(ConfigError):
    """There is nothing here that could be judged; the message says what was looked for, and where."""


def read_runs(root: str | os.PathLike[str]) -> list[RunLog]:
    """Every run at or below a path, by name.

    Args:
        root: a folder with runs in it, a run's own folder, one event file, or one table.

    Raises:
        UnusableLog: no such path, it may not be read, or it holds no run with a single number.
    """
    place = Path(root).expanduser()
    try:
        runs = _read_file(place) if place.is_file() else _read_folder(_existing(place))
    except PermissionError as error:
        raise UnusableLog(f"{place} may not be read: {error.strerror} ({error.filename}).") from error
    useful = [run for run in runs if run.scalars or run.tables or run.texts]
    if not useful:
        raise UnusableLog(_nothing(place, runs))
    return sorted(useful, key=lambda run: run.name)


def _existing(place: Path) -> Path:
    if place.exists():
        os.listdir(place)  # os.walk would pass over a folder that may not be read without a word
        return place
    near = next(parent for parent in place.absolute().parents if parent.exists())
    raise UnusableLog(f"{place} does not exist ({near} does): give the folder that TensorBoard's --logdir gets.")


def _nothing(place: Path, runs: list[RunLog]) -> str:
    if not runs:
        return (
            f"{place} holds no event files (events.out.tfevents.…), no metrics.csv of Lightning's CSVLogger and no "
            "WandB history (CSV or JSON with a _step column). Is it the folder that the logger wrote to?"
        )
    notes = "; ".join(note for run in runs for note in run.notes)
    return f"{place}: {len(runs)} run(s), but not one number to judge{': ' + notes if notes else ' yet'}."


def _read_file(place: Path) -> list[RunLog]:
    if EVENT_FILE in place.name:
        return [read_run(place.absolute().parent.name, place.parent, [place])]
    return read_history(place, place.absolute().parent.name if place.name == "metrics.csv" else place.stem)


def _read_folder(root: Path) -> list[RunLog]:
    event_files = find_event_files(root)
    runs = [read_run(_name(folder, root), folder, files) for folder, files in event_files.items()]
    for folder, table in _tables(root):
        if folder in event_files and table.name == "metrics.csv":
            continue  # the same numbers twice
        own = table.name == "metrics.csv"
        runs += read_history(table, _name(folder if own else table.with_suffix(""), root))
    return runs


def _tables(root: Path) -> list[tuple[Path, Path]]:
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders.sort()
        places = [Path(folder, name) for name in sorted(names) if name.endswith(TABLES) and name != LAST_VALUES]
        found += [(Path(folder), place) for place in places if place.name == "metrics.csv" or is_history(place)]
    return found


def _name(place: Path, root: Path) -> str:
    return root.absolute().name if place == root else place.relative_to(root).as_posix()

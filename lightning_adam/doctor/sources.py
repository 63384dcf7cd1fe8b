"""Finds the runs below a folder: event files, Lightning's ``metrics.csv``, W&B's runs and exported histories, and what
monitors left beside them."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from lightning_adam.doctor.archives import ARCHIVE, add_archive
from lightning_adam.doctor.judgement import bounded
from lightning_adam.doctor.offline import OFFLINE_FILE, read_offline
from lightning_adam.doctor.tabular import is_history, read_history
from lightning_adam.doctor.wording import shown
from lightning_adam.errors import ConfigError
from lightning_adam.tensorboard.files import EVENT_FILE, event_files, folders
from lightning_adam.tensorboard.reader import RunLog, read_run

METRICS = "metrics.csv"
"""What Lightning's CSVLogger writes."""
TABLES = (".csv", ".json", ".jsonl")
"""Endings of the tables that may be a run's history."""
LAST_VALUES = "wandb-summary.json"
"""What WandB keeps beside a run: it has a ``_step``, and no history."""


class UnusableLog(ConfigError):
    """There is nothing here that could be judged; the message says what was looked for, and where."""


def read_runs(root: str | os.PathLike[str], below: bool = True) -> list[RunLog]:
    """Every run at or below a path, by name.

    Args:
        root: a folder with runs in it, a run's own folder, or one file of a run.
        below: whether folders in the folder are looked into.

    Raises:
        UnusableLog: no such path, it may not be read, or it holds no run with a single number.
        ConfigError: it is no path.
    """
    if not isinstance(root, (str, os.PathLike)):
        raise ConfigError(f"logdir={root!r}: give a folder with runs in it or one file, such as 'lightning_logs'.")
    place = Path(root).expanduser()
    try:
        runs = _read_file(place) if place.is_file() else _read_folder(_existing(place), below)
    except PermissionError as error:
        raise UnusableLog(f"{place} may not be read: {error.strerror} ({error.filename}).") from error
    if not any(map(_says_something, runs)):
        raise UnusableLog(shown(_nothing(place, runs)))
    return sorted((run for run in runs if _says_something(run) or run.notes), key=lambda run: run.name)


def _says_something(run: RunLog) -> bool:
    return bool(run.scalars or run.tables or run.texts or run.findings or run.unread_findings)


def _existing(place: Path) -> Path:
    if place.exists():
        os.listdir(place)  # os.walk would pass over a folder that may not be read without a word
        return place
    near = next(parent for parent in place.absolute().parents if parent.exists())
    raise UnusableLog(f"{place} does not exist ({near} does): give the folder that TensorBoard's --logdir gets.")


def _nothing(place: Path, runs: list[RunLog]) -> str:
    if not runs:
        return (
            f"{place} holds no event files (events.out.tfevents.…), no metrics.csv of Lightning's CSVLogger, no run of W&B "
            "(run-….wandb, or its history as CSV or JSON with a _step column) and no findings.json of DivergenceMonitor. "
            "Is it the folder that the logger wrote to?"
        )
    notes = "; ".join(bounded([note for run in runs for note in run.notes]))
    return f"{place}: {len(runs)} run(s), but not one number to judge{': ' + notes if notes else ' yet'}."


def _read_file(place: Path) -> list[RunLog]:
    folder, name = place.parent, place.absolute().parent.name
    if place.name in ARCHIVE:
        runs = [RunLog(_home(place.absolute().parent).name, folder)]
    elif EVENT_FILE in place.name:
        runs = [read_run(name, folder, [place])]
    elif place.name.endswith(OFFLINE_FILE):
        runs = [read_offline(place, name)]
        add_archive(runs[0], folder / "files")
    else:
        runs = read_history(place, name if place.name == METRICS else place.stem)
    if len(runs) == 1:
        add_archive(runs[0], folder)
    return runs


def _read_folder(root: Path, below: bool) -> list[RunLog]:
    runs: dict[Path, RunLog] = {}
    others: list[RunLog] = []
    for folder, names in folders(root) if below else islice(folders(root), 1):
        logged, tables = (_or_note(read, folder, names, root) for read in (_logged, _tables))
        own = logged or tables
        if len(own) == 1:
            runs[folder] = own.pop()
        others += [*logged, *tables]
        if not ARCHIVE.isdisjoint(names):
            home = folder if folder in runs else _home(folder)
            runs.setdefault(home, RunLog(_name(home, root), home))
            others += _or_note(lambda folder, *_, run=runs[home]: add_archive(run, folder), folder, names, root)
        others += _not_opened(folder, names, root)
    return [*runs.values(), *others]


def _or_note(
    read: Callable[[Path, list[str], Path], list[RunLog] | None], folder: Path, names: list[str], root: Path
) -> list[RunLog]:
    """What one folder gives; whatever is wrong with it is a note, and the others are read all the same."""
    try:
        return read(folder, names, root) or []
    except Exception as error:  # a log folder may hold anything, and a parser may raise anything
        return [RunLog(_name(folder, root), folder, notes=[f"it could not be read: {type(error).__name__}: {error}"])]


def _not_opened(folder: Path, names: list[str], root: Path) -> list[RunLog]:
    """Pipes, devices and their like with a log's name."""
    logs = [name for name in names if EVENT_FILE in name or name.endswith((*TABLES, OFFLINE_FILE))]
    strange = [name for name in logs if (folder / name).exists() and not (folder / name).is_file()]
    notes = [f"{name} is no plain file, and was not opened" for name in strange]
    return [RunLog(_name(folder, root), folder, notes=notes)] if notes else []


def _home(folder: Path) -> Path:
    """The run's folder, where a logger keeps files apart: W&B in ``files``, MLflow in ``artifacts``."""
    of_wandb = folder.name == "files" and folder.parent.name.startswith(("run-", "offline-run-", "latest-run"))
    return folder.parent if of_wandb or folder.name == "artifacts" else folder


def _logged(folder: Path, names: list[str], root: Path) -> list[RunLog]:
    """The run that a logger wrote into this folder. Two may have written the same: the first that is readable counts."""
    name, events, offline = _name(folder, root), event_files(folder, names), _offline(folder, names)
    found = [read_run(name, folder, events)] if events else []
    found += [read_offline(offline[0], name)] if len(offline) == 1 else []
    runs = [run for run in found if _says_something(run)][:1]
    if METRICS in names and not runs and (folder / METRICS).is_file():
        runs = read_history(folder / METRICS, name)
    for run in runs[:1]:
        run.notes += [note for other in found if other is not run for note in other.notes]
    return runs or found[:1]


def _tables(folder: Path, names: list[str], root: Path) -> list[RunLog]:
    """What somebody has put there: exported histories, several runs of W&B."""
    places = [folder / name for name in names if name.endswith(TABLES) and name not in (METRICS, LAST_VALUES, *ARCHIVE)]
    histories = [place for place in places if place.is_file() and is_history(place)]
    offline = _offline(folder, names)
    runs = [run for place in histories for run in read_history(place, _name(place.with_suffix(""), root))]
    return runs + [read_offline(place, _name(place.with_suffix(""), root)) for place in offline if len(offline) > 1]


def _offline(folder: Path, names: list[str]) -> list[Path]:
    return [folder / name for name in names if name.endswith(OFFLINE_FILE) and (folder / name).is_file()]


def _name(place: Path, root: Path) -> str:
    """The path below the root; the root's own name for itself, and for what a file in it belongs to."""
    return place.relative_to(root).as_posix() if root in place.parents else place.absolute().name

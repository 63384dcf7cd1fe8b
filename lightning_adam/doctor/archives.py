"""What a monitor left as files beside a log, put where the doctor looks for what event files hold."""

from __future__ import annotations

import re
from pathlib import Path

from lightning_adam.diagnosis.archive import FINDINGS_FILE, SIGNALS_FILE, Stretch, read_findings_document, read_stretches
from lightning_adam.doctor.live import checked
from lightning_adam.tensorboard.files import read_plain
from lightning_adam.tensorboard.reader import RECORDS, RunLog

_BEGINNING = re.compile(r'\s*\{\s*"version":[^,]*,\s*"findings":\s*\{')
"""Of a ``findings.json`` of ours; other tools call theirs so, too."""
ARCHIVE = frozenset((FINDINGS_FILE, SIGNALS_FILE))
"""The files' names."""


def add_archive(run: RunLog, folder: Path) -> None:
    """Take in the findings and the recorded signals that lie in a folder; what is damaged becomes a note of the run."""
    if (folder / FINDINGS_FILE).is_file():
        _add_findings(run, folder / FINDINGS_FILE)
    if (folder / SIGNALS_FILE).is_file():
        _add_signals(run, folder / SIGNALS_FILE)


def _add_findings(run: RunLog, file: Path) -> None:
    text = ""
    try:
        text = read_plain(file).decode("utf-8", errors="replace")
        stored = read_findings_document(text)
        run.findings = {prefix: [checked(finding) for finding in found] for prefix, found in stored.items()}
    except (OSError, ValueError) as error:
        run.unread_findings = text.count('"rule"') if _BEGINNING.match(text) else 0
        run.notes.append(f"{file.name} is damaged: {error}")


def _add_signals(run: RunLog, file: Path) -> None:
    try:
        stretches, damaged = read_stretches(read_plain(file).decode("utf-8", errors="replace").split("\n"))
    except OSError as error:
        run.notes.append(f"{file.name} could not be read: {error.strerror}")
        return
    if damaged:
        run.damaged = True
        run.notes.append(f"{file.name} has {damaged} damaged line(s); the last one is cut off where a run was killed")
    of_prefix: dict[str, list[Stretch]] = {}
    for stretch in stretches:
        of_prefix.setdefault(stretch.prefix, []).append(stretch)
    for prefix, several in of_prefix.items():
        _add_stretches(run, prefix + RECORDS, several)


def _add_stretches(run: RunLog, tag: str, stretches: list[Stretch]) -> None:
    """The event files beside may hold the same: then what holds more counts, for one of them may be cut off."""
    if len(stretches) > len(run.texts.get(tag, ())):
        run.texts[tag] = [(stretch.step, stretch.payload) for stretch in stretches]

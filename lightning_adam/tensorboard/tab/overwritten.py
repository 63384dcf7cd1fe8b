"""What a resumed run wrote over, from its files: TensorBoard's data server, unlike its Python loader, forgets it."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from lightning_adam.tensorboard.files import event_files
from lightning_adam.tensorboard.reader import Series, read_replaced


class Overwritten:
    """Reads the files of runs that have several; a run that goes on writes into a file of its own.

    Args:
        logdir: what TensorBoard was started with; where it is no folder of this machine, nothing is found.
    """

    def __init__(self, logdir: str) -> None:
        self._logdir = logdir
        self._known: dict[str, tuple[list[int], dict[str, Series]]] = {}
        self._lock = threading.Lock()

    def scalars(self, run: str, tags: Sequence[str]) -> dict[str, list[list[float]]]:
        """Tag to [steps, values] of what was written over.

        Args:
            run: one of the runs that TensorBoard lists.
            tags: of scalars.
        """
        folder = Path(self._logdir, run)
        files = event_files(folder, os.listdir(folder)) if self._logdir and folder.is_dir() else []
        found = self._read(folder, files) if len(files) > 1 else {}
        return {tag: [found[tag].steps.tolist(), found[tag].values.tolist()] for tag in tags if tag in found}

    def _read(self, folder: Path, files: Sequence[Path]) -> dict[str, Series]:
        """Anew where a file has grown since; many that ask at once wait for the first."""
        with self._lock:
            sizes = [os.path.getsize(file) if file.exists() else 0 for file in files]
            before, found = self._known.get(str(folder), (None, {}))
            if before != sizes:
                found = read_replaced(folder, files)
                self._known[str(folder)] = sizes, found
            return found

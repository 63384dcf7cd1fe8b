"""Which test files run in one worker: those that share what takes seconds to start, which else each worker starts."""

from __future__ import annotations

import functools
from pathlib import Path

from xdist.scheduler import LoadFileScheduling

ROOT = Path(__file__).resolve().parents[1]
SHARED = {
    "a server that forks children": "from tests.children import",
    "TensorBoard and a browser": "server: SimpleNamespace",
    "runs for the doctor": ": Live",
}
"""By what a file that uses it says."""


class BySharedFixtures(LoadFileScheduling):
    """As ``--dist loadfile``, with some files as one."""

    def _split_scope(self, nodeid: str) -> str:
        return worker_group(nodeid.partition("::")[0])


@functools.cache
def worker_group(file: str) -> str:
    """The file, or what it shares with others."""
    source = (ROOT / file).read_text()
    return next((shared for shared, sign in SHARED.items() if sign in source), file)

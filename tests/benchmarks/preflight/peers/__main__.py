"""``python -m tests.benchmarks.preflight.peers [-v] [PART…]``: the same cases under other tools.

Parts are tuning, held-out, fresh and strangers; without any, all of them. ``-v`` lists what a tool does not judge right.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.preflight.cases import FAULTY, HEALTHY, part_of
from tests.benchmarks.preflight.peers.environment import NotInstalled, interpreter

ROOT = Path(__file__).parents[4]
ADAPTERS = {
    "lightning-adam": "ours",
    "torchtest2": "torchtest2",
    "neural-net-checklist": "neural_net_checklist",
    "torch-audit": "torch_audit",
    "preflight-ml": "preflight_ml",
}
COLUMNS = ("", "faults named right", "faults alarmed", "healthy alarmed", "not judged (faulty, healthy)", "median CPU s")


@dataclass(frozen=True)
class Verdict:
    """What a tool said of a case. ``alarms`` is None where it could not judge it."""

    case: str
    alarms: list[str] | None
    unfit: str
    seconds: float

    def names(self, known: dict[str, tuple[str, ...]]) -> bool:
        """Whether one of the alarms is the cause's name; the order of the alarms does not matter."""
        said = {code for alarm in self.alarms or () for code in known.get(alarm, (alarm,))}
        return bool(said & set(FAULTY[self.case][0]))


def row(peer: str, verdicts: list[Verdict], known: dict[str, tuple[str, ...]]) -> str:
    """A tool's line of the table."""
    faulty = [v for v in verdicts if v.case in FAULTY]
    healthy = [v for v in verdicts if v.case in HEALTHY]
    named, alarmed, wrong = (
        f"{sum(hits)}/{len(of)}"
        for hits, of in (
            ([v.names(known) for v in faulty], faulty),
            ([bool(v.alarms) for v in faulty], faulty),
            ([bool(v.alarms) for v in healthy], healthy),
        )
    )
    missed = ", ".join(str(sum(v.alarms is None for v in of)) for of in (faulty, healthy))
    seconds = statistics.median([v.seconds for v in verdicts if v.alarms is not None] or [0.0])
    return f"| {peer} | {named} | {alarmed} | {wrong} | {missed} | {seconds:.2f} |"


def verdicts_of(adapter: str, python: Path, names: list[str]) -> list[Verdict]:
    """All cases under one tool, in its own environment and process."""
    command = [str(python), "-m", "tests.benchmarks.preflight.peers.judge", adapter, *names]
    quiet = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    said = subprocess.run(command, cwd=ROOT, env={**os.environ, **quiet}, stdout=subprocess.PIPE, text=True)
    return [Verdict(**json.loads(line)) for line in said.stdout.splitlines()]


def tell(verdicts: list[Verdict], known: dict[str, tuple[str, ...]]) -> None:
    """Each case that a tool does not judge right."""
    for v in verdicts:
        if (v.case in HEALTHY and v.alarms == []) or (v.case in FAULTY and v.names(known)):
            continue
        print(f"    {v.case}: {' '.join(v.alarms or ()) or v.unfit or 'nothing'} ({v.seconds:.1f} s)")


def main(parts: list[str], details: bool) -> None:
    """The table, a line as soon as it is known."""
    names = [name for name in (*HEALTHY, *FAULTY) if not parts or part_of(name) in parts]
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    for peer, adapter in ADAPTERS.items():
        module: Any = importlib.import_module(f"tests.benchmarks.preflight.peers.{adapter}")
        try:
            python = interpreter(adapter, module.REQUIREMENTS)
        except NotInstalled as why:
            print(f"| {peer} | skipped: {why} |", flush=True)
            continue
        verdicts = verdicts_of(adapter, python, names)
        print(row(peer, verdicts, module.NAMES), flush=True)
        tell(verdicts, module.NAMES) if details else None


if __name__ == "__main__":
    main([word for word in sys.argv[1:] if word != "-v"], "-v" in sys.argv)

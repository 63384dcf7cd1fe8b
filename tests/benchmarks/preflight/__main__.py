"""``python -m tests.benchmarks.preflight [tuning|held-out|fresh|…|sojourners]``: right names and false alarms."""

from __future__ import annotations

import logging
import statistics
import sys
import time
import warnings
from typing import Any

import lightning as L
import torch

import lightning_adam as la
from tests.benchmarks.preflight.cases import FAULTY, HEALTHY, part_of
from tests.benchmarks.preflight.register import KEPT_APART


def judge(build: Any) -> tuple[la.PreflightReport, float]:
    """The report on a case, and its seconds; what is refused is judged wrong."""
    L.seed_everything(0, verbose=False)
    module, data, *options = build()
    begun = time.perf_counter()
    try:
        report = la.preflight(module, data, **(options[0] if options else {}))
    except Exception as refused:
        report = la.PreflightReport((la.Finding("REFUSED", "warning", 0, ""),), {"everything": repr(refused)}, 0.0, 0)
    return report, time.perf_counter() - begun


def score(kind: str, names: list[str], details: bool) -> None:
    """Print one line for each case that is judged wrong, then the totals."""
    right, seconds = 0, []
    for name in names:
        codes, build = FAULTY[name] if kind == "faulty" else ((), HEALTHY[name])
        report, took = judge(build)
        grave = [f.rule for f in report.findings if f.severity != "info"]
        good = (bool(grave) and grave[0] in codes) if codes else not grave
        good = good or (bool(codes) and not grave and any(f.rule in codes for f in report.findings))
        right, seconds = right + good, [*seconds, took]
        if details or not good:
            said = " ".join(f"{f.rule}({f.severity[0]})" for f in report.findings) or "nothing"
            print(
                f"  {'' if good else 'WRONG '}{name}: {said}"
                + (f", wanted {codes[0]}" if codes and not good else "")
                + f" {took:.1f}s"
            )
            gaps = set(report.not_judged.values())
            print(*(f"      not judged: {why}" for why in gaps), sep="\n") if gaps else None
    said = "named right" if kind == "faulty" else "without a warning"
    print(
        f"{kind}: {right} of {len(names)} {said}; median {statistics.median(seconds):.2f} s, longest {max(seconds):.1f} s",
        flush=True,
    )


def main(which: str, details: bool) -> None:
    """One part, or all."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for part in ("tuning", "held-out", *KEPT_APART):
        if which in (part, "all"):
            print(part)
            for kind, cases in (("healthy", HEALTHY), ("faulty", FAULTY)):
                score(kind, [name for name in cases if part_of(name) == part], details)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "all", "-v" in sys.argv)

"""What ``lightning-adam explain`` shows of real runs: pictures and error rates of every code.

``python -m tests.benchmarks.explained`` writes ``lightning_adam/explanations/measured.json`` from the stored runs of
``tests.benchmarks.divergence.corpus`` (their left-out half), from the scenarios of ``tests.benchmarks.divergence`` for the
codes that no run of the corpus is named by, and from the models of ``tests.benchmarks.preflight``. ``--shown`` draws only
the codes anew that have no run in any of them: their runs are trained in a minute.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_adam.diagnosis import Finding, RunSignals, StepSignals
from lightning_adam.diagnosis.rules import RULES
from lightning_adam.explain import codes
from lightning_adam.measured import STORED as OUT
from lightning_adam.measured import Measured, Picture, Rates, Series
from tests.benchmarks.divergence import running
from tests.benchmarks.divergence.corpus.families import FAMILIES
from tests.benchmarks.divergence.corpus.jobs import Job, jobs_of
from tests.benchmarks.divergence.corpus.report import wilson
from tests.benchmarks.divergence.corpus.verdicts import Outcome, verdicts_of
from tests.benchmarks.divergence.held_out import HELD_OUT
from tests.benchmarks.divergence.running import Run
from tests.benchmarks.divergence.scenario import Scenario
from tests.benchmarks.divergence.scoring import diagnoses
from tests.benchmarks.divergence.shown import SHOWN
from tests.benchmarks.divergence.sick import SICK
from tests.benchmarks.preflight.__main__ import judge
from tests.benchmarks.preflight.cases import FAULTY, HEALTHY, part_of

STRETCHES = 48
"""Points of a picture's curve."""
STORED = Path("runs/explained")
"""What was trained or looked at is not done again; remove the folder to judge anew."""
UNCOUNTED = "shown"
"""Among these are runs that a picture is drawn of, and no rate."""
LOSS = "loss"
EARLY = 30
"""A finding before this step leaves nothing to be seen of the run before it."""
BESIDE: dict[str, str] = {
    **dict.fromkeys(("BAD-BATCH", "GRAD-EXPLODING", "GRAD-NOT-ZEROED", "LOSS-SPIKE", "CLIP-ALWAYS"), "gradient norm"),
    **dict.fromkeys(("SCHEDULE-COLLAPSED", "SCHEDULE-NEVER-ARRIVES", "PLATEAU"), "learning rate"),
    **dict.fromkeys(("DEAD-PARAMETER", "NO-GRADIENT", "OPTIMIZER-STALE", "NON-FINITE"), "gradient norm"),
    "BETA2-STALE": "gradient surprise",
    "STATE-CORRUPT": "largest step over its bound",
    "EPS-HIGH": "share of ε",
    "SCALER-SKIPS": "loss scale",
    "BF16-STALL": "lost updates",
    "DECAY-DOMINATES": "decay over step",
    "GRAD-VANISHING": "first layers over last",
    "LOGIT-GROWTH": "largest logit",
    "OSCILLATION": "gradient against momentum",
    "INPUT-SCALE": "rms of the inputs",
}
"""What is drawn below the loss; of the others the update ratio."""
SIGNALS = {
    "gradient norm": "gradient_norm",
    "learning rate": "lr",
    "loss scale": "scale",
    "largest logit": "logit_max",
    "update ratio": "update_ratio_p50",
    "gradient surprise": "surprise_max",
    "largest step over its bound": "bound_excess",
    "share of ε": "eps_share",
    "lost updates": "lost_updates",
    "decay over step": "decay_ratio",
    "first layers over last": "first_last",
    "gradient against momentum": "alignment",
    "rms of the inputs": "input_rms",
}
"""Fields of StepSignals and HeavySignals."""


@dataclass(frozen=True)
class Case:
    """One run or model, judged.

    Attributes:
        among: of which benchmark.
        name: in words.
        names: the codes of its fault, the cause first; empty where it is healthy.
        findings: what was found, in order.
        path: of what was recorded; None of a model before training.
        onset: the step at which the fault begins.
    """

    among: str
    name: str
    names: tuple[str, ...]
    findings: Sequence[Finding]
    path: Path | None = None
    onset: int = 0

    @property
    def grave(self) -> list[str]:
        """Codes of warnings since the fault began."""
        return [f.rule for f in self.findings if f.severity != "info" and (not self.names or f.last_step >= self.onset)]


def corpus() -> Iterator[Case]:
    """The stored runs of the families that were left out, without those whose label does not stand."""
    for family in FAMILIES.values():
        if family.is_held_out:
            yield from _of_family([_outcome(job) for job in jobs_of(family) if job.path.exists()])


def _outcome(job: Job) -> Outcome:
    """Without what other detectors say, which takes the longest."""
    run = Run.load(job.path)
    start = float(np.median(np.where(np.isfinite(run.losses[:5]), run.losses[:5], np.inf)))
    return Outcome(job, start, run.final, math.nan, tuple(_findings(run)), {})


def _of_family(outcomes: Sequence[Outcome]) -> Iterator[Case]:
    for verdict in verdicts_of(outcomes):
        if verdict.is_healthy or verdict.is_sick:
            job, mistake = verdict.outcome.job, verdict.mistake
            names = (mistake.cause, *sorted(mistake.accepted - {mistake.cause})) if mistake.cause else ()
            how = f"with the mistake “{job.kind}”" if names else "without a mistake"
            name = f"the task “{job.family}” {how}{f', trained with {job.setting}' if job.setting else ''}"
            yield Case("corpus", name, names, verdict.outcome.findings, job.path, verdict.onset)


def scenarios(wanted: set[str]) -> Iterator[Case]:
    """Runs whose cause is one of these codes; the ones that nothing was tuned on count by themselves."""
    for among, of in (("scenarios", HELD_OUT), ("scenarios-tuned", SICK)):
        for scenario in of:
            if scenario.cause in wanted:
                path = _trained(scenario)
                names = (scenario.cause, *sorted(set(scenario.accepted) - {scenario.cause}))
                yield Case(among, f"the scenario “{scenario.name}”", names, _findings(Run.load(path)), path, scenario.onset)


def shown() -> Iterator[Case]:
    """Runs of the codes that no benchmark plants."""
    for scenario in SHOWN:
        path = _trained(scenario)
        findings = _findings(Run.load(path))
        yield Case(UNCOUNTED, f"the run “{scenario.name}”", (scenario.cause,), findings, path, scenario.onset)


def _trained(scenario: Scenario) -> Path:
    path = STORED / f"{scenario.name}.zip"
    if not path.exists():
        running.train(scenario, 0).save(path)
    return path


def preflight() -> Iterator[Case]:
    """Faulty and healthy models."""
    for name, (names, build) in [*FAULTY.items(), *((n, ((), b)) for n, b in HEALTHY.items())]:
        among = "preflight-tuned" if part_of(name) == "tuning" else "preflight"
        yield Case(among, name, tuple(names), _looked_at(name, build))


def _looked_at(name: str, build: Any) -> list[Finding]:
    path = STORED / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([f.to_dict() for f in judge(build)[0].findings]))
    return [Finding.from_dict(f) for f in json.loads(path.read_text())]


def _findings(run: Run) -> list[Finding]:
    return sorted((f for d in diagnoses(run) for f in d.findings), key=lambda f: f.step)


def rates(code: str, cases: Iterable[Case], among: str) -> Rates:
    """Of one code over one benchmark."""
    of = [case for case in cases if case.among == among]
    faults = [case for case in of if case.names[:1] == (code,)]
    firsts = [case.grave[0] if case.grave else "" for case in faults]
    named = firsts.count(code)
    others = [first in case.names for first, case in zip(firsts, faults, strict=True) if first != code]
    first = [case for case in of if case.names and case.grave[:1] == [code]]
    healthy = [case for case in of if not case.names]
    return Rates(
        among=among,
        faults=len(faults),
        named=named,
        related=sum(others),
        silent=firsts.count(""),
        interval=tuple(round(end, 3) for end in wilson(named, len(faults))),  # type: ignore[arg-type]
        first=len(first),
        right=sum(code in case.names for case in first),
        healthy=len(healthy),
        alarmed=sum(code in case.grave for case in healthy),
    )


def picture(code: str, cases: Sequence[Case]) -> Picture | None:
    """The run that shows the code best: its planted cause, named first, gravely, and not in the first steps only."""
    fit = [case for case in cases if case.path is not None and (case.among != UNCOUNTED or case.names == (code,))]
    seen = [(case, f) for case in fit for f in case.findings if f.rule == code]
    if not seen:
        return None
    case, found = min(seen, key=lambda pair: _rank(code, *pair))
    assert case.path is not None
    run = Run.load(case.path)
    steps = run.steps
    drawn = [_series(name, steps) for name in (LOSS, BESIDE.get(code, "update ratio"))]
    series = tuple(s for s in drawn if any(v is not None for v in s.values))
    place = next((at for at, s in enumerate(steps) if s.step >= found.step), len(steps) - 1)
    return Picture(f"{case.name} ({_optimizer(run)})", len(steps), place, found.message, series) if series else None


def _rank(code: str, case: Case, found: Finding) -> tuple[Any, ...]:
    planted, first = case.names[:1] == (code,), case.grave[:1] == [code]
    return (not planted, not first, found.severity == "info", found.step < EARLY, len(case.findings), case.name)


def _optimizer(run: Run) -> str:
    return next((r.optimizer for r in run.records[0] if isinstance(r, RunSignals)), "")


def _series(name: str, steps: Sequence[StepSignals]) -> Series:
    """The largest of each stretch; None where the loss was not finite. Between passes a signal keeps its value."""
    field, value, known = SIGNALS.get(name, "loss"), math.nan, []
    for signals in steps:
        holder: Any = signals if hasattr(signals, field) else signals.heavy
        seen = getattr(holder, field) if holder is not None else math.nan
        value = seen if holder is signals or not math.isnan(seen) else value
        known.append(math.nan if signals.non_finite is not None and name == LOSS else value)
    size = len(known) / min(STRETCHES, max(1, len(known)))
    parts = [known[int(i * size) : int((i + 1) * size)] for i in range(min(STRETCHES, len(known)))]
    return Series(name, tuple(float(f"{max(p):.3g}") if all(map(math.isfinite, p)) else None for p in parts))


def said(code: str, cases: Iterable[Case]) -> str:
    """The message of the first faulty model that was named so."""
    found = (f for case in cases if case.path is None and code in case.names for f in case.findings if f.rule == code)
    return next((f.message for f in found), "")


def measured(cases: Sequence[Case]) -> dict[str, Measured]:
    """Of each code; a benchmark that neither plants the code nor ever names it has nothing to say of it."""
    benchmarks = dict.fromkeys(case.among for case in cases if case.among != UNCOUNTED)
    every = {}
    for code in codes():
        told = [rates(code, cases, among) for among in benchmarks]
        told = [r for r in told if r.faults or r.first > r.right or r.alarmed or (r.among == "corpus" and code in RULES)]
        every[code] = Measured(picture(code, cases), said(code, cases), tuple(told))
    return every


def redrawn() -> dict[str, Any]:
    """What is stored, with new pictures of the runs that no benchmark counts."""
    stored: dict[str, Any] = json.loads(OUT.read_text(encoding="utf-8"))
    cases = [*shown()]
    for scenario in SHOWN:
        drawn = picture(scenario.cause, cases)
        if drawn is None:
            raise RuntimeError(f"{scenario.cause} is not found in the run {scenario.name!r} any more.")
        stored[scenario.cause]["picture"] = _plain(drawn)
    return stored


def anew() -> dict[str, Any]:
    """Judge everything."""
    cases = [*corpus()]
    found = {case.names[0] for case in cases if case.names and case.grave[:1] == [case.names[0]]}
    cases += [*scenarios({*codes()} - found), *preflight(), *shown()]
    known = {code: one for code, one in measured(cases).items() if one != Measured()}
    return {code: {**asdict(one), "picture": one.picture and _plain(one.picture)} for code, one in known.items()}


def _plain(drawn: Picture) -> dict[str, Any]:
    return {**asdict(drawn), "series": [[s.name, s.values] for s in drawn.series]}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.explained", description=__doc__)
    parser.add_argument("--shown", action="store_true", help="only the pictures of codes that no benchmark plants")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning_adam"):
        logging.getLogger(name).setLevel(logging.ERROR)
    stored = redrawn() if parser.parse_args().shown else anew()
    lines = ",\n".join(f"{json.dumps(code)}: {json.dumps(known, ensure_ascii=False)}" for code, known in stored.items())
    Path(str(OUT)).write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    print(f"{OUT}: {len(stored)} codes, {Path(str(OUT)).stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()

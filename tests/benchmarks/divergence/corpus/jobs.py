"""Which runs there are, and what each of them is trained with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.divergence.corpus.family import FAMILIES, Family
from tests.benchmarks.divergence.corpus.mistakes import MISTAKES, Mistake
from tests.benchmarks.divergence.corpus.optimizers import OPTIMIZERS
from tests.benchmarks.divergence.corpus.settings import SCHEDULES, SETTINGS, digest, setting_of, settings_of

GRID = (0.3, 1.0, 3.0)
"""The family's rate times these: the healthy runs are those that end as low as the best."""
STORED = Path("runs/corpus")
IN_GROUPS = ("betas", "eps", "weight_decay", "momentum")
"""What a remedy may set in the optimizer's groups."""
QUICK = 6
"""One of so many families, and of their other runs, is in the quick subset."""


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        family: its name.
        kind: ``healthy-TIMES`` the rate, or a mistake's name.
        seed: of weights and batches.
        setting: a key of ``SETTINGS``.
        changes: a finding's, as JSON: the run with the remedy.
    """

    family: str
    kind: str
    seed: int = 0
    setting: str = ""
    changes: str = ""

    @property
    def mistake(self) -> Mistake | None:
        """None of a healthy run."""
        return MISTAKES.get(self.kind)

    @property
    def name(self) -> str:
        """As it is told."""
        return f"{self.family}/{self.kind}{'@' if self.setting else ''}{self.setting}/{self.seed}"

    @property
    def path(self) -> Path:
        """Where it is stored; runs with the same remedy are one."""
        kind = f"{self.kind}{'@' if self.setting else ''}{self.setting}"
        remedy = "." + hashlib.sha256(self.changes.encode()).hexdigest()[:10] if self.changes else ""
        return STORED / f"{self.family}.{kind}.{self.seed}{remedy}.zip"

    @property
    def is_quick(self) -> bool:
        """A family's usual healthy runs always: the others are judged by them."""
        if digest(self.family)[1] % QUICK:
            return False
        return (not self.setting and self.mistake is None) or digest(self.name)[0] % QUICK == 0


def jobs_of(family: Family) -> list[Job]:
    """Healthy ones at three rates, with three seeds, in other settings; the mistakes that apply, half of them elsewhere."""
    healthy = [Job(family.name, f"healthy-{times:g}") for times in GRID]
    seeds = [Job(family.name, "healthy-1", seed) for seed in (1, 2)]
    others = [Job(family.name, "healthy-1", 0, name) for name in settings_of(family)]
    sick = [Job(family.name, name) for name, mistake in MISTAKES.items() if mistake.applies(family)]
    elsewhere = [Job(family.name, name, 0, setting_of(family, name)) for name in MISTAKES]
    able = [job for job in elsewhere if MISTAKES[job.kind].applies(SETTINGS[job.setting].of(family))]
    return [*healthy, *seeds, *others, *sick, *(job for job in able if digest(job.name)[1] % 2)]


@dataclass(frozen=True)
class Recipe:
    """What a run is trained with, all put together.

    Attributes:
        family: with the optimizer and rate of the setting.
        mistake: what is wrong; nothing in a healthy run.
        times: what the rate is multiplied by.
        precision: a key of ``PRECISIONS``.
        schedule: a key of ``SCHEDULES``; empty for a constant rate.
        clip: the total norm; None for none.
        cap: the rate is never over it.
        warmup: steps, or a share of the run, in which the rate rises from zero.
        group: what is set in the optimizer's groups.
    """

    family: Family
    mistake: Mistake = field(default_factory=lambda: Mistake(""))
    times: float = 1.0
    precision: str = "fp32"
    schedule: str = ""
    clip: float | None = None
    cap: float | None = None
    warmup: float = 0.0
    group: Mapping[str, Any] = field(default_factory=dict)

    def factor(self, step: int) -> float:
        """Of the mistake and the warmup, beside the schedule."""
        steps = self.family.steps
        wrong = self.mistake.factor(step, steps) if self.mistake.factor is not None else 1.0
        length = self.warmup * steps if self.warmup < 1 else self.warmup
        return wrong * min(1.0, (step + 1) / length) if length else wrong


def recipe_of(job: Job) -> Recipe:
    """Of a run, with its remedy if there is one."""
    setting, wrong = SETTINGS[job.setting], job.mistake or Mistake("")
    times = wrong.rate if job.mistake else float(job.kind.removeprefix("healthy-"))
    group = {"eps": wrong.eps, "betas": wrong.betas, "weight_decay": wrong.weight_decay, "momentum": wrong.momentum}
    clip = setting.clip if wrong.clip is None else wrong.clip
    family = setting.of(FAMILIES[job.family])
    recipe = Recipe(family, wrong, times, setting.precision, setting.schedule, clip,
                    group={k: v for k, v in group.items() if v is not None})  # fmt: skip
    return remedied(recipe, json.loads(job.changes)) if job.changes else recipe


def remedied(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """With a finding's ``changes``.

    A rate that is configured is multiplied (``times``); where the user's own schedule has led to another one, it is held
    under what was said. A schedule or a warmup that is advised alone takes the place of the mistaken one.
    """
    if "schedule" in changes or ("warmup" in changes and "lr" not in changes):
        recipe = replace(recipe, mistake=replace(recipe.mistake, factor=None))
    if changes.get("schedule") in SCHEDULES:
        recipe = replace(recipe, schedule=changes["schedule"])
    if "times" in changes:
        recipe = replace(recipe, times=recipe.times * changes["times"])
    elif "lr" in changes:
        recipe = replace(recipe, cap=changes["lr"])
    if changes.get("optimizer") in OPTIMIZERS:
        recipe = replace(recipe, family=replace(recipe.family, optimizer=changes["optimizer"]))
    if changes.get("precision") == "bf16-mixed":
        recipe = replace(recipe, precision="bf16-mixed")
    group = {k: tuple(v) if k == "betas" else v for k, v in changes.items() if k in IN_GROUPS}
    clip, warmup = changes.get("clip", recipe.clip), changes.get("warmup", recipe.warmup)
    return replace(recipe, clip=clip, warmup=warmup, group={**recipe.group, **group})

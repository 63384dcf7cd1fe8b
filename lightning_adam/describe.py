"""Says what the helper has made: groups, phases, clipping, memory. And draws a schedule."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from lightning_adam.assembly import settle
from lightning_adam.config import OptimizerConfig, known_rate
from lightning_adam.curves import Phases
from lightning_adam.errors import ConfigError
from lightning_adam.monitoring.parameters import prefixes
from lightning_adam.monitoring.run import Plan
from lightning_adam.optimizers import OPTIMIZERS
from lightning_adam.optimizers.choice import ClassSpec
from lightning_adam.planning import ASSUMED_LENGTH, plan, steps_per_epoch, trainer_of
from lightning_adam.saved_record import FOUND_LR
from lightning_adam.schedules import Schedule, factor


class Description(str):
    """Markdown that a notebook shows as a page."""

    def _repr_markdown_(self) -> str:
        return str(self)


def describe(subject: nn.Module | OptimizerConfig | Mapping[str, Any] | Optimizer) -> Description:
    """Print and return what will be trained with, as Markdown; in a notebook it shows once, as a page.

    Args:
        subject: a LightningModule (its ``configure_optimizers`` is called; without a trainer the run's length is not known
            yet, and phases are told as shares of it), what ``la.configure_optimizers`` returned, an optimizer, or an
            OptimizerConfig.

    Raises:
        ConfigError: it is none of these.
    """
    text = Description(_describe_config(subject) if isinstance(subject, OptimizerConfig) else _describe_made(subject))
    if not _in_notebook():
        print(text)
    return text


def _in_notebook() -> bool:
    """Whether a kernel shows what a cell ends with; IPython is asked only where it runs already."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def _describe_made(subject: Any) -> str:
    if hasattr(subject, "configure_optimizers") and trainer_of(subject) is None:
        return _describe_unattached(subject)
    optimizers = _optimizers(subject)
    per_epoch = steps_per_epoch(trainer_of(subject))
    return "\n\n".join(describe_optimizer(optimizer, per_epoch) for optimizer in optimizers)


def _optimizers(subject: Any) -> list[Optimizer]:
    is_asked = isinstance(subject, nn.Module) and hasattr(subject, "configure_optimizers")
    made: Any = subject.configure_optimizers() if is_asked else subject
    made = made if isinstance(made, (list, tuple)) else [made]
    found: list[Any] = [one.get("optimizer") if isinstance(one, Mapping) else one for one in made]
    if not found or not all(hasattr(one, "param_groups") for one in found):
        raise ConfigError(
            f"subject: got a {type(subject).__name__} without an optimizer; give a LightningModule, what "
            "la.configure_optimizers returned, an optimizer, or an OptimizerConfig."
        )
    return found


def _describe_unattached(module: nn.Module) -> str:
    """By two runs of assumed lengths: what grows with the run is a share of it, what does not is a number of steps."""
    plans = [_assuming(module, length) for length in (1e6, 2e6)]
    texts = [_unattached(one, other) for one, other in zip(*plans, strict=True)]
    return "\n\n".join(texts)


def _assuming(module: nn.Module, length: float) -> list[Optimizer]:
    token = ASSUMED_LENGTH.set(length)
    try:
        return _optimizers(module)
    finally:
        ASSUMED_LENGTH.reset(token)


def _unattached(one: Optimizer, other: Optimizer) -> str:
    schedules = [getattr(optimizer, "adam_schedule", None) for optimizer in (one, other)]
    short, long = (schedule.phases if isinstance(schedule, Schedule) else None for schedule in schedules)
    lines, unknown = describe_optimizer(one), list[str]()
    if short is not None and long is not None and short.total != long.total:
        lines = lines.replace(describe_phases(short), _shares(short, long))
        unknown.append("the length of the run")
    if any(FOUND_LR in group for group in one.param_groups):
        unknown.append("lr='auto', for which stands what the weights alone suggest")
    return f"{lines}\nnot known yet: {'; '.join(unknown)}, until a trainer is attached" if unknown else lines


def _shares(short: Phases, long: Phases) -> str:
    def duration(one: float, other: float) -> str:
        return f"{one:g} steps" if one == other else f"{one / short.total:.3g} of the run"

    return f"warmup {duration(short.warmup, long.warmup)}, decay {duration(short.decay, long.decay)}"


def describe_optimizer(optimizer: Optimizer, per_epoch: float | None = None) -> str:
    """One optimizer's groups as a table, and its schedule, clipping and bytes of state in words."""
    lines = [f"**{type(optimizer).__name__}**", "", *_group_table(optimizer), ""]
    schedule = getattr(optimizer, "adam_schedule", None)
    if isinstance(schedule, Schedule):
        lines.append(f"schedule: {schedule.name}, {describe_phases(schedule.phases, per_epoch)}  ")
        lines.append(f"clipping: {_rule(optimizer)}  ")
    lines.append(f"state: {_state_megabytes(optimizer)}")
    return "\n".join(lines)


def planned(optimizer: Optimizer, total_steps: float = math.nan, per_epoch: float | None = None) -> Plan:
    """What a monitor asks of an optimizer's plan.

    Args:
        optimizer: the helper's or any other.
        total_steps: length of the run in optimizer steps, which holds where the helper has planned by the user's word for
            its schedule, or not at all; NaN where it is not known.
        per_epoch: optimizer steps of an epoch, where that is known.
    """
    configuration = describe_optimizer(optimizer, per_epoch)
    schedule = getattr(optimizer, "adam_schedule", None)
    if not isinstance(schedule, Schedule):
        return Plan(total_steps=total_steps, configuration=configuration)
    known = math.isfinite(schedule.phases.total) and (math.isnan(total_steps) or not schedule.phases.asked)
    length = _end(schedule) if known else total_steps
    return Plan(schedule.name, float(schedule.phases.warmup), float(length), configuration)


def _end(schedule: Schedule) -> float:
    """Of the planned run, counted as logs are: from the first of several fits, and in batches where steps are by hand."""
    per_batch, share = schedule.pace or (1.0, 1.0)
    return (schedule.phases.total + share * schedule.begun[0]) / per_batch


def hyperparameters(optimizers: Sequence[Optimizer]) -> dict[str, Any]:
    """What the runs of a project are sorted by: ``lr``, ``betas``, ``schedule``, …; plain numbers and texts.

    Of several optimizers each name begins with its prefix: ``adam-AdamW/lr``.
    """
    if len(optimizers) == 1:
        return _settings(optimizers[0])
    named = zip(prefixes(optimizers), optimizers, strict=True)
    return {f"{prefix}/{name}": value for prefix, o in named for name, value in _settings(o).items()}


def _settings(optimizer: Optimizer) -> dict[str, Any]:
    groups = optimizer.param_groups
    values: dict[str, Any] = {
        "optimizer": type(optimizer).__name__,
        "lr": max(float(group.get("initial_lr", group["lr"])) for group in groups),
        "weight_decay": max(float(group.get("weight_decay") or 0.0) for group in groups),
    }
    if groups[0].get("betas"):
        values["betas"] = ", ".join(f"{float(beta):g}" for beta in groups[0]["betas"])
    if isinstance(groups[0].get("eps"), (int, float)):
        values["eps"] = float(groups[0]["eps"])
    schedule = getattr(optimizer, "adam_schedule", None)
    if isinstance(schedule, Schedule):
        limit = getattr(optimizer.adam_rule, "max_norm", None)  # type: ignore[attr-defined]
        clip = _rule(optimizer) if limit is None else float(limit)  # a number sorts
        values |= {"schedule": schedule.name, "warmup": int(schedule.phases.warmup), "clip": clip}
    return values


def describe_phases(phases: Phases, per_epoch: float | None = None) -> str:
    """Warmup, decay and length in steps, and in epochs where these are known."""

    def steps(count: float) -> str:
        epochs = f" ({count / per_epoch:.3g} epochs)" if per_epoch and math.isfinite(count) else ""
        return f"{count:g} steps{epochs}"

    return f"warmup {steps(phases.warmup)}, decay {steps(phases.decay)}, in all {steps(phases.total)}"


def _group_table(optimizer: Optimizer) -> list[str]:
    rows = ["| group | tensors | parameters | lr | weight decay | betas | eps |", "|---|---:|---:|---:|---:|---|---:|"]
    for index, group in enumerate(optimizer.param_groups):
        cells = (
            group.get("name", f"pg{index + 1}"),
            len(group["params"]),
            f"{sum(p.numel() for p in group['params']):,}",
            f"{float(group.get('initial_lr', group['lr'])):.3g}",
            group.get("weight_decay", 0),
            group.get("betas", ""),
            group.get("eps", ""),
        )
        rows.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return rows


def _rule(optimizer: Any) -> str:
    rule = optimizer.adam_rule
    return "none" if rule is None else (repr(rule) if hasattr(rule, "__dataclass_fields__") else type(rule).__name__)


def _state_megabytes(optimizer: Optimizer) -> str:
    count = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
    kind = type(optimizer)
    rows = [row for row in OPTIMIZERS.values() if row.path.rpartition(".")[2] == kind.__name__]
    known = [row for row in rows if "amsgrad" in row.fixed] if optimizer.defaults.get("amsgrad") else rows
    if not known:
        return "bytes not known"
    return f"about {known[0].state_bytes * count / 1e6:.3g} MB ({known[0].state_bytes:g} bytes per parameter)"


def _describe_config(config: OptimizerConfig) -> str:
    full, choice = settle(config)
    row = choice.spec
    known = "" if isinstance(row, ClassSpec) else f" ({row.source}); {row.state_bytes:g} bytes of state per parameter"
    lines = [f"**{row.name}**: {row.summary}{known}", ""]
    lines += ["| argument | value |", "|---|---|"]
    lines += [f"| {f.name} | {value} |" for f in fields(full) if (value := getattr(full, f.name)) not in (None, {})]
    if full.total_steps is not None and not isinstance(full.total_steps, str):
        lines += ["", describe_phases(plan(full, None))]
    return "\n".join(lines)


def plot_schedule(config: OptimizerConfig, steps: int) -> Any:
    """Draw the learning rate over a run of so many steps; returns matplotlib's Figure.

    Raises:
        ImportError: matplotlib is missing (``pip install lightning-adam[plot]``).
        ConfigError: the schedule does not fit into the steps, or an argument is of another type.
    """
    if not isinstance(config, OptimizerConfig):
        raise ConfigError(f"config={config!r}: give an OptimizerConfig, such as la.OptimizerConfig(schedule='cosine').")
    try:
        from lightning_adam.schedule_figure import ScheduleFigure
    except ImportError as error:
        raise ImportError("plot_schedule needs matplotlib: pip install 'lightning-adam[plot]'.") from error
    settled, choice = settle(config)
    full = replace(settled, total_steps=steps)
    name, phases = full.schedule or "cosine", plan(full, None)
    asked = known_rate(full)
    lr = asked if asked is not None else choice.spec.lr
    figure = ScheduleFigure(figsize=(7, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(range(steps), [lr * factor(name, phases, k) for k in range(steps)])
    axes.set(xlabel="optimizer step", ylabel="learning rate", title=f"{name}: {describe_phases(phases)}")
    axes.grid(alpha=0.3)
    return figure

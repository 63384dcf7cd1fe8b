"""The helper: its arguments in, the dict that Lightning expects out. Imports no Lightning: it looks at the trainer."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import NotRequired

from lightning_adam.assembly import fused_fits, make_groups, make_optimizer, make_schedule, order_of, settle
from lightning_adam.auto_rate import found_rate, remember_rate
from lightning_adam.checks import ARGUMENTS, check_arguments
from lightning_adam.clipping import Clip, ClipAdaptive, ClipNorm, ClipPercentile, ClipValue, ZClip, as_clip
from lightning_adam.config import Duration, OptimizerConfig
from lightning_adam.errors import ConfigError
from lightning_adam.guided import guide
from lightning_adam.names import Mode, OptimizerName, PresetName, ScheduleName
from lightning_adam.optimizers import OptimizerSpec
from lightning_adam.optimizers.choice import Choice, OptimizerChoice, classes_of_torch
from lightning_adam.planning import plan, trainer_of
from lightning_adam.plateau import PlateauSchedule, refuse_plateau
from lightning_adam.refusals import (
    check_module,
    refuse_beside_instance,
    refuse_combinations,
    refuse_left_over,
    refuse_number_kinds,
    warn_of_batch_norm,
)
from lightning_adam.schedules import Schedule

# Lightning loads checkpoints with weights_only: a config in the saved hyper-parameters must not stop a resume.
torch.serialization.add_safe_globals(
    [OptimizerConfig, ClipNorm, ClipValue, ClipAdaptive, ZClip, ClipPercentile, *classes_of_torch().values()]
)

COMPANIONS = {"loss": "LossForAdamZ", "hessian": "HessianForSophia", "modes": "ScheduleFreeModes"}
"""What an optimizer needs to the callback that gives it."""


class OptimizerAndSchedule(TypedDict):
    """What Lightning calls an OptimizerLRSchedulerConfig.

    A type checker takes one TypedDict for another where each entry is of the very same type. Any is the same as all: with it
    users need not tell the members of a union apart before they look at the scheduler.
    """

    optimizer: Optimizer
    lr_scheduler: Any
    monitor: NotRequired[str]


def configure_optimizers(
    module: nn.Module,
    optimizer: OptimizerName | OptimizerChoice | OptimizerConfig | None = None,
    *,
    lr: float | Literal["auto"] | None = None,
    betas: Sequence[float] | None = None,
    eps: float | Sequence[float | None] | None = None,
    weight_decay: float | None = None,
    schedule: ScheduleName | None = None,
    warmup: Duration | None = None,
    decay: Duration | None = None,
    min_lr: float | str | None = None,
    total_steps: Duration | None = None,
    clip: Clip | float | str | None = "default",
    parameters: str | None = None,
    param_groups: Mapping[str, Mapping[str, Any]] | None = None,
    layer_decay: float | None = None,
    schedule_options: Mapping[str, float] | None = None,
    monitor: str = "val_loss",
    mode: Mode | None = None,
    preset: PresetName | None = None,
    reset_optimizer: bool = False,
    **optimizer_options: Any,
) -> OptimizerAndSchedule:
    """Optimizer, schedule and clipping for ``LightningModule.configure_optimizers`` to return.

    Args:
        module: the LightningModule (any ``nn.Module`` when ``total_steps`` is given).
        optimizer: a name of :func:`available_optimizers` (``adamw`` by default) or of pytorch_optimizer, an optimizer class,
            its dotted path, a callable that takes the parameters, an optimizer (its groups and rates stay as they are), a
            mapping with ``_target_`` or ``name`` and options; or an :class:`OptimizerConfig` with all arguments.
        lr: learning rate; the catalogue's by default. ``"auto"`` tries three on the trainer's data, for five steps each
            (:func:`lightning_adam.suggest_lr`), says what it took and why, and keeps to it when the run is resumed.
        betas: decay rates of the first and second moment, each in [0, 1).
        eps: added to √v̂; adafactor has two.
        weight_decay: for tensors of two or more dimensions; vectors get none.
        schedule: ``cosine`` by default; ``constant``, ``linear``, ``wsd`` (warmup-stable-decay), ``inverse_sqrt``, … see
            ``lightning_adam.schedules.SCHEDULES``.
        warmup: duration of the linear warmup: ``0.05`` of the run (the default), ``500`` steps, ``"2ep"`` epochs.
        decay: duration of the decay of ``wsd`` (a tenth of the run by default), or of a cycle of ``cosine_restarts``.
        min_lr: where the decay ends, as a fraction of ``lr`` (``0.1``, ``"10%"``); as a rate: ``"1e-6 absolute"``.
        total_steps: duration of the run; by default the trainer is asked.
        clip: total norm, a rule such as :class:`ClipNorm` or :class:`ZClip`, or None. By default the norm 1.0, unless the
            trainer clips.
        parameters: glob of the parameter names that this optimizer trains, such as ``generator.*`` where several
            optimizers are stepped by hand; all by default.
        param_groups: glob of parameter names to options of a group of its own: ``{"*.embed*": {"lr": 1e-4}}``.
        layer_decay: factor of the learning rate per layer towards the input, such as 0.75.
        schedule_options: what the schedule takes, such as ``{"power": 1.0}``.
        monitor: the logged metric that ``plateau`` watches.
        mode: whether ``plateau`` waits for a smaller (``"min"``) or a larger metric (``"max"``); by default its name says.
        preset: ``gpt``, ``bert``, ``vit``, ``diffusion``, ``gan``, ``finetune``, ``rl``, ``memory``; what is given here
            wins over it.
        reset_optimizer: start the optimizer's state afresh on the next resume, as another optimizer than the checkpoint's
            needs it; the weights and the count of steps are kept. From FSDP2's shards only the same optimizer can be reset:
            torch asks the checkpoint for the new one's tensors first.
        **optimizer_options: what else the optimizer's class takes, such as ``fused=True``.

    Returns:
        ``{"optimizer": …, "lr_scheduler": {"scheduler": …, "interval": "step", "frequency": 1, "name": "lr"}}``

    Raises:
        ConfigError: a wrong argument, an unknown run length, or clipping asked of both trainer and helper.
    """
    given = {key: value for key, value in locals().items() if key in ARGUMENTS}
    if isinstance(optimizer, OptimizerConfig):
        _refuse_mixture(given)
        return _build(module, replace(optimizer, options={**optimizer.options, **optimizer_options}))
    return _build(module, OptimizerConfig(**given, options=dict(optimizer_options)))


_DEFAULTS = {f.name: f.default for f in fields(OptimizerConfig)}


def _refuse_mixture(given: Mapping[str, Any]) -> None:
    both = [key for key, value in given.items() if key != "optimizer" and value != _DEFAULTS[key]]
    if both:
        raise ConfigError(
            f"{', '.join(both)} given beside an OptimizerConfig: set it there, or use dataclasses.replace(config, ...)."
        )


def _build(module: nn.Module, asked: OptimizerConfig) -> OptimizerAndSchedule:
    check_module(module)
    config, choice = settle(asked)
    refuse_beside_instance(choice, config)
    trainer = trainer_of(module)
    if config.lr == "auto":
        config = replace(config, lr=found_rate(module, config, choice, trainer))
    check_arguments(config, choice.spec)
    refuse_combinations(choice.spec, config, trainer)
    refuse_plateau(config, trainer)
    optimizer, schedule = _optimizer_and_schedule(module, config, choice, trainer)
    if asked.lr == "auto":
        remember_rate(optimizer, float(config.lr or 0.0))
    warn_of_batch_norm(choice.spec, module)
    _attach_companions(choice.spec, trainer)
    if trainer is not None:
        _expect(schedule, config, trainer, _is_manual(module))
    frequency = int(schedule.phases.options.get("frequency", 1))
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": schedule, "interval": "step", "frequency": frequency, "name": "lr"},
    }


def _optimizer_and_schedule(
    module: nn.Module, config: OptimizerConfig, choice: Choice, trainer: Any | None
) -> tuple[Optimizer, Schedule]:
    """The optimizer, which clips and tells its schedule of each step."""
    clip = _choose_clip(choice.spec, config, trainer)
    phases = plan(config, trainer)
    groups = make_groups(module, config, choice)
    refuse_number_kinds(choice.spec, module, groups, clip is not None)
    if trainer is not None and not _is_manual(module):
        refuse_left_over(module, config.parameters)
    optimizer = make_optimizer(
        choice, config, groups, phases.total, lambda parameters: _fused_is_right(parameters, module, trainer)
    )
    schedule = make_schedule(optimizer, phases, config)
    guide(optimizer, clip, schedule, order_of(module), config.reset_optimizer)
    return optimizer, schedule


def _is_manual(module: nn.Module) -> bool:
    return not getattr(module, "automatic_optimization", True)


def _expect(schedule: Schedule, config: OptimizerConfig, trainer: Any, manual: bool) -> None:
    """Tell the companions that serve every optimizer of a trainer."""
    _attach("RunPlan", trainer, first=True).expect(schedule, config)
    if isinstance(schedule, PlateauSchedule):
        _attach("PlateauWatch", trainer).expect(schedule, config.monitor)
    if manual:
        _attach("ManualRun", trainer)


def _fused_is_right(parameters: Sequence[Tensor], module: nn.Module, trainer: Any | None) -> bool:
    """Whether torch's fused kernel can be used (not for sparse gradients), and Lightning lets it be.

    Lightning refuses to clip with a fused optimizer under mixed precision, and under fp16 leaves unscaling to its kernel.
    """
    precision = str(getattr(trainer, "precision", ""))
    trainer_clips = bool(getattr(trainer, "gradient_clip_val", None))
    return precision != "16-mixed" and not (trainer_clips and "mixed" in precision) and fused_fits(parameters, module)


def _choose_clip(spec: OptimizerSpec, config: OptimizerConfig, trainer: Any | None) -> Clip | None:
    trainer_clips = getattr(trainer, "gradient_clip_val", None)
    if "closure" in spec.needs:
        return None
    strategy = type(getattr(trainer, "strategy", None)).__name__
    if isinstance(config.clip, str) and config.clip == "default":
        return None if trainer_clips or strategy in ("FSDPStrategy", "DeepSpeedStrategy") else as_clip(1.0)
    rule = as_clip(config.clip)  # type: ignore[arg-type]
    if rule is not None and trainer_clips:
        raise ConfigError(
            f"clip={config.clip!r} here and Trainer(gradient_clip_val={trainer_clips!r}): gradients would be clipped "
            "twice. Leave one of them out; the helper's also works with fused optimizers and manual optimization."
        )
    return rule


def _attach_companions(spec: OptimizerSpec, trainer: Any | None) -> None:
    for name in (COMPANIONS[need] for need in spec.needs if need in COMPANIONS and trainer is not None):
        _attach(name, trainer)


def _attach(name: str, trainer: Any, first: bool = False) -> Any:
    """Callbacks that serve all optimizers of the trainer: one of each kind is enough, however often this is called.

    As all of Lightning's, they come before those that write checkpoints, which are to hold what they change; ``first``
    before all that look at rates or at the plan.
    """
    found = [callback for callback in trainer.callbacks if type(callback).__name__ == name]
    if not found:
        found.append(getattr(importlib.import_module("lightning_adam.callbacks"), name)())
        writers = [trainer.callbacks.index(callback) for callback in trainer.checkpoint_callbacks]
        trainer.callbacks.insert(0 if first else min(writers, default=len(trainer.callbacks)), found[0])
    return found[0]

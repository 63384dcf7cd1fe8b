"""The helper: its arguments in, the dict that Lightning expects out. Imports no Lightning: it looks at the trainer."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from fnmatch import fnmatchcase
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from lightning_adam.clipping import Clip, ClipAdaptive, ClipNorm, ClipValue, as_clip
from lightning_adam.config import Duration, OptimizerConfig, check_numbers, with_preset
from lightning_adam.curves import Phases
from lightning_adam.errors import ConfigError, nearest
from lightning_adam.guided import GuidedStep, guide, guided_class
from lightning_adam.optimizers import OptimizerSpec, build_optimizer, get_optimizer
from lightning_adam.parameter_groups import Split, plain_name, split_parameters
from lightning_adam.planning import plan, trainer_of
from lightning_adam.plateau import PlateauSchedule, plateau_mode, refuse_plateau
from lightning_adam.schedules import Schedule

# Lightning loads checkpoints with weights_only: a config in the saved hyper-parameters must not stop a resume.
torch.serialization.add_safe_globals([OptimizerConfig, ClipNorm, ClipValue, ClipAdaptive])

COMPANIONS = {"loss": "LossForAdamZ", "hessian": "HessianForSophia", "modes": "ScheduleFreeModes"}
"""What an optimizer needs to the callback that gives it."""


def configure_optimizers(
    module: nn.Module,
    optimizer: str | OptimizerConfig | None = None,
    *,
    lr: float | None = None,
    betas: tuple[float, ...] | None = None,
    eps: float | None = None,
    weight_decay: float | None = None,
    schedule: str | None = None,
    warmup: Duration | None = None,
    decay: Duration | None = None,
    min_lr: float | None = None,
    total_steps: Duration | None = None,
    clip: Clip | float | str | None = "default",
    parameters: str | None = None,
    param_groups: Mapping[str, Mapping[str, Any]] | None = None,
    layer_decay: float | None = None,
    schedule_options: Mapping[str, float] | None = None,
    monitor: str = "val_loss",
    mode: Literal["min", "max"] | None = None,
    preset: str | None = None,
    reset_optimizer: bool = False,
    **optimizer_options: Any,
) -> dict[str, Any]:
    """Optimizer, schedule and clipping for ``LightningModule.configure_optimizers`` to return.

    Args:
        module: the LightningModule (any ``nn.Module`` when ``total_steps`` is given).
        optimizer: a name of :func:`available_optimizers` (``adamw`` by default), or an :class:`OptimizerConfig` with all
            arguments.
        lr: learning rate; the catalogue's by default.
        betas: decay rates of the first and second moment, each in [0, 1).
        eps: added to √v̂.
        weight_decay: for tensors of two or more dimensions; vectors get none.
        schedule: ``cosine`` by default; ``constant``, ``linear``, ``wsd`` (warmup-stable-decay), ``inverse_sqrt``, … see
            ``lightning_adam.schedules.SCHEDULES``.
        warmup: duration of the linear warmup: ``0.05`` of the run (the default), ``500`` steps, ``"2ep"`` epochs.
        decay: duration of the decay of ``wsd`` (a tenth of the run by default), or of a cycle of ``cosine_restarts``.
        min_lr: where the decay ends, as a fraction of ``lr``.
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
    given = {key: value for key, value in locals().items() if key in _ARGUMENTS}
    if isinstance(optimizer, OptimizerConfig):
        _refuse_mixture(given)
        return _build(module, replace(optimizer, options={**optimizer.options, **optimizer_options}))
    return _build(module, OptimizerConfig(**given, options=dict(optimizer_options)))


_DEFAULTS = {f.name: f.default for f in fields(OptimizerConfig)}
_ARGUMENTS = frozenset(_DEFAULTS) - {"options"}


def _refuse_mixture(given: Mapping[str, Any]) -> None:
    both = [key for key, value in given.items() if key != "optimizer" and value != _DEFAULTS[key]]
    if both:
        raise ConfigError(
            f"{', '.join(both)} given beside an OptimizerConfig: set it there, or use dataclasses.replace(config, ...)."
        )


def _build(module: nn.Module, asked: OptimizerConfig) -> dict[str, Any]:
    config = with_preset(asked)
    spec = get_optimizer(config.optimizer or "adamw")
    if config.schedule is None and "modes" in spec.needs:
        config = replace(config, schedule="constant")
    check_numbers(config)
    trainer = trainer_of(module)
    _refuse(spec, config, trainer)
    refuse_plateau(config, trainer)
    clip = _choose_clip(spec, config, trainer)
    phases = plan(config, trainer)
    groups = split_parameters(module, _split(spec, config))
    manual = trainer is not None and not getattr(module, "automatic_optimization", True)
    if trainer is not None and not manual:
        _refuse_left_over(module, config.parameters)
    options = _options(spec, config, [p for group in groups for p in group["params"]], trainer)
    optimizer = cast(GuidedStep, build_optimizer(spec, groups, options, phases.total, guided_class(spec.load())))
    name = config.schedule or "cosine"
    schedule = _schedule(optimizer, name, phases, config)
    order = [plain_name(parameter) for parameter, _ in module.named_parameters()]
    guide(optimizer, clip, schedule, order, config.reset_optimizer)
    _attach_companions(spec, trainer)
    if trainer is not None:
        _expect(schedule, config, trainer, manual)
    frequency = int(phases.options.get("frequency", 1))
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": schedule, "interval": "step", "frequency": frequency, "name": "lr"},
    }


def _schedule(optimizer: GuidedStep, name: str, phases: Phases, config: OptimizerConfig) -> Schedule:
    if name == "plateau":
        return PlateauSchedule(optimizer, name, phases, plateau_mode(config.monitor, config.mode))
    return Schedule(optimizer, name, phases)


def _expect(schedule: Schedule, config: OptimizerConfig, trainer: Any, manual: bool) -> None:
    """Tell the companions that serve every optimizer of a trainer."""
    _attach("RunPlan", trainer, first=True).expect(schedule, config)
    if isinstance(schedule, PlateauSchedule):
        _attach("PlateauWatch", trainer).expect(schedule, config.monitor)
    if manual:
        _attach("ManualRun", trainer)


def _split(spec: OptimizerSpec, config: OptimizerConfig) -> Split:
    decays = "weight_decay" in spec.options()
    if config.weight_decay is not None and not decays:
        raise ConfigError(f"weight_decay={config.weight_decay!r}: {spec.name} has no weight decay; leave it out.")
    return Split(
        lr=config.lr if config.lr is not None else spec.lr,
        weight_decay=(config.weight_decay if config.weight_decay is not None else spec.weight_decay) if decays else None,
        parameters=config.parameters,
        overrides=config.param_groups,
        layer_decay=config.layer_decay,
        matrices="matrices" in spec.needs,
        embedding_bits=32 if spec.library == "bitsandbytes" and "8bit" in spec.name else None,
    )


def _options(
    spec: OptimizerSpec, config: OptimizerConfig, parameters: Sequence[Tensor], trainer: Any | None
) -> dict[str, Any]:
    _refuse_misspelt(spec, config.options)
    options = {name: value for name in ("betas", "eps") if (value := getattr(config, name)) is not None}
    options = {"lr": config.lr if config.lr is not None else spec.lr, **options, **config.options}
    if spec.fused and not {"fused", "foreach"} & options.keys():
        options["fused"] = _fused_is_right(parameters, trainer)
    _check_eps(options.get("eps"), spec, parameters)
    return options


def _refuse_misspelt(spec: OptimizerSpec, options: Mapping[str, Any]) -> None:
    """What is no argument of the helper goes to the optimizer's class: it may be either, misspelt."""
    accepted = spec.options()
    for name in options:
        if name not in accepted and (meant := nearest(name, _ARGUMENTS)):
            raise ConfigError(
                f"{name!r} is neither an argument of configure_optimizers nor an option of {spec.name}.{meant} "
                f"{spec.name} takes: {', '.join(accepted)}."
            )


def _fused_is_right(parameters: Sequence[Tensor], trainer: Any | None) -> bool:
    """Whether torch's fused kernel can be used, and Lightning lets it be.

    Lightning refuses to clip with a fused optimizer under mixed precision, and under fp16 leaves unscaling to its kernel.
    """
    devices = {p.device.type for p in parameters}
    precision = str(getattr(trainer, "precision", ""))
    trainer_clips = bool(getattr(trainer, "gradient_clip_val", None))
    allowed = precision != "16-mixed" and not (trainer_clips and "mixed" in precision)
    return allowed and len(devices) == 1 and devices <= {"cpu", "cuda"} and all(p.is_floating_point() for p in parameters)


def _check_eps(eps: Any, spec: OptimizerSpec, parameters: Sequence[Tensor]) -> None:
    used = 1e-8 if eps is None else eps
    if not isinstance(used, (int, float)) or "eps" not in spec.options():
        return
    for dtype in {p.dtype for p in parameters if p.dtype == torch.float16}:
        if float(torch.tensor(used, dtype=dtype)) == 0.0:
            raise ConfigError(
                f"eps={used!r} is 0 in {dtype} weights and states: pass eps=1e-6 or above, or train with "
                "precision='16-mixed' (32-bit weights)."
            )


def _refuse(spec: OptimizerSpec, config: OptimizerConfig, trainer: Any | None) -> None:
    """What cannot go together.

    Raises:
        ConfigError: says what to change.
    """
    strategy = type(getattr(trainer, "strategy", None)).__name__
    sharded = "FSDP" in strategy or "ModelParallel" in strategy
    wants_clip = config.clip not in (None, "default")
    one_group = "closure" in spec.needs
    refusals = {
        f"{spec.name} under {strategy}: bitsandbytes cannot shard 8-bit state. Use adamw, or DDP.": (
            sharded and spec.library == "bitsandbytes"
        ),
        f"schedule={config.schedule!r} with {spec.name}: it averages weights in place of a schedule. Leave schedule out "
        "(a warmup is fine).": "modes" in spec.needs and config.schedule != "constant",
        "lbfgs under precision='16-mixed': its repeated closure cannot be unscaled. Use precision='32-true' or "
        "'bf16-mixed'.": one_group and str(getattr(trainer, "precision", "")) == "16-mixed",
        "lbfgs under accumulate_grad_batches: its closure sees the last micro-batch only, while gradients pile up. Use a "
        "larger batch, or another optimizer.": one_group and _accumulates(trainer),
        f"clip={config.clip!r} with lbfgs: its line search needs the loss's own gradient. Leave clip out.": one_group
        and wants_clip,
        "Trainer(gradient_clip_val=...) with lbfgs: its line search needs the loss's own gradient. Leave it out.": one_group
        and bool(getattr(trainer, "gradient_clip_val", None)),
        "param_groups and layer_decay with lbfgs: it takes one group only.": one_group
        and bool(config.param_groups or config.layer_decay),
        f"clip={config.clip!r} under DeepSpeed: DeepSpeed clips by itself. Put 'gradient_clipping' into its config and "
        "leave clip out.": "DeepSpeed" in strategy and wants_clip,
        f"clip={config.clip!r} under FSDPStrategy: it shows each rank only its shard's norm. Use ModelParallelStrategy "
        "(FSDP2), or clip=None.": strategy == "FSDPStrategy" and wants_clip,
    }
    for message, holds in refusals.items():
        if holds:
            raise ConfigError(message)


def _accumulates(trainer: Any | None) -> bool:
    """Now, or in a later epoch by Lightning's GradientAccumulationScheduler; manual optimization is the user's own."""
    scheduled = [c for c in getattr(trainer, "callbacks", []) if type(c).__name__ == "GradientAccumulationScheduler"]
    return getattr(trainer, "accumulate_grad_batches", 1) > 1 or any(c.going_to_accumulate_grad_batches() for c in scheduled)


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


def _refuse_left_over(module: nn.Module, pattern: str | None) -> None:
    """Automatic optimization has one optimizer: what it does not train, nothing trains."""
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    left = [name for name in names if pattern is not None and not fnmatchcase(plain_name(name), pattern)]
    if left:
        raise ConfigError(
            f"parameters={pattern!r} leaves {len(left)} trainable parameters ({', '.join(left[:3])}) without an optimizer, "
            "and automatic optimization has only one. Freeze them with requires_grad_(False), or set "
            "self.automatic_optimization = False and step several optimizers by hand."
        )


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

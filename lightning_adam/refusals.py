"""What cannot go together: optimizer, configuration, module and trainer; refused before training."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from lightning_adam.config import OptimizerConfig
from lightning_adam.errors import ConfigError, LightningAdamWarning
from lightning_adam.optimizers.choice import Choice
from lightning_adam.optimizers.number_kinds import sparse_embeddings, takes_complex, takes_sparse
from lightning_adam.optimizers.spec import OptimizerSpec
from lightning_adam.parameter_groups import plain_name


def check_module(module: Any) -> None:
    """Refuse what is no module.

    Raises:
        ConfigError: says what to give instead.
    """
    if isinstance(module, nn.Module):
        return
    what = f"the class {module.__name__}" if isinstance(module, type) else f"a {type(module).__name__}"
    hint = "an instance of it" if isinstance(module, type) else "the module itself (self), not its parameters or its name"
    raise ConfigError(f"module: got {what}; give {hint}: la.configure_optimizers(self, ...).")


GIVEN_WITH_INSTANCE = ("lr", "betas", "eps", "weight_decay", "parameters", "param_groups", "layer_decay")


def refuse_beside_instance(choice: Choice, config: OptimizerConfig) -> None:
    """An optimizer that is made already has its groups.

    Raises:
        ConfigError: options that would have to change them.
    """
    given = [name for name in GIVEN_WITH_INSTANCE if getattr(config, name) is not None] + list(config.options)
    if choice.instance is not None and given:
        raise ConfigError(
            f"{', '.join(given)} given beside an optimizer that is made already ({type(choice.instance).__name__}): set it "
            "there, or give its class."
        )


def refuse_combinations(spec: OptimizerSpec, config: OptimizerConfig, trainer: Any | None) -> None:
    """What cannot go together.

    Raises:
        ConfigError: says what to change.
    """
    refusals = {**_strategy_refusals(spec, config, trainer), **_option_refusals(spec, config, trainer)}
    for message, holds in refusals.items():
        if holds:
            raise ConfigError(message)


def _strategy_refusals(spec: OptimizerSpec, config: OptimizerConfig, trainer: Any | None) -> dict[str, bool]:
    """What the trainer's strategy cannot do, and whether it is asked for."""
    strategy, clip = type(getattr(trainer, "strategy", None)).__name__, config.clip
    sharded = "FSDP" in strategy or "ModelParallel" in strategy
    clips = clip not in (None, "default")
    return {
        f"{spec.name} under {strategy}: bitsandbytes cannot shard 8-bit state. Use adamw, or DDP.": (
            sharded and spec.library == "bitsandbytes"
        ),
        f"clip={clip!r} under DeepSpeed: DeepSpeed clips by itself. Put 'gradient_clipping' into its config and leave clip "
        "out.": "DeepSpeed" in strategy and clips,
        f"clip={clip!r} under FSDPStrategy: it shows each rank only its shard's norm. Use ModelParallelStrategy (FSDP2), or "
        "clip=None.": strategy == "FSDPStrategy" and clips,
    }


def _option_refusals(spec: OptimizerSpec, config: OptimizerConfig, trainer: Any | None) -> dict[str, bool]:
    """What the optimizer itself cannot do, and whether it is asked for: one that averages, or that steps by closure."""
    name, averages, by_closure = spec.name, "modes" in spec.needs, "closure" in spec.needs
    asked = {
        f"schedule={config.schedule!r} with {name}: it averages weights in place of a schedule. Leave schedule out "
        "(a warmup is fine).": averages and config.schedule != "constant",
    }
    of_closures = {
        f"{name} under precision='16-mixed': its repeated closure cannot be unscaled. Use precision='32-true' or "
        "'bf16-mixed'.": str(getattr(trainer, "precision", "")) == "16-mixed",
        f"{name} under accumulate_grad_batches: its closure sees the last micro-batch only, while gradients pile up. Use a "
        "larger batch, or another optimizer.": _accumulates(trainer),
        f"clip={config.clip!r} with {name}: it needs the loss's own gradient. Leave clip out.": (
            config.clip not in (None, "default")
        ),
        f"Trainer(gradient_clip_val=...) with {name}: it needs the loss's own gradient. Leave it out.": (
            bool(getattr(trainer, "gradient_clip_val", None))
        ),
        f"param_groups and layer_decay with {name}: it takes one group only.": (
            bool(config.param_groups or config.layer_decay)
        ),
    }
    return {**asked, **(of_closures if by_closure else {})}


def _accumulates(trainer: Any | None) -> bool:
    """Now, or in a later epoch by Lightning's GradientAccumulationScheduler; manual optimization is the user's own."""
    scheduled = [c for c in getattr(trainer, "callbacks", []) if type(c).__name__ == "GradientAccumulationScheduler"]
    return getattr(trainer, "accumulate_grad_batches", 1) > 1 or any(c.going_to_accumulate_grad_batches() for c in scheduled)


def refuse_left_over(module: nn.Module, pattern: str | None) -> None:
    """Automatic optimization has one optimizer: what it does not train, nothing trains.

    Raises:
        ConfigError: trainable parameters that ``pattern`` leaves out.
    """
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    left = [name for name in names if pattern is not None and not fnmatchcase(plain_name(name), pattern)]
    if left:
        raise ConfigError(
            f"parameters={pattern!r} leaves {len(left)} trainable parameters ({', '.join(left[:3])}) without an optimizer, "
            "and automatic optimization has only one. Freeze them with requires_grad_(False), or set "
            "self.automatic_optimization = False and step several optimizers by hand."
        )


def warn_of_batch_norm(spec: OptimizerSpec, module: nn.Module) -> None:
    """Schedule-free optimizers validate averaged weights, with which no batch was ever normalised (schedule_free's README,
    "Caveats")."""
    tracked = [m for m in module.modules() if getattr(m, "track_running_stats", False) and hasattr(m, "running_mean")]
    if "modes" in spec.needs and tracked:
        warnings.warn(
            f"{spec.name} validates averaged weights, and BatchNorm's running statistics are those of the training weights. "
            "Before each validation estimate them anew: in on_validation_start, call "
            "torch.optim.swa_utils.update_bn(loader_of_training_inputs, self). Or use GroupNorm or LayerNorm.",
            LightningAdamWarning,
            stacklevel=4,
        )


def refuse_number_kinds(spec: OptimizerSpec, module: nn.Module, groups: Sequence[Mapping[str, Any]], clips: bool) -> None:
    """Complex parameters and sparse gradients, where the optimizer or the clipping would fail in the first step.

    Raises:
        ConfigError: names the module's part, and what to use instead.
    """
    parameters = [p for group in groups for p in group["params"]]
    if not takes_complex(spec) and any(p.is_complex() for p in parameters):
        raise ConfigError(f"{spec.name}: the model has complex parameters, and {spec.name} knows real ones only. Use adamw.")
    sparse = sparse_embeddings(module)
    name = next((sparse[id(p)] for p in parameters if id(p) in sparse), None)
    dense = [key for key, p in module.named_parameters() if id(p) not in sparse and any(p is other for other in parameters)]
    if dense and spec.name == "SparseAdam":
        raise ConfigError(
            f"SparseAdam takes sparse gradients only, and {plain_name(dense[0])} has dense ones. Use "
            "optimizer=torch.optim.Adagrad, which takes both, or step several optimizers by hand, this one with parameters=."
        )
    if name is not None:
        decays = any(g.get("weight_decay") for g in groups if any(id(p) in sparse for p in g["params"]))
        _refuse_sparse(spec, name, clips, decays, "Adagrad" if dense else "SparseAdam")


def _refuse_sparse(spec: OptimizerSpec, name: str, clips: bool, decays: bool, instead: str) -> None:
    if not takes_sparse(spec):
        raise ConfigError(
            f"{spec.name}: {name} has sparse=True, and {spec.name} takes no sparse gradients. Make it with sparse=False, or "
            f"use optimizer=torch.optim.{instead}."
        )
    if clips:
        raise ConfigError(f"clip: {name} has sparse=True, and sparse gradients cannot be clipped. Pass clip=None.")
    if decays:
        raise ConfigError(
            f"weight_decay: {name} has sparse=True, and decay would touch every row. Leave it out for this one: "
            f"param_groups={{'{name}.weight': {{'weight_decay': 0.0}}}}."
        )

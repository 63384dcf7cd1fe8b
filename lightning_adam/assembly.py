"""From a configuration to an optimizer that clips and follows its schedule; who trains it is not asked here."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_adam.checks import check_parameters, refuse_misspelt
from lightning_adam.config import OptimizerConfig, known_rate, with_preset
from lightning_adam.curves import Phases
from lightning_adam.errors import ConfigError, LightningAdamWarning
from lightning_adam.guided import GuidedStep, adopted, guided_class
from lightning_adam.optimizers.choice import Choice, choose, spec_of, unfolded
from lightning_adam.optimizers.number_kinds import sparse_embeddings
from lightning_adam.optimizers.spec import OptimizerSpec, build_optimizer
from lightning_adam.parameter_groups import Split, plain_name, split_parameters
from lightning_adam.plateau import PlateauSchedule, plateau_mode
from lightning_adam.schedules import Schedule

Groups = list[dict[str, Any]]


def settle(asked: OptimizerConfig) -> tuple[OptimizerConfig, Choice]:
    """The configuration with its preset and the optimizer's own options in their places, and what is to be made.

    Raises:
        ConfigError: unknown preset or optimizer, or an argument that is given twice.
    """
    config = with_preset(_unfold(asked))
    choice = choose("adamw" if config.optimizer is None else config.optimizer)
    if config.schedule is None and "modes" in choice.spec.needs:
        config = replace(config, schedule="constant")
    return config, choice


def _unfold(asked: OptimizerConfig) -> OptimizerConfig:
    """The options of a mapping given as the optimizer become arguments."""
    target, given = unfolded(asked.optimizer)
    arguments = {name: given.pop(name) for name in ("lr", "betas", "eps", "weight_decay") if name in given}
    twice = [name for name in arguments if getattr(asked, name) is not None] + [n for n in given if n in asked.options]
    if twice:
        raise ConfigError(f"{', '.join(twice)} is given twice: beside optimizer= and within it. Leave one of them out.")
    return replace(asked, optimizer=target, **arguments, options={**asked.options, **given})


def make_groups(module: nn.Module, config: OptimizerConfig, choice: Choice) -> Groups:
    """The module's parameters in groups; an optimizer that is made already keeps its own, and learns the names.

    Raises:
        ConfigError: a pattern that matches nothing.
    """
    if choice.instance is not None:
        return _named(choice.instance, module)
    spec = choice.spec
    groups = split_parameters(module, _split(spec, config, known=choice.make is None))
    if spec.path.startswith("pytorch_optimizer.optimizer.muon."):
        groups = [{**group, "use_muon": group["muon"]} for group in groups]
    if choice.make is not None:
        options = {name: value for name in ("lr", "betas", "eps") if (value := getattr(config, name)) is not None}
        groups = [{**options, **config.options, **group} for group in groups]
    return groups


def _split(spec: OptimizerSpec, config: OptimizerConfig, known: bool) -> Split:
    decays = not known or "weight_decay" in spec.options()
    if config.weight_decay is not None and not decays:
        raise ConfigError(f"weight_decay={config.weight_decay!r}: {spec.name} has no weight decay; leave it out.")
    asked = known_rate(config)
    lr = asked if asked is not None else spec.lr
    if config.layer_decay is not None and math.isnan(lr):
        raise ConfigError(f"layer_decay={config.layer_decay!r} multiplies lr: pass lr=... beside it.")
    own = spec.weight_decay if known else None
    return Split(
        lr=lr,
        weight_decay=(own if config.weight_decay is None else config.weight_decay) if decays else None,
        parameters=config.parameters,
        overrides=config.param_groups,
        layer_decay=config.layer_decay,
        matrices="matrices" in spec.needs,
        embedding_bits=32 if spec.path.startswith("lightning_adam.optimizers.eight_bit") and "8bit" in spec.name else None,
    )


def _named(optimizer: Optimizer, module: nn.Module) -> Groups:
    names = {id(p): plain_name(name) for name, p in module.named_parameters()}
    if not any(id(p) in names for group in optimizer.param_groups for p in group["params"]):
        warnings.warn(
            f"optimizer={type(optimizer).__name__}(…) trains none of the parameters of {type(module).__name__}: make it "
            "from self.parameters(), after they are made.",
            LightningAdamWarning,
            stacklevel=4,
        )
    for group in optimizer.param_groups:
        if all(id(p) in names for p in group["params"]):
            group.setdefault("adam_names", [names[id(p)] for p in group["params"]])
    return optimizer.param_groups


def make_optimizer(
    choice: Choice, config: OptimizerConfig, groups: Groups, total_steps: float, may_fuse: Callable[[Sequence[Tensor]], bool]
) -> GuidedStep:
    """The optimizer, whose step :func:`guide` will complete.

    Args:
        choice: what is to be made.
        config: its options.
        groups: from :func:`make_groups`.
        total_steps: length of the run.
        may_fuse: whether torch's fused kernel is right for these parameters.

    Raises:
        ConfigError: an option that it does not take, or that it refuses.
    """
    if choice.instance is not None:
        made = adopted(choice.instance)
    elif choice.make is not None:
        made = _made_by_callable(choice, groups, config)
    else:
        options = options_for(choice.spec, config, groups, may_fuse)
        made = cast(GuidedStep, build_optimizer(choice.spec, groups, options, total_steps, guided_class(choice.spec.load())))
        made.adam_shared = choice.spec.shared
    if not all("lr" in group for group in made.param_groups):
        raise ConfigError(f"{made.adam_kind.__name__} has no lr in its groups: there is nothing for a schedule to set.")
    return made


def options_for(
    spec: OptimizerSpec, config: OptimizerConfig, groups: Groups, may_fuse: Callable[[Sequence[Tensor]], bool]
) -> dict[str, Any]:
    """What the class is called with.

    Raises:
        ConfigError: a misspelt option, or parameters that the optimizer cannot hold.
    """
    refuse_misspelt(spec, config.options)
    options = {name: value for name in ("betas", "eps") if (value := getattr(config, name)) is not None}
    options = {**({} if math.isnan(spec.lr) else {"lr": spec.lr}), **options, **config.options}
    if (asked := known_rate(config)) is not None:
        options["lr"] = asked
    if spec.fused and not {"fused", "foreach"} & options.keys():
        options["fused"] = may_fuse([p for group in groups for p in group["params"]])
    check_parameters(spec, groups, options)
    return options


def _made_by_callable(choice: Choice, groups: Groups, config: OptimizerConfig) -> GuidedStep:
    """Groups carry what was asked; afterwards it is seen what the optimizer knows of that."""
    make = cast(Callable[..., Optimizer], choice.make)
    try:
        made = make([dict(group) for group in groups])
    except Exception as error:  # whatever the user's callable raises
        raise ConfigError(f"optimizer={choice.spec.name} failed when it was given the parameter groups: {error}") from error
    if not isinstance(made, Optimizer):
        raise ConfigError(f"optimizer={choice.spec.name}: it must return an optimizer, and returned {made!r}.")
    spec = spec_of(type(made))
    asked = [name for name in ("betas", "eps", "weight_decay") if getattr(config, name) is not None] + list(config.options)
    unknown = [name for name in asked if name not in made.defaults]
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)}: {spec.name} has no such option in its groups. It has: {', '.join(made.defaults)}."
        )
    _leave_vectors_undecayed(made)
    check_parameters(spec, made.param_groups, made.defaults)
    return adopted(made)


def _leave_vectors_undecayed(made: Optimizer) -> None:
    """Where the callable's optimizer brings its own decay, it is for matrices."""
    for group in made.param_groups:
        if str(group.get("name", "")).startswith("no_decay") and group.get("weight_decay"):
            group["weight_decay"] = 0.0


def make_schedule(optimizer: GuidedStep, phases: Phases, config: OptimizerConfig) -> Schedule:
    """The schedule that the configuration names, cosine by default."""
    name = config.schedule or "cosine"
    if name == "plateau":
        return PlateauSchedule(optimizer, name, phases, plateau_mode(config.monitor, config.mode))
    return Schedule(optimizer, name, phases)


def fused_fits(parameters: Sequence[Tensor], module: nn.Module) -> bool:
    """Whether torch's fused kernel takes them: floats on one device, with gradients that are not sparse."""
    devices = {p.device.type for p in parameters}
    sparse = sparse_embeddings(module)
    dense_floats = all(p.is_floating_point() and id(p) not in sparse for p in parameters)
    return dense_floats and len(devices) == 1 and devices <= {"cpu", "cuda"}


def never(parameters: Sequence[Tensor]) -> bool:
    """Where nobody knows who unscales."""
    return False


def order_of(module: nn.Module) -> Sequence[str]:
    """The parameters' names in the order in which plain torch numbers them."""
    return [plain_name(name) for name, _ in module.named_parameters()]

"""The helper's optimizer as a class or as a callable, for libraries that make their optimizer themselves."""

from __future__ import annotations

import copy
import copyreg
import inspect
import uuid
from abc import ABCMeta
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from lightning_adam.assembly import Groups, make_optimizer, make_schedule, never, options_for, settle
from lightning_adam.checks import check_arguments
from lightning_adam.clipping import Clip, as_clip
from lightning_adam.config import Duration, OptimizerConfig
from lightning_adam.curves import Phases
from lightning_adam.errors import ConfigError
from lightning_adam.guided import GuidedStep, guide, guided_class
from lightning_adam.names import OptimizerName, PresetName, ScheduleName
from lightning_adam.optimizers.choice import Choice, OptimizerChoice
from lightning_adam.optimizers.spec import build_optimizer
from lightning_adam.planning import plan
from lightning_adam.refusals import refuse_combinations
from lightning_adam.saved_record import NAMES, names_of
from lightning_adam.schedules import get_schedule

SCHEDULE = "schedule"
"""Where the schedule's progress lies in the record of a checkpoint: no trainer saves it here."""


def optimizer_class(
    optimizer: OptimizerName | OptimizerChoice | OptimizerConfig | None = None,
    *,
    lr: float | None = None,
    betas: Sequence[float] | None = None,
    eps: float | Sequence[float | None] | None = None,
    weight_decay: float | None = None,
    schedule: ScheduleName | None = None,
    warmup: Duration | None = None,
    decay: Duration | None = None,
    min_lr: float | str | None = None,
    total_steps: int | None = None,
    clip: Clip | float | None = None,
    schedule_options: Mapping[str, float] | None = None,
    preset: PresetName | None = None,
    **optimizer_options: Any,
) -> type[Optimizer]:
    """An optimizer class with schedule and clipping inside: for darts' ``optimizer_cls``, neuralforecast's ``optimizer``, …

    ``cls(params, lr=…)`` takes parameters, named parameters or groups, and the options of the optimizer's own class, which
    win over those given here. Matrices decay and vectors do not; groups are taken as they are. Each ``step()`` clips and
    moves the schedule on, and the optimizer's ``state_dict`` has both. The class can be pickled, also for a spawned process.

    Args:
        optimizer: a name, a class or its dotted path; or an :class:`OptimizerConfig` with all arguments.
        lr: learning rate; the catalogue's by default.
        betas: decay rates of the moments.
        eps: added to √v̂.
        weight_decay: for tensors of two or more dimensions.
        schedule: without ``total_steps`` ``constant``, else ``cosine``.
        warmup: in steps, or as a fraction of ``total_steps``; none by default where these are not given.
        decay: of ``wsd`` and ``cosine_restarts``.
        min_lr: where the decay ends, as a fraction of ``lr`` or as ``"1e-6 absolute"``.
        total_steps: length of the run in optimizer steps; nobody can be asked for it here.
        clip: total norm or a rule; none by default, for the library's trainer may clip.
        schedule_options: what the schedule takes.
        preset: as of :func:`lightning_adam.configure_optimizers`.
        **optimizer_options: what else the optimizer's class takes.

    Raises:
        ConfigError: a wrong argument, a fraction of an unknown length, or an optimizer that needs the trainer's help.
    """
    given = {name: value for name, value in locals().items() if name in _FIELDS}
    asked = optimizer if isinstance(optimizer, OptimizerConfig) else OptimizerConfig(**given, options=optimizer_options)
    recipe = _prepared(asked)
    if recipe.choice.make is not None:
        raise ConfigError("optimizer: a callable has no class; la.optimizer_factory takes it.")
    return _class_of(recipe)


def optimizer_factory(optimizer: Any = None, **arguments: Any) -> Callable[..., Optimizer]:
    """A callable ``params -> optimizer``, for scvi-tools' ``optimizer_creator`` and the like.

    Args:
        optimizer: as of :func:`optimizer_class`; a callable ``params -> optimizer``, too.
        **arguments: as of :func:`optimizer_class`.

    Raises:
        ConfigError: as :func:`optimizer_class`.
    """
    asked = optimizer if isinstance(optimizer, OptimizerConfig) else _config(optimizer, arguments)
    return Factory(_prepared(asked))


def _config(optimizer: Any, arguments: Mapping[str, Any]) -> OptimizerConfig:
    named = {name: value for name, value in arguments.items() if name in _FIELDS}
    options = {name: value for name, value in arguments.items() if name not in _FIELDS}
    return OptimizerConfig(optimizer, **{"clip": None, **named}, options=options)


_FIELDS = frozenset(f.name for f in fields(OptimizerConfig)) - {"options"}
_NEEDS = {
    "hessian": "a Hessian estimate before each backward pass",
    "modes": "its averaged weights in validation and checkpoints",
}
_BY_NAME = ("parameters", "param_groups", "layer_decay")


@dataclass(frozen=True)
class Recipe:
    """What is made again for each call.

    Attributes:
        config: all arguments.
        choice: the optimizer.
        phases: of the schedule.
        key: tells it from others, also in another process.
    """

    config: OptimizerConfig
    choice: Choice
    phases: Phases
    key: str = field(default_factory=lambda: uuid.uuid4().hex)


def _prepared(asked: OptimizerConfig) -> Recipe:
    """All that can be checked before there are parameters."""
    config, choice = settle(asked)
    config = replace(config, clip=None if config.clip == "default" else config.clip)
    if choice.instance is not None:
        raise ConfigError("optimizer: an instance has its parameters already; give its class.")
    _refuse_what_needs_more(config, choice)
    check_arguments(config, choice.spec)
    refuse_combinations(choice.spec, config, None)
    config = _without_unknown_length(config)
    as_clip(config.clip)  # type: ignore[arg-type]
    return Recipe(config, choice, plan(config, None))


def _refuse_what_needs_more(config: OptimizerConfig, choice: Choice) -> None:
    for need, why in _NEEDS.items():
        if need in choice.spec.needs:
            raise ConfigError(
                f"{choice.spec.name} needs {why}, which a class alone cannot do: use la.configure_optimizers(self, ...)."
            )
    if config.schedule == "plateau":
        raise ConfigError("schedule='plateau' watches a metric, which an optimizer does not see: use another schedule.")
    named = [name for name in _BY_NAME if getattr(config, name) is not None]
    if named:
        raise ConfigError(f"{', '.join(named)}: a class gets parameters without names; use la.configure_optimizers.")


def _without_unknown_length(config: OptimizerConfig) -> OptimizerConfig:
    """Where nothing needs the run's length, nothing is asked of it."""
    if config.total_steps is not None:
        return config
    config = replace(config, schedule=config.schedule or "constant")
    needs_none = get_schedule(str(config.schedule)).phase == "none"
    if needs_none and config.warmup is None:
        return replace(config, warmup=0)
    if needs_none and isinstance(config.warmup, int):
        return config
    raise ConfigError(
        f"schedule={config.schedule!r}, warmup={config.warmup!r}: a class cannot ask a trainer how long the run is. Pass "
        "total_steps=..., in optimizer steps."
    )


@dataclass(frozen=True)
class Factory:
    """What :func:`optimizer_factory` gives."""

    recipe: Recipe

    def __call__(self, params: Iterable[Any], **options: Any) -> Optimizer:
        """Options win over those of the recipe."""
        choice = self.recipe.choice
        if choice.make is None:
            return _class_of(self.recipe)(params, **options)
        config = _merged(self.recipe.config, options)
        made = make_optimizer(choice, config, _for_callable(params, config), self.recipe.phases.total, never)
        _complete(made, config, self.recipe.phases)
        return made


def _for_callable(params: Iterable[Any], config: OptimizerConfig) -> Groups:
    given = {name: value for name in ("lr", "betas", "eps") if (value := getattr(config, name)) is not None}
    return [{**given, **config.options, **group} for group in _groups(params, config.weight_decay, split=True)]


class RecipeClass(ABCMeta):
    """The classes of this module: pickled as what they are made of, for no module has them under their name."""


class Prepared(GuidedStep):
    """Put before the helper's class: makes groups of bare parameters, and carries the schedule in its checkpoint."""

    adam_recipe: ClassVar[Recipe]

    def state_dict(self) -> dict[str, Any]:
        """With the schedule's progress."""
        state = super().state_dict()
        first, *others = state["param_groups"]
        *names, record = first[NAMES]
        record = {**record, SCHEDULE: self.adam_schedule.state_dict()}
        return {**state, "param_groups": [{**first, NAMES: (*names, record)}, *others]}

    def load_state_dict(self, state_dict: dict[str, Any], **options: Any) -> None:
        """And go on from it."""
        first, *others = state_dict["param_groups"]
        records = [dict(entry) for entry in first.get(NAMES, ()) if isinstance(entry, Mapping)]
        progress = records[0].pop(SCHEDULE, None) if records else None
        if progress is not None:
            first = {**first, NAMES: (*names_of(first), *records)}
        super().load_state_dict({**state_dict, "param_groups": [first, *others]}, **options)
        if isinstance(progress, Mapping):
            self.adam_schedule.load_state_dict(dict(progress))


_MADE: dict[str, type[Optimizer]] = {}


def _class_of(recipe: Recipe) -> type[Optimizer]:
    """Always the same class for the same recipe, so that a pickled class is the one that it was."""
    if recipe.key not in _MADE:
        _MADE[recipe.key] = _new_class(recipe)
    return _MADE[recipe.key]


def _new_class(recipe: Recipe) -> type[Optimizer]:
    spec = recipe.choice.spec
    kind = guided_class(spec.load())

    def __init__(self: Any, params: Iterable[Any], **options: Any) -> None:
        config = _merged(recipe.config, options)
        check_arguments(config, spec)
        decay = config.weight_decay if config.weight_decay is not None else spec.weight_decay
        groups = _groups(params, decay, split="weight_decay" in spec.options(), marked="matrices" in spec.needs)
        taken = options_for(spec, config, groups, never)
        build_optimizer(spec, groups, taken, recipe.phases.total, _constructor(kind, self))
        self.adam_shared = spec.shared
        _complete(self, config, recipe.phases)

    __init__.__signature__ = _signature(recipe)  # type: ignore[attr-defined]
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    made: Any = RecipeClass(kind.__name__, (Prepared, kind), {**named, "__init__": __init__, "adam_recipe": recipe})
    return made  # type: ignore[no-any-return]


def _constructor(kind: type[GuidedStep], blank: Any) -> Any:
    """The constructor that fills an object which is there already."""

    def construct(*arguments: Any, **options: Any) -> Any:
        kind.__init__(blank, *arguments, **options)
        return blank

    return construct


def _signature(recipe: Recipe) -> inspect.Signature:
    """The class's own, with the recipe's values as defaults: libraries ask it for ``lr``, and LightningCLI shows it."""
    config, spec = recipe.config, recipe.choice.spec
    given = {name: getattr(config, name) for name in ("lr", "betas", "eps", "weight_decay")}
    values = {**spec.fixed, "lr": spec.lr, **{n: v for n, v in given.items() if v is not None}, **config.options}
    first, *others = inspect.signature(spec.load()).parameters.values()
    parameters = [p.replace(default=values[p.name]) if p.name in values else p for p in others]
    self = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return inspect.Signature([self, first, *parameters])


def _merged(config: OptimizerConfig, options: Mapping[str, Any]) -> OptimizerConfig:
    """What the caller gives wins."""
    named = {name: value for name, value in options.items() if name in ("lr", "betas", "eps", "weight_decay")}
    rest = {name: value for name, value in options.items() if name not in named}
    return replace(config, **named, options={**config.options, **rest})


def _groups(params: Iterable[Any], weight_decay: float | None, split: bool, marked: bool = False) -> Groups:
    """Groups as they are; of bare or named parameters the matrices, which decay, and the rest."""
    given = [params] if isinstance(params, Tensor) else list(params)
    if given and isinstance(given[0], Mapping):
        return [dict(group) for group in given]
    if marked:
        raise ConfigError(
            "muon needs to know which matrices are hidden: pass groups with 'muon': True for them and False for embeddings, "
            "the head and vectors, or use la.configure_optimizers(self, ...)."
        )
    named = [(str(index), p) if isinstance(p, Tensor) else p for index, p in enumerate(given)]
    if not split:
        return [_group("all", named, {})]
    matrices, others = [[(n, p) for n, p in named if (p.dim() >= 2) is is_matrix] for is_matrix in (True, False)]
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}
    groups = [_group("decay", matrices, decay), _group("no_decay", others, {"weight_decay": 0.0} if decay else {})]
    return [group for group in groups if group["params"]]


def _group(name: str, named: Sequence[tuple[str, Tensor]], options: Mapping[str, Any]) -> dict[str, Any]:
    return {"params": [p for _, p in named], "name": name, NAMES: [n for n, _ in named], **options}


def _complete(made: Any, config: OptimizerConfig, phases: Phases) -> None:
    clip = copy.deepcopy(as_clip(config.clip))  # type: ignore[arg-type]
    guide(made, clip, make_schedule(made, phases, config), [name for group in made.param_groups for name in names_of(group)])


def _reduced(kind: Any) -> Any:
    return _class_of, (kind.adam_recipe,)


copyreg.pickle(RecipeClass, _reduced)  # type: ignore[arg-type]

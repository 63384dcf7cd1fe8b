"""Optimizer state that is matched by parameter name on resume, under the present configuration.

torch matches by position: re-ordered parameters of equal shape load each other's moments without a word, a changed grouping
is an error, another optimizer's state dies in the first step, and the checkpoint's options win over the new ones.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_adam.errors import ConfigError, LightningAdamWarning
from lightning_adam.fresh_state import completed, fresh_states, is_like, unwrapped
from lightning_adam.once_per_class import once_per_class
from lightning_adam.saved_record import names_of, parameter_names, read_record, record_of

Group = Mapping[str, Any]
Pair = tuple[Tensor, Any]
"""A parameter, and its key in the saved state."""

States = dict[Tensor, dict[str, Any]]
SAME, KIN, UNKNOWN, OTHER = "same", "kin", "unknown", "other"
"""What the optimizer that wrote a state is to the present one; kin are one algorithm under two names."""

HELPERS = frozenset({"lr", "initial_lr", "params", "name", "adam_names", "muon", "optim_bits"})
"""Entries of a group that the helper writes."""
OWN = frozenset({"rule", "nesterov", "ns_coefficients", "adjust_lr_fn"})
"""Options that AdamZ and Muon keep in a group under names that their constructors do not have."""


@once_per_class
def options_of(kind: type) -> frozenset[str]:
    """The entries of a group that the user sets: what the class and those that it derives from take.

    All others are counters and estimates (Prodigy's d, schedule-free's sum of weights): they belong to the state.
    """
    taken = {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}  # type: ignore[misc]
    return frozenset(taken | HELPERS | OWN)


def matched(optimizer: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """The saved state in the present order and grouping, under the present options; says what has changed.

    Raises:
        ConfigError: it is another optimizer's, or it has no names and other parameters.
    """
    pairs, record = _pairs(optimizer, state), read_record(state)
    before = _groups_before(optimizer, pairs, state["param_groups"])
    changes = _what_has_changed(optimizer, before, record)
    known = {p: unwrapped(state["state"][key]) for p, key in pairs if key in state["state"]}
    states = known
    if changes or record != record_of(optimizer) or _is_uneven(known):
        states = _fitting(optimizer, known, _sameness(optimizer, before, record))
        if known and not states and _sameness(optimizer, before, record) != SAME:
            raise ConfigError(_another(record, record_of(optimizer)))
    _say_what_is_new(optimizer, {p for p, _ in pairs} - (known.keys() - states.keys()))
    _say_what_has_changed(changes)
    shared = {key: value for key, value in state["state"].items() if isinstance(key, str)}  # of no parameter: MADGRAD's k
    renewed = _as_state_dict(optimizer, states, before)
    return {**state, **renewed, "state": {**renewed["state"], **shared}}


def _as_state_dict(optimizer: Any, states: States, before: Sequence[Sequence[Group]]) -> dict[str, Any]:
    """States by the parameters' present numbers, and groups with their present options and their old counters."""
    numbers = {p: number for number, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    options = options_of(type(optimizer))
    groups = [
        {**_keep_present_options(group, old[0] if old else {}, options), "params": [numbers[p] for p in group["params"]]}
        for group, old in zip(optimizer.param_groups, before, strict=True)
    ]
    return {"state": {numbers[p]: state for p, state in states.items()}, "param_groups": groups}


def count_of(state: Mapping[str, Any]) -> int | None:
    """How many updates the state has counted; None where it does not say."""
    entries = [entry for entry in (*state["state"].values(), *state["param_groups"]) if isinstance(entry, Mapping)]
    counted = [entry["step"] for entry in entries if "step" in entry]
    return max((int(step) for step in counted), default=None)


def _pairs(optimizer: Any, state: Mapping[str, Any]) -> list[Pair]:
    """The parameters that the checkpoint knows.

    Raises:
        ConfigError: it has no names, and other parameters.
    """
    saved = [parameter_names(group) for group in state["param_groups"]]
    if None not in (*saved, *map(parameter_names, optimizer.param_groups)):
        keys = [key for group in state["param_groups"] for key in group["params"]]
        index = dict(zip((name for names in saved for name in names or ()), keys, strict=True))
        return [(p, index[name]) for name, p in _named(optimizer) if name in index]
    return _by_position(optimizer, state)


def _lacks_the_same_names(optimizer: Any, state: Mapping[str, Any]) -> bool:
    """A checkpoint of ours, with the groups that a callback has added in mid-run and adds now: they have no names."""
    saved, present = (
        [parameter_names(group) for group in groups] for groups in (state["param_groups"], optimizer.param_groups)
    )
    return saved == present and any(names is not None for names in saved)


def _by_position(optimizer: Any, state: Mapping[str, Any]) -> list[Pair]:
    """Without names: in the groups' order, or in the module's, where one plain group holds all."""
    groups = state["param_groups"]
    keys = [key for group in groups for key in group["params"]]
    own = [p for group in optimizer.param_groups for p in group["params"]]
    by_name = dict(_named(optimizer))
    of_module = [by_name[name] for name in optimizer.adam_order if name in by_name]
    for parameters in (of_module, own) if len(groups) == 1 else (own,):
        pairs = list(zip(parameters, keys, strict=False))
        if len(own) == len(pairs) == len(keys) and all(_may_be_of(p, state["state"].get(key, {})) for p, key in pairs):
            if not _lacks_the_same_names(optimizer, state):
                _warn("The checkpoint's optimizer state has no parameter names: it is matched by position.")
            return pairs
    raise ConfigError(
        f"The checkpoint's optimizer state has no parameter names (plain torch writes none), and its {len(keys)} parameters "
        f"are not the {len(own)} of this optimizer by number, order and shape. {_ways_out('configuration')}"
    )


def _may_be_of(parameter: Tensor, state: Mapping[str, Any]) -> bool:
    """Whether this state can be this parameter's: some tensor has its shape, if it has any with as many dimensions."""
    shapes = [v.shape for v in state.values() if isinstance(v, Tensor) and v.dim() == parameter.dim() > 0]
    return not shapes or parameter.shape in shapes


def _named(optimizer: Any) -> Iterator[tuple[str, Tensor]]:
    for group in optimizer.param_groups:
        yield from zip(names_of(group), group["params"], strict=False)


def _is_uneven(states: Mapping[Tensor, Mapping[str, Any]]) -> bool:
    """Whether some state has entries that another has not: it may be damaged."""
    return len({frozenset(state) for state in states.values()}) > 1


def _fitting(optimizer: Any, known: States, sameness: str) -> States:
    """The states that this optimizer can go on with; where it is another one, all or none."""
    fresh, options = fresh_states(optimizer), options_of(type(optimizer))
    if fresh is None:
        return known if sameness != OTHER else {}
    if sameness in (SAME, KIN):
        fitting = {p: fit for p, state in known.items() if (fit := completed(state, fresh[p], options)) is not None}
        return fitting if sameness == SAME or len(fitting) == len(known) else {}
    fits = sameness == UNKNOWN and all(is_like(state, fresh[p]) for p, state in known.items())
    return known if fits else {}


def _sameness(optimizer: Any, before: Sequence[Sequence[Group]], saved: Mapping[str, Any]) -> str:
    """How the optimizer that wrote the state is related to this one; without a record, by the options in its groups."""
    if not saved:
        options = options_of(type(optimizer)) - HELPERS
        now = [group.keys() & options for group in optimizer.param_groups]
        same = all(old.keys() & options == keys for keys, olds in zip(now, before, strict=True) for old in olds)
        return SAME if same else UNKNOWN
    one, other = saved["classes"], record_of(optimizer)["classes"]
    if one[0] == other[0]:
        return SAME
    siblings = saved["algorithm"] == record_of(optimizer)["algorithm"] is not None
    return KIN if siblings or one[0] in other or other[0] in one else OTHER


def _another(saved: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    wrote = f"{saved['classes'][0]}'s" if "classes" in saved else "another optimizer's (it does not say whose)"
    return (
        f"The checkpoint's optimizer state is {wrote}: {present['classes'][0]} cannot go on with "
        f"it under this configuration. {_ways_out('optimizer')}"
    )


def _ways_out(what: str) -> str:
    return (
        "Either pass reset_optimizer=True to la.configure_optimizers (the weights and the count of steps are kept, the "
        f"optimizer's state starts afresh), or resume with the {what} that wrote it."
    )


def _groups_before(optimizer: Any, pairs: Sequence[Pair], groups: Sequence[Group]) -> list[list[Group]]:
    """For each present group the saved ones of its parameters, the one of its own name first.

    Where it has none of them, as after another part was frozen, the one of its name; all where no group is called so.
    """
    by_key = {key: group for group in groups for key in group["params"]}
    keys = dict(pairs)
    found = []
    for present in optimizer.param_groups:
        known = {id(g): g for p in present["params"] if p in keys and (g := by_key[keys[p]])}
        namesakes = [g for g in known.values() or groups if g.get("name") == present.get("name")]
        olds = list(known.values()) or namesakes or groups
        found.append([*namesakes, *(g for g in olds if g.get("name") != present.get("name"))])
    return found


def _keep_present_options(present: Group, saved: Group, options: frozenset[str]) -> dict[str, Any]:
    return {**present, **{key: value for key, value in saved.items() if key not in options}}


def _say_what_is_new(optimizer: Any, known: Collection[Tensor]) -> None:
    names = [name for name, p in _named(optimizer) if p not in known]
    if names:
        _warn(
            f"The checkpoint has no optimizer state for {len(names)} parameters ({', '.join(names[:3])}): "
            "their moments start at zero."
        )


def _what_has_changed(optimizer: Any, before: Sequence[Sequence[Group]], saved: Mapping[str, Any]) -> list[str]:
    """Old and new value of each option; rates are the schedule's to tell."""
    shown = options_of(type(optimizer)) - HELPERS | {"optim_bits", "muon"}
    changes = [
        change
        for group, olds in zip(optimizer.param_groups, before, strict=True)
        for old in olds
        for change in _changes(old, group, lambda key: key in shown)
    ]
    if saved:
        present = record_of(optimizer)
        old, new = ({"optimizer": r["classes"][0].rpartition(".")[2], "clip": r["clip"]} for r in (saved, present))
        changes = [*_changes(old, new), *changes, *_changes(saved["settings"], present["settings"])]
    return list(dict.fromkeys(changes))


def _say_what_has_changed(changes: Sequence[str]) -> None:
    if changes:
        _warn(
            f"The optimizer's configuration was changed since the checkpoint: {', '.join(changes)}. It "
            "follows the new one; its moments and counts go on."
        )


def _changes(old: Group, new: Group, shown: Callable[[str], bool] = lambda key: True) -> list[str]:
    both = [key for key in new if key in old and shown(key)]
    return [f"{key} {old[key]} -> {new[key]}" for key in both if _differ(old[key], new[key])]


def _differ(old: Any, new: Any) -> bool:
    """Lists and tuples are the same: files know only one of them."""
    old, new = (tuple(value) if isinstance(value, list) else value for value in (old, new))
    return not isinstance(old, Tensor) and not isinstance(new, Tensor) and bool(old != new)


def _warn(line: str) -> None:
    warnings.warn(line, LightningAdamWarning, stacklevel=5)

"""What is wrong with the model, its optimizer and its first gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.facts import Check, Facts, found, some
from lightning_adam.preflight.gradients import matrices
from lightning_adam.preflight.last_blocks import are_of_last_blocks
from lightning_adam.preflight.recorder import is_on
from lightning_adam.preflight.step import EMBEDDINGS, LAYERS
from lightning_adam.preflight.task import DROPOUTS, NORMS, Task
from lightning_adam.statistics import looks_untrained

SMALLEST_GAIN, LARGEST_GAIN = 0.02, 4
TOO_MUCH = 0.9
"""A share that is dropped, from which hardly anything is left to learn by."""
FADED = 1e-6
"""What all layers together leave of an input, below which it is lost in rounding."""
VANISHING, VANISHED = 1e-8, 1e-4
"""The first layers' gradient over the last ones', from which it is too small; the second where all outputs are alike."""
TELLING = 256
"""Elements of a matrix from which their distribution tells whether it has learnt."""
LIBRARIES = ("transformers", "timm", "torchvision", "diffusers", "peft", "segmentation_models_pytorch", "torchaudio")
"""Their classes have tensors for uses that one's own may not have, such as a pooler."""


def held(task: Task) -> dict[int, Any]:
    """What the optimizers step."""
    return {id(p): p for o in task.optimizers for group in o.param_groups for p in group["params"]}


def optimizer_stale(facts: Facts) -> Iterator[Finding]:
    """Tensors of another copy: they get no gradient of this loss."""
    ours, reached = {id(p) for p in facts.task.module.parameters()}, {id(t) for t in facts.step.leaves}
    alien = [p for i, p in held(facts.task).items() if i not in ours and i not in reached and p.requires_grad]
    if not alien or not facts.step.leaves:
        return
    missing = _missing(facts)
    yield found(
        "OPTIMIZER-STALE",
        "critical",
        f"The optimizer holds {len(alien)} tensors that are not the module's: they are of another copy, or of a layer "
        "that was replaced." + (f" It misses {some(missing)}." if missing else ""),
        "Build the optimizer after the last change of the model, from model.parameters().",
        {"tensors": len(alien)},
        missing,
    )


def _missing(facts: Facts) -> list[str]:
    """Trainable, reached by the loss, and in no optimizer: a copy that only averages is not reached."""
    kept, reached = held(facts.task), {id(t) for t in facts.step.leaves}
    return [name for name, p in facts.task.trainable().items() if id(p) not in kept and id(p) in reached]


def optimizer_misses(facts: Facts) -> Iterator[Finding]:
    """Named only where the optimizer holds no other copy of them."""
    missing = _missing(facts)
    if not missing or not facts.task.optimizers or any(True for _ in optimizer_stale(facts)):
        return
    yield found(
        "OPTIMIZER-MISSES",
        "warning",
        f"{len(missing)} trainable tensors are in no optimizer: {some(missing)} stay as they are.",
        "Pass model.parameters() to the optimizer; what is to stay as it is, freeze with requires_grad_(False).",
        {"tensors": len(missing)},
        missing,
    )


def not_registered(facts: Facts) -> Iterator[Finding]:
    """Parameters that the loss leads to, and that the module does not know."""
    ours, kept = {id(p) for p in facts.task.module.parameters()}, held(facts.task)
    plain = {id(t) for t in _plain_tensors(facts.task.module)}
    unknown = [p for p in facts.step.leaves if id(p) not in ours and id(p) not in kept]
    stray = [p for p in unknown if isinstance(p, nn.Parameter) or id(p) in plain]
    trained = {id(p) for p in facts.task.trainable().values()}
    if stray and not (trained and trained.isdisjoint(id(p) for p in facts.step.leaves)):  # else it is all another copy's
        shapes = some(str(tuple(p.shape)) for p in stray)
        yield found(
            "NOT-REGISTERED",
            "critical",
            f"{len(stray)} parameters take part that the module does not know (shapes {shapes}): they are never "
            "trained, moved or saved.",
            "Keep layers in nn.ModuleList or nn.ModuleDict instead of a list or dict, a learnt tensor in nn.Parameter, and "
            "make them in __init__, not in forward.",
            {"tensors": len(stray), "shapes": shapes},
        )


def _plain_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Kept in attributes with ``requires_grad=True``: learnt, but no parameters."""
    for part in module.modules():
        attributes = [value for name, value in vars(part).items() if name not in ("_parameters", "_buffers", "_modules")]
        yield from (leaf for leaf in tree_leaves(attributes) if isinstance(leaf, Tensor) and leaf.requires_grad)


def eval_mode(facts: Facts) -> Iterator[Finding]:
    """BatchNorm and dropout that are trained, and set to evaluation; what is frozen or gives features is meant to be."""
    named = dict(facts.task.module.named_modules())
    asleep = [n for n, m in named.items() if not m.training and _depends_on_mode(m) and not _is_frozen(n, named)]
    asleep = [n for n in asleep if not _gives_features(_with_parameters(n, named), facts)]
    if asleep:
        yield found(
            "EVAL-MODE",
            "warning",
            f"{len(asleep)} layers with BatchNorm or dropout are in eval mode as training starts: {some(asleep)}.",
            "Call self.train() (or the part's .train()) in on_train_start: Lightning 2.2 and later leaves the modes as "
            "they are.",
            {"layers": len(asleep)},
            asleep,
        )


def _gives_features(module: nn.Module, facts: Facts) -> bool:
    """Whether it is in evaluation, and called, and the loss leads back to none of it: ``no_grad`` or ``detach`` is meant."""
    if module.training or not facts.has("step"):
        return False
    step, reached = facts.step, {id(t) for t in facts.step.leaves}
    is_cut = (
        reached.isdisjoint(id(p) for p in module.parameters()) if reached else id(module) not in step.trace.called_with_grad
    )
    return is_cut and id(module) in step.trace.called


def _depends_on_mode(module: nn.Module) -> bool:
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        return module.dropout > 0
    return isinstance(module, NORMS) or (isinstance(module, DROPOUTS) and module.p > 0)


def _is_frozen(name: str, named: dict[str, nn.Module]) -> bool:
    return not any(p.requires_grad for p in _with_parameters(name, named).parameters())


def _with_parameters(name: str, named: dict[str, nn.Module]) -> nn.Module:
    """Itself, or of a dropout the nearest module around it that has any."""
    while name and next(named[name].parameters(), None) is None:
        name = name.rpartition(".")[0]
    return named[name]


def symmetric_init(facts: Facts) -> Iterator[Finding]:
    """All zero, or equal with equal gradients: the units stay one unit, and copies of a part stay one part."""
    weights, twins = matrices(facts.task), facts.gradients.twins
    symmetric = [n for n in facts.gradients.symmetric if n in weights]
    alike = [n for n in symmetric if weights[n].shape[0] > 1 and bool(weights[n].any())]
    every = {name: p for name, p in facts.task.trainable().items() if p.dim() > 1}
    zero = [n for n, w in every.items() if w.shape[0] > 1 and w.numel() > 16 and not bool(w.any())]
    held = [n for n in zero if facts.gradients.norms.get(n) == 0 or n in facts.gradients.symmetric]
    is_held = len(zero) > 0.5 * len(every) and bool(held)
    names = twins or alike or (zero if is_held else [])
    if names:
        who = f"{some(names)} are copies of one another" if twins else f"All units of {some(names)} start the same"
        yield starts_alike(who, names)
    elif slots := [n for n in symmetric if weights[n].shape[0] == 1]:
        yield _slots_alike(slots)


def _slots_alike(names: Sequence[str]) -> Finding:
    """Queries, or other vectors that are learnt for their places: one of them may be all that is needed."""
    return found(
        "SYMMETRIC-INIT",
        "info",
        f"All rows of {some(names)} are equal, and get the same gradient: they stay one.",
        "Where they are to become different: nn.init.normal_(q, std=0.02).",
        {"matrices": len(names)},
        names,
    )


def starts_alike(who: str, names: Sequence[str]) -> Finding:
    """Units, or parts, between which nothing makes a difference."""
    return found(
        "SYMMETRIC-INIT",
        "critical",
        f"{who}, and get the same gradient: they stay one.",
        "Draw the weights at random, e.g. nn.init.kaiming_normal_(layer.weight), and each part's anew instead of by "
        "copy.deepcopy; only biases may be constant.",
        {"matrices": len(names)},
        names,
    )


def init_scale(facts: Facts) -> Iterator[Finding]:
    """Rms times √(fan in): near 1 keeps the size of what passes through (He et al. 2015, eq. 10)."""
    gains = _layer_gains(facts.task.module) | (_product_gains(facts) if facts.has("step") else {})
    gains = {name: gain for name, gain in gains.items() if math.isfinite(gain)}  # what is NaN is another fault
    usual = median(gains.values()) if len(gains) > 1 else 1.0
    lowest = 0.3 if _signal_fades(facts, gains) else SMALLEST_GAIN
    if lowest <= usual <= LARGEST_GAIN:
        return
    off = [name for name, gain in gains.items() if not lowest <= gain <= LARGEST_GAIN]
    yield found(
        "INIT-SCALE",
        "warning",
        f"The weights start {'large' if usual > 1 else 'small'}: a layer's output is about {usual:.2g} times its input.",
        "Use torch's own initialisation, nn.init.kaiming_normal_(w), or a standard deviation of 1/√(fan in).",
        {"usual gain": usual},
        off,
    )


def _signal_fades(facts: Facts, gains: Mapping[str, float]) -> bool:
    """Whether all samples get one output, and so many layers that make their input smaller are why."""
    return _is_all_alike(facts) and math.prod(min(1.0, gain) for gain in gains.values()) < FADED


def _layer_gains(module: nn.Module) -> dict[str, float]:
    """What is to be expected of inputs that hang together in nothing.

    A weight that is computed when it is asked for is left alone: spectral norm takes a step of its power iteration then.
    """
    layers = [(name, part) for name, part in module.named_modules() if isinstance(part, LAYERS)]
    owned = {name: dict(part.named_parameters(recurse=False)).get("weight") for name, part in layers}
    weights = {name: w for name, w in owned.items() if w is not None and w.dim() > 1}
    return {
        name: float(w.detach().float().pow(2).mean().sqrt()) * math.sqrt(w[0].numel())
        for name, w in weights.items()
        if w.numel() and bool(w.any())
    }


def _product_gains(facts: Facts) -> dict[str, float]:
    """As measured in the first step, of matrices that the module multiplies with by itself."""
    parts = facts.task.module.modules()
    layers = {id(p) for part in parts if isinstance(part, LAYERS + EMBEDDINGS) for p in part.parameters(recurse=False)}
    names = {id(p): name for name, p in facts.task.trainable().items() if p.dim() > 1 and id(p) not in layers}
    return {names[id(g.parameter)]: g.factor for g in facts.step.record.gains if id(g.parameter) in names and g.factor > 0}


def no_gradient(facts: Facts) -> Iterator[Finding]:
    """Never used, or cut off; what no optimizer holds may be meant so."""
    kept = held(facts.task)
    lacking = [n for n in facts.gradients.absent if not kept or id(facts.task.trainable()[n]) in kept]
    if not lacking:
        return
    owners = {n: facts.task.module.get_submodule(n.rpartition(".")[0]) for n in lacking}
    called = [n for n, owner in owners.items() if id(owner) in facts.step.trace.called and owner is not facts.task.module]
    spare = [n for n in lacking if _is_library(n, facts.task.module)]
    order = [n for n in facts.task.trainable() if n in lacking]
    how = "cut off by detach() or no_grad()" if called else "no layer of theirs is called"
    is_meant = (len(spare) == len(lacking) and not called) or _are_constants(lacking, facts)
    is_meant = is_meant or all(_gives_features(owner, facts) for owner in owners.values()) or _are_trained(lacking, facts)
    is_meant = is_meant or are_of_last_blocks(lacking, facts.task.trainable())
    yield found(
        "NO-GRADIENT",
        "info" if is_meant else "warning",
        f"{len(lacking)} trainable tensors get no gradient ({how}): {some(order)}.",
        "Call the layer in forward, or take the detach() away; what is not to be trained, freeze with "
        "requires_grad_(False).",
        {"tensors": len(lacking)},
        order,
    )


def _are_trained(names: Sequence[str], facts: Facts) -> bool:
    """Whether they are called without gradients alone, and have learnt before."""
    owners = {id(facts.task.module.get_submodule(name.rpartition(".")[0])) for name in names}
    weights = [facts.task.trainable()[name] for name in names]
    large = [weight for weight in weights if weight.dim() > 1 and weight.numel() >= TELLING]
    is_shut = owners <= facts.step.trace.called - facts.step.trace.called_with_grad
    return is_shut and bool(large) and not any(looks_untrained(weight) for weight in large)


def _are_constants(names: Sequence[str], facts: Facts) -> bool:
    """Biases, where the loss is of an output's derivatives alone: a constant has none."""
    return facts.step.is_cut and all(facts.task.trainable()[name].dim() < 2 for name in names)


def _is_library(name: str, root: nn.Module) -> bool:
    """Whether a class of a library has the layer, or of the root's own."""
    parts = name.split(".")[:-1]
    around = [root.get_submodule(".".join(parts[:depth])) for depth in range(len(parts) + 1)]
    return any(type(m).__module__.split(".")[0] in LIBRARIES for m in around)


def zero_gradient(facts: Facts) -> Iterator[Finding]:
    """Exactly zero, also after five steps of Adam."""
    norms = facts.gradients.norms
    zero = [n for n, norm in norms.items() if norm == 0 and facts.task.trainable()[n].numel() > 1]
    heavy = [n for n in zero if n in matrices(facts.task)]
    if heavy or (zero and len(zero) == len(norms)):
        yield found(
            "ZERO-GRADIENT",
            "warning",
            f"The gradient of {len(zero)} of {len(norms)} tensors is exactly zero: {some(heavy or zero)}.",
            "Look behind them for a saturated or dead activation, a factor of 0, a round() or argmax(), or a zero "
            "initialisation.",
            {"tensors": len(zero)},
            zero,
        )


def dead_units(facts: Facts) -> Iterator[Finding]:
    """A ReLU of which most units never give anything, for no sample of the first batches."""
    dead = [(where, share, units) for where, share, units in facts.gradients.dead if share > 0.8 and units >= 8]
    if dead:
        where, share, units = max(dead, key=lambda one: one[1])
        yield found(
            "DEAD-UNITS",
            "warning",
            f"{share:.0%} of a ReLU's {units} units are 0 for every sample: they get no gradient.",
            "Start biases at 0 and weights by nn.init.kaiming_normal_, standardise the inputs, or use GELU or LeakyReLU.",
            {"dead share": share, "layers": len(dead)} | ({"at": where} if where else {}),
        )


def hardly_any_left(facts: Facts) -> Iterator[Finding]:
    """Dropout makes up for what it drops: where that is nearly all, the loss begins far too large and learns next to
    nothing."""
    calls = [call for call in facts.step.record.dropouts if is_on(call)]
    share = max((float(call.options.get("p", call.options.get("dropout_p", 0.5))) for call in calls), default=0.0)
    if share > TOO_MUCH:
        yield found(
            "DEAD-UNITS",
            "warning",
            f"Dropout leaves {1 - share:.0%} of the activations, and multiplies them by {1 / max(1e-9, 1 - share):.3g}.",
            f"Dropout(p=0.1) to Dropout(p=0.5) instead of p={share:g}: p is the share that is dropped.",
            {"dropped share": share},
        )


def vanishing(facts: Facts) -> Iterator[Finding]:
    """The first quarter's gradient over its weights, against the last quarter's."""
    weights, norms = matrices(facts.task), facts.gradients.first
    if any(not bool(w.any()) for w in weights.values()):
        return  # a zero-initialised branch holds them back for a few steps only
    relative = [norms[n] / (float(w.norm()) + 1e-12) for n, w in weights.items() if norms.get(n, 0.0) > 0]
    quarter = max(1, len(relative) // 4)
    if len(relative) < 4:
        return
    early, late = median(relative[:quarter]), median(relative[-quarter:])
    if early < (VANISHED if _is_all_alike(facts) else VANISHING) * late:
        yield found(
            "GRAD-VANISHING",
            "warning",
            f"The first layers' gradient is {early / late:.0e} of the last ones', relative to their weights.",
            "Use ReLU or GELU instead of sigmoids, residual connections and normalisation layers, and He initialisation.",
            {"first quarter": early, "last quarter": late},
        )


def _is_all_alike(facts: Facts) -> bool:
    """Whether all samples get one output, but for a few roundings: depth is why, where a gradient does come through."""
    return facts.has("behaviour") and facts.behaviour.spread < 1e-5


def exploding(facts: Facts) -> Iterator[Finding]:
    """A gradient that dwarfs the weights."""
    weight = math.sqrt(sum(float(p.detach().float().norm()) ** 2 for p in facts.task.trainable().values()))
    total = facts.gradients.total
    if total > 1e3 * (weight + 1):
        yield found(
            "GRAD-EXPLODING",
            "warning",
            f"The gradient's norm is {total:.2g} at the start, of weights of norm {weight:.2g}.",
            "Clip it (gradient_clip_val=1.0, or clip=1.0), and look for recurrent weights of norm above 1 or a sum "
            "over many steps.",
            {"gradient norm": total, "weight norm": weight},
        )


def not_zeroed(facts: Facts) -> Iterator[Finding]:
    """Gradients pile up from step to step."""
    if facts.gradients.piled_up:
        where = "training_step steps the optimizer and does not clear" if facts.task.manual else "optimizer_zero_grad leaves"
        mend = (
            "Call opt.zero_grad() before manual_backward."
            if facts.task.manual
            else "Take your optimizer_zero_grad out, or call optimizer.zero_grad() in it."
        )
        yield found("GRAD-NOT-ZEROED", "critical", f"{where} the gradients: they pile up from step to step.", mend)


CHECKS = (
    Check("OPTIMIZER-STALE", ("step", "optimizers"), optimizer_stale),
    Check("OPTIMIZER-MISSES", ("step", "optimizers"), optimizer_misses),
    Check("NOT-REGISTERED", ("step",), not_registered),
    Check("EVAL-MODE", (), eval_mode),
    Check("SYMMETRIC-INIT", ("gradients",), symmetric_init),
    Check("INIT-SCALE", (), init_scale),
    Check("NO-GRADIENT", ("gradients", "step"), no_gradient),
    Check("ZERO-GRADIENT", ("gradients",), zero_gradient),
    Check("DEAD-UNITS", ("gradients",), dead_units),
    Check("DEAD-UNITS", ("step",), hardly_any_left),
    Check("GRAD-VANISHING", ("gradients",), vanishing),
    Check("GRAD-EXPLODING", ("gradients",), exploding),
    Check("GRAD-NOT-ZEROED", ("gradients", "optimizers"), not_zeroed),
)

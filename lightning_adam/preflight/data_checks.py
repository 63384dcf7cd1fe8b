"""What is wrong with the data. The thresholds' false alarms were measured by ``python -m tests.benchmarks.preflight``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight import repeats
from lightning_adam.preflight.batches import is_finite, leaves, same_values
from lightning_adam.preflight.data import (
    Data,
    behind_the_ends,
    drift,
    flat_samples,
    last_batch,
    order,
    rising,
    token_share,
)
from lightning_adam.preflight.facts import Check, Facts, found, some
from lightning_adam.preflight.probability_checks import log_of_probability
from lightning_adam.preflight.recorder import BINARY_LOSSES, CLASS_LOSSES, Call
from lightning_adam.preflight.step import EMBEDDINGS, Step
from lightning_adam.preflight.value_pairs import Pair, value_pairs

LARGE_MEAN, LARGE_STD, LARGEST = 10.0, 10.0, 1e3
SMALL_STD = 2e-3
"""Pixels divided twice by 255 have 1e-3; audio and returns have about 1e-2."""

FEW_VALUES = 4
"""Of a channel: of fewer, mean and deviation are noise."""

FEW_STEPS = 500
"""In which an output that moves by the learning rate at each step may well reach its targets."""


def nonfinite(facts: Facts) -> Iterator[Finding]:
    """A mask may be -inf and a missing target NaN: what spoils the loss is at fault. A logarithm of a probability that is 0
    has a code of its own."""
    spoiling = [path for path, finite in facts.data.bad.items() if not finite]
    is_made = bool(facts.step.spoiled) and facts.step.given is not None and is_finite(facts.step.given)
    if spoiling:
        yield found(
            "DATA-NONFINITE",
            "critical",
            f"NaN or Inf in the batches' {some(spoiling)}: loss or gradient is not finite there.",
            "Drop or repair those samples, e.g. x = torch.nan_to_num(x), and look for a division by 0 in the preprocessing.",
            {"batches read": len(facts.data.reading.batches)},
            spoiling,
        )
    elif is_made and not any(log_of_probability(facts)):
        what, _, where = facts.step.spoiled.partition(" at ")
        yield found(
            "DATA-NONFINITE",
            "critical",
            f"The batch is finite and the first loss is not: {what} makes NaN of it.",
            "Look for 0 / 0, such as a column that never changes divided by its deviation: x / std.clamp_min(1e-6); and for "
            "a logarithm or a root of numbers below 0.",
            {"at": where},
        )


def constant(facts: Facts) -> Iterator[Finding]:
    """Of every input that is there, floats and indices alike; a mask only says how long each is."""
    data = facts.data
    rows = {p: flat_samples(t).double() for p, t in data.inputs.items() if t and t[0].dim()}
    rows = {p: r for p, r in rows.items() if len(r) > 1 and r.numel() and not p.endswith("mask")}
    is_all = bool(rows) and data.reaches is not False and all(torch.equal(r, r[:1].expand_as(r)) for r in rows.values())
    same = rows if is_all else {p: r for p, r in rows.items() if _is_blank(p, r, facts)}
    if same and not repeats.is_one_sample(data):
        yield found(
            "INPUT-CONSTANT",
            "warning",
            f"Every sample has the same input ({some(same)}): there is nothing to tell them apart by.",
            "Look at one batch by hand: a division of integers, or a scaling by a wrong number, makes all inputs equal.",
            {"samples": min(len(r) for r in same.values()), "value": float(next(iter(same.values()))[0, 0])},
            same,
        )


def _is_blank(path: str, rows: Tensor, facts: Facts) -> bool:
    """One number throughout, and a layer works on it: places, times and masks may well be the same for every sample."""
    first = facts.data.inputs[path][0]
    if rows.shape[1] < 4 or not first.is_floating_point() or bool((rows != rows[0, 0]).any()):
        return False
    return any(e.values.numel() == first.numel() and same_values(first, e.values) for e in facts.step.trace.entries)


def input_scale(facts: Facts) -> Iterator[Finding]:
    """Of what the first layers get: the module may well scale what the batch has."""
    worst = max(_scales(facts), key=lambda scale: max(scale[2], scale[1], -scale[1]), default=None)
    if worst is None:
        return
    name, mean, std, largest = worst
    if std < SMALL_STD and abs(mean) < SMALL_STD:
        text = "are tiny"
    elif largest > LARGEST or abs(mean) > LARGE_MEAN or std > LARGE_STD:
        text = "are far from mean 0 and standard deviation 1"
    else:
        return
    yield found(
        "INPUT-SCALE",
        "warning",
        f"The inputs of {name} {text}: mean {mean:.3g}, standard deviation {std:.3g}, largest {largest:.3g}.",
        "Standardise each feature with the training set's statistics: x = (x - mean) / std; pixels: x / 255 once.",
        {"mean": mean, "std": std, "largest": largest},
    )


def _scales(facts: Facts) -> Iterator[tuple[str, float, float, float]]:
    names = {id(m): n for n, m in facts.task.module.named_modules()}
    floats = [e for e in facts.step.trace.entries if e.values.is_floating_point() and e.values.numel() > 1]
    given = [(names.get(id(e.layer), type(e.layer).__name__), e.values) for e in floats]
    joined = [c for c in facts.step.record.joined if any(same_values(leaf, c.input) for _, leaf in leaves(facts.step.given))]
    given += [(f"{call.name} at {Path(call.place).name}", call.input) for call in joined]
    given += [(f"the product at {Path(g.place).name}", g.input) for g in facts.step.record.gains if _is_raw(g.input, facts)]
    if not facts.step.trace.called:  # functional: only the batch is left to look at
        given = [(path, tensors[0]) for path, tensors in facts.data.inputs.items() if tensors[0].is_floating_point()]
    for name, values in given:
        values = values.detach().float()
        values = values[torch.isfinite(values)]
        if values.numel() > 1 and float(values.std()) > 0:
            yield name, float(values.mean()), float(values.std()), float(values.abs().max())


def _is_raw(values: Tensor, facts: Facts) -> bool:
    """Whether a matrix of the module's own is multiplied with what the batch has."""
    return any(leaf.numel() == values.numel() and same_values(leaf, values) for _, leaf in leaves(facts.step.given))


def target_scale(facts: Facts) -> Iterator[Finding]:
    """Only where the prediction starts far off: a net that scales its own output up is well prepared."""
    for pair in value_pairs(facts):
        std, mean, start = float(pair.target.std()), float(pair.target.mean()), float(pair.prediction.mean())
        if _is_far(pair, facts):
            yield found(
                "TARGET-SCALE",
                "warning",
                f"The targets have mean {mean:.3g} and standard deviation {std:.3g}; the net starts at {start:.3g}, and has "
                "to walk there first.",
                "Train on (y - mean) / std with the training set's statistics, and undo it when predicting.",
                {"mean": mean, "std": std, "rms error": pair.error},
                [pair.path] if pair.path else [],
            )
            return


def _is_far(pair: Pair, facts: Facts) -> bool:
    std, mean, told = float(pair.target.std()), float(pair.target.mean()), float(pair.prediction.std())
    if not (std > 20 or 0 < std < 1e-3 or (abs(mean) > 5 * std and abs(mean) > 3)):
        return False
    if pair.error < 3 * std and 0.03 * std < told < 10 * std:
        return False
    return not (std > 1 and facts.has("plan") and facts.plan.is_adaptive and pair.error < FEW_STEPS * facts.plan.peak)


def is_sorted(facts: Facts) -> Iterator[Finding]:
    """A batch of few classes, of data that have many; or of fewer, and the next batch has the same: a buffer that shuffles
    is shorter than a class."""
    data = facts.data
    inside, shuffled = order(data) or (0.0, 0.0)
    is_apart = inside < 0.4 * shuffled or (inside < 0.8 * shuffled and drift(data) < 0.5)
    if not (shuffled > 0.1 and is_apart) and rising(data) < 0.98:
        return
    evidence: dict[str, float | str] = {"nats in a batch": inside, "nats if shuffled": shuffled, "rising": rising(data)}
    yield found(
        "SORTED",
        "warning",
        "The data come sorted by their target: each batch sees only a part of them.",
        "DataLoader(..., shuffle=True), or shuffle the files' order for an iterable data set; a buffer that shuffles has to "
        "be longer than what comes in a row.",
        evidence,
        [data.target],
    )


def one_label(facts: Facts) -> Iterator[Finding]:
    """Of what a loss compares with; data sorted by class look so too, and are named by that."""
    data = facts.data
    values = data.labels if data.labels is not None else _single_values(data)
    if values is None or not facts.step.target or len(values) <= 64 or len(torch.unique(values)) > 1:
        return
    if facts.step.main is not None and facts.step.main.name == "margin_ranking_loss":
        return  # 1 says that the first of two is to be the larger one
    if data.far is not None and len(torch.unique(data.far)) > 1:
        return
    yield found(
        "ONE-LABEL",
        "warning",
        f"All {len(values)} labels looked at are {float(values[0]):g}: the net need only learn to say that.",
        "Look at the labels where they are read: a division or a wrong column makes them all equal.",
        {"label": float(values[0]), "samples": len(values)},
        [data.target],
    )


def _single_values(data: Data) -> Tensor | None:
    """One number per sample, of all batches."""
    flat = [t.flatten() for t in data.targets if t.dim() and t.numel() == len(t)]
    return torch.cat(flat) if flat and len(flat) == len(data.targets) else None


def imbalance(facts: Facts) -> Iterator[Finding]:
    """Weights in the loss, or a focal one that weighs each sample, are the remedy already."""
    labels, main = _counted(facts), facts.step.main
    if labels is None or main is None or len(torch.unique(labels)) < 2 or not facts.step.target:
        return
    share = float(torch.unique(labels, return_counts=True)[1].max()) / len(labels)
    options = main.options
    is_weighed = options.get("weight") is not None or options.get("pos_weight") is not None
    if share > 0.97 and not is_weighed and options.get("reduction") != "none":
        yield found(
            "IMBALANCE",
            "warning",
            f"{share:.1%} of the labels are one class: always saying it is hard to beat.",
            "Weigh the classes, e.g. F.cross_entropy(..., weight=w) or pos_weight=, or use a WeightedRandomSampler.",
            {"share": share, "samples": len(labels)},
            [facts.data.target],
        )


def _counted(facts: Facts) -> Tensor | None:
    """A label for each sample; of maps one for each place, where their loss has no other beside it, such as an overlap."""
    main, data = facts.step.main, facts.data
    if data.labels is not None or main is None or main.name not in (*CLASS_LOSSES, *BINARY_LOSSES):
        return data.labels
    is_alone = isinstance(main.output, Tensor) and math.isclose(float(main.output.mean()), facts.step.loss, rel_tol=1e-4)
    if not is_alone or not data.targets or data.targets[0].dim() < 3:
        return None
    every = torch.cat([t.flatten() for t in data.targets])
    return every[every != main.options.get("ignore_index", -100)]


def ignored(facts: Facts) -> Iterator[Finding]:
    """Labels that the loss leaves out."""
    for call, labels in _class_labels(facts.step):
        out = labels == call.options.get("ignore_index", -100)
        share = float(out.double().mean()) if out.numel() else 0.0
        if share > 0.95:
            yield found(
                "IGNORED",
                "critical" if share == 1 else "warning",
                f"{share:.1%} of the labels are ignored by the loss.",
                "Look at where labels become ignore_index (-100): a mask that is inverted, or a prompt that fills the "
                "sequence.",
                {"share": share},
                [facts.data.target] if facts.has("data") and facts.data.target else [],
            )
            return
    yield from _one_class_left(facts)


def _one_class_left(facts: Facts) -> Iterator[Finding]:
    """``ignore_index`` is a class, and the only other one is left."""
    data, main = facts.measured.get("data"), facts.step.main
    ignore = main.options.get("ignore_index", -100) if main is not None and main.name in CLASS_LOSSES else -100
    if main is None or ignore < 0 or data is None or not facts.step.target or main.input.dim() < 2:
        return
    labels = torch.cat([t.flatten() for t in data.targets])
    left, share = torch.unique(labels[labels != ignore]), float((labels == ignore).double().mean())
    if labels.numel() > 64 and len(left) == 1 and share > 0.02 and ignore < main.input.shape[1]:
        yield found(
            "IGNORED",
            "critical",
            f"The loss ignores class {ignore} ({share:.0%} of the labels), and all others are class {int(left[0])}: the net "
            "need only learn to say that.",
            f"Take ignore_index={ignore} away, or give it a number that no class has, such as -100.",
            {"share": share, "left": int(left[0])},
            [data.target],
        )


def _class_labels(step: Step) -> list[tuple[Call, Tensor]]:
    """Of each loss of classes its whole numbers; the last loss first."""
    calls = [call for call in reversed(step.record.losses) if call.name in CLASS_LOSSES]
    return [(call, call.target) for call in calls if call.target is not None and not call.target.is_floating_point()]


def padding(facts: Facts) -> Iterator[Finding]:
    """One token is most of the labels and much of the input, or all that is behind the ends of sequences."""
    for call, labels in _class_labels(facts.step):
        if call.options.get("weight") is not None or call.options.get("reduction") == "none":
            continue
        counted = labels[labels != call.options.get("ignore_index", -100)]
        is_read = any(
            isinstance(e.layer, EMBEDDINGS) and e.values.numel() >= labels.numel() for e in facts.step.trace.entries
        )
        of_labels, of_input, token = token_share(facts.step, counted) if is_read else (0.0, 0.0, -1)
        behind, label = behind_the_ends(facts.step.given, labels, counted)
        if (of_labels > 0.5 and of_input > 0.4) or behind > 0.2:
            share, token = (behind, label) if behind > 0.2 else (of_labels, token)
            yield found(
                "PADDING-COUNTS",
                "warning",
                f"Token {token} makes {share:.0%} of the labels: padding counts in the loss.",
                f"labels[labels == {token}] = -100, or F.cross_entropy(..., ignore_index={token}); where {token} is a class "
                "as well, pad labels with -100 from the start.",
                {"of labels": share, "of input": of_input, "token": token},
            )
            return


def target_in_input(facts: Facts) -> Iterator[Finding]:
    """Part of the input is the target itself, or that in another unit; an autoencoder's target is all of the input, and
    meant."""
    for path, places in facts.data.leaks.items():
        yield found(
            "TARGET-IS-INPUT",
            "warning",
            f"Of the input {path} {some(places)} {'is' if len(places) == 1 else 'are'} the target itself, or the same in "
            "another unit.",
            "Drop it from the input: what is to be told is not known when predicting.",
            {"columns": some(places)},
            [path],
        )


def batchnorm(facts: Facts) -> Iterator[Finding]:
    """Per channel it needs several values; pictures bring many of their own."""
    norms = [
        (name, m)
        for name, m in facts.task.module.named_modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training and any(p.requires_grad for p in m.parameters())
    ]
    norms = [(name, m) for name, m in norms if id(m) in facts.step.trace.called or facts.step.error is not None]
    if not norms or not facts.data.samples:
        return
    n, last = facts.data.samples, last_batch(facts.data.reading.loader)
    only_flat = any(isinstance(m, nn.BatchNorm1d) for _, m in norms)
    fewest = min(facts.step.trace.per_channel.get(id(m), n if only_flat else FEW_VALUES) for _, m in norms)
    remedy = "Larger batches, or GroupNorm/LayerNorm, which look at one sample at a time."
    if n == 1 or fewest < FEW_VALUES:
        gets = f"batches of {n}" if n < FEW_VALUES else f"{fewest} values of each channel"
        text = f"BatchNorm gets {gets}: its statistics are noise, and differ from those of evaluation."
    elif last == 1 and only_flat:
        text = "The epoch's last batch has one sample: BatchNorm1d raises on it."
        remedy = "DataLoader(..., drop_last=True)."
    else:
        return
    yield found("BATCHNORM-BATCH", "warning", text, remedy, {"batch": n}, [name for name, _ in norms])


CHECKS = (
    Check("DATA-NONFINITE", ("data", "step"), nonfinite),
    Check("INPUT-CONSTANT", ("data",), constant),
    Check("TARGET-IS-INPUT", ("data", "step"), target_in_input),
    Check("INPUT-SCALE", ("data", "step"), input_scale),
    Check("TARGET-SCALE", ("data", "step"), target_scale),
    Check("SORTED", ("data",), is_sorted),
    Check("ONE-LABEL", ("data", "step"), one_label),
    Check("IMBALANCE", ("data", "step"), imbalance),
    Check("IGNORED", ("step",), ignored),
    Check("PADDING-COUNTS", ("step",), padding),
    *repeats.CHECKS,
    Check("BATCHNORM-BATCH", ("data", "step"), batchnorm),
)

"""What is wrong with the data. The thresholds' false alarms were measured by ``python -m tests.benchmarks.preflight``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.batches import is_finite, leaves
from lightning_adam.preflight.data import (
    Data,
    distinct,
    flat_samples,
    is_replacing,
    last_batch,
    order,
    rising,
    token_share,
)
from lightning_adam.preflight.facts import Check, Facts, found, some
from lightning_adam.preflight.recorder import CLASS_LOSSES, VALUE_LOSSES
from lightning_adam.preflight.step import EMBEDDINGS, Step, same_values

LARGE_MEAN, LARGE_STD, LARGEST = 10.0, 10.0, 1e3
SMALL_STD = 2e-3
"""Pixels divided twice by 255 have 1e-3; audio and returns have about 1e-2."""

FEW_STEPS = 500
"""In which an output that moves by the learning rate at each step may well reach its targets."""


def nonfinite(facts: Facts) -> Iterator[Finding]:
    """A mask may be -inf and a missing target NaN: what spoils the loss is at fault."""
    spoiling = [path for path, finite in facts.data.bad.items() if not finite]
    if spoiling:
        yield found(
            "DATA-NONFINITE",
            "critical",
            f"NaN or Inf in the batches' {some(spoiling)}: the loss is not finite there.",
            "Drop or repair those samples, e.g. x = torch.nan_to_num(x), and look for a division by 0 in the preprocessing.",
            {"batches read": len(facts.data.reading.batches)},
            spoiling,
        )
    elif facts.step.spoiled and facts.step.given is not None and is_finite(facts.step.given):
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
    if not rows or data.reaches is False or any(not torch.equal(r, r[:1].expand_as(r)) for r in rows.values()):
        return
    yield found(
        "INPUT-CONSTANT",
        "warning",
        f"Every sample has the same input ({some(rows)}): there is nothing to tell them apart by.",
        "Look at one batch by hand: a division of integers, or a scaling by a wrong number, makes all inputs equal.",
        {"samples": min(len(r) for r in rows.values()), "value": float(next(iter(rows.values()))[0, 0])},
        rows,
    )


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
    pair = value_pair(facts)
    if pair is None:
        return
    prediction, target = pair
    std, mean = float(target.std()), float(target.mean())
    if not (std > 20 or 0 < std < 1e-3 or (abs(mean) > 5 * std and abs(mean) > 3)):
        return
    off = float((target - prediction.mean()).pow(2).mean().sqrt())
    if off < 3 * std and float(prediction.std()) > 0.03 * std and float(prediction.std()) < 10 * std:
        return
    if std > 1 and facts.has("plan") and facts.plan.is_adaptive and off < FEW_STEPS * facts.plan.peak:
        return
    yield found(
        "TARGET-SCALE",
        "warning",
        f"The targets have mean {mean:.3g} and standard deviation {std:.3g}; the net starts at "
        f"{float(prediction.mean()):.3g}, "
        "and has to walk there first.",
        "Train on (y - mean) / std with the training set's statistics, and undo it when predicting.",
        {"mean": mean, "std": std, "rms error": off},
        [facts.data.target] if facts.data.target else [],
    )


def value_pair(facts: Facts) -> tuple[Tensor, Tensor] | None:
    """Prediction and target of a regression; the targets of all batches where the loss gets them as they are."""
    pair = _of_the_loss(facts.step, facts.data)
    if pair is None:
        return None
    prediction, target = pair
    if facts.step.target:
        target = torch.cat([t.flatten() for t in facts.data.targets])
    target, prediction = target.float().cpu(), prediction.float().cpu()
    target = target[torch.isfinite(target)]
    return (prediction, target) if target.numel() > 1 and prediction.numel() > 1 else None


def _of_the_loss(step: Step, data: Data) -> tuple[Tensor, Tensor] | None:
    """What torch's function compares; of a loss by hand what is taken from a tensor of the batch, or is of its size."""
    call = step.main or (step.compared if step.target else None)
    if call is None:
        return _of_one_size(step, data)
    is_of_values = call is not step.main or call.name in (*VALUE_LOSSES, "gaussian_nll_loss")
    return (call.input.detach(), call.target.detach()) if is_of_values and call.target is not None else None


def _of_one_size(step: Step, data: Data) -> tuple[Tensor, Tensor] | None:
    """The prediction and a float target of its size."""
    output = step.trace.outer[step.prediction][1] if step.prediction >= 0 else None
    if not isinstance(output, Tensor) or not data.targets or not data.targets[0].is_floating_point():
        return None
    fits = output.numel() == data.targets[0].numel() and data.labels is None
    return (output.detach(), data.targets[0]) if fits else None


def is_sorted(facts: Facts) -> Iterator[Finding]:
    """A batch of few classes, of data that have many."""
    data = facts.data
    inside, shuffled = order(data) or (0.0, 0.0)
    if not (shuffled > 0.1 and inside < 0.4 * shuffled) and rising(data) < 0.98:
        return
    evidence: dict[str, float | str] = {"nats in a batch": inside, "nats if shuffled": shuffled, "rising": rising(data)}
    yield found(
        "SORTED",
        "warning",
        "The data come sorted by their target: each batch sees only a part of them.",
        "DataLoader(..., shuffle=True), or shuffle the files' order for an iterable data set.",
        evidence,
        [data.target],
    )


def one_label(facts: Facts) -> Iterator[Finding]:
    """Of classes that a loss compares with; data sorted by class look so too, and are named by that."""
    labels = facts.data.labels
    if labels is None or not facts.step.target or len(labels) <= 64 or len(torch.unique(labels)) > 1:
        return
    if facts.data.far is not None and len(torch.unique(facts.data.far)) > 1:
        return
    yield found(
        "ONE-LABEL",
        "warning",
        f"All {len(labels)} labels looked at are {int(labels[0])}: the net need only learn to say that.",
        "Look at the labels where they are read: a division or a wrong column makes them all equal.",
        {"label": int(labels[0]), "samples": len(labels)},
        [facts.data.target],
    )


def imbalance(facts: Facts) -> Iterator[Finding]:
    """Weights in the loss, or a focal one that weighs each sample, are the remedy already."""
    labels, main = facts.data.labels, facts.step.main
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


def ignored(facts: Facts) -> Iterator[Finding]:
    """Labels that the loss leaves out."""
    main = facts.step.main
    if main is None or main.name not in CLASS_LOSSES or main.target is None or main.target.is_floating_point():
        return
    out = main.target == main.options.get("ignore_index", -100)
    share = float(out.double().mean()) if out.numel() else 0.0
    if share > 0.95:
        yield found(
            "IGNORED",
            "critical" if share == 1 else "warning",
            f"{share:.1%} of the labels are ignored by the loss.",
            "Look at where labels become ignore_index (-100): a mask that is inverted, or a prompt that fills the sequence.",
            {"share": share},
            [facts.data.target] if facts.data.target else [],
        )


def padding(facts: Facts) -> Iterator[Finding]:
    """One token is most of the labels and much of the input."""
    main = facts.step.main
    if main is None or main.name not in CLASS_LOSSES or main.target is None or main.target.is_floating_point():
        return
    if not any(
        isinstance(e.layer, EMBEDDINGS) and e.values.numel() >= main.target.numel() for e in facts.step.trace.entries
    ):
        return
    kept = main.target[main.target != main.options.get("ignore_index", -100)]
    of_labels, of_input, token = token_share(facts.step, kept)
    is_weighed = main.options.get("weight") is not None or main.options.get("reduction") == "none"
    if of_labels > 0.5 and of_input > 0.4 and not is_weighed:
        yield found(
            "PADDING-COUNTS",
            "warning",
            f"Token {token} makes {of_labels:.0%} of the labels: padding counts in the loss.",
            f"labels[labels == {token}] = -100, or F.cross_entropy(..., ignore_index={token}).",
            {"of labels": of_labels, "of input": of_input, "token": token},
        )


def duplicates(facts: Facts) -> Iterator[Finding]:
    """Within one epoch; few values allow few samples, and those who draw with replacement know."""
    data = facts.data
    wide = [r for t in data.inputs.values() if t and t[0].dim() > 1 and (r := flat_samples(t)).shape[1] > 3]
    if not wide or data.reaches is False or is_replacing(data.reading.loader):
        return
    rows = torch.cat([r.double() for r in wide if len(r) == len(wide[0])], 1)
    is_rich = len(torch.unique(rows[:64])) > 32 or not wide[0].is_floating_point()
    kinds = distinct(rows)
    if len(rows) >= 32 and is_rich and 1 < kinds <= 0.5 * len(rows):
        yield found(
            "DUPLICATES",
            "warning",
            f"Only {kinds} of the first {len(rows)} samples of an epoch are different.",
            "Look at the data set's __getitem__ and __len__, and at how the workers share an iterable data set.",
            {"different": kinds, "samples": len(rows)},
            data.inputs,
        )


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
    remedy = "Larger batches, or GroupNorm/LayerNorm, which look at one sample at a time."
    if n == 1 or (n < 4 and only_flat):
        text = f"BatchNorm gets batches of {n}: its statistics are noise, and differ from those of evaluation."
    elif last == 1 and only_flat:
        text = "The epoch's last batch has one sample: BatchNorm1d raises on it."
        remedy = "DataLoader(..., drop_last=True)."
    else:
        return
    yield found("BATCHNORM-BATCH", "warning", text, remedy, {"batch": n}, [name for name, _ in norms])


CHECKS = (
    Check("DATA-NONFINITE", ("data", "step"), nonfinite),
    Check("INPUT-CONSTANT", ("data",), constant),
    Check("INPUT-SCALE", ("data", "step"), input_scale),
    Check("TARGET-SCALE", ("data", "step"), target_scale),
    Check("SORTED", ("data",), is_sorted),
    Check("ONE-LABEL", ("data", "step"), one_label),
    Check("IMBALANCE", ("data", "step"), imbalance),
    Check("IGNORED", ("step",), ignored),
    Check("PADDING-COUNTS", ("step",), padding),
    Check("DUPLICATES", ("data",), duplicates),
    Check("TARGET-IS-INPUT", ("data", "step"), target_in_input),
    Check("BATCHNORM-BATCH", ("data", "step"), batchnorm),
)

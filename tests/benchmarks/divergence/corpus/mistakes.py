"""What is broken in a family's run: each a change of the loop, its data or its rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tests.benchmarks.divergence.corpus import boarder_mishaps, guest_mishaps, lodger_mishaps, mishaps
from tests.benchmarks.divergence.corpus.family import Batch, Family
from tests.benchmarks.divergence.corpus.optimizers import ADAMS
from tests.benchmarks.divergence.corpus.settings import digest

TOO_LARGE = frozenset({"LR-HIGH", "NO-WARMUP"})


@dataclass(frozen=True)
class Mistake:
    """One sickness.

    Attributes:
        cause: its code.
        accepted: other codes that name the same mistake.
        applies: to which families.
        rate: the family's rate times this.
        factor: the rate's multiplier per step and run length.
        batch: changes a batch, given the step and the run length.
        loss: changes the loss, given the step and the run length.
        net: changes the network, after its optimizer has been made.
        eps, betas, weight_decay, momentum, clip: for the optimizer or the loop.
        zeroed_every: in which steps gradients are cleared; infinite for the first one only.
        forgets_every: the steps after which the optimizer is made anew; infinite for never.
        stale: whether the optimizer holds the tensors of a copy.
        onset: at which share of the run it begins.
        exact: whether it is a fact that needs no harm to be sick.
    """

    cause: str
    accepted: frozenset[str] = frozenset()
    applies: Callable[[Family], bool] = lambda family: True
    rate: float = 1.0
    factor: Callable[[int, int], float] | None = None
    batch: Callable[[int, int, Batch], Batch] | None = None
    loss: Callable[[int, int, Tensor], Tensor] | None = None
    net: Callable[[nn.Module], None] | None = None
    eps: float | None = None
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None
    momentum: float | None = None
    clip: float | None = None
    zeroed_every: float = 1.0
    forgets_every: float = math.inf
    stale: bool = False
    onset: float = 0.0
    exact: bool = False


def _shuffled(step: int, steps: int, batch: Batch) -> Batch:
    return (*batch[:-1], batch[-1][torch.randperm(len(batch[-1]))])


def _one_bad(change: Callable[[Tensor], Tensor]) -> Callable[[int, int, Batch], Batch]:
    return lambda step, steps, batch: (change(batch[0]), *batch[1:]) if step == round(0.6 * steps) else batch


def _with_nan(x: Tensor) -> Tensor:
    x = x.clone()
    x.view(-1)[0] = math.nan
    return x


def _is_adam(family: Family) -> bool:
    return family.optimizer in ADAMS


def _is_sgd(family: Family) -> bool:
    return family.optimizer in ("sgd", "momentum", "momentum-99", "nesterov")


def _is_among(*sets: frozenset[str]) -> Callable[[Family], bool]:
    return lambda family: any(family.name in names for names in sets)


_classifies = _is_among(mishaps.CLASSIFIED, lodger_mishaps.CLASSIFIED, boarder_mishaps.CLASSIFIED)
_regresses = _is_among(mishaps.REGRESSIONS, lodger_mishaps.REGRESSIONS, boarder_mishaps.REGRESSIONS)
_rectifies = _is_among(mishaps.RECTIFIED, lodger_mishaps.RECTIFIED, boarder_mishaps.RECTIFIED)
_shuffles_a_table = _is_among(guest_mishaps.SHUFFLED_TABLES, lodger_mishaps.SHUFFLED_TABLES, boarder_mishaps.SHUFFLED_TABLES)
_is_switched = _is_among(guest_mishaps.SWITCHED, lodger_mishaps.SWITCHED, boarder_mishaps.SWITCHED)
_compares_rows = _is_among(lodger_mishaps.COMPARED_ROWS, boarder_mishaps.COMPARED_ROWS)
_tells_apart = _is_among(lodger_mishaps.TOLD_APART, boarder_mishaps.TOLD_APART)
_ignores_labels = _is_among(lodger_mishaps.IGNORABLE, boarder_mishaps.IGNORABLE)
_is_a_table = _is_among(lodger_mishaps.TABLES, boarder_mishaps.TABLES)
_normalises = _is_among(lodger_mishaps.NORMALISED, boarder_mishaps.NORMALISED)


def _learns_by_loss(family: Family) -> bool:
    return family.by_loss


_FIRST: dict[str, Mistake] = {
    "rate-times-100": Mistake("LR-HIGH", TOO_LARGE, rate=100.0),
    "rate-times-30": Mistake("LR-HIGH", TOO_LARGE, rate=30.0),
    "rate-by-100": Mistake("LR-LOW", frozenset({"BF16-STALL"}), rate=1e-2),
    "rate-by-1000": Mistake("LR-LOW", frozenset({"BF16-STALL"}), rate=1e-3),
    "rate-jumps": Mistake("LR-HIGH", factor=lambda t, n: 300.0 if t >= n // 2 else 1.0, onset=0.5),
    "rate-ramps": Mistake("LR-HIGH", factor=lambda t, n: 1.05 ** max(0, t - n // 3), onset=1 / 3),
    "schedule-collapses": Mistake("SCHEDULE-COLLAPSED", factor=lambda t, n: 0.85**t),
    "warmup-by-epoch": Mistake("SCHEDULE-NEVER-ARRIVES", frozenset({"LR-LOW"}), _is_adam,
                               factor=lambda t, n: 1e-3 * (1 + t // 100)),
    "shuffled-targets": Mistake("NO-LEARNING", applies=lambda f: f.supervised, batch=_shuffled),
    "constant-inputs": Mistake("INPUT-CONSTANT", frozenset({"NO-LEARNING"}), lambda f: f.supervised and f.continuous,
                               batch=lambda t, n, b: (b[0] * 0, *b[1:])),
    "raw-inputs": Mistake("INPUT-SCALE", applies=lambda f: f.continuous and f.supervised,
                          batch=lambda t, n, b: (b[0] * 300 + 1500, *b[1:])),
    "bad-batch": Mistake("BAD-BATCH", frozenset({"GRAD-EXPLODING"}), lambda f: f.continuous,
                         batch=_one_bad(lambda x: x * 1e4), onset=0.6),
    "nan-batch": Mistake("NON-FINITE", applies=lambda f: f.continuous, batch=_one_bad(_with_nan), onset=0.6, exact=True),
    "wrong-sign": Mistake("WRONG-SIGN", loss=lambda t, n, loss: -loss, exact=True),
    "detached": Mistake("NO-GRADIENT", loss=lambda t, n, loss: loss.detach().clone().requires_grad_(), exact=True),
    "not-zeroed": Mistake("GRAD-NOT-ZEROED", zeroed_every=math.inf, exact=True),
    "stale-optimizer": Mistake("OPTIMIZER-STALE", stale=True, exact=True),
    "eps-one": Mistake("EPS-HIGH", applies=_is_adam, eps=1.0),
    "beta2-half": Mistake("BETA2-LOW", applies=lambda f: _is_adam(f) and f.optimizer != "adam-gan", betas=(0.9, 0.5)),
    "decay-100": Mistake("DECAY-DOMINATES", applies=lambda f: f.optimizer in ("adamw", "adamw-95"), weight_decay=100.0),
    "clip-tiny": Mistake("CLIP-ALWAYS", frozenset({"LR-LOW"}), _is_sgd, clip=1e-4),
}  # fmt: skip

_BLIND: dict[str, Mistake] = {
    "weights-times-20": Mistake("INIT-SCALE", frozenset({"NO-LEARNING", "GRAD-EXPLODING"}), net=mishaps.scaled(20.0)),
    "weights-by-100": Mistake("GRAD-VANISHING", frozenset({"INIT-SCALE", "NO-LEARNING"}), net=mishaps.scaled(0.01)),
    "weights-zero": Mistake("DEAD-PARAMETER", net=mishaps.scaled(0.0),
                            accepted=frozenset({"GRAD-VANISHING", "NO-LEARNING", "SYMMETRIC-INIT", "ZERO-GRADIENT"})),
    "betas-swapped": Mistake("BETA2-LOW", applies=_is_adam, betas=(0.999, 0.9)),
    "eps-hundredth": Mistake("EPS-HIGH", applies=_is_adam, eps=1e-2),
    "decay-one": Mistake("DECAY-DOMINATES", applies=lambda f: _is_sgd(f) or f.optimizer == "adam", weight_decay=1.0),
    "hot-start": Mistake("NO-WARMUP", TOO_LARGE | {"DEAD-PARAMETER"}, factor=lambda t, n: 300.0 if t < 10 else 1.0),
    "hot-restarts": Mistake("LR-HIGH", TOO_LARGE, factor=mishaps.hot_restarts, onset=1 / 3),
    "warmup-of-20-runs": Mistake("SCHEDULE-NEVER-ARRIVES", frozenset({"LR-LOW"}), factor=lambda t, n: (t + 1) / (20 * n)),
    "decays-in-a-tenth": Mistake("SCHEDULE-COLLAPSED", factor=lambda t, n: max(0.0, 1 - 10 * t / n)),
    "labels-90-wrong": Mistake("NO-LEARNING", applies=lambda f: f.supervised, batch=mishaps.mostly_shuffled),
    "inputs-tiny": Mistake("INPUT-SCALE", applies=lambda f: f.supervised and f.continuous,
                           batch=lambda t, n, b: (b[0] * 1e-3, *b[1:])),
    "heavy-batches": Mistake("GRAD-EXPLODING", frozenset({"BAD-BATCH", "LOSS-SPIKE", "INPUT-SCALE"}), lambda f: f.continuous,
                             batch=lambda t, n, b: (b[0] * 1e3, *b[1:]) if t % 20 == 19 else b),
    "half-left-out": Mistake("UNUSED-PARAMETER", frozenset({"FROZEN", "DEAD-PARAMETER", "NO-GRADIENT"}), _learns_by_loss,
                             net=mishaps.half_frozen),
    "dropout-95": Mistake("NO-LEARNING", frozenset({"PLATEAU", "OSCILLATION"}), _learns_by_loss, net=mishaps.mostly_dropped),
    "sqrt-at-zero": Mistake("NON-FINITE", frozenset({"SCALER-SKIPS"}), onset=0.6, exact=True,
                            loss=lambda t, n, loss: loss + (loss - loss).abs().sqrt() if t >= round(0.6 * n) else loss),
}  # fmt: skip
"""Written after the rules by somebody who had not read them; each in a third of the families that it applies to."""
_BLIND_OF_KIND: dict[str, Mistake] = {
    "momentum-999": Mistake("LR-HIGH", TOO_LARGE | {"OSCILLATION"}, _is_sgd, momentum=0.999),
    "loss-times-500": Mistake("LR-HIGH", TOO_LARGE | {"LOSS-IS-SUM"}, _is_sgd, loss=lambda t, n, loss: 500 * loss),
    "dead-units": Mistake("DEAD-PARAMETER", frozenset({"GRAD-VANISHING", "NO-LEARNING", "DEAD-UNITS"}),
                          _rectifies, net=mishaps.biased_to_death),
    "targets-raw": Mistake("INPUT-SCALE", frozenset({"TARGET-SCALE"}), _regresses,
                           batch=lambda t, n, b: (*b[:-1], b[-1] * 1e3 + 5e3)),
    "nan-labels": Mistake("NON-FINITE", frozenset({"SCALER-SKIPS"}), _regresses, onset=0.6,
                          exact=True, batch=lambda t, n, b: (*b[:-1], _with_nan(b[-1])) if t == round(0.6 * n) else b),
    "one-class-batches": Mistake("ONE-LABEL", frozenset({"SORTED", "ONE-CLASS", "NO-LEARNING", "OSCILLATION"}),
                                 _classifies, batch=mishaps.of_one_class),
}  # fmt: skip
"""Likewise, of few families."""
_VISITING: dict[str, Mistake] = {
    "warmup-without-end": Mistake("LR-HIGH", TOO_LARGE, factor=lambda t, n: (t + 1) / 10, onset=0.1),
    "cleared-before-step": Mistake("NO-GRADIENT", exact=True, net=mishaps.cleared_before_the_step),
    "zeroed-per-epoch": Mistake("GRAD-NOT-ZEROED", zeroed_every=50.0, exact=True),
    "made-anew-per-epoch": Mistake("STATE-LOST", applies=_is_adam, forgets_every=50.0, exact=True, onset=0.2),
    "softmax-twice": Mistake("DOUBLE-SOFTMAX", frozenset({"NO-LEARNING", "PLATEAU"}), _classifies,
                             net=mishaps.softmax_at_the_end),
    "one-label": Mistake("ONE-LABEL", frozenset({"ONE-CLASS"}), _classifies, exact=True,
                         batch=lambda t, n, b: (*b[:-1], torch.zeros_like(b[-1]))),
    "missing-as-999": Mistake("INPUT-SCALE", applies=lambda f: f.supervised and f.continuous, batch=mishaps.missing_as_999),
    "pixels-to-255": Mistake("INPUT-SCALE", applies=lambda f: f.supervised and f.continuous,
                             batch=lambda t, n, b: (b[0] * 64 + 128, *b[1:])),
}  # fmt: skip
"""Written with the visitors, by somebody who had not read the rules; each in a third of the families that it applies to."""


def _has_classes(family: Family) -> bool:
    return _classifies(family) or family.name in guest_mishaps.CLASSIFIED


def _is_compared(family: Family) -> bool:
    return _regresses(family) or family.name in guest_mishaps.REGRESSIONS


def _has_numbers_and_targets(family: Family) -> bool:
    return family.supervised and family.continuous


NOTHING_LEARNT = frozenset({"NO-LEARNING", "PLATEAU"})
_OF_GUESTS: dict[str, Mistake] = {
    "milestones-per-batch": Mistake("SCHEDULE-COLLAPSED", frozenset({"LR-LOW"}), factor=guest_mishaps.divided_by_milestones),
    "view-for-permute": Mistake("NO-LEARNING", frozenset({"BATCH-MIXING", "PLATEAU"}), _has_numbers_and_targets,
                                batch=guest_mishaps.viewed_for_permuted),
    "drowned-in-noise": Mistake("NO-LEARNING", frozenset({"INPUT-SCALE", "PLATEAU"}), _has_numbers_and_targets,
                                batch=guest_mishaps.drowned),
    "rectified-logits": Mistake("RELU-LOGITS", NOTHING_LEARNT | {"DEAD-PARAMETER", "DEAD-UNITS", "GRAD-VANISHING"},
                                _has_classes, net=guest_mishaps.rectified_at_the_end),
    "hard-decisions": Mistake("ZERO-GRADIENT", NOTHING_LEARNT | {"NO-GRADIENT", "DEAD-PARAMETER", "GRAD-VANISHING"},
                              lambda f: _has_classes(f) or _is_compared(f), exact=True,
                              net=guest_mishaps.decided_at_the_end),
    "loss-by-ten-million": Mistake("EPS-HIGH", NOTHING_LEARNT | {"LR-LOW", "GRAD-VANISHING"},
                                   lambda f: _is_adam(f) and f.optimizer != "adam-ngp", loss=lambda t, n, loss: 1e-7 * loss),
    "normal-of-one": Mistake("INIT-SCALE", NOTHING_LEARNT | {"GRAD-EXPLODING", "INITIAL-LOSS", "DEAD-PARAMETER"},
                             _learns_by_loss, net=guest_mishaps.normal_of_one),
    "weights-alike": Mistake("SYMMETRIC-INIT", NOTHING_LEARNT | {"INIT-SCALE"}, _learns_by_loss,
                             net=guest_mishaps.all_alike),
}  # fmt: skip
"""Written with the guests, by somebody who had not read the rules; each in a third of the families that it applies to."""
_OF_GUESTS_OF_KIND: dict[str, Mistake] = {
    "one-row-per-batch": Mistake("DUPLICATES", NOTHING_LEARNT | {"ONE-LABEL", "ONE-CLASS", "BATCHNORM-BATCH", "OSCILLATION"},
                                 _shuffles_a_table,
                                 batch=guest_mishaps.one_row_in_every_place),
    "tanh-at-the-end": Mistake("OUTPUT-RANGE", NOTHING_LEARNT | {"TARGET-SCALE"}, _is_compared,
                               net=guest_mishaps.squashed_at_the_end),
    "left-in-eval": Mistake("EVAL-MODE", applies=_is_switched, exact=True,
                            net=guest_mishaps.left_in_evaluation),
}  # fmt: skip
"""Likewise, of few families."""


_is_layered = _is_among(lodger_mishaps.LAYERED, boarder_mishaps.LAYERED)
_OF_LODGERS: dict[str, Mistake] = {
    "head-made-anew": Mistake("OPTIMIZER-MISSES", frozenset({"OPTIMIZER-STALE", "UNUSED-PARAMETER", "DEAD-PARAMETER"}),
                              _is_layered, net=lodger_mishaps.head_made_anew, exact=True),
    "features-detached": Mistake("UNUSED-PARAMETER", frozenset({"NO-GRADIENT", "FROZEN", "DEAD-PARAMETER"}), _is_layered,
                                 net=lodger_mishaps.features_detached, exact=True),
    "put-back-each-step": Mistake("UPDATE-LOST", NOTHING_LEARNT | {"LR-LOW"}, _is_layered, net=lodger_mishaps.put_back,
                                  exact=True),
    "loud-head": Mistake("INIT-SCALE", frozenset({"INITIAL-LOSS", "GRAD-EXPLODING", "NO-LEARNING"}), _is_layered,
                         net=lodger_mishaps.loud_head),
    "rand-for-randn": Mistake("INIT-SCALE", NOTHING_LEARNT | {"GRAD-EXPLODING", "INITIAL-LOSS", "DEAD-PARAMETER"},
                              _learns_by_loss, net=lodger_mishaps.rand_for_randn),
    "normalised-twice": Mistake("INPUT-SCALE", NOTHING_LEARNT | {"INPUT-CONSTANT"}, _has_numbers_and_targets,
                                batch=lodger_mishaps.normalised_twice),
    "mostly-blank": Mistake("NO-LEARNING", frozenset({"PLATEAU", "INPUT-CONSTANT", "INPUT-SCALE", "DUPLICATES"}),
                            _has_numbers_and_targets, batch=lodger_mishaps.mostly_blank),
    "columns-in-any-order": Mistake("NO-LEARNING", frozenset({"PLATEAU", "OSCILLATION"}), _has_numbers_and_targets,
                                    batch=lodger_mishaps.columns_in_any_order),
    "decay-upside-down": Mistake("LR-HIGH", TOO_LARGE, factor=lodger_mishaps.upside_down, onset=0.2),
    "clip-below-eps": Mistake("CLIP-ALWAYS", frozenset({"EPS-HIGH", "LR-LOW"}),
                              lambda f: _is_adam(f) and f.optimizer != "adam-ngp", clip=1e-9),
    "divided-twice": Mistake("LR-LOW", NOTHING_LEARNT | {"GRAD-VANISHING"}, _is_sgd, loss=lambda t, n, loss: 1e-3 * loss),
}  # fmt: skip
"""Written with the lodgers, by somebody who had not read the rules; each in a third of the families that it applies to."""
_OF_LODGERS_OF_KIND: dict[str, Mistake] = {
    "column-against-row": Mistake("BROADCAST", NOTHING_LEARNT, _compares_rows,
                                  batch=lodger_mishaps.as_a_column),
    "sigmoid-twice": Mistake("DOUBLE-SIGMOID", NOTHING_LEARNT, _tells_apart,
                             net=lodger_mishaps.sigmoid_at_the_end),
    "softmax-over-rows": Mistake("SOFTMAX-DIM", NOTHING_LEARNT | {"DOUBLE-SOFTMAX", "BATCH-MIXING"}, _has_classes,
                                 net=lodger_mishaps.softmax_over_rows),
    "loss-clamped": Mistake("ZERO-GRADIENT", NOTHING_LEARNT | {"NO-GRADIENT", "DEAD-PARAMETER", "GRAD-VANISHING"},
                            _has_classes, loss=lambda t, n, loss: loss.clamp(max=0.01), exact=True),
    "nothing-to-learn-from": Mistake("NON-FINITE", frozenset({"IGNORED", "SCALER-SKIPS"}),
                                     _ignores_labels, onset=0.6, exact=True,
                                     batch=lodger_mishaps.nothing_to_learn_from),
    "column-in-cents": Mistake("INPUT-SCALE", applies=_is_a_table,
                               batch=lodger_mishaps.a_column_in_cents),
    "two-rows-per-batch": Mistake("BATCHNORM-BATCH", NOTHING_LEARNT | {"OSCILLATION", "LR-HIGH"},
                                  _normalises, batch=lodger_mishaps.two_rows),
}  # fmt: skip
"""Likewise, of few families."""


def _is_a_boarder(family: Family) -> bool:
    return family.name.startswith("boarder-")


_is_layered_boarder = _is_among(boarder_mishaps.LAYERED)
_OF_BOARDERS: dict[str, Mistake] = {
    "eps-tenth": Mistake("EPS-HIGH", applies=_is_adam, eps=0.1),
    "weights-times-10": Mistake("INIT-SCALE", frozenset({"NO-LEARNING", "GRAD-EXPLODING", "INITIAL-LOSS"}),
                                net=mishaps.scaled(10.0)),
    "resumed-without-state": Mistake("STATE-LOST", applies=_is_adam, forgets_every=100.0, exact=True, onset=1 / 3),
    "label-of-the-next-row": Mistake("NO-LEARNING", frozenset({"PLATEAU"}), lambda f: f.supervised,
                                     batch=boarder_mishaps.label_of_the_next_row),
    "labels-apart-from-half-way": Mistake("NO-LEARNING", frozenset({"PLATEAU", "LOSS-DIVERGED", "BAD-BATCH", "LOSS-SPIKE"}),
                                          lambda f: f.supervised, onset=0.5,
                                          batch=boarder_mishaps.labels_apart_from_half_way),
    "raw-from-half-way": Mistake("INPUT-SCALE", frozenset({"BAD-BATCH", "GRAD-EXPLODING", "LOSS-DIVERGED", "LOSS-SPIKE"}),
                                 _has_numbers_and_targets, batch=boarder_mishaps.raw_from_half_way, onset=0.5),
    "divided-by-no-spread": Mistake("NON-FINITE", frozenset({"DATA-NONFINITE", "SCALER-SKIPS"}), lambda f: f.continuous,
                                    batch=boarder_mishaps.divided_by_no_spread, exact=True),
    "wrapped-around": Mistake("INPUT-SCALE", NOTHING_LEARNT, _has_numbers_and_targets, batch=boarder_mishaps.wrapped_around),
    "in-the-wrong-mode": Mistake("SCHEDULE-COLLAPSED", frozenset({"LR-LOW"}), factor=boarder_mishaps.in_the_wrong_mode),
    "average-copied-back": Mistake("UPDATE-LOST", NOTHING_LEARNT | {"LR-LOW"}, net=boarder_mishaps.average_copied_back),
    "zeroed-every-eighth": Mistake("GRAD-NOT-ZEROED", zeroed_every=8.0, exact=True),
    "body-frozen": Mistake("FROZEN", frozenset({"UNUSED-PARAMETER", "NO-GRADIENT", "DEAD-PARAMETER"}), _is_layered_boarder,
                           net=boarder_mishaps.body_frozen, exact=True),
    "body-made-anew": Mistake("OPTIMIZER-MISSES", frozenset({"OPTIMIZER-STALE", "UNUSED-PARAMETER", "DEAD-PARAMETER"}),
                              _is_layered_boarder, net=boarder_mishaps.body_made_anew, exact=True),
}  # fmt: skip
"""Written with the boarders, by somebody who had not read the rules; each in a third of their families, and in no others."""
_OF_BOARDERS_OF_KIND: dict[str, Mistake] = {
    "decay-thousandfold": Mistake("DECAY-DOMINATES", applies=lambda f: f.optimizer in ("adamw", "adamw-95"),
                                  weight_decay=10.0),
    "accumulated-undivided": Mistake("LR-HIGH", TOO_LARGE | {"LOSS-IS-SUM"}, _is_sgd, loss=lambda t, n, loss: 64 * loss),
    "hot-logits": Mistake("INIT-SCALE", TOO_LARGE | {"INITIAL-LOSS", "GRAD-EXPLODING"},
                          _is_among(boarder_mishaps.CLASSIFIED), net=boarder_mishaps.hot_logits),
    "momentum-99-of-rmsprop": Mistake("LR-HIGH", TOO_LARGE | {"OSCILLATION"}, lambda f: f.optimizer == "rmsprop",
                                      momentum=0.99),
}  # fmt: skip
"""Likewise, of few families."""


def _of_boarders(mistake: Mistake) -> Mistake:
    return replace(mistake, applies=lambda f: _is_a_boarder(f) and mistake.applies(f))


def _in_a_third(name: str, mistake: Mistake) -> Mistake:
    """By the hash of both names."""
    return replace(mistake, applies=lambda f: digest(f.name, name)[2] % 3 == 0 and mistake.applies(f))


MISTAKES: dict[str, Mistake] = {
    **_FIRST,
    **{name: _in_a_third(name, mistake) for name, mistake in _BLIND.items()},
    **_BLIND_OF_KIND,
    **{name: _in_a_third(name, mistake) for name, mistake in (_VISITING | _OF_GUESTS | _OF_LODGERS).items()},
    **_OF_GUESTS_OF_KIND,
    **_OF_LODGERS_OF_KIND,
    **{name: _of_boarders(_in_a_third(name, mistake)) for name, mistake in _OF_BOARDERS.items()},
    **{name: _of_boarders(mistake) for name, mistake in _OF_BOARDERS_OF_KIND.items()},
}

"""What one run, and one optimizer step of it, showed: plain numbers, with no tensor and no trainer in them.

A number that is not known is NaN. Light signals are there at every step; ``heavy`` is None on steps without the pass over
all tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

NAN = math.nan
DIGITS = 6
"""Significant digits that a signal keeps: what is stored is what the rules saw, and a replay finds the same."""
_SHORTENED = f"%.{DIGITS}g"
UNKNOWN_BATCH = -1
"""Index of a batch that a log does not tell."""


@dataclass(frozen=True)
class NonFinite:
    """The first thing in a step that was NaN or Inf: the loss precedes gradients, they precede the state."""

    where: Literal["loss", "gradient", "moment", "parameter"]
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class FirstStepSignals:
    """What the making of the first step's loss showed.

    Attributes:
        facts: findings of preflight's checks of it, as JSON.
        dropout: largest share of activations that it drops.
        one_class: whether the loss compares with one class only.
        constants: what it would cost to answer the same everywhere, and the same to every example at each place; empty
            where that is not known.
    """

    facts: tuple[str, ...] = ()
    dropout: float = 0.0
    one_class: bool = False
    constants: tuple[float, ...] = ()


@dataclass(frozen=True)
class RunSignals:
    """What is known of an optimizer when its run (or the rest of it, after a resume) begins.

    Attributes:
        optimizer: class name.
        position: which of the trainer's optimizers this is, from 0.
        optimizers: how many the trainer has.
        first_step: the step on the log's x-axis that comes next; above 0 after a resume.
        beta1: largest β₁ of the groups.
        beta2: β₂ of the group with that β₁.
        eps: largest ε of the groups.
        smallest_eps: smallest ε of the groups.
        weight_decay: largest λ of the groups.
        plain_moments: whether m and v are averages of g and g², as in Adam: what has bounds then.
        dtype: of the smallest parameters, such as ``bfloat16``.
        state_dtype: of the smallest moments, such as ``uint8``; empty while there are none.
        schedule: name of the helper's schedule; empty where the schedule is not the helper's.
        warmup: its warmup in steps; NaN where it is not known.
        total_steps: length of the run; NaN where it is not known.
        clip: the total norm that gradients are clipped to; NaN where there is none or another rule.
        scaled: whether fp16 scales the loss.
        tensors: trainable tensors in the optimizer.
        zero_tensors: weight matrices that are all zero.
        matrices: weight matrices.
        lr: largest learning rate that was configured: what the schedule multiplies; NaN where it is not known.
        steps_like: what a step follows: ``adam`` (a second moment), ``sgd`` (the gradient's size), ``sign`` (its sign),
            ``adapted`` (it finds its own rate), ``accumulated`` (Adagrad: the rate falls by itself); empty for others.
        momentum: largest of the groups, of optimizers that call it so: SGD and RMSprop.
        mode: who calls ``backward`` and ``step``: ``automatic`` (Lightning), ``manual`` (training_step) or ``loop``.
        strangers: tensors in the optimizer that are not the model's.
        left_out: a few of the model's trainable parameters that no optimizer has.
        missed: those of them that had a gradient in the first step.
        misses_untrained: whether a matrix among these is as its initialisation left it.
        eval_modules: layers that behave differently in training and are in eval mode, with parameters that are trained.
        idle_norms: those of them that are BatchNorm and have never seen a batch.
        untrained: whether most of the weight matrices that can tell are as their initialisation left them.
        dropout: largest share of activations that training drops, by a Dropout layer or as the first step shows.
        one_class: whether the first step's loss compares with one class only.
        constants: what the same answer to every example would cost in that loss, see :class:`FirstStepSignals`.
        state: the diagnosis' own state at this point, after a resume.
        fits_again: whether a trainer that has fitted before fits once more, without a checkpoint: its optimizer is new.
        reset_asked: whether the user asked for the optimizer's state to start afresh at this resume.
        facts: findings of preflight's checks of the first step, as JSON: told with it.
        ignore: codes that the user does not want to hear of, see :mod:`lightning_adam.diagnosis.ignoring`.
    """

    optimizer: str = ""
    position: int = 0
    optimizers: int = 1
    first_step: int = 0
    beta1: float = NAN
    beta2: float = NAN
    eps: float = NAN
    smallest_eps: float = NAN
    weight_decay: float = 0.0
    plain_moments: bool = False
    dtype: str = "float32"
    state_dtype: str = ""
    schedule: str = ""
    warmup: float = NAN
    total_steps: float = NAN
    clip: float = NAN
    scaled: bool = False
    tensors: int = 0
    zero_tensors: int = 0
    matrices: int = 0
    lr: float = NAN
    steps_like: str = ""
    momentum: float = NAN
    mode: str = ""
    strangers: int = 0
    left_out: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    misses_untrained: bool = False
    eval_modules: tuple[str, ...] = ()
    idle_norms: tuple[str, ...] = ()
    untrained: bool = False
    dropout: float = 0.0
    one_class: bool = False
    constants: tuple[float, ...] = ()
    state: Mapping[str, Any] | None = None
    fits_again: bool = False
    reset_asked: bool = False
    ignore: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()


@dataclass(frozen=True)
class HeavySignals:
    """The pass over all tensors of one step, summed up; ``…_in`` names the tensor where an extreme was.

    Attributes:
        update_ratio_p50: median over the weight matrices of ‖Δθ‖/‖θ‖.
        update_ratio_max: its largest.
        normalised_rms: rms over all elements of |m̂|/(√v̂+ε).
        normalised_rms_max: largest rms of one tensor.
        bound_excess: largest |m̂|/(√v̂+ε) of an element over its bound at this tensor's t; above 1 is impossible for Adam.
        surprise_max: largest RMS_t of a tensor.
        eps_share: mean over the tensors of the share of ε in √v̂+ε, where v > 0.
        zero_gradients: mean over the weight matrices of the share of elements with g = 0.
        zero_gradients_max: largest share of one weight matrix.
        dead_tensors: how many tensors have no gradient but zeros.
        lost_updates: share of 16-bit elements that should have moved and did not.
        decay_ratio: the decay's pull on all weights over the optimizer's step.
        first_last: largest gradient rms among the first quarter of the weight matrices, in the order in which the model
            uses them, over the median of the last quarter.
        alignment: cosine of the gradient with the momentum before it; pure noise gives 0, bouncing is negative.
        second_moment_p50: median over the tensors of the rms of √v̂.
        state_step: largest number of updates that the state has counted.
        tensors: how many tensors the pass saw.
        input_max: largest |x| of the batch's floating-point tensors.
        input_rms: their largest rms.
        input_offset: their largest |mean|/standard deviation.
        input_change: largest difference between two examples of the batch's first tensor; 0 where all are the same.
        layer_rms: rms of what the first weight matrix is given; a model may normalise before it.
        layer_offset: |mean|/standard deviation of that.
        target_rms: rms of the batch's last floating-point tensor, where it has several.
        target_offset: |mean|/standard deviation of that.
        target_entropy: in nats, of the batch's last tensor where it holds classes (whole numbers, or zeros and ones): the
            cross entropy of guessing each by how often it comes.
        target_classes: how many classes the labels have, of a batch of inputs and one label for each, four or more.
        target_label: the smallest of them.
    """

    update_ratio_p50: float = NAN
    update_ratio_max: float = NAN
    update_ratio_max_in: str = ""
    normalised_rms: float = NAN
    normalised_rms_max: float = NAN
    bound_excess: float = NAN
    bound_excess_in: str = ""
    surprise_max: float = NAN
    surprise_max_in: str = ""
    eps_share: float = NAN
    eps_share_max_in: str = ""
    zero_gradients: float = NAN
    zero_gradients_max: float = NAN
    zero_gradients_max_in: str = ""
    dead_tensors: int = 0
    lost_updates: float = NAN
    lost_updates_max_in: str = ""
    decay_ratio: float = NAN
    decay_ratio_max_in: str = ""
    first_last: float = NAN
    first_matrix: str = ""
    alignment: float = NAN
    second_moment_p50: float = NAN
    state_step: float = NAN
    tensors: int = 0
    input_max: float = NAN
    input_rms: float = NAN
    input_offset: float = NAN
    input_change: float = NAN
    layer_rms: float = NAN
    layer_offset: float = NAN
    target_rms: float = NAN
    target_offset: float = NAN
    target_entropy: float = NAN
    target_classes: float = NAN
    target_label: float = NAN


@dataclass
class StepSignals:
    """One optimizer step. Nobody changes it; it is not frozen, for then its fields take twice as long to set, in each step.

    Attributes:
        step: the log's x-axis.
        batch: index of the batch in its epoch; ``UNKNOWN_BATCH`` where only a log is known.
        loss: training loss (the mean over accumulated batches), without fp16's scale.
        gradient_norm: total norm before clipping, without fp16's scale.
        clip_coefficient: what clipping multiplied the gradients by; 1 where it did nothing.
        lr: the largest learning rate of the groups, as this step used it.
        beta1: β₁ as this step used it.
        beta2: β₂ as this step used it.
        scale: fp16's loss scale.
        skipped: whether the scaler left this step out.
        not_zeroed: whether the gradients of the last step were still there and were added to.
        without_gradient: how many parameters of the optimizer had no gradient.
        unused: the first few of their names.
        logit_max: largest |output| of the modules that the user watches.
        validation_loss: what validation has logged as its loss since the step before; before the first step, of the weights
            that training begins with.
        target_moves: whether a target network, a copy of what is trained that answers in the steps, has changed so far.
        non_finite: the first non-finite thing, or None.
        heavy: the pass over all tensors, or None.
    """

    step: int
    batch: int = 0
    loss: float = NAN
    gradient_norm: float = NAN
    clip_coefficient: float = NAN
    lr: float = NAN
    beta1: float = NAN
    beta2: float = NAN
    scale: float = NAN
    skipped: bool = False
    not_zeroed: bool = False
    without_gradient: int = 0
    unused: tuple[str, ...] = ()
    logit_max: float = NAN
    validation_loss: float = NAN
    target_moves: bool = False
    non_finite: NonFinite | None = None
    heavy: HeavySignals | None = None

    def __post_init__(self) -> None:
        """Round, so that what the live rules see is what :func:`encode` stores."""
        _round_floats(self)
        if self.heavy is not None:
            _round_floats(self.heavy)


def _round_floats(signals: StepSignals | HeavySignals) -> None:
    values = signals.__dict__  # those of a pass are frozen to others
    for name in _FLOATS[type(signals)]:
        value = values[name]
        if value != 0.0 and math.isfinite(value):
            values[name] = float(_SHORTENED % value)


_FLOATS: dict[type, tuple[str, ...]] = {
    kind: tuple(f.name for f in fields(kind) if f.type == "float")  # type: ignore[arg-type]
    for kind in (StepSignals, HeavySignals)
}

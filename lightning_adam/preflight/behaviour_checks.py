"""What is wrong with what the prediction depends on."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from lightning_adam.diagnosis import Finding
from lightning_adam.preflight.behaviour import CHANGED
from lightning_adam.preflight.facts import Check, Facts, found


def batch_mixing(facts: Facts) -> Iterator[Finding]:
    """Each sample is to be judged by itself."""
    if facts.behaviour.mixing > CHANGED:
        yield found(
            "BATCH-MIXING",
            "critical",
            f"A sample's output changes by {facts.behaviour.mixing:.2g} standard deviations when the other samples of "
            "its batch do.",
            "Look for batch_first=True that is missing, view() or reshape() where transpose() is meant, and softmax or "
            "mean over dim 0.",
            {"change over std": facts.behaviour.mixing},
        )


def targets_misplaced(facts: Facts) -> Iterator[Finding]:
    """Flattened in another order than the output, rolled, or sorted on their own."""
    if facts.behaviour.partner is not None:
        yield found(
            "BATCH-MIXING",
            "critical",
            f"The first sample's target is compared with the output of sample {facts.behaviour.partner} of its batch, and "
            "not, or not only, with its own.",
            "Flatten output and target in the same order: (N, T, C) against (N, T); a time-first output (T, N, C) needs "
            "y.transpose(0, 1). Look for flip, roll, sort or a shuffle of only one of them.",
            {"compared with": facts.behaviour.partner},
        )


def not_causal(facts: Facts) -> Iterator[Finding]:
    """Who predicts the next entry must not see it."""
    if facts.behaviour.leak > CHANGED:
        yield found(
            "NOT-CAUSAL",
            "critical",
            "The targets are the next entries of the input, and earlier outputs change with later inputs (by "
            f"{facts.behaviour.leak:.2g} "
            "standard deviations): the model sees what it is to predict.",
            "Give attention a causal mask (is_causal=True), pad convolutions on the left only, use no bidirectional RNN.",
            {"change over std": facts.behaviour.leak},
        )


def target_is_input(facts: Facts) -> Iterator[Finding]:
    """Of sequences of tokens, and of numbers that are read one after another."""
    if facts.behaviour.copies:
        yield found(
            "TARGET-IS-INPUT",
            "warning",
            "The targets are the inputs at the same places, and each output sees its own: the model learns to copy.",
            "Shift by one: logits[:, :-1] against tokens[:, 1:]; or mask the input where it is to be predicted, as a first "
            "masked convolution of kind A does.",
        )


def ignores_input(facts: Facts) -> Iterator[Finding]:
    """The same output for every sample, also after a few steps."""
    if facts.behaviour.spread < 1e-6 and not facts.behaviour.wide_spread >= 1e-6:
        yield found(
            "IGNORES-INPUT",
            "critical",
            "Every sample gets the same output: the input does not reach it.",
            "Look where x is lost in forward: overwritten, multiplied by 0, normalised over a single feature, a wrong "
            "variable.",
            {"relative spread": facts.behaviour.spread},
        )
    elif facts.behaviour.ignores_batch:
        yield found(
            "IGNORES-INPUT",
            "critical",
            "The loss is the same for every batch, with the same random numbers: nothing of the data reaches it.",
            "Look for what the step makes of the batch and never hands to the net, or overwrites: x = torch.randn_like(x).",
        )
    elif facts.behaviour.by_tokens < 1e-6:
        yield found(
            "IGNORES-INPUT",
            "critical",
            "The outputs stay when samples get each other's tokens and keep their padding: the net reads the padding alone.",
            "Turn the mask round: torch's key_padding_mask is True where there is padding, Hugging Face's attention_mask is "
            "1 where there is none (mask == 0).",
            {"change over std": facts.behaviour.by_tokens},
        )


def nondeterministic(facts: Facts) -> Iterator[Finding]:
    """Dropout or noise that does not heed the mode; a loss with a term of its own beside may be a Bayesian net's."""
    if facts.behaviour.dropouts:
        call = facts.behaviour.dropouts[0]
        yield found(
            "NONDETERMINISTIC",
            "warning",
            f"{call.name} is on in evaluation too: F.dropout drops by default, whatever the mode.",
            "F.dropout(x, p, training=self.training), or an nn.Dropout module; dropout_p=p if self.training else 0.0.",
            {"calls": len(facts.behaviour.dropouts)} | ({"at": call.place} if call.place else {}),
        )
    elif facts.behaviour.noisy:
        main = facts.step.main
        alone = main is not None and isinstance(main.output, Tensor) and math.isclose(main.output.mean(), facts.step.loss)
        yield found(
            "NONDETERMINISTIC",
            "warning" if alone else "info",
            "In evaluation the net gives something else each time for the same input: it draws random numbers, whatever "
            "the mode.",
            "Draw only where self.training is true: if self.training: x = x + std * torch.randn_like(x).",
        )


CHECKS = (
    Check("BATCH-MIXING", ("behaviour",), batch_mixing),
    Check("BATCH-MIXING", ("behaviour",), targets_misplaced),
    Check("NOT-CAUSAL", ("behaviour",), not_causal),
    Check("TARGET-IS-INPUT", ("behaviour",), target_is_input),
    Check("IGNORES-INPUT", ("behaviour",), ignores_input),
    Check("NONDETERMINISTIC", ("behaviour",), nondeterministic),
)

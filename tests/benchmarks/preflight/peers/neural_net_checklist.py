"""neural-net-checklist (MIT): Karpathy's recipe as assertions, for classifiers and causal language models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.preflight.peers.case import Case, build

REQUIREMENTS = ("neural-net-checklist==1.1.0",)
STEPS = 1000
"""Of overfitting one batch: its own 65,536 would take minutes a case."""
LEARNT = 0.1
"""The loss that counts as learnt: its own for language models; the 1e-4 for classifiers takes more than those steps."""

NAMES = {
    "loss_at_init": ("INITIAL-LOSS", "INIT-SCALE"),
    "init_calibrated": ("INITIAL-LOSS", "INIT-SCALE"),
    "forward_batch_independence": ("BATCH-MIXING", "SOFTMAX-DIM"),
    "backward_batch_independence": ("BATCH-MIXING", "SOFTMAX-DIM"),
    "forward_causal_property": ("NOT-CAUSAL",),
    "backward_causal_property": ("NOT-CAUSAL",),
    "non_zero_gradients": ("NO-GRADIENT", "ZERO-GRADIENT", "FROZEN", "DEAD-UNITS"),
    "input_independent_baseline_worse": ("IGNORES-INPUT", "INPUT-CONSTANT", "NO-SIGNAL"),
    "overfit_to_batch": ("CANNOT-OVERFIT",),
}
"""What each assertion says, generously, in the codes of the cases."""

Check = tuple[str, Callable[[], Any]]


def _next_words(inputs: Tensor, targets: Tensor) -> bool:
    """Whether the targets are the inputs, one place later: whoever has such data asks for a causal model."""
    return inputs.ndim > 1 and inputs.shape == targets.shape and torch.equal(inputs[:, 1:], targets[:, :-1])


def _of_words(case: Case, make: Callable[[], nn.Module], inputs: Tensor) -> tuple[Callable[[], nn.Module], Tensor]:
    """Tokens as one-hot vectors, as its page tells, where the module has one embedding for them."""
    from neural_net_checklist.torch_diagnostics import replace_input_embedding_layer

    tables = [(name, part) for name, part in case.module.named_modules() if isinstance(part, nn.Embedding)]
    if inputs.is_floating_point() or not tables:
        return make, inputs
    name, table = tables[0]
    return replace_input_embedding_layer(make, name), nn.functional.one_hot(inputs, table.num_embeddings).float()


def _checks(case: Case) -> Iterator[Check]:
    from neural_net_checklist import torch_diagnostics as own

    tokens, targets = case.pair()
    make, inputs = _of_words(case, lambda: build(case.name)[0], tokens)
    batch, loss = (inputs, targets), case.module.loss_of
    yield "non_zero_gradients", lambda: own.assert_non_zero_gradients(make(), batch)
    yield "forward_batch_independence", partial(own.assert_forward_batch_independence, make, batch)
    yield "backward_batch_independence", partial(own.assert_backward_batch_independence, make, batch)
    if _next_words(tokens, targets):
        yield "forward_causal_property", partial(own.assert_forward_causal_property, make, batch)
        yield "backward_causal_property", partial(own.assert_backward_causal_property, make, batch)
    if not targets.is_floating_point():  # the rest is for cross entropy
        classes = make()(inputs).shape[-1]
        of = {"loss_fn": loss}
        yield (
            "loss_at_init",
            lambda: own.assert_balanced_classification_cross_entropy_loss_at_init(make(), batch, num_classes=classes, **of),
        )
        yield (
            "init_calibrated",
            lambda: own.assert_balanced_classification_cross_entropy_init_calibrated(make(), batch, num_classes=classes),
        )
        yield "input_independent_baseline_worse", partial(own.assert_input_independent_baseline_worse, make, batch, **of)
        yield (
            "overfit_to_batch",
            lambda: own.assert_overfit_to_batch(make(), batch, threshold=LEARNT, max_steps=STEPS, **of),
        )


def alarms(case: Case) -> list[str]:
    """Assertions that do not hold; one that cannot run on the case (a batch of one under BatchNorm) says nothing."""
    failed = []
    for name, check in _checks(case):
        with suppress(Exception):
            try:
                check()
            except AssertionError:
                failed.append(name)
    return failed

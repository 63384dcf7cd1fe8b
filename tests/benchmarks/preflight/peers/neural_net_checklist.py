"""neural-net-checklist (MIT): Karpathy's recipe as assertions, for classifiers and causal language models."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.preflight.peers.case import Case, build

REQUIREMENTS = ("neural-net-checklist==1.1.0",)
STEPS = 2000
"""Of overfitting one batch: its own 65,536 would take minutes a case."""
LEARNT = 0.1
"""The loss that counts as learnt: its own for language models; the 1e-4 for classifiers takes more than those steps."""

NAMES = {
    "balanced_classification_cross_entropy_loss_at_init": ("INITIAL-LOSS", "INIT-SCALE"),
    "balanced_classification_cross_entropy_init_calibrated": ("INITIAL-LOSS", "INIT-SCALE"),
    "forward_batch_independence": ("BATCH-MIXING", "SOFTMAX-DIM"),
    "backward_batch_independence": ("BATCH-MIXING", "SOFTMAX-DIM"),
    "forward_causal_property": ("NOT-CAUSAL",),
    "backward_causal_property": ("NOT-CAUSAL",),
    "non_zero_gradients": ("NO-GRADIENT", "ZERO-GRADIENT", "FROZEN", "DEAD-UNITS"),
    "input_independent_baseline_worse": ("IGNORES-INPUT", "INPUT-CONSTANT", "NO-SIGNAL"),
    "overfit_to_batch": ("CANNOT-OVERFIT",),
}
"""What each assertion says, generously, in the codes of the cases."""


@dataclass(frozen=True)
class Check:
    """An assertion, whether it takes a model (else what makes one), and which options."""

    name: str
    of_model: bool = False
    options: tuple[str, ...] = ()


OF_ANY = (
    Check("non_zero_gradients", of_model=True),
    Check("forward_batch_independence"),
    Check("backward_batch_independence"),
)
OF_WORDS = (Check("forward_causal_property"), Check("backward_causal_property"))
OF_CLASSES = (
    Check("balanced_classification_cross_entropy_loss_at_init", True, ("num_classes", "loss_fn")),
    Check("balanced_classification_cross_entropy_init_calibrated", True, ("num_classes",)),
    Check("input_independent_baseline_worse", options=("loss_fn",)),
    Check("overfit_to_batch", True, ("loss_fn", "threshold", "max_steps")),
)


@dataclass(frozen=True)
class Subject:
    """What its assertions are about."""

    make: Callable[[], nn.Module]
    batch: tuple[Tensor, Tensor]
    options: dict[str, Any]

    def fails(self, check: Check) -> bool:
        """An assertion that cannot run on the case (a batch of one under BatchNorm) says nothing."""
        from neural_net_checklist import torch_diagnostics

        options = {name: self.options[name] for name in check.options}
        with suppress(Exception):
            try:
                model = self.make() if check.of_model else self.make
                getattr(torch_diagnostics, f"assert_{check.name}")(model, self.batch, **options)
            except AssertionError:
                return True
        return False


def _next_words(inputs: Tensor, targets: Tensor) -> bool:
    """Whether the targets are the inputs, one place later: whoever has such data asks for a causal model."""
    return inputs.ndim > 1 and inputs.shape == targets.shape and torch.equal(inputs[:, 1:], targets[:, :-1])


def _in_vectors(case: Case, make: Callable[[], nn.Module], inputs: Tensor) -> tuple[Callable[[], nn.Module], Tensor]:
    """Tokens as one-hot vectors, as its page tells for language models."""
    from neural_net_checklist.torch_diagnostics import replace_input_embedding_layer

    tables = [(name, part) for name, part in case.module.named_modules() if isinstance(part, nn.Embedding)]
    if inputs.is_floating_point() or not tables:
        return make, inputs
    name, table = tables[0]
    return replace_input_embedding_layer(make, name), nn.functional.one_hot(inputs, table.num_embeddings).float()


def alarms(case: Case) -> list[str]:
    """Assertions that do not hold: some are for language models only, some for cross entropy."""
    inputs, targets = case.pair()
    words, classes = _next_words(inputs, targets), not targets.is_floating_point()
    options = {"loss_fn": case.module.loss_of, "threshold": LEARNT, "max_steps": STEPS}
    if classes:
        options["num_classes"] = build(case.name)[0](inputs).shape[-1]

    def make() -> nn.Module:
        return build(case.name)[0]

    given, vectors = _in_vectors(case, make, inputs) if words else (make, inputs)
    subject = Subject(given, (vectors, targets), options)
    checks = (*OF_ANY, *(OF_WORDS if words else ()), *(OF_CLASSES if classes else ()))
    return [check.name for check in checks if subject.fails(check)]

"""Kinds of faults in the data, and in parameters of one's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from tests.benchmarks.preflight.data import clusters, generator, loader
from tests.benchmarks.preflight.parts import Built, Stepped, perceptron
from tests.preflight_kinds import Kinds, alarms

KINDS = Kinds()
sick, healthy = KINDS.sick, KINDS.healthy


@pytest.mark.parametrize("name", KINDS.faults)
def test_kind_is_named_by_its_cause(name: str) -> None:
    """Whatever the shape that it comes in."""
    assert KINDS.first_alarm(name) == [KINDS.faults[name][0]]


@pytest.mark.parametrize("name", KINDS.sound)
def test_what_looks_like_the_kind_is_let_pass(name: str) -> None:
    """The same form, and meant so."""
    assert alarms(KINDS.sound[name]) == []


@sick("DATA-NONFINITE")
def constant_column_standardised_inside() -> Built:
    """0 / 0 in the step, of batches that are finite."""
    x, y = clusters()
    x[:, 3] = 2.0
    return Stepped(lambda m, b: F.cross_entropy(m.net((b[0] - x.mean(0)) / x.std(0)), b[1]), net=perceptron(12, 4)), loader(
        x, y
    )


@sick("LABEL-RANGE")
def speech_labels_from_nought() -> Built:
    """CTC keeps class 0 for the blank."""
    g = generator()
    y = torch.randint(0, 7, (320, 4), generator=g)
    x = F.one_hot(y.repeat_interleave(4, 1), 7).float() + 0.3 * torch.randn(320, 16, 7, generator=g)

    def step(m: Any, batch: Any) -> Tensor:
        told = m.head(m.cell(batch[0])[0]).log_softmax(-1).transpose(0, 1)
        sizes = [torch.full((len(batch[0]),), length) for length in (16, 4)]
        return F.ctc_loss(told, batch[1], *sizes)

    return Stepped(step, cell=nn.GRU(7, 24, batch_first=True), head=nn.Linear(24, 8)), loader(x, y)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Every worker reads all of it."""

    def __iter__(self) -> Any:
        return zip(*clusters(480), strict=True)


@sick("DUPLICATES")
def stream_is_not_shared_among_workers() -> Built:
    """Each batch comes once for each worker."""
    step = lambda m, b: F.cross_entropy(m.net(b[0]), b[1])  # noqa: E731
    return Stepped(step, net=perceptron(12, 4)), DataLoader(Stream(), batch_size=32, num_workers=2)


@sick("NOT-REGISTERED")
def learnt_tensors_that_are_no_parameters() -> Built:
    """``requires_grad=True`` makes no parameter of a tensor."""
    module = Stepped(lambda m, b: F.cross_entropy(m.net(b[0]) * m.scale, b[1]), net=perceptron(12, 4))
    module.scale = torch.ones(4, requires_grad=True)
    return module, loader(*clusters())


@sick("INIT-SCALE")
def matrices_of_standard_normals() -> Built:
    """No layer of torch's is there."""
    parts = {f"w{k}": nn.Parameter(torch.randn(*shape)) for k, shape in enumerate([(12, 128), (128, 128), (128, 4)])}
    return Stepped(lambda m, b: F.cross_entropy((b[0] @ m.w0).relu() @ m.w1 @ m.w2, b[1]), **parts), loader(*clusters())

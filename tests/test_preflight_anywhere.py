"""Preflight of a plain module, at other precisions, within its budget, and what it shows meanwhile."""

from __future__ import annotations

import io
import time
from typing import Any

import lightning as L
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lightning_adam as la
from lightning_adam.preflight import progress
from lightning_adam.testing import assert_trains
from tests.benchmarks.preflight import strangers_faulty, strangers_healthy
from tests.benchmarks.preflight.data import chains, clusters, loader, rows
from tests.benchmarks.preflight.parts import Learner, Words, next_word, perceptron
from tests.benchmarks.preflight.strangers_parts import reviews
from tests.test_preflight import fingerprint, graves


def planned(precision: Any) -> L.Trainer:
    """A trainer that has not begun."""
    return L.Trainer(
        accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, max_epochs=3,
    )  # fmt: skip


# --- a plain module


def test_plain_module_is_judged_with_its_loss_and_optimizer() -> None:
    """Its own names stand in the finding, and nothing of ours is left on it."""
    net = perceptron(12, 4)
    stale, data = torch.optim.AdamW(perceptron(12, 4).parameters(), lr=1e-3), loader(*clusters())
    before = fingerprint(net, data)

    report = la.preflight(net, data, loss=F.cross_entropy, optimizer=stale)

    assert report.findings[0].rule == "OPTIMIZER-STALE"
    assert report.findings[0].parameters == tuple(name for name, _ in net.named_parameters())
    assert fingerprint(net, data) == before


def test_healthy_plain_module_is_let_pass() -> None:
    """With the optimizer that a loop of one's own would step."""
    net = perceptron(12, 4)

    assert_trains(net, loader(*clusters()), loss=F.cross_entropy, optimizer=torch.optim.AdamW(net.parameters(), lr=1e-3))


def test_without_an_optimizer_the_rate_is_said_not_to_be_judged() -> None:
    """All else is."""
    report = la.preflight(nn.Sequential(perceptron(12, 4), nn.Softmax(1)), loader(*clusters()), loss=F.cross_entropy)

    assert graves(report) == ["DOUBLE-SOFTMAX"]
    assert {"LR-HIGH", "LR-LOW"} <= report.not_judged.keys()


def test_plain_module_gets_what_its_forward_names_of_a_dict() -> None:
    """The loss gets the output and the whole batch."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(32, 16), nn.Linear(16, 1)

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.head(self.table(input_ids).mean(1))

    report = la.preflight(Net(), rows(**reviews()), loss=lambda output, batch: F.mse_loss(output, batch["labels"].float()))

    assert graves(report) == ["BROADCAST"]


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (nn.Linear(2, 2), {}, r"no training_step.*loss=F.cross_entropy"),
        (nn.Linear(2, 2), {"loss": "mse"}, r"loss='mse' cannot be called"),
        (nn.Linear(2, 2), {"loss": F.mse_loss, "optimizer": "adam"}, r"optimizer='adam'"),
        (Learner(perceptron(12, 4), F.mse_loss), {"loss": F.mse_loss}, r"loss=: Learner has a training_step"),
        (F.mse_loss, {"loss": F.mse_loss}, r"module=function"),
    ],
)
def test_arguments_of_a_plain_module_are_checked(module: Any, arguments: dict[str, Any], message: str) -> None:
    """Before anything is run, with what to write instead."""
    with pytest.raises(la.ConfigError, match=message):
        la.preflight(module, loader(*clusters()), **arguments)


def test_batch_of_another_make_is_said_to_need_a_lightning_module() -> None:
    """A tensor alone tells neither input nor target."""
    report = la.preflight(nn.Linear(2, 2), [torch.zeros(8, 2)], loss=F.mse_loss)

    assert "neither (input, target) nor a dict" in report.not_judged["NO-GRADIENT"]


# --- device and precision


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true", "bf16-true"])
def test_planned_precision_is_used_and_undone(precision: str) -> None:
    """A module that has not met its trainer yet is looked at as the trainer will have it."""
    seen: set[torch.dtype] = set()

    class Watching(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            seen.add(self(batch[0]).dtype)
            return loss

    module, data = Watching(perceptron(12, 4), F.cross_entropy), loader(*clusters())
    before = fingerprint(module, data)

    report = la.preflight(module, data, trainer=planned(precision))

    wanted = torch.float64 if precision == "64-true" else torch.bfloat16
    assert graves(report) == []
    assert wanted in seen
    assert fingerprint(module, data) == before


@pytest.mark.parametrize("seed", [2, 7])
def test_rounding_of_a_bfloat16_loss_pairs_no_samples(seed: int) -> None:
    """Of weights in bfloat16: the loss has 8 bits, and an effect is a difference of four such."""
    torch.manual_seed(seed)

    report = la.preflight(Learner(perceptron(12, 4), F.cross_entropy), loader(*clusters()), trainer=planned("bf16-true"))

    assert graves(report) == []


def test_rounding_of_bfloat16_is_not_taken_for_a_leak() -> None:
    """Interventions are compared without autocast."""
    tokens = chains()

    module, data = Learner(Words(), next_word), loader(tokens[:, :-1], tokens[:, 1:], size=16)
    report = la.preflight(module, data, trainer=planned("bf16-mixed"), budget=5)

    assert graves(report) == []


# --- the budget, and what is shown


def test_no_step_begins_after_the_budget_is_used_up() -> None:
    """What is left out is said; of the first step alone nobody knows how long it takes."""
    begun: list[float] = []

    class Slow(Learner):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            begun.append(time.monotonic())
            time.sleep(0.1)
            return super().training_step(batch, batch_idx)

    report = la.preflight(Slow(perceptron(12, 4), F.cross_entropy), loader(*clusters()), budget=0.5)

    assert begun[-1] - begun[0] < 0.5
    assert report.not_judged["LR-HIGH"] == report.not_judged["NO-SIGNAL"] == "the budget is used up"


def shown(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> str:
    """What stderr gets while a model is looked at."""
    buffer = io.StringIO()
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    monkeypatch.setattr(progress, "Console", lambda **_: Console(file=buffer, force_terminal=is_terminal, width=120))
    la.preflight(perceptron(12, 4), loader(*clusters()), loss=F.cross_entropy, budget=5)
    return buffer.getvalue()


def test_terminal_shows_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """And of how long at most."""
    said = shown(monkeypatch, is_terminal=True)

    assert "preflight:" in said and "of at most 5 s" in said


def test_pipe_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a log file of a cluster."""
    assert shown(monkeypatch, is_terminal=False) == ""


# --- kinds that were once judged wrong


@pytest.mark.parametrize("name", ["boxes_on_a_grid", "convnext_with_small_scales", "made_in_setup"])
def test_healthy_stranger_is_let_pass(name: str) -> None:
    """A dict per sample, samples mixed on purpose, and layers that ``configure_model`` makes."""
    L.seed_everything(0, verbose=False)

    report = la.preflight(*getattr(strangers_healthy, name)(), budget=5)

    assert graves(report) == []
    assert "NO-GRADIENT" not in report.not_judged


@pytest.mark.parametrize(("name", "code"), [("another_tokenizer", "INPUT-CONSTANT"), ("softmax_over_time", "SOFTMAX-DIM")])
def test_fault_of_a_stranger_is_named_by_its_cause(name: str, code: str) -> None:
    """Unknown words under masks of many lengths; a log-softmax over time before CTC."""
    L.seed_everything(0, verbose=False)

    assert graves(la.preflight(*getattr(strangers_faulty, name)()))[0] == code


def test_a_rate_that_is_too_high_for_weights_that_are_nearly_right_is_answered_with_a_lower_one() -> None:
    """What moves the weights by little may be too much for them: what is advised is the rate at which the trial learnt."""
    torch.manual_seed(0)
    inputs, right = torch.randn(512, 64), torch.randn(64)
    net = nn.Linear(64, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(right + 1e-3 * torch.randn(64))
    batches = DataLoader(TensorDataset(inputs, inputs @ right), 32, shuffle=True)
    report = la.preflight(
        net, batches, loss=lambda output, target: F.mse_loss(output[:, 0], target),
        optimizer=torch.optim.Adam(net.parameters(), lr=1e-2),
    )  # fmt: skip

    assert [(finding.rule, finding.remedy) for finding in report.findings] == [
        ("LR-HIGH", "lr=0.001, with a warmup of some hundred steps.")
    ]

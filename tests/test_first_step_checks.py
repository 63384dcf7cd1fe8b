"""DivergenceMonitor looks at how the first training step makes its loss, at no cost and without a trace."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor
from lightning_adam.diagnosis import RunSignals, replay
from lightning_adam.diagnosis.facts import FACTS
from tests.digits import Digits, digits_loader, trainer


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    """What another test has compiled in this process would keep the recorder away."""
    torch._dynamo.reset()


class Softened(Digits):
    """Softmax before cross entropy, which has its own."""

    def training_step(self, batch: Any, index: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]).softmax(-1), batch[1])


class Broadcast(Digits):
    """A prediction of (N, 1) against a target of (N,)."""

    def training_step(self, batch: Any, index: int) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0])[:, :1], batch[1].float())


class ByHand(Softened):
    """With manual optimization the loss goes backward in the middle of the step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, index: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        with torch.device("cpu"):  # a context of torch's own, which must be left in order
            self.manual_backward(super().training_step(batch, index))
        optimizer.step()


def fit(module: Digits, steps: int = 5, **options: Any) -> DivergenceMonitor:
    """The monitor after some steps."""
    monitor = DivergenceMonitor(**options)
    trainer(max_steps=steps, callbacks=[monitor]).fit(module, digits_loader())
    assert not monitor.failures
    return monitor


@pytest.mark.parametrize(("module", "code"), [(Softened, "DOUBLE-SOFTMAX"), (Broadcast, "BROADCAST")])
def test_a_fault_of_the_loss_call_is_told_with_the_first_step(module: Any, code: str) -> None:
    """With the place in the code; a warning and no more, for nobody knows yet what it costs."""
    (finding,) = fit(module()).findings

    assert (finding.rule, finding.severity, finding.step) == (code, "warning", 0)
    assert "test_first_step_checks.py:" in str(finding.evidence["at"])
    assert finding.remedy


def test_a_healthy_step_says_nothing() -> None:
    assert fit(Digits()).findings == []


def test_weights_and_random_numbers_are_those_of_a_run_without() -> None:
    """Bit for bit, dropout included."""
    ends = []
    for callbacks in ([], [DivergenceMonitor()]):
        module = Digits()
        module.net.append(nn.Dropout(0.5))
        torch.manual_seed(1)
        trainer(max_steps=5, callbacks=callbacks).fit(module, digits_loader())
        ends.append((module.net.state_dict(), torch.get_rng_state()))
    assert all(torch.equal(ends[0][0][name], ends[1][0][name]) for name in ends[0][0])
    assert torch.equal(ends[0][1], ends[1][1])


def test_nothing_is_recorded_after_the_first_step() -> None:
    """No mode and no hook stays: not after the step, not after one that raises, not after one without a loss."""

    class Raising(Digits):
        def training_step(self, batch: Any, index: int) -> Tensor:
            raise KeyError("pixels")

    class Silent(Digits):
        def training_step(self, batch: Any, index: int) -> Any:
            return None

    fit(Digits())
    with pytest.raises(KeyError):
        trainer(max_steps=1, callbacks=[DivergenceMonitor()]).fit(Raising(), digits_loader())
    trainer(max_epochs=1, max_steps=-1, limit_train_batches=2, callbacks=[DivergenceMonitor()]).fit(
        Silent(), digits_loader()
    )

    assert torch.overrides._get_current_function_mode() is None  # type: ignore[no-untyped-call]
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


def test_manual_optimization_is_read_off_the_graph_of_its_first_loss() -> None:
    """Nothing is recorded while the step runs."""
    (finding,) = fit(ByHand()).findings

    assert finding.rule == "DOUBLE-SOFTMAX"


def test_a_resumed_run_is_not_checked_again(tmp_path: Any) -> None:
    """Its finding is in the checkpoint."""
    first = trainer(max_steps=3, callbacks=[DivergenceMonitor()])
    first.fit(Softened(), digits_loader())
    first.save_checkpoint(tmp_path / "last.ckpt")
    monitor = DivergenceMonitor()
    trainer(max_steps=6, callbacks=[monitor]).fit(Softened(), digits_loader(), ckpt_path=tmp_path / "last.ckpt")

    assert [finding.rule for finding in monitor.findings] == ["DOUBLE-SOFTMAX"]


def test_what_fails_costs_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a check")

    monkeypatch.setattr(importlib.import_module("lightning_adam.preflight.cheap"), "cheap_checks", broken)
    monitor = DivergenceMonitor()
    module = Softened()
    trainer(max_steps=5, callbacks=[monitor]).fit(module, digits_loader())

    assert len(monitor.failures) == 1
    assert "first step" in next(iter(monitor.failures))


def test_the_finding_can_be_ignored() -> None:
    assert fit(Softened(), ignore=["DOUBLE-SOFTMAX"]).findings == []
    with pytest.raises(la.ConfigError, match="Did you mean 'DOUBLE-SOFTMAX'"):
        DivergenceMonitor(ignore=["DOUBLE-SOFTMAXX"])


def test_an_action_is_no_answer_to_it() -> None:
    """Neither a lower rate nor an earlier state mends how the loss is made."""
    module = Broadcast()
    monitor = fit(module, steps=10, on_divergence="reduce_lr")

    assert [finding.rule for finding in monitor.findings] == ["BROADCAST"]


def test_standing_still_is_its_consequence() -> None:
    """What looked like labels that do not belong to their inputs is told under the shapes that do not match."""
    torch.manual_seed(0)
    inputs, noise = torch.randn(3000, 8), torch.randn(3000)

    class Line(Digits):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

        def training_step(self, batch: Any, index: int) -> Tensor:
            return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    monitor = DivergenceMonitor()
    data = DataLoader(TensorDataset(inputs, inputs[:, 0] + 0.1 * noise), 16)
    trainer(max_steps=300, callbacks=[monitor]).fit(Line(), data)

    assert [f.rule for f in monitor.findings if f.severity != "info"] == ["BROADCAST"]


def test_the_doctor_finds_it_again_in_the_signals() -> None:
    """The records carry it, and a replay tells it."""
    records: list[Any] = []

    class Recorded(DivergenceMonitor):
        def on_record(self, position: int, record: Any) -> None:
            records.append(record)

    monitor = Recorded()
    trainer(max_steps=3, callbacks=[monitor]).fit(Softened(), digits_loader())

    assert isinstance(records[0], RunSignals)
    assert [f.rule for f in replay(records).findings] == [f.rule for f in monitor.findings] == ["DOUBLE-SOFTMAX"]


def test_every_fact_is_a_code_that_is_explained() -> None:
    from lightning_adam.explain import codes

    assert set(FACTS) <= set(codes())

"""How the first loss was made is read off its graph where nobody can watch it: in plain loops, Fabric, Hugging Face."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lightning_adam as la
from lightning_adam.preflight.cheap import cheap_checks
from lightning_adam.preflight.graph import step_of
from tests.benchmarks.preflight.data import clusters, loader, rows
from tests.benchmarks.preflight.parts import perceptron
from tests.benchmarks.preflight.strangers_parts import bert, reviews

Made = Callable[[Tensor, Tensor], Tensor]
"""A loss of four outputs and of labels from 0 to 3."""


def spoken(o: Tensor) -> Tensor:
    """CTC of one sequence whose frames are the rows."""
    return F.ctc_loss(o[:, None], torch.tensor([[1, 2, 3]]), [len(o)], [3])


FAULTS: dict[str, tuple[str, Made]] = {
    "softmax before cross entropy": ("DOUBLE-SOFTMAX", lambda o, y: F.cross_entropy(o.softmax(1), y)),
    "sigmoid before cross entropy": ("DOUBLE-SOFTMAX", lambda o, y: F.cross_entropy(o.sigmoid(), y)),
    "softmax before soft targets": ("DOUBLE-SOFTMAX", lambda o, y: F.cross_entropy(o.softmax(1), F.one_hot(y, 4) / 1)),
    "softmax before smoothed labels": ("DOUBLE-SOFTMAX", lambda o, y: F.cross_entropy(o.softmax(1), y, label_smoothing=0.1)),
    "relu before cross entropy": ("RELU-LOGITS", lambda o, y: F.cross_entropy(o.relu(), y)),
    "nll of logits": ("NLL-NEEDS-LOG", F.nll_loss),
    "ctc of probabilities": ("NLL-NEEDS-LOG", lambda o, y: spoken(o.softmax(-1))),
    "column against row": ("BROADCAST", lambda o, y: F.mse_loss(o[:, :1], y.float())),
    "huber of a column and a row": ("BROADCAST", lambda o, y: F.huber_loss(o[:, :1], y.float())),
    "sigmoid before logits": (
        "DOUBLE-SIGMOID",
        lambda o, y: F.binary_cross_entropy_with_logits(o[:, 0].sigmoid(), y / 3),
    ),
    "sigmoid twice": ("DOUBLE-SIGMOID", lambda o, y: F.binary_cross_entropy(o[:, 0].sigmoid().sigmoid(), y / 3)),
    "logarithm of a softmax": ("LOG-OF-PROBABILITY", lambda o, y: -o.softmax(1).log().gather(1, y[:, None]).mean()),
    "cross entropy of one class": ("ONE-CLASS", lambda o, y: F.cross_entropy(o[:, :1], 0 * y)),
}
HEALTHY: dict[str, Made] = {
    "cross entropy": F.cross_entropy,
    "soft targets": lambda o, y: F.cross_entropy(o, F.one_hot(y, 4) / 1),
    "nll of a log-softmax": lambda o, y: F.nll_loss(o.log_softmax(1), y),
    "ctc of a log-softmax": lambda o, y: spoken(o.log_softmax(-1)),
    "squares of one shape": lambda o, y: F.mse_loss(o[:, 0], y.float()),
    "one target for all": lambda o, y: F.mse_loss(o, torch.zeros(1)),
    "one target per row": lambda o, y: F.mse_loss(o, y[:, None].float().expand_as(o)),
    "sigmoid and its loss": lambda o, y: F.binary_cross_entropy(o[:, 0].sigmoid(), y / 3),
    "logarithm behind a clamp": lambda o, y: -o.softmax(1).clamp_min(1e-6).log().gather(1, y[:, None]).mean(),
}


def seen(loss: Made) -> list[str]:
    """Codes that the graph of one loss gives."""
    x, y = clusters(32)
    return [finding.rule for finding in cheap_checks(perceptron(12, 4), [], None, step_of(loss(perceptron(12, 4)(x), y)))]


@pytest.mark.parametrize("name", FAULTS)
def test_graph_shows_the_fault(name: str) -> None:
    code, loss = FAULTS[name]

    assert seen(loss) == [code]


@pytest.mark.parametrize("name", HEALTHY)
def test_graph_of_a_healthy_loss_shows_nothing(name: str) -> None:
    assert seen(HEALTHY[name]) == []


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_casts_of_autocast_are_looked_through(precision: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=precision, enabled=precision is not torch.float32):
        assert seen(FAULTS["softmax before cross entropy"][1]) == ["DOUBLE-SOFTMAX"]
        assert seen(F.cross_entropy) == []


def looped(loss: Made, steps: int = 3, **options: Any) -> tuple[la.Watch, list[Tensor]]:
    """A plain loop under ``la.watch``, or without it where ``watched`` is false."""
    torch.manual_seed(0)
    net, data = nn.Sequential(perceptron(12, 4), nn.Dropout(0.2)), list(loader(*clusters()))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    watch = la.watch(net, optimizer) if options.get("watched", True) else None
    for x, y in data[:steps]:
        optimizer.zero_grad()
        value = loss(net(x), y)
        (value if watch is None else watch.loss(value)).backward()
        optimizer.step()
    if watch is not None:
        watch.close()
    return watch, [*(p.detach() for p in net.parameters()), torch.get_rng_state()]


def test_watch_tells_it_as_a_finding_of_its_own() -> None:
    """As a warning, at the first step, once."""
    watch, _ = looped(FAULTS["column against row"][1])

    assert [(f.rule, f.severity, f.step) for f in watch.findings] == [("BROADCAST", "warning", 0)]
    assert not watch.failures


def test_watched_loop_is_bit_by_bit_as_without() -> None:
    """Random numbers included."""
    (_, watched), (_, alone) = looped(F.cross_entropy), looped(F.cross_entropy, watched=False)

    assert all(map(torch.equal, watched, alone))


def test_healthy_loop_has_no_finding() -> None:
    assert looped(F.cross_entropy)[0].findings == []


def test_what_fails_in_it_costs_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("a check")

    monkeypatch.setattr("lightning_adam.integrations.first_look.first_step_of", broken)
    watch, _ = looped(F.cross_entropy)

    assert len(watch.failures) == 1


def test_resumed_loop_is_not_looked_at_again() -> None:
    """Its finding is in the state."""
    net = perceptron(12, 4)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    x, y = clusters(32)
    with la.watch(net, optimizer) as before:
        before.loss(F.cross_entropy(net(x), y)).backward()
        optimizer.step()
        state = before.state_dict()
    after = la.watch(net, optimizer)
    after.load_state_dict(state)
    after.loss(F.cross_entropy(net(x).softmax(1), y)).backward()
    optimizer.step()
    after.close()

    assert after.findings == []


def test_fabric_s_wrappers_are_no_hindrance() -> None:
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    net = perceptron(12, 4)
    module, optimizer = fabric.setup(net, torch.optim.AdamW(net.parameters(), lr=1e-3))
    x, y = clusters(32)
    with la.watch(module, optimizer) as watch:
        fabric.backward(watch.loss(F.cross_entropy(module(x).softmax(1), y)))
        optimizer.step()

    assert [f.rule for f in watch.findings] == ["DOUBLE-SOFTMAX"]


def test_hugging_face_s_trainer_is_told(tmp_path: Path) -> None:
    """The model makes the loss itself: here one with a softmax too many."""
    transformers = pytest.importorskip("transformers")
    from lightning_adam.integrations.transformers import AdamCallback

    class Softened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = bert("BertForSequenceClassification", num_labels=2)

        def forward(self, labels: Tensor, **batch: Tensor) -> dict[str, Tensor]:
            logits = self.body(**batch).logits
            return {"loss": F.cross_entropy(logits.softmax(-1), labels), "logits": logits}

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    callback = AdamCallback()
    data = rows(**reviews(64)).dataset
    transformers.Trainer(Softened(), arguments, train_dataset=data, callbacks=[callback]).train()

    assert [f.rule for f in callback.findings] == ["DOUBLE-SOFTMAX"]

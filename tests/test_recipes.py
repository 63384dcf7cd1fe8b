"""The helper's optimizer as a class or a callable: for libraries that make their optimizer themselves."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.optim import Optimizer

import lightning_adam as la
from tests.digits import digits_loader

STEPS = 10
AdamWithSchedule = la.optimizer_class("adamw", lr=0.02, schedule="linear", warmup=2, total_steps=STEPS, clip=0.1)
"""As a user's module would have it, for LightningCLI to find."""


def network() -> nn.Sequential:
    """Two layers."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))


def train(module: nn.Module, optimizer: Optimizer, first: int = 0, last: int = STEPS) -> list[Tensor]:
    """These steps; the weights after them."""
    for step in range(first, last):
        inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (module(inputs) - inputs[:, :2]).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in module.parameters()]


def same(ones: list[Tensor], others: list[Tensor]) -> bool:
    """Bit for bit."""
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


def reference(lr: float, decay: float = 0.01) -> list[Tensor]:
    """torch's AdamW, its clipping, and the rates written out."""
    module = network()
    matrices, vectors = ([p for p in module.parameters() if (p.dim() > 1) is is_matrix] for is_matrix in (True, False))
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = lr * ((step + 1) / 2 if step < 2 else 1 - (step - 2) / (STEPS - 2))
        inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (module(inputs) - inputs[:, :2]).square().mean().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 0.1)
        optimizer.step()
    return [p.detach().clone() for p in module.parameters()]


def test_class_clips_and_follows_its_schedule_by_itself() -> None:
    """As darts and neuralforecast call it, its own rate or theirs: the weights are those of a loop that is written out."""
    for options, lr in (({}, 0.02), ({"lr": 0.05}, 0.05)):
        module = network()
        optimizer = AdamWithSchedule(module.parameters(), **options)  # type: ignore[arg-type]
        for ours, theirs in zip(train(module, optimizer), reference(lr), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)

    assert isinstance(optimizer, AdamWithSchedule) and issubclass(AdamWithSchedule, torch.optim.AdamW)


def test_signature_has_the_recipes_values() -> None:
    """neuralforecast asks it for ``lr``; LightningCLI shows it and passes all of it back."""
    parameters = inspect.signature(AdamWithSchedule).parameters
    module = network()
    given = {name: p.default for name, p in parameters.items() if name != "params"}

    assert (given["lr"], given["weight_decay"], given["betas"]) == (0.02, 0.01, (0.9, 0.999))
    assert same(train(module, AdamWithSchedule(module.parameters(), **given)), train(*made(network())))  # type: ignore[arg-type]


def made(module: nn.Module) -> tuple[nn.Module, Optimizer]:
    """With its optimizer."""
    return module, AdamWithSchedule(module.parameters())  # type: ignore[call-arg]


def test_groups_and_named_parameters_are_taken() -> None:
    """A group keeps its rate and decay; names are kept for a resume."""
    module = network()
    own = [{"params": module[0].parameters(), "lr": 0.1, "weight_decay": 0.3}, {"params": module[2].parameters()}]
    grouped = AdamWithSchedule(own)  # type: ignore[call-arg]
    named = AdamWithSchedule(module.named_parameters())  # type: ignore[call-arg]

    assert [group["initial_lr"] for group in grouped.param_groups] == [0.1, 0.02]
    assert grouped.param_groups[0]["weight_decay"] == 0.3
    assert named.param_groups[0]["adam_names"] == ["0.weight", "2.weight"]


def test_checkpoint_and_copies_carry_schedule_and_rule() -> None:
    """No trainer saves a schedule that it does not know: after four steps all go on bit for bit, after torch's safe load."""
    rule = la.ZClip(warmup=2)
    kind = la.optimizer_class("lion", lr=1e-2, schedule="cosine", warmup=3, total_steps=STEPS, clip=rule)
    module = network()
    optimizer = kind(module.parameters())  # type: ignore[call-arg]
    train(module, optimizer, 0, 4)
    file = io.BytesIO()
    torch.save((module.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    resumed = network()
    resumed.load_state_dict(weights)
    again = kind(resumed.parameters())  # type: ignore[call-arg]
    again.load_state_dict(state)
    others = [(resumed, again), copy.deepcopy((module, optimizer)), pickle.loads(pickle.dumps((module, optimizer)))]
    wanted = train(module, optimizer, 4)

    assert all(same(train(*other, 4), wanted) for other in others)
    assert all(type(other) is kind for _, other in others)


ELSEWHERE = """
import pickle, sys, torch
kind, weight = pickle.load(open(sys.argv[1], "rb"))
rates, optimizer = [], kind([weight])
for _ in range(4):
    weight.grad = torch.ones(2, 2)
    rates.append(optimizer.param_groups[0]["lr"])
    optimizer.step()
print(rates, float(optimizer.adam_clip.norm_after))
"""


@pytest.mark.slow
def test_class_goes_to_another_process(tmp_path: Path) -> None:
    """As pickle sends it to one that is spawned: it schedules and clips there; in this one it stays the same class."""
    (tmp_path / "class.pkl").write_bytes(pickle.dumps((AdamWithSchedule, nn.Parameter(torch.ones(2, 2)))))
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "class.pkl")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert said.startswith("[0.01, 0.02, 0.02, 0.0175] 0.0999")
    assert pickle.loads(pickle.dumps(AdamWithSchedule)) is AdamWithSchedule


def test_factory_is_a_callable_of_the_parameters() -> None:
    """For scvi-tools' ``optimizer_creator``: of a name, which can be pickled, and of the user's own callable."""
    options: dict[str, Any] = {"schedule": "linear", "warmup": 2, "total_steps": STEPS, "clip": 0.1}
    by_name = pickle.loads(pickle.dumps(la.optimizer_factory("adamw", lr=0.02, **options)))
    by_callable = la.optimizer_factory(lambda params: torch.optim.AdamW(params), lr=0.02, weight_decay=0.01, **options)
    for factory in (by_name, by_callable):
        module = network()
        for ours, theirs in zip(train(module, factory(module.parameters())), reference(0.02), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"schedule": "cosine"}, "cannot ask a trainer how long the run is"),
    ({"warmup": 0.1}, "cannot ask a trainer how long the run is"),
    ({"warmup": "2ep", "schedule": "linear", "total_steps": 9}, "length of an epoch is not known"),
    ({"total_steps": 0.5}, "give optimizer steps"),
    ({"schedule": "cosin", "total_steps": 9}, "Did you mean 'cosine'"),
    ({"schedule": "plateau"}, "an optimizer does not see"),
    ({"optimizer": "sophia"}, "needs a Hessian estimate"),
    ({"optimizer": "schedulefree_adamw"}, "averaged weights"),
    ({"optimizer": lambda params: None}, "optimizer_factory takes it"),
    ({"optimizer": torch.optim.SGD([nn.Parameter(torch.ones(1))])}, "an instance has its parameters"),
    ({"lr": -1.0}, "lr must be"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_a_class_alone_cannot_do_is_refused_when_it_is_made(options: dict[str, Any], message: str) -> None:
    """And not in the library's run."""
    with pytest.raises(la.ConfigError, match=message):
        la.optimizer_class(**options)


def test_every_name_is_a_class_or_says_why_not() -> None:
    """Two steps each, without a schedule; Muon wants to know which matrices are hidden."""
    for row in la.available_optimizers():
        if set(row.needs) & {"hessian", "modes"}:
            continue
        kind = la.optimizer_class(row.name, total_steps=STEPS)
        module = network()
        if row.name == "muon":
            with pytest.raises(la.ConfigError, match="which matrices are hidden"):
                kind(module.parameters())  # type: ignore[call-arg]
            continue
        optimizer = kind(module.parameters())  # type: ignore[call-arg]
        if row.name != "lbfgs":
            train(module, optimizer, 0, 2)
        assert type(pickle.loads(pickle.dumps(optimizer))) is kind, row.name


class Plain(L.LightningModule):
    """Leaves its optimizer to LightningCLI."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(64, 10)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def train_dataloader(self) -> Any:
        """Digits."""
        return digits_loader()


def test_lightning_cli_takes_the_class_as_its_optimizer() -> None:
    """``--optimizer`` with its path, its own rate and one from the command line."""
    for more, lr in (([], 0.02), (["--optimizer.lr=0.5"], 0.5)):
        path = f"--optimizer={__name__}.AdamWithSchedule"
        options = ["fit", path, *more, "--trainer.max_steps=3", "--trainer.accelerator=cpu", "--trainer.logger=false"]
        quiet = ["--trainer.enable_checkpointing=false", "--trainer.enable_progress_bar=false"]
        cli = LightningCLI(Plain, args=[*options, *quiet], save_config_callback=None)
        optimizer: Any = cli.trainer.optimizers[0]

        assert type(optimizer) is AdamWithSchedule
        assert optimizer.param_groups[0]["initial_lr"] == lr
        assert optimizer.adam_schedule.last_epoch == 3

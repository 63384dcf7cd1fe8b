"""For every optimizer: a group's decay, layers' rates, a group added in mid-run, a closure, sparse and complex numbers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lightning_adam as la
from lightning_adam.moments import read_moments
from lightning_adam.optimizers.number_kinds import takes_complex, takes_sparse
from lightning_adam.optimizers.sophia import estimate_hessian
from tests.test_descent import Bowl

ROWS = {row.name: row for row in la.available_optimizers()}
NAMES = list(ROWS)
ONE_GROUP = {"lbfgs"}


def made(module: nn.Module, name: Any, **options: Any) -> Any:
    """Its optimizer, at a constant rate."""
    whole = {"schedule": "constant", "warmup": 0, "total_steps": 30, **options}
    return la.configure_optimizers(module, name, **whole)["optimizer"]


def closure_of(module: nn.Module, optimizer: Any, name: str) -> Any:
    """Zeroes, computes the loss and its gradients."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = module()
        if name == "sophia":
            optimizer.adam_arguments = {"hessian": estimate_hessian(optimizer, loss)}
        loss.backward()
        return loss  # type: ignore[no-any-return]

    return closure


def run(module: nn.Module, optimizer: Any, name: str, steps: int = 6) -> dict[str, Tensor]:
    """The weights after some steps."""
    closure = closure_of(module, optimizer, name)
    for _ in range(steps):
        closure()
        optimizer.step(*([closure] if name == "lbfgs" else []))
    return {key: p.detach().clone() for key, p in module.named_parameters()}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ONE_GROUP])
def test_a_groups_decay_moves_that_group_alone(name: str) -> None:
    if "weight_decay" not in ROWS[name].options():
        with pytest.raises(la.ConfigError, match="no option 'weight_decay'"):
            made(Bowl(), name, param_groups={"hidden.*": {"weight_decay": 0.9}})
        return
    ends = []
    for decay in (0.0, 0.9):
        module = Bowl()
        groups = {"hidden.*": {"weight_decay": decay}, "head.*": {"weight_decay": 0.0}}
        torch.manual_seed(1)
        ends.append(run(module, made(module, name, param_groups=groups, clip=None), name, 12))
    changed = {key for key in ends[0] if not torch.equal(ends[0][key], ends[1][key])}
    assert {key for key in changed if key.startswith("hidden")} == {"hidden.weight", "hidden.bias"}
    if name != "prodigy":  # its distance is one for all
        assert changed == {"hidden.weight", "hidden.bias"}


@pytest.mark.parametrize("name", NAMES)
def test_layer_decay_is_obeyed_or_refused(name: str) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    if name in ONE_GROUP or "lr" in ROWS[name].shared:
        with pytest.raises(la.ConfigError, match=r"layer_decay|one lr for all groups"):
            made(module, name, layer_decay=0.5)
        return
    rates = {key: group["lr"] for group in made(module, name, layer_decay=0.5).param_groups for key in group["adam_names"]}
    assert rates["1.weight"] == 2 * rates["0.weight"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_group_added_in_mid_run_trains(name: str) -> None:
    module = Bowl()
    optimizer = made(module, name, parameters="hidden.*")
    start = run(module, optimizer, name, 3)
    if name in ONE_GROUP:
        with pytest.raises(ValueError, match="per-parameter options"):
            type(optimizer)([{"params": [module.head.weight]}, {"params": [module.head.bias]}])
        return
    optimizer.add_param_group({"params": list(module.head.parameters())})
    end = run(module, optimizer, name, 8)
    assert {key for key in start if not torch.equal(start[key], end[key])} == set(start)


@pytest.mark.parametrize("name", NAMES)
def test_a_closure_is_called_and_its_loss_returned(name: str) -> None:
    one, other = Bowl(), Bowl()
    torch.manual_seed(2)
    by_closure = made(one, name)
    losses = [float(by_closure.step(closure_of(one, by_closure, name))) for _ in range(3)]
    assert losses[0] == pytest.approx(float(Bowl()()))
    torch.manual_seed(2)
    if name not in ("lbfgs", "adamz"):
        by_hand = made(other, name)
        assert all(
            torch.equal(p, q) for p, q in zip(one.parameters(), [*run(other, by_hand, name, 3).values()], strict=True)
        )


class Turned(Bowl):
    """The same parameters, registered the other way round."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("hidden", "head"):
            self._modules[name] = self._modules.pop(name)
        self._modules["hidden"] = self._modules.pop("hidden")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ONE_GROUP])
def test_a_reordered_and_regrouped_resume_goes_on_as_if_nothing_had_happened(name: str) -> None:
    first, second = Bowl(), Turned()
    if name == "soap":  # a new basis magnifies the rounding of float32, in which a sum in another order differs
        first, second = first.double(), second.double()
    assert [key for key, _ in first.named_parameters()] != [key for key, _ in second.named_parameters()]
    optimizer = made(first, name)
    run(first, optimizer, name, 4)
    second.load_state_dict(first.state_dict())
    decay = {"weight_decay": 0.0} if "weight_decay" in ROWS[name].options() else {"lr": ROWS[name].lr}
    resumed = made(second, name, param_groups={"head.bias": decay})  # which it has already: another group, no other value
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    ends = []
    for module, which in ((first, optimizer), (second, resumed)):
        torch.manual_seed(3)
        ends.append(run(module, which, name, 1))
    for key in ends[0]:
        torch.testing.assert_close(ends[0][key], ends[1][key], rtol=1e-6, atol=1e-7)


class Sparse(nn.Module):
    """An embedding whose gradient has only the rows that were looked up."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(10, 4, sparse=True)

    def forward(self) -> Tensor:
        """Three look-ups of two rows."""
        return (self.table(torch.tensor([1, 2, 2])) - 3.0).square().sum()


class Complex(nn.Module):
    """A complex matrix."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 4, dtype=torch.cfloat))

    def forward(self) -> Tensor:
        """Its distance from 3 + 3i."""
        return (self.weight - (3 + 3j)).abs().square().sum()


@pytest.mark.parametrize("kind", [Sparse, Complex])
@pytest.mark.parametrize("name", NAMES)
def test_sparse_and_complex_parameters_train_or_are_refused_when_configured(name: str, kind: type[nn.Module]) -> None:
    module = kind()
    takes = takes_sparse if kind is Sparse else takes_complex
    clip = {} if name in ONE_GROUP else {"clip": None}
    if not takes(ROWS[name]):
        with pytest.raises(la.ConfigError, match=f"{name}: .*(sparse=True|complex parameters)"):
            made(module, name, **clip)
        return
    before, start = float(module()), {key: p.detach().clone() for key, p in module.named_parameters()}
    end = run(module, made(module, name, **clip), name)
    assert float(module()) < before
    assert kind is Complex or torch.equal(start["table.weight"][3:], end["table.weight"][3:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"clip: table has sparse=True.*clip=None"),
        ({"clip": None, "weight_decay": 0.1}, r"weight_decay: table has sparse"),
    ],
)
def test_sparse_gradients_are_neither_clipped_nor_decayed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(la.ConfigError, match=message):
        made(Sparse(), "sgd", **options)


def test_sparse_adam_beside_dense_weights_is_refused_and_what_is_told_instead_trains() -> None:
    """By each of the two messages that can come: Adagrad takes both."""
    module = nn.ModuleDict({"table": nn.Embedding(10, 4, sparse=True), "head": nn.Linear(4, 1)})
    for optimizer in (torch.optim.SparseAdam, "adamw"):
        with pytest.raises(la.ConfigError, match=r"torch\.optim\.Adagrad"):
            made(module, optimizer, clip=None)
    optimizer = made(module, torch.optim.Adagrad, lr=0.1, clip=None)
    module["head"](module["table"](torch.tensor([1, 2]))).sum().backward()
    optimizer.step()


def test_momentum_of_sparse_gradients_is_read_as_it_is() -> None:
    """SGD keeps it sparse; rows that were never looked up have none."""
    module = Sparse()
    optimizer = made(module, "sgd", clip=None, weight_decay=0.0)
    run(module, optimizer, "sgd", 2)
    table = module.table.weight
    moments = read_moments(optimizer, optimizer.param_groups[0], table)
    assert moments is not None
    assert moments.first is not None
    kept = optimizer.state[table]["momentum_buffer"].to_dense()
    torch.testing.assert_close(moments.first, kept * (1 - optimizer.param_groups[0]["momentum"]))


def test_complex_matrices_within_are_adamws_under_muon() -> None:
    """torch's Muon takes real ones only; the middle layer's weight would be its, and is stepped as the others are."""
    module = nn.Sequential(*(nn.Linear(4, 4, dtype=torch.cfloat) for _ in range(3)))
    optimizer = made(module, "muon")
    before = [p.detach().clone() for p in module.parameters()]
    module(torch.ones(2, 4, dtype=torch.cfloat)).abs().sum().backward()
    optimizer.step()

    assert not any(group["muon"] for group in optimizer.param_groups)
    assert all(not torch.equal(p, was) for p, was in zip(module.parameters(), before, strict=True))


def test_torchs_sparse_adam_is_left_to_judge_itself() -> None:
    module = Sparse()
    before = float(module())
    run(module, made(module, torch.optim.SparseAdam, lr=0.1, clip=None), "SparseAdam")
    assert float(module()) < before

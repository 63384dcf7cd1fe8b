"""Every optimizer goes down from its first step on, and obeys or refuses what a group asks for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lightning_adam as la
from lightning_adam.optimizers.sophia import estimate_hessian
from tests.digits import Digits, digits_loader, trainer

NAMES = [row.name for row in la.available_optimizers()]
STANDS_STILL = {"adopt": "first step only", "soap": "first step only", "schedulefree_radam": "first four steps only"}
"""Their first gradients only fill v, or make the basis; so says the row's note."""
LOOKS_AHEAD = {"ranger": 6, "ranger21": 5}
"""Each such step ends half-way back to the slow weights."""


class Bowl(nn.Module):
    """A quadratic without noise, far from its minimum."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.curvature = torch.logspace(-1, 1, 6)

    def forward(self) -> Tensor:
        """The loss."""
        return sum((0.5 * self.curvature[: len(p)] * (p - 3.0).square().T).sum() for p in self.parameters())  # type: ignore[return-value]


def cosines(name: str, steps: int) -> list[float]:
    """Of each step with the gradient before it, with the row's own rate and no decay, which is not the loss's."""
    module = Bowl()
    options: dict[str, Any] = {} if name in ("sm3", "lbfgs") else {"weight_decay": 0.0}
    made = la.configure_optimizers(module, name, schedule="constant", warmup=0, total_steps=100, **options)["optimizer"]

    def closure() -> Tensor:
        made.zero_grad()
        loss = module()
        if name == "sophia":
            made.adam_arguments = {"hessian": estimate_hessian(made, loss)}
        loss.backward()
        return loss

    found = []
    for _ in range(steps):
        closure()
        gradient = flat([p.grad for p in module.parameters() if p.grad is not None]).clone()
        before = flat(list(module.parameters()))
        made.step(closure)
        found.append(float(torch.cosine_similarity(flat(list(module.parameters())) - before, gradient, dim=0)))
    return found


def flat(tensors: list[Tensor]) -> Tensor:
    """All elements."""
    return torch.cat([t.detach().flatten() for t in tensors])


@pytest.mark.parametrize("name", NAMES)
def test_each_of_the_first_steps_goes_down(name: str) -> None:
    """Against the gradient, in all of the first twelve steps that are not a lookahead's; those that stand still say so."""
    found = cosines(name, 4 if name == "lbfgs" else 12)
    if name in STANDS_STILL:
        still = 4 if "four" in STANDS_STILL[name] else 1
        assert found[:still] == [0.0] * still
        assert STANDS_STILL[name] in la.optimizers.get_optimizer(name).note
        found = found[still:]
    if name in LOOKS_AHEAD:
        assert "half-way back" in la.optimizers.get_optimizer(name).note
        found = [cosine for step, cosine in enumerate(found, 1) if step % LOOKS_AHEAD[name]]

    assert max(found) < 0, [f"{cosine:.2f}" for cosine in found]


@pytest.mark.parametrize("name", NAMES)
def test_a_groups_rate_is_obeyed_or_refused(name: str) -> None:
    """A group at rate 0 stays where it is while the other moves, in whatever order they stand."""
    for still, moving in (("hidden", "head"), ("head", "hidden")):
        module = Bowl()
        start = {key: p.detach().clone() for key, p in module.named_parameters()}
        options: dict[str, Any] = {"param_groups": {f"{still}.*": {"lr": 0.0}}, "schedule": "constant", "warmup": 0}
        if name in ("lbfgs", "prodigy"):
            with pytest.raises(la.ConfigError, match=f"param_groups.*{name}"):
                la.configure_optimizers(module, name, total_steps=9, **options)
            continue
        optimizer = la.configure_optimizers(module, name, total_steps=9, **options)["optimizer"]
        for _ in range(6):
            optimizer.zero_grad()
            loss = module()
            if name == "sophia":
                optimizer.adam_arguments = {"hessian": estimate_hessian(optimizer, loss)}
            loss.backward()
            optimizer.step()

        moved = {key for key, p in module.named_parameters() if not torch.equal(p, start[key])}
        assert moved == {key for key in start if key.startswith(moving)}


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_asked_for(name: str) -> None:
    """``parameters=`` is the whole of what an optimizer holds."""
    optimizer = la.configure_optimizers(Bowl(), name, parameters="hidden.*", total_steps=9)["optimizer"]

    assert sorted(p.numel() for group in optimizer.param_groups for p in group["params"]) == [6, 36]


@pytest.mark.parametrize(
    "options",
    [{"layer_decay": 0.5}, {"param_groups": {"head.*": {"betas": (0.5, 0.9)}}}, {"param_groups": {"head.*": {"lr": 0.1}}}],
)
def test_prodigy_refuses_what_it_would_not_do(options: dict[str, Any]) -> None:
    """Its distance is one for all groups, and so are its rate and betas; decay may differ."""
    with pytest.raises(la.ConfigError, match=r"prodigy has one (lr|betas) for all groups"):
        la.configure_optimizers(
            nn.ModuleDict({"blocks": nn.Sequential(nn.Linear(2, 2)), "head": nn.Linear(2, 2)}),
            "prodigy",
            total_steps=9,
            **options,
        )
    la.configure_optimizers(Bowl(), "prodigy", total_steps=9, param_groups={"head.*": {"weight_decay": 0.3}})


def test_lbfgs_steps_back_from_where_the_loss_is_no_number() -> None:
    """-log(1-x) - 6x has none beyond 1, where the first steps from -3 lead, and is lowest at 5/6."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, -3.0)
    made: Any = la.configure_optimizers(module, "lbfgs", schedule="constant", warmup=0, total_steps=20)["optimizer"]

    def closure() -> Tensor:
        made.zero_grad()
        x = module.weight
        loss = (-(1 - x).log() - 6 * x).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(15):
        made.step(closure)
    assert float(module.weight) == pytest.approx(5 / 6, abs=1e-3)


def test_prodigy_refuses_another_rate_in_mid_run_too() -> None:
    """A group that is added later has the first one's rate, or says nothing of it."""
    module, head = nn.Linear(2, 2), nn.Linear(2, 2)
    for made in (
        la.configure_optimizers(module, "prodigy", total_steps=9)["optimizer"],
        la.optimizer_class("prodigy")(module.parameters()),
    ):
        with pytest.raises(la.ConfigError, match=r"one lr for all groups, .*asks for 0.1"):
            made.add_param_group({"params": [head.weight], "lr": 0.1})
        made.add_param_group({"params": [head.bias], "weight_decay": 0.3})
        assert [len(group["params"]) for group in made.param_groups][-1] == 1


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"accumulate_grad_batches": 2}, "lbfgs under accumulate_grad_batches"),
    ({"clip": 1.0}, {}, "clip=1.0 with lbfgs"),
    ({"clip": "default"}, {"gradient_clip_val": 1.0}, r"Trainer\(gradient_clip_val=...\) with lbfgs"),
]


@pytest.mark.parametrize(("options", "trained", "message"), REFUSED)
def test_lbfgs_refuses_what_its_line_search_cannot_bear(
    options: dict[str, Any], trained: dict[str, Any], message: str
) -> None:
    """Gradients that pile up, or that are not the loss's own."""
    with pytest.raises(la.ConfigError, match=message):
        trainer(max_steps=2, **trained).fit(Digits(**{"optimizer": "lbfgs", **options}), digits_loader())


def test_lbfgs_is_not_clipped_by_default() -> None:
    """A linear regression on inputs of size 10, whose first gradients have a norm of hundreds, is solved in 15 steps."""
    torch.manual_seed(0)
    x = torch.randn(200, 10) * torch.linspace(3, 30, 10)
    y, layer = x @ torch.randn(10, 1) + 10, nn.Linear(10, 1)
    optimizer = la.configure_optimizers(layer, "lbfgs", total_steps=15)["optimizer"]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (layer(x) - y).square().mean()
        loss.backward()
        return loss

    losses = [float(optimizer.step(closure)) for _ in range(15)]
    assert losses[0] > 1e3
    assert float(closure()) < 1e-3


def test_lbfgs_keeps_the_bytes_that_its_row_says() -> None:
    """Ten pairs, the direction and the last gradient, after more steps than its history is long."""
    layer = nn.Linear(64, 64)
    optimizer = la.configure_optimizers(layer, "lbfgs", total_steps=30)["optimizer"]
    x = torch.randn(256, 64)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (layer(x).sin() - x.cos()).square().mean()
        loss.backward()
        return loss

    for _ in range(6):
        optimizer.step(closure)
    (state,) = optimizer.state.values()
    kept = [t for value in state.values() for t in (value if isinstance(value, list) else [value])]
    size = sum(t.numel() * t.element_size() for t in kept if isinstance(t, Tensor) and t.dim())
    count = sum(p.numel() for p in layer.parameters())

    assert size / count == pytest.approx(la.optimizers.get_optimizer("lbfgs").state_bytes, rel=0.01)

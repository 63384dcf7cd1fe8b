"""The sixteenth round's healthy models of tables, of ranks and mixtures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import generator, loader, rows
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.sojourners_parts import (
    ByHand,
    System,
    clients,
    dense,
    queries,
)


class Claims(System):
    """Tables of regions and products beside numbers."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        self.region, self.product = nn.Embedding(8, 6), nn.Embedding(5, 4)
        self.body = nn.Sequential(nn.Linear(15, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 32))
        self.head = nn.Linear(32, outputs)

    def forward(self, batch: Any) -> Tensor:
        """One number, or several."""
        x = torch.cat([self.region(batch["region"]), self.product(batch["product"]), batch["x"]], -1)
        return self.head(F.relu(self.body(x)))

    def compute(self, batch: Any) -> Tensor:
        """Was there a claim."""
        return F.binary_cross_entropy_with_logits(self(batch).squeeze(-1), batch["claim"])


@healthy
def claims_from_categories_and_numbers() -> Built:
    """Not all columns are used."""
    return Claims(), rows(**clients())


@healthy
def sizes_and_claims_with_learnt_weights() -> Built:
    """Two tasks weighted by their uncertainties (Kendall et al. 2018, eq. 7), the size by Huber."""

    class Both(Claims):
        def __init__(self) -> None:
            super().__init__(2)
            self.log_var = nn.Parameter(torch.zeros(2))

        def compute(self, batch: Any) -> Tensor:
            size, logit = self(batch).unbind(-1)
            each = torch.stack(
                [
                    F.huber_loss(size, batch["amount"]),
                    F.binary_cross_entropy_with_logits(logit, batch["claim"]),
                ]
            )
            return (each * (-self.log_var).exp() + self.log_var).sum()

    return Both(), rows(**clients())


@healthy
def who_is_at_risk_longer() -> Built:
    """Cox's partial likelihood over the batch."""

    class Cox(Claims):
        def compute(self, batch: Any) -> Tensor:
            order = batch["time"].argsort(descending=True)
            risk, event = self(batch).squeeze(-1)[order], batch["event"][order]
            return -((risk - risk.logcumsumexp(0)) * event).sum() / event.sum().clamp_min(1)

    return Cox(), rows(64, **clients())


class Hazard(Claims):
    """Six intervals; survived those before, the event in its own."""

    def __init__(self) -> None:
        super().__init__(6)

    def compute(self, batch: Any) -> Tensor:
        """Minus the log likelihood."""
        logits, slot = self(batch), (batch["time"] * 2 - 1e-4).clamp_min(0).long()
        own = F.one_hot(slot, 6) * batch["event"][:, None]
        seen = torch.arange(6) <= slot[:, None]
        each = F.binary_cross_entropy_with_logits(logits, own, reduction="none")
        return (each * seen).sum(-1).mean()


@healthy
def hazards_of_six_intervals() -> Built:
    """Discrete survival."""
    return Hazard(), rows(**clients())


@healthy
def mixture_of_three_normals() -> Built:
    """A mixture density net (Bishop 1994)."""

    class Mixture(System):
        def __init__(self) -> None:
            super().__init__()
            self.net = dense(1, 48, 48, 9, act=nn.Tanh)

        def compute(self, batch: Any) -> Tensor:
            weight, mu, log_std = self.net(batch[0]).chunk(3, -1)
            each = torch.distributions.Normal(mu, log_std.clamp(-5, 3).exp()).log_prob(batch[1])
            return -(weight.log_softmax(-1) + each).logsumexp(-1).mean()

    g = generator(177)
    x = torch.randn(960, 1, generator=g)
    side = torch.randint(0, 2, (960, 1), generator=g) * 2 - 1
    return Mixture(), loader(x, side * (1 + 0.5 * x) / 1.1 + 0.1 * torch.randn(960, 1, generator=g))


class Ranked(System):
    """A score for each thing of a query; ListNet's top one (Cao et al. 2007)."""

    def __init__(self) -> None:
        super().__init__()
        self.score = dense(6, 48, 24, 1)

    def compute(self, batch: Any) -> Tensor:
        """Cross entropy of two distributions."""
        x, worth = batch
        return -(worth.float().softmax(-1) * self.score(x).squeeze(-1).log_softmax(-1)).sum(-1).mean()


@healthy
def lists_ranked_by_their_first() -> Built:
    """Eight things each."""
    return Ranked(), loader(*queries())


@healthy
def experts_with_a_balance() -> Built:
    """The best two of four experts, and their load is kept even (Shazeer et al. 2017)."""

    class Experts(System):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.experts = nn.Linear(5, 4), nn.ModuleList(dense(5, 32, 16) for _ in range(4))
            self.head = nn.Linear(16, 1)

        def compute(self, batch: Any) -> Tensor:
            share = self.gate(batch["x"]).softmax(-1)
            value, best = share.topk(2)
            sparse = torch.zeros_like(share).scatter(-1, best, value / value.sum(-1, keepdim=True))
            out = torch.stack([expert(batch["x"]) for expert in self.experts], 1)
            load = (sparse > 0).float().mean(0)
            balance = 4 * (load * share.mean(0)).sum()
            guess = self.head(F.gelu((sparse[..., None] * out).sum(1)))
            return F.mse_loss(guess.squeeze(-1), batch["amount"]) + 0.01 * balance

    return Experts(), rows(**clients())


@healthy
def weights_written_by_another_net() -> Built:
    """A hypernet makes the layer of each product; called functionally."""

    class Hyper(System):
        def __init__(self) -> None:
            super().__init__()
            self.code, self.write = nn.Embedding(5, 8), nn.Linear(8, 5 * 16 + 16)
            self.head = nn.Linear(16, 1)

        def compute(self, batch: Any) -> Tensor:
            made = self.write(self.code(batch["product"]))
            weight, bias = made[:, :80].view(-1, 16, 5), made[:, 80:]
            h = torch.tanh(torch.einsum("noi,ni->no", weight, batch["x"]) + bias)
            return F.l1_loss(self.head(h).flatten(), batch["amount"])

    return Hyper(), rows(**clients())


@healthy
def two_steps_to_a_flat_place() -> Built:
    """Sharpness-aware (Foret et al. 2021), by hand: up, then down from where one was."""

    class Flat(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.net = dense(5, 48, 48, 1)

        def compute(self, batch: Any) -> Tensor:
            return F.mse_loss(self.net(batch["x"]).squeeze(-1), batch["amount"])

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer, weights = self.optimizers(), list(self.net.parameters())
            self.manual_backward(self.compute(batch))
            norm = torch.stack([p.grad.norm() for p in weights]).norm() + 1e-12
            moves = [0.05 * p.grad / norm for p in weights]
            torch._foreach_add_([p.data for p in weights], moves)
            optimizer.zero_grad()
            loss = self.compute(batch)
            self.manual_backward(loss)
            torch._foreach_sub_([p.data for p in weights], moves)
            optimizer.step()
            optimizer.zero_grad()
            self.log("loss", loss)

    return Flat(), rows(**clients())

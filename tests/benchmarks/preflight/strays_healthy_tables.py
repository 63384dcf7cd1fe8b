"""The fifteenth round's healthy models of tables, graphs, pairs, ranks and times."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import clusters, loader, rows
from tests.benchmarks.preflight.nomads_parts import Data, liked, sales
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.strays_parts import Task, flats, loads, mlp, visitors


@healthy
def line_from_zero() -> Built:
    """One linear layer whose weights start at zero, plain SGD: that is convex."""

    class Line(Task):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 1)
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

        def loss(self, batch: Any) -> Tensor:
            return F.mse_loss(self.linear(batch[0]), batch[1].unsqueeze(1))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.03)

    return Line(), loader(*flats())


@healthy
def machine_with_a_margin() -> Built:
    """A linear SVM: labels of minus one and one, the hinge, and a penalty on the weights."""
    x, y = clusters(classes=2)

    class Svm(Task):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Linear(12, 1)

        def loss(self, batch: Any) -> Tensor:
            margin = batch[1] * self.w(batch[0]).squeeze(-1)
            return F.relu(1 - margin).mean() + 1e-3 * self.w.weight.square().sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    return Svm(), loader(x, 2.0 * y - 1)


@healthy
def categories_with_tables_and_numbers() -> Built:
    """Embeddings beside columns behind a batch norm; a third bought, ``pos_weight`` says so."""

    class Tabular(Task):
        lr = 3e-3

        def __init__(self) -> None:
            super().__init__()
            self.embeddings = nn.ModuleDict({"country": nn.Embedding(9, 5), "device": nn.Embedding(3, 2)})
            self.norm = nn.BatchNorm1d(4)
            self.net = nn.Sequential(nn.Linear(11, 48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 1))
            self.criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0]))

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            known = [table(batch[name]) for name, table in self.embeddings.items()]
            return self.net(torch.cat([*known, self.norm(batch["x"])], 1)).flatten()

        def loss(self, batch: Any) -> Tensor:
            return self.criterion(self(batch), batch["bought"])

    return Tabular(), rows(size=64, **visitors())


@healthy
def every_column_is_a_token() -> Built:
    """FT-Transformer: each column has its own weight and bias, a class token is read."""

    class Ft(Task):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = (nn.Parameter(torch.randn(8, 24) / math.sqrt(24)) for _ in range(2))
            self.cls = nn.Parameter(torch.randn(1, 1, 24) / math.sqrt(24))
            layer = nn.TransformerEncoderLayer(24, 4, 48, 0.0, "gelu", batch_first=True, norm_first=True)
            self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Sequential(nn.LayerNorm(24), nn.ReLU(), nn.Linear(24, 1))

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            tokens = torch.cat([self.cls.expand(len(x), -1, -1), x[..., None] * self.weight + self.bias], 1)
            return F.mse_loss(self.head(self.blocks(tokens)[:, 0]).squeeze(1), y)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=1e-5)

    return Ft(), loader(*flats())


@healthy
def mean_and_spread_of_a_rent() -> Built:
    """``GaussianNLLLoss``: two heads, the variance by a softplus; the loss may become negative."""

    class Spread(Task):
        lr = 3e-3

        def __init__(self) -> None:
            super().__init__()
            self.body, self.mean, self.raw = mlp(8, 48, 48, last=nn.ReLU), nn.Linear(48, 1), nn.Linear(48, 1)

        def loss(self, batch: Any) -> Tensor:
            h = self.body(batch[0])
            return F.gaussian_nll_loss(self.mean(h), batch[1][:, None], F.softplus(self.raw(h)) + 1e-4)

    return Spread(), loader(*flats())


@healthy
def weights_of_tasks_are_learnt() -> Built:
    """Kendall's weighting: two losses, each divided by its own variance, whose logarithm starts at zero."""

    class Two(Task):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.rent, self.dear = mlp(8, 48, 48, last=nn.ReLU), nn.Linear(48, 1), nn.Linear(48, 2)
            self.log_vars = nn.Parameter(torch.zeros(2))

        def loss(self, batch: Any) -> Tensor:
            x, y = batch
            h = self.body(x)
            losses = torch.stack([F.mse_loss(self.rent(h)[:, 0], y), F.cross_entropy(self.dear(h), (y > 0).long())])
            return (torch.exp(-self.log_vars) * losses + self.log_vars).sum()

    return Two(), loader(*flats())


@healthy
def mixture_of_experts_with_a_balance() -> Built:
    """A gate picks two of four experts for each row; a second loss keeps them busy."""

    class Moe(Task):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.experts = nn.Linear(8, 4), nn.ModuleList(mlp(8, 32, 1) for _ in range(4))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            p = self.gate(x).softmax(-1)
            top, which = p.topk(2, dim=-1)
            every = torch.cat([expert(x) for expert in self.experts], 1)
            output = (every.gather(1, which) * top / top.sum(-1, keepdim=True)).sum(1)
            busy = F.one_hot(which, 4).float().sum(1).mean(0)
            return output, 4 * (busy * p.mean(0)).sum()

        def loss(self, batch: Any) -> Tensor:
            output, balance = self(batch[0])
            return F.mse_loss(output, batch[1]) + 0.01 * balance

    return Moe(), loader(*flats())


@healthy
def counts_with_tables() -> Built:
    """``PoissonNLLLoss`` of log-rates, with shops and weekdays as tables."""

    class Counts(Task):
        lr = 5e-3

        def __init__(self) -> None:
            super().__init__()
            self.shop, self.day, self.net = nn.Embedding(12, 4), nn.Embedding(7, 2), mlp(9, 32, 1)

        def loss(self, batch: Any) -> Tensor:
            x = torch.cat([self.shop(batch["shop"]), self.day(batch["day"]), batch["x"]], 1)
            return nn.PoissonNLLLoss(log_input=True)(self.net(x).squeeze(1), batch["sold"])

    return Counts(), rows(**sales())


@healthy
def stars_by_factors_and_biases() -> Built:
    """Matrix factorisation: small normal tables, biases at zero, the mean of all stars as a buffer."""
    who, what, stars = liked()

    class Factors(Task):
        mean: Tensor
        lr = 1e-2

        def __init__(self) -> None:
            super().__init__()
            self.user, self.item = nn.Embedding(60, 8), nn.Embedding(40, 8)
            self.user_bias, self.item_bias = nn.Embedding(60, 1), nn.Embedding(40, 1)
            self.register_buffer("mean", stars.mean())
            for table in (self.user, self.item):
                nn.init.normal_(table.weight, std=0.1)
            for table in (self.user_bias, self.item_bias):
                nn.init.zeros_(table.weight)

        def forward(self, who: Tensor, what: Tensor) -> Tensor:
            dot = (self.user(who) * self.item(what)).sum(1)
            return dot + self.user_bias(who).squeeze() + self.item_bias(what).squeeze() + self.mean

        def loss(self, batch: Any) -> Tensor:
            return F.mse_loss(self(batch[0], batch[1]), batch[2])

    return Factors(), loader(who, what, stars, size=128)


@healthy
def liked_more_than_another() -> Built:
    """BPR: what was liked before what was drawn, two towers of tables."""
    who, what, stars = liked()
    good = stars >= 4

    class Bpr(Task):
        lr = 5e-3

        def __init__(self) -> None:
            super().__init__()
            self.user, self.item = nn.Embedding(60, 16), nn.Embedding(40, 16)

        def loss(self, batch: Any) -> Tensor:
            user, up = self.user(batch[0]), self.item(batch[1])
            down = self.item(torch.randint(0, 40, batch[1].shape))
            return -F.logsigmoid((user * (up - down)).sum(1)).mean()

    return Bpr(), loader(who[good], what[good], size=64)


@healthy
def error_of_a_window_as_a_warning() -> Built:
    """An autoencoder of loads for anomalies: input is target, the middle is small, stepped down on a plateau."""
    x = torch.cat(loads(), 1)

    class Anomalies(Task):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = mlp(48, 24, 6, act=nn.Tanh), mlp(6, 24, 48, act=nn.Tanh)

        def loss(self, batch: Any) -> Tensor:
            (x,) = batch
            return F.mse_loss(self.decoder(self.encoder(x)), x)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.loss(batch))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=2e-3)
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=3)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}

    return Anomalies(), Data(loader(x[:700]), loader(x[700:], shuffle=False))

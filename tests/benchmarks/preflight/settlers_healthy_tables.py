"""The twelfth round's healthy cases, continued: tables, series, graphs, recommendations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributions, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.benchmarks.preflight.data import clusters, generator, loader, rows
from tests.benchmarks.preflight.outsiders_parts import Lit, series
from tests.benchmarks.preflight.parts import Built, perceptron
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.settlers_parts import Loss, adults, molecules, ratings, transformer
from tests.benchmarks.preflight.travellers_parts import loads
from tests.benchmarks.preflight.wayfarers_parts import Supervised


@healthy
def columns_as_tokens() -> Built:
    """FT-Transformer: a token for each column, a class token, pre-norm."""

    class Ft(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = nn.ModuleList(nn.Embedding(n, 32) for n in (5, 8, 12))
            self.weight, self.bias = nn.Parameter(torch.empty(4, 32)), nn.Parameter(torch.empty(4, 32))
            self.cls = nn.Parameter(torch.empty(1, 32))
            for parameter in (self.weight, self.bias, self.cls):
                nn.init.uniform_(parameter, -(32**-0.5), 32**-0.5)
            self.body, self.norm, self.head = transformer(norm_first=True, dropout=0.1), nn.LayerNorm(32), nn.Linear(32, 2)

        def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
            kinds = torch.stack([table(column) for table, column in zip(self.tables, categories.T, strict=True)], 1)
            tokens = torch.cat(
                [self.cls.expand(len(numbers), 1, -1), numbers[..., None] * self.weight + self.bias, kinds], 1
            )
            return self.head(self.norm(self.body(tokens)[:, 0]))

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(net(batch["categories"], batch["numbers"]), batch["rich"])

    return Loss(Ft(), loss), rows(**adults())


@healthy
def wide_beside_deep() -> Built:
    """One linear term per category beside a perceptron of tables; BCE on one logit."""

    class WideDeep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.ModuleList(nn.Embedding(n, 1) for n in (5, 8, 12))
            self.tables = nn.ModuleList(nn.Embedding(n, 8) for n in (5, 8, 12))
            self.deep = nn.Sequential(nn.BatchNorm1d(28), nn.Linear(28, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))
            for table in self.wide:
                nn.init.zeros_(table.weight)

        def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
            columns = categories.unbind(1)
            kinds = [table(column) for table, column in zip(self.tables, columns, strict=True)]
            linear = sum(table(column) for table, column in zip(self.wide, columns, strict=True))
            return (self.deep(torch.cat([*kinds, numbers], 1)) + linear).squeeze(1)

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.binary_cross_entropy_with_logits(net(batch["categories"], batch["numbers"]), batch["rich"].float())

    return Loss(WideDeep(), loss), rows(**adults())


@healthy
def regression_on_the_whole_table_at_once() -> Built:
    """Logistic regression, a single batch that is the data, SGD at 0.5."""

    class Whole(Supervised):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.5)

    x, y = clusters(300, 5, 2)
    data = DataLoader(TensorDataset(x, y.float()[:, None]), batch_size=300)
    return Whole(nn.Linear(5, 1), nn.BCEWithLogitsLoss()), data


@healthy
def factors_and_offsets_of_each_user() -> Built:
    """Matrix factorisation with offsets: tables of deviation 0.1, offsets at zero, decay."""

    class Factors(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.films = nn.Embedding(40, 8), nn.Embedding(30, 8)
            self.user, self.film, self.mean = nn.Embedding(40, 1), nn.Embedding(30, 1), nn.Parameter(torch.zeros(1))
            for table in (self.users, self.films):
                nn.init.normal_(table.weight, std=0.1)
            for table in (self.user, self.film):
                nn.init.zeros_(table.weight)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            user, film, liked = batch
            told = (self.users(user) * self.films(film)).sum(1) + self.user(user)[:, 0] + self.film(film)[:, 0] + self.mean
            return F.mse_loss(told, liked)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=5e-3, weight_decay=1e-2)

    return Factors(), loader(*ratings(), size=64)


@healthy
def ranked_above_a_drawn_film() -> Built:
    """BPR: a liked film before one that is drawn in the step."""

    class Bpr(Lit):
        lr = 5e-3

        def __init__(self) -> None:
            super().__init__()
            self.users, self.films = nn.Embedding(40, 8), nn.Embedding(30, 8)
            for table in (self.users, self.films):
                nn.init.normal_(table.weight, std=0.1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            user, film = batch
            other = torch.randint(0, 30, film.shape)
            apart = (self.users(user) * (self.films(film) - self.films(other))).sum(1)
            return -F.logsigmoid(apart).mean()

    user, film, liked = ratings()
    return Bpr(), loader(user[liked > 0], film[liked > 0], size=64)


@healthy
def blocks_that_take_off_what_they_know() -> Built:
    """N-BEATS: each block's backcast is subtracted from the past, its forecast added."""

    class Nbeats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(perceptron(32, 40, 64) for _ in range(3))

        def forward(self, past: Tensor) -> Tensor:
            told = torch.zeros(len(past), 8)
            for block in self.blocks:
                back, forward = block(past).split([32, 8], 1)
                past, told = past - back, told + forward
            return told

    return Supervised(Nbeats(), nn.L1Loss()), loader(*loads())


@healthy
def heavy_tails_step_by_step() -> Built:
    """DeepAR: the parameters of Student's t at each time, given the value before."""

    class DeepAr(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(1, 24, 2, batch_first=True, dropout=0.1), nn.Linear(24, 3)

        def forward(self, past: Tensor) -> distributions.Distribution:
            place, scale, df = self.head(self.cell(past[..., None])[0]).unbind(-1)
            return distributions.StudentT(2 + F.softplus(df), place, F.softplus(scale) + 1e-4)

    def loss(net: nn.Module, batch: Any) -> Tensor:
        x = batch[0] / batch[0].abs().mean(1, keepdim=True)
        return -net(x[:, :-1]).log_prob(x[:, 1:]).mean()

    return Loss(DeepAr(), loss), loader(series())


@healthy
def closing_prices_between_zero_and_one() -> Built:
    """The tutorial's windows: MinMaxScaler, thirty days in, the next one out, a column against a column."""

    class Lstm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.fc = nn.LSTM(1, 32, 2, batch_first=True), nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Tensor:
            begin = torch.zeros(2, len(x), 32, device=x.device)
            out, _ = self.cell(x, (begin, begin.clone()))
            return self.fc(out[:, -1, :])

    price = 100 + torch.randn(700, generator=generator()).cumsum(0) + 8 * torch.sin(torch.arange(700) / 20)
    scaled = (price - price.min()) / (price.max() - price.min())
    windows = scaled.unfold(0, 31, 1)
    return Supervised(Lstm(), nn.MSELoss()), loader(windows[:, :30, None], windows[:, 30:])


@healthy
def attention_between_bonded_atoms() -> Built:
    """GAT on dense graphs: scores are masked where there is no bond; ELU; the mean of atoms decides."""

    class Gat(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.source, self.aim = nn.Linear(6, 32, bias=False), nn.Linear(32, 1), nn.Linear(32, 1)
            self.head = nn.Linear(32, 3)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            h = self.into(batch["atoms"])
            scores = F.leaky_relu(self.source(h) + self.aim(h).mT, 0.2)
            near = batch["bonds"] + torch.eye(scores.shape[1])
            weight = F.dropout(scores.masked_fill(near == 0, -1e9).softmax(-1), 0.1, self.training)
            return F.cross_entropy(self.head(F.elu(weight @ h).mean(1)), batch["y"])

    return Gat(), rows(**molecules())


@healthy
def isomorphism_net_with_sums() -> Built:
    """GIN: neighbours are added, BatchNorm over all atoms, and atoms are added up; epsilon is learnt from 0."""

    class Gin(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.eps, self.norm = nn.Parameter(torch.zeros(2)), nn.BatchNorm1d(32)
            self.first, self.second = perceptron(6, 32, 32), perceptron(32, 32, 32)
            self.head = nn.Linear(32, 3)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            x, bonds = batch["atoms"], batch["bonds"]
            h = self.first((1 + self.eps[0]) * x + bonds @ x)
            h = F.relu(self.norm(h.flatten(0, 1)).view_as(h))
            h = F.relu(self.second((1 + self.eps[1]) * h + bonds @ h))
            return F.cross_entropy(self.head(h.mean(1)), batch["y"])

    return Gin(), rows(**molecules())

"""The fifteenth round's healthy models of graphs, ranks, times, and steps by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.benchmarks.preflight.data import generator, loader, rows
from tests.benchmarks.preflight.nomads_parts import Data, Made, liked, molecules, papers
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.strays_parts import Manual, Task, flats, mlp, swings


@healthy
def ranks_within_a_list() -> Built:
    """ListNet: ten documents for each question, a softmax over the list on both sides."""
    g = generator(12)
    x = torch.randn(480, 10, 6, generator=g)
    good = x[..., 0] + x[..., 1] * x[..., 2] + 0.2 * torch.randn(480, 10, generator=g)

    class Ranker(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(6, 32, 32, 1)

        def loss(self, batch: Any) -> Tensor:
            scores = self.net(batch[0]).squeeze(-1)
            return -(F.softmax(batch[1], dim=1) * F.log_softmax(scores, dim=1)).sum(1).mean()

    return Ranker(), loader(x, good)


@healthy
def risk_among_those_who_are_left() -> Built:
    """Cox's partial likelihood: sorted by time within the batch, ``logcumsumexp``."""
    g = generator(13)
    x = torch.randn(640, 5, generator=g)
    time = torch.empty(640).exponential_(generator=g) * torch.exp(-x[:, 0] - 0.5 * x[:, 1])
    seen = (torch.rand(640, generator=g) < 0.7).float()

    class Cox(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1, bias=False))

        def loss(self, batch: Any) -> Tensor:
            x, time, seen = batch
            order = torch.argsort(time, descending=True)
            risk, seen = self.net(x).squeeze(1)[order], seen[order]
            return -((risk - torch.logcumsumexp(risk, 0)) * seen).sum() / seen.sum().clamp(min=1)

    return Cox(), loader(x, time, seen, size=64)


@healthy
def thresholds_in_order() -> Built:
    """CORAL: five stars as four questions with one weight vector and four biases."""
    who, what, stars = liked()

    class Ordinal(Task):
        lr = 5e-3

        def __init__(self) -> None:
            super().__init__()
            self.user, self.item, self.body = nn.Embedding(60, 8), nn.Embedding(40, 8), mlp(16, 32, 1)
            self.biases = nn.Parameter(torch.tensor([1.5, 0.5, -0.5, -1.5]))

        def loss(self, batch: Any) -> Tensor:
            scores = self.body(torch.cat([self.user(batch[0]), self.item(batch[1])], 1)) + self.biases
            levels = (batch[2][:, None] > torch.arange(1, 5)).float()
            return F.binary_cross_entropy_with_logits(scores, levels)

    return Ordinal(), loader(who, what, stars, size=64)


@healthy
def one_graph_is_the_whole_epoch() -> Built:
    """GCN on one graph: a batch of one, nodes in a mask, log-softmax and NLL, decay of 5e-4, Adam at 0.01."""
    graph = papers()

    class Gcn(Task):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(16, 16, bias=False), nn.Linear(16, 4)

        def forward(self, x: Tensor, a: Tensor) -> Tensor:
            h = F.dropout(F.relu(a @ self.first(x)), 0.5, training=self.training)
            return F.log_softmax(a @ self.second(h), dim=1)

        def loss(self, batch: Any) -> Tensor:
            output = self(batch["x"], batch["a"])
            return F.nll_loss(output[batch["train"]], batch["y"][batch["train"]])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.01, weight_decay=5e-4)

    return Gcn(), DataLoader(Made(lambda _: graph, 1), batch_size=None)


@healthy
def molecules_in_one_large_graph() -> Built:
    """Nodes of all molecules one behind another, edges as two rows of numbers, sums over each molecule."""
    data = molecules()

    def collate(indices: list[int]) -> dict[str, Tensor]:
        ends, kinds, owner, total = [], [], [], 0
        for place, i in enumerate(indices):
            n = int(data["there"][i].sum())
            ends.append(torch.nonzero(data["bound"][i][:n, :n]).T + total)
            kinds.append(data["kind"][i, :n])
            owner.append(torch.full((n,), place))
            total += n
        whole = {"kind": torch.cat(kinds), "edges": torch.cat(ends, 1), "batch": torch.cat(owner)}
        return {**whole, "label": data["label"][indices]}

    class Gin(Task):
        lr = 3e-3

        def __init__(self) -> None:
            super().__init__()
            self.kinds, self.layers = nn.Embedding(4, 32), nn.ModuleList(mlp(32, 32, 32) for _ in range(2))
            self.head = mlp(32, 32, 2)

        def loss(self, batch: Any) -> Tensor:
            h = self.kinds(batch["kind"])
            source, aim = batch["edges"]
            for layer in self.layers:
                h = F.relu(layer(h + torch.zeros_like(h).index_add(0, aim, h[source])))
            pooled = torch.zeros(len(batch["label"]), 32).index_add(0, batch["batch"], h)
            return F.cross_entropy(self.head(pooled), batch["label"])

    return Gin(), DataLoader(range(480), 32, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]


@healthy
def second_order_with_a_closure() -> Built:
    """L-BFGS over all rows at once; Lightning hands it the closure."""
    x, y = flats(400)

    class Newton(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(8, 16, 1, act=nn.Tanh)

        def loss(self, batch: Any) -> Tensor:
            return F.mse_loss(self.net(batch[0]).squeeze(1), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=1.0, max_iter=10, line_search_fn="strong_wolfe")

    return Newton(), DataLoader(TensorDataset(x, y), 400)


@healthy
def four_small_batches_to_a_step() -> Built:
    """Accumulated by hand: the loss is divided by four, the step and the clearing come at each fourth batch."""

    class Accumulating(Manual):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(8, 48, 48, 1)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            loss = F.mse_loss(self.net(batch[0])[:, 0], batch[1])
            self.manual_backward(loss / 4)
            if (batch_idx + 1) % 4 == 0:
                self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")  # type: ignore[arg-type]
                optimizer.step()  # type: ignore[union-attr]
                optimizer.zero_grad()  # type: ignore[union-attr]

    return Accumulating(), loader(*flats(), size=16)


@healthy
def several_nets_in_one() -> Built:
    """A deep ensemble: five nets, the sum of their losses, validated by their mean."""
    x, y = flats()

    class Ensemble(Task):
        def __init__(self) -> None:
            super().__init__()
            self.members = nn.ModuleList(mlp(8, 32, 1) for _ in range(5))

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([member(x).squeeze(-1) for member in self.members])

        def loss(self, batch: Any) -> Tensor:
            each = self(batch[0])
            return sum(F.mse_loss(output, batch[1]) for output in each)  # type: ignore[return-value]

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", F.mse_loss(self(batch[0]).mean(0), batch[1]))

    return Ensemble(), Data(loader(x[:800], y[:800]), loader(x[800:], y[800:], shuffle=False))


@healthy
def demonstrated_swings() -> Built:
    """Behaviour cloning: tanh times two, torques between minus two and two, the smooth L1."""

    class Cloning(Task):
        def __init__(self) -> None:
            super().__init__()
            self.actor = mlp(3, 64, 64, 1, last=nn.Tanh)

        def loss(self, batch: Any) -> Tensor:
            return F.smooth_l1_loss(2 * self.actor(batch["obs"]), batch["action"])

    return Cloning(), rows(**swings())

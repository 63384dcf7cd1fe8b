"""The thirteenth round's healthy cases: policies, graphs, tables of factors, and learning by comparison."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from tests.benchmarks.preflight.data import clusters, generator, loader, rows
from tests.benchmarks.preflight.drifters_parts import Steps, dense, digits, lenet, of, run_of, tumours
from tests.benchmarks.preflight.outsiders_parts import Lit, masks
from tests.benchmarks.preflight.parts import Built, Learner
from tests.benchmarks.preflight.register import healthy


@healthy
def graph_attention_by_edges() -> Built:
    """GAT by hand: softmax over each node's neighbours with ``scatter``, one graph in each batch, some nodes labelled."""
    g = generator()
    kind = torch.randint(0, 3, (120,), generator=g)
    near = torch.rand(120, 120, generator=g) < torch.where(kind[:, None] == kind, 0.12, 0.01)
    edges = (near | near.T | torch.eye(120, dtype=torch.bool)).nonzero().T
    x = F.one_hot(kind, 3) * 0.8 + torch.randn(120, 3, generator=g)

    class Gat(Lit):
        lr = 5e-3

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 32), nn.Linear(32, 3)
            self.score = nn.ModuleList([nn.Linear(64, 1), nn.Linear(6, 1)])

        def spread(self, h: Tensor, edges: Tensor, score: nn.Module) -> Tensor:
            source, target = edges
            each = F.leaky_relu(score(torch.cat([h[source], h[target]], 1)), 0.2).exp()
            total = torch.zeros(len(h), 1).index_add(0, target, each)
            return torch.zeros_like(h).index_add(0, target, each / total[target] * h[source])

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, edges, kind, known = batch
            h = F.elu(self.spread(self.first(x), edges, self.score[0]))
            return F.cross_entropy(self.spread(self.second(h), edges, self.score[1])[known], kind[known])

    graph = [(x, edges, kind, torch.rand(120, generator=g) < 0.6)] * 16
    return Gat(), torch.utils.data.DataLoader(graph, batch_size=None), run_of(20)


@healthy
def words_by_their_counts() -> Built:
    """GloVe: squared errors of logarithms of counts, weighed, with an offset for each word."""
    g = generator()
    meaning = torch.randn(40, 4, generator=g)
    count = torch.exp(meaning @ meaning.T * 0.6 + 2 + 0.1 * torch.randn(40, 40, generator=g)).round()
    pairs = (count > 0).nonzero()

    def loss(module: Any, batch: Any) -> Tensor:
        one, two, count = batch
        told = (module.one(one) * module.two(two)).sum(1) + module.b1(one)[:, 0] + module.b2(two)[:, 0]
        weight = (count / 100).clamp_max(1) ** 0.75
        return (weight * (told - count.log()) ** 2).mean()

    parts = {"one": nn.Embedding(40, 8), "two": nn.Embedding(40, 8), "b1": nn.Embedding(40, 1), "b2": nn.Embedding(40, 1)}
    for part in parts.values():
        nn.init.uniform_(part.weight, -0.5, 0.5)
    made = of(torch.optim.Adagrad, lr=0.05)
    return Steps(loss, made, **parts), loader(pairs[:, 0], pairs[:, 1], count[tuple(pairs.T)])


@healthy
def clicks_by_factors() -> Built:
    """A factorisation machine of four fields, and what is clicked, with a sigmoid in the loss."""
    g = generator()
    fields = torch.randint(0, 10, (1920, 4), generator=g)
    taste = torch.randn(4, 10, 3, generator=g)
    parts = taste[torch.arange(4), fields]
    score = (parts.sum(1).square() - parts.square().sum(1)).sum(1) / 4
    clicked = (torch.rand(1920, generator=g) < torch.sigmoid(score)).float()

    class Machine(Lit):
        lr = 1e-2

        def __init__(self) -> None:
            super().__init__()
            self.table, self.line = nn.Embedding(40, 8), nn.Embedding(40, 1)
            nn.init.normal_(self.table.weight, std=0.1)
            nn.init.zeros_(self.line.weight)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            place = batch[0] + 10 * torch.arange(4)
            each = self.table(place)
            crossed = 0.5 * (each.sum(1).square() - each.square().sum(1)).sum(1)
            return F.binary_cross_entropy_with_logits(crossed + self.line(place).sum((1, 2)), batch[1])

    return Machine(), loader(fields, clicked, size=64)


@healthy
def hardest_triples_of_the_batch() -> Built:
    """For each digit the farthest of its kind and the nearest of another, a margin, normalised features."""

    def loss(module: Any, batch: Any) -> Tensor:
        z = F.normalize(module.net(batch[0]))
        apart = torch.cdist(z, z)
        same = batch[1][:, None] == batch[1]
        far = apart.masked_fill(~same, 0).amax(1)
        near = apart.masked_fill(same, 9).amin(1)
        return F.relu(far - near + 0.3).mean()

    return Steps(loss, net=dense(64, 64, 16)), loader(*digits(), size=64)


@healthy
def list_of_documents_by_listnet() -> Built:
    """Cross entropy of two softmaxes over the documents of a query (Cao et al. 2007)."""
    g = generator()
    x = torch.randn(640, 10, 6, generator=g)
    grade = (x[..., 0] + 0.5 * x[..., 1] + 0.3 * torch.randn(640, 10, generator=g)).clamp(-2, 2)

    def loss(module: Any, batch: Any) -> Tensor:
        told = module.net(batch[0].flatten(0, 1)).view(-1, 10)
        return -(batch[1].softmax(1) * told.log_softmax(1)).sum(1).mean()

    return Steps(loss, net=dense(6, 32, 1)), loader(x, grade)


@healthy
def values_by_expectiles() -> Built:
    """IQL's three losses: expectile of Q for V, r + γV for Q, and actions weighed by their advantage."""
    g = generator()
    s, a = torch.randn(1280, 4, generator=g), torch.randint(0, 3, (1280,), generator=g)
    data = {
        "s": s,
        "a": a,
        "r": s[:, :3].gather(1, a[:, None])[:, 0],
        "s2": 0.9 * s + 0.3 * torch.randn(1280, 4, generator=g),
    }

    class Iql(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.v, self.policy = dense(4, 64, 3), dense(4, 64, 1), dense(4, 64, 3)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            q = self.q(batch["s"]).gather(1, batch["a"][:, None])[:, 0]
            v = self.v(batch["s"])[:, 0]
            with torch.no_grad():
                aim = batch["r"] + 0.9 * self.v(batch["s2"])[:, 0]
                gain = q - v
                weight = gain.exp().clamp_max(20)
            off = q.detach() - v
            value = (torch.where(off > 0, 0.7, 0.3) * off**2).mean()
            chosen = F.cross_entropy(self.policy(batch["s"]), batch["a"], reduction="none")
            return value + F.mse_loss(q, aim) + (weight * chosen).mean()

    return Iql(), rows(**data, size=64)


@healthy
def what_a_driver_did() -> Built:
    """Behaviour cloning of two continuous actions between -1 and 1: a tanh, and the mean square."""
    g = generator()
    seen = torch.randn(960, 8, generator=g)
    did = torch.tanh(seen[:, :2] - 0.5 * seen[:, 2:4] + 0.1 * torch.randn(960, 2, generator=g))
    return Learner(dense(8, 64, 64, 2, last=nn.Tanh()), F.mse_loss), loader(seen, did)


@healthy
def decisions_from_returns() -> Built:
    """A decision transformer: return to go, state, action in turn, a causal mask, cross entropy of the next action."""
    g = generator()
    state = torch.randn(480, 6, 4, generator=g)
    wanted = torch.rand(480, 6, 1, generator=g)
    action = ((state[..., 0] > 0).long() + (wanted[..., 0] > 0.5).long()) % 3

    class Decision(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.wanted, self.state, self.action = nn.Linear(1, 32), nn.Linear(4, 32), nn.Embedding(3, 32)
            self.time, self.head = nn.Embedding(6, 32), nn.Linear(32, 3)
            layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, "gelu", batch_first=True, norm_first=True)
            self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            wanted, state, action = batch
            parts = torch.stack([self.wanted(wanted), self.state(state), self.action(action)], 2)
            tokens = (parts + self.time(torch.arange(6))[:, None]).flatten(1, 2)
            h = self.body(tokens, mask=nn.Transformer.generate_square_subsequent_mask(18), is_causal=True)
            return F.cross_entropy(self.head(h[:, 1::3]).flatten(0, 1), action.flatten())

    return Decision(), loader(wanted, state, action)


@healthy
def functions_from_a_few_points() -> Built:
    """A conditional neural process: the mean of what some points say, and a likelihood at the others."""
    g = generator()
    x = 4 * torch.rand(640, 20, 1, generator=g) - 2
    y = torch.sin(1.5 * x + 6.3 * torch.rand(640, 1, 1, generator=g)) + 0.05 * torch.randn(640, 20, 1, generator=g)

    def loss(module: Any, batch: Any) -> Tensor:
        x, y = batch
        h = module.encoder(torch.cat([x, y], -1)[:, :10].flatten(0, 1)).view(-1, 10, 32).mean(1, keepdim=True)
        told = module.decoder(torch.cat([h.expand(-1, 20, -1), x], -1).flatten(0, 1)).view(-1, 20, 2)
        mean, raw = told.chunk(2, -1)
        return -torch.distributions.Normal(mean, 0.05 + F.softplus(raw)).log_prob(y).mean()

    return Steps(loss, encoder=dense(2, 64, 64, 32), decoder=dense(33, 64, 64, 2)), loader(x, y)


@healthy
def operator_by_two_nets() -> Built:
    """DeepONet: the antiderivative of a function that is known at sixteen places."""
    g = generator()
    place = torch.linspace(0, 1, 16)
    wave = torch.randn(960, 3, 1, generator=g)
    rate = torch.arange(1, 4)[:, None] * 3.14159
    known, at = (wave * torch.cos(rate * place)).sum(1), torch.rand(960, 1, generator=g)
    sought = (wave[..., 0] * torch.sin(rate[:, 0] * at) / rate[:, 0]).sum(1)

    def loss(module: Any, batch: Any) -> Tensor:
        told = (module.branch(batch[0]) * module.trunk(batch[1])).sum(1) + module.offset
        return F.mse_loss(told, batch[2])

    parts = {"branch": dense(16, 64, 32, act=nn.Tanh), "trunk": dense(1, 64, 32, act=nn.Tanh, last=nn.Tanh())}
    return Steps(loss, **parts, offset=nn.Parameter(torch.zeros(1))), loader(known, at, sought / sought.std())


@healthy
def only_biases_are_trained() -> Built:
    """BitFit: a net that has learnt four clusters learns them in another order by its biases and its head."""
    x, y = clusters()
    net = dense(12, 48, 48, 4)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for step in range(60):
        part = slice(32 * (step % 30), 32 * (step % 30) + 32)
        optimizer.zero_grad()
        F.cross_entropy(net(x[part]), y[part]).backward()
        optimizer.step()
    for name, weight in net.named_parameters():
        weight.requires_grad = name.endswith("bias") or name.startswith("5")
    net.zero_grad()
    trained = of(torch.optim.AdamW, lr=1e-2)
    return Learner(net, F.cross_entropy, lambda all_of: trained([p for p in all_of if p.requires_grad])), loader(
        x, (y + 1) % 4
    )


@healthy
def odd_ones_by_their_error() -> Built:
    """An autoencoder of healthy rows only, for detecting the others."""
    x, y = tumours()
    net = dense(30, 16, 6, 16, 30)
    return Steps(lambda m, batch: F.mse_loss(m.net(batch[0]), batch[0]), net=net), loader(x[y == 1])


@healthy
def lesions_by_tversky() -> Built:
    """Instance norm, a sigmoid, and one minus Tversky's index with 0.3 and 0.7."""

    def tversky(told: Tensor, y: Tensor) -> Tensor:
        p = told.squeeze(1).sigmoid()
        hit, false, missed = (p * y).sum((1, 2)), (p * (1 - y)).sum((1, 2)), ((1 - p) * y).sum((1, 2))
        return (1 - (hit + 1) / (hit + 0.3 * false + 0.7 * missed + 1)).mean()

    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.InstanceNorm2d(16, affine=True), nn.LeakyReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.InstanceNorm2d(16, affine=True), nn.LeakyReLU(), nn.Conv2d(16, 1, 1),
    )  # fmt: skip
    return Learner(net, tversky), loader(*masks())


@healthy
def which_digit_and_whether_odd() -> Built:
    """Two heads on one body, their losses added."""
    x, y = digits()

    def loss(module: Any, batch: dict[str, Tensor]) -> Tensor:
        h = module.body(batch["x"]).relu()
        odd = F.binary_cross_entropy_with_logits(module.odd(h)[:, 0], batch["odd"])
        return F.cross_entropy(module.kind(h), batch["kind"]) + 0.5 * odd

    return Steps(loss, body=lenet(48), kind=nn.Linear(48, 10), odd=nn.Linear(48, 1)), rows(x=x, kind=y, odd=(y % 2).float())


@healthy
def restarts_by_the_step() -> Built:
    """``CosineAnnealingWarmRestarts`` with 200 steps, twice as long each time."""
    net = Learner(
        dense(12, 64, 4), F.cross_entropy, of(torch.optim.SGD, lr=0.1, momentum=0.9),
        lambda o: {"scheduler": lr_scheduler.CosineAnnealingWarmRestarts(o, 200, 2), "interval": "step"},
    )  # fmt: skip
    return net, loader(*clusters()), run_of(48)

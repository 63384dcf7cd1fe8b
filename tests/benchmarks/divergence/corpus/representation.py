"""Self-supervision, retrieval, control, physics, adaptation: losses that stand, rise or begin at their floor."""

from __future__ import annotations

import copy

import torch
from sklearn.datasets import make_classification
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.divergence.corpus.family import Batch, Task, family, fixed, rows_of
from tests.benchmarks.divergence.corpus.supervised import classes
from tests.benchmarks.divergence.data import digits
from tests.benchmarks.divergence.models import mlp, pretrained


def views(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two noisy copies."""
    return x + 0.4 * torch.randn_like(x), x * (torch.rand_like(x) > 0.2)


@family("adam", 1e-3, continuous=True)
def contrastive_digits() -> Task:
    """SimCLR."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        a, b = (F.normalize(net(v), dim=1) for v in views(batch[0]))
        scores = a @ b.T / 0.2
        target = torch.arange(len(a))
        return 0.5 * (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target))

    return Task(mlp([64, 96, 32]), rows_of(64, digits()[0]), loss)


@family("momentum", 0.05, continuous=True)
def siamese_digits() -> Task:
    """SimSiam: a negative cosine, at -1 at its best."""

    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))
            self.predictor = mlp([32, 16, 32])

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        a, b = (net.encoder(v) for v in views(batch[0]))
        one = F.cosine_similarity(net.predictor(a), b.detach()).mean()
        return -0.5 * (one + F.cosine_similarity(net.predictor(b), a.detach()).mean())

    return Task(Siamese(), rows_of(64, digits()[0]), loss)


@family("adam", 1e-3, continuous=True)
def bootstrap_digits() -> Task:
    """BYOL: the target network follows, so that the loss may rise after it fell."""

    class Bootstrap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.online, self.predictor = mlp([64, 64, 32]), mlp([32, 32, 32])
            self.target = copy.deepcopy(self.online).requires_grad_(False)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            for slow, fast in zip(net.target.parameters(), net.online.parameters(), strict=True):
                slow.lerp_(fast, 0.05)
        a, b = views(batch[0])
        return 2 - 2 * F.cosine_similarity(net.predictor(net.online(a)), net.target(b)).mean()

    return Task(Bootstrap(), rows_of(64, digits()[0]), loss)


@family("adam", 2e-3, continuous=True)
def barlow_digits() -> Task:
    """Barlow Twins: a sum of squares that starts at the width."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        a, b = (net(v) for v in views(batch[0]))
        a, b = (a - a.mean(0)) / (a.std(0) + 1e-4), (b - b.mean(0)) / (b.std(0) + 1e-4)
        c = a.T @ b / len(a)
        return ((c.diagonal() - 1) ** 2).sum() + 0.02 * (c**2).sum()

    return Task(mlp([64, 96, 32]), rows_of(64, digits()[0]), loss)


@family("adam", 2e-3, supervised=True, continuous=True)
def triplet_retrieval() -> Task:
    """Triplets of digits: near zero loss soon, with rare hard ones."""
    x, y = digits()

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        z = F.normalize(net(batch[0]), dim=1)
        distance, same = torch.cdist(z, z), batch[1][:, None] == batch[1]
        return F.relu((distance * same).amax(1) - (distance + 9 * same).amin(1) + 0.3).mean()

    return Task(mlp([64, 64, 16]), rows_of(48, x, y), loss)


@family("adam", 1e-3)
def ranking_towers() -> Task:
    """Two towers with in-batch negatives, from embeddings."""
    g = fixed()
    group = torch.randint(0, 30, (500,), generator=g)
    user, item = torch.randint(0, 500, (2, 80000), generator=g)
    kept = group[user] == group[item]

    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.item = nn.Embedding(500, 16), nn.Embedding(500, 16)
            self.one, self.other = mlp([16, 32, 16]), mlp([16, 32, 16])

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        scores = net.one(net.user(batch[0])) @ net.other(net.item(batch[1])).T
        return F.cross_entropy(scores, torch.arange(len(scores)))

    return Task(Towers(), rows_of(64, user[kept], item[kept]), loss)


@family("adam", 3e-3, not_in=("float64", "bf16"))
def bandit_policy() -> Task:
    """REINFORCE with a baseline: the loss has no level and any sign."""
    arms = torch.randn(8, 6, generator=fixed())

    class Policy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.actor, self.critic = mlp([8, 32, 6], nn.Tanh), mlp([8, 32, 1], nn.Tanh)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        state = batch[0]
        policy = torch.distributions.Categorical(logits=net.actor(state))
        action = policy.sample()
        reward = (state @ arms).gather(1, action[:, None])[:, 0] + 0.3 * torch.randn(len(state))
        value = net.critic(state)[:, 0]
        gain = (reward - value).detach()
        return (-policy.log_prob(action) * gain).mean() + 0.5 * F.mse_loss(value, reward) - 0.01 * policy.entropy().mean()

    return Task(Policy(), rows_of(32, torch.randn(2000, 8, generator=fixed(3))), loss)


@family("adam", 2e-3)
def growing_returns() -> Task:
    """A critic whose targets grow as the policy gets better: the loss rises in a healthy run."""

    class Critic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp([8, 64, 1], nn.Tanh)
            self.register_buffer("age", torch.zeros(()))

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        net.age += 1
        scale = 1 + 9 * torch.sigmoid((net.age - 100) / 30)
        target = scale * (batch[0].sum(1).sin() + 1) + 0.3 * scale * torch.randn(len(batch[0]))
        return F.mse_loss(net.body(batch[0])[:, 0], target)

    return Task(Critic(), rows_of(32, torch.randn(2000, 8, generator=fixed(4))), loss)


@family("adam", 2e-3)
def temporal_difference() -> Task:
    """Q-learning with a target network that is copied every 50 steps: the loss jumps and falls."""

    class Q(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = mlp([4, 48, 3])
            self.target, self.count = copy.deepcopy(self.body).requires_grad_(False), 0

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        net.count += 1
        if net.count % 50 == 0:
            net.target.load_state_dict(net.body.state_dict())
        now, following, action, reward = batch
        best = net.target(following).amax(1)
        return F.smooth_l1_loss(net.body(now).gather(1, action)[:, 0], reward + 0.9 * best)

    g = fixed()
    now, action = torch.randn(3000, 4, generator=g), torch.randint(0, 3, (3000, 1), generator=g)
    following = 0.9 * now + 0.3 * torch.randn(3000, 4, generator=g)
    return Task(Q(), rows_of(64, now, following, action, -(now**2).sum(1) + action[:, 0]), loss)


@family("adam", 3e-3, not_in=("float64", "bf16"))
def physics_informed() -> Task:
    """A PINN for u'' = -π² sin(πx): residual and boundary."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        x = batch[0].clone().requires_grad_(True)
        u = net(x)
        slope = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
        bend = torch.autograd.grad(slope.sum(), x, create_graph=True)[0]
        edge = net(torch.tensor([[-1.0], [1.0]]))
        return ((bend + 9.87 * torch.sin(3.1416 * x)) ** 2).mean() + 10 * (edge**2).mean()

    return Task(mlp([1, 32, 32, 1], nn.Tanh), rows_of(64, torch.rand(2000, 1, generator=fixed()) * 2 - 1), loss)


@family("adam", 1e-2)
def neural_field() -> Task:
    """One image as a function of its coordinates, with sines (SIREN)."""

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.out = nn.Linear(2, 48), nn.Linear(48, 48), nn.Linear(48, 1)
            nn.init.uniform_(self.one.weight, -0.5, 0.5)
            nn.init.uniform_(self.two.weight, -0.012, 0.012)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.sin(30 * self.two(torch.sin(30 * self.one(x)))))  # type: ignore[no-any-return]

    grid = torch.stack(torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij"), -1).view(-1, 2)
    value = torch.sin(5 * grid[:, 0]) * torch.cos(8 * grid[:, 1])
    return Task(Field(), rows_of(256, grid, value), lambda n, b: F.mse_loss(n(b[0])[:, 0], b[1]))


@family("adamw", 2e-3, supervised=True, continuous=True, not_in=("float64", "bf16"))
def experts() -> Task:
    """Four experts, of which each example uses one: some get no gradient for a while."""

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.experts = nn.Linear(16, 4), nn.ModuleList(mlp([16, 32, 5]) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            odds = self.gate(x).softmax(-1)
            best, chosen = odds.max(-1)
            out = torch.zeros(len(x), 5)
            for k, expert in enumerate(self.experts):
                rows = (chosen == k).nonzero()[:, 0]
                out = out.index_add(0, rows, (best[rows, None] * expert(x[rows])).to(out.dtype))
            return out

    x, y = make_classification(2000, 16, n_informative=10, n_classes=5, random_state=2)
    return Task(Experts(), rows_of(32, torch.tensor(x).float(), torch.tensor(y)), classes)


@family("adamw", 1e-2, supervised=True, continuous=True)
def frozen_backbone_head() -> Task:
    """A new linear head on frozen features."""
    net = pretrained()
    net.requires_grad_(False)
    net[-1] = nn.Linear(64, 10)
    return Task(net, rows_of(32, *digits()), classes)


@family("adamw", 3e-3, supervised=True, continuous=True)
def low_rank_adaptation() -> Task:
    """LoRA on a trained network for digits with swapped labels."""
    x, y = digits()
    return Task(pretrained(low_rank=True), rows_of(32, x, (y + 3) % 10), classes)


@family("adam", 1e-4, supervised=True, continuous=True)
def fine_tuning() -> Task:
    """A trained network on more of the same: the loss begins near its floor."""
    x, y = digits()
    return Task(pretrained(), rows_of(32, x[900:], y[900:]), classes)


@family("adam", 2e-3, supervised=True, continuous=True, not_in=("float64", "bf16"))
def distillation() -> Task:
    """A small student of a trained teacher."""
    teacher, student = pretrained().eval().requires_grad_(False), mlp([64, 24, 10])

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.kl_div(net(batch[0]).log_softmax(-1), teacher(batch[0]).softmax(-1), reduction="batchmean")

    return Task(student, rows_of(32, *digits()), loss)


@family("adam", 3e-3, supervised=True, continuous=True)
def many_labels() -> Task:
    """Twelve rare labels at once: the loss falls in the first steps and hardly after."""
    g = fixed()
    x, w = torch.randn(2000, 20, generator=g), torch.randn(20, 12, generator=g)
    y = (x @ w - 6 + torch.randn(2000, 12, generator=g) > 0).float()
    net = mlp([20, 48, 12])
    return Task(net, rows_of(32, x, y), lambda n, b: F.binary_cross_entropy_with_logits(n(b[0]), b[1]))


@family("radam", 3e-3, supervised=True, continuous=True)
def noisy_labels() -> Task:
    """Four labels of ten are wrong: the loss stands high, and the model is as good as it gets."""
    x, y = digits()
    g = fixed()
    wrong = torch.where(torch.rand(len(y), generator=g) < 0.4, torch.randint(0, 10, (len(y),), generator=g), y)
    return Task(
        nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Dropout(0.3), nn.Linear(48, 10)), rows_of(32, x, wrong), classes
    )


@family("adam", 2e-3, supervised=True)
def pointer_attention() -> Task:
    """Which position holds the marked token: attention by hand, a slow start."""

    class Pointer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.places = nn.Embedding(12, 24), nn.Embedding(10, 24)
            self.query, self.key = nn.Linear(24, 24), nn.Linear(24, 24)

        def forward(self, x: Tensor) -> Tensor:
            h = self.table(x) + self.places.weight
            return (self.query(h[:, :1]) @ self.key(h).transpose(1, 2))[:, 0, 1:] / 5  # type: ignore[no-any-return]

    g = fixed()
    x = torch.rand(3000, 11, generator=g).argsort(1)[:, :9]
    place = torch.randint(0, 9, (3000,), generator=g)
    asked = x.gather(1, place[:, None])
    return Task(Pointer(), rows_of(64, torch.cat([asked, x], 1), place), classes)


@family("momentum", 0.01, supervised=True, continuous=True)
def hypernetwork() -> Task:
    """Weights that another network makes: large gradients in few parameters."""

    class Hyper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code, self.maker = nn.Parameter(torch.randn(4)), mlp([4, 32, 10 * 64 + 10])

        def forward(self, x: Tensor) -> Tensor:
            weights = self.maker(self.code)
            return x @ weights[:640].view(64, 10) * 0.3 + weights[640:]  # type: ignore[no-any-return]

    return Task(Hyper(), rows_of(32, *digits()), classes)

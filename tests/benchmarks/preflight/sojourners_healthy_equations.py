"""The sixteenth round's healthy models of graphs, agents and equations."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import generator, loader, rows
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.sojourners_parts import (
    System,
    as_one_graph,
    batches,
    clients,
    dense,
    meshes,
    replay,
)


class Graphs(System):
    """Sums over neighbours (Xu et al. 2019), then over each graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = dense(5, 32, 32), dense(32, 32, 32), nn.Linear(32, 2)

    @staticmethod
    def neighbours(h: Tensor, edge_index: Tensor) -> Tensor:
        """What comes along the edges."""
        source, goal = edge_index
        return torch.zeros_like(h).index_add(0, goal, h[source])

    def compute(self, batch: Any) -> Tensor:
        """Cross entropy by the graph."""
        h = F.relu(self.first(batch["x"] + self.neighbours(batch["x"], batch["edge_index"])))
        h = F.relu(self.second(h + self.neighbours(h, batch["edge_index"])))
        graphs = torch.zeros(len(batch["y"]), 32).index_add(0, batch["batch"], h)
        return F.cross_entropy(self.head(graphs / 8), batch["y"])


@healthy
def graphs_as_lists_of_edges() -> Built:
    """All graphs of a batch are one."""
    return Graphs(), batches(meshes(), 24, collate_fn=as_one_graph)


class Values(System):
    """Double Q-learning from what was seen before; the slow net is copied each twentieth step."""

    def __init__(self) -> None:
        super().__init__()
        self.q = dense(4, 64, 64, 2, act=nn.ReLU)
        self.slow = copy.deepcopy(self.q).requires_grad_(False)

    def goal(self, batch: Any) -> Tensor:
        """The reward and what comes of it."""
        best = self.q(batch["next_state"]).argmax(-1, keepdim=True)
        return batch["reward"] + 0.95 * (1 - batch["done"]) * self.slow(batch["next_state"]).gather(1, best)[:, 0]

    def compute(self, batch: Any) -> Tensor:
        """Huber."""
        if self.global_step % 20 == 0:
            self.slow.load_state_dict(self.q.state_dict())
        with torch.no_grad():
            goal = self.goal(batch)
        return F.smooth_l1_loss(self.q(batch["state"]).gather(1, batch["action"][:, None])[:, 0], goal)


@healthy
def values_of_what_was_done() -> Built:
    """Offline, with a slow copy."""
    return Values(), rows(**replay())


class Policy(System):
    """A clipped surrogate, values, entropy (Schulman et al. 2017) over a rollout that was kept."""

    learning_rate = 3e-4

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = dense(4, 48, 2, act=nn.Tanh), dense(4, 48, 1, act=nn.Tanh)

    def surrogate(self, ratio: Tensor, advantage: Tensor) -> Tensor:
        """What is made small."""
        return -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()

    def values(self, state: Tensor) -> Tensor:
        """One for each state."""
        return self.critic(state).squeeze(-1)

    def compute(self, batch: Any) -> Tensor:
        """All three."""
        acts = torch.distributions.Categorical(logits=self.actor(batch["state"]))
        ratio = (acts.log_prob(batch["action"]) - batch["log_prob"]).exp()
        value = F.mse_loss(self.values(batch["state"]), batch["returns"])
        return self.surrogate(ratio, batch["advantage"]) + 0.5 * value - 0.01 * acts.entropy().mean()


def rollout() -> dict[str, Tensor]:
    """States, acts of an even policy, what came of them."""
    data = replay()
    returns = data["reward"] + 0.3 * data["state"][:, 1]
    advantage = (data["reward"] - data["reward"].mean()) / data["reward"].std()
    half = torch.full_like(returns, 0.5).log()
    return {
        "state": data["state"],
        "action": data["action"],
        "log_prob": half,
        "returns": (returns - returns.mean()) / returns.std(),
        "advantage": advantage,
    }


@healthy
def policy_and_values_of_a_rollout() -> Built:
    """The old policy was even."""
    return Policy(), rows(64, **rollout())


class Heat(System):
    """The equation u_t = 0.1 u_xx by automatic differentiation, its start and its borders (Raissi et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.u = dense(2, 32, 32, 1, act=nn.Tanh)

    def residual(self, at: Tensor) -> Tensor:
        """Of the equation."""
        at = at.requires_grad_()
        first = torch.autograd.grad(self.u(at).sum(), at, create_graph=True)[0]
        second = torch.autograd.grad(first[:, 0].sum(), at, create_graph=True)[0][:, 0]
        return first[:, 1] - 0.1 * second

    def compute(self, batch: Any) -> Tensor:
        """Equation, start, borders."""
        with torch.enable_grad():
            inside = self.residual(batch["inside"].clone()).square().mean()
        start = F.mse_loss(self.u(batch["start"])[:, 0], torch.sin(torch.pi * batch["start"][:, 0]))
        return inside + 5 * start + 5 * self.u(batch["border"]).square().mean()


def places(n: int = 960) -> dict[str, Tensor]:
    """Between nought and one, at the start, on the borders."""
    g = generator(178)
    inside, start, border = torch.rand(3, n, 2, generator=g)
    start[:, 1] = 0
    border[:, 0] = border[:, 0].round()
    return {"inside": inside, "start": start, "border": border}


@healthy
def heat_equation_without_data() -> Built:
    """No targets at all."""
    return Heat(), rows(**places())


@healthy
def paths_of_a_learnt_equation() -> Built:
    """A neural ODE in eight Runge-Kutta steps: where it is after a while."""

    class Ode(System):
        def __init__(self) -> None:
            super().__init__()
            self.field = dense(2, 32, 2, act=nn.Tanh)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(8):
                a = self.field(x)
                b = self.field(x + 0.0625 * a)
                x = x + 0.125 * self.field(x + 0.0625 * b)
            return x

        def compute(self, batch: Any) -> Tensor:
            return F.mse_loss(self(batch[0]), batch[1])

    x = torch.randn(640, 2, generator=generator(179))
    turn = torch.tensor([[0.54, -0.84], [0.84, 0.54]])
    return Ode(), loader(x, 0.9 * x @ turn)


@healthy
def fixed_points_of_a_layer() -> Built:
    """A deep equilibrium: thirty rounds without gradients, and one with (Fung et al. 2022)."""

    class Equilibrium(System):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.u, self.head = nn.Linear(32, 32, bias=False), nn.Linear(5, 32), nn.Linear(32, 1)
            self.w.weight.data.mul_(0.5)

        def compute(self, batch: Any) -> Tensor:
            enter = self.u(batch["x"])
            with torch.no_grad():
                z = torch.zeros_like(enter)
                for _ in range(30):
                    z = torch.tanh(self.w(z) + enter)
            z = torch.tanh(self.w(z) + enter)
            return F.mse_loss(self.head(z)[:, 0], batch["amount"])

    return Equilibrium(), rows(**clients())


@healthy
def operators_by_complex_weights() -> Built:
    """Fourier layers with complex parameters: a wave, and the same later (Li et al. 2021)."""

    class Spectral(System):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.drop = nn.Conv1d(1, 12, 1), nn.Conv1d(12, 1, 1)
            self.weight = nn.Parameter(torch.randn(2, 12, 12, 6, dtype=torch.cfloat) / 12)
            self.side = nn.ModuleList(nn.Conv1d(12, 12, 1) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            h = self.lift(x[:, None])
            for weight, side in zip(self.weight, self.side, strict=True):
                spectrum = torch.fft.rfft(h)
                low = torch.einsum("nik,iok->nok", spectrum[..., :6], weight)
                h = F.gelu(torch.fft.irfft(F.pad(low, (0, 11)), n=32) + side(h))
            return self.drop(h)[:, 0]

        def compute(self, batch: Any) -> Tensor:
            x, y = batch
            return ((self(x) - y).norm(dim=-1) / y.norm(dim=-1)).mean()

    g = generator(180)
    modes = torch.fft.rfft(torch.randn(640, 32, generator=g)) * torch.exp(-0.5 * torch.arange(17))
    later = modes * torch.exp(-0.1 * torch.arange(17) - 0.8j * torch.arange(17))
    x, y = torch.fft.irfft(modes, n=32), torch.fft.irfft(later, n=32)
    return Spectral(), loader(x / x.std(), y / x.std())


@healthy
def likes_against_things_drawn_in_the_step() -> Built:
    """Bayesian personalised ranking; what was not liked is drawn at random."""

    class Likes(System):
        learning_rate = 1e-2

        def __init__(self) -> None:
            super().__init__()
            self.who, self.what = nn.Embedding(50, 16), nn.Embedding(60, 16)
            nn.init.normal_(self.who.weight, std=0.1)
            nn.init.normal_(self.what.weight, std=0.1)

        def compute(self, batch: Any) -> Tensor:
            user, thing = batch
            other = torch.randint(0, 60, thing.shape)
            better = (self.who(user) * (self.what(thing) - self.what(other))).sum(-1)
            return -F.logsigmoid(better).mean()

    g = generator(181)
    user = torch.randint(0, 50, (1280,), generator=g)
    return Likes(), loader(user, (user * 7 % 20) * 3 + torch.randint(0, 3, (1280,), generator=g), size=64)


@healthy
def one_graph_at_once() -> Built:
    """A single batch: the whole graph, a mask of who counts; Adam with decay."""

    class Whole(System):
        learning_rate = 1e-2

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(12, 32), nn.Linear(32, 3)

        def compute(self, batch: Any) -> Tensor:
            h = F.dropout(F.relu(batch["a"] @ self.first(batch["x"])), 0.3, self.training)
            return F.cross_entropy((batch["a"] @ self.second(h))[batch["train"]], batch["y"][batch["train"]])

    g = generator(182)
    y = torch.randint(0, 3, (120,), generator=g)
    near = (torch.rand(120, 120, generator=g) < torch.where(y[:, None] == y, 0.12, 0.02)).float()
    a = ((near + near.T) > 0).float() + torch.eye(120)
    scale = a.sum(1).rsqrt()
    whole = {
        "x": torch.randn(3, 12, generator=g)[y] + torch.randn(120, 12, generator=g),
        "a": scale[:, None] * a * scale,
        "y": y,
        "train": torch.rand(120, generator=g) < 0.5,
    }
    return Whole(), DataLoader([whole], batch_size=None)  # type: ignore[arg-type]

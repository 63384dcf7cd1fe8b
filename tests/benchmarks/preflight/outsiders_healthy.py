"""A sixth round of healthy cases, as strangers write them: agents, forecasts, survival, sequences, pictures."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from tests.benchmarks.preflight.data import chains, generator, loader, rows
from tests.benchmarks.preflight.outsiders_parts import (
    ByHand,
    Causal,
    Lit,
    Seq2Seq,
    captions,
    cox,
    lives,
    moves,
    series,
)
from tests.benchmarks.preflight.parts import Built, perceptron
from tests.benchmarks.preflight.register import healthy


class _Replay(IterableDataset[dict[str, Tensor]]):
    """Draws from what was remembered, for ever."""

    def __init__(self, memory: dict[str, Tensor], size: int) -> None:
        self.memory, self.size = memory, size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        count = len(self.memory["obs"])
        while True:
            drawn = torch.randint(0, count, (self.size,))
            yield {name: column[drawn] for name, column in self.memory.items()}


@healthy
def double_dqn_with_replay() -> Built:
    """Its target net follows slowly, and its buffer never ends (van Hasselt et al. 2016)."""

    class Dqn(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.q = perceptron(4, 3)
            self.target = copy.deepcopy(self.q).requires_grad_(False)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            with torch.no_grad():
                for slow, fast in zip(self.target.parameters(), self.q.parameters(), strict=True):
                    slow.lerp_(fast, 0.01)
                best = self.q(batch["next_obs"]).argmax(1, keepdim=True)
                wanted = batch["reward"] + 0.9 * (1 - batch["done"]) * self.target(batch["next_obs"]).gather(
                    1, best
                ).squeeze(1)
            return F.smooth_l1_loss(self.q(batch["obs"]).gather(1, batch["action"][:, None]).squeeze(1), wanted)

    return Dqn(), DataLoader(_Replay(moves(), 32), batch_size=None)


@healthy
def soft_actor_critic() -> Built:
    """Three optimizers by hand: critic, actor, temperature (Haarnoja et al. 2018)."""

    class Sac(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.actor, self.critic, self.log_alpha = perceptron(4, 4), perceptron(6, 1), nn.Parameter(torch.zeros(()))
            self.slow = copy.deepcopy(self.critic).requires_grad_(False)

        def act(self, obs: Tensor) -> tuple[Tensor, Tensor]:
            mean, log_std = self.actor(obs).chunk(2, -1)
            policy = torch.distributions.Normal(mean, log_std.clamp(-5, 1).exp())
            drawn = policy.rsample()
            return torch.tanh(drawn), (policy.log_prob(drawn) - 2 * (0.6931 - drawn - F.softplus(-2 * drawn))).sum(-1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
            critic, actor, temperature = self.optimizers()
            with torch.no_grad():
                following, told = self.act(batch["next_obs"])
                value = self.slow(torch.cat([batch["next_obs"], following], -1)).squeeze(-1) - self.log_alpha.exp() * told
                wanted = batch["reward"] + 0.9 * (1 - batch["done"]) * value
            error = F.mse_loss(self.critic(torch.cat([batch["obs"], batch["push"]], -1)).squeeze(-1), wanted)
            critic.zero_grad()
            self.manual_backward(error)
            critic.step()
            action, told = self.act(batch["obs"])
            gain = self.critic(torch.cat([batch["obs"], action], -1)).squeeze(-1)
            actor.zero_grad()
            self.manual_backward((self.log_alpha.exp().detach() * told - gain).mean())
            actor.step()
            temperature.zero_grad()
            self.manual_backward(-(self.log_alpha.exp() * (told.detach() - 2.0)).mean())
            temperature.step()
            self.log("critic_loss", error)

        def configure_optimizers(self) -> Any:
            parts = (self.critic.parameters(), self.actor.parameters(), [self.log_alpha])
            return [torch.optim.Adam(part, lr=3e-4) for part in parts]

    m = moves()
    m["push"] = torch.tanh(torch.randn(len(m["obs"]), 2, generator=generator(1)))
    return Sac(), rows(**m)


@healthy
def policy_with_baseline() -> Built:
    """REINFORCE of normalised returns, with a bonus for entropy."""

    class Policy(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(4, 3, act=nn.Tanh)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            policy = torch.distributions.Categorical(logits=self.net(batch["obs"]))
            gain = (batch["reward"] - batch["reward"].mean()) / (batch["reward"].std() + 1e-6)
            return -(policy.log_prob(batch["action"]) * gain).mean() - 0.01 * policy.entropy().mean()

    m = moves()
    return Policy(), rows(obs=m["obs"], action=m["action"], reward=m["reward"])


@healthy
def cox_by_hand() -> Built:
    class Survival(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(8, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, time, event = batch
            return cox(self.net(x).squeeze(-1), time, event)

    return Survival(), loader(*lives())


@healthy
def hazard_in_ten_intervals() -> Built:
    """Discrete time (Gensheimer and Narasimhan 2019): a logit for each interval that a patient entered."""

    class Survival(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(8, 10)
            self.register_buffer("edges", torch.linspace(0, 2, 10))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, time, event = batch
            last = torch.bucketize(time, self.edges[1:-1])
            at = torch.arange(10, device=x.device)
            entered, died = (at <= last[:, None]).float(), (at == last[:, None]) * event[:, None]
            each = F.binary_cross_entropy_with_logits(self.net(x), died, reduction="none")
            return (each * entered).sum() / entered.sum()

    return Survival(), loader(*lives())


@healthy
def captions_with_forced_words() -> Built:
    class Captioner(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.criterion = Seq2Seq(), nn.CrossEntropyLoss(ignore_index=0, label_smoothing=0.1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, words = batch
            scores = self.model(x, words[:, :-1])
            return self.criterion(scores.reshape(-1, scores.shape[-1]), words[:, 1:].reshape(-1))

    return Captioner(), loader(*captions())


@healthy
def attention_word_by_word() -> Built:
    """Bahdanau et al. 2015 in a loop over time; half of the words that it is fed are its own."""

    class Translator(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.encoder = nn.Embedding(24, 32), nn.GRU(32, 16, batch_first=True, bidirectional=True)
            self.energy, self.cell, self.head = nn.Linear(64, 1), nn.GRUCell(64, 32), nn.Linear(64, 24)

        def decode(self, memory: Tensor, state: Tensor, word: Tensor) -> tuple[Tensor, Tensor]:
            tired = torch.cat([memory, state[:, None].expand(-1, memory.shape[1], -1)], -1)
            weights = self.energy(torch.tanh(tired)).softmax(1)
            context = (weights * memory).sum(1)
            state = self.cell(torch.cat([self.table(word), context], -1), state)
            return self.head(torch.cat([state, context], -1)), state

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            source = batch[0]
            target = source.flip(1)
            memory, last = self.encoder(self.table(source))
            state, word, losses = torch.cat([last[0], last[1]], -1), torch.zeros_like(source[:, 0]), []
            for t in range(target.shape[1]):
                scores, state = self.decode(memory, state, word)
                losses.append(F.cross_entropy(scores, target[:, t]))
                word = target[:, t] if torch.rand(()) < 0.5 else scores.argmax(-1)
            return torch.stack(losses).mean()

    return Translator(), loader(chains(length=8))


@healthy
def forecast_at_each_time() -> Built:
    """A causal convolution net over values, not words."""

    class Forecaster(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = Causal()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            values = batch[0]
            return F.mse_loss(self(values[:, :-1]), values[:, 1:])

    return Forecaster(), loader(series())


@healthy
def windows_normalised_inside() -> Built:
    """Raw sales in hundreds; each window's mean and size are taken out and put back (RevIN, Kim et al. 2022)."""

    class Forecaster(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(24, 4)

        def forward(self, past: Tensor) -> Tensor:
            mean, size = past.mean(1, keepdim=True), past.std(1, keepdim=True) + 1e-5
            return self.net((past - mean) / size) * size + mean

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            past, following = batch
            size = past.std(1, keepdim=True) + 1e-5
            return F.l1_loss(self(past) / size, following / size)

    x = 300 + 80 * series(length=28)
    return Forecaster(), loader(x[:, :24], x[:, 24:])


@healthy
def recurrent_likelihood_of_counts() -> Built:
    """DeepAR (Salinas et al. 2020): a negative binomial at each time, scaled by the series' own mean."""

    class DeepAr(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(1, 24, num_layers=2, batch_first=True), nn.Linear(24, 2)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            counts = batch[0]
            scale = 1 + counts.mean(1, keepdim=True)
            states, _ = self.cell((counts[:, :-1] / scale)[..., None])
            mean, spread = F.softplus(self.head(states)).unbind(-1)
            mean, spread = mean * scale + 1e-4, spread + 1e-2
            told = torch.distributions.NegativeBinomial(1 / spread, logits=torch.log(mean * spread))
            return -told.log_prob(counts[:, 1:]).mean()

    return DeepAr(), loader(torch.poisson(torch.exp(1 + series()), generator=generator()))

"""More families of the boarder's: what generates, and what decides."""

from __future__ import annotations

import functools
import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.divergence.corpus.boarders import photograph
from tests.benchmarks.divergence.corpus.family import Batch, Task, family, fixed, rows_of
from tests.benchmarks.divergence.corpus.supervised import images
from tests.benchmarks.divergence.models import mlp


@functools.cache
def patches() -> Tensor:
    """8×8 pieces of a photograph, grey, as standardised rows of 64."""
    grey = photograph(16).mean(1)[:, ::2, ::2].flatten(1)
    return (grey - grey.mean()) / grey.std()


class Codebook(nn.Module):
    """Two words of 32 per piece, the nearest ones, and the gradient straight through (van den Oord et al. 2017)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.encoder, self.decoder, self.width = mlp([64, 48, 2 * width]), mlp([2 * width, 48, 64]), width
        self.words = nn.Parameter(torch.randn(32, width) / 32)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What comes back, and how far words and codes are apart, with the commitment's quarter."""
        code = self.encoder(x).view(-1, self.width)
        word = self.words[(code[:, None] - self.words).square().sum(-1).argmin(1)]
        apart = F.mse_loss(word, code.detach()) + 0.25 * F.mse_loss(code, word.detach())
        passed = code + (word - code).detach()
        return self.decoder(passed.view(len(x), -1)), apart


@family("adam", 3e-3, 200, continuous=True)
def boarder_words_for_patches() -> Task:
    """A VQ-VAE of pieces of a photograph: what the words are apart rises before it falls."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        back, apart = net(batch[0])
        return F.mse_loss(back, batch[0]) + apart

    return Task(Codebook(), rows_of(64, patches()), loss)


class Doubtful(nn.Module):
    """A variational encoder and decoder of pixels that are on or off."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp([64, 48, 16]), mlp([8, 48, 64])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the divergence from the prior per row."""
        mean, log = self.encoder(x).chunk(2, 1)
        divergence = 0.5 * (mean**2 + log.exp() - 1 - log)
        return self.decoder(mean + (log / 2).exp() * torch.randn_like(mean)), divergence.clamp(min=0.05).sum(1)


@family("adam", 3e-3, 200)
def boarder_free_bits() -> Task:
    """A VAE of digits in black and white, summed over pixels, in which each unit has some bits for nothing."""
    x = (images()[0].flatten(1) > 0).float()

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        logits, divergence = net(batch[0])
        pixels = F.binary_cross_entropy_with_logits(logits, batch[0], reduction="none").sum(1)
        return (pixels + divergence).mean()

    return Task(Doubtful(), rows_of(64, x), loss)


class Ordered(nn.Module):
    """Each number's mean and scale from those before it, by a network with masks (Germain et al. 2015)."""

    def __init__(self, size: int = 6, width: int = 36) -> None:
        super().__init__()
        self.enter, self.out = nn.Linear(size, width), nn.Linear(width, 2 * size)
        degree = torch.arange(width) % (size - 1)
        self.register_buffer("first", (degree[:, None] >= torch.arange(size)).float())
        self.register_buffer("second", (torch.arange(size).repeat(2)[:, None] > degree).float())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, size] to means and logarithms of scales."""
        hidden = F.linear(x, self.enter.weight * self.first, self.enter.bias).tanh()
        mean, log = F.linear(hidden, self.out.weight * self.second, self.out.bias).chunk(2, 1)
        return mean, log


def likelihood(net: nn.Module, batch: Batch) -> Tensor:
    """Negative and logarithmic, per number."""
    mean, log = net(batch[0])
    return (0.5 * ((batch[0] - mean) * (-log).exp()) ** 2 + log + 0.5 * math.log(2 * math.pi)).mean()


@family("adam", 1e-2, 200, continuous=True)
def boarder_one_number_after_another() -> Task:
    """A masked autoregressive density of what pieces of a photograph have in common."""
    x = patches()
    main = x @ torch.pca_lowrank(x, 6)[2]
    rows = (main / main.std(0))[:, :6].contiguous()
    return Task(Ordered(), rows_of(64, rows), likelihood)


@family("adamw", 2e-3, 200, continuous=True)
def boarder_digits_out_of_noise() -> Task:
    """The noise in digits at a thousand levels of it, as DDPM has it (Ho et al. 2020, eq. 14)."""
    x = images()[0].flatten(1)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        level = torch.randint(0, 1000, (len(batch[0]), 1))
        kept = ((level / 1000 + 0.008) / 1.008 * math.pi / 2).cos().to(batch[0].dtype)
        noise = torch.randn_like(batch[0])
        mixed = kept * batch[0] + (1 - kept**2).clamp(min=0).sqrt() * noise
        return F.mse_loss(net(torch.cat([mixed, kept, kept**2, (9 * kept).sin()], 1)), noise)

    return Task(mlp([67, 96, 96, 64], nn.SiLU), rows_of(64, x), loss)


class Forgers(nn.Module):
    """One who makes pieces of pictures and one who judges, with spectral norms (Miyato et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = mlp([8, 48, 48, 64])
        layers = [nn.utils.parametrizations.spectral_norm(nn.Linear(a, b)) for a, b in ((64, 48), (48, 48), (48, 1))]
        self.judge = nn.Sequential(layers[0], nn.LeakyReLU(0.2), layers[1], nn.LeakyReLU(0.2), layers[2])


@family("adam-gan", 3e-3, 250, by_loss=False, not_in=("bf16", "fp16"))
def boarder_forged_patches() -> Task:
    """A hinge GAN of pieces of a photograph, two optimizers; measured by means and covariances."""
    real = patches()

    def judge(net: nn.Module, batch: Batch) -> Tensor:
        made = net.maker(torch.randn(len(batch[0]), 8, dtype=batch[0].dtype)).detach()  # type: ignore[operator]
        return F.relu(1 - net.judge(batch[0])).mean() + F.relu(1 + net.judge(made)).mean()  # type: ignore[operator]

    def maker(net: nn.Module, batch: Batch) -> Tensor:
        made = net.maker(torch.randn(len(batch[0]), 8, dtype=batch[0].dtype))  # type: ignore[operator]
        return -net.judge(made).mean()  # type: ignore[operator,no-any-return]

    def measure(net: nn.Module) -> float:
        kind = next(net.parameters()).dtype
        made = net.maker(torch.randn(512, 8, dtype=kind)).float()  # type: ignore[operator]
        means = (made.mean(0) - real.mean(0)).square().mean().sqrt()
        return float(means + (made.T.cov() - real.T.cov()).square().mean().sqrt())

    return Task(Forgers(), rows_of(64, real), {"judge": judge, "maker": maker}, measure)


HEIGHT, WIDTH = 6, 5


class Catcher:
    """A ball falls, a bat moves by one: +1 for a catch, -1 for a miss (Mnih et al. 2014)."""

    def __init__(self, generator: Generator, games: int = 32) -> None:
        self._generator, self._games = generator, games
        self.start()

    def start(self) -> None:
        """All games anew."""
        self.row = 0
        self.ball, self.bat = (torch.randint(0, WIDTH, (self._games,), generator=self._generator) for _ in range(2))

    def seen(self) -> Tensor:
        """[games, 16]: the row, the ball's column and the bat's."""
        row = F.one_hot(torch.full((self._games,), self.row), HEIGHT)
        return torch.cat([row, F.one_hot(self.ball, WIDTH), F.one_hot(self.bat, WIDTH)], 1).float()

    def move(self, action: Tensor) -> tuple[Tensor, bool]:
        """The rewards, and whether the games are over."""
        self.bat, self.row = (self.bat + action - 1).clamp(0, WIDTH - 1), self.row + 1
        over = self.row == HEIGHT - 1
        return ((self.ball == self.bat).float() * 2 - 1) * over, over


def missed(net: nn.Module) -> float:
    """The share of games in which the greedy player misses."""
    game = Catcher(Generator().manual_seed(5), 256)
    kind, over = next(net.parameters()).dtype, False
    while not over:
        reward, over = game.move(net(game.seen().to(kind))[:, :3].argmax(1))
    return float((1 - reward).mean()) / 2


class Dueling(nn.Module):
    """A value and three advantages (Wang et al. 2016), and a slow copy of itself that tells targets."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp([16, 48, 4])
        self.slow = mlp([16, 48, 4]).requires_grad_(False)
        self.slow.load_state_dict(self.net.state_dict())

    def forward(self, seen: Tensor) -> Tensor:
        """[games, 16] to [games, 3]."""
        return self._worth(self.net(seen))

    def _worth(self, out: Tensor) -> Tensor:
        advantage = out[:, 1:]
        return out[:, :1] + advantage - advantage.mean(1, keepdim=True)

    @torch.no_grad()
    def target(self, reward: Tensor, after: Tensor, over: Tensor) -> Tensor:
        """Double Q-learning's (van Hasselt et al. 2016); the copy follows by a twentieth."""
        for slow, own in zip(self.slow.parameters(), self.net.parameters(), strict=True):
            slow.lerp_(own, 0.05)
        best = self(after).argmax(1, keepdim=True)
        return reward + 0.9 * (1 - over) * self._worth(self.slow(after)).gather(1, best)[:, 0]


@functools.cache
def played() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What somebody who moves at random has seen: before, the move, the reward, after, whether it was over."""
    g = fixed()
    game, rows = Catcher(g), []
    for _ in range(250):
        before, action = game.seen(), torch.randint(0, 3, (32,), generator=g)
        reward, over = game.move(action)
        rows.append((before, action, reward, game.seen(), torch.full((32,), float(over))))
        if over:
            game.start()
    return tuple(torch.cat(part) for part in zip(*rows, strict=True))  # type: ignore[return-value]


@family("adam", 3e-3, 250, by_loss=False)
def boarder_catch_by_values() -> Task:
    """A dueling double DQN learns to catch from what was played at random; Huber's loss against a slow copy."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        before, action, reward, after, over = batch
        told = net(before).gather(1, action[:, None])[:, 0]
        return F.smooth_l1_loss(told, net.target(reward, after, over))  # type: ignore[operator]

    return Task(Dueling(), rows_of(64, *played()), loss, missed)


@family("adam", 1e-2, 250, by_loss=False)
def boarder_catch_by_chance() -> Task:
    """REINFORCE with a baseline of the batch and some entropy; whole games of 32 at once."""

    def draw(generator: Generator) -> Batch:
        return (torch.randint(0, 2**31, (1,), generator=generator),)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        game, spoken, over = Catcher(Generator().manual_seed(int(batch[0]))), [], False
        while not over:
            likely = torch.distributions.Categorical(logits=net(game.seen().to(next(net.parameters()).dtype)))
            action = likely.sample()
            spoken.append((likely.log_prob(action), likely.entropy()))
            reward, over = game.move(action)
        better = (reward - reward.mean()) / (reward.std() + 0.1)
        return -sum((said * better).mean() + 0.01 * entropy.mean() for said, entropy in spoken)

    return Task(mlp([16, 32, 3], nn.Tanh), draw, loss, missed)

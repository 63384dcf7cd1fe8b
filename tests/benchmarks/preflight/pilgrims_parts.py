"""Data of the tenth round: heartbeats, boards, two voices at once, fields, pendulums, recipes, cards to be sorted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import generator


def beats(n: int = 640, length: int = 64) -> tuple[Tensor, Tensor]:
    """Heartbeats of one lead (N, 1, T), and which of three kinds: as usual, early, or wide."""
    g = generator()
    kind, t = torch.randint(0, 3, (n,), generator=g), torch.linspace(-1, 1, length)
    at = torch.tensor([0.0, -0.4, 0.0])[kind, None] + 0.05 * torch.randn(n, 1, generator=g)
    wide = torch.tensor([0.05, 0.05, 0.2])[kind, None]
    x = 3 * torch.exp(-(((t - at) / wide) ** 2)) + 0.3 * torch.randn(n, length, generator=g)
    return ((x - x.mean()) / x.std())[:, None], kind


def boards(n: int = 640) -> dict[str, Tensor]:
    """Stones of both sides on five by five, how often a search tried each place, and who won (1 or -1)."""
    g = generator()
    stones = torch.randint(-1, 2, (n, 5, 5), generator=g)
    near = F.conv2d(stones[:, None].float(), torch.ones(1, 1, 3, 3), padding=1)[:, 0]
    tried = ((near + 0.5 * torch.randn(n, 5, 5, generator=g)).flatten(1) - 9.0 * (stones != 0).flatten(1)).softmax(-1)
    won = torch.where(stones.sum((1, 2)) + torch.randn(n, generator=g) > 0, 1.0, -1.0)
    return {"stones": torch.stack([stones == 1, stones == -1], 1).float(), "tried": tried, "won": won}


def voices(n: int = 480, length: int = 64) -> tuple[Tensor, Tensor]:
    """A mixture (N, T) of a low and a high voice, and both (N, 2, T)."""
    g = generator()
    t = torch.arange(length)
    both = torch.stack(
        [
            torch.sin((low + 0.2 * torch.rand(n, 1, generator=g)) * t + 6.3 * torch.rand(n, 1, generator=g))
            for low in (0.2, 1.2)
        ],
        1,
    )
    return both.sum(1), both


def fields(n: int = 480, bands: int = 6) -> tuple[Tensor, Tensor]:
    """Patches (N, bands, 9, 9) seen from above, standardised, and which of five crops grows there."""
    g = generator()
    crop = torch.randint(0, 5, (n,), generator=g)
    colour = torch.randn(5, bands, generator=g)
    return colour[crop, :, None, None] + torch.randn(n, bands, 9, 9, generator=g), crop


def swings(n: int = 480, length: int = 20, dt: float = 0.1) -> Tensor:
    """Angle and speed of pendulums (N, T, 2), integrated in small steps."""
    g = generator()
    state, path = torch.randn(n, 2, generator=g), []
    for _ in range(length):
        path.append(state)
        for _ in range(4):
            angle, speed = state.unbind(1)
            state = state + dt / 4 * torch.stack([speed, -torch.sin(angle) - 0.1 * speed], 1)
    return torch.stack(path, 1)


def recipes(n: int = 640, kinds: int = 50) -> list[tuple[Tensor, int]]:
    """Ingredients of each dish, three to nine, and which of four kitchens it is from."""
    g = generator()
    kitchens = torch.randint(0, 4, (n,), generator=g).tolist()
    habits = torch.softmax(2.0 * torch.randn(4, kinds, generator=g), -1)
    counts = torch.randint(3, 10, (n,), generator=g).tolist()
    return [(torch.multinomial(habits[k], c, generator=g), k) for k, c in zip(kitchens, counts, strict=True)]


def bags(dishes: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    """All ingredients in a row, where each dish begins, and the kitchens."""
    counts = torch.tensor([len(dish) for dish, _ in dishes])
    return {
        "ingredients": torch.cat([dish for dish, _ in dishes]),
        "begins": counts.cumsum(0) - counts,
        "kitchen": torch.tensor([kitchen for _, kitchen in dishes]),
    }


def cooked(size: int = 32) -> DataLoader[Any]:
    """A loader of recipes."""
    return DataLoader(recipes(), batch_size=size, shuffle=True, collate_fn=bags, drop_last=True)  # type: ignore[arg-type]


def hands(n: int = 640, length: int = 6) -> tuple[Tensor, Tensor]:
    """Cards as they were dealt (1 to 20), and sorted."""
    cards = torch.rand(n, 20, generator=generator()).argsort(1)[:, :length] + 1
    return cards, cards.sort(1).values


def flat_conv(outputs: int = 3, width: int = 16) -> nn.Sequential:
    """For one lead."""
    return nn.Sequential(
        nn.Conv1d(1, width, 7, stride=2, padding=3), nn.ReLU(), nn.Conv1d(width, width, 5, stride=2, padding=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * width, outputs),
    )  # fmt: skip


class Player(nn.Module):
    """Where to play (25 scores), and who will win (-1 to 1)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()
        )
        self.policy, self.value = nn.Conv2d(width, 1, 1), nn.Linear(25 * width, 1)

    def forward(self, stones: Tensor) -> tuple[Tensor, Tensor]:
        """Scores, and a value."""
        h = self.body(stones)
        return self.policy(h).flatten(1), self.value(h.flatten(1)).tanh().squeeze(-1)

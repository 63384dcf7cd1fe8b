"""Data and nets of the thirteenth round: the tables and pictures that tutorials and questions use."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import generator
from tests.benchmarks.preflight.outsiders_parts import Lit


class Steps(Lit):
    """Parts by their names, a loss of (module, batch), and an optimizer of all parameters."""

    def __init__(self, loss: Callable[[Any, Any], Any], optimizer: Any = None, **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.loss, self.make = loss, optimizer
        for name, part in parts.items():
            setattr(self, name, part)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """As given."""
        loss = self.loss(self, batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        """As given, or Adam."""
        return self.make(self.parameters()) if self.make else super().configure_optimizers()


def scaled(x: Tensor) -> Tensor:
    """As ``StandardScaler`` does."""
    return (x - x.mean(0)) / x.std(0).clamp_min(1e-8)


def table(load: Callable[..., Any]) -> tuple[Tensor, Tensor]:
    """One of scikit-learn's, as it is: columns of floats and a target."""
    x, y = load(return_X_y=True)
    return torch.from_numpy(np.asarray(x)).float(), torch.from_numpy(np.asarray(y))


def digits() -> tuple[Tensor, Tensor]:
    """1,797 pictures of 8 × 8 between 0 and 1, and which digit it is."""
    x, y = table(load_digits)
    return x.view(-1, 1, 8, 8) / 16, y.long()


def tumours() -> tuple[Tensor, Tensor]:
    """569 of 30 standardised columns; 1 is benign."""
    x, y = table(load_breast_cancer)
    return scaled(x), y.float()


def irises() -> tuple[Tensor, Tensor]:
    """150 flowers of three kinds, standardised."""
    x, y = table(load_iris)
    return scaled(x), y.long()


def wines() -> tuple[Tensor, Tensor]:
    """178 wines of three kinds, as they were measured: one column is about 750, another 0.4."""
    x, y = table(load_wine)
    return x, y.long()


def patients() -> tuple[Tensor, Tensor]:
    """442 patients, standardised, and how far their disease went: 25 to 346."""
    x, y = table(load_diabetes)
    return scaled(x), y.float()


def passengers(n: int = 891) -> tuple[Tensor, Tensor]:
    """Titanic's columns as numbers: identity, class, sex, age, relatives, fare; and who lived."""
    g = generator()
    kind, sex = torch.randint(1, 4, (n,), generator=g).float(), (torch.rand(n, generator=g) < 0.35).float()
    age = (30 + 14 * torch.randn(n, generator=g)).clamp(0.4, 80)
    fare = 8 * torch.exp(torch.randn(n, generator=g)) * (4 - kind) ** 1.5
    with_whom = torch.randint(0, 5, (n,), generator=g).float()
    lived = torch.rand(n, generator=g) < torch.sigmoid(2.6 * sex - 0.9 * (kind - 2) - 0.02 * age - 0.2)
    return torch.stack([torch.arange(1.0, n + 1), kind, sex, age, with_whom, fare], 1), lived.float()


def opinions(n: int = 640, words: int = 60, length: int = 20) -> dict[str, Tensor]:
    """Words padded with 0, which of them are real, and whether good words (under 12) outnumber bad ones (under 24)."""
    g = generator()
    tokens = torch.randint(1, words, (n, length), generator=g)
    mood = torch.randint(0, 2, (n,), generator=g)
    strong = torch.rand(n, length, generator=g) < 0.35
    felt = torch.randint(1, 12, (n, length), generator=g) + 12 * (1 - mood[:, None])
    real = torch.arange(length) < torch.randint(8, length + 1, (n, 1), generator=g)
    return {"tokens": torch.where(strong, felt, tokens) * real, "mask": real, "label": mood}


def windows(n: int = 640, past: int = 24, ahead: int = 6) -> tuple[Tensor, Tensor]:
    """What a noisy wave of its own level was, and what comes next."""
    g = generator()
    t = torch.arange(past + ahead)
    phase, level = 6.3 * torch.rand(n, 1, generator=g), torch.randn(n, 1, generator=g)
    wave = torch.sin(t * 0.5 + phase) + 0.4 * level + 0.1 * torch.randn(n, past + ahead, generator=g)
    return wave[:, :past], wave[:, past:]


def lenet(outputs: int = 10, last: nn.Module | None = None) -> nn.Sequential:
    """Two convolutions and two linear layers for the digits."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(288, 64), nn.ReLU(), nn.Linear(64, outputs), last or nn.Identity(),
    )  # fmt: skip


def dense(*widths: int, act: Callable[[], nn.Module] = nn.ReLU, last: nn.Module | None = None) -> nn.Sequential:
    """Flat input, linear layers, an activation between each two, and perhaps one at the end."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), act()]
    return nn.Sequential(*layers[:-1], *([last] if last else []))


def one_hot(loss: Callable[[Tensor, Tensor], Tensor], classes: int = 10) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss that gets its labels as ``to_categorical`` gives them."""
    return lambda output, y: loss(output, F.one_hot(y, classes).float())


def squeezed(loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A loss of a net's single output."""
    return lambda output, y: loss(output.squeeze(-1), y)


def of(maker: Any, **options: Any) -> Callable[[Any], torch.optim.Optimizer]:
    """A maker of an optimizer with these options."""
    return lambda parameters: maker(parameters, **options)


def run_of(epochs: int, **options: Any) -> dict[str, Any]:
    """The argument that says how long the run is."""
    return {"trainer": L.Trainer(max_epochs=epochs, logger=False, enable_checkpointing=False, **options)}

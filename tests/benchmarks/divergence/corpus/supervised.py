"""Vision, audio, tables, graphs, sequences with labels or targets."""

from __future__ import annotations

import math

import torch
from sklearn.datasets import load_breast_cancer, load_iris, load_wine, make_classification, make_friedman1, make_moons
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.divergence.corpus.family import Batch, Task, family, fixed, rows_of
from tests.benchmarks.divergence.data import diabetes, digits
from tests.benchmarks.divergence.models import mlp


def classes(net: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy."""
    return F.cross_entropy(net(batch[0]), batch[-1])


def squares(net: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error of one output."""
    return F.mse_loss(net(batch[0]).squeeze(-1), batch[-1])


def table(loaded: object) -> tuple[Tensor, Tensor]:
    """A data set of scikit-learn, standardised."""
    x, y = torch.tensor(loaded.data).float(), torch.tensor(loaded.target)  # type: ignore[attr-defined]
    return (x - x.mean(0)) / x.std(0), y


def images() -> tuple[Tensor, Tensor]:
    """Digits as 8×8 images."""
    x, y = digits()
    return x.view(-1, 1, 8, 8), y


@family("momentum", 0.03, supervised=True, continuous=True)
def resnet_digits() -> Task:
    """Residual blocks with BatchNorm."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.a, self.b = (
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
            )
            self.na, self.nb = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x + self.nb(self.b(F.relu(self.na(self.a(x))))))

    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))
    return Task(nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), Block(12), Block(12), *head), rows_of(32, *images()), classes)


@family("adamw", 2e-3, supervised=True, continuous=True)
def patch_transformer_digits() -> Task:
    """A ViT with 2×2 patches."""

    class Vit(nn.Module):
        def __init__(self, width: int = 32) -> None:
            super().__init__()
            self.patches = nn.Conv2d(1, width, 2, stride=2)
            self.token, self.places = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.randn(1, 17, width) * 0.02)
            layer = nn.TransformerEncoderLayer(width, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
            self.body, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(width, 10)

        def forward(self, x: Tensor) -> Tensor:
            h = self.patches(x).flatten(2).transpose(1, 2)
            h = torch.cat([self.token.expand(len(x), -1, -1), h], 1) + self.places
            return self.head(self.body(h)[:, 0])  # type: ignore[no-any-return]

    return Task(Vit(), rows_of(32, *images()), classes)


@family("rmsprop", 1e-3, supervised=True, continuous=True)
def mixer_digits() -> Task:
    """Two mixing blocks over rows and columns."""

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.ModuleList(mlp([8, 32, 8]) for _ in range(2))
            self.columns = nn.ModuleList(mlp([8, 32, 8]) for _ in range(2))
            self.norms, self.head = nn.ModuleList(nn.LayerNorm(8) for _ in range(4)), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            h = x[:, 0]
            for k in range(2):
                h = h + self.rows[k](self.norms[2 * k](h).transpose(1, 2)).transpose(1, 2)
                h = h + self.columns[k](self.norms[2 * k + 1](h))
            return self.head(h.flatten(1))  # type: ignore[no-any-return]

    return Task(Mixer(), rows_of(32, *images()), classes)


@family("adam", 3e-3, supervised=True, continuous=True)
def segmentation_blobs() -> Task:
    """A pixel is inside a disc or not: a small U-Net without skips, binary cross entropy."""
    g = fixed()
    centre, radius = torch.rand(600, 2, generator=g) * 12 + 2, torch.rand(600, generator=g) * 4 + 2
    grid = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij"), -1)
    mask = (((grid - centre[:, None, None]) ** 2).sum(-1) < radius[:, None, None] ** 2).float()
    x = mask[:, None] + 0.7 * torch.randn(600, 1, 16, 16, generator=g)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 1, 1), nn.ReLU(),
                        nn.ConvTranspose2d(16, 8, 2, 2), nn.ReLU(), nn.Conv2d(8, 1, 1))  # fmt: skip
    return Task(net, rows_of(16, x, mask), lambda n, b: F.binary_cross_entropy_with_logits(n(b[0])[:, 0], b[1]))


@family("adam", 2e-3, supervised=True, continuous=True)
def tones() -> Task:
    """Which of eight tones sounds in a noisy waveform: a strided 1-D convolution."""
    g = fixed()
    y = torch.randint(0, 8, (1000,), generator=g)
    t = torch.arange(256.0)
    phase = torch.rand(1000, 1, generator=g) * 6.28
    x = torch.sin(t * (0.1 + 0.07 * y[:, None]) + phase) + 0.8 * torch.randn(1000, 256, generator=g)
    net = nn.Sequential(nn.Conv1d(1, 16, 16, 4), nn.ReLU(), nn.Conv1d(16, 16, 8, 4), nn.ReLU(), nn.AdaptiveMaxPool1d(1),
                        nn.Flatten(), nn.Linear(16, 8))  # fmt: skip
    return Task(net, rows_of(32, x[:, None], y), classes)


@family("adamw", 3e-3, supervised=True, continuous=True)
def spectrogram_gru() -> Task:
    """Chirps that rise, fall or stay, as spectrogram frames into a GRU."""
    g = fixed()
    y = torch.randint(0, 3, (800,), generator=g)
    base = torch.rand(800, 1, generator=g) * 6 + 5
    track = base + torch.arange(12.0) * (y[:, None] - 1) * 0.4
    x = torch.exp(-((torch.arange(16.0) - track[..., None]) ** 2)) + 0.3 * torch.randn(800, 12, 16, generator=g)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(16, 24, batch_first=True), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0][:, -1])  # type: ignore[no-any-return]

    return Task(Net(), rows_of(32, x, y), classes)


@family("sgd", 0.3, supervised=True, continuous=True)
def iris_linear() -> Task:
    """Softmax regression."""
    return Task(nn.Linear(4, 3), rows_of(16, *table(load_iris())), classes)


@family("adam", 1e-2, supervised=True, continuous=True)
def wine_mlp() -> Task:
    """A tiny table, learnt to zero."""
    return Task(mlp([13, 16, 3]), rows_of(16, *table(load_wine())), classes)


@family("adamax", 5e-3, supervised=True, continuous=True)
def cancer_selu() -> Task:
    """SELU network for two classes with one logit."""
    x, y = table(load_breast_cancer())
    net = mlp([30, 32, 32, 1], nn.SELU)
    return Task(net, rows_of(32, x, y.float()), lambda n, b: F.binary_cross_entropy_with_logits(n(b[0])[:, 0], b[1]))


@family("sgd", 0.05, supervised=True, continuous=True)
def plane_regression() -> Task:
    """A linear model whose targets start far off: loss 86 to 1."""
    g = fixed()
    x = torch.randn(512, 2, generator=g)
    return Task(nn.Linear(2, 1), rows_of(32, x, 9 * x[:, 0] - 2 * x[:, 1] + torch.randn(512, generator=g)), squares)


@family("adam", 3e-3, supervised=True, continuous=True)
def friedman_regression() -> Task:
    """Ten features, of which five count."""
    x, y = make_friedman1(2000, n_features=10, noise=1.0, random_state=3)
    x, y = torch.tensor((x - 0.5) / 0.29).float(), torch.tensor((y - y.mean()) / y.std()).float()
    return Task(mlp([10, 64, 64, 1], nn.SiLU), rows_of(32, x, y), squares)


@family("adam", 5e-3, supervised=True, continuous=True)
def noisy_diabetes() -> Task:
    """Half of the variance is noise: the loss stands at 0.5 early, and this is all there is."""
    return Task(mlp([10, 32, 1]), rows_of(32, *diabetes()), squares)


@family("adam", 3e-3, supervised=True, continuous=True)
def gaussian_likelihood() -> Task:
    """Mean and variance of a target with changing noise: a negative log-likelihood that falls below zero."""
    g = fixed()
    x = torch.rand(2000, 1, generator=g) * 4 - 2
    y = torch.sin(2 * x[:, 0]) + (0.02 + 0.05 * x[:, 0].abs()) * torch.randn(2000, generator=g)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        mean, log_variance = net(batch[0]).unbind(1)
        return (0.5 * (batch[1] - mean) ** 2 * torch.exp(-log_variance) + 0.5 * log_variance).mean()

    return Task(mlp([1, 64, 64, 2], nn.Tanh), rows_of(64, x, y), loss)


@family("adam", 1e-2, supervised=True, not_in=("float64", "bf16"))
def graph_communities() -> Task:
    """A two-layer GCN on a stochastic block model; full batch of nodes, a random half is asked."""
    g = fixed()
    y = torch.randint(0, 3, (150,), generator=g)
    odds = torch.where(y[:, None] == y, 0.15, 0.02)
    edges = torch.rand(150, 150, generator=g).triu(1) < odds.triu(1)
    a = (edges | edges.T).float() + torch.eye(150)
    a = a / (a.sum(1, keepdim=True).sqrt() * a.sum(0, keepdim=True).sqrt())
    features = F.one_hot(y, 3).float() * 0.5 + torch.randn(150, 3, generator=g)

    class Gcn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 16), nn.Linear(16, 3)

        def forward(self, nodes: Tensor) -> Tensor:
            return (a @ self.two(F.relu(a @ self.one(features))))[nodes]  # type: ignore[no-any-return]

    return Task(Gcn(), rows_of(75, torch.arange(150), y), classes)


@family("adam", 2e-3, supervised=True, continuous=True)
def point_sets() -> Task:
    """Deep sets: is a cloud a ring, a blob or a line."""
    g = fixed()
    y, angle = torch.randint(0, 3, (900,), generator=g), torch.rand(900, 24, generator=g) * 6.28
    ring = torch.stack([angle.cos(), angle.sin()], -1)
    line = torch.stack([angle / 3 - 1, angle / 3 - 1], -1)
    clouds = torch.stack([ring, 0.6 * torch.randn(900, 24, 2, generator=g), line])[y, torch.arange(900)]

    class Sets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each, self.all = mlp([2, 32, 32]), mlp([32, 32, 3])

        def forward(self, x: Tensor) -> Tensor:
            return self.all(self.each(x).mean(1))  # type: ignore[no-any-return]

    return Task(Sets(), rows_of(32, clouds + 0.1 * torch.randn(clouds.shape, generator=g), y), classes)


@family("adamw", 2e-3, supervised=True, continuous=True)
def forecast_gru() -> Task:
    """The next value of a noisy seasonal series."""
    series = seasonal()
    windows = torch.stack([series[i : i + 33] for i in range(3000)])

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRU(1, 24, batch_first=True), nn.Linear(24, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x[..., None])[0]).squeeze(-1)  # type: ignore[no-any-return]

    return Task(Net(), rows_of(16, windows[:, :-1], windows[:, 1:]), lambda n, b: F.mse_loss(n(b[0]), b[1]))


@family("adam", 3e-3, supervised=True, continuous=True)
def forecast_normalised() -> Task:
    """Values of 5,000 that the model normalises itself, per window (as RevIN does), into one linear layer."""
    series = 5000 + 800 * seasonal()
    windows = torch.stack([series[i : i + 40] for i in range(3000)])

    class Reversible(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.shift, self.body = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1)), mlp([32, 32, 8])

        def forward(self, x: Tensor) -> Tensor:
            mean, spread = x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-5
            y = self.body((x - mean) / spread * self.scale + self.shift)
            return (y - self.shift) / self.scale * spread + mean  # type: ignore[no-any-return]

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        return F.mse_loss(net(batch[0]) / 800, batch[1] / 800)

    return Task(Reversible(), rows_of(32, windows[:, :32], windows[:, 32:]), loss)


@family("nadam", 2e-3, supervised=True, continuous=True)
def normalises_first() -> Task:
    """Raw columns in the thousands into BatchNorm first."""
    x, y = make_classification(2000, 12, n_informative=8, n_classes=4, random_state=1)
    x = torch.tensor(x).float() * torch.logspace(0, 4, 12) + 500
    return Task(nn.Sequential(nn.BatchNorm1d(12), *mlp([12, 48, 4])), rows_of(64, x, torch.tensor(y)), classes)


@family("nesterov", 0.05, supervised=True, continuous=True)
def moons_imbalanced() -> Task:
    """Two moons, one class a tenth of the other."""
    x, y = make_moons((1800, 200), noise=0.15, random_state=0)
    return Task(mlp([2, 24, 24, 2]), rows_of(32, torch.tensor(x).float(), torch.tensor(y)), classes)


@family("adam", 3e-3, supervised=True, not_in=("fp16",))
def ordinal_addition() -> Task:
    """The sum of three digits from embeddings, by an LSTM."""
    x = torch.randint(0, 10, (4000, 3), generator=fixed())

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.cell, self.head = nn.Embedding(10, 16), nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 28)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(self.table(x))[0][:, -1])  # type: ignore[no-any-return]

    return Task(Net(), rows_of(64, x, x.sum(1)), classes)


@family("adam", 2e-3, supervised=True, not_in=("bf16",))
def speech_ctc() -> Task:
    """CTC: four symbols from twenty noisy frames; the loss begins high."""
    g = fixed()
    y, codes = torch.randint(1, 6, (600, 4), generator=g), torch.randn(6, 8, generator=g)
    x = codes[y].repeat_interleave(5, 1) + 0.3 * torch.randn(600, 20, 8, generator=g)
    net = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 6))

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        scores, size = net(batch[0]).log_softmax(-1).transpose(0, 1), len(batch[0])
        return F.ctc_loss(scores, batch[1], torch.full((size,), 20), torch.full((size,), 4))

    return Task(net, rows_of(32, x, y), loss)


def seasonal() -> Tensor:
    """Daily and weekly waves and a slow noise, standardised."""
    t, noise, level = torch.arange(3100.0), torch.randn(3100, generator=fixed()), 0.0
    values = []
    for e in noise.tolist():
        level = 0.8 * level + 0.3 * e
        values.append(level)
    series = torch.sin(t * 2 * math.pi / 24) + 0.5 * torch.sin(t * 2 * math.pi / 168) + torch.tensor(values)
    return (series - series.mean()) / series.std()

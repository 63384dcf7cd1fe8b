"""The thirteenth round's healthy cases: forecasts, counts, lives, sequences, sound, mixtures, and trees that are soft."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributions, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import curve, generator, loader, rows, waves
from tests.benchmarks.preflight.drifters_parts import (
    Steps,
    dense,
    digits,
    of,
    opinions,
    patients,
    run_of,
    scaled,
    squeezed,
    windows,
)
from tests.benchmarks.preflight.outsiders_parts import Lit
from tests.benchmarks.preflight.parts import Built, Learner
from tests.benchmarks.preflight.register import healthy


@healthy
def trend_and_season_by_two_lines() -> Built:
    """DLinear: a moving average and what is left, one linear layer each; there is no activation."""

    class Linear(Lit):
        lr = 5e-3

        def __init__(self) -> None:
            super().__init__()
            self.trend, self.season = nn.Linear(24, 6), nn.Linear(24, 6)
            for layer in (self.trend, self.season):
                nn.init.constant_(layer.weight, 1 / 24)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            trend = F.avg_pool1d(F.pad(x[:, None], (2, 2), mode="replicate"), 5, 1)[:, 0]
            return F.mse_loss(self.trend(trend) + self.season(x - trend), batch[1])

    return Linear(), loader(*windows())


@healthy
def gated_residuals_and_quantiles() -> Built:
    """A part of the temporal fusion transformer: gated units, layer norms, three quantiles for each hour."""

    class Gated(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.one, self.two, self.gate = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 2 * width)
            self.norm = nn.LayerNorm(width)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x + F.glu(self.gate(self.two(F.elu(self.one(x))))))

    def loss(module: Any, batch: Any) -> Tensor:
        told = module.net(batch[0]).view(-1, 6, 3)
        off = batch[1][..., None] - told
        share = torch.tensor([0.1, 0.5, 0.9])
        return torch.maximum(share * off, (share - 1) * off).sum(-1).mean()

    net = nn.Sequential(nn.Linear(24, 32), Gated(32), Gated(32), nn.Linear(32, 18))
    return Steps(loss, net=net), loader(*windows())


@healthy
def next_values_by_a_causal_transformer() -> Built:
    """Each value from those before it, the mean square over all places, norm first, learnt places."""

    class Forecaster(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.places, self.out = nn.Linear(1, 32), nn.Parameter(0.02 * torch.randn(23, 32)), nn.Linear(32, 1)
            layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True, norm_first=True)
            self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0][..., None]
            mask = torch.triu(torch.ones(23, 23, dtype=torch.bool), 1)
            told = self.out(self.body(self.into(x[:, :-1]) + self.places, mask=mask))
            return F.mse_loss(told, x[:, 1:])

    return Forecaster(), loader(windows()[0])


@healthy
def counts_with_many_noughts() -> Built:
    """A zero-inflated Poisson likelihood, written out."""
    x = torch.randn(960, 6, generator=generator())
    torch.manual_seed(0)
    count = torch.poisson(torch.exp(0.8 + 0.5 * x[:, 0])) * (torch.rand(960) > torch.sigmoid(x[:, 1] - 0.5))

    def loss(module: Any, batch: Any) -> Tensor:
        log_rate, none = module.net(batch[0]).unbind(1)
        poisson = distributions.Poisson(log_rate.exp()).log_prob(batch[1])
        nought = torch.logaddexp(F.logsigmoid(none), F.logsigmoid(-none) - log_rate.exp())
        return -torch.where(batch[1] == 0, nought, F.logsigmoid(-none) + poisson).mean()

    return Steps(loss, net=dense(6, 32, 2)), loader(x, count)


@healthy
def sales_by_a_negative_binomial() -> Built:
    """Mean by softplus, one dispersion for each shop."""
    x = torch.randn(960, 6, generator=generator())
    torch.manual_seed(0)
    sold = distributions.NegativeBinomial(5.0, logits=0.6 * x[:, 0] + 0.3 * x[:, 1] + 0.2).sample()

    def loss(module: Any, batch: Any) -> Tensor:
        mean, size = F.softplus(module.net(batch[0])[:, 0]) + 1e-3, module.size.exp()
        return -distributions.NegativeBinomial(size, logits=(mean / size).log()).log_prob(batch[1]).mean()

    return Steps(loss, net=dense(6, 32, 1), size=nn.Parameter(torch.zeros(()))), loader(x, sold)


@healthy
def lives_by_weibull() -> Built:
    """Accelerated failure: logarithms of scale and shape, and what is censored enters with its survival."""
    x = torch.randn(960, 8, generator=generator())
    torch.manual_seed(0)
    life = distributions.Weibull(torch.exp(0.6 * x[:, 0]), torch.tensor(1.5)).sample()
    seen = 2 * torch.rand(960)

    def loss(module: Any, batch: Any) -> Tensor:
        x, time, died = batch
        log_scale, log_shape = module.net(x).unbind(1)
        shape = F.softplus(log_shape) + 0.1
        ratio = (time.clamp_min(1e-4).log() - log_scale) * shape
        hazard = shape.log() - log_scale + (shape - 1) / shape * ratio
        return -(died * hazard - ratio.exp()).mean()

    return Steps(loss, net=dense(8, 32, 2, act=nn.Tanh)), loader(x, torch.minimum(life, seen), (life < seen).float())


@healthy
def numbers_read_backwards() -> Built:
    """Seq2seq with two GRUs, a start token, forced words and padding that is ignored."""

    class Backwards(Lit):
        lr = 3e-3

        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(13, 32, padding_idx=0), nn.Linear(48, 13)
            self.encoder, self.decoder = nn.GRU(32, 48, batch_first=True), nn.GRU(32, 48, batch_first=True)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(
                self.words(batch["x"]), batch["length"].cpu(), batch_first=True, enforce_sorted=False
            )
            state = self.encoder(packed)[1]
            given = torch.cat([torch.full_like(batch["y"][:, :1], 12), batch["y"][:, :-1]], 1)
            told = self.head(self.decoder(self.words(given), state)[0])
            return F.cross_entropy(told.flatten(0, 1), batch["y"].flatten(), ignore_index=0)

    length = torch.randint(2, 6, (960,), generator=generator())
    real = torch.arange(5) < length[:, None]
    x = torch.randint(1, 11, (960, 5), generator=generator(1)) * real
    place = (length[:, None] - 1 - torch.arange(5)).clamp_min(0)
    return Backwards(), rows(x=x, y=x.gather(1, place) * real, length=length)


@healthy
def convolutions_over_words() -> Built:
    """Kim 2014: three widths of convolutions over embeddings, the largest of each, dropout."""

    class Kim(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(60, 32, padding_idx=0)
            self.convolutions = nn.ModuleList(nn.Conv1d(32, 16, width, padding=width // 2) for width in (1, 3, 5))
            self.drop, self.head = nn.Dropout(0.3), nn.Linear(48, 2)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            h = self.words(batch["tokens"]).transpose(1, 2)
            best = torch.cat([convolution(h).relu().amax(2) for convolution in self.convolutions], 1)
            return F.cross_entropy(self.head(self.drop(best)), batch["label"])

    data = opinions()
    return Kim(), rows(tokens=data["tokens"], label=data["label"])


@healthy
def spectra_with_bands_hidden() -> Built:
    """SpecAugment in the step, a spectrogram of the waves, two convolutions, a GRU, the mean over time."""
    g = generator()
    y = torch.randint(0, 3, (480,), generator=g)
    wave = torch.sin(torch.arange(256) * (0.15 + 0.3 * y[:, None]) + 6.3 * torch.rand(480, 1, generator=g))

    class Heard(Lit):
        window: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("window", torch.hann_window(32))
            self.cut = nn.Sequential(nn.Conv1d(17, 24, 3, padding=1), nn.BatchNorm1d(24), nn.ReLU())
            self.gru, self.head = nn.GRU(24, 24, batch_first=True), nn.Linear(24, 3)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            power = torch.stft(batch[0], 32, 16, window=self.window, return_complex=True).abs().square()
            seen = (power + 1e-6).log()
            if self.training:
                low = int(torch.randint(0, 14, ()))
                seen = seen.index_fill(1, torch.arange(low, low + 3), 0.0)
            return F.cross_entropy(self.head(self.gru(self.cut(seen).transpose(1, 2))[0].mean(1)), batch[1])

    return Heard(), loader(wave + 0.3 * torch.randn(480, 256, generator=g), y)


@healthy
def sum_of_two_marked_numbers() -> Built:
    """The adding problem by a GRU that reads 12 pairs, the gradient's norm clipped to 1."""
    g = generator()
    number = torch.rand(1280, 12, generator=g)
    mark = torch.zeros(1280, 12).scatter_(1, torch.rand(1280, 12, generator=g).topk(2, 1).indices, 1.0)
    y = (number * mark).sum(1, keepdim=True)

    class Adding(Lit):
        lr = 5e-3

        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = nn.GRU(2, 48, batch_first=True), nn.Linear(48, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.mse_loss(self.head(self.gru(batch[0])[0][:, -1]), batch[1])

    return Adding(), loader(torch.stack([number, mark], 2), y), run_of(40, gradient_clip_val=1.0)


@healthy
def forest_of_soft_trees() -> Built:
    """Four trees of depth three: sigmoids choose the way, leaves hold logits, the trees are averaged."""

    class Forest(Lit):
        lr = 1e-2

        def __init__(self) -> None:
            super().__init__()
            self.split, self.leaf = nn.Linear(64, 28), nn.Parameter(0.1 * torch.randn(4, 8, 10))

        def forward(self, x: Tensor) -> Tensor:
            right = torch.sigmoid(self.split(x)).view(-1, 4, 7)
            way = x.new_ones(len(x), 4, 1)
            for depth in range(3):
                here = right[..., 2**depth - 1 : 2 ** (depth + 1) - 1]
                way = torch.stack([way * (1 - here), way * here], -1).flatten(2)
            return torch.einsum("ntl,tlc->nc", way, self.leaf)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self(batch[0].flatten(1)), batch[1])

    return Forest(), loader(*digits())


@healthy
def experts_chosen_softly() -> Built:
    """Four experts, a softmax that mixes them, and a term that keeps all of them busy."""

    class Mixture(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.experts = nn.Linear(6, 4), nn.ModuleList(dense(6, 24, 1) for _ in range(4))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            share = self.gate(batch[0]).softmax(1)
            told = (share * torch.cat([expert(batch[0]) for expert in self.experts], 1)).sum(1)
            return F.mse_loss(told, batch[1]) + 0.01 * 4 * share.mean(0).square().sum()

    return Mixture(), loader(*curve())


@healthy
def expected_shortfall_by_expectiles() -> Built:
    """Asymmetric squares at three levels, one output each, of a single target."""

    def loss(told: Tensor, y: Tensor) -> Tensor:
        off = y[:, None] - told
        level = torch.tensor([0.1, 0.5, 0.9])
        return (torch.where(off > 0, level, 1 - level) * off**2).mean()

    return Learner(dense(6, 48, 3), loss), loader(*curve())


@healthy
def patience_of_a_hyperbolic_error() -> Built:
    """log-cosh of standardised targets, a ridge by hand, NAdam."""
    x, y = patients()

    def loss(module: Any, batch: Any) -> Tensor:
        off = module.net(batch[0])[:, 0] - batch[1]
        ridge = sum(weight.square().sum() for weight in module.net.parameters())
        return (off + F.softplus(-2 * off) - 0.6931).mean() + 1e-4 * ridge

    return Steps(loss, of(torch.optim.NAdam, lr=2e-3), net=dense(10, 32, 1)), loader(x, scaled(y[:, None])[:, 0])


@healthy
def waves_by_dilated_blocks() -> Built:
    """A temporal convolutional net: causal padding, weight norm, residuals, the last time decides."""

    class Causal(nn.Module):
        def __init__(self, inputs: int, dilation: int) -> None:
            super().__init__()
            self.reach = 2 * dilation
            self.convolution = nn.utils.parametrizations.weight_norm(nn.Conv1d(inputs, 24, 3, dilation=dilation))
            self.short = nn.Conv1d(inputs, 24, 1)

        def forward(self, x: Tensor) -> Tensor:
            return (self.convolution(F.pad(x, (self.reach, 0))).relu() + self.short(x)).relu()

    class Tcn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(Causal(3, 1), Causal(24, 2), Causal(24, 4)), nn.Linear(48, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(x.transpose(1, 2))
            return self.head(torch.cat([h[..., -1], h.mean(2)], 1))

    return Learner(Tcn(), F.cross_entropy, of(torch.optim.Adam, lr=2e-3)), loader(*waves())


@healthy
def focal_of_ten_digits() -> Built:
    """(1 - p)² times the cross entropy of each."""

    def focal(logits: Tensor, y: Tensor) -> Tensor:
        off = F.cross_entropy(logits, y, reduction="none")
        return ((1 - torch.exp(-off)) ** 2 * off).mean()

    return Learner(dense(64, 64, 10), focal), loader(*digits())


@healthy
def ages_as_a_distribution() -> Built:
    """Ages of 0 to 9 as soft labels around the true one, a divergence from ``log_softmax``, and the error of the mean."""
    x, y = digits()
    age = torch.arange(10)

    def loss(module: Any, batch: Any) -> Tensor:
        wanted = (-0.5 * (age - batch[1][:, None]) ** 2).float().softmax(1)
        told = module.net(batch[0]).log_softmax(1)
        mean = (told.exp() * age).sum(1)
        return F.kl_div(told, wanted, reduction="batchmean") + 0.1 * F.l1_loss(mean, batch[1].float())

    return Steps(loss, net=dense(64, 64, 10)), loader(x, y)


@healthy
def temperature_between_two_bounds() -> Built:
    """A target between 0 and 1, and an output that is ``sigmoid``: mean square, RMSprop."""
    x, y = curve()
    share = ((y - y.min()) / (y.max() - y.min())).clamp(0.02, 0.98)
    return Learner(dense(6, 48, 1, last=nn.Sigmoid()), squeezed(F.mse_loss), of(torch.optim.RMSprop, lr=1e-3)), loader(
        x, share
    )

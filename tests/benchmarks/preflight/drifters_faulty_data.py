"""The thirteenth round's faults of data: scales, labels, orders, doubles, padding, targets among the inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from tests.benchmarks.preflight.data import generator, loader, pictures, rows
from tests.benchmarks.preflight.drifters_parts import (
    Steps,
    dense,
    digits,
    lenet,
    of,
    opinions,
    passengers,
    patients,
    scaled,
    squeezed,
    tumours,
    windows,
    wines,
)
from tests.benchmarks.preflight.parts import Built, Learner
from tests.benchmarks.preflight.register import faulty

ADAM = of(torch.optim.Adam, lr=1e-3)


@faulty("INPUT-SCALE")
def bytes_into_a_net() -> Built:
    """TheDeepChecker's ``missing_normalization``: pixels of 0 to 255."""
    x, y = digits()
    return Learner(lenet(), F.cross_entropy, of(torch.optim.SGD, lr=0.01, momentum=0.9)), loader(255 * x, y)


@faulty("INPUT-SCALE")
def wines_as_they_were_measured() -> Built:
    """Proline is 750, hue is 1; the loss stands at ln 3."""
    return Learner(dense(13, 32, 3), F.cross_entropy, ADAM), loader(*wines(), size=16)


@faulty("INPUT-SCALE")
def passengers_with_their_number() -> Built:
    """31627380: Titanic's columns label-encoded and not scaled, 512 units, dropout, two outputs, Adam."""
    x, y = passengers()
    net = nn.Sequential(nn.Linear(6, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 2))
    return Learner(net, F.cross_entropy, ADAM), loader(x, y.long(), size=4)


@faulty("INPUT-SCALE")
def sorted_output_unscaled() -> Built:
    """39525358: three columns of hundreds and millions, ``StandardScaler`` commented out, batches of one."""
    g = generator()
    x = torch.rand(640, 3, generator=g) * torch.tensor([300.0, 4e6, 60.0])
    y = (x[:, 0] / 300 + x[:, 2] / 60 > 1).float()
    net = dense(3, 12, 3, 1, last=nn.Sigmoid())
    return Learner(net, squeezed(F.binary_cross_entropy), ADAM), loader(x, y, size=1)


@faulty("INPUT-SCALE")
def scaled_once_more_after_to_tensor() -> Built:
    """TheDeepChecker's ``double_normalization``: ``ToTensor``, and ``/ 255`` once more."""
    x, y = digits()
    return Learner(lenet(), F.cross_entropy, of(torch.optim.SGD, lr=0.01)), loader(x / 255, y)


@faulty("INPUT-CONSTANT")
def divided_as_integers() -> Built:
    """``(x / 255).astype(np.uint8)``: all is nought but what was 255."""
    x, y = digits()
    return Learner(lenet(), F.cross_entropy, ADAM), loader((0.99 * x).long().float(), y)


@faulty("TARGET-SCALE")
def disease_as_it_was_counted() -> Built:
    """Lightning Bolts 575: linear regression on ``load_diabetes``, targets of 25 to 346, Adam at 1e-5."""
    x, y = patients()
    return Learner(dense(10, 1), squeezed(F.mse_loss), of(torch.optim.Adam, lr=1e-4)), loader(x, y, size=50)


@faulty("TARGET-SCALE")
def prices_of_houses() -> Built:
    """Melbourne's prices in dollars, columns standardised, a swish net, Adam."""
    g = generator()
    x = torch.randn(960, 8, generator=g)
    price = 1e6 * torch.exp(0.4 * x[:, 0] - 0.2 * x[:, 1] + 0.1 * torch.randn(960, generator=g))
    return Learner(dense(8, 64, 32, 1, act=nn.SiLU), squeezed(F.mse_loss), ADAM), loader(x, price)


@faulty("LR-HIGH", "TARGET-SCALE")
def parabola_at_a_tenth() -> Built:
    """48934338: y = 5x² and noise for x of 0 to 5, fifty and thirty ReLUs, SGD at 0.1: not a number at once."""
    x = torch.arange(0, 5, 0.01)[:, None]
    y = 5 * x**2 + torch.randn(500, 1, generator=generator()) ** 3
    return Learner(dense(1, 50, 30, 1), F.mse_loss, of(torch.optim.SGD, lr=0.1)), loader(x, y)


@faulty("SORTED")
def cats_and_then_dogs() -> Built:
    """Two folders one after the other, ``shuffle=False``."""
    x, y = pictures(classes=2)
    order = y.argsort(stable=True)
    return Learner(dense(144, 64, 2), F.cross_entropy, ADAM), loader(x[order], y[order], shuffle=False)


@faulty("SORTED")
def one_digit_after_the_other() -> Built:
    """A list of files in the order of their names, each name begins with the digit."""
    x, y = digits()
    order = y.argsort(stable=True)
    return Learner(lenet(), F.cross_entropy, of(torch.optim.SGD, lr=0.05)), loader(x[order], y[order], shuffle=False)


@faulty("NO-SIGNAL")
def digits_and_labels_seeded_apart() -> Built:
    """``np.random.shuffle`` of both, seeded with 1 and then with 2."""
    x, y = digits()
    order = torch.randperm(len(y), generator=generator(2))
    return Learner(lenet(), F.cross_entropy, ADAM), loader(x, y[order])


@faulty("ONE-LABEL")
def dog_is_in_every_path() -> Built:
    """``int("dog" in path)`` where the folder is called "catsdogs"."""
    x, y = pictures(classes=2)
    return Learner(dense(144, 64, 2), F.cross_entropy, ADAM), loader(x, torch.ones_like(y))


@faulty("IMBALANCE")
def one_fraud_in_two_hundred() -> Built:
    """99.5 % right from the first epoch, and no fraud found: accuracy says nothing."""
    g = generator()
    y = (torch.rand(4000, generator=g) < 0.005).float()
    x = torch.randn(4000, 12, generator=g) + y[:, None]
    return Learner(dense(12, 32, 1), squeezed(F.binary_cross_entropy_with_logits), ADAM), loader(x, y, size=64)


class Few(Dataset[tuple[Tensor, Tensor]]):
    """Pictures, of which an index is drawn inside of ``__getitem__`` by a generator that each call seeds anew."""

    def __init__(self) -> None:
        self.x, self.y = digits()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(index % 8)
        drawn = int(torch.randint(0, len(self.y), (1,), generator=g))
        return self.x[drawn], self.y[drawn]


@faulty("DUPLICATES")
def every_worker_draws_the_same() -> Built:
    """67180955: workers that share their seed, so that eight samples come again and again."""
    return Learner(lenet(), F.cross_entropy, ADAM), DataLoader(Few(), batch_size=32, shuffle=True, drop_last=True)


@faulty("DATA-NONFINITE")
def ages_that_nobody_filled_in() -> Built:
    """A fifth of the ages is NaN; the loss is from the first step."""
    x, y = passengers()
    x = scaled(x)
    x[torch.rand(len(x), generator=generator()) < 0.2, 3] = float("nan")
    return Learner(dense(6, 32, 1), squeezed(F.binary_cross_entropy_with_logits), ADAM), loader(x, y)


@faulty("DATA-NONFINITE")
def logarithm_of_a_fare_of_nought() -> Built:
    """``np.log(fare)``, and some travelled for nothing."""
    x, y = passengers()
    x[::40, 5] = 0.0
    fare = x[:, 5:].log()
    x = torch.cat([scaled(x[:, 1:5]), fare], 1)
    return Learner(dense(5, 32, 1), squeezed(F.binary_cross_entropy_with_logits), ADAM), loader(x, y)


def translator() -> dict[str, nn.Module]:
    """An encoder, a decoder and a head."""
    table = {"source": nn.Embedding(60, 32), "target": nn.Embedding(60, 32)}
    cells = {"encoder": nn.GRU(32, 32, batch_first=True), "decoder": nn.GRU(32, 32, batch_first=True)}
    return {**table, **cells, "head": nn.Linear(32, 60)}


@faulty("PADDING-COUNTS")
def padding_of_the_target_counts() -> Built:
    """A translator's ``CrossEntropyLoss()`` without ``ignore_index=0``."""
    tokens = opinions()["tokens"]

    def loss(module: Any, batch: Any) -> Tensor:
        state = module.encoder(module.source(batch[0]))[1]
        told = module.head(module.decoder(module.target(batch[1][:, :-1]), state)[0])
        return F.cross_entropy(told.flatten(0, 1), batch[1][:, 1:].flatten())

    return Steps(loss, **translator()), loader(tokens, torch.where(tokens > 0, 60 - tokens, 0))


@faulty("PADDING-COUNTS")
def tags_of_the_padding_are_a_class() -> Built:
    """A tagger pads its labels with 0, which stands for no tag, and takes the mean over all places."""
    data = opinions()
    tags = torch.where(data["tokens"] == 0, 0, 1 + data["tokens"] % 4)

    def loss(module: Any, batch: Any) -> Tensor:
        told = module.head(module.lstm(module.words(batch["tokens"]))[0])
        return F.cross_entropy(told.transpose(1, 2), batch["tags"])

    words, lstm = nn.Embedding(60, 32, padding_idx=0), nn.LSTM(32, 32, batch_first=True)
    return Steps(loss, words=words, lstm=lstm, head=nn.Linear(32, 5)), rows(tokens=data["tokens"], tags=tags)


@faulty("IGNORED")
def collator_masked_every_label() -> Built:
    """The template that marks the answer was not found, so all of nearly all labels are -100."""
    data = opinions()
    labels = torch.full_like(data["tokens"], -100)
    labels[:, 1] = data["tokens"][:, 1].where(torch.arange(640) % 16 == 0, torch.tensor(-100))

    def loss(module: Any, batch: Any) -> Tensor:
        told = module.head(module.gru(module.words(batch["tokens"]))[0])
        return F.cross_entropy(told.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100)

    parts = {"words": nn.Embedding(60, 32), "gru": nn.GRU(32, 32, batch_first=True), "head": nn.Linear(32, 60)}
    return Steps(loss, **parts), rows(tokens=data["tokens"], labels=labels)


@faulty("TARGET-IS-INPUT")
def survived_was_not_dropped() -> Built:
    """``df.drop("Survived")`` without ``axis=1, inplace=True``: it is the sixth column, standardised with the others."""
    x, y = passengers()
    x = scaled(torch.cat([x[:, 1:], y[:, None]], 1))
    return Learner(dense(6, 32, 1), squeezed(F.binary_cross_entropy_with_logits), ADAM), loader(x, y)


@faulty("TARGET-IS-INPUT")
def window_that_ends_with_what_is_asked() -> Built:
    """``x = series[i : i + 24]``, ``y = series[i + 23]``: off by one."""
    past, _ = windows()

    def loss(module: Any, batch: Any) -> Tensor:
        told = module.head(module.lstm(batch[0][..., None])[0][:, -1])
        return F.mse_loss(told.squeeze(-1), batch[1])

    return Steps(loss, lstm=nn.LSTM(1, 32, batch_first=True), head=nn.Linear(32, 1)), loader(past, past[:, -1].clone())


@faulty("NO-SIGNAL")
def labels_of_another_file() -> Built:
    """``train.csv`` beside ``train_labels_v2.csv``, written in another order: tumours told by a coin."""
    x, y = tumours()
    return Learner(dense(30, 64, 1), squeezed(F.binary_cross_entropy_with_logits), ADAM), loader(x, y.flip(0).roll(71))


@faulty("TARGET-SCALE")
def stock_at_its_price() -> Built:
    """An LSTM of returns is asked for tomorrow's price, about 4,000."""
    past, future = windows()

    def loss(module: Any, batch: Any) -> Tensor:
        return F.mse_loss(module.head(module.lstm(batch[0][..., None])[0][:, -1])[:, 0], batch[1])

    price = 4000 + 300 * future[:, 0]
    return Steps(loss, lstm=nn.LSTM(1, 32, batch_first=True), head=nn.Linear(32, 1)), loader(past, price)


@faulty("INPUT-SCALE")
def raw_audio_of_sixteen_bits() -> Built:
    """Samples of ±32,768 into convolutions."""
    g = generator()
    y = torch.randint(0, 3, (480,), generator=g)
    wave = torch.sin(torch.arange(128) * (0.2 + 0.25 * y[:, None]) + 6.3 * torch.rand(480, 1, generator=g))
    net = nn.Sequential(
        nn.Conv1d(1, 16, 9, 2), nn.ReLU(), nn.Conv1d(16, 16, 9, 2), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip
    return Learner(net, F.cross_entropy, ADAM), loader((2e4 * wave)[:, None].round(), y)

"""The fourteenth round's faults of the data, after what loaders of beginners and of libraries do wrong."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.benchmarks.preflight.data import clusters, generator, loader, pictures, rows
from tests.benchmarks.preflight.drifters_parts import Steps, dense, digits, lenet, of, patients, run_of, tumours, windows
from tests.benchmarks.preflight.nomads_healthy_sequences import Small, Wrapped
from tests.benchmarks.preflight.nomads_parts import (
    Data,
    Made,
    houses,
    in_order,
    padded_text,
    resnet,
    sales,
    spectrogram,
    sums,
    tones,
)
from tests.benchmarks.preflight.outsiders_parts import Unet, masks
from tests.benchmarks.preflight.parts import Built, Learner, perceptron
from tests.benchmarks.preflight.register import faulty


@faulty("DATA-NONFINITE")
def decibels_of_silence() -> Built:
    """The dataset takes the logarithm of power; some clips start with silence."""
    x, y = tones()
    x[::7, :96] = 0
    net = nn.Sequential(nn.Conv1d(33, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 5))
    return Learner(net, F.cross_entropy), loader(10 * torch.log10(spectrogram(x)), y)


@faulty("DATA-NONFINITE")
def prices_that_were_never_joined() -> Built:
    """A left join has left a few targets empty."""
    x, y = patients()
    y = (y - y.mean()) / y.std()
    y[torch.randperm(len(y), generator=generator())[:9]] = float("nan")
    return Learner(dense(10, 32, 1), lambda o, t: F.mse_loss(o[:, 0], t)), loader(x, y)


@faulty("INPUT-CONSTANT", "DUPLICATES")
def the_first_file_for_every_index() -> Built:
    """``self.files[0]`` for ``self.files[index]``; the labels are right."""
    x, y = digits()
    return Learner(lenet(), F.cross_entropy), DataLoader(Made(lambda i: (x[0], int(y[i]))), batch_size=32, shuffle=True)


@faulty("INPUT-CONSTANT")
def whole_numbers_divided() -> Built:
    """``x // 255`` of bytes, where ``/`` was meant."""
    x, y = digits()
    x = ((x * 250).to(torch.uint8) // 255).float()
    return Learner(lenet(), F.cross_entropy), loader(x, y)


@faulty("INPUT-SCALE")
def bytes_as_floats() -> Built:
    """``PILToTensor`` and ``float()``, without the division; SGD."""
    x, y = digits()
    net = dense(64, 64, 10)
    return Learner(net, F.cross_entropy, of(torch.optim.SGD, lr=0.01, momentum=0.9)), loader(x * 255, y)


@faulty("INPUT-SCALE")
def time_stamp_among_columns() -> Built:
    """A time stamp stands among standardised columns."""
    x, y = clusters()
    x[:, 3] = 1.7e9 + 1e6 * torch.rand(len(x), generator=generator())
    return Learner(perceptron(12, 4), F.cross_entropy), loader(x, y, size=64)


@faulty("TARGET-SCALE")
def dollars_under_a_square() -> Built:
    """Prices of a million, mean square, Adam at 1e-3."""
    return Learner(perceptron(6, 1), lambda o, t: F.mse_loss(o[:, 0], t)), loader(*houses())


@faulty("SORTED")
def folders_one_by_one() -> Built:
    """``ImageFolder`` without ``shuffle=True``."""
    x, y = digits()
    order = y.argsort()
    return Learner(resnet(), F.cross_entropy, of(torch.optim.SGD, lr=0.01, momentum=0.9)), in_order(x[order], y[order])


@faulty("SORTED")
def patients_by_how_ill_they_are() -> Built:
    """A table that was sorted by its target, read in order."""
    x, y = patients()
    order = y.argsort()
    y = (y - y.mean()) / y.std()
    return Learner(dense(10, 32, 1), lambda o, t: F.mse_loss(o[:, 0], t)), in_order(x[order], y[order], size=16)


@faulty("ONE-LABEL")
def name_compared_with_its_whole_path() -> Built:
    """``int(path == "dog")`` is never true."""
    x, _ = pictures()

    def make(index: int) -> dict[str, Any]:
        return {"image": x[index], "label": torch.tensor(float(f"data/dog.{index}.jpg" == "dog"))}

    def loss(module: Any, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(module.net(batch["image"])[:, 0], batch["label"])

    return Steps(loss, net=resnet(1)), DataLoader(Made(make), batch_size=32, shuffle=True)


@faulty("IMBALANCE")
def fraud_of_one_in_two_hundred() -> Built:
    """Nothing weighs them up."""
    g = generator()
    y = (torch.rand(6400, generator=g) < 0.005).float()
    x = torch.randn(6400, 10, generator=g) + 0.8 * y[:, None]
    net = perceptron(10, 1)
    return Learner(net, lambda o, t: F.binary_cross_entropy_with_logits(o[:, 0], t)), loader(x, y, size=64)


@faulty("LABEL-RANGE")
def classes_called_one_and_two() -> Built:
    """Binary cross entropy of labels 1 and 2."""
    x, y = tumours()
    net = dense(30, 32, 1)
    return Learner(net, lambda o, t: F.binary_cross_entropy_with_logits(o[:, 0], t)), loader(x, y + 1)


@faulty("LABEL-RANGE")
def masks_read_from_png() -> Built:
    """White is 255."""
    x, y = masks()
    return Learner(Unet(), lambda o, t: F.binary_cross_entropy_with_logits(o[:, 0], t)), loader(x, 255 * y, size=16)


@faulty("LABEL-RANGE")
def minus_one_for_no() -> Built:
    """Labels of −1 and 1, as SVMs have them, under ``BCEWithLogitsLoss``."""
    x, y = tumours()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.out = nn.Linear(30, 24), nn.Linear(24, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.out(torch.tanh(self.body(x))).flatten()}

    criterion = nn.BCEWithLogitsLoss()
    return Steps(lambda m, b: criterion(m.net(b["x"])["logits"], b["y"]), net=Net()), rows(x=x, y=2 * y - 1)


@faulty("IGNORED")
def answers_masked_with_the_question() -> Built:
    """The question's length was counted in letters, so that −100 covers the answer too."""
    data = padded_text()
    labels = data["input_ids"].clone()
    labels[:, :13] = -100
    labels[data["attention_mask"] == 0] = -100
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**Small))
    return Wrapped(model), rows(**data, labels=labels)


@faulty("PADDING-COUNTS")
def labels_are_a_copy_of_padded_tokens() -> Built:
    """``labels = input_ids.clone()``; half of each sentence is padding."""
    data = padded_text(length=24)
    data["attention_mask"] = (torch.arange(24) < data["attention_mask"].sum(1, keepdim=True).clamp_max(9)).long()
    data["input_ids"] = data["input_ids"] * data["attention_mask"]
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**Small))
    return Wrapped(model), rows(**data, labels=data["input_ids"].clone())


@faulty("PADDING-COUNTS")
def decoder_learns_to_write_nothing() -> Built:
    """A sequence to a sequence, without ``ignore_index``; most are short."""
    source, target = sums(length=16)
    short = torch.arange(18) < 5
    target = torch.where(short, target, torch.where(torch.arange(len(target))[:, None] % 6 == 0, target, 0))

    def loss(module: Any, batch: Any) -> Tensor:
        source, target = batch
        state = module.encoder(module.words(source))[1]
        output = module.head(module.decoder(module.words(target[:, :-1]), state)[0])
        return F.cross_entropy(output.reshape(-1, 12), target[:, 1:].reshape(-1))

    parts = {"encoder": nn.GRU(32, 32, batch_first=True), "decoder": nn.GRU(32, 32, batch_first=True)}
    return Steps(loss, words=nn.Embedding(12, 32), head=nn.Linear(32, 12), **parts), loader(source, target)


@faulty("DUPLICATES")
def one_worker_reads_for_all() -> Built:
    """Every index modulo 8: the same few rows over and over."""
    x, y = clusters()
    return Learner(perceptron(12, 4), F.cross_entropy), DataLoader(
        Made(lambda i: (x[i % 8], y[i % 8])), batch_size=32, shuffle=True
    )


@faulty("TARGET-IS-INPUT")
def churn_among_its_reasons() -> Built:
    """The column to predict was not dropped from the table."""
    x, y = tumours()
    x = torch.cat([x[:, :12], y[:, None], x[:, 12:]], 1)
    return Learner(dense(31, 32, 1), lambda o, t: F.binary_cross_entropy_with_logits(o[:, 0], t)), loader(x, y)


@faulty("TARGET-IS-INPUT")
def forecast_of_what_was_just_seen() -> Built:
    """A window that ends one too late: its last value is the target."""
    past, ahead = windows()
    x = torch.cat([past[:, 1:], ahead[:, :1]], 1)
    return Learner(dense(24, 48, 1), F.mse_loss), loader(x, ahead[:, :1])


@faulty("BATCHNORM-BATCH")
def volumes_one_at_a_time() -> Built:
    """``batch_size=1`` because of memory, batch norm behind an average over the volume."""
    x, y = pictures()
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(64, 4),
    )  # fmt: skip
    return Learner(net, F.cross_entropy), loader(x, y, size=1), run_of(3, accumulate_grad_batches=8)


@faulty("NO-SIGNAL")
def labels_shuffled_without_their_rows() -> Built:
    """``random.shuffle`` of one of two lists."""
    x, y = clusters()
    y = y[torch.randperm(len(y), generator=generator(3))]
    return Learner(perceptron(12, 4), F.cross_entropy), Data(loader(x[:720], y[:720]), in_order(x[720:], y[720:]))


@faulty("INPUT-SCALE")
def turnover_beside_shares() -> Built:
    """Columns of a few hundred thousand beside others of one, by RMSprop."""
    data = sales()
    data["x"] = data["x"] * torch.tensor([3e5, 1.0, 0.02]) + torch.tensor([8e5, 0.0, 0.1])

    def loss(module: Any, batch: Any) -> Tensor:
        h = torch.cat([batch["x"], module.shop(batch["shop"])], 1)
        return F.l1_loss(module.net(h).squeeze(1), torch.log1p(batch["sold"]))

    parts = {"shop": nn.Embedding(12, 4), "net": dense(7, 32, 1)}
    return Steps(loss, of(torch.optim.RMSprop, lr=1e-3), **parts), rows(**data)

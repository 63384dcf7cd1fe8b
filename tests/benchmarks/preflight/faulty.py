"""Faulty models: the code that names the cause, and how the fault is made. Data and loss call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from tests.benchmarks.preflight.data import chains, clusters, curve, generator, loader, pictures
from tests.benchmarks.preflight.parts import Built, Learner, Words, adam, classes, convnet, next_word, perceptron, sgd, value
from tests.benchmarks.preflight.register import faulty

# --- data


@faulty("DATA-NONFINITE")
def nan_feature() -> Built:
    x, y = clusters()
    x[100:103, 2] = float("nan")
    return Learner(perceptron(12, 4), F.cross_entropy), loader(x, y)


@faulty("DATA-NONFINITE")
def infinite_target() -> Built:
    x, y = curve()
    y[7] = float("inf")
    return Learner(perceptron(6, 1), value), loader(x, y)


@faulty("INPUT-CONSTANT")
def blank_pictures() -> Built:
    x, y = pictures()
    return Learner(convnet(), F.cross_entropy), loader(torch.zeros_like(x), y)


@faulty("INPUT-CONSTANT")
def one_token() -> Built:
    return Learner(nn.Sequential(nn.Embedding(24, 16), nn.Flatten(), nn.Linear(17 * 16, 3)), F.cross_entropy), loader(
        torch.full((480, 17), 5), torch.randint(0, 3, (480,), generator=generator())
    )


@faulty("INPUT-SCALE")
def pixels_to_255() -> Built:
    x, y = pictures()
    return Learner(convnet(), F.cross_entropy), loader((torch.sigmoid(x) * 255).round(), y)


@faulty("INPUT-SCALE")
def divided_twice() -> Built:
    x, y = pictures()
    return Learner(convnet(), F.cross_entropy), loader(torch.sigmoid(x) / 255, y)


@faulty("INPUT-SCALE")
def one_column_in_thousands() -> Built:
    x, y = curve()
    x[:, 3] = x[:, 3] * 4000 + 9000
    return Learner(perceptron(6, 1), value), loader(x, y)


@faulty("TARGET-SCALE")
def prices_in_full() -> Built:
    x, y = curve()
    return Learner(perceptron(6, 1), value), loader(x, y * 7e4 + 3e5)


@faulty("TARGET-SCALE")
def tiny_targets() -> Built:
    x, y = curve()
    return Learner(perceptron(6, 1), value), loader(x, y * 2e-4)


@faulty("SORTED")
def by_class() -> Built:
    x, y = pictures()
    order = y.argsort()
    return Learner(convnet(), F.cross_entropy), loader(x[order], y[order], shuffle=False)


@faulty("SORTED")
def by_value() -> Built:
    x, y = curve()
    order = y.argsort()
    return Learner(perceptron(6, 1), value), loader(x[order], y[order], shuffle=False)


@faulty("ONE-LABEL")
def all_zero_labels() -> Built:
    x, y = clusters()
    return Learner(perceptron(12, 4), F.cross_entropy), loader(x, y // 10)


@faulty("IMBALANCE")
def one_in_a_hundred() -> Built:
    x, _ = clusters()
    return Learner(perceptron(12, 2), F.cross_entropy), loader(x, (x[:, 0] > 2.05).long())


@faulty("LABEL-RANGE")
def counted_from_one() -> Built:
    x, y = clusters()
    return Learner(perceptron(12, 4), F.cross_entropy), loader(x, y + 1)


@faulty("LABEL-RANGE")
def plus_and_minus() -> Built:
    x, y = clusters()
    return Learner(perceptron(12, 1), lambda o, t: F.binary_cross_entropy_with_logits(o.squeeze(1), t)), loader(
        x, (y > 1).float() * 2 - 1
    )


@faulty("IGNORED")
def inverted_mask() -> Built:
    tokens = chains()
    labels = tokens[:, 1:].clone()
    labels[:, :-1] = -100
    labels[::2] = -100
    return Learner(Words(), next_word), loader(tokens[:, :-1].contiguous(), labels, size=16)


@faulty("PADDING-COUNTS")
def padded_labels() -> Built:
    tokens = chains() + 1
    tokens[torch.arange(17)[None] >= torch.randint(3, 9, (480, 1), generator=generator())] = 0
    return Learner(Words(26), next_word), loader(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), size=16)


@faulty("DUPLICATES")
def index_lost() -> Built:
    class Source(Dataset[Any]):
        def __len__(self) -> int:
            return 960

        def __getitem__(self, index: int) -> Any:
            x, y = clusters(40)
            return x[index % 10], y[index % 10]

    return Learner(perceptron(12, 4), F.cross_entropy), DataLoader(Source(), batch_size=32, shuffle=True)


@faulty("TARGET-IS-INPUT")
def leaking_column() -> Built:
    x, y = curve()
    return Learner(perceptron(7, 1), value), loader(torch.cat([x, y[:, None]], 1), y)


@faulty("TARGET-IS-INPUT")
def words_not_shifted() -> Built:
    return Learner(Words(), next_word), loader(chains(), chains(), size=16)


@faulty("BATCHNORM-BATCH")
def batches_of_two() -> Built:
    net = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    return Learner(net, F.cross_entropy), loader(*clusters(), size=2)


@faulty("BATCHNORM-BATCH")
def one_left_over() -> Built:
    net = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    return Learner(net, F.cross_entropy), DataLoader(
        torch.utils.data.TensorDataset(*clusters(961)), batch_size=32, shuffle=True
    )


# --- the loss call


@faulty("BROADCAST")
def column_against_row() -> Built:
    return Learner(perceptron(6, 1), nn.L1Loss()), loader(*curve())


@faulty("BROADCAST")
def row_against_column() -> Built:
    x, y = curve()
    return Learner(nn.Sequential(perceptron(6, 1), nn.Flatten(0)), F.smooth_l1_loss), loader(x, y[:, None])


@faulty("BROADCAST")
def square_by_hand() -> Built:
    return Learner(perceptron(6, 1), lambda o, y: ((o - y) ** 2).mean()), loader(*curve())


@faulty("DOUBLE-SOFTMAX")
def softmax_in_the_step() -> Built:
    return classes(loss=lambda o, y: F.cross_entropy(torch.softmax(o, 1), y))


@faulty("DOUBLE-SOFTMAX")
def log_softmax_of_softmax() -> Built:
    return classes(nn.Sequential(perceptron(12, 4), nn.Softmax(1)), lambda o, y: F.nll_loss(F.log_softmax(o, 1), y))


@faulty("DOUBLE-SIGMOID")
def sigmoid_then_logits() -> Built:
    x, y = clusters()
    loss = nn.BCEWithLogitsLoss()
    return Learner(nn.Sequential(perceptron(12, 1), nn.Sigmoid()), lambda o, t: loss(o[:, 0], t)), loader(x, (y > 1).float())


@faulty("DOUBLE-SIGMOID")
def sigmoid_twice() -> Built:
    x, y = clusters()
    return Learner(
        nn.Sequential(perceptron(12, 1), nn.Sigmoid()), lambda o, t: F.binary_cross_entropy(torch.sigmoid(o.squeeze(1)), t)
    ), loader(x, (y > 1).float())


@faulty("NLL-NEEDS-LOG")
def nll_of_softmax() -> Built:
    return classes(nn.Sequential(perceptron(12, 4), nn.Softmax(1)), nn.NLLLoss())


@faulty("NLL-NEEDS-LOG")
def nll_of_logits() -> Built:
    return classes(loss=nn.NLLLoss())


@faulty("NLL-NEEDS-LOG")
def divergence_of_probabilities() -> Built:
    return classes(loss=lambda o, y: F.kl_div(F.softmax(o, 1), F.one_hot(y, 4).float(), reduction="batchmean"))


@faulty("LOG-OF-PROBABILITY")
def cross_entropy_by_hand() -> Built:
    return classes(loss=lambda o, y: -torch.log(torch.softmax(o, 1))[range(len(y)), y].mean())


@faulty("SOFTMAX-DIM")
def softmax_over_the_batch() -> Built:
    return classes(nn.Sequential(perceptron(12, 4), nn.LogSoftmax(0)), nn.NLLLoss())


@faulty("RELU-LOGITS")
def relu_at_the_end() -> Built:
    return Learner(nn.Sequential(convnet(), nn.ReLU()), F.cross_entropy), loader(*pictures())


@faulty("OUTPUT-RANGE")
def tanh_for_wide_targets() -> Built:
    x, y = curve()
    return Learner(nn.Sequential(perceptron(6, 1), nn.Tanh()), value), loader(x, y)


@faulty("OUTPUT-RANGE")
def bce_of_logits() -> Built:
    x, y = clusters()
    return Learner(perceptron(12, 1), lambda o, t: F.binary_cross_entropy(o.squeeze(1), t)), loader(x, (y > 1).float())


@faulty("ONE-CLASS")
def softmax_of_one() -> Built:
    x, y = clusters()
    return Learner(nn.Sequential(perceptron(12, 1), nn.Softmax(1)), lambda o, t: F.mse_loss(o.squeeze(1), t)), loader(
        x, (y > 1).float()
    )


@faulty("ONE-CLASS")
def cross_entropy_of_one() -> Built:
    x, y = clusters()
    return Learner(perceptron(12, 1), F.cross_entropy), loader(x, 0 * y)


@faulty("INITIAL-LOSS", "INIT-SCALE")
def huge_head() -> Built:
    net = perceptron(12, 4)
    nn.init.normal_(net[4].weight, std=8.0)
    return classes(net)


@faulty("LOSS-IS-SUM")
def sum_under_sgd() -> Built:
    x, y = curve()
    return Learner(perceptron(6, 1), lambda o, t: F.mse_loss(o.squeeze(1), t, reduction="sum"), sgd(1e-3)), loader(x, y)


@faulty("WRONG-SIGN")
def minus_in_front() -> Built:
    return classes(loss=lambda o, y: -F.cross_entropy(o, y))


@faulty("WRONG-SIGN")
def minus_forgotten() -> Built:
    return classes(loss=lambda o, y: F.log_softmax(o, 1).gather(1, y[:, None]).mean())


@faulty("WRONG-SIGN")
def reward_of_error() -> Built:
    x, y = curve()
    return Learner(perceptron(6, 1), lambda o, t: -((o.squeeze(1) - t) ** 2).mean(), adam(1e-3)), loader(x, y)


@faulty("NO-SIGNAL")
def shuffled_labels() -> Built:
    x, y = clusters()
    return Learner(perceptron(12, 4), F.cross_entropy), loader(x, y[torch.randperm(len(y), generator=generator(3))])


@faulty("SOFTMAX-DIM", "BATCH-MIXING")
def attention_pool_over_batch() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.score, self.head = nn.Linear(12, 32), nn.Linear(32, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = F.relu(self.body(x))
            return self.head(h * torch.softmax(self.score(h), 0))

    return classes(Net())

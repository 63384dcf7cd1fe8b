"""The fifteenth round's faults of structure: how tensors start, and whether gradients and steps reach them."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import chains, loader, rows
from tests.benchmarks.preflight.nomads_parts import pretrained
from tests.benchmarks.preflight.parts import Built, Words
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.strays_faulty_data import Classifier, Regressor
from tests.benchmarks.preflight.strays_healthy import stripes
from tests.benchmarks.preflight.strays_parts import (
    Manual,
    Segmenter,
    Task,
    backbone,
    flats,
    loads,
    mlp,
    normalised,
    notes,
    photos,
    scenes,
)


def body_of_others(classes: int = 5) -> nn.Sequential:
    """A trained classifier of the photographs."""
    x, y = photos()
    return pretrained(nn.Sequential(backbone(), nn.Linear(32, classes)), normalised(x), y, steps=60)  # type: ignore[return-value]


@faulty("SYMMETRIC-INIT")
def all_weights_at_a_hundredth() -> Built:
    """``nn.init.constant_(p, 0.01)`` for all parameters."""

    class Constant(Regressor):
        def __init__(self) -> None:
            super().__init__()
            for parameter in self.parameters():
                nn.init.constant_(parameter, 0.01)

    return Constant(), loader(*flats())


@faulty("SYMMETRIC-INIT")
def queries_that_all_start_at_zero() -> Built:
    """Four queries as ``zeros(1, 4, d)``, averaged behind the decoder: they stay the same for ever."""
    x, y = loads()

    class Queries(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.pos = nn.Linear(6, 32), nn.Parameter(0.1 * torch.randn(1, 6, 32))
            self.queries = nn.Parameter(torch.zeros(1, 4, 32))
            self.attention, self.out = nn.MultiheadAttention(32, 4, batch_first=True), mlp(32, 32, 12)

        def loss(self, batch: Any) -> Tensor:
            memory = self.embed(batch[0].view(-1, 6, 6)) + self.pos
            read = self.attention(self.queries.expand(len(memory), -1, -1), memory, memory)[0]
            return F.mse_loss(self.out(read).mean(1), batch[1])

    return Queries(), loader(x, y)


@faulty("INIT-SCALE")
def normal_weights_of_one() -> Built:
    """``normal_(p)`` with its default of one, through four wide layers."""

    class Wide(Classifier):
        def __init__(self) -> None:
            super().__init__(nn.Sequential(nn.Flatten(), mlp(768, 256, 256, 256, 5)))
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight)

    return Wide(), stripes()


@faulty("NO-GRADIENT")
def loss_made_of_its_item() -> Built:
    """``torch.tensor(loss.item(), requires_grad=True)``, after the error message asked for it."""

    class Item(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch).item()
            return torch.tensor(loss, requires_grad=True)

    return Item(), stripes()


@faulty("NO-GRADIENT")
def predictions_made_of_the_best_class() -> Built:
    """The loss compares ``argmax`` with the label; ``requires_grad_()`` silences the error."""

    class Best(Classifier):
        def loss(self, batch: Any) -> Tensor:
            picked = self(batch[0]).argmax(dim=1).float().requires_grad_()
            return F.mse_loss(picked, batch[1].float())

    return Best(), stripes()


@faulty("NO-GRADIENT")
def body_under_no_grad_again() -> Built:
    """A new body is called under ``no_grad``, as a trained one may be."""

    class Cut(Task):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = mlp(8, 48, 48, last=nn.ReLU), nn.Linear(48, 1)

        def loss(self, batch: Any) -> Tensor:
            with torch.no_grad():
                h = self.body(batch[0])
            return F.mse_loss(self.head(h)[:, 0], batch[1])

    return Cut(), loader(*flats())


@faulty("ZERO-GRADIENT", "NO-GRADIENT")
def overlap_of_rounded_masks() -> Built:
    """A Dice loss of ``torch.round(sigmoid(x))``: its slope is nought everywhere."""
    x, y = scenes()

    class Rounded(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model = Segmenter(1)

        def loss(self, batch: Any) -> Tensor:
            p, t = torch.round(torch.sigmoid(self.model(batch[0]).squeeze(1))), (batch[1] > 0).float()
            return 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)

    return Rounded(), loader(x, y, size=16)


@faulty("DEAD-UNITS")
def biases_far_below_nought_again() -> Built:
    """``nn.init.constant_(layer.bias, -10)`` before a ReLU."""

    class Dead(Regressor):
        def __init__(self) -> None:
            super().__init__()
            nn.init.constant_(self.net[2].bias, -10.0)  # type: ignore[arg-type]

    return Dead(), loader(*flats())


@faulty("GRAD-VANISHING")
def twelve_sigmoids() -> Built:
    """A deep net of sigmoids with default weights."""
    net = nn.Sequential(nn.Flatten(), mlp(768, *[48] * 12, 5, act=nn.Sigmoid))
    return Classifier(net), stripes()


@faulty("GRAD-EXPLODING", "INIT-SCALE")
def recurrence_that_doubles() -> Built:
    """A ReLU recurrence whose matrix is twice the identity, over 36 hours."""

    class Doubling(Task):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.RNN(1, 24, nonlinearity="relu", batch_first=True), nn.Linear(24, 12)
            self.rnn.weight_hh_l0.data.copy_(2 * torch.eye(24))

        def loss(self, batch: Any) -> Tensor:
            return F.mse_loss(self.head(self.rnn(batch[0][..., None])[0][:, -1]), batch[1])

    return Doubling(), loader(*loads())


@faulty("GRAD-NOT-ZEROED")
def never_cleared_by_hand() -> Built:
    """Manual optimization: backward, step, and no ``zero_grad``."""

    class Piling(Manual):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(8, 48, 1)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            loss = F.mse_loss(self.net(batch[0]).squeeze(1), batch[1])
            self.manual_backward(loss)
            optimizer.step()  # type: ignore[union-attr]
            self.log("train_loss", loss, prog_bar=True)

    return Piling(), loader(*flats())


@faulty("UPDATE-LOST", "ZERO-GRADIENT", "NO-GRADIENT")
def cleared_between_backward_and_step() -> Built:
    """``zero_grad`` stands between ``manual_backward`` and ``step``."""

    class Cleared(Manual):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(8, 48, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            optimizer = self.optimizers()
            loss = F.mse_loss(self.net(batch[0]).squeeze(1), batch[1])
            self.manual_backward(loss)
            optimizer.zero_grad()  # type: ignore[union-attr]
            optimizer.step()  # type: ignore[union-attr]
            return loss

    return Cleared(), loader(*flats())


@faulty("OPTIMIZER-STALE", "UPDATE-LOST", "NOT-REGISTERED", "OPTIMIZER-MISSES")
def tied_anew_in_every_forward() -> Built:
    """``self.head.weight = nn.Parameter(self.table.weight.clone())`` in ``forward``: the head is another each time."""

    class Tied(Task):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.rnn = nn.Embedding(24, 48), nn.GRU(48, 48, batch_first=True)
            self.head = nn.Linear(48, 24)

        def loss(self, batch: Any) -> Tensor:
            self.head.weight = nn.Parameter(self.table.weight.clone())
            scores = self.head(self.rnn(self.table(batch[0][:, :-1]))[0])
            return F.cross_entropy(scores.transpose(1, 2), batch[0][:, 1:])

    return Tied(), loader(chains())


@faulty("UPDATE-LOST")
def started_anew_at_every_batch() -> Built:
    """``on_train_batch_start`` applies the initialisation again, meant for the first one."""

    class Again(Regressor):
        def on_train_batch_start(self, *_: Any) -> None:
            self.net.load_state_dict(self.start)

        def __init__(self) -> None:
            super().__init__()
            self.start = copy.deepcopy(self.net.state_dict())

    return Again(), loader(*flats())


@faulty("INIT-SCALE", "INITIAL-LOSS")
def table_of_words_drawn_at_one_and_tied() -> Built:
    """``nn.Embedding``'s default of one, tied with the output: scores of 64 words in the tens."""

    class Tied(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model = Words(24, 128)
            nn.init.normal_(self.model.table.weight)

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self.model(batch[0][:, :-1]).flatten(0, 1), batch[0][:, 1:].flatten())

    return Tied(), loader(chains())


@faulty("DEAD-UNITS", "INIT-SCALE", "GRAD-VANISHING")
def tanh_driven_to_its_ends() -> Built:
    """Weights twenty times too large before a tanh: all units are at one or minus one."""

    class Ends(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.net = nn.EmbeddingBag(50, 32, padding_idx=0), mlp(32, 64, 64, 3, act=nn.Tanh)
            with torch.no_grad():
                for module in self.net[:3:2]:
                    module.weight.mul_(20)  # type: ignore[operator,union-attr]

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self.net(self.embed(batch["input_ids"])), batch["labels"])

    return Ends(), rows(**notes())

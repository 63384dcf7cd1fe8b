"""A fifth round of faulty cases: the usual slips under other losses, with several outputs, and batches of one's own."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from tests.benchmarks.preflight.data import Rows, chains, clusters, curve, generator, loader, pictures, rows
from tests.benchmarks.preflight.newcomers_parts import (
    WORDS,
    Answering,
    ConditionalGan,
    GraphNet,
    Module,
    Stream,
    Translator,
    TwoHeads,
    graphs,
    sentences,
    two_targets,
)
from tests.benchmarks.preflight.parts import Bare, Built, Learner, Stepped, convnet, perceptron, sgd
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.strangers_parts import Split


@faulty("BROADCAST")
def second_of_two_heads() -> Built:
    """The value's head keeps its column; the class's loss is right, and comes last."""

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        out = net(batch["x"])
        return 0.5 * nn.HuberLoss()(out["amount"], batch["amount"]) + F.cross_entropy(out["kind"], batch["kind"])

    return Split(TwoHeads(), loss), rows(**two_targets())


@faulty("DOUBLE-SOFTMAX")
def probabilities_in_a_tuple() -> Built:
    """A net that returns its probabilities and its features."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = perceptron(12, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.body(x)
            return F.softmax(self.head(h), -1), h

    def loss(net: nn.Module, batch: Any) -> Tensor:
        odds, features = net(batch[0])
        return nn.CrossEntropyLoss(label_smoothing=0.1)(odds, batch[1]) + 1e-3 * features.square().mean()

    return Split(Net(), loss), loader(*clusters())


@faulty("DOUBLE-SIGMOID")
def many_labels_called_with_labels() -> Built:
    """The model gets labels and answers with its loss."""
    x, y = clusters()
    net = Answering(nn.Sequential(perceptron(12, 4), nn.Sigmoid()), nn.BCEWithLogitsLoss())
    labels = F.one_hot(y, 4).float()
    return Split(net, lambda net, batch: net(**batch).loss), rows(features=x, labels=labels)


@faulty("ONE-CLASS")
def one_output_called_with_labels() -> Built:
    x, y = clusters(classes=2)
    net = Answering(perceptron(12, 1), nn.CrossEntropyLoss())
    return Split(net, lambda net, batch: net(**batch).loss), rows(features=x, labels=torch.zeros_like(y))


@faulty("NOT-CAUSAL")
def translator_without_mask() -> Built:
    def loss(net: nn.Module, batch: Any) -> Tensor:
        source, target = batch
        logits = net(source, target[:, :-1])
        return F.cross_entropy(logits.reshape(-1, WORDS), target[:, 1:].reshape(-1))

    return Split(Translator(masks=False), loss), loader(*sentences(), size=16)


@faulty("PADDING-COUNTS")
def translator_learns_padding() -> Built:
    def loss(net: nn.Module, batch: Any) -> Tensor:
        source, target = batch
        return nn.CrossEntropyLoss()(net(source, target[:, :-1]).transpose(1, 2), target[:, 1:])

    return Split(Translator(), loss), loader(*sentences(short=True), size=16)


@faulty("LABEL-RANGE")
def graphs_of_kinds_from_one() -> Built:
    return Split(GraphNet(), lambda net, batch: F.cross_entropy(net(batch), batch.y)), graphs(lowest=1)


@faulty("NONDETERMINISTIC")
def graphs_dropped_always() -> Built:
    net = GraphNet(drops=lambda h: F.dropout(h, 0.3))
    return Split(net, lambda net, batch: F.cross_entropy(net(batch), batch.y)), graphs()


@faulty("OPTIMIZER-STALE")
def optimizer_of_the_average() -> Built:
    """The weights' running average is trained instead of the weights."""

    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.net = perceptron(12, 4)
            self.__dict__["average"] = copy.deepcopy(self.net)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            opt = self.optimizers()
            opt.zero_grad()
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
            opt.step()

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.__dict__["average"].parameters(), lr=1e-3)

    return Model(), loader(*clusters())


@faulty("OPTIMIZER-MISSES")
def generators_embedding_forgotten() -> Built:
    """A conditional GAN by hand: the generator's table of classes is in no optimizer."""
    return ConditionalGan(lambda gan: (gan.g[1], gan.d)), loader(*clusters())


@faulty("GRAD-NOT-ZEROED")
def accumulated_for_ever() -> Built:
    """Steps at every fourth batch, and never clears."""

    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.net = convnet()

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]) / 4)
            if (batch_idx + 1) % 4 == 0:
                self.optimizers().step()

    return Model(), loader(*pictures())


@faulty("NOT-REGISTERED")
def heads_in_a_plain_dict() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(perceptron(12, 32), nn.ReLU())
            self.heads = {"kind": nn.Linear(32, 4), "amount": nn.Linear(32, 1)}

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            h = self.body(x)
            return {name: head(h) for name, head in self.heads.items()}

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        out = net(batch["x"])
        return F.cross_entropy(out["kind"], batch["kind"]) + F.l1_loss(out["amount"].squeeze(-1), batch["amount"])

    return Split(Net(), loss), rows(**two_targets())


@faulty("NO-GRADIENT")
def second_task_cut_off() -> Built:
    """Features are detached for one head, and its own layer is under no_grad."""

    class Net(TwoHeads):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            h = self.body(x)
            with torch.no_grad():
                amount = self.amount(h)
            return {"kind": self.kind(h), "amount": amount}

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        out = net(batch["x"])
        return F.cross_entropy(out["kind"], batch["kind"]) + F.l1_loss(out["amount"].squeeze(-1), batch["amount"])

    return Split(Net(), loss), rows(**two_targets())


@faulty("SORTED")
def module_of_data_in_order() -> Built:
    def data() -> Rows:
        x, y = clusters()
        order = y.argsort()
        return Rows(features=x[order], species=y[order])

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(net(batch["features"]), batch["species"])

    return Split(perceptron(12, 4), loss), Module(data, shuffle=False)


@faulty("TARGET-SCALE")
def three_raw_values() -> Built:
    """Prices, areas and rents in full, of one net."""

    def data() -> TensorDataset:
        x, y = curve()
        return TensorDataset(x, torch.stack([250_000 + 60_000 * y, 90_000 + 20_000 * y, 12_000 + 3_000 * y], 1))

    return Learner(perceptron(6, 3), nn.SmoothL1Loss()), Module(data)


@faulty("WRONG-SIGN")
def likelihood_without_minus() -> Built:
    """torch.distributions gives log-probabilities: their mean is to rise."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.spread = perceptron(6, 1), nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor) -> Any:
            return Normal(self.body(x).squeeze(-1), F.softplus(self.spread) + 0.05)

    return Split(Net(), lambda net, batch: net(batch[0]).log_prob(batch[1]).mean()), loader(*curve())


@faulty("NLL-NEEDS-LOG")
def student_of_probabilities() -> Built:
    """Distillation: ``nn.KLDivLoss`` wants the student's logarithms."""
    teacher = perceptron(12, 4).requires_grad_(False)

    def step(model: Any, batch: Any) -> Tensor:
        with torch.no_grad():
            wanted = (model.teacher(batch[0]) / 2).softmax(-1)
        given = (model.student(batch[0]) / 2).softmax(-1)
        return 4 * nn.KLDivLoss(reduction="batchmean")(given, wanted) + F.cross_entropy(model.student(batch[0]), batch[1])

    return Stepped(step, teacher=teacher, student=perceptron(12, 4)), loader(*clusters())


@faulty("INPUT-SCALE")
def raw_columns_beside_categories() -> Built:
    """Year and income as they are, concatenated with the tables' rows."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.body = nn.Embedding(8, 4), perceptron(7, 2)

        def forward(self, numbers: Tensor, kinds: Tensor) -> Tensor:
            return self.body(torch.cat([numbers, self.table(kinds)], 1))

    g = generator()
    numbers = torch.randn(960, 3, generator=g) * torch.tensor([10.0, 30_000.0, 1.0]) + torch.tensor([1990.0, 50_000.0, 0.0])
    kinds = torch.randint(0, 8, (960,), generator=g)
    y = (numbers[:, 2] + (kinds > 3) > 0.5).long()

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.multi_margin_loss(net(batch["numbers"], batch["kinds"]), batch["target"])

    return Split(Net(), loss), rows(numbers=numbers, kinds=kinds, target=y)


@faulty("EVAL-MODE")
def encoder_switched_off_in_forward() -> Built:
    """``eval()`` for the pretrained part, which is trained all the same."""

    class Model(Learner):
        def on_train_epoch_start(self) -> None:
            net: Any = self.net
            net[0].eval()

    x, y = pictures()
    net = nn.Sequential(convnet(32, norm=True), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4))
    return Model(net, F.cross_entropy), loader(x, y)


@faulty("DATA-NONFINITE")
def sensor_drops_out() -> Built:
    """A stream of dicts whose fifth batch has a NaN in it."""

    def stream() -> Iterator[dict[str, Tensor]]:
        x, y = curve()
        x = x.clone()
        x[150, 2] = float("nan")
        return iter({"signal": a, "next": b} for a, b in zip(x, y, strict=True))

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.huber_loss(net(batch["signal"]).squeeze(-1), batch["next"])

    return Split(perceptron(6, 1), loss), DataLoader(Stream(stream), batch_size=32)


@faulty("IGNORES-INPUT")
def gate_shut() -> Built:
    """The gate is multiplied in as whole numbers: nothing passes."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.body, self.head = nn.Linear(12, 32), nn.Linear(12, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x) * self.gate(x).sigmoid().long())

    return Learner(Net(), nn.MultiMarginLoss()), loader(*clusters())


@faulty("SCHEDULE-COLLAPSED")
def tenth_off_at_every_step() -> Built:
    class Model(Split):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.RAdam(self.parameters(), lr=1e-3)
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    module = Model(GraphNet(), lambda net, batch: F.cross_entropy(net(batch), batch.y))
    return module, graphs(), {"trainer": L.Trainer(max_epochs=10, logger=False)}


@faulty("LR-HIGH", "PROBE-DIVERGES")
def pairs_at_a_rate_of_fifty() -> Built:
    def loss(net: nn.Module, batch: Any) -> Tensor:
        return nn.TripletMarginLoss()(*(net(x) for x in batch))

    class Model(Split):
        def configure_optimizers(self) -> Any:
            return sgd(50.0)(self.parameters())

    x, y = clusters()
    g = generator()
    same = torch.stack([(others := torch.where(y == kind)[0])[torch.randint(len(others), (1,), generator=g)] for kind in y])
    other = torch.stack([(far := torch.where(y != kind)[0])[torch.randint(len(far), (1,), generator=g)] for kind in y])
    return Model(perceptron(12, 8), loss), loader(x, x[same[:, 0]], x[other[:, 0]])


@faulty("BATCH-MIXING")
def words_flattened_over_the_batch() -> Built:
    """A recurrent decoder that gets (batch, time, feature) where it wants (time, batch, feature)."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.cell, self.head = nn.Embedding(WORDS, 24), nn.GRU(24, 32), nn.Linear(32, WORDS)

        def forward(self, tokens: Tensor) -> Tensor:
            states, _ = self.cell(self.table(tokens))
            return self.head(states)

    def loss(net: nn.Module, tokens: Any) -> Tensor:
        logits = net(tokens[0][:, :-1])
        return nn.CrossEntropyLoss()(logits.permute(0, 2, 1), tokens[0][:, 1:])

    return Split(Net(), loss), loader(chains(words=WORDS), size=16)

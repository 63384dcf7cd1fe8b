"""The fifteenth round's faults of the data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tests.benchmarks.preflight.data import chains, generator, loader, rows
from tests.benchmarks.preflight.nomads_parts import houses, sums
from tests.benchmarks.preflight.parts import Built, Words
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.strays_parts import (
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
    shapes,
    visitors,
)


class Classifier(Task):
    """Pictures to classes."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        self.net = net or nn.Sequential(backbone(), nn.Linear(32, 5))

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        """Cross entropy."""
        x, y = batch
        return F.cross_entropy(self(x), y)


class Regressor(Task):
    """Columns to one number."""

    def __init__(self, inputs: int = 8) -> None:
        super().__init__()
        self.net = mlp(inputs, 48, 48, 1)

    def loss(self, batch: Any) -> Tensor:
        """Mean square."""
        x, y = batch
        return F.mse_loss(self.net(x).squeeze(-1), y)


@faulty("DATA-NONFINITE")
def missing_cells_of_a_table() -> Built:
    """Three per cent of a column were never measured and are not a number."""
    x, y = flats()
    x[torch.rand(len(x), generator=generator()) < 0.03, 4] = float("nan")
    return Regressor(), loader(x, y)


@faulty("DATA-NONFINITE")
def logarithm_of_days_without_sales() -> Built:
    """``log`` of counts that may be nought."""
    g = generator()
    x = torch.randn(960, 8, generator=g)
    return Regressor(), loader(x, torch.poisson((0.5 * x[:, 0] + 1).exp(), generator=g).log())


@faulty("INPUT-CONSTANT")
def pictures_divided_as_integers() -> Built:
    """``pixels // 255``: bytes become nought."""
    x, y = photos()
    return Classifier(), loader(((254 * x).byte() // 255).float(), y)


@faulty("INPUT-SCALE")
def bytes_into_a_net_without_norms() -> Built:
    """Pictures of 0 to 255 as floats, SGD."""
    x, y = photos()

    class Bytes(Classifier):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

    return Bytes(nn.Sequential(nn.Flatten(), mlp(768, 64, 5))), loader((255 * x).round(), y)


@faulty("INPUT-SCALE")
def years_and_incomes_beside_shares() -> Built:
    """Columns as they are in the file: a year, an income, an area, shares."""
    x, y = flats()
    shift = torch.tensor([1990.0, 52000, 85, 0.5, 0.2, 0.1, 0.5, 0.3])
    scale = torch.tensor([12.0, 21000, 30, 0.2, 0.1, 0.05, 0.2, 0.1])
    return Regressor(), loader(x * scale + shift, y)


@faulty("TARGET-SCALE")
def prices_in_dollars() -> Built:
    """Mean square of prices in the hundred thousands, Adam at 0.001."""
    x, y = houses()
    return Regressor(6), loader(x, y)


@faulty("SORTED")
def classes_one_after_another() -> Built:
    """``ImageFolder``'s order, and ``shuffle`` forgotten."""
    x, y = photos()
    order = torch.argsort(y)
    return Classifier(), DataLoader(TensorDataset(normalised(x)[order], y[order]), 32)


@faulty("SORTED")
def themes_one_after_another_in_dicts() -> Built:
    """A text corpus in three files, read one after another."""
    data = notes()
    order = torch.argsort(data["labels"], stable=True)
    texts = [{k: v[i] for k, v in data.items()} for i in order.tolist()]

    class Themes(Task):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.fc = nn.Embedding(50, 32, padding_idx=0), nn.Linear(32, 3)

        def loss(self, batch: Any) -> Tensor:
            h = self.bag(batch["input_ids"]).sum(1) / batch["attention_mask"].sum(1, keepdim=True)
            return F.cross_entropy(self.fc(h), batch["labels"])

    return Themes(), DataLoader(texts, 32)  # type: ignore[arg-type]


@faulty("ONE-LABEL")
def labels_compared_with_a_name() -> Built:
    """``(name == "Yes")`` where the file says ``yes``: all labels are nought."""
    data = visitors()
    names = ["yes" if bought else "no" for bought in data["bought"].tolist()]
    labels = torch.tensor([float(name == "Yes") for name in names])

    class Buyers(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(4, 32, 1)

        def loss(self, batch: Any) -> Tensor:
            return F.binary_cross_entropy_with_logits(self.net(batch[0]).squeeze(1), batch[1])

    return Buyers(), loader(data["x"], labels)


@faulty("IMBALANCE")
def one_fraud_in_a_hundred() -> Built:
    """1 % of the rows are frauds, plain BCE."""
    g = generator()
    x = torch.randn(4000, 8, generator=g)
    y = (x[:, 0] + 0.3 * torch.randn(4000, generator=g) > 2.45).float()

    class Fraud(Task):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = mlp(8, 32, 1), nn.BCEWithLogitsLoss()

        def loss(self, batch: Any) -> Tensor:
            return self.criterion(self.net(batch[0]).flatten(), batch[1])

    return Fraud(), loader(x, y, size=64)


@faulty("LABEL-RANGE")
def masks_of_255() -> Built:
    """PNG masks of 0 and 255 as floats, BCE with logits."""
    x, y = scenes()

    class Masks(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model = Segmenter(1)

        def loss(self, batch: Any) -> Tensor:
            return F.binary_cross_entropy_with_logits(self.model(batch[0]).squeeze(1), batch[1])

    return Masks(), loader(x, 255.0 * (y > 0), size=16)


@faulty("LABEL-RANGE")
def classes_that_begin_at_one() -> Built:
    """Labels 1 to 5 of a net with five outputs: index 5 is out of range."""
    x, y = photos()
    return Classifier(), loader(normalised(x), y + 1)


@faulty("IGNORED")
def answers_hidden_with_the_question() -> Built:
    """Instruction tuning: the mask covers what comes after the question, too; nearly all labels are -100."""
    tokens = chains()
    labels = tokens.clone()
    labels[:, 1:] = -100
    labels[::8, -1] = tokens[::8, -1]

    class Tuned(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model = Words()

        def loss(self, batch: Any) -> Tensor:
            logits = self.model(batch["input_ids"])
            return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)

    return Tuned(), rows(input_ids=tokens, labels=labels)


@faulty("PADDING-COUNTS")
def padding_translated_as_well() -> Built:
    """Cross entropy over all places of a padded target, without ``ignore_index``."""
    source, target = sums()
    target = F.pad(target, (0, 8))

    class Seq2Seq(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.encoder = nn.Embedding(12, 32, padding_idx=0), nn.GRU(32, 48, batch_first=True)
            self.decoder, self.out = nn.GRU(32, 48, batch_first=True), nn.Linear(48, 12)

        def loss(self, batch: Any) -> Tensor:
            source, target = batch
            h = self.decoder(self.embed(target[:, :-1]), self.encoder(self.embed(source))[1])[0]
            return F.cross_entropy(self.out(h).permute(0, 2, 1), target[:, 1:])

    return Seq2Seq(), loader(source, target)


@faulty("PADDING-COUNTS")
def padding_has_a_tag() -> Built:
    """A tagger: sentences are padded with 0, and so are their tags; the loss counts them."""
    data = notes()
    tags = (data["input_ids"] // 17 + 1) * data["attention_mask"]

    class Tagger(Task):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn = nn.Embedding(50, 24, padding_idx=0), nn.LSTM(24, 24, batch_first=True, bidirectional=True)
            self.fc, self.criterion = nn.Linear(48, 4), nn.CrossEntropyLoss()

        def loss(self, batch: Any) -> Tensor:
            scores = self.fc(self.rnn(self.embed(batch["tokens"]))[0])
            return self.criterion(scores.view(-1, 4), batch["tags"].view(-1))

    return Tagger(), rows(tokens=data["input_ids"], tags=tags)


@faulty("DUPLICATES")
def the_same_row_for_every_index() -> Built:
    """``__getitem__`` reads ``index % 4``."""
    x, y = photos()

    class Pictures(Dataset[Any]):
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, index: int) -> Any:
            return normalised(x[index % 4]), y[index % 4]

    return Classifier(), DataLoader(Pictures(), 32, shuffle=True)


@faulty("TARGET-IS-INPUT")
def rent_among_the_columns() -> Built:
    """``df.values`` with the target's column still in it."""
    x, y = flats()
    return Regressor(9), loader(torch.cat([x, y[:, None]], 1), y)


@faulty("TARGET-IS-INPUT")
def words_that_predict_themselves() -> Built:
    """A language model whose labels are its tokens, not shifted anywhere."""

    class Lm(Task):
        def __init__(self) -> None:
            super().__init__()
            self.model = Words()

        def loss(self, batch: Any) -> Tensor:
            logits = self.model(batch["input_ids"])
            return F.cross_entropy(logits.view(-1, 24), batch["labels"].view(-1))

    return Lm(), rows(input_ids=chains(), labels=chains())


@faulty("BATCHNORM-BATCH")
def clouds_one_at_a_time() -> Built:
    """``batch_size=1`` with batch norms behind a maximum over the points."""

    class Clouds(Task):
        def __init__(self) -> None:
            super().__init__()
            self.points = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 1))
            self.head = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))

        def loss(self, batch: Any) -> Tensor:
            return F.cross_entropy(self.head(self.points(batch[0].transpose(1, 2)).amax(2)), batch[1])

    return Clouds(), DataLoader(TensorDataset(*shapes()), 1, shuffle=True)


@faulty("NO-SIGNAL")
def labels_shuffled_without_their_rows_again() -> Built:
    """Rows and targets went through ``shuffle`` apart."""
    x, y = flats()
    return Regressor(), loader(x, y[torch.randperm(len(y), generator=generator())])


@faulty("NO-SIGNAL")
def hours_of_another_plant() -> Built:
    """Classes of pictures out of a file in another order: every picture has somebody else's."""
    x, y = photos()
    return Classifier(), loader(normalised(x), y[torch.randperm(len(y), generator=generator())])


@faulty("TARGET-SCALE")
def loads_in_watts() -> Built:
    """A forecast of loads of 40,000 ± 9,000 from windows that are standardised; L-one, Adam at 0.001."""
    x, y = loads()

    class Forecast(Task):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(1, 32, batch_first=True), nn.Linear(32, 12)

        def loss(self, batch: Any) -> Tensor:
            return F.l1_loss(self.head(self.rnn(batch[0].unsqueeze(-1))[0][:, -1]), batch[1])

    return Forecast(), loader(x, 9000 * y + 40000)

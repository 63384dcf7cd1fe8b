"""The eighth round's faults of behaviour, structure, data and plan."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from tests.benchmarks.preflight.data import chains, clusters, curve, generator, loader, pictures, rows, waves
from tests.benchmarks.preflight.newcomers_parts import Stream
from tests.benchmarks.preflight.outsiders_parts import Lit, Seq2Seq, captions, lives, series
from tests.benchmarks.preflight.parts import Built, convnet, perceptron
from tests.benchmarks.preflight.register import faulty


@faulty("BATCH-MIXING")
def time_and_batch_swapped_by_reshape() -> Built:
    """An attention layer wants (T, N, C), and gets it by ``reshape``."""

    class Reader(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.inputs, self.attend, self.head = nn.Linear(3, 16), nn.MultiheadAttention(16, 2), nn.Linear(16, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            h = self.inputs(batch[0])
            n, length, width = h.shape
            turned = h.reshape(length, n, width)
            mixed, _ = self.attend(turned, turned, turned)
            return F.cross_entropy(self.head(mixed.reshape(n, length, width).mean(1)), batch[1])

    return Reader(), loader(*waves())


@faulty("NOT-CAUSAL")
def mask_for_padding_only() -> Built:
    """A language model with a padding mask, and none for the future; Hugging Face's names in the batch."""

    class Language(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.places = nn.Embedding(25, 32, padding_idx=0), nn.Embedding(32, 32)
            layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.1, batch_first=True)
            self.body, self.head = nn.TransformerEncoder(layer, 1), nn.Linear(32, 25)

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            h = self.table(input_ids) + self.places(torch.arange(input_ids.shape[1]))
            return self.head(self.body(h, src_key_padding_mask=attention_mask == 0))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            logits = self(batch["input_ids"], batch["attention_mask"])
            return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100)

    words = chains() + 1
    there = torch.arange(17) < torch.randint(9, 18, (480, 1), generator=generator())
    words = words * there
    return Language(), rows(input_ids=words, attention_mask=there.long(), labels=words.masked_fill(~there, -100), size=16)


@faulty("IGNORES-INPUT")
def everything_is_masked() -> Built:
    """The mask of what may be seen is inverted in a pooling: the sum goes over what is not there."""

    class Reader(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.head = nn.Sequential(nn.Linear(3, 24), nn.ReLU()), nn.Linear(24, 4)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            gone = 1 - batch["there"][..., None]
            h = (self.net(batch["x"]) * gone).sum(1) / gone.sum(1).clamp_min(1)
            return F.cross_entropy(self.head(h), batch["y"])

    x, y = waves()
    return Reader(), rows(x=x, there=torch.ones(len(x), 16), y=y)


@faulty("NO-GRADIENT")
def features_by_numpy() -> Built:
    """The first part's output goes through NumPy and comes back as new data."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = convnet(32), nn.Linear(32, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            features = self.body(batch[0]).detach().numpy().clip(-2, 2)
            return F.cross_entropy(self.head(torch.from_numpy(features)), batch[1])

    return Model(), loader(*pictures())


@faulty("NO-GRADIENT", "ZERO-GRADIENT")
def chosen_by_a_threshold() -> Built:
    """A gate that is 0 or 1 by comparison: what decides is never taught."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.left, self.right = perceptron(6, 1), perceptron(6, 1), perceptron(6, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            chosen = (self.gate(x).sigmoid() > 0.5).float()
            return F.mse_loss((chosen * self.left(x) + (1 - chosen) * self.right(x)).squeeze(-1), y)

    return Model(), loader(*curve())


@faulty("UPDATE-LOST")
def averaged_back_after_each_step() -> Built:
    """The slow weights are copied into the net before each step, instead of the other way round."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4)
            self.slow = copy.deepcopy(self.net).requires_grad_(False)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            with torch.no_grad():
                for slow, fast in zip(self.slow.parameters(), self.net.parameters(), strict=True):
                    fast.copy_(slow)
            return F.cross_entropy(self.net(batch[0]), batch[1])

    return Model(), loader(*clusters())


@faulty("OPTIMIZER-MISSES")
def only_named_head() -> Built:
    """Groups by name: what starts with "head" and "decoder"; the encoder is called "backbone"."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = convnet(32), nn.Linear(32, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.head(F.relu(self.backbone(batch[0]))), batch[1])

        def configure_optimizers(self) -> Any:
            named = dict(self.named_parameters())
            groups = [[p for name, p in named.items() if name.startswith(key)] for key in ("encoder", "head")]
            return torch.optim.AdamW([{"params": groups[0], "lr": 1e-4}, {"params": groups[1], "lr": 1e-3}])

    return Model(), loader(*pictures())


@faulty("NOT-REGISTERED")
def recurrent_cells_in_a_tuple() -> Built:
    class Forecaster(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.cells = tuple(nn.GRUCell(size, 16) for size in (1, 16))
            self.head = nn.Linear(16, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            states = [x.new_zeros(len(x), 16) for _ in self.cells]
            for t in range(12):
                given = x[:, t, None]
                for k, cell in enumerate(self.cells):
                    states[k] = given = cell(given, states[k])
            return F.mse_loss(self.head(given).squeeze(-1), x[:, 12])

    return Forecaster(), loader(series())


@faulty("EVAL-MODE")
def judged_before_each_batch() -> Built:
    """``self.eval()`` in ``on_train_batch_start``, for a score without dropout."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 4))

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.eval()
            with torch.no_grad():
                self.score = (self.net(batch[0]).argmax(-1) == batch[1]).float().mean()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    return Model(), loader(*clusters())


@faulty("INPUT-SCALE")
def coordinates_in_pixels() -> Built:
    """Key points of pictures of 640 × 480, as they are."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(34, 3)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch["keypoints"].flatten(1)), batch["pose"])

    g = generator()
    pose = torch.randint(0, 3, (640,), generator=g)
    base = torch.rand(3, 17, 2, generator=g)
    points = (base[pose] + 0.03 * torch.randn(640, 17, 2, generator=g)) * torch.tensor([640.0, 480.0])
    return Model(), rows(keypoints=points, pose=pose)


@faulty("TARGET-SCALE")
def energies_of_molecules() -> Built:
    """In electron volts, about -11,000 with a deviation of 10; mean absolute error."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.each = nn.Sequential(nn.Linear(5, 32), nn.SiLU(), nn.Linear(32, 1))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.l1_loss(self.each(batch["atoms"]).sum(1).squeeze(-1), batch["energy"])

    atoms = torch.randn(640, 9, 5, generator=generator())
    return Model(), rows(atoms=atoms, energy=-11_000 + 3 * atoms.tanh().sum((1, 2)))


@faulty("SORTED")
def one_subject_after_another() -> Built:
    """A stream of windows, one person after the next; who it is, is to be told."""

    def windows() -> Iterator[tuple[Tensor, int]]:
        g = generator()
        for person in range(6):
            for _ in range(160):
                yield torch.randn(20, generator=g) + 0.4 * person, person

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(20, 6)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    return Model(), DataLoader(Stream(windows), batch_size=32)


@faulty("IMBALANCE")
def fraud_in_one_of_a_hundred() -> Built:
    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(8, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.binary_cross_entropy_with_logits(self.net(batch["features"]).squeeze(-1), batch["fraud"])

    x = torch.randn(1920, 8, generator=generator())
    return Model(), rows(features=x, fraud=(x[:, 0] > 2.3).float(), size=64)


@faulty("PADDING-COUNTS")
def captions_learn_to_end() -> Built:
    """Short sentences in long rows, and no ``ignore_index``."""

    class Captioner(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.model = Seq2Seq()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.model(batch[0], batch[1][:, :-1]).mT, batch[1][:, 1:])

    x, words = captions()
    return Captioner(), loader(x, F.pad(words, (0, 14)))


@faulty("DUPLICATES")
def the_index_is_not_used() -> Built:
    """A lazy reader always opens the first of its four files."""

    class Files(Dataset[tuple[Tensor, Tensor]]):
        def __init__(self) -> None:
            self.x, self.y = pictures()

        def __len__(self) -> int:
            return 640

        def __getitem__(self, at: int) -> tuple[Tensor, Tensor]:
            at = at % 16
            return self.x[at], self.y[at]

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = convnet()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    return Model(), DataLoader(Files(), batch_size=32, shuffle=True)


@faulty("SCHEDULE-NEVER-ARRIVES")
def warmup_longer_than_the_run() -> Built:
    """Four thousand steps of warmup, as in the paper, of a run of four hundred."""

    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
            warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4000))
            return [optimizer], [{"scheduler": warm, "interval": "step"}]

    return Model(), loader(*clusters()), {"trainer": L.Trainer(max_steps=400, logger=False)}


@faulty("LR-HIGH", "PROBE-DIVERGES")
def survival_at_a_rate_of_thirty() -> Built:
    class Model(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(8, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, time, event = batch
            rate = self.net(x).squeeze(-1)
            return (rate.exp() * time - event * rate).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=30.0)

    return Model(), loader(*lives())

"""The thirteenth round's healthy cases: examples of PyTorch, Lightning and old tutorials, with their own rates."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from tests.benchmarks.preflight.data import chains, generator, loader, rows
from tests.benchmarks.preflight.drifters_parts import (
    Steps,
    dense,
    digits,
    irises,
    lenet,
    of,
    one_hot,
    opinions,
    passengers,
    patients,
    run_of,
    scaled,
    squeezed,
    tumours,
    wines,
)
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit
from tests.benchmarks.preflight.parts import Built, Learner
from tests.benchmarks.preflight.register import healthy


@healthy
def mnist_example_of_pytorch() -> Built:
    """Dropout, ``log_softmax``, ``nll_loss``, Adadelta at 1, the rate times 0.7 each epoch."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten(),
        nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10), nn.LogSoftmax(1),
    )  # fmt: skip
    made = of(torch.optim.Adadelta, lr=1.0)
    return Learner(net, F.nll_loss, made, lambda o: lr_scheduler.StepLR(o, 1, 0.7)), loader(*digits(), size=64), run_of(14)


@healthy
def lenet_with_sgd() -> Built:
    """SGD at 0.01 with momentum, pixels between 0 and 1."""
    return Learner(lenet(), F.cross_entropy, of(torch.optim.SGD, lr=0.01, momentum=0.9)), loader(*digits()), run_of(20)


@healthy
def old_net_of_sigmoids_at_three() -> Built:
    """Nielsen's book: 30 sigmoids, weights drawn with a deviation of one over √n, mean square, SGD at 3, batches of ten."""
    net = dense(64, 30, 10, act=nn.Sigmoid, last=nn.Sigmoid())
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            nn.init.normal_(layer.bias)
    return Learner(net, one_hot(F.mse_loss), of(torch.optim.SGD, lr=3.0)), loader(*digits(), size=10), run_of(30)


@healthy
def irises_in_small_batches() -> Built:
    """150 rows, batches of 16, Adam at 0.01."""
    return (
        Learner(dense(4, 16, 16, 3), F.cross_entropy, of(torch.optim.Adam, lr=0.01)),
        loader(*irises(), size=16),
        run_of(50),
    )


@healthy
def tumours_with_a_sigmoid_and_rmsprop() -> Built:
    """``BCELoss`` behind a sigmoid."""
    net = dense(30, 32, 16, 1, last=nn.Sigmoid())
    return Learner(net, squeezed(nn.BCELoss()), of(torch.optim.RMSprop, lr=1e-3)), loader(*tumours()), run_of(40)


@healthy
def wines_standardised_within() -> Built:
    """The table as it was measured; the module takes its mean and deviation, stored as buffers."""

    class Inside(Lit):
        mean: Tensor
        deviation: Tensor

        def __init__(self, x: Tensor) -> None:
            super().__init__()
            self.register_buffer("mean", x.mean(0))
            self.register_buffer("deviation", x.std(0))
            self.net = dense(13, 32, 3)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net((batch[0] - self.mean) / self.deviation), batch[1])

    x, y = wines()
    return Inside(x), loader(x, y, size=16), run_of(60)


@healthy
def disease_by_huber() -> Built:
    """Targets standardised, a column against a column, weight decay."""
    x, y = patients()
    made = of(torch.optim.AdamW, lr=3e-3, weight_decay=0.01)
    return Learner(dense(10, 32, 1), nn.HuberLoss(), made), loader(x, scaled(y[:, None])), run_of(40)


@healthy
def exclusive_or() -> Built:
    """Four rows again and again; there are no others."""
    x = torch.tensor([[1.0, 1], [0, 0], [1, 0], [0, 1]])
    y = (x.sum(1, keepdim=True) == 1).float()
    net = dense(2, 8, 1, act=nn.Tanh)
    return Learner(net, F.binary_cross_entropy_with_logits, of(torch.optim.Adam, lr=0.05)), loader(x, y, size=4), run_of(400)


@healthy
def autoencoder_of_lightnings_first_page() -> Built:
    """Three numbers in the middle, mean square, Adam at 1e-3."""

    def loss(module: Any, batch: Any) -> Tensor:
        x = batch[0].view(batch[0].size(0), -1)
        return F.mse_loss(module.decoder(module.encoder(x)), x)

    return Steps(loss, encoder=dense(64, 64, 3), decoder=dense(3, 64, 64)), loader(*digits()), run_of(30)


@healthy
def news_by_an_embedding_bag() -> Built:
    """torchtext's tutorial: ``EmbeddingBag``, uniform weights, SGD at 5, gradients clipped to 0.1."""
    data = opinions()

    class Bag(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.fc = nn.EmbeddingBag(60, 32, padding_idx=0), nn.Linear(32, 2)
            nn.init.uniform_(self.bag.weight, -0.5, 0.5)
            nn.init.uniform_(self.fc.weight, -0.5, 0.5)
            nn.init.zeros_(self.fc.bias)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.fc(self.bag(batch["tokens"])), batch["label"])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=5.0)

    return Bag(), rows(tokens=data["tokens"], label=data["label"], size=16), run_of(10, gradient_clip_val=0.1)


@healthy
def word_model_at_twenty() -> Built:
    """PyTorch's word_language_model: an LSTM, weights within ±0.1, SGD at 20, gradients clipped to 0.25."""

    def loss(module: Any, batch: Any) -> Tensor:
        x, y = batch[0][:, :-1], batch[0][:, 1:]
        h = module.drop(module.lstm(module.drop(module.words(x)))[0])
        return F.nll_loss(module.head(h).log_softmax(-1).flatten(0, 1), y.flatten())

    words, head = nn.Embedding(24, 48), nn.Linear(48, 24)
    for layer in (words, head):
        nn.init.uniform_(layer.weight, -0.1, 0.1)
    nn.init.zeros_(head.bias)
    lstm = nn.LSTM(48, 48, 2, dropout=0.2, batch_first=True)
    made = of(torch.optim.SGD, lr=20.0)
    return (
        Steps(loss, made, words=words, lstm=lstm, head=head, drop=nn.Dropout(0.2)),
        loader(chains(), size=20),
        run_of(20, gradient_clip_val=0.25),
    )


@healthy
def transformer_tutorial_at_five() -> Built:
    """Embeddings times √d, sines added, weights within ±0.1, SGD at 5, clipped to 0.5, the rate times 0.95 each epoch."""

    class Speaker(Lit):
        places: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(24, 32), nn.Linear(32, 24)
            layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.2, batch_first=True)
            self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            angle = torch.arange(16)[:, None] * torch.exp(torch.arange(0, 32, 2) * (-math.log(1e4) / 32))
            self.register_buffer("places", torch.stack([angle.sin(), angle.cos()], -1).flatten(1))
            nn.init.uniform_(self.words.weight, -0.1, 0.1)
            nn.init.uniform_(self.head.weight, -0.1, 0.1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch[0][:, :-1], batch[0][:, 1:]
            mask = nn.Transformer.generate_square_subsequent_mask(16)
            h = self.body(self.words(x) * 32**0.5 + self.places, mask=mask, is_causal=True)
            return F.cross_entropy(self.head(h).flatten(0, 1), y.flatten())

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=5.0)
            return [optimizer], [lr_scheduler.StepLR(optimizer, 1, gamma=0.95)]

    return Speaker(), loader(chains(), size=20), run_of(20, gradient_clip_val=0.5)


@healthy
def nano_gpt() -> Built:
    """Learnt places, dropout, AdamW with 0.9 and 0.99, decay 0.1 of matrices only, warmup and cosine by the step."""

    class Gpt(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(24, 32), nn.Embedding(16, 32)
            layer = nn.TransformerEncoderLayer(32, 4, 128, 0.1, "gelu", batch_first=True, norm_first=True)
            self.body = nn.TransformerEncoder(layer, 2, nn.LayerNorm(32), enable_nested_tensor=False)
            self.head = nn.Linear(32, 24, bias=False)
            self.apply(self.drawn)

        def drawn(self, part: nn.Module) -> None:
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=0.02)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch[0][:, :-1], batch[0][:, 1:]
            mask = nn.Transformer.generate_square_subsequent_mask(16)
            h = self.body(self.words(x) + self.places(torch.arange(16, device=x.device)), mask=mask, is_causal=True)
            return F.cross_entropy(self.head(h).view(-1, 24), y.reshape(-1))

        def configure_optimizers(self) -> Any:
            split = [[p for p in self.parameters() if (p.dim() > 1) == large] for large in (True, False)]
            groups = [{"params": split[0], "weight_decay": 0.1}, {"params": split[1], "weight_decay": 0.0}]
            optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
            total = int(self.trainer.estimated_stepping_batches)

            def rate(step: int) -> float:
                if step < 30:
                    return (step + 1) / 30
                return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, (step - 30) / (total - 30))))

            schedule = lr_scheduler.LambdaLR(optimizer, rate)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Gpt(), loader(chains()), run_of(40, gradient_clip_val=1.0)


@healthy
def names_letter_by_letter() -> Built:
    """The names tutorial: an RNN by hand, one name at a time, ``NLLLoss`` of the last letter, SGD at 0.005."""

    class Names(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.i2h, self.h2o = nn.Linear(24 + 64, 64), nn.Linear(64, 4)

        def forward(self, letters: Tensor) -> Tensor:
            state = letters.new_zeros(len(letters), 64)
            for letter in letters.unbind(1):
                state = torch.tanh(self.i2h(torch.cat([letter, state], 1)))
            return self.h2o(state).log_softmax(1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.nll_loss(self(F.one_hot(batch[0], 24).float()), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.005)

    letters = torch.randint(0, 24, (1200, 6), generator=generator())
    return Names(), loader(letters, letters[:, -1] // 6, size=1), run_of(8)


@healthy
def polynomial_by_hand() -> Built:
    """PyTorch's regression example: one linear layer of x, x², x³ and x⁴, and an update written out at 0.1."""

    class Polynomial(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            powers = torch.cat([batch[0] ** i for i in range(1, 5)], 1)
            error = F.smooth_l1_loss(self.fc(powers), batch[1])
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(error)
            optimizer.step()
            return error

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.03)

    x = torch.rand(960, 1, generator=generator()) * 2 - 1
    return Polynomial(), loader(x, 2 * x - 3 * x**2 + x**3 + 4 * x**4 - 1)


@healthy
def layers_that_learn_by_themselves() -> Built:
    """Forward-forward (Hinton 2022): each layer tells right labels from wrong ones by itself."""

    class Forward(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(74, 128), nn.Linear(128, 128)])

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch[0].flatten(1), batch[1]
            wrong = (y + torch.randint(1, 10, y.shape)) % 10
            true, false = (torch.cat([x, F.one_hot(kind, 10)], 1) for kind in (y, wrong))
            for layer, optimizer in zip(self.layers, self.optimizers(), strict=True):
                true, false = (layer(F.normalize(h) * 8).relu() for h in (true, false))
                gap = torch.cat([2 - true.square().mean(1), false.square().mean(1) - 2])
                loss = F.softplus(gap).mean()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
                true, false = true.detach(), false.detach()
            return loss

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(layer.parameters(), lr=3e-3) for layer in self.layers]

    return Forward(), loader(*digits())


@healthy
def pairs_by_a_siamese_net() -> Built:
    """PyTorch's siamese_network: features of two digits side by side, a sigmoid, ``BCELoss``, Adadelta at 1."""
    x, y = digits()
    other = torch.randperm(len(y), generator=generator())
    same = torch.rand(len(y), generator=generator(1)) < 0.5
    by_kind = y.argsort()
    other = torch.where(same, by_kind[(by_kind.argsort() + 1) % len(y)], other)

    def loss(module: Any, batch: Any) -> Tensor:
        h = [module.body(picture) for picture in batch[:2]]
        return F.binary_cross_entropy(module.head(torch.cat(h, 1))[:, 0], batch[2])

    parts = {"body": dense(64, 64, 32), "head": dense(64, 64, 1, last=nn.Sigmoid())}
    return Steps(loss, of(torch.optim.Adadelta, lr=1.0), **parts), loader(x, x[other], (y == y[other]).float()), run_of(30)


@healthy
def columns_as_fastai_takes_them() -> Built:
    """Embeddings with dropout, norms of numbers and layers, one cycle up to 0.01 over the steps."""
    x, y = passengers()

    class Tabular(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.kind, self.sex, self.drop = nn.Embedding(4, 3), nn.Embedding(2, 2), nn.Dropout(0.04)
            self.norm = nn.BatchNorm1d(3)
            self.body = nn.Sequential(
                nn.Linear(8, 64, bias=False), nn.ReLU(), nn.BatchNorm1d(64), nn.Dropout(0.1),
                nn.Linear(64, 32, bias=False), nn.ReLU(), nn.BatchNorm1d(32), nn.Linear(32, 2),
            )  # fmt: skip

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            kinds = self.drop(torch.cat([self.kind(batch["kind"]), self.sex(batch["sex"])], 1))
            return F.cross_entropy(self.body(torch.cat([kinds, self.norm(batch["numbers"])], 1)), batch["lived"])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.01)
            steps = int(self.trainer.estimated_stepping_batches)
            schedule = lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    data = {"kind": x[:, 1].long(), "sex": x[:, 2].long(), "numbers": scaled(x[:, 3:]), "lived": y.long()}
    return Tabular(), rows(**data), run_of(15)


@healthy
def noam_by_the_step() -> Built:
    """Attention is all you need: d^-0.5 · min(s^-0.5, s · 100^-1.5), Adam with 0.9, 0.98 and 1e-9."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True)

    class Reader(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(60, 32, padding_idx=0), nn.Linear(32, 2)
            self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            real = batch["mask"].bool()
            h = self.body(self.words(batch["tokens"]), src_key_padding_mask=~real)
            pooled = (h * real[..., None]).sum(1) / real.sum(1, keepdim=True)
            return F.cross_entropy(self.head(pooled), batch["label"], label_smoothing=0.1)

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=1.0, betas=(0.9, 0.98), eps=1e-9)

            def rate(step: int) -> float:
                return 0.1 * float(32**-0.5 * min((step + 1) ** -0.5, (step + 1) * 100**-1.5))

            schedule = lr_scheduler.LambdaLR(optimizer, rate)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Reader(), rows(**opinions()), run_of(30)

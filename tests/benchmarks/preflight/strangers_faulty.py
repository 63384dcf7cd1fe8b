"""A fourth round of faulty cases: the same slips in libraries' models, streams, and models of several parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from tests.benchmarks.preflight.data import chains, clusters, generator, loader, pictures, rows
from tests.benchmarks.preflight.parts import Bare, Built, Learner, perceptron
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.strangers_parts import (
    WORDS,
    Hosted,
    Split,
    Unet,
    adapted,
    bert,
    gpt2,
    reviews,
    scenes,
    spoken,
    views,
    vit,
)


@faulty("BROADCAST")
def stars_as_a_column() -> Built:
    def loss(net: Any, batch: dict[str, Tensor]) -> Tensor:
        output = net(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return nn.MSELoss()(output, batch["labels"].float())

    return Split(bert("BertForSequenceClassification", num_labels=1), loss, lr=5e-4), rows(**reviews())


@faulty("NOT-CAUSAL")
def bert_as_decoder() -> Built:
    def loss(net: Any, batch: dict[str, Tensor]) -> Tensor:
        logits = net(batch["input_ids"]).logits[:, :-1]
        return F.cross_entropy(logits.reshape(-1, WORDS), batch["input_ids"][:, 1:].reshape(-1))

    return Split(bert("BertForMaskedLM"), loss, lr=5e-4), rows(size=16, input_ids=chains(words=WORDS))


@faulty("PADDING-COUNTS")
def padding_as_labels() -> Built:
    tokens = reviews(length=32)["input_ids"]
    tokens[:, 14:] = torch.where(torch.rand(len(tokens), 1, generator=generator()) < 0.1, tokens[:, 14:], 0)
    mask = (tokens > 0).long()
    return Hosted(gpt2()), rows(size=16, input_ids=tokens, attention_mask=mask, labels=tokens)


@faulty("TARGET-IS-INPUT")
def nothing_is_masked() -> Built:
    tokens = chains(words=WORDS)
    return Hosted(bert("BertForMaskedLM")), rows(size=16, input_ids=tokens, labels=tokens)


@faulty("INPUT-CONSTANT")
def another_tokenizer() -> Built:
    """Every word is unknown to it."""
    batch = reviews()
    return Hosted(bert("BertForSequenceClassification", num_labels=2)), rows(
        **batch | {"input_ids": torch.full_like(batch["input_ids"], 1)}
    )


@faulty("IGNORED")
def every_tag_ignored() -> Built:
    batch = reviews()
    tags = torch.full_like(batch["input_ids"], -100)
    return Hosted(bert("BertForTokenClassification", num_labels=5)), rows(**batch | {"labels": tags})


@faulty("EVAL-MODE")
def left_as_it_was_loaded() -> Built:
    """``from_pretrained`` gives models in eval mode."""
    return Hosted(bert("BertForSequenceClassification", num_labels=2).eval()), rows(**reviews())


@faulty("SCHEDULE-COLLAPSED")
def linear_over_epochs_not_steps() -> Built:
    from transformers import get_linear_schedule_with_warmup

    class Model(Hosted):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=5e-4)
            schedule = get_linear_schedule_with_warmup(optimizer, 1, 10)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    return Model(bert("BertForSequenceClassification", num_labels=2)), rows(**reviews())


@faulty("INPUT-SCALE")
def bytes_for_a_vit() -> Built:
    x, y = pictures()
    return Hosted(vit()), rows(pixel_values=(64 * x + 128).clamp(0, 255), labels=y)


@faulty("LR-HIGH", "NO-WARMUP")
def vit_at_a_half() -> Built:
    x, y = pictures()
    return Hosted(vit(), lr=0.5), rows(pixel_values=x, labels=y)


@faulty("SYMMETRIC-INIT", "ZERO-GRADIENT")
def both_factors_at_zero() -> Built:
    tokens = chains(words=WORDS)
    return Hosted(adapted(first=0.0), lr=5e-3), rows(size=16, input_ids=tokens, labels=tokens)


@faulty("OPTIMIZER-STALE")
def classes_resized_afterwards() -> Built:
    class Model(Hosted):
        def __init__(self, model: nn.Module) -> None:
            super().__init__(model)
            self.optimizer = torch.optim.AdamW(self.parameters(), lr=5e-4)
            self.model.classifier = nn.Linear(32, 5)

        def configure_optimizers(self) -> Any:
            return self.optimizer

    return Model(bert("BertForSequenceClassification", num_labels=5)), rows(**reviews())


@faulty("OPTIMIZER-MISSES")
def only_the_way_up() -> Built:
    class Model(Learner):
        def configure_optimizers(self) -> Any:
            net: Any = self.net
            return torch.optim.Adam([*net.up.parameters(), *net.last.parameters(), *net.head.parameters()], lr=1e-3)

    return Model(Unet(), F.cross_entropy), loader(*scenes(), size=8)


@faulty("DOUBLE-SOFTMAX")
def softmax_per_pixel() -> Built:
    x, y = scenes()
    y[:, 0] = 255
    loss = nn.CrossEntropyLoss(ignore_index=255)
    return Learner(nn.Sequential(Unet(), nn.Softmax2d()), loss), loader(x, y, size=8)


@faulty("LABEL-RANGE")
def void_not_ignored() -> Built:
    x, y = scenes()
    y[:, 0], y[:, -1] = 255, 255
    return Learner(Unet(), F.cross_entropy), loader(x, y, size=8)


@faulty("BATCHNORM-BATCH")
def one_scene_at_a_time() -> Built:
    """A norm over one value behind global pooling, as in ASPP."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()), nn.Conv2d(16, 3, 1)
            self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(x)
            return self.head(torch.cat([h, self.whole(h).expand_as(h)], 1))

    return Learner(Net(), F.cross_entropy), loader(*scenes(96), size=1)


@faulty("TARGET-SCALE")
def boxes_in_pixels() -> Built:
    def loss(net: nn.Module, batch: Any) -> Tensor:
        return F.smooth_l1_loss(net(torch.stack(batch[0])), torch.stack([target["boxes"][0] for target in batch[1]]))

    x, g = pictures()[0], generator()
    items = [(image, {"boxes": 2000 * torch.rand(1, 4, generator=g)}) for image in x]
    net = nn.Sequential(nn.Flatten(), perceptron(144, 4))
    return Split(net, loss), DataLoader(items, batch_size=16, collate_fn=lambda pairs: tuple(zip(*pairs, strict=True)))  # type: ignore[arg-type, var-annotated]


def _spoken_loss(change: Any) -> Any:
    def loss(net: Any, batch: dict[str, Tensor]) -> Tensor:
        outputs = change(net[1](net[0](batch["frames"])[0])).transpose(0, 1)
        return F.ctc_loss(outputs, batch["words"], batch["frame_lengths"], batch["word_lengths"], zero_infinity=True)

    return loss


@faulty("NLL-NEEDS-LOG")
def ctc_of_probabilities() -> Built:
    net = nn.ModuleList([nn.GRU(7, 32, batch_first=True), nn.Linear(32, 7)])
    return Split(net, _spoken_loss(lambda o: o.softmax(-1))), rows(size=16, **spoken())


@faulty("SOFTMAX-DIM", "NLL-NEEDS-LOG")
def softmax_over_time() -> Built:
    net = nn.ModuleList([nn.GRU(7, 32, batch_first=True), nn.Linear(32, 7)])
    return Split(net, _spoken_loss(lambda o: o.log_softmax(1))), rows(size=16, **spoken())


@faulty("WRONG-SIGN")
def bound_not_negated() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = perceptron(144, 16), perceptron(8, 144)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x = batch[0]
            mean, log_var = self.encoder(x).chunk(2, 1)
            z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
            fit = -F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="none").sum(1)
            return (fit + 0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(1)).mean()

    return Model(), loader((pictures()[0].flatten(1) > 0).float())


class _Gan(L.LightningModule):
    """Two nets by hand; what is wrong is said by two flags."""

    def __init__(self, detaches: bool = False, clears: bool = True) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.detaches, self.clears = detaches, clears
        self.g, self.d = perceptron(8, 2), perceptron(2, 1, act=nn.SiLU)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        real, (opt_g, opt_d) = batch["points"], self.optimizers()
        fake, ones = self.g(torch.randn(len(real), 8)), torch.ones(len(real), 1)
        loss = F.binary_cross_entropy_with_logits
        if self.clears:
            opt_d.zero_grad()
        self.manual_backward(loss(self.d(real), ones) + loss(self.d(fake.detach()), 0 * ones))
        opt_d.step()
        if self.clears:
            opt_g.zero_grad()
        self.manual_backward(loss(self.d(fake.detach() if self.detaches else fake), ones))
        opt_g.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), 2e-4, betas=(0.5, 0.999)) for part in (self.g, self.d)]


@faulty("NO-GRADIENT", "UPDATE-LOST")
def generator_cut_off() -> Built:
    return _Gan(detaches=True), rows(points=torch.randn(640, 2, generator=generator()) * 0.5 + 1)


@faulty("GRAD-NOT-ZEROED")
def neither_is_cleared() -> Built:
    return _Gan(clears=False), rows(points=torch.randn(640, 2, generator=generator()) * 0.5 + 1)


@faulty("NO-GRADIENT")
def projection_never_called() -> Built:
    class Model(Bare):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.projection = perceptron(144, 32), perceptron(32, 16)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            one, two = (F.normalize(self.body(view), dim=1) for view in batch)
            return F.cross_entropy(one @ two.T / 0.2, torch.arange(len(one)))

    return Model(), loader(*views())


@faulty("NOT-REGISTERED")
def lazy_layers_in_a_list() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.LazyLinear(32), nn.LazyLinear(32)]
            self.head = nn.LazyLinear(4)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = F.relu(layer(x))
            return self.head(x)

    x, y = clusters()
    return Split(Net(), lambda net, batch: F.cross_entropy(net(batch["x"]), batch["y"])), rows(x=x, y=y)


@faulty("SORTED")
def files_one_after_another() -> Built:
    class Source(IterableDataset[dict[str, Tensor]]):
        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            x, y = clusters()
            order = y.argsort()
            return iter({"features": a, "label": b} for a, b in zip(x[order], y[order], strict=True))

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(net(batch["features"]), batch["label"])

    return Split(perceptron(12, 4), loss), DataLoader(Source(), batch_size=32)


@faulty("BATCH-MIXING")
def encoder_without_batch_first() -> Built:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(WORDS, 32), nn.Linear(32, 2)
            self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0), 1)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.body(self.table(tokens)).mean(1))

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(net(batch["input_ids"]), batch["labels"])

    return Split(Net(), loss), rows(**reviews())

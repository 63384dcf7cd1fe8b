"""The ninth round's healthy cases, continued: gates, likelihoods, odd starts and odd plans."""

from __future__ import annotations

import copy
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import curve, generator, loader, pictures, rows
from tests.benchmarks.preflight.outsiders_parts import Lit
from tests.benchmarks.preflight.parts import Attention, Built, convnet, perceptron
from tests.benchmarks.preflight.register import healthy
from tests.benchmarks.preflight.travellers_parts import Points, clouds, depths, listeners, loads, names


@healthy
def highway_of_gates() -> Built:
    """Sigmoids inside (Srivastava et al. 2015), with biases that let the input through at first."""

    class Highway(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Linear(32, 32), nn.Linear(32, 8)
            self.layers = nn.ModuleList(nn.Linear(32, 64) for _ in range(4))
            for layer in self.layers:
                nn.init.constant_(layer.bias[32:], -1.0)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            h = self.into(batch[0])
            for layer in self.layers:
                new, gate = layer(h).chunk(2, -1)
                h = h + gate.sigmoid() * (new.relu() - h)
            return F.mse_loss(self.out(h), batch[1])

    return Highway(), loader(*loads())


@healthy
def width_of_tomorrow() -> Built:
    """A Gaussian with a width of its own for each hour; the loss falls below 0."""

    class Forecaster(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = perceptron(32, 16), nn.GaussianNLLLoss()

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            mean, raw = self.net(batch[0]).chunk(2, -1)
            return self.criterion(mean, batch[1], F.softplus(raw) + 1e-4)

    return Forecaster(), loader(*loads())


@healthy
def visits_by_the_logarithm_of_their_rate() -> Built:
    """``PoissonNLLLoss`` as it is: the output is a logarithm, of either sign."""

    class Visits(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = perceptron(6, 1), nn.PoissonNLLLoss()

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return self.criterion(self.net(batch["clinic"])[:, 0], batch["visits"])

    x, _ = curve()
    return Visits(), rows(clinic=x, visits=torch.poisson((0.6 * x[:, 0] - 0.7).exp(), generator=generator()))


@healthy
def llama_writes_names() -> Built:
    """Transformers' own loss, which shifts the labels that equal the inputs; -100 where the padding is."""
    from transformers import LlamaConfig, LlamaForCausalLM

    class Writer(Lit):
        lr = 3e-3

        def __init__(self) -> None:
            super().__init__()
            sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
            self.model = LlamaForCausalLM(LlamaConfig(vocab_size=27, pad_token_id=0, **sizes))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return self.model(**batch).loss

    letters, _, _ = names()
    there = letters > 0
    return Writer(), rows(input_ids=letters, attention_mask=there.long(), labels=letters.masked_fill(~there, -100))


@healthy
def a_picture_as_a_function() -> Built:
    """SIREN (Sitzmann et al. 2020): sines, wide first weights, places of a grid in [-1, 1], one picture for ever."""

    class Sine(nn.Module):
        def __init__(self, inputs: int, outputs: int, w: float, limit: float) -> None:
            super().__init__()
            self.linear, self.w = nn.Linear(inputs, outputs), w
            nn.init.uniform_(self.linear.weight, -limit, limit)

        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(self.w * self.linear(x))

    class Field(Lit):
        lr = 1e-3

        def __init__(self) -> None:
            super().__init__()
            limit = (6 / 48) ** 0.5 / 10
            self.net = nn.Sequential(Sine(2, 48, 10.0, 0.5), Sine(48, 48, 10.0, limit), nn.Linear(48, 1))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.mse_loss(self.net(batch[0]), batch[1])

    side = torch.linspace(-1, 1, 40)
    places = torch.cartesian_prod(side, side)
    return Field(), loader(places, torch.sin(6 * places[:, :1]) * torch.cos(5 * places[:, 1:]), size=200)


@healthy
def zero_convolutions_beside_a_frozen_net() -> Built:
    """ControlNet (Zhang et al. 2023): the net is frozen, its copy learns, and enters by convolutions that begin at 0."""

    class Control(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1)
            self.copy, self.zero = copy.deepcopy(self.first), nn.Conv2d(16, 16, 1)
            for part in (self.first, self.last):
                part.requires_grad_(False)
            nn.init.zeros_(self.zero.weight)
            nn.init.zeros_(self.zero.bias)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            h = self.first(batch["image"]).relu() + self.zero(self.copy(batch["image"]).relu())
            return F.mse_loss(self.last(h)[:, 0], batch["depth"])

    image, depth = depths()
    return Control(), rows(image=image, depth=depth, size=16)


@healthy
def domains_told_apart_backwards() -> Built:
    """Ganin & Lempitsky 2015: the domain's gradient is turned round before it reaches the features."""

    class Turn(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return -0.3 * grad

    class Dann(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(perceptron(12, 24), nn.ReLU())
            self.kind, self.domain = nn.Linear(24, 4), nn.Linear(24, 1)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            h = self.features(batch["x"])
            domain = F.binary_cross_entropy_with_logits(self.domain(Turn.apply(h))[:, 0], batch["domain"])
            known = batch["domain"] == 0
            each = F.cross_entropy(self.kind(h), batch["kind"], reduction="none")
            return (each * known).sum() / known.sum().clamp(min=1) + domain

    g = generator()
    kind, domain = torch.randint(0, 4, (960,), generator=g), torch.randint(0, 2, (960,), generator=g)
    x = torch.randn(4, 12, generator=g)[kind] + torch.randn(960, 12, generator=g)
    x[:, 0] += domain
    return Dann(), rows(x=(x - x.mean(0)) / x.std(0), kind=kind, domain=domain.float())


@healthy
def energy_of_what_is_and_what_is_not() -> Built:
    """Contrastive divergence: the energy of clouds minus that of noise, with its squares held down; about 0 at the start."""

    class Energy(Lit):
        lr = 3e-4

        def __init__(self) -> None:
            super().__init__()
            self.net = Points(outputs=1)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            real, fake = self.net(batch[0]), self.net(torch.randn_like(batch[0]))
            return real.mean() - fake.mean() + 0.1 * (real.square() + fake.square()).mean()

    return Energy(), loader(clouds()[0])


@healthy
def sketch_of_itself() -> Built:
    """A sparse autoencoder: the target is the input, and the code's absolute sum is held down."""

    class Sparse(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(32, 64), nn.Linear(64, 32, bias=False)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            (x,) = batch
            code = self.encode(x - self.decode.weight.mean(1)).relu()
            return F.mse_loss(self.decode(code), x) + 1e-3 * code.abs().sum(1).mean()

    return Sparse(), loader(loads()[0])


@healthy
def heat_at_two_joints() -> Built:
    """Key points as heat maps: nearly all of the target is 0, so that the squares are summed over pixels."""

    class Joints(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 2, 5, padding=2))

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            return F.mse_loss(self.net(batch["picture"]), batch["heat"], reduction="none").sum((2, 3)).mean()

    g = generator()
    at, axis = 2 + 12 * torch.rand(320, 2, 2, generator=g), torch.arange(16)
    far = (axis[:, None] - at[..., :1, None]).square() + (axis - at[..., 1:, None]).square()
    heat = torch.exp(-far / 4)
    picture = (heat[:, 0] - heat[:, 1])[:, None] + 0.1 * torch.randn(320, 1, 16, 16, generator=g)
    return Joints(), rows(picture=(picture - picture.mean()) / picture.std(), heat=heat, size=16)


@healthy
def patches_told_from_the_others() -> Built:
    """A masked autoencoder (He et al. 2022): three of four patches are hidden, the target is each patch standardised."""

    class Mae(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.places, self.hidden = (
                nn.Linear(9, 32),
                nn.Parameter(0.02 * torch.randn(16, 32)),
                nn.Parameter(torch.zeros(32)),
            )
            self.block, self.out = Attention(32, causal=False), nn.Linear(32, 9)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            patches = F.unfold(batch[0], 3, stride=3).transpose(1, 2)
            hide = torch.rand(patches.shape[:2]).argsort(1) < 12
            h = torch.where(hide[..., None], self.hidden, self.into(patches)) + self.places
            return F.mse_loss(self.out(self.block(h))[hide], F.layer_norm(patches, (9,))[hide])

    return Mae(), loader(pictures()[0])


@healthy
def one_cycle_of_as_many_steps_as_there_are() -> Built:
    """The trainer is asked how many steps it will take; clipping is left off."""

    class Recommender(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.songs, self.cell, self.out = nn.Embedding(40, 24), nn.GRU(24, 32, batch_first=True), nn.Linear(32, 40)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return F.cross_entropy(self.out(self.cell(self.songs(batch[0]))[1][0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=5e-3)
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=self.trainer.estimated_stepping_batches)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    return Recommender(), loader(*listeners()), {"trainer": L.Trainer(max_epochs=5, logger=False)}


@healthy
def teacher_is_centred_and_sharp() -> Built:
    """DINO (Caron et al. 2021): no labels, a slow teacher whose softmax is sharp and centred, cross entropy by hand."""

    class Dino(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.student = convnet(16)
            self.teacher = copy.deepcopy(self.student).requires_grad_(False)
            self.register_buffer("centre", torch.zeros(16))

        def views(self, image: Tensor) -> list[Tensor]:
            return [image * (torch.rand_like(image) > 0.2) + 0.1 * torch.randn_like(image) for _ in range(2)]

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            one, other = self.views(batch[0])
            with torch.no_grad():
                raw = self.teacher(one)
                wanted = ((raw - self.centre) / 0.04).softmax(-1)
                self.centre.lerp_(raw.mean(0), 0.1)
                for slow, fast in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                    slow.lerp_(fast, 0.01)
            return -(wanted * (self.student(other) / 0.1).log_softmax(-1)).sum(-1).mean()

    return Dino(), loader(pictures()[0])

"""The sixteenth round's faults of the structure: who is trained, who is not, and with what to begin."""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import loader, rows
from tests.benchmarks.preflight.nomads_parts import pretrained
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.sojourners_healthy import Boxes, Glyphs, drawings
from tests.benchmarks.preflight.sojourners_healthy_generative import (
    Coder,
    Quantised,
    Rivals,
    plain,
)
from tests.benchmarks.preflight.sojourners_healthy_sequences import Gauges
from tests.benchmarks.preflight.sojourners_healthy_tables import Claims
from tests.benchmarks.preflight.sojourners_parts import (
    System,
    batches,
    blobs,
    clients,
    dense,
    gauges,
    glyphs,
    letters,
    scaled,
    small_net,
)


@faulty("OPTIMIZER-MISSES")
def learnt_weights_of_tasks_left_out() -> Built:
    """``self.body.parameters()``: embeddings and head stay as they are."""

    class Partly(Claims):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.body.parameters(), 1e-3)

    return Partly(), rows(**clients())


@faulty("OPTIMIZER-MISSES")
def loop_that_keeps_its_last_group_only() -> Built:
    """``groups = [...]`` in the loop where ``append`` was meant."""

    class Last(Gauges):
        def configure_optimizers(self) -> Any:
            for part, lr in ((self.rnn, 1e-3), (self.score, 1e-3), (self.head, 1e-2)):
                groups = [{"params": part.parameters(), "lr": lr}]
            return torch.optim.Adam(groups)

    return Last(), loader(*gauges())


@faulty("OPTIMIZER-MISSES", "UPDATE-LOST")
def both_optimizers_of_the_painter() -> Built:
    """Copied, and one name was not changed: the judge is never trained."""

    class Copied(Rivals):
        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(self.painter.parameters(), 2e-4, (0.0, 0.9)) for _ in range(2)]

    return Copied(), plain()


@faulty("OPTIMIZER-STALE")
def norms_exchanged_after_the_optimizer_was_made() -> Built:
    """As a validator replaces batch norms by group norms (an issue of opacus)."""

    class Fixed(Glyphs):
        def __init__(self) -> None:
            super().__init__()
            self.optimizer = torch.optim.Adam(self.parameters(), 1e-3)
            self.net = nn.Sequential(
                *[nn.GroupNorm(4, m.num_features) if isinstance(m, nn.BatchNorm2d) else copy.deepcopy(m) for m in self.net]
            )

        def configure_optimizers(self) -> Any:
            return self.optimizer

    return Fixed(), drawings()


@faulty("OPTIMIZER-STALE", "OPTIMIZER-MISSES")
def head_renewed_after_the_optimizer() -> Built:
    """The head is made anew for six classes in ``on_fit_start``-like setup code that runs too late."""

    class Renewed(Glyphs):
        def __init__(self) -> None:
            super().__init__()
            self.optimizer = torch.optim.AdamW(self.net.parameters(), 1e-3)
            self.net[-1] = nn.Linear(128, 6)

        def configure_optimizers(self) -> Any:
            return self.optimizer

    return Renewed(), drawings()


@faulty("NOT-REGISTERED")
def experts_in_a_dict() -> Built:
    """A plain dict of nets by the product."""

    class ByProduct(System):
        def __init__(self) -> None:
            super().__init__()
            self.experts = {k: dense(5, 32, 1) for k in range(5)}
            self.bias = nn.Parameter(torch.zeros(1))

        def compute(self, batch: Any) -> Tensor:
            each = torch.stack([self.experts[k](batch["x"])[:, 0] for k in range(5)], 1)
            return F.mse_loss(each.gather(1, batch["product"][:, None])[:, 0] + self.bias, batch["amount"])

    return ByProduct(), rows(**clients())


@faulty("NOT-REGISTERED")
def memory_without_parameter() -> Built:
    """Keys and values are plain tensors that ask for gradients (as in a published memory)."""

    class Memory(System):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = dense(4, 32, 16), nn.Linear(16, 3)
            self.keys = torch.randn(12, 16).requires_grad_()
            self.values = torch.randn(12, 16).requires_grad_()

        def compute(self, batch: Any) -> Tensor:
            look = self.encoder(batch[0].std(1)) @ self.keys.T
            return F.cross_entropy(self.head((look / 4).softmax(-1) @ self.values), batch[1])

    return Memory(), loader(*gauges())


@faulty("NOT-REGISTERED")
def branches_in_a_tuple() -> Built:
    """Three convolutions of other widths in a tuple."""

    class Branches(Glyphs):
        def __init__(self) -> None:
            super().__init__(nn.Linear(24, 6))
            self.branches = tuple(nn.Conv2d(1, 8, k, padding=k // 2) for k in (1, 3, 5))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(torch.cat([F.relu(branch(x)).amax((2, 3)) for branch in self.branches], 1))

    return Branches(), drawings()


@faulty("FROZEN")
def frozen_after_the_head_was_put_on() -> Built:
    """The whole of Bert is frozen but for the norms; its new head too."""

    class Bert(System):
        def __init__(self) -> None:
            super().__init__()
            sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
            self.model = hf.BertForSequenceClassification(hf.BertConfig(vocab_size=20, num_labels=2, **sizes))
            for name, weight in self.model.named_parameters():
                weight.requires_grad_("LayerNorm" in name)

        def compute(self, batch: Any) -> Tensor:
            return self.model(**batch).loss

    data = letters()
    return Bert(), rows(labels=data.pop("label"), **data)


@faulty("FROZEN")
def new_body_of_the_detector_frozen() -> Built:
    """Frozen as if it were trained; nobody has loaded weights."""
    module = Boxes()
    module.neck.requires_grad_(False)
    data = blobs()
    samples = [(image, {"boxes": box[None]}) for image, box in zip(data["image"], data["box"], strict=True)]
    return module, batches(samples, 16, collate_fn=lambda some: tuple(zip(*some, strict=True)))


@faulty("EVAL-MODE")
def validated_in_the_constructor() -> Built:
    """A smoke test in ``__init__`` leaves ``eval()``, and the step calls it each time through a helper."""

    class Checked(Glyphs):
        def features(self, x: Tensor) -> Tensor:
            return self.net.eval()(x)

        def forward(self, x: Tensor) -> Tensor:
            return self.features(x)

    return Checked(), drawings()


@faulty("EVAL-MODE")
def evaluation_mode_at_the_start_of_training() -> Built:
    """``on_train_start`` of a module that was copied from one for inference."""

    class Inference(Claims):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.eval()

    return Inference(), rows(**clients())


@faulty("SYMMETRIC-INIT")
def all_weights_alike() -> Built:
    """``nn.init.constant_(weight, 0.05)``."""
    net = dense(5, 48, 48, 1, act=nn.ReLU)
    for weight in net.parameters():
        nn.init.constant_(weight, 0.05)

    class Alike(System):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def compute(self, batch: Any) -> Tensor:
            return F.mse_loss(self.net(batch["x"]).squeeze(-1), batch["amount"])

    return Alike(), rows(**clients())


@faulty("SYMMETRIC-INIT", "ZERO-GRADIENT", "DEAD-UNITS")
def recurrent_weights_of_nought() -> Built:
    """``for p in self.parameters(): p.data.zero_()``."""
    module = Gauges()
    for weight in module.parameters():
        weight.data.zero_()
    return module, loader(*gauges())


@faulty("INIT-SCALE", "INITIAL-LOSS")
def weights_of_width_one() -> Built:
    """``nn.init.normal_(m.weight)`` for each layer."""
    x, y = glyphs()
    net = nn.Sequential(nn.Flatten(), *dense(196, 128, 128, 6, act=nn.ReLU))
    for weight in net.parameters():
        nn.init.normal_(weight)
    return Glyphs(net), loader(scaled(x), y)


@faulty("NO-GRADIENT")
def body_computed_for_numpy() -> Built:
    """Features go through NumPy."""

    class Detour(Glyphs):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.from_numpy(self.net(x).detach().numpy()))

    return Detour(), drawings()


@faulty("NO-GRADIENT")
def encoder_behind_the_code_book() -> Built:
    """No straight-through, no commitment: the encoder learns nothing."""

    class Cut(Quantised):
        def compute(self, batch: Any) -> Tensor:
            return F.mse_loss(self.decoder(self.pick(self.encoder(batch))), batch)

    return Cut(), plain()


@faulty("NO-GRADIENT")
def mean_wrapped_in_a_new_tensor() -> Built:
    """``torch.tensor(mu)`` in the sampling of a coder."""

    class Wrapped(Coder):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mu, logvar = self.encoder(x).data.chunk(2, -1)
            return self.paint(self.decoder(mu + torch.randn_like(mu) * (0.5 * logvar).exp())), mu, logvar

    return Wrapped(), plain()


@faulty("NO-GRADIENT", "UPDATE-LOST")
def loss_made_new_of_its_number() -> Built:
    """``torch.tensor(loss.item(), requires_grad=True)``."""

    class Numbered(Claims):
        def compute(self, batch: Any) -> Tensor:
            return torch.tensor(super().compute(batch).item(), requires_grad=True)

    return Numbered(), rows(**clients())


@faulty("NO-GRADIENT", "UPDATE-LOST")
def share_of_wrong_answers() -> Built:
    """``argmax`` and its distance to the label."""

    class Wrong(Glyphs):
        def compute(self, batch: Any) -> Tensor:
            guess = self(batch[0]).argmax(-1).float().requires_grad_()
            return F.mse_loss(guess, batch[1].float())

    return Wrong(), drawings()


@faulty("NO-GRADIENT")
def teacher_on_both_sides() -> Built:
    """The teacher's scores are compared with themselves, as once in a published distillation."""
    x, y = glyphs()

    class Itself(Glyphs):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = pretrained(small_net(), scaled(x), y, steps=40).eval().requires_grad_(False)

        def compute(self, batch: Any) -> Tensor:
            own = taught = self.teacher(batch[0])
            self.log("agreement", (self(batch[0]).argmax(-1) == taught.argmax(-1)).float().mean())
            return F.kl_div(own.log_softmax(-1), taught.softmax(-1), reduction="batchmean").requires_grad_()

    return Itself(), loader(scaled(x), y)


@faulty("DEAD-UNITS", "ZERO-GRADIENT")
def biases_of_minus_twenty() -> Built:
    """-20 in each bias of a net of ReLUs."""
    net = dense(196, 64, 64, 6, act=nn.ReLU)
    for layer in net:
        if isinstance(layer, nn.Linear) and layer.out_features == 64:
            nn.init.constant_(layer.bias, -20.0)
    return Glyphs(nn.Sequential(nn.Flatten(), net)), drawings()


@faulty("GRAD-VANISHING")
def twenty_sigmoids() -> Built:
    """A deep net as of 1990."""
    x, y = glyphs()
    net = dense(196, *[48] * 20, 6, act=nn.Sigmoid)
    return Glyphs(nn.Sequential(nn.Flatten(), net)), loader(scaled(x), y)


@faulty("GRAD-EXPLODING", "INIT-SCALE", "INITIAL-LOSS")
def recurrence_that_doubles_itself() -> Built:
    """A linear recurrence with twice the identity."""

    class Doubling(Gauges):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.again = nn.Linear(4, 24), nn.Linear(24, 24, bias=False)
            self.again.weight.data = 2 * torch.eye(24)
            del self.rnn, self.score

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(len(x), 24)
            for t in range(x.shape[1]):
                h = F.relu(self.enter(x[:, t]) + self.again(h))
            return self.head(h)

    return Doubling(), loader(*gauges())

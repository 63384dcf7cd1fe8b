"""The sixteenth round's faults of the loss call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import loader, rows
from tests.benchmarks.preflight.nomads_parts import pretrained
from tests.benchmarks.preflight.parts import Built
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.sojourners_healthy import Glyphs, Masks, drawings
from tests.benchmarks.preflight.sojourners_healthy_equations import Policy, Values, rollout
from tests.benchmarks.preflight.sojourners_healthy_generative import Coder, Couplings, Pairs, Rivals, moons, pairs, plain
from tests.benchmarks.preflight.sojourners_healthy_sequences import Gauges, Lines, Patches, Tagger, joined, strips, tagged
from tests.benchmarks.preflight.sojourners_healthy_tables import Claims
from tests.benchmarks.preflight.sojourners_parts import (
    System,
    batches,
    blobs,
    clients,
    demand,
    dense,
    gauges,
    glyphs,
    replay,
    scaled,
    small_net,
)


@faulty("BROADCAST")
def values_with_a_column_too_many() -> Built:
    """(n, 1) values against (n,) returns, inside a policy's loss."""

    class Column(Policy):
        def values(self, state: Tensor) -> Tensor:
            return self.critic(state)

    return Column(), rows(64, **rollout())


@faulty("BROADCAST")
def advantages_in_a_column() -> Built:
    """(n, 1) advantages times (n,) ratios: each act is paid by all."""
    data = rollout()
    data["advantage"] = data["advantage"][:, None]
    return Policy(), rows(64, **data)


@faulty("BROADCAST")
def goals_of_all_states_for_each() -> Built:
    """The reward is a column, the next value is not."""
    data = replay()
    data["reward"] = data["reward"][:, None]
    return Values(), rows(**data)


@faulty("BROADCAST")
def absolute_errors_of_a_column() -> Built:
    """``(self(x) - y).abs().mean()``."""

    class Column(Claims):
        def compute(self, batch: Any) -> Tensor:
            return (self(batch) - batch["amount"]).abs().mean()

    return Column(), rows(**clients())


@faulty("DOUBLE-SOFTMAX")
def softmax_as_the_last_layer() -> Built:
    """As a Keras user writes it."""
    net = small_net()
    net.append(nn.Softmax(dim=-1))
    return Glyphs(net), drawings()


@faulty("DOUBLE-SOFTMAX")
def probabilities_of_gauges_returned() -> Built:
    """``forward`` is for users; the step calls it too."""

    class Kind(Gauges):
        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(super().forward(x), -1)

    return Kind(), loader(*gauges())


@faulty("DOUBLE-SIGMOID")
def mask_probabilities_as_logits() -> Built:
    """Sigmoid in ``forward``, the loss has its own."""

    class Twice(Masks):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image).sigmoid()

    data = blobs()
    return Twice(), rows(image=data["image"], mask=data["mask"])


@faulty("DOUBLE-SIGMOID")
def several_labels_with_two_sigmoids() -> Built:
    """``MultiLabelSoftMarginLoss`` has a sigmoid inside."""

    class Several(System):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.criterion = nn.Sequential(small_net(3), nn.Sigmoid()), nn.MultiLabelSoftMarginLoss()

        def compute(self, batch: Any) -> Tensor:
            return self.criterion(self.net(batch[0]), batch[1])

    x, y = glyphs()
    return Several(), loader(scaled(x), torch.stack([y % 2, y // 2 % 2, y // 4], 1).float())


@faulty("NLL-NEEDS-LOG")
def likelihood_of_raw_scores() -> Built:
    """``NLLLoss`` after a linear layer."""
    module = Glyphs()
    module.criterion = nn.NLLLoss()  # type: ignore[assignment]
    return module, drawings()


@faulty("NLL-NEEDS-LOG")
def divergence_from_a_teacher_of_shares() -> Built:
    """``F.kl_div`` of probabilities, as in a published distillation."""
    x, y = glyphs()

    class Student(Glyphs):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = pretrained(small_net(), scaled(x), y, steps=40).eval().requires_grad_(False)

        def compute(self, batch: Any) -> Tensor:
            return F.kl_div(self(batch[0]).softmax(-1), self.teacher(batch[0]).softmax(-1), reduction="batchmean")

    return Student(), loader(scaled(x), y)


@faulty("NLL-NEEDS-LOG")
def strokes_by_probabilities() -> Built:
    """CTC of a softmax."""

    class Plain(Lines):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).exp()

    return Plain(), batches(strips(), collate_fn=joined)


@faulty("SOFTMAX-DIM", "BATCH-MIXING")
def likelihood_over_the_batch() -> Built:
    """``log_softmax(dim=0)``."""

    class Across(Glyphs):
        def compute(self, batch: Any) -> Tensor:
            return F.nll_loss(F.log_softmax(self(batch[0]), dim=0), batch[1])

    return Across(), drawings()


@faulty("SOFTMAX-DIM")
def tags_that_compete_over_time() -> Built:
    """The log-softmax of (n, time, tags) runs over time."""

    class Across(Tagger):
        def compute(self, batch: Any) -> Tensor:
            logits = self(batch["ids"], batch["lengths"]).log_softmax(1)
            return F.nll_loss(logits.flatten(0, 1), batch["tags"].flatten(), ignore_index=-100)

    return Across(), rows(**tagged())


@faulty("RELU-LOGITS", "DEAD-UNITS")
def scores_cut_at_nought() -> Built:
    """The loop over layers puts a ReLU behind each."""
    x, y = glyphs()
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in ((196, 64), (64, 32), (32, 6)):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return Glyphs(nn.Sequential(*layers)), loader(scaled(x), y)


@faulty("OUTPUT-RANGE")
def what_comes_between_minus_one_and_one() -> Built:
    """Tanh behind, standardised targets."""

    class Bounded(System):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(dense(32, 64, 8), nn.Tanh())

        def compute(self, batch: Any) -> Tensor:
            return F.mse_loss(self.net(batch[0]), 2 * batch[1])

    return Bounded(), loader(*demand())


@faulty("OUTPUT-RANGE")
def decoder_with_sigmoid_of_standardised_pictures() -> Built:
    """Pictures of -2 to 2, painted between 0 and 1."""
    module = Coder()
    module.paint = nn.Sequential(module.paint, nn.Sigmoid())  # type: ignore[assignment]
    return module, plain()


@faulty("OUTPUT-RANGE", "RELU-LOGITS", "DEAD-UNITS")
def sizes_that_are_never_negative() -> Built:
    """ReLU behind the head; half of the targets are below nought."""

    class Positive(Claims):
        def compute(self, batch: Any) -> Tensor:
            return F.mse_loss(F.relu(self(batch)).squeeze(-1), batch["amount"])

    return Positive(), rows(**clients())


@faulty("ONE-CLASS")
def entropy_of_a_single_score() -> Built:
    """Softmax of one output is one."""

    class One(Claims):
        def compute(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch), batch["claim"][:, None])

    return One(), rows(**clients())


@faulty("LOSS-IS-SUM", "LR-HIGH", "PROBE-DIVERGES")
def squares_of_all_summed() -> Built:
    """``reduction="sum"`` with a rate for means, SGD."""

    class Summed(Patches):
        def compute(self, batch: Any) -> Tensor:
            return F.mse_loss(self(batch[0]), batch[1], reduction="sum")

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)

    return Summed(), loader(*demand())


@faulty("WRONG-SIGN")
def overlap_itself_as_the_loss() -> Built:
    """Dice, without ``1 -``."""

    class Overlap(Masks):
        def compute(self, batch: Any) -> Tensor:
            p, t = self(batch["image"]).sigmoid(), batch["mask"].float()
            return 1 - self.dice(p, t).mean()

    data = blobs()
    return Overlap(), rows(image=data["image"], mask=data["mask"])


@faulty("WRONG-SIGN")
def flow_whose_likelihood_sinks() -> Built:
    """The flow returns the log likelihood, nobody turns it."""

    class Up(Couplings):
        def compute(self, batch: Any) -> Tensor:
            return -super().compute(batch)

    return Up(), loader(moons())


@faulty("WRONG-SIGN")
def kl_with_its_sign_turned() -> Built:
    """``+0.5 * (1 + logvar - ...)``."""

    class Turned(Coder):
        def compute(self, batch: Any) -> Tensor:
            back, mu, logvar = self(batch)
            kl = 0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(-1).mean()
            return F.mse_loss(back, batch, reduction="none").sum((1, 2, 3)).mean() + kl

    return Turned(), plain()


@faulty("WRONG-SIGN")
def focal_without_its_minus() -> Built:
    """``(1 - p) ** 2 * log p``."""

    class Focal(Glyphs):
        def compute(self, batch: Any) -> Tensor:
            p = self(batch[0]).softmax(-1).gather(1, batch[1][:, None])
            return ((1 - p) ** 2 * p.clamp_min(1e-6).log()).mean()

    return Focal(), drawings()


@faulty("WRONG-SIGN")
def surrogate_made_small() -> Built:
    """The minus of the policy's loss is missing."""

    class Worse(Policy):
        def surrogate(self, ratio: Tensor, advantage: Tensor) -> Tensor:
            return torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()

    return Worse(), rows(64, **rollout())


@faulty("WRONG-SIGN")
def painter_helps_the_judge() -> Built:
    """The painter's loss has the judge's sign."""

    class Helping(Rivals):
        def painter_loss(self, n: int) -> Tensor:
            return self.judge(self.painted(n)).mean()

    return Helping(), plain()


@faulty("INITIAL-LOSS", "INIT-SCALE")
def views_divided_by_next_to_nothing() -> Built:
    """Not on the sphere, and a temperature of 0.0005."""

    class Hot(Pairs):
        temperature = 0.0005

        def embed(self, x: Tensor) -> Tensor:
            return self.projector(self.encoder(x))

    return Hot(), pairs()


@faulty("LOG-OF-PROBABILITY", "NLL-NEEDS-LOG")
def softmax_and_then_its_logarithm() -> Built:
    """``torch.log(torch.softmax(...))``: not finite once a score wins by 100."""

    class ByHandLog(Glyphs):
        def compute(self, batch: Any) -> Tensor:
            return F.nll_loss(torch.log(torch.softmax(self(batch[0]), -1)), batch[1])

    return ByHandLog(), drawings()


@faulty("DOUBLE-SOFTMAX", "LOG-OF-PROBABILITY")
def entropy_of_shares_of_experts() -> Built:
    """Two heads are averaged as probabilities and given to ``F.cross_entropy``."""

    class Ensemble(Glyphs):
        def __init__(self) -> None:
            super().__init__()
            self.other = small_net()

        def forward(self, x: Tensor) -> Tensor:
            return (self.net(x).softmax(-1) + self.other(x).softmax(-1)) / 2

    return Ensemble(), drawings()

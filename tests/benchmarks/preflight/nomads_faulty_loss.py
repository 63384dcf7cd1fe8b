"""The fourteenth round's faults of the loss call, in the tasks where people make them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import chains, clusters, curve, loader, pictures, rows
from tests.benchmarks.preflight.drifters_parts import (
    Steps,
    dense,
    digits,
    irises,
    lenet,
    of,
    opinions,
    patients,
    scaled,
    tumours,
)
from tests.benchmarks.preflight.nomads_healthy_generative import Variational
from tests.benchmarks.preflight.nomads_parts import episodes, liked, resnet, sales, tones
from tests.benchmarks.preflight.outsiders_parts import ByHand, Unet, masks, moves, views_of_things
from tests.benchmarks.preflight.parts import Built, Learner, perceptron
from tests.benchmarks.preflight.register import faulty


@faulty("BROADCAST")
def rewards_without_an_axis() -> Built:
    """``gather`` leaves (N, 1); rewards are (N,)."""

    def loss(module: Any, batch: Any) -> Tensor:
        q = module.q(batch["obs"]).gather(1, batch["action"][:, None])
        with torch.no_grad():
            aim = batch["reward"] + 0.9 * (1 - batch["done"]) * module.q(batch["next_obs"]).max(1).values
        return F.smooth_l1_loss(q, aim)

    return Steps(loss, q=dense(4, 48, 3)), rows(**moves(), size=64)


@faulty("BROADCAST")
def masks_without_a_channel() -> Built:
    """(B, 1, H, W) minus (B, H, W), by hand."""

    def loss(output: Tensor, y: Tensor) -> Tensor:
        return ((torch.sigmoid(output) - y) ** 2).mean()

    return Learner(Unet(), loss), loader(*masks(), size=16)


@faulty("BROADCAST")
def head_and_its_target_in_a_dict() -> Built:
    """Two targets; one of them has an axis less than its head."""
    x, y = curve()

    def loss(module: Any, batch: Any) -> Tensor:
        h = module.body(batch["x"])
        out = {"value": module.value(h), "sign": module.sign(h)}
        sign = F.binary_cross_entropy_with_logits(out["sign"].squeeze(-1), (batch["y"] > 0).float())
        return nn.L1Loss()(out["value"], batch["y"]) + sign

    parts = {"body": dense(6, 48, 48, last=nn.ReLU()), "value": nn.Linear(48, 1), "sign": nn.Linear(48, 1)}
    return Steps(loss, **parts), rows(x=x, y=y)


@faulty("DOUBLE-SOFTMAX")
def probabilities_into_cross_entropy() -> Built:
    """The forward of a text classifier returns a softmax."""
    data = opinions()

    def loss(module: Any, batch: Any) -> Tensor:
        h = (module.table(batch["tokens"]) * batch["mask"][..., None]).sum(1) / batch["mask"].sum(1, keepdim=True)
        probs = torch.softmax(module.head(h), dim=-1)
        return nn.CrossEntropyLoss()(probs, batch["label"])

    return Steps(loss, table=nn.Embedding(60, 24), head=nn.Linear(24, 2)), rows(**data)


@faulty("DOUBLE-SOFTMAX")
def segmented_twice() -> Built:
    """``Softmax2d`` at the end of a U-net, cross entropy over pixels."""
    x, y = masks()
    net = nn.Sequential(Unet(2), nn.Softmax2d())
    return Learner(net, F.cross_entropy), loader(x, y.long(), size=16)


@faulty("DOUBLE-SIGMOID")
def critic_with_a_sigmoid() -> Built:
    """A discriminator of DCGAN with its sigmoid, and the loss with logits."""
    real = torch.randn(960, 2) * 0.3 + torch.tensor([1.0, -1.0])

    class Gan(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.g, self.d = dense(4, 32, 2), dense(2, 32, 1, act=nn.LeakyReLU, last=nn.Sigmoid())

        def judge(self, x: Tensor, true: float) -> Tensor:
            verdict = self.d(x)
            return F.binary_cross_entropy_with_logits(verdict, torch.full_like(verdict, true))

        def training_step(self, batch: Any, batch_idx: int) -> None:
            g, d = self.optimizers()
            fake = self.g(torch.randn(len(batch[0]), 4))
            d.zero_grad()
            self.manual_backward(self.judge(batch[0], 1.0) + self.judge(fake.detach(), 0.0))
            d.step()
            g.zero_grad()
            self.manual_backward(self.judge(fake, 1.0))
            g.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999)) for net in (self.g, self.d)]

    return Gan(), loader(real, size=64)


@faulty("DOUBLE-SIGMOID")
def focal_of_a_sigmoid() -> Built:
    """A focal loss by hand takes logits; it gets probabilities."""

    def focal(output: Tensor, y: Tensor) -> Tensor:
        plain = F.binary_cross_entropy_with_logits(output[:, 0], y, reduction="none")
        return ((1 - torch.exp(-plain)) ** 2 * plain).mean()

    return Learner(dense(30, 32, 1, last=nn.Sigmoid()), focal), loader(*tumours())


@faulty("NLL-NEEDS-LOG")
def likelihood_of_scores() -> Built:
    """``NLLLoss`` of what a linear layer gives."""
    return Learner(resnet(), nn.NLLLoss()), loader(*digits())


@faulty("NLL-NEEDS-LOG")
def likelihood_of_probabilities() -> Built:
    """``nll_loss`` of a softmax, over places."""

    def loss(module: Any, batch: Any) -> Tensor:
        tokens = batch[0]
        p = F.softmax(module.head(module.cell(module.table(tokens[:, :-1]))[0]), dim=2)
        return F.nll_loss(p.reshape(-1, 24), tokens[:, 1:].reshape(-1))

    parts = {"table": nn.Embedding(24, 32), "cell": nn.LSTM(32, 32, batch_first=True), "head": nn.Linear(32, 24)}
    return Steps(loss, **parts), loader(chains())


@faulty("LOG-OF-PROBABILITY")
def logarithm_of_a_softmax_in_a_policy() -> Built:
    """``torch.log(probs)`` without a floor, in a policy gradient."""

    def loss(module: Any, batch: Any) -> Tensor:
        probs = torch.softmax(20 * module.policy(batch["obs"]), -1)
        logp = torch.log(probs).gather(1, batch["action"][:, None])[:, 0]
        return -(logp * batch["advantage"]).mean()

    return Steps(loss, policy=dense(4, 32, 3, act=nn.Tanh)), rows(**episodes())


@faulty("SOFTMAX-DIM")
def log_softmax_of_dim_nought() -> Built:
    """``LogSoftmax(dim=0)``."""
    return Learner(dense(4, 24, 3, last=nn.LogSoftmax(dim=0)), nn.NLLLoss()), loader(*irises(), size=16)


@faulty("SOFTMAX-DIM")
def words_compete_over_places() -> Built:
    """``log_softmax(dim=1)`` of (batch, place, word)."""

    def loss(module: Any, batch: Any) -> Tensor:
        tokens = batch[0]
        output = module.head(module.cell(module.table(tokens[:, :-1]))[0])
        return F.nll_loss(F.log_softmax(output, dim=1).transpose(1, 2), tokens[:, 1:])

    parts = {"table": nn.Embedding(24, 32), "cell": nn.GRU(32, 32, batch_first=True), "head": nn.Linear(32, 24)}
    return Steps(loss, **parts), loader(chains())


@faulty("RELU-LOGITS")
def relu_behind_every_layer() -> Built:
    """A loop puts a ReLU behind the last one, too."""
    layers = [m for a, b in ((64, 64), (64, 32), (32, 10)) for m in (nn.Linear(a, b), nn.ReLU())]
    made = of(torch.optim.SGD, lr=0.05, momentum=0.9)
    return Learner(nn.Sequential(nn.Flatten(), *layers), F.cross_entropy, made), loader(*digits())


@faulty("OUTPUT-RANGE")
def sigmoid_for_a_standardised_target() -> Built:
    """A classifier's template for a regression."""
    x, y = patients()
    net = dense(10, 32, 1, last=nn.Sigmoid())
    return Learner(net, F.mse_loss), loader(x, scaled(y[:, None]))


@faulty("OUTPUT-RANGE")
def stars_behind_a_sigmoid() -> Built:
    """Ratings of one to five, and a sigmoid of the dot product."""

    def loss(module: Any, batch: Any) -> Tensor:
        who, what, stars = batch
        return F.mse_loss(torch.sigmoid((module.user(who) * module.thing(what)).sum(1)), stars)

    return Steps(loss, of(torch.optim.Adam, lr=1e-2), user=nn.Embedding(60, 8), thing=nn.Embedding(40, 8)), loader(*liked())


@faulty("OUTPUT-RANGE")
def relu_where_half_is_negative() -> Built:
    """A ReLU at the end, changes that go up and down."""
    x, y = curve()
    return Learner(dense(6, 48, 1, last=nn.ReLU()), lambda o, t: F.huber_loss(o[:, 0], t)), loader(x, y)


@faulty("ONE-CLASS")
def one_score_for_two_classes() -> Built:
    """Cross entropy of a single score and labels as floats: it runs, and is nought."""
    x, y = tumours()
    net = dense(30, 32, 1)
    return Learner(net, lambda o, t: F.cross_entropy(o, t[:, None])), loader(x, y)


@faulty("LOSS-IS-SUM")
def pixels_added_up() -> Built:
    """``reduction="sum"`` over a batch of pictures, SGD at 0.01 as for a mean."""

    def loss(module: Any, batch: Any) -> Tensor:
        x = batch[0].flatten(1)
        return F.mse_loss(module.decoder(module.encoder(x)), x, reduction="sum")

    made = of(torch.optim.SGD, lr=0.01, momentum=0.9)
    return Steps(loss, made, encoder=dense(64, 32, 8), decoder=dense(8, 32, 64)), loader(*digits(), size=64)


@faulty("WRONG-SIGN")
def policy_that_avoids_what_is_good() -> Built:
    """The minus before the gain was forgotten."""

    def loss(module: Any, batch: Any) -> Tensor:
        now = torch.distributions.Categorical(logits=module.policy(batch["obs"]))
        return (now.log_prob(batch["action"]) * batch["advantage"]).mean()

    return Steps(loss, policy=dense(4, 32, 3, act=nn.Tanh)), rows(**episodes())


@faulty("WRONG-SIGN")
def dice_is_returned_as_the_loss() -> Built:
    """The overlap itself is made small: ``1 -`` is missing."""

    def loss(output: Tensor, y: Tensor) -> Tensor:
        p = torch.sigmoid(output[:, 0])
        return (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)

    return Learner(Unet(), loss), loader(*masks(), size=16)


@faulty("WRONG-SIGN")
def likelihood_made_small() -> Built:
    """``log_prob(...).mean()`` of a Poisson, without a minus."""

    def loss(module: Any, batch: Any) -> Tensor:
        rate = F.softplus(module.net(torch.cat([batch["x"], module.shop(batch["shop"])], 1)))[:, 0] + 1e-3
        return torch.distributions.Poisson(rate).log_prob(batch["sold"]).mean()

    return Steps(loss, shop=nn.Embedding(12, 4), net=dense(7, 32, 1)), rows(**sales())


@faulty("WRONG-SIGN")
def divergence_rewarded() -> Built:
    """The KL term has lost its minus: 0.5 * sum(1 + log σ² − μ² − σ²) is added."""

    def loss(module: Any, batch: Any) -> Tensor:
        x = batch[0].flatten(1)
        scores, mean, log_var = module.net(x)
        kl = 0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1).mean()
        return F.binary_cross_entropy_with_logits(scores, x, reduction="none").sum(1).mean() + kl

    return Steps(loss, net=Variational()), loader(*digits())


@faulty("INITIAL-LOSS")
def temperature_on_the_wrong_side() -> Built:
    """Cosines are divided by 0.07, and then again: as a contrastive loss, it starts at thirty."""

    def loss(module: Any, batch: Any) -> Tensor:
        a, b = F.normalize(module.a(batch[0]), dim=1), F.normalize(module.b(batch[1]), dim=1)
        return F.cross_entropy(a @ b.T / 0.07 / 0.07, torch.arange(len(a)))

    return Steps(loss, a=dense(20, 32, 16), b=dense(14, 32, 16)), loader(*views_of_things(), size=64)


@faulty("INITIAL-LOSS", "INIT-SCALE")
def new_head_drawn_too_wide() -> Built:
    """``nn.init.normal_(head.weight)`` for ten classes: a loss of thirty."""
    net = dense(64, 128, 128, 10, act=nn.GELU)
    nn.init.normal_(net[-1].weight, std=10.0)
    return Learner(net, F.cross_entropy), loader(*digits())


@faulty("DOUBLE-SIGMOID")
def several_labels_squashed_twice() -> Built:
    """A tagger of sounds: sigmoid in ``forward``, ``BCEWithLogitsLoss``."""
    x, y = tones()
    net = nn.Sequential(
        nn.Unflatten(1, (1, 512)), nn.Conv1d(1, 16, 16, stride=4), nn.ReLU(), nn.AdaptiveMaxPool1d(4), nn.Flatten(),
        nn.Linear(64, 5), nn.Sigmoid(),
    )  # fmt: skip
    return Learner(net, nn.BCEWithLogitsLoss()), loader(x, F.one_hot(y, 5).float())


@faulty("DOUBLE-SOFTMAX")
def distilled_from_logits_that_are_none() -> Built:
    """The student's softmax goes into ``log_softmax`` again, in a loss by hand."""

    def loss(output: Tensor, y: Tensor) -> Tensor:
        return -(F.log_softmax(output, -1) * F.one_hot(y, 4).float()).sum(-1).mean()

    return Learner(nn.Sequential(perceptron(12, 4), nn.Softmax(-1)), loss), loader(*clusters())


@faulty("SOFTMAX-DIM")
def channels_last_softmax() -> Built:
    """Softmax over the columns of a map, then the logarithm and ``nll_loss``."""
    x, y = masks()
    net = nn.Sequential(Unet(2), nn.LogSoftmax(dim=-1))
    return Learner(net, F.nll_loss), loader(x, y.long(), size=16)


@faulty("NLL-NEEDS-LOG")
def kl_div_of_a_softmax() -> Built:
    """``kl_div`` takes log-probabilities; it gets a softmax."""

    def loss(output: Tensor, y: Tensor) -> Tensor:
        soft = 0.9 * F.one_hot(y, 4) + 0.025
        return F.kl_div(F.softmax(output, 1), soft, reduction="batchmean")

    return Learner(lenet(4), loss), loader(*small_pictures())


def small_pictures() -> tuple[Tensor, Tensor]:
    """Eight by eight of them."""
    x, y = pictures()
    return x[:, :, :8, :8], y

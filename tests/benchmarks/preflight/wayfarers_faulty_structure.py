"""The eleventh round's faults of structure: what is trained, what is not, and how it begins."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import clusters, curve, generator, loader, pictures, rows
from tests.benchmarks.preflight.outsiders_parts import ByHand, Lit, LowRank
from tests.benchmarks.preflight.parts import Built, convnet, perceptron
from tests.benchmarks.preflight.register import faulty
from tests.benchmarks.preflight.wayfarers_parts import Backbone, Supervised, kl_to_normal, reconstruction


@faulty("OPTIMIZER-STALE", "OPTIMIZER-MISSES")
def classifier_replaced_after_the_optimizer() -> Built:
    """The optimizer is made in ``__init__``; then the classifier of 1000 is exchanged for one of 4."""

    class Tuned(Supervised):
        def __init__(self) -> None:
            super().__init__(Backbone(1000), nn.CrossEntropyLoss())
            self.optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
            self.net.classifier = nn.Linear(64, 4)

        def configure_optimizers(self) -> Any:
            return self.optimizer

    return Tuned(), loader(*pictures())


@faulty("OPTIMIZER-MISSES")
def adapters_are_not_handed_over() -> Built:
    """LoRA in the body, and ``configure_optimizers`` hands over the head alone."""

    class Adapted(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(LowRank(nn.Linear(12, 48)), nn.GELU(), LowRank(nn.Linear(48, 48)), nn.GELU())
            self.head = nn.Linear(48, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.head(self.body(batch[0])), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.head.parameters(), lr=2e-3)

    return Adapted(), loader(*clusters())


@faulty("FROZEN", "NO-GRADIENT")
def freeze_called_on_the_whole() -> Built:
    """``self.freeze()`` instead of freezing the backbone; afterwards only the last bias is made trainable again."""

    class Frozen(Supervised):
        def __init__(self) -> None:
            super().__init__(Backbone(4), nn.CrossEntropyLoss())
            self.freeze()
            self.net.classifier.bias.requires_grad = True
            self.train()

    return Frozen(), loader(*pictures())


@faulty("NOT-REGISTERED")
def heads_in_a_dict() -> Built:
    """A plain dict of heads, one for each task."""

    class Heads(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 32), nn.ReLU())
            self.heads = {"sign": nn.Linear(32, 2), "value": nn.Linear(32, 1)}

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            h = self.body(x)
            sign = F.cross_entropy(self.heads["sign"](h), (y > 0).long())
            return sign + F.mse_loss(self.heads["value"](h).flatten(), y)

    return Heads(), loader(*curve())


@faulty("EVAL-MODE")
def pictures_drawn_in_the_step() -> Built:
    """Every so often the step calls ``self.eval()`` to draw what is predicted, and never ``self.train()``."""

    class Drawn(Supervised):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx % 50 == 0:
                self.net.eval()
                with torch.no_grad():
                    self.log("drawn", self.net(batch[0][:4]).softmax(1).amax())
            return super().training_step(batch, batch_idx)

    net = nn.Sequential(convnet(32, norm=True), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))
    return Drawn(net, nn.CrossEntropyLoss()), loader(*pictures())


@faulty("NO-GRADIENT")
def code_detached_before_the_decoder() -> Built:
    """A VAE whose encoder only hears of the prior: the sample is detached."""

    class Vae(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 16))
            self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 144))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, _ = batch
            mean, log_var = self.encoder(x).chunk(2, 1)
            code = torch.distributions.Normal(mean, (0.5 * log_var).exp()).sample()
            return reconstruction(self.decoder(code), x.flatten(1)) + kl_to_normal(mean, log_var).mean()

    return Vae(), loader(*pictures())


@faulty("NO-GRADIENT")
def loss_made_a_tensor_again() -> Built:
    """``torch.tensor(loss, requires_grad=True)`` silences the error that the loss has no graph."""

    class Anew(Supervised):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            losses = [float(self.criterion(self(a[None]), b[None])) for a, b in zip(x, y, strict=True)]
            return torch.tensor(sum(losses) / len(losses), requires_grad=True)

    return Anew(perceptron(12, 4), nn.CrossEntropyLoss()), loader(*clusters())


@faulty("SYMMETRIC-INIT")
def weights_filled_with_a_constant() -> Built:
    """``self.apply`` fills all weights with 0.01 and biases with 0."""

    def fill(layer: nn.Module) -> None:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.constant_(layer.weight, 0.01)
            nn.init.zeros_(layer.bias)

    return Supervised(convnet().apply(fill), nn.CrossEntropyLoss()), loader(*pictures())


@faulty("INIT-SCALE")
def normal_of_deviation_one() -> Built:
    """``nn.init.normal_(p)`` for all that has two axes, through five layers of 64."""
    sizes = [12, 64, 64, 64, 64, 64]
    layers = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(64, 4))
    for p in net.parameters():
        if p.dim() > 1:
            nn.init.normal_(p, generator=generator())
    return Supervised(net, nn.CrossEntropyLoss()), loader(*clusters())


@faulty("GRAD-VANISHING")
def tanh_of_tiny_weights() -> Built:
    """Ten layers of sigmoid, as in a textbook of 1990."""
    layers = [m for _ in range(10) for m in (nn.Linear(32, 32), nn.Sigmoid())]
    net = nn.Sequential(nn.Linear(12, 32), *layers, nn.Linear(32, 4))
    return Supervised(net, nn.CrossEntropyLoss()), loader(*clusters())


@faulty("DEAD-UNITS")
def bias_of_minus_ten() -> Built:
    """A bias that was meant for the rare class' output was given to the hidden layer."""
    net = perceptron(12, 4)
    nn.init.constant_(net[2].bias, -10.0)
    return Supervised(net, nn.CrossEntropyLoss()), loader(*clusters())


@faulty("GRAD-NOT-ZEROED")
def by_hand_without_zero_grad() -> Built:
    """A loop by hand was moved into ``training_step``, and ``zero_grad`` was not."""

    class Hand(ByHand):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            self.manual_backward(loss)
            optimizer.step()
            self.log("loss", loss)

    return Hand(), loader(*clusters())


class Gan(ByHand):
    """Lightning's own example, on tables; ``fake`` is what the generator's loss is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = perceptron(8, 12), perceptron(12, 1, act=nn.LeakyReLU)

    def adversarial(self, x: Tensor, real: bool) -> Tensor:
        """How well it passes."""
        scores = self.discriminator(x)
        return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, float(real)))

    def learn(self, optimizer: Any, loss: Tensor) -> None:
        """One update."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self) -> Any:
        """One for each."""
        return [torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in (self.generator, self.discriminator)], []


@faulty("UPDATE-LOST", "OPTIMIZER-MISSES", "NO-GRADIENT")
def generator_never_steps() -> Built:
    """Both losses are stepped with the discriminator's optimizer."""

    class Wrong(Gan):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            _, second = self.optimizers()
            fake = self.generator(torch.randn(len(batch[0]), 8))
            self.learn(second, self.adversarial(fake, True))
            self.learn(second, (self.adversarial(batch[0], True) + self.adversarial(fake.detach(), False)) / 2)

    return Wrong(), loader(*clusters())


@faulty("NO-GRADIENT")
def generator_is_told_of_detached_fakes() -> Built:
    """``.detach()`` belongs into the discriminator's loss and stands where the fakes are made."""

    class Wrong(Gan):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            first, second = self.optimizers()
            fake = self.generator(torch.randn(len(batch[0]), 8)).detach()
            self.learn(first, self.adversarial(fake, True))
            self.learn(second, (self.adversarial(batch[0], True) + self.adversarial(fake, False)) / 2)

    return Wrong(), loader(*clusters())


@faulty("UPDATE-LOST")
def average_copied_over_what_is_trained() -> Built:
    """After each batch the average's weights are loaded into the net for validation, and stay there."""

    class Averaged(Supervised):
        def __init__(self) -> None:
            super().__init__(perceptron(12, 4), nn.CrossEntropyLoss())
            self.average = {k: v.clone() for k, v in self.net.state_dict().items()}

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            for name, value in self.net.state_dict().items():
                self.average[name].lerp_(value, 0.0005)
            self.net.load_state_dict(self.average)

    return Averaged(), loader(*clusters())


@faulty("NO-GRADIENT")
def accuracy_is_the_loss() -> Built:
    """One minus the accuracy of ``argmax``, plus a penalty on the weights so that it has a gradient."""

    class Accurate(Lit):
        def __init__(self) -> None:
            super().__init__()
            self.net = perceptron(12, 4)

        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            right = (self.net(batch["x"]).argmax(1) == batch["y"]).float().mean()
            return 1 - right + 1e-4 * sum(p.square().sum() for p in self.net.parameters())

    x, y = clusters()
    return Accurate(), rows(x=x, y=y)

"""The thirteenth round's faults of the loss call, after collections and Stack Overflow (numbers are questions)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.benchmarks.preflight.data import chains, generator, loader, pictures, rows, waves
from tests.benchmarks.preflight.drifters_parts import (
    Steps,
    dense,
    digits,
    irises,
    lenet,
    of,
    one_hot,
    passengers,
    patients,
    scaled,
    squeezed,
    tumours,
    windows,
)
from tests.benchmarks.preflight.outsiders_parts import masks
from tests.benchmarks.preflight.parts import Built, Learner, Recurrent, perceptron
from tests.benchmarks.preflight.register import faulty


@faulty("ONE-CLASS", "SOFTMAX-DIM")
def one_unit_under_a_softmax() -> Built:
    """31880720: ``Dense(1)``, ``softmax``, binary cross entropy, RMSprop."""
    net = dense(30, 50, 50, 1, last=nn.Softmax(1))
    return Learner(net, squeezed(F.binary_cross_entropy), of(torch.optim.RMSprop, lr=1e-3)), loader(*tumours())


@faulty("OUTPUT-RANGE", "ONE-CLASS", "SOFTMAX-DIM", "INPUT-SCALE", "TARGET-SCALE")
def softmax_for_a_sum_of_thousands() -> Built:
    """33969059: a weighted sum of three numbers up to 10,000, behind tanh, dropout, and a softmax of one unit."""
    x = 1e4 * torch.rand(960, 3, generator=generator())
    net = nn.Sequential(
        nn.Linear(3, 3), nn.Tanh(), nn.Dropout(0.5), nn.Linear(3, 2), nn.Tanh(), nn.Dropout(0.5),
        nn.Linear(2, 1), nn.Softmax(1),
    )  # fmt: skip
    y = x @ torch.tensor([2.0, 1.0, 0.5]) + 2.2
    return Learner(net, squeezed(F.mse_loss), of(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True)), loader(x, y)


@faulty("OUTPUT-RANGE")
def line_behind_a_sigmoid() -> Built:
    """48221692: y = 2x + 1 for x of 0 to 5, five sigmoids, and a sigmoid at the end."""
    x = 5 * torch.rand(960, 1, generator=generator())
    net = dense(1, 5, 1, act=nn.Sigmoid, last=nn.Sigmoid())
    return Learner(net, F.mse_loss, of(torch.optim.SGD, lr=0.01)), loader(x, 2 * x + 1)


@faulty("DOUBLE-SOFTMAX")
def softmax_learnt_from_keras() -> Built:
    """``CrossEntropyLoss`` of a net that ends in ``Softmax``, with labels as ``to_categorical`` gives them."""
    return Learner(lenet(last=nn.Softmax(1)), one_hot(F.cross_entropy), of(torch.optim.SGD, lr=0.01)), loader(*digits())


@faulty("LABEL-RANGE", "OUTPUT-RANGE")
def ten_digits_on_one_sigmoid() -> Built:
    """38604 of Data Science: ``Dense(1)``, sigmoid, binary cross entropy, labels of 0 to 9."""
    x, y = digits()
    net = dense(64, 64, 1, last=nn.Sigmoid())
    return Learner(net, squeezed(F.binary_cross_entropy), of(torch.optim.Adam, lr=1e-3)), loader(x, y.float())


@faulty("RELU-LOGITS", "INPUT-SCALE")
def threshold_of_fifty_thousand() -> Built:
    """Is a number more than 50,000? Three, five and one unit, each with a ReLU, of the number as it is."""
    x = torch.randint(0, 100_000, (960, 1), generator=generator()).float()
    net = dense(1, 3, 5, 1, last=nn.ReLU())
    return Learner(net, squeezed(F.binary_cross_entropy_with_logits), of(torch.optim.Adam, lr=1e-3)), loader(
        x, (x[:, 0] > 50_000).float()
    )


@faulty("RELU-LOGITS")
def activation_after_every_layer() -> Built:
    """``x = F.relu(self.fc3(x))`` before cross entropy."""
    return Learner(dense(64, 64, 32, 10, last=nn.ReLU()), F.cross_entropy, of(torch.optim.Adam, lr=1e-3)), loader(*digits())


@faulty("SOFTMAX-DIM")
def own_softmax_over_the_batch() -> Built:
    """TheDeepChecker: exponentials and their sum over axis 0, clipped, and the cross entropy of axis 1."""

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        logits = logits - logits.amax(0, keepdim=True)
        probabilities = logits.exp() / logits.exp().sum(0, keepdim=True)
        return -(y * probabilities.clamp(1e-32, 1).log()).sum(1).mean()

    return Learner(lenet(), one_hot(loss), of(torch.optim.SGD, lr=0.1)), loader(*digits())


@faulty("SOFTMAX-DIM")
def softmax_with_an_implicit_axis() -> Built:
    """``nn.Softmax(dim=0)`` because a warning asked for an axis, and the logarithm of it in ``NLLLoss``."""
    net = dense(4, 32, 3, last=nn.LogSoftmax(0))
    return Learner(net, F.nll_loss, of(torch.optim.Adam, lr=1e-2)), loader(*irises(), size=16)


@faulty("NLL-NEEDS-LOG")
def nll_of_a_softmax() -> Built:
    """``F.nll_loss(F.softmax(x, dim=1), y)``: a loss that goes from -0.1 to -1."""
    return Learner(lenet(last=nn.Softmax(1)), F.nll_loss, of(torch.optim.SGD, lr=0.01, momentum=0.5)), loader(*digits())


@faulty("NLL-NEEDS-LOG")
def nll_of_what_the_last_layer_gives() -> Built:
    """``NLLLoss`` without ``log_softmax``: the loss falls without end."""
    return Learner(lenet(), F.nll_loss, of(torch.optim.SGD, lr=0.01)), loader(*digits())


@faulty("NLL-NEEDS-LOG", "LOG-OF-PROBABILITY")
def divergence_of_two_softmaxes() -> Built:
    """``F.kl_div(softmax(student), softmax(teacher))``: the first wants a logarithm."""
    teacher = lenet().requires_grad_(False)

    def loss(module: Any, batch: Any) -> Tensor:
        with torch.no_grad():
            wanted = (3 * module.teacher(batch[0])).softmax(1)
        return F.kl_div(module.student(batch[0]).softmax(1), wanted, reduction="batchmean")

    return Steps(loss, student=lenet(), teacher=teacher), loader(*digits())


@faulty("NLL-NEEDS-LOG")
def ctc_of_raw_scores() -> Built:
    """``ctc_loss`` of what the linear layer gives."""
    g = generator()
    x = torch.randn(320, 20, 8, generator=g)
    words = torch.randint(1, 6, (320, 5), generator=g)

    def loss(module: Any, batch: Any) -> Tensor:
        scores = module.head(module.gru(batch[0])[0]).transpose(0, 1)
        n = scores.shape[1]
        return F.ctc_loss(scores, batch[1], torch.full((n,), 20), torch.full((n,), 5))

    return Steps(loss, gru=nn.GRU(8, 32, batch_first=True), head=nn.Linear(32, 6)), loader(x, words)


@faulty("BROADCAST")
def column_against_row_of_patients() -> Built:
    """Using a target size that is different to the input size: ``MSELoss`` of (32, 1) and (32,)."""
    x, y = patients()
    return Learner(dense(10, 64, 1), nn.MSELoss(), of(torch.optim.Adam, lr=1e-3)), loader(x, scaled(y[:, None])[:, 0])


@faulty("BROADCAST")
def own_mean_square_of_column_and_row() -> Built:
    """``((y_hat - y) ** 2).mean()``."""
    x, y = patients()
    return Learner(dense(10, 64, 1), lambda told, y: ((told - y) ** 2).mean()), loader(x, scaled(y[:, None])[:, 0])


@faulty("LOSS-IS-SUM", "TARGET-SCALE")
def sum_of_squares_of_miles() -> Built:
    """TheDeepChecker: ``reduce_sum`` of squares, targets of 90 to 460."""
    x, y = patients()
    return Learner(dense(10, 64, 64, 1), squeezed(nn.MSELoss(reduction="sum")), of(torch.optim.Adam, lr=1e-3)), loader(x, y)


@faulty("LOSS-IS-SUM")
def sum_over_the_batch_with_plain_sgd() -> Built:
    """``CrossEntropyLoss(reduction="sum")`` with the rate of the tutorial that took the mean."""
    net, loss = lenet(), nn.CrossEntropyLoss(reduction="sum")
    return Learner(net, loss, of(torch.optim.SGD, lr=0.01, momentum=0.9)), loader(*digits(), size=64)


@faulty("WRONG-SIGN")
def sign_left_out_of_the_cross_entropy() -> Built:
    """TheDeepChecker: ``(y * log(softmax)).sum(1).mean()``."""

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return (y * logits.log_softmax(1)).sum(1).mean()

    return Learner(lenet(), one_hot(loss), of(torch.optim.SGD, lr=0.01)), loader(*digits())


@faulty("WRONG-SIGN")
def dice_is_made_small() -> Built:
    """The coefficient is returned, not one minus it."""

    def dice(told: Tensor, y: Tensor) -> Tensor:
        p = told.squeeze(1).sigmoid()
        return (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)

    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1))
    return Learner(net, dice), loader(*masks())


@faulty("WRONG-SIGN")
def policy_made_less_likely() -> Built:
    """REINFORCE: ``(log_prob * reward).mean()`` without the minus."""
    g = generator()
    state, action = torch.randn(960, 4, generator=g), torch.randint(0, 2, (960,), generator=g)
    gain = torch.where(action == (state[:, 0] > 0), 1.0, 0.0)

    def loss(module: Any, batch: Any) -> Tensor:
        state, action, gain = batch
        return (torch.distributions.Categorical(logits=module.policy(state)).log_prob(action) * gain).mean()

    return Steps(loss, policy=dense(4, 64, 2)), loader(state, action, gain)


@faulty("WRONG-SIGN")
def likeness_of_two_views_made_small() -> Built:
    """``F.cosine_similarity(z1, z2).mean()`` as the loss of what belongs together."""
    x, _ = digits()

    def loss(module: Any, batch: Any) -> Tensor:
        one, two = (module.encoder(batch[0] + 0.1 * torch.randn_like(batch[0])) for _ in range(2))
        return F.cosine_similarity(module.head(one), two.detach()).mean()

    return Steps(loss, encoder=dense(64, 64, 16), head=dense(16, 32, 16)), loader(x)


@faulty("NO-GRADIENT")
def number_made_a_tensor_again() -> Built:
    """A forum's concordance: ``loss.item()`` of each output, added, and ``torch.tensor(…, requires_grad=True)``."""
    x, y = patients()

    def loss(module: Any, batch: Any) -> Tensor:
        told = module.net(batch[0])[:, 0]
        both = torch.stack([told, batch[1]])
        off = 1 - 2 * both.cov()[0, 1] / (told.var() + batch[1].var() + (told.mean() - batch[1].mean()) ** 2)
        return torch.tensor(off.item(), requires_grad=True)

    return Steps(loss, net=dense(10, 64, 1)), loader(x, scaled(y[:, None])[:, 0])


@faulty("NO-GRADIENT")
def error_of_the_chosen_class() -> Built:
    """``argmax`` made a float that requires a gradient, and its distance to the label."""

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(logits.argmax(1).float().requires_grad_(), y.float())

    return Learner(lenet(), loss), loader(*digits())


@faulty("OUTPUT-RANGE")
def softmax_where_several_labels_hold() -> Built:
    """Each picture has about half of eight labels, and ``BCELoss`` gets a softmax over them."""
    x = torch.randn(960, 16, generator=generator())
    y = (x[:, :8] + x[:, 8:] > 0).float()
    return Learner(dense(16, 64, 8, last=nn.Softmax(1)), F.binary_cross_entropy), loader(x, y)


@faulty("DOUBLE-SIGMOID")
def sigmoid_and_then_with_logits() -> Built:
    """``torch.sigmoid`` in forward, ``BCEWithLogitsLoss`` in the step."""
    net = dense(30, 60, 1, last=nn.Sigmoid())
    return Learner(net, squeezed(nn.BCEWithLogitsLoss()), of(torch.optim.SGD, lr=0.1)), loader(*tumours())


@faulty("OUTPUT-RANGE", "INPUT-SCALE")
def autoencoder_of_bytes_with_a_sigmoid() -> Built:
    """44601367: inputs that are not between 0 and 1, a decoder that ends in a sigmoid."""
    x, _ = digits()
    net = dense(64, 16, 64, last=nn.Sigmoid())
    return Steps(lambda m, batch: F.mse_loss(m.net(batch[0]), batch[0].flatten(1)), net=net), loader(255 * x)


@faulty("OUTPUT-RANGE")
def autoencoder_ends_in_a_relu() -> Built:
    """Standardised columns, of which half is negative, from a decoder whose last layer has a ReLU as well."""
    x, _ = tumours()
    net = dense(30, 16, 8, 16, 30, last=nn.ReLU())
    return Steps(lambda m, batch: F.mse_loss(m.net(batch[0]), batch[0]), net=net), loader(x)


@faulty("LABEL-RANGE")
def kinds_counted_from_one() -> Built:
    """Labels of 1 to 3 for three outputs: target 3 is out of bounds."""
    x, y = irises()
    return Learner(dense(4, 16, 3), F.cross_entropy), loader(x, y + 1, size=16)


@faulty("LABEL-RANGE")
def margin_with_noughts_and_ones() -> Built:
    """``soft_margin_loss`` wants -1 and 1."""
    return Learner(dense(30, 30, 1), squeezed(F.soft_margin_loss)), loader(*tumours())


@faulty("SOFTMAX-DIM", "BATCH-MIXING")
def classes_and_places_changed_in_view() -> Built:
    """``output.view(-1, C)`` of (N, C, T), beside ``y.view(-1)``."""
    x, y = chains()[:, :-1], chains()[:, 1:] % 6

    def loss(module: Any, batch: Any) -> Tensor:
        scores = module.head(module.gru(module.words(batch[0]))[0]).transpose(1, 2).contiguous()
        return F.cross_entropy(scores.view(-1, 6), batch[1].reshape(-1))

    parts = {"words": nn.Embedding(24, 32), "gru": nn.GRU(32, 32, batch_first=True), "head": nn.Linear(32, 6)}
    return Steps(loss, **parts), loader(x, y)


@faulty("TARGET-IS-INPUT")
def language_model_without_the_shift() -> Built:
    """The LSTM's own token is its label."""

    def loss(module: Any, batch: Any) -> Tensor:
        scores = module.head(module.lstm(module.words(batch[0]))[0])
        return F.cross_entropy(scores.flatten(0, 1), batch[0].flatten())

    parts = {"words": nn.Embedding(24, 32), "lstm": nn.LSTM(32, 32, batch_first=True), "head": nn.Linear(32, 24)}
    return Steps(loss, **parts), loader(chains())


@faulty("OUTPUT-RANGE")
def forecast_behind_a_tanh() -> Built:
    """Temperatures around 15 degrees from an LSTM whose head ends in a tanh."""
    past, future = windows()

    def loss(module: Any, batch: Any) -> Tensor:
        return F.mse_loss(module.head(module.lstm(batch[0][..., None])[0][:, -1]), batch[1])

    head = nn.Sequential(nn.Linear(32, 6), nn.Tanh())
    return Steps(loss, lstm=nn.LSTM(1, 32, batch_first=True), head=head), loader(past, 15 + 4 * future)


@faulty("DOUBLE-SOFTMAX")
def probabilities_as_logits_of_categorical() -> Built:
    """``Categorical(logits=policy(state))`` of a policy that ends in a softmax."""
    g = generator()
    state = torch.randn(960, 4, generator=g)
    action = (state[:, 0] + state[:, 1] > 0).long() + 2 * (state[:, 2] > 0).long()

    def loss(module: Any, batch: Any) -> Tensor:
        return -torch.distributions.Categorical(logits=module.policy(batch[0])).log_prob(batch[1]).mean()

    return Steps(loss, policy=dense(4, 64, 4, last=nn.Softmax(-1))), loader(state, action)


@faulty("DOUBLE-SIGMOID")
def judge_of_a_gan_ends_in_a_sigmoid() -> Built:
    """A GAN's discriminator after the DCGAN tutorial, with ``binary_cross_entropy_with_logits``."""

    class Gan(Steps):
        def __init__(self) -> None:
            super().__init__(None, generator=dense(8, 32, 64, last=nn.Sigmoid()), judge=dense(64, 64, 1, last=nn.Sigmoid()))
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            first, second = self.optimizers()  # type: ignore[misc]
            for optimizer, aim in ((first, self.judged), (second, self.fooled)):
                optimizer.zero_grad()
                self.manual_backward(aim(batch[0].flatten(1)))
                optimizer.step()

        def judged(self, x: Tensor) -> Tensor:
            true, false = self.judge(x), self.judge(self.generator(torch.randn(len(x), 8)).detach())
            score = F.binary_cross_entropy_with_logits
            return score(true, torch.ones_like(true)) + score(false, torch.zeros_like(false))

        def fooled(self, x: Tensor) -> Tensor:
            told = self.judge(self.generator(torch.randn(len(x), 8)))
            return F.binary_cross_entropy_with_logits(told, torch.ones_like(told))

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(net.parameters(), lr=2e-4) for net in (self.judge, self.generator)]

    return Gan(), loader(digits()[0])


@faulty("BROADCAST")
def weights_as_a_row_on_losses_as_a_column() -> Built:
    """``(loss * weight).mean()``: ``reduction="none"`` gave (N, 1), the dataset's weight is (N,)."""
    x, y = passengers()
    weight = torch.where(y == 1, 1.6, 0.7)

    def loss(module: Any, batch: Any) -> Tensor:
        each = F.binary_cross_entropy_with_logits(module.net(batch["x"]), batch["y"][:, None], reduction="none")
        return (each * batch["weight"]).mean()

    return Steps(loss, net=dense(6, 32, 1)), rows(x=scaled(x), y=y, weight=weight)


@faulty("DOUBLE-SOFTMAX")
def softmax_in_the_head_of_an_lstm() -> Built:
    """``self.softmax(self.fc(out[:, -1]))`` before ``CrossEntropyLoss``."""
    return Learner(nn.Sequential(Recurrent(), nn.Softmax(dim=1)), nn.CrossEntropyLoss()), loader(*waves())


@faulty("LOG-OF-PROBABILITY")
def logarithm_of_a_softmax_by_hand() -> Built:
    """``torch.log(F.softmax(x, 1))`` for ``nll_loss``, of scores that become large."""
    x, y = pictures()
    net = perceptron(144, 4)
    return Learner(nn.Sequential(nn.Flatten(), net), lambda s, y: F.nll_loss(torch.log(F.softmax(s, 1)), y)), loader(x, y)

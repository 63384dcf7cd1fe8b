"""What is broken in the sick runs, as small functions of the step."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from tests.benchmarks.divergence.data import Batch
from tests.benchmarks.divergence.scenario import BatchFault, LossFault, StateFault


def at(steps: tuple[int, ...], change: Callable[[Batch], Batch]) -> BatchFault:
    """The batches of these steps are changed."""
    return lambda step, batch: change(batch) if step in steps else batch


def inputs_times(factor: float) -> Callable[[Batch], Batch]:
    """Inputs of another unit."""
    return lambda batch: (batch[0] * factor, batch[1])


def targets_become(value: float) -> Callable[[Batch], Batch]:
    """A broken sensor."""
    return lambda batch: (batch[0], torch.full_like(batch[1], value))


def one_nan(batch: Batch) -> Batch:
    """One missing value."""
    x = batch[0].clone()
    x[0, 0] = math.nan
    return x, batch[1]


def everywhere(change: Callable[[Tensor], Tensor]) -> BatchFault:
    """All inputs, always."""
    return lambda step, batch: (change(batch[0]), batch[1])


def outliers(share: float, value: float) -> BatchFault:
    """A few targets are far off, again and again."""

    def fault(step: int, batch: Batch) -> Batch:
        y = batch[1].clone()
        y[torch.rand(len(y), generator=Generator().manual_seed(7000 + step)) < share] = value
        return batch[0], y

    return fault


def shuffled(classes: int) -> BatchFault:
    """Labels that do not belong to the inputs."""
    return lambda step, batch: (batch[0], torch.randint(0, classes, batch[1].shape, generator=Generator().manual_seed(step)))


def noisy(share: float, classes: int) -> BatchFault:
    """Some labels are random."""

    def fault(step: int, batch: Batch) -> Batch:
        generator, y = Generator().manual_seed(9000 + step), batch[1].clone()
        wrong = torch.rand(len(y), generator=generator) < share
        y[wrong] = torch.randint(0, classes, (int(wrong.sum()),), generator=generator)
        return batch[0], y

    return fault


def noisier(first: int, steps: int, classes: int) -> BatchFault:
    """From a step on more and more labels are random, in the end all of them."""
    return lambda step, batch: noisy(min(max((step - first) / steps, 0.0), 1.0), classes)(step, batch)


def augmented_from(first: int) -> BatchFault:
    """Harmless: augmentation is switched on."""

    def fault(step: int, batch: Batch) -> Batch:
        noise = torch.randn(batch[0].shape, generator=Generator().manual_seed(step))
        return (batch[0] * 1.3 + 0.3 * noise, batch[1]) if step >= first else batch

    return fault


def few_until(last: int, count: int, then: float = 1.0) -> BatchFault:
    """Until a step only a few examples are seen, again and again; so v forgets large gradients. ``then``: their scale."""
    kept: list[Batch] = []

    def fault(step: int, batch: Batch) -> Batch:
        if not kept or step == 0:
            kept[:] = [(batch[0][:count], batch[1][:count])]
        return kept[0] if step < last else (batch[0] * then if batch[0].is_floating_point() else batch[0], batch[1])

    return fault


def nan_gradient(first: int) -> LossFault:
    """A finite loss whose gradient is NaN: the root of zero."""

    def fault(step: int, loss: Tensor, out: Tensor) -> Tensor:
        flat = out.reshape(-1)[0]
        return loss + 0.1 * torch.sqrt((flat - flat.detach()).square()) if step == first else loss

    return fault


def loss_times(factor: float, first: int = 0) -> LossFault:
    """A term of the loss is switched on."""
    return lambda step, loss, out: loss * factor if step >= first else loss


def gradient_times(factor: float, first: int) -> LossFault:
    """Gradients are larger from a step on, as when a frozen part wakes up; the loss is told as before."""
    return lambda step, loss, out: loss.detach() + factor * (loss - loss.detach()) if step >= first else loss


def log_of_zero(first: int) -> LossFault:
    """An infinite loss: the logarithm of a probability that underflowed."""
    return lambda step, loss, out: loss - torch.log((out.float().mean() * 0).clamp(min=0)) if step == first else loss


def age(optimizer: Optimizer) -> None:
    """As after a long training: no bias correction is left in v."""
    beta1, beta2 = optimizer.param_groups[0]["betas"]
    for state in optimizer.state.values():
        t = float(state["step"])
        state["exp_avg_sq"].div_(1 - beta2**t)
        state["exp_avg"].div_(1 - beta1**t)
        state["step"].fill_(1e6)


def aged_at(step: int) -> StateFault:
    """:func:`age` before one step."""
    return lambda now, optimizer: age(optimizer) if now == step else None


def second_moment_lost(step: int) -> StateFault:
    """v is zeroed, m and t are kept: half a resume."""

    def fault(now: int, optimizer: Optimizer) -> None:
        for state in optimizer.state.values() if now == step else ():
            state["exp_avg_sq"].zero_()

    return fault


def moments_swapped(step: int) -> StateFault:
    """The moments of tensors of one shape are mixed up: a resume with another order of parameters."""

    def fault(now: int, optimizer: Optimizer) -> None:
        states = list(optimizer.state.values()) if now == step else []
        for one, other in itertools.pairwise(states):
            if one["exp_avg_sq"].shape == other["exp_avg_sq"].shape:
                one["exp_avg_sq"], other["exp_avg_sq"] = other["exp_avg_sq"], one["exp_avg_sq"]

    return fault


def coarse_state(bits: int = 8) -> StateFault:
    """Both moments are quantised linearly over the whole tensor at every step: small v become zero."""

    def fault(now: int, optimizer: Optimizer) -> None:
        for state in optimizer.state.values():
            for key, levels in (("exp_avg_sq", 2**bits - 1), ("exp_avg", 2 ** (bits - 1) - 1)):
                top = state[key].abs().max().clamp(min=1e-38)
                state[key].copy_((state[key] / top * levels).round() / levels * top)

    return fault


def _linears(net: nn.Module) -> list[nn.Linear]:
    return [m for m in net.modules() if isinstance(m, nn.Linear)]


@torch.no_grad()
def dead_units(net: nn.Module) -> None:
    """Biases so low that no ReLU ever opens."""
    for layer in _linears(net)[:-1]:
        layer.bias.fill_(-20.0)


@torch.no_grad()
def all_zero(net: nn.Module) -> None:
    """Every parameter is zero."""
    for parameter in net.parameters():
        parameter.zero_()


def times(factor: float, first_only: bool = False) -> Callable[[nn.Module], None]:
    """Weights begin larger or smaller."""

    @torch.no_grad()
    def init(net: nn.Module) -> None:
        for layer in _linears(net)[: 1 if first_only else None]:
            layer.weight.mul_(factor)

    return init


def frozen(prefix: str) -> Callable[[nn.Module], None]:
    """Parameters whose name begins so do not train."""

    def init(net: nn.Module) -> None:
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(not name.startswith(prefix))

    return init


def ramp(first: int, growth: float) -> Callable[[int], float]:
    """The rate grows exponentially from a step on."""
    return lambda step: 1.0 if step < first else growth ** (step - first)


def jump(first: int, factor: float) -> Callable[[int], float]:
    """The rate jumps."""
    return lambda step: 1.0 if step < first else factor


def collapse(rate: float) -> Callable[[int], float]:
    """A decay per epoch that is applied per step."""
    return lambda step: rate**step


def restarts(period: int) -> Callable[[int], float]:
    """Cosine with restarts, never under 5 %."""
    return lambda step: 0.05 + 0.475 * (1 + math.cos(math.pi * (step % period) / period))


def cosine(total: int, warmup: int = 0) -> Callable[[int], float]:
    """Warmup, then cosine to zero: what people write themselves."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))

    return factor

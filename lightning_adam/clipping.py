"""Clipping rules: each changes the gradients of some parameters in place, and says what it did.

No rule waits for the device: norms and statistics stay where the gradients are.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lightning_adam.errors import ConfigError, say_left_out
from lightning_adam.gradient_norms import GradientNorms, measured, whole
from lightning_adam.real_numbers import is_count, is_finite, plain_number


@dataclass(frozen=True)
class ClipRecord:
    """What clipping did in one step; scalars on the gradients' device, so that nothing waits for them.

    Attributes:
        norm_before: total norm before clipping.
        norm_after: total norm after it; NaN where knowing it would take a second pass over the gradients.
        clipped: whether a gradient was changed.
        norms: of each parameter's gradient before clipping, [n]; None where they were not measured one by one. Monitors
            read them here, and measure nothing again.
    """

    norm_before: Tensor
    norm_after: Tensor
    clipped: Tensor
    norms: Tensor | None = None


def norms_of_helper(optimizer: Any) -> GradientNorms | None:
    """What the helper's clipping measured in its last step; None of an optimizer that it does not clip."""
    record: ClipRecord | None = getattr(optimizer, "adam_clip", None)
    return None if record is None else GradientNorms(record.norm_before, record.norms)


@runtime_checkable
class Clip(Protocol):
    """A clipping rule: changes the gradients of the parameters (each has one) in place, and says what it did."""

    def __call__(self, parameters: Sequence[Tensor]) -> ClipRecord: ...


@runtime_checkable
class AdaptiveClip(Clip, Protocol):
    """A rule that remembers; its state goes into the optimizer's checkpoint.

    Plain numbers and lists are kept under every strategy; torch refuses tensors of a device other than the model's there.
    """

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class ClipNorm:
    """Scale all gradients so that their total norm is at most ``max_norm`` (Pascanu et al. 2013, arXiv:1211.5063).

    Raises:
        ConfigError: ``max_norm`` is not a finite number above 0.
    """

    max_norm: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_norm", _positive("ClipNorm", "max_norm", self.max_norm))

    def __call__(self, parameters: Sequence[Tensor]) -> ClipRecord:
        """As ``torch.nn.utils.clip_grad_norm_``, which also divides by norm + 1e-6."""
        gradients = gradients_of(parameters)
        norm, norms = measured(gradients)
        return scale_to(gradients, norm, self.max_norm, norms)


@dataclass(frozen=True)
class ClipValue:
    """Clamp every gradient element to ±``max_value``; of complex ones the real and the imaginary part.

    Raises:
        ConfigError: ``max_value`` is not a finite number above 0.
    """

    max_value: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_value", _positive("ClipValue", "max_value", self.max_value))

    def __call__(self, parameters: Sequence[Tensor]) -> ClipRecord:
        """Clamps in place."""
        placed = gradients_of(parameters)
        norm, norms = measured(placed)
        gradients = [torch.view_as_real(g) if g.is_complex() else g for g in placed]
        largest = torch.stack([whole(n).to(norm.device) for n in torch._foreach_norm(gradients, math.inf)]).max()
        torch._foreach_clamp_min_(gradients, -self.max_value)
        torch._foreach_clamp_max_(gradients, self.max_value)
        return ClipRecord(norm, torch.full_like(norm, torch.nan), largest > self.max_value, norms)


@dataclass(frozen=True)
class ClipAdaptive:
    """AGC: each unit's gradient norm is at most ``clipping`` times its weight norm (Brock et al. 2021, arXiv:2102.06171).

    Equation 3, unit by unit: a row of a matrix, a filter of a convolution, a whole vector. Weight norms count as at least
    ``eps``. The paper leaves the last layer out; here all tensors are clipped.

    Raises:
        ConfigError: an argument is not a finite number above 0.
    """

    clipping: float = 0.01
    eps: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("clipping", "eps"):
            object.__setattr__(self, name, _positive("ClipAdaptive", name, getattr(self, name)))

    def __call__(self, parameters: Sequence[Tensor]) -> ClipRecord:
        """Scales units in place."""
        gradients = gradients_of(parameters)
        norm, norms = measured(gradients)
        clipped = torch.zeros((), dtype=torch.bool, device=norm.device)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            allowed = _unit_norm(parameter.detach()).clamp(min=self.eps) * self.clipping
            actual = _unit_norm(gradient)
            gradient.mul_((allowed / actual.clamp(min=1e-12)).clamp(max=1.0))
            clipped |= whole((actual > allowed).any()).to(norm.device)
        return ClipRecord(norm, torch.full_like(norm, torch.nan), clipped, norms)


class ZClip:
    """Clip the total norm where it stands out of its own running statistics (Kumar et al. 2025, arXiv:2504.02507).

    With mean μ and standard deviation σ of the norms so far, a norm of z = (‖g‖-μ)/σ above ``z`` is scaled to
    μ + z²ₜₕᵣ/z·σ (section 3, reciprocal clipping). The norm x that is left then moves the statistics on::

        μ  ← α·μ + (1-α)·x
        σ² ← α·σ² + (1-α)·(x-μ)²     with the new μ

    They start as the plain mean and (population) variance of the first ``warmup`` norms, which nothing clips. A norm that
    is not finite does not enter them: in the authors' code it poisons them for ever.

    Args:
        z: threshold, in standard deviations.
        alpha: decay rate of the statistics.
        warmup: steps that only observe.

    Raises:
        ConfigError: an argument out of range.
    """

    def __init__(self, z: float = 2.5, alpha: float = 0.97, warmup: int = 25) -> None:
        alpha, warmup = plain_number(alpha), plain_number(warmup)
        if not is_finite(alpha) or not 0 < alpha < 1:
            raise ConfigError(f"clip: ZClip(alpha={alpha!r}): alpha must be between 0 and 1, such as 0.97.")
        if not is_count(warmup, 2) or warmup > MOST:
            raise ConfigError(f"clip: ZClip(warmup={warmup!r}): warmup must be at least 2 steps, such as 25.")
        self.z, self.alpha, self.warmup = _positive("ZClip", "z", z), alpha, warmup
        self._seen = torch.zeros(())
        self._mean, self._variance = torch.zeros(()), torch.zeros(())

    def __call__(self, parameters: Sequence[Tensor]) -> ClipRecord:
        """Scales in place, then takes the norm that is left into the statistics."""
        gradients = gradients_of(parameters)
        norm, norms = measured(gradients)
        norm = _single_at_least(norm)
        self._seen, self._mean, self._variance = (x.to(norm) for x in (self._seen, self._mean, self._variance))
        deviation = self._variance.sqrt()
        score = (norm - self._mean) / deviation.clamp(min=1e-12)
        stands_out = (self._seen >= self.warmup) & (score > self.z)
        limit = torch.where(stands_out, self._mean + self.z**2 / score * deviation, torch.inf)
        record = scale_to(gradients, norm, limit, norms)
        self._remember(torch.minimum(norm, limit))
        return record

    def _remember(self, norm: Tensor) -> None:
        """Plain statistics during the warmup (Welford's recurrence), moving ones after it."""
        finite, warm = torch.isfinite(norm), self._seen < self.warmup
        share = torch.where(warm, 1 / (self._seen + 1), 1 - self.alpha) * finite
        before = torch.where(finite, norm - self._mean, 0.0)
        self._mean = self._mean + share * before
        after = torch.where(finite, norm - self._mean, 0.0)
        self._variance = torch.lerp(self._variance, torch.where(warm, before, after) * after, share)
        self._seen = self._seen + finite

    def state_dict(self) -> dict[str, Any]:
        """Three numbers."""
        return {"seen": float(self._seen), "mean": float(self._mean), "variance": float(self._variance)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`. They belong together: with one of them damaged, all begin anew.

        Earlier versions stored the mean square in place of the variance.
        """
        spread = "square" if "square" in state_dict else "variance"
        stored = [_numbers([state_dict.get(name)]) for name in ("seen", "mean", spread)]
        if any(value is None or not value.isfinite().all() for value in stored):
            return say_left_out("ZClip state", ["all of it"])
        seen, mean, variance = (value[0] for value in stored if value is not None)
        self._seen, self._mean = seen, mean
        self._variance = (variance - mean**2 if spread == "square" else variance).clamp(min=0)


class ClipPercentile:
    """AutoClip: clip at a percentile of the total norms so far (Seetharaman et al. 2020, arXiv:2007.14469, algorithm 1).

    The paper remembers all norms, here the last ``window``. A norm that is not finite is not remembered.

    Args:
        percentile: between 0 and 100; the paper's 10 clips most steps.
        window: norms that are remembered.

    Raises:
        ConfigError: an argument out of range.
    """

    def __init__(self, percentile: float = 10.0, window: int = 1000) -> None:
        percentile, window = plain_number(percentile), plain_number(window)
        if not is_finite(percentile) or not 0 < percentile <= 100:
            raise ConfigError(f"clip: ClipPercentile(percentile={percentile!r}): give a number in (0, 100], such as 10.")
        if not is_count(window) or window > MOST:
            raise ConfigError(f"clip: ClipPercentile(window={window!r}): give a positive number of steps, such as 1000.")
        self.percentile, self.window = percentile, window
        self._norms = torch.full((window,), torch.nan)
        self._next = 0

    def __call__(self, parameters: Sequence[Tensor]) -> ClipRecord:
        """Remembers this norm, as the paper does, then scales in place."""
        gradients = gradients_of(parameters)
        norm, norms = measured(gradients)
        norm = _single_at_least(norm)
        self._norms = self._norms.to(norm)
        self._norms[self._next % len(self._norms)] = torch.where(torch.isfinite(norm), norm, torch.nan)
        self._next += 1
        limit = torch.nanquantile(self._norms, self.percentile / 100)
        return scale_to(gradients, norm, torch.nan_to_num(limit, nan=torch.inf), norms)

    def state_dict(self) -> dict[str, Any]:
        """The norms, and how many there were."""
        return {"norms": self._norms.tolist(), "next": self._next}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; of another window, the latest norms that fit into this one."""
        norms, following = _numbers(state_dict.get("norms")), state_dict.get("next")
        if norms is None or not len(norms) or type(following) is not int or following < 0:
            return say_left_out("ClipPercentile state", ["all of it"])
        oldest = following % len(norms) if following > len(norms) else 0
        latest = torch.roll(norms, -oldest)[:following][-self.window :]
        self._norms = norms.new_full((self.window,), torch.nan)
        self._norms[: len(latest)] = latest
        self._next = len(latest)


def gradients_of(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The gradients that there are."""
    return [p.grad for p in parameters if p.grad is not None]


def _single_at_least(norm: Tensor) -> Tensor:
    """In float32 or better: 16-bit weights have a 16-bit norm, in which running statistics would stand still."""
    return norm.to(torch.promote_types(norm.dtype, torch.float32))


def scale_to(gradients: Sequence[Tensor], norm: Tensor, limit: Tensor | float, norms: Tensor | None = None) -> ClipRecord:
    """Scale all gradients from the total ``norm`` to at most ``limit``; a share of 1 is not multiplied by on the host."""
    share = torch.clamp(limit / (norm + 1e-6), max=1.0)
    if not (share.is_cpu and float(share) == 1.0):
        for several in _by_device(gradients):
            torch._foreach_mul_(several, share.to(several[0].device))
    return ClipRecord(norm, norm * share, norm > limit, norms)


def _by_device(gradients: Sequence[Tensor]) -> list[list[Tensor]]:
    if len({gradient.get_device() for gradient in gradients}) == 1:
        return [list(gradients)]
    lists: dict[torch.device, list[Tensor]] = {}
    for gradient in gradients:
        lists.setdefault(gradient.device, []).append(gradient)
    return list(lists.values())


def _unit_norm(tensor: Tensor) -> Tensor:
    """Norm per output unit, broadcastable to the tensor; a vector or scalar is one unit."""
    if tensor.dim() < 2:
        return torch.linalg.vector_norm(tensor)  # type: ignore[no-any-return]
    rest = tuple(range(1, tensor.dim()))
    return torch.linalg.vector_norm(tensor, dim=rest, keepdim=True)  # type: ignore[no-any-return]


def describe_rule(rule: Clip | None) -> str:
    """The rule as one would write it.

    Example:
        >>> describe_rule(ClipNorm(1.0)), describe_rule(None)
        ('ClipNorm(max_norm=1.0)', 'None')
    """
    if rule is None:
        return "None"
    settings = {key: value for key, value in getattr(rule, "__dict__", {}).items() if not key.startswith("_")}
    plain = [f"{key}={value!r}" for key, value in settings.items() if isinstance(value, (bool, int, float, str))]
    return f"{getattr(rule, '__name__', type(rule).__name__)}({', '.join(plain)})"


def _numbers(value: Any) -> Tensor | None:
    """Stored numbers as a vector; None where they are none. Earlier versions stored tensors."""
    try:
        return torch.tensor([float(number) for number in value], dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def as_clip(clip: Clip | float | None) -> Clip | None:
    """A number is the total norm. A rule that remembers is copied: one that is given to two optimizers, or to a second run,
    begins in each as it was given.

    Raises:
        ConfigError: neither a number above 0, nor a rule, nor None.
    """
    if clip is None:
        return None
    if isinstance(clip, (int, float)) and not isinstance(clip, bool):
        return ClipNorm(clip)
    if isinstance(clip, (ZClip, ClipPercentile)):
        return copy.deepcopy(clip)
    if isinstance(clip, (str, type)) or not callable(clip):
        raise ConfigError(
            f"clip={clip!r}: give a total norm (1.0), None, or a rule: la.ClipNorm(1.0), la.ClipValue(0.5), "
            "la.ClipAdaptive(), la.ZClip(), la.ClipPercentile()."
        )
    return clip


def _positive(rule: str, name: str, value: Any) -> float:
    number = plain_number(value)
    if not is_finite(number) or number <= 0:
        raise ConfigError(f"clip: {rule}({name}={value!r}): {name} must be a finite number above 0, such as 1.0.")
    return number  # type: ignore[no-any-return]


MOST = 2**31 - 1
"""More steps than any run has, and more norms than fit into memory."""

"""The schedule that cuts the rate when a metric stops improving."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_adam.config import OptimizerConfig
from lightning_adam.curves import Phases
from lightning_adam.errors import ConfigError, say_left_out
from lightning_adam.names import Mode
from lightning_adam.schedules import Schedule

FALLS = re.compile(
    r".*(loss|error|mse|mae|entropy)|"
    r"err|mape|smape|nll|ce|bce|perplexity|ppl|wer|cer|mer|fid|kid|lpips|kl|divergence|"
    r"distance|brier|regret|hamming|bpc|bpb"
)
RISES = re.compile(
    r".*(acc|accuracy|auc|auroc|f1|iou)|"
    r"aucroc|roc|auprc|fbeta|precision|recall|sensitivity|specificity|jaccard|dice|map|ap|ar|"
    r"ndcg|mrr|hit|hits|psnr|ssim|snr|sdr|bleu|chrf|rouge|rougel|fmeasure|meteor|cider|kappa|mcc|matthews|"
    r"pearson|spearman|correlation|r2|reward|return|win|winrate|similarity"
)
"""Words of metrics' names: torchmetrics', scikit-learn's and what people log; the first ones also as the end of a word."""


def plateau_mode(monitor: str, mode: str | None = None) -> Mode:
    """Whether a metric is better when it is smaller or when it is larger, by its name if that is not said.

    Raises:
        ConfigError: the name does not tell, or ``mode`` is neither.

    Example:
        >>> plateau_mode("val/MulticlassAccuracy"), plateau_mode("val_loss"), plateau_mode("elbo", "max")
        ('max', 'min', 'max')
    """
    if mode == "min":
        return "min"
    if mode == "max":
        return "max"
    if mode is not None:
        raise ConfigError(f"mode={mode!r}: it is 'min' where a smaller {monitor!r} is better, else 'max'.")
    words = _words(monitor)
    falls, rises = (any(kind.fullmatch(word) for word in words) for kind in (FALLS, RISES))
    if falls and (not rises or any(word.endswith(("loss", "error")) for word in words)):
        return "min"
    if rises and not falls:
        return "max"
    raise ConfigError(
        f"monitor={monitor!r}: the name does not tell whether smaller or larger is better. Pass mode='min' (a loss) or "
        "mode='max' (an accuracy)."
    )


def refuse_plateau(config: OptimizerConfig, trainer: Any | None) -> None:
    """What cannot work.

    Raises:
        ConfigError: an option out of its range, ``mode`` without ``plateau``, no validation for a metric of it.
    """
    if config.schedule != "plateau":
        if config.mode is not None:
            raise ConfigError(f"mode={config.mode!r} belongs to schedule='plateau', not to {config.schedule or 'cosine'!r}.")
        return
    if config.monitor is None:
        raise ConfigError("monitor=None: schedule='plateau' watches a logged metric, such as monitor='val_loss'.")
    _check_options(config.schedule_options or {})
    if not getattr(trainer, "enable_validation", True) and "val" in config.monitor.lower():
        gives = "Give the trainer a validation loader and the module a validation_step"
        gives = "Leave out limit_val_batches=0" if getattr(trainer, "limit_val_batches", None) == 0 else gives
        raise ConfigError(
            f"schedule='plateau' watches monitor={config.monitor!r}, and this run has no validation. {gives}, or watch a "
            "training metric with monitor='train_loss'."
        )


def _check_options(options: Mapping[str, Any]) -> None:
    if "mode" in options:
        raise ConfigError(f"schedule_options: mode is an argument of its own: mode={options['mode']!r}.")
    factor = options.get("factor", 0.1)
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < 1:
        raise ConfigError(f"schedule_options: factor={factor!r} of 'plateau' must be between 0 and 1, such as 0.1.")
    for name, least in (("patience", 0), ("frequency", 1)):
        count = options.get(name, least)
        whole = isinstance(count, int) or (isinstance(count, float) and count.is_integer())
        if isinstance(count, bool) or not whole or count < least:
            raise ConfigError(f"schedule_options: {name}={count!r} counts validations: an int, {least} or above.")


def _words(name: str) -> list[str]:
    """Those of ``val/mAP50`` and ``ValAccuracy_epoch``, with and without a number at the end."""
    camel = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    words = [word for word in re.split(r"[^a-z0-9]+", camel.lower()) if word]
    return [form for word in words for form in {word, word.rstrip("0123456789")} if form]


class PlateauSchedule(Schedule):
    """Warmup, then a cut whenever the metric has not improved for ``patience`` validations (torch's ReduceLROnPlateau).

    Args:
        optimizer: its groups' ``lr`` are the base rates.
        name: ``plateau``.
        phases: the run in optimizer steps, and the plateau's options.
        mode: whether a smaller or a larger metric is better.

    Attributes:
        looks: how many values there were, looked at or left out by ``frequency``.
        is_watched: whether a trainer's callback looks at the metric.
    """

    def __init__(self, optimizer: Optimizer, name: str, phases: Phases, mode: Mode = "min") -> None:
        options, self.looks, self.is_watched = phases.options, 0, False
        self._stand_in = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        self._plateau = ReduceLROnPlateau(
            self._stand_in, mode=mode, factor=options["factor"], patience=int(options["patience"]), eps=0.0
        )
        super().__init__(optimizer, name, phases)

    def step(self, epoch: Any = None) -> None:
        """Look at the metric; without one, as Lightning calls it after each update, nothing.

        Who does so by hand beside a trainer's callback does so alone from the first time on.
        """
        if epoch is None:
            return
        if self.is_watched:
            self.is_watched = False
            self._plateau.best, self._plateau.num_bad_epochs = self._plateau.mode_worse, 0
            self._stand_in.param_groups[0]["lr"] = 1.0
        self.look(float(epoch))

    def look(self, metric: float) -> None:
        """Cut the rate if the metric has not improved for long enough."""
        self._notice()
        self._plateau.step(metric)
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """Also what the plateau remembers."""
        return {
            **super().state_dict(),
            "plateau": self._plateau.state_dict(),
            "cut": self._stand_in.param_groups[0]["lr"],
            "looks": self.looks,
            "watched": self.is_watched,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Also what the plateau remembers; its options are the present ones."""
        self._remember(state_dict.get("plateau"), state_dict.get("cut"))
        looks = state_dict.get("looks", 0)
        self.looks = looks if type(looks) is int and looks >= 0 else 0
        self.is_watched &= state_dict.get("watched", True) is not False
        super().load_state_dict(state_dict)

    def _remember(self, saved: Any, cut: Any) -> None:
        """Its best value, the validations since, and the cut that followed; all or none."""
        numbers = [saved.get(name) for name in ("best", "num_bad_epochs")] if isinstance(saved, Mapping) else [None]
        if not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in [*numbers, cut]) or not 0 < cut <= 1:
            say_left_out("schedule state", ["what the plateau remembers"])
            return
        if saved.get("mode", self._plateau.mode) == self._plateau.mode:
            self._plateau.best = saved["best"]
        self._plateau.num_bad_epochs = int(saved["num_bad_epochs"])
        self._stand_in.param_groups[0]["lr"] = float(cut)

    def _factor(self, step: int) -> float:
        """The cut comes on top of the warmup; never below ``min_lr``."""
        cut = float(self._stand_in.param_groups[0]["lr"])
        return super()._factor(step) * max(cut, self.phases.min_factor)

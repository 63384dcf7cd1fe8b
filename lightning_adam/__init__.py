"""One call to set up any Adam-family optimizer in Lightning, and the numbers and diagnoses that show what it does."""

from typing import TYPE_CHECKING

from lightning_adam._lazy import lazy

if TYPE_CHECKING:
    from lightning_adam.clipping import ClipAdaptive, ClipNorm, ClipPercentile, ClipValue, ZClip
    from lightning_adam.config import OptimizerConfig
    from lightning_adam.configure import configure_optimizers
    from lightning_adam.describe import describe, plot_schedule
    from lightning_adam.diagnosis import Finding
    from lightning_adam.doctor import report
    from lightning_adam.errors import ConfigError, LightningAdamWarning
    from lightning_adam.integrations import watch
    from lightning_adam.learning_rate import SuggestedRate, suggest_lr
    from lightning_adam.monitoring import DivergenceError
    from lightning_adam.optimizers import available_optimizers
    from lightning_adam.preflight import PreflightReport, preflight
    from lightning_adam.recipes import optimizer_class, optimizer_factory
    from lightning_adam.tuning import SearchSpace, search_space

__version__ = "0.1.0"

__all__ = [
    "ClipAdaptive",
    "ClipNorm",
    "ClipPercentile",
    "ClipValue",
    "ConfigError",
    "DivergenceError",
    "Finding",
    "LightningAdamWarning",
    "OptimizerConfig",
    "PreflightReport",
    "SearchSpace",
    "SuggestedRate",
    "ZClip",
    "__version__",
    "available_optimizers",
    "configure_optimizers",
    "describe",
    "optimizer_class",
    "optimizer_factory",
    "plot_schedule",
    "preflight",
    "report",
    "search_space",
    "suggest_lr",
    "watch",
]

if not TYPE_CHECKING:  # a __getattr__ that type checkers see would let every misspelt name pass
    __getattr__ = lazy(
        __name__,
        dict.fromkeys(("ClipAdaptive", "ClipNorm", "ClipPercentile", "ClipValue", "ZClip"), "lightning_adam.clipping")
        | dict.fromkeys(("ConfigError", "LightningAdamWarning"), "lightning_adam.errors")
        | dict.fromkeys(("PreflightReport", "preflight"), "lightning_adam.preflight")
        | dict.fromkeys(("describe", "plot_schedule"), "lightning_adam.describe")
        | dict.fromkeys(("SuggestedRate", "suggest_lr"), "lightning_adam.learning_rate")
        | dict.fromkeys(("SearchSpace", "search_space"), "lightning_adam.tuning")
        | dict.fromkeys(("optimizer_class", "optimizer_factory"), "lightning_adam.recipes")
        | {
            "Finding": "lightning_adam.diagnosis",
            "OptimizerConfig": "lightning_adam.config",
            "available_optimizers": "lightning_adam.optimizers",
            "configure_optimizers": "lightning_adam.configure",
            "report": "lightning_adam.doctor",
            "DivergenceError": "lightning_adam.monitoring",
            "watch": "lightning_adam.integrations",
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

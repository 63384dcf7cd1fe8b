"""Writes the tags, draws the heatmap, lays out the dashboards; ``tab`` is the Adam tab."""

from typing import TYPE_CHECKING

from lightning_adam._lazy import lazy

if TYPE_CHECKING:
    from lightning_adam.tensorboard.layout import deep_link
    from lightning_adam.tensorboard.tags import HEADLINE, QUANTITY_TEXTS
    from lightning_adam.tensorboard.top import top_tables
    from lightning_adam.tensorboard.writer import TensorBoardWriter

__all__ = ["HEADLINE", "QUANTITY_TEXTS", "TensorBoardWriter", "deep_link", "top_tables"]

if not TYPE_CHECKING:  # as in lightning_adam/__init__.py
    __getattr__ = lazy(
        __name__,
        {
            "HEADLINE": "lightning_adam.tensorboard.tags",
            "QUANTITY_TEXTS": "lightning_adam.tensorboard.tags",
            "TensorBoardWriter": "lightning_adam.tensorboard.writer",
            "deep_link": "lightning_adam.tensorboard.layout",
            "top_tables": "lightning_adam.tensorboard.top",
        },
    )


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

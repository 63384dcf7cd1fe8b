"""Writes the tags, draws the heatmap, and lays out the dashboards."""

from lightning_adam.tensorboard.layout import deep_link
from lightning_adam.tensorboard.tags import HEADLINE, QUANTITY_TEXTS
from lightning_adam.tensorboard.writer import TensorBoardWriter

__all__ = ["HEADLINE", "QUANTITY_TEXTS", "TensorBoardWriter", "deep_link"]

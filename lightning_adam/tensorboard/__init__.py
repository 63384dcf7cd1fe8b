"""Writes the tags, draws the heatmap, and lays out the dashboards."""

from lightning_adam.tensorboard.history import Heatmap
from lightning_adam.tensorboard.layout import deep_link
from lightning_adam.tensorboard.tags import HEADLINE, QUANTITY_TEXTS
from lightning_adam.tensorboard.top import top_tables
from lightning_adam.tensorboard.writer import TensorBoardWriter

__all__ = ["HEADLINE", "QUANTITY_TEXTS", "Heatmap", "TensorBoardWriter", "deep_link", "top_tables"]

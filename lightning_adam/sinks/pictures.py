"""What several sinks show as a picture."""

from __future__ import annotations

from PIL.Image import Image

from lightning_adam.monitoring.heatmap import Heatmap
from lightning_adam.tensorboard.heatmap import Circumstances, draw_heatmap
from lightning_adam.tensorboard.tab.marks import marks_of


def picture_of(heatmap: Heatmap) -> Image:
    """The update ratios, judged as in the Adam tab, and faint as there while no finding says that they do harm."""
    marks = None if heatmap.findings is None else marks_of(heatmap.findings)
    known = Circumstances(heatmap.beta1, heatmap.rates, heatmap.agreement(), marks)
    return draw_heatmap(heatmap.steps, heatmap.names, heatmap.matrix(), known)

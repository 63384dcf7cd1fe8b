"""What several sinks show as a picture."""

from __future__ import annotations

from PIL.Image import Image

from lightning_adam.monitoring.heatmap import Heatmap
from lightning_adam.tensorboard.heatmap import Circumstances, draw_heatmap


def picture_of(heatmap: Heatmap) -> Image:
    """The update ratios, judged as in the Adam tab."""
    known = Circumstances(heatmap.beta1, heatmap.rates, heatmap.agreement())
    return draw_heatmap(heatmap.steps, heatmap.names, heatmap.matrix(), known)

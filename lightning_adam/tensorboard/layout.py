"""What opens well: the Custom Scalars tab, and a link with the right cards pinned."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from tensorboard.plugins.custom_scalar import layout_pb2

PINNED = (
    "log10_update_ratio_p50",
    "log10_step_size_rms",
    "log10_effective_lr_p50",
    "log10_lr",
    "log10_gradient_norm",
    "signal_to_noise",
    "log10_first_moment_rms",
    "log10_second_moment_rms",
    "findings_total",
)


def layout(prefix: str) -> Any:
    """Charts for the Custom Scalars tab: the band of update ratios, then groups and moments."""
    margin = layout_pb2.MarginChartContent.Series(
        value=f"{prefix}/log10_update_ratio_p50",
        lower=f"{prefix}/log10_update_ratio_p10",
        upper=f"{prefix}/log10_update_ratio_p90",
    )
    band = layout_pb2.Chart(
        title="log10 update ratio: p10, p50, p90 over the tensors",
        margin=layout_pb2.MarginChartContent(series=[margin]),
    )
    lines = [
        _lines("log10 rms of the first and second moment", [f"{prefix}/log10_(first|second)_moment_rms"]),
        _lines("log10 step size", [f"{prefix}/log10_step_size_rms"]),
        _lines("log10 learning rate and effective learning rate", [f"{prefix}/log10_(lr|effective_lr_p50)"]),
        _lines("log10 update ratio per parameter group", [f"{prefix}\\.groups/log10_update_ratio_p50/.*"]),
    ]
    return layout_pb2.Layout(category=[layout_pb2.Category(title="Adam", chart=[band, *lines])])


def _lines(title: str, tags: list[str]) -> Any:
    return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))


def deep_link(port: int = 6006, prefix: str = "adam", run: str = ".") -> str:
    """A TensorBoard address with the headline cards and the heatmap pinned, and smoothing off."""
    cards: list[dict[str, Any]] = [{"plugin": "scalars", "tag": f"{prefix}/{name}"} for name in PINNED]
    heatmap = f"{prefix}.dist/update_ratio_heatmap"
    cards.append({"plugin": "images", "tag": heatmap, "runId": f"defaultExperimentId/{run}", "sample": 0})
    pins = quote(json.dumps(cards, separators=(",", ":")))
    return f"http://127.0.0.1:{port}/?pinnedCards={pins}&smoothing=0#timeseries"

"""Writes a logged step as one event, through the logger's own SummaryWriter.

One Summary with all values costs several times less than one ``add_scalar`` per tag: torch's writer opens, appends and
closes the file for every event. ``data_class`` is always set: TensorBoard's data server drops what has none.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_BLOB_SEQUENCE,
    DATA_CLASS_SCALAR,
    DATA_CLASS_TENSOR,
    HistogramProto,
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.util import tensor_util

from lightning_adam.statistics import LOG10_EDGES, QUANTITIES, Snapshot
from lightning_adam.tensorboard.heatmap import few_colours
from lightning_adam.tensorboard.layout import layout
from lightning_adam.tensorboard.reader import EVENTS, RECORDS, ROWS
from lightning_adam.tensorboard.rows import in_its_rows
from lightning_adam.tensorboard.tags import PLUGIN, description
from lightning_adam.tensorboard.tensor_histograms import COUNTED, HISTOGRAMS, about, as_tensor

_NAMED: WeakKeyDictionary[Any, dict[str, list[str]]] = WeakKeyDictionary()
"""The rows' names that a file has for each series: readers take them from there. With each event, they would outweigh the
numbers."""


_DESCRIBED: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
"""The scalars and histograms that a file has described: readers keep what the first one says, and repeated with each step it
is half of the file."""


class TensorBoardWriter:
    """The tags of one optimizer in one run.

    Args:
        experiment: a torch ``SummaryWriter`` (the logger's own: a second one in the same folder would not be read).
        prefix: first part of every tag; ``adam``, or one per optimizer.
    """

    def __init__(self, experiment: Any, prefix: str = "adam") -> None:
        self.experiment, self.prefix = experiment, prefix
        self._files = experiment._get_file_writer()

    def write_snapshot(
        self,
        step: int,
        scalars: Mapping[str, float],
        snapshot: Snapshot,
        tensor_scalars: Sequence[int] = (),
        matrix: bool = True,
    ) -> None:
        """One event: the headline scalars, both histograms, every quantity of every tensor, and its own histograms.

        Args:
            step: the log's x-axis.
            scalars: full tag to value.
            snapshot: the tables.
            tensor_scalars: rows that also get a scalar per quantity.
            matrix: whether every quantity of every tensor is written, and the histograms that the snapshot has of it.
        """
        values = [scalar(tag, value) for tag, value in scalars.items()]
        values += [
            histogram(f"{self.prefix}.dist/log10_step_size", snapshot.hist_step_size),
            histogram(f"{self.prefix}.dist/log10_effective_lr", snapshot.hist_effective_lr),
        ]
        placed = in_its_rows(self._files, self.prefix, snapshot) if matrix else snapshot
        if matrix and not self._is_named(self.prefix + ROWS, placed):
            values.append(own_text(self.prefix + ROWS, json.dumps(row_names(placed.names, placed.sizes)).encode()))
        for index, quantity in enumerate(QUANTITIES if matrix else ()):
            values.append(self._matrix_row(f"{self.prefix}_matrix/{quantity}", placed.table[:, index], placed))
            tag = f"{self.prefix}.tensors/{quantity}"
            values += [scalar(f"{tag}/{snapshot.names[i]}", snapshot.table[i, index]) for i in tensor_scalars]
        for index, name in enumerate(COUNTED if matrix and len(placed.histograms) else ()):
            values.append(self._tensor_histograms(f"{self.prefix}{HISTOGRAMS}{name}", index, placed))
        self._add(step, values)

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """One event with these scalars."""
        self._add(step, [scalar(tag, value) for tag, value in scalars.items()])

    def write_text(self, tag: str, markdown: str, step: int) -> None:
        """Markdown for the text tab. A tag keeps few of its texts: write the whole story each time."""
        self.experiment.add_text(tag, markdown, step)

    def write_events(self, step: int, findings: Sequence[Mapping[str, Any]]) -> None:
        """All findings of a step as one string tensor, JSON."""
        self._add(step, [own_text(self.prefix + EVENTS, json.dumps(list(findings), allow_nan=True).encode())])
        self.experiment.flush()

    def write_signals(self, step: int, payload: bytes) -> None:
        """A stretch of the diagnosis' signals (``lightning_adam.diagnosis.encode``), for the doctor to replay."""
        self._add(step, [own_text(self.prefix + RECORDS, payload)])

    def write_heatmap(self, step: int, picture: Image.Image) -> None:
        """The update ratios so far, see :func:`~lightning_adam.tensorboard.heatmap.draw_heatmap`."""
        buffer = io.BytesIO()
        few_colours(picture).save(buffer, "PNG", optimize=True)
        tag = f"{self.prefix}.dist/update_ratio_heatmap"
        image = Summary.Image(
            height=picture.height, width=picture.width, colorspace=3, encoded_image_string=buffer.getvalue()
        )
        metadata = SummaryMetadata(
            plugin_data={"plugin_name": "images"},
            data_class=DATA_CLASS_BLOB_SEQUENCE,
            summary_description=description(tag),
        )
        self._add(step, [Summary.Value(tag=tag, metadata=metadata, image=image)])

    def write_layout(self, prefixes: Sequence[str] = (), each_tensor: bool = False) -> None:
        """The Custom Scalars tab, of all optimizers at once: a run has one layout."""
        charts = {
            title: chart for prefix in prefixes or (self.prefix,) for title, chart in layout(prefix, each_tensor).items()
        }
        self.experiment.add_custom_scalars(charts)

    def _matrix_row(self, tag: str, values: NDArray[np.float32], snapshot: Snapshot) -> Any:
        known = self._is_named(tag, snapshot)
        return matrix_row(tag, values, *((None,) if known else (snapshot.names, snapshot.sizes)))

    def _tensor_histograms(self, tag: str, index: int, snapshot: Snapshot) -> Any:
        content = "" if self._is_named(tag, snapshot) else json.dumps(about(snapshot.names))
        metadata, tensor = plugin_metadata(tag, content), as_tensor(snapshot.histograms[:, index])
        return Summary.Value(tag=tag, metadata=metadata, tensor=tensor)

    def _is_named(self, tag: str, snapshot: Snapshot) -> bool:
        """Whether the file has the rows' names already; from now on it has."""
        named = _NAMED.setdefault(self._files, {})
        known = named.get(tag) == list(snapshot.names)
        named[tag] = list(snapshot.names)
        return known

    def _add(self, step: int, values: Sequence[Any]) -> None:
        described = _DESCRIBED.setdefault(self._files, set())
        for value in values:
            if value.WhichOneof("value") in ("simple_value", "histo"):
                if value.tag in described:
                    value.ClearField("metadata")
                described.add(value.tag)
        self._files.add_summary(Summary(value=values), step)


def scalar(tag: str, value: float) -> Any:
    """A scalar with its description; NaN and infinity are written as they are."""
    metadata = SummaryMetadata(
        plugin_data={"plugin_name": "scalars"}, data_class=DATA_CLASS_SCALAR, summary_description=description(tag)
    )
    return Summary.Value(tag=tag, metadata=metadata, simple_value=float(value))


def histogram(tag: str, counts: NDArray[np.int64]) -> Any:
    """A histogram of log10 values, counted between LOG10_EDGES."""
    total = float(counts.sum())
    centres = (LOG10_EDGES[:-1] + LOG10_EDGES[1:]) / 2
    proto = HistogramProto(
        min=float(LOG10_EDGES[0]),
        max=float(LOG10_EDGES[-1]),
        num=total,
        sum=float((centres * counts).sum()),
        sum_squares=float((centres**2 * counts).sum()),
        bucket_limit=[float(edge) for edge in LOG10_EDGES],
        bucket=[0.0, *map(float, counts)],
    )
    metadata = SummaryMetadata(
        plugin_data={"plugin_name": "histograms"}, data_class=DATA_CLASS_TENSOR, summary_description=description(tag)
    )
    return Summary.Value(tag=tag, metadata=metadata, histo=proto)


def matrix_row(
    tag: str, values: NDArray[np.float32], names: Sequence[str] | None, sizes: Sequence[int] | None = None
) -> Any:
    """One quantity of all tensors, float32 [n_tensors]; the rows' names and numbers of elements, where given, are in the
    plugin content."""
    metadata = plugin_metadata(tag, "" if names is None else json.dumps(row_names(names, sizes)))
    return Summary.Value(tag=tag, metadata=metadata, tensor=tensor_util.make_tensor_proto(values.astype(np.float32)))


def row_names(names: Sequence[str], sizes: Sequence[int] | None) -> dict[str, Any]:
    """What readers are told of the rows: the tensors' names, and how many elements each has."""
    return {"version": 1, "rows": list(names), **({} if sizes is None else {"sizes": list(sizes)})}


def own_text(tag: str, payload: bytes) -> Any:
    """One string of a series that our own tools read."""
    tensor = TensorProto(dtype="DT_STRING", string_val=[payload])
    return Summary.Value(tag=tag, metadata=plugin_metadata(tag, ""), tensor=tensor)


def plugin_metadata(tag: str, content: str) -> Any:
    """Metadata of a series that our own tools read."""
    return SummaryMetadata(
        plugin_data={"plugin_name": PLUGIN, "content": content.encode()},
        data_class=DATA_CLASS_TENSOR,
        summary_description=description(tag),
    )

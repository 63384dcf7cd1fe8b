"""What is in the event file, read back with TensorBoard's own readers."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader, RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_UNKNOWN
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.util import tensor_util
from torch.utils.tensorboard import SummaryWriter

from lightning_adam.cli import main
from lightning_adam.statistics import COLUMNS, LOG10_EDGES, QUANTITIES, Snapshot
from lightning_adam.tensorboard import HEADLINE, TensorBoardWriter, deep_link
from lightning_adam.tensorboard.files import event_files
from lightning_adam.tensorboard.heatmap import BLACK, GREY, colours, draw_heatmap
from lightning_adam.tensorboard.reader import read_run

NAMES = ["embed.weight", "layers.0.weight", "layers.0.bias"]


def snapshot(step: int = 7) -> Snapshot:
    """Three tensors; the last one has a NaN and an infinity."""
    table = np.random.default_rng(step).random((3, len(COLUMNS)), dtype=np.float32)
    table[2, :2] = np.nan, np.inf
    counts = np.arange(len(LOG10_EDGES) - 1, dtype=np.int64)
    return Snapshot(step, NAMES, ["decay", "decay", "no_decay"], [6, 4, 2], {"decay": 0.1}, table, counts, counts)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of three logged steps."""
    with SummaryWriter(str(tmp_path)) as files:
        writer = TensorBoardWriter(files)
        writer.write_layout()
        for step in (7, 17, 27):
            writer.write_snapshot(step, {"adam/log10_lr": -3.0, "adam/signal_to_noise": math.nan}, snapshot(step), (0, 2))
        writer.write_heatmap(27, draw_heatmap([7, 17, 27], NAMES, np.full((3, 3), 1e-3)))
        writer.write_events(27, [{"rule": "NON-FINITE", "evidence": {"loss": math.nan}}])
    return tmp_path


def events(folder: Path) -> list[Event]:
    """The raw events, as they were written."""
    raw = RawEventFileLoader(str(next(folder.glob("events*")))).Load()
    return [Event.FromString(record) for record in raw]


def test_logged_step_is_one_event(run: Path) -> None:
    """Scalars, histograms and the matrix of a step share one event and one wall time; the first one names the rows, too."""
    first, second = ([e for e in events(run) if e.step == step] for step in (7, 17))
    values = 2 + 2 + len(QUANTITIES) * (1 + 2)

    assert [len(event.summary.value) for event in first] == [values + 1]
    assert [len(event.summary.value) for event in second] == [values]


def test_every_first_value_has_a_data_class(run: Path) -> None:
    """TensorBoard's data server drops series whose first value has none."""
    first = {v.tag: v for e in reversed(events(run)) for v in reversed(e.summary.value) if v.tag.startswith("adam")}

    assert [tag for tag, v in first.items() if v.metadata.data_class == DATA_CLASS_UNKNOWN] == []


def test_every_headline_has_a_description(run: Path) -> None:
    """The text behind the i of the Scalars tab."""
    described = {v.tag: v.metadata.summary_description for e in reversed(events(run)) for v in e.summary.value}

    assert described["adam/log10_lr"] == HEADLINE["log10_lr"]
    assert all(len(text) > 20 for text in HEADLINE.values())
    assert len(HEADLINE) <= 12


def test_python_loader_reads_scalars_matrix_histogram_and_picture(run: Path) -> None:
    """EventAccumulator gives back the numbers; NaN and infinity survive."""
    loaded = EventAccumulator(str(run), size_guidance={"tensors": 0}).Reload()

    assert [e.step for e in loaded.Scalars("adam/log10_lr")] == [7, 17, 27]
    assert math.isnan(loaded.Scalars("adam/signal_to_noise")[0].value)
    for index, quantity in enumerate(QUANTITIES):
        stored = loaded.Tensors(f"adam_matrix/{quantity}")[0].tensor_proto
        np.testing.assert_array_equal(np.frombuffer(stored.tensor_content, np.float32), snapshot(7).table[:, index])
    histogram = loaded.Histograms("adam.dist/log10_step_size")[0].histogram_value
    assert sum(histogram.bucket) == snapshot(7).hist_step_size.sum()
    assert len(loaded.Images("adam.dist/update_ratio_heatmap")) == 1


def test_rows_are_named_in_the_first_event(run: Path) -> None:
    """The plugin content of the matrix holds the tensor names in model order."""
    content = EventAccumulator(str(run)).Reload().SummaryMetadata("adam_matrix/update_ratio").plugin_data.content

    assert json.loads(content)["rows"] == NAMES


def test_a_tensor_keeps_its_row_where_others_come_and_go(tmp_path: Path) -> None:
    """Experts that take turns: the dashboards know the names that the first event gives, and no later ones."""
    taking_turns = [["embed", "expert.0"], ["embed", "expert.1"], ["expert.0", "head"]]
    with SummaryWriter(str(tmp_path)) as files:
        for step, names in enumerate(taking_turns):
            numbers = np.array([[float(len(name) + step)] * len(COLUMNS) for name in names], np.float32)
            told = replace(snapshot(step), names=names, groups=["decay"] * 2, sizes=[1, 1], table=numbers)
            TensorBoardWriter(files).write_snapshot(step, {}, told)

    loaded = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    first = json.loads(loaded.SummaryMetadata("adam_matrix/update_ratio").plugin_data.content)["rows"]
    rows = [tensor_util.make_ndarray(e.tensor_proto).tolist() for e in loaded.Tensors("adam_matrix/update_ratio")]
    assert first == ["embed", "expert.0"]
    np.testing.assert_array_equal([row[1] for row in rows], [8.0, math.nan, 10.0])
    table = read_run("run", tmp_path, event_files(tmp_path, os.listdir(tmp_path))).tables["adam_matrix/gradient_norm"]
    assert table.rows == ("embed", "expert.0", "expert.1", "head")
    np.testing.assert_array_equal(table.values[:, 2], [math.nan, 9.0, math.nan])


def test_loader_of_the_dashboards_reads_all_steps(run: Path) -> None:
    """The loader behind ``--load_fast=false`` keeps every tag and every step."""
    loader = EventFileLoader(str(next(run.glob("events*"))))
    seen = {(v.tag, e.step) for e in loader.Load() for v in e.summary.value}

    assert {("adam_matrix/step_size_rms", step) for step in (7, 17, 27)} <= seen
    assert ("adam_events", 27) in seen


def test_layout_of_custom_scalars_is_valid(run: Path) -> None:
    """The Custom Scalars tab gets its charts, the margin chart with three series."""
    stored = EventAccumulator(str(run)).Reload().Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    charts = {chart.title: chart for chart in Layout.FromString(stored).category[0].chart}

    assert len(charts) == 6
    margin = charts["log10 update ratio: p10, p50, p90 over the tensors"].margin.series[0]
    assert (margin.lower, margin.value, margin.upper) == tuple(f"adam/log10_update_ratio_{p}" for p in ("p10", "p50", "p90"))


def test_heatmap_tells_zero_and_non_finite_apart() -> None:
    """Grey is no step at all, black NaN or Inf; 1e-3 is pale, larger is orange, smaller blue."""
    zero, nan, inf, healthy, large, small = colours(np.array([[0, np.nan, np.inf, 1e-3, 1e-1, 1e-6]]))[0].astype(int)

    assert tuple(zero) == GREY
    assert tuple(nan) == tuple(inf) == BLACK
    assert min(healthy) > 230
    assert large[0] > large[2]
    assert small[2] > small[0]


def test_heatmap_rows_are_tensors_and_columns_steps() -> None:
    """A tensor that moves far in the last third is orange at the right end of its row only."""
    ratios = np.full((2, 3), 1e-3)
    ratios[1, 2] = 1.0
    picture = draw_heatmap([0, 10, 20], ["a.weight", "b.weight"], ratios)

    def at(row: float, column: float) -> tuple[int, ...]:
        return picture.getpixel((int(130 + column * 476), int(30 + row * 326)))  # type: ignore[return-value]

    assert isinstance(picture, Image.Image)
    assert at(0.75, 0.9)[0] > at(0.75, 0.9)[2] + 50
    assert abs(at(0.25, 0.9)[0] - at(0.25, 0.9)[2]) < 20
    assert abs(at(0.75, 0.1)[0] - at(0.75, 0.1)[2]) < 20


def test_deep_link_pins_cards_and_switches_smoothing_off() -> None:
    """At most ten cards, the format that TensorBoard parses, and the heatmap of the run."""
    link = urlsplit(deep_link(port=7007, run="healthy"))
    query = parse_qs(link.query)
    cards = json.loads(query["pinnedCards"][0])

    assert link.netloc == "127.0.0.1:7007"
    assert query["smoothing"] == ["0"]
    assert len(cards) <= 10
    assert {"plugin": "scalars", "tag": "adam/log10_update_ratio_p50"} in cards
    assert cards[0]["runId"] == "defaultExperimentId/healthy"


def test_non_finite_histogram_does_not_raise() -> None:
    """Counts come from log10_counts, which leaves NaN out and puts infinity and zero at the ends."""
    from lightning_adam.statistics.quantities import log10_counts

    counts = log10_counts(torch.tensor([0.0, 1e-3, math.inf, math.nan]), torch.zeros(4, dtype=torch.int64), 1)[0]

    assert counts.sum() == 3
    assert counts[0] == counts[-1] == 1


def test_the_pinned_address_is_printed_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    """It is too long for the line that each run begins with."""
    assert main(["link", "--run", "healthy", "--port", "7007", "--prefix", "adam-AdamW"]) == 0

    assert capsys.readouterr().out.strip() == deep_link(7007, "adam-AdamW", "healthy")

"""The histogram of one tensor at the chosen step: as it was measured, in the log, from the tab's server, on its page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from torch.utils.tensorboard import SummaryWriter

from lightning_adam.callbacks import OptimizerMonitor
from lightning_adam.diagnosis import RunSignals
from lightning_adam.monitoring import optimizer_statistics
from lightning_adam.statistics import COLUMNS, LOG10_EDGES
from lightning_adam.tensorboard.tab.limits import bands
from lightning_adam.tensorboard.tensor_histograms import BINS, packed, unpacked
from lightning_adam.tensorboard.writer import plugin_metadata
from tests import tab_runs
from tests.digits import Digits, digits_loader, trainer
from tests.tab_browser import Tab
from tests.tab_runs import NAMES, own_histograms, table
from tests.test_tab_requests import serving

STEPS = range(0, 200, 10)


@pytest.mark.parametrize("tensors", [0, 1, 300])
def test_what_is_packed_is_unpacked_to_the_same(tensors: int) -> None:
    counts = np.random.default_rng(0).poisson(0.1, (tensors, BINS)).astype(np.int32) * 4096

    np.testing.assert_array_equal(unpacked(packed(counts)), counts)


def test_packed_histograms_of_the_demo_take_less_than_the_quantities_of_its_tensors() -> None:
    """Fifteen numbers of four bytes are logged of each tensor beside them."""
    assert len(packed(own_histograms(0)[:, 0])) < 15 * 4 * len(NAMES) / 2


@pytest.mark.parametrize("content", [b"", b"\x00", b"\x4f\x4f" + b"no zlib", bytes(packed(own_histograms(0)[:, 0]))[:-9]])
def test_what_somebody_else_wrote_has_no_tensors(content: bytes) -> None:
    assert len(unpacked(np.frombuffer(content, np.uint8))) == 0


def asked(folder: Path, run: str, quantity: str, row: int, step: int) -> dict[str, Any]:
    """What the page gets."""
    query = {"run": run, "prefix": "adam", "quantity": quantity, "row": row, "step": step}
    found: dict[str, Any] = json.loads(serving(folder)["/own_histogram"].get("/own_histogram", query_string=query).data)
    return found


@pytest.mark.parametrize(("row", "step", "nearest"), [(0, 0, 0), (3, 104, 100), (9, 10**9, 190)])
def test_the_nearest_logged_step_is_answered_with_the_counts_of_this_tensor(
    row: int, step: int, nearest: int, tmp_path: Path
) -> None:
    tab_runs.write(tmp_path / "known", STEPS)
    for index, quantity in enumerate(("step_size", "effective_lr")):
        found = asked(tmp_path, "known", quantity, row, step)
        counts = own_histograms(nearest)[row, index]
        filled = np.flatnonzero(counts)

        assert found["step"] == nearest
        assert [bin[2] for bin in found["bins"]] == counts[filled].tolist()
        np.testing.assert_allclose(
            [bin[:2] for bin in found["bins"]], np.stack([LOG10_EDGES[filled], LOG10_EDGES[filled + 1]], 1)
        )


def test_limits_of_the_step_size_are_those_of_the_update_ratio_times_the_rms_of_the_weights(tmp_path: Path) -> None:
    """At the planned rate; a bias has none."""
    tab_runs.write(tmp_path / "known", STEPS)
    band = bands(RunSignals(beta1=0.9, beta2=0.999, plain_moments=True))["update_ratio"]
    row, step = NAMES.index("blocks.1.a.weight"), 100
    logged = dict(zip(COLUMNS, table(step)[row].tolist(), strict=True))
    share = 10.0 ** (-step / 100)  # the made-up run's rate, of its first one
    found = asked(tmp_path, "known", "step_size", row, step)["limits"]
    high = band.high * share * logged["step_size_rms"] / logged["update_ratio"]

    assert [limit["code"] for limit in found] == ["LR-HIGH"]  # its steps disagree: small ones would be noise
    assert found[0]["value"] == pytest.approx(high, rel=1e-5)
    assert asked(tmp_path, "known", "step_size", NAMES.index("blocks.1.c.bias"), step)["limits"] == []
    assert [limit["code"] for limit in asked(tmp_path, "known", "step_size", row, 10)["limits"]] == ["NO-WARMUP"]


def test_limit_of_the_effective_rate_is_its_mean_where_eps_is_half_of_the_denominator(tmp_path: Path) -> None:
    """α/(2ε), as EPS-HIGH judges the mean share ε/(√v̂+ε); a bias has none."""
    tab_runs.write(tmp_path / "known", STEPS)
    row, step = NAMES.index("blocks.1.a.weight"), 100
    (limit,) = asked(tmp_path, "known", "effective_lr", row, step)["limits"]

    assert limit == {"value": pytest.approx(10.0 ** (-3 - step / 100) / (2 * 1e-8), rel=1e-4), "code": "EPS-HIGH"}
    assert asked(tmp_path, "known", "effective_lr", NAMES.index("blocks.1.c.bias"), step)["limits"] == []


@pytest.mark.parametrize("stored", [np.zeros(3, np.float32), np.frombuffer(b"nonsense", np.uint8)])
def test_a_log_without_histograms_of_single_tensors_is_answered_with_none(stored: Any, tmp_path: Path) -> None:
    """One of an older version, and what is not ours under our tag."""
    tag = "adam_histograms/step_size"
    with SummaryWriter(str(tmp_path / "run")) as files:
        from tensorboard.compat.proto.summary_pb2 import Summary

        tensor = tensor_util.make_tensor_proto(stored)
        files._get_file_writer().add_summary(
            Summary(value=[Summary.Value(tag=tag, metadata=plugin_metadata(tag, ""), tensor=tensor)])
        )

    for row, run in ((0, "run"), (-1, "run"), (0, "nowhere")):
        assert asked(tmp_path, run, "step_size", row, 0) == {"step": None, "bins": None, "limits": None}


def test_a_step_at_which_nothing_was_finite_has_an_empty_histogram_and_not_none(tmp_path: Path) -> None:
    """Else the page says of a run that broke that it has no histograms at all."""
    tag = "adam_histograms/step_size"
    with SummaryWriter(str(tmp_path / "run")) as files:
        from tensorboard.compat.proto.summary_pb2 import Summary

        tensor = tensor_util.make_tensor_proto(packed(np.zeros((len(NAMES), BINS), np.int32)))
        value = Summary.Value(tag=tag, metadata=plugin_metadata(tag, ""), tensor=tensor)
        files._get_file_writer().add_summary(Summary(value=[value]), 7)

    assert asked(tmp_path, "run", "step_size", 0, 9) == {"step": 7, "bins": [], "limits": []}


def test_a_trained_run_has_them_for_its_first_steps_and_for_fewer_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is counted is each tensor's sample: here all of its elements."""
    from lightning.pytorch.loggers import TensorBoardLogger

    monkeypatch.setattr(optimizer_statistics, "OWN_HISTOGRAMS", 4)
    module = Digits()
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    trainer(max_steps=12, logger=logger, callbacks=[OptimizerMonitor()], log_every_n_steps=1).fit(module, digits_loader())
    logger.experiment.close()
    events = (
        EventAccumulator(str(tmp_path / "run"), size_guidance={"tensors": 0}).Reload().Tensors("adam_histograms/step_size")
    )
    counts = [unpacked(tensor_util.make_ndarray(event.tensor_proto)) for event in events]

    assert [event.step for event in events] == [0, 1, 2, 3, 4, 6, 8]
    assert counts[0].sum(axis=1).tolist() == [p.numel() for p in module.parameters()]


def test_the_page_draws_the_tensors_own_histogram_with_its_limits(
    server: SimpleNamespace, opened: Callable[..., Tab]
) -> None:
    """In words for a screen reader, too; in another place for another tensor."""
    tab = opened(server, run="known", tensor="blocks.1.a.weight", step="100")
    chart = tab.frame.get_by_role("img", name="Step size |Δθ| at the chosen step")
    words, first = chart.get_attribute("aria-label"), chart.screenshot()
    tab.frame.get_by_role("button", name="next tensor").click()
    tab.settle()

    assert "rms" in words and "LR-HIGH beyond" in words
    assert "step 100: 4,000 elements of this tensor" in tab.frame.locator(".histogram-box").first.inner_text()
    assert chart.screenshot() != first

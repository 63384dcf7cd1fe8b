"""What OptimizerMonitor is asked to look at, and how finely: arguments, their errors, and the tags that follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from torch import Tensor

import lightning_adam as la
from lightning_adam.callbacks import OptimizerMonitor
from lightning_adam.monitoring import optimizer_statistics
from lightning_adam.statistics import (
    COLUMNS,
    LOG10_EDGES,
    Before,
    Snapshot,
    TensorReading,
    copy_parameters,
    effective_lr_quantiles,
    step_size_quantiles,
    take_snapshot,
)
from lightning_adam.tensorboard import top_tables
from tests.digits import Digits, digits_loader, trainer
from tests.statistics_reference import f64, reading
from tests.test_odd_models import fit, scalars
from tests.test_optimizer_monitor import matrices, row_names


def rooms(logdir: Path) -> set[str]:
    """First parts of all tags."""
    tags = EventAccumulator(str(logdir)).Reload().Tags()
    every = [tag for kind in ("scalars", "tensors", "images", "histograms") for tag in tags[kind]]
    return {tag.split("/")[0] for tag in every if tag.startswith("adam")}


@pytest.mark.parametrize(
    ("granularity", "more"),
    [
        ("model", set()),
        ("group", {"adam.groups"}),
        ("parameter", {"adam.groups", "adam.tensors", "adam_matrix", "adam_rows", "adam_histograms"}),
    ],
)
def test_granularity_says_how_finely(tmp_path: Path, granularity: Any, more: set[str]) -> None:
    """The model always; groups and single tensors where asked for."""
    logdir = fit(tmp_path, Digits(), monitor=OptimizerMonitor(2, granularity=granularity))

    assert rooms(logdir) == {"adam", "adam.dist", "adam.clip"} | more


def test_include_and_exclude_choose_tensors(tmp_path: Path) -> None:
    """Only the weights, without those of the last layer; the headline is theirs alone."""
    whole = matrices(fit(tmp_path / "all", Digits()))
    logdir = fit(tmp_path / "some", Digits(), monitor=OptimizerMonitor(1, include="*.weight", exclude=["net.2.*"]))
    chosen = matrices(logdir)

    assert row_names(logdir) == ["net.0.weight"]
    np.testing.assert_array_equal(chosen["step_size_rms"][5], whole["step_size_rms"][5][:1])
    last = scalars(logdir)["adam/log10_step_size_rms"][-1][1]
    assert last == pytest.approx(np.log10(chosen["step_size_rms"][5][0]), rel=1e-5)


def test_only_what_is_chosen_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a measured optimizer, no copy of the tensors that are left out."""
    seen: list[int] = []

    def counted(*args: Any) -> Before | None:
        before = copy_parameters(*args)
        assert before is not None
        seen.append(len(before.parameters))
        return before

    monkeypatch.setattr(optimizer_statistics, "copy_parameters", counted)
    fit(tmp_path, Digits(optimizer="lion"), monitor=OptimizerMonitor(1, include="net.2.*"))

    assert seen == [2] * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "paramter"}, "Did you mean 'parameter'"),
        ({"every_n_steps": True}, "every_n_steps=True"),
        ({"every_n_steps": 2.5}, "every_n_steps=2.5"),
        ({"top": -1}, "top=-1"),
        ({"include": 3}, "include=3: give a glob"),
        ({"exclude": []}, r"exclude=\[\]"),
        ({"tensors": ["a", 1]}, "tensors="),
    ],
)
def test_wrong_arguments_are_refused_at_construction(options: dict[str, Any], message: str) -> None:
    """The error names the argument, its value and what is allowed."""
    with pytest.raises(la.ConfigError, match=message):
        OptimizerMonitor(**options)


@pytest.mark.parametrize("argument", ["include", "exclude", "tensors"])
def test_pattern_without_a_match_is_an_error_at_the_start(argument: str) -> None:
    """It would log nothing for hours: the message has the nearest name."""
    monitor = OptimizerMonitor(1, **{argument: "net.0.wieght"})  # type: ignore[arg-type]

    with pytest.raises(la.ConfigError, match=f"{argument}='net.0.wieght' matches no.*Did you mean 'net.0.weight'"):
        trainer(max_steps=2, callbacks=[monitor]).fit(Digits(), digits_loader())


def test_nothing_left_is_an_error() -> None:
    """Including and excluding the same."""
    monitor = OptimizerMonitor(1, include="*.bias", exclude="*.bias")

    with pytest.raises(la.ConfigError, match="leave no parameter"):
        trainer(max_steps=2, callbacks=[monitor]).fit(Digits(), digits_loader())


def table(**columns: list[float]) -> Snapshot:
    """A snapshot of so many tensors with these columns, the rest NaN."""
    count = len(next(iter(columns.values())))
    values = np.full((count, len(COLUMNS)), np.nan, dtype=np.float32)
    for name, column in columns.items():
        values[:, COLUMNS.index(name)] = column
    counts = np.zeros((2, len(LOG10_EDGES) - 1), dtype=np.int64)
    names = [f"layer.{i}" for i in range(count)]
    return Snapshot(7, names, ["decay"] * count, [1] * count, {"decay": 0.1}, values, *counts)


def test_top_tables_name_the_extremes() -> None:
    """Largest ratio, largest surprise, smallest step, in order; infinite ones first, unknown ones not at all."""
    text = top_tables(
        table(
            update_ratio=[1e-3, 5e-1, 2e-2, np.nan],
            gradient_surprise=[1.0, 2.0, np.inf, 1.5],
            step_size_rms=[1e-4, 1e-3, 0.0, 1e-5],
        ),
        2,
    )
    sections = [[line.split(" | ")[0].strip("| ") for line in part.splitlines()[4:]] for part in text.split("\n\n**")[1:]]

    assert text.startswith("Step 7")
    assert [[name for name in names if name.startswith("layer")] for names in sections] == [
        ["layer.1", "layer.2"],
        ["layer.2", "layer.1"],
        ["layer.2", "layer.3"],
    ]


def test_top_tables_are_written_as_text(tmp_path: Path) -> None:
    """The last step's is in the log; ``top=0`` writes none."""
    events = EventAccumulator(str(fit(tmp_path / "a", Digits()))).Reload()
    stored = events.Tensors("adam/top/text_summary")
    text = tensor_util.make_ndarray(stored[-1].tensor_proto).item().decode()
    without = EventAccumulator(str(fit(tmp_path / "b", Digits(), monitor=OptimizerMonitor(1, top=0)))).Reload()

    assert stored[-1].step == 5
    assert text.count("net.2.weight") == 3
    assert "adam/top/text_summary" not in without.Tags()["tensors"]


def test_quantiles_of_the_model_are_those_of_all_steps(tmp_path: Path) -> None:
    """p01, p50 and p99 of |Δθ| over the weights that moved, to the width of a histogram bin."""
    start: dict[str, Tensor] = {}

    class Ends(OptimizerMonitor):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            start.update({n: p.detach().clone() for n, p in pl_module.named_parameters()})

    module = Digits(weight_decay=0.0)
    series = scalars(fit(tmp_path, module, monitor=Ends(1)))
    moved = np.concatenate([(p.detach() - start[n]).abs().flatten().numpy() for n, p in module.named_parameters()])

    for at in (1, 50, 99):
        want = np.log10(np.quantile(moved[moved > 1e-12], at / 100))
        assert series[f"adam.dist/log10_step_size_p{at:02d}"][-1][1] == pytest.approx(want, abs=0.25)
    low, middle, high = (series[f"adam.dist/log10_effective_lr_p{p}"][-1][1] for p in ("01", "50", "99"))
    assert low < middle < high


def test_quantiles_of_nothing_are_nan_and_dead_weights_do_not_count() -> None:
    """Zeros are in the lowest bin of the steps; those with v = 0 are known, and in the sample up to a tenth more or less."""
    snapshot = table(update_ratio=[1e-3])
    assert np.isnan(step_size_quantiles(snapshot, (0.5,))).all()
    snapshot.hist_step_size[[0, 40]] = 1000, 1
    assert step_size_quantiles(snapshot, (0.0, 1.0)) == pytest.approx(LOG10_EDGES[40:42])
    snapshot.hist_effective_lr[[30, 60]] = 1, 1000
    for dead in (950, 1000, 1050):
        snapshot.hist_dead[60] = dead
        assert effective_lr_quantiles(snapshot, (0.0, 1.0)) == pytest.approx(LOG10_EDGES[30:32])


@pytest.mark.parametrize("scale", [1e-1, 1e-4, 1e-7])
def test_effective_rate_quantiles_are_those_of_the_living_weights(scale: float) -> None:
    """Whatever the gradients' scale, and a twentieth of the weights dead: to the width of a bin."""
    readings = [reading(3000, seed=1, scale=scale), reading(20_000, seed=2, scale=scale, lr=3e-4)]
    rates = [
        np.asarray(of.lr / (np.sqrt(v / (1 - 0.99**7)) + of.eps))[v > 0]
        for of, v in zip(readings, seconds(readings), strict=True)
    ]

    found = effective_lr_quantiles(take_snapshot(0, readings), (0.01, 0.5, 0.99))
    assert found == pytest.approx(np.log10(np.quantile(np.concatenate(rates), (0.01, 0.5, 0.99))), abs=0.25)


def seconds(readings: list[TensorReading]) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    """Their second moments."""
    return [f64(of.moments.second) for of in readings if of.moments is not None and of.moments.second is not None]

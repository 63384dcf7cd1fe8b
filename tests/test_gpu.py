"""What only a GPU can show; skipped where there is none."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.monitoring.signal_reader import StepInputs
from lightning_adam.statistics import RepeatedPass, TensorReading, read_optimizer, take_snapshot, tensor_names, triton_kernel
from lightning_adam.statistics.batched import reduce_batched
from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.raw import empty_table
from tests.digits import Digits, digits_loader, trainer
from tests.statistics_cases import FITTING, assert_agrees, mapped
from tests.statistics_reference import reading

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


class Guarded(DivergenceMonitor):
    """Where no pass over all tensors is due, any wait for the device is an error."""

    light_steps = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Around what follows each step."""
        super().on_train_start(trainer, pl_module)
        assert self._monitor is not None
        reader = self._monitor._diagnoses()[0].reader
        after_step = reader.after_step

        def strict(inputs: StepInputs) -> None:
            light = not reader._measured
            self.light_steps += light
            torch.cuda.set_sync_debug_mode("error" if light else "default")
            after_step(inputs)
            torch.cuda.set_sync_debug_mode("default")

        reader.after_step = strict  # type: ignore[method-assign]


def test_light_steps_do_not_wait_for_the_device() -> None:
    """No synchronisation in a step that does not measure; what arrives late is still judged."""
    monitor = Guarded()
    options: dict[str, Any] = {"max_steps": 60, "accelerator": "gpu", "callbacks": [monitor]}
    trainer(**options).fit(Digits(lr=3e-3), digits_loader())

    assert monitor.light_steps >= 40
    assert monitor.failures == set()
    assert monitor.findings == []


def test_weights_are_bit_for_bit_those_without_monitors() -> None:
    """On the GPU too."""
    bare, watched = Digits(), Digits()
    trainer(max_steps=15, accelerator="gpu").fit(bare, digits_loader())
    trainer(max_steps=15, accelerator="gpu", callbacks=[OptimizerMonitor(1), DivergenceMonitor()]).fit(
        watched, digits_loader()
    )

    assert all(torch.equal(one, other) for one, other in zip(bare.parameters(), watched.parameters(), strict=True))


def stepped(sizes: Sequence[int], **options: Any) -> list[TensorReading]:
    """Readings after three steps of AdamW on the GPU."""
    parameters = [torch.nn.Parameter(torch.randn(size, device="cuda") * 0.02) for size in sizes]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, **options)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter) * 1e-2
        optimizer.step()
    return read_optimizer(optimizer, tensor_names((f"layer{i}", p) for i, p in enumerate(parameters)))


@pytest.mark.parametrize("case", FITTING)
def test_fused_statistics_agree_with_float64(case: str) -> None:
    """The kernels are used, and every quantity is the float64 reference's, to 1e-5."""
    of = FITTING[case]()
    there = mapped(of, torch.Tensor.cuda)
    snapshot = take_snapshot(3, [there])

    assert triton_kernel.fits(there, there.parameter.device)
    assert triton_kernel.load() is not None, triton_kernel._failures
    assert_agrees(snapshot, [of])


@pytest.mark.parametrize("amsgrad", [False, True])
def test_fused_statistics_are_the_eager_ones(amsgrad: bool) -> None:
    """On the same device: the rows to 1e-5, the sample to the last bit, the same histograms; twice the same."""
    readings = stepped([1, 700, 8193, 1_000_003], amsgrad=amsgrad)
    readings += [mapped(reading(9001), lambda tensor: torch.cat([tensor[:1], tensor]).cuda()[1:])]
    columns, device = Columns.of(readings), readings[0].parameter.device
    fused, again, eager = (empty_table(columns.sampling, device) for _ in range(3))
    rows = triton_kernel.reduce(readings, columns, fused)
    triton_kernel.reduce(readings, columns, again)
    reduce_batched(readings, range(len(readings)), columns, eager)

    assert triton_kernel._failures == []
    assert rows == frozenset(range(len(readings)))
    torch.testing.assert_close(fused.sums, eager.sums, rtol=1e-5, atol=0.0, equal_nan=True)
    torch.testing.assert_close(fused.maxima, eager.maxima, rtol=1e-5, atol=0.0)
    assert torch.equal(fused.sample, eager.sample)
    assert torch.equal(fused.counts, eager.counts)
    torch.testing.assert_close(fused.sums, again.sums, rtol=0.0, atol=0.0, equal_nan=True)
    assert torch.equal(fused.maxima, again.maxima)


@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": True}], ids=["foreach", "fused"])
def test_a_pass_is_repeated_with_one_read(options: dict[str, Any]) -> None:
    """A later logged step gives bit for bit what reading anew gives, and waits once, also where t is on the GPU."""
    parameters = [torch.nn.Parameter(torch.randn(size, device="cuda") * 0.02) for size in (1, 700, 100_003)]
    optimizer = torch.optim.AdamW(parameters, **options)
    kept, taken = None, None
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter) * 1e-2
        optimizer.step()
        if kept is None:
            kept = RepeatedPass.of(optimizer, {}, read_optimizer(optimizer, {}))
            assert kept is not None
            continue
        kept.calls += 1
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            taken = kept.snapshot(0)
        torch.cuda.set_sync_debug_mode("default")
        assert sum("synchronizing" in str(warning.message) for warning in caught) == 1

    assert taken is not None
    np.testing.assert_array_equal(taken.table, take_snapshot(0, read_optimizer(optimizer, {})).table)


def test_a_logged_step_reads_from_the_device_once() -> None:
    """One wait for the device in a snapshot of a hundred tensors."""
    readings = stepped([1000] * 100)
    take_snapshot(0, readings)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            take_snapshot(0, readings)
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert triton_kernel.load() is not None, triton_kernel._failures
    waits = [str(warning.message) for warning in caught if "synchronizing" in str(warning.message)]
    assert len(waits) == 1, waits


def test_statistics_take_no_more_memory_than_the_largest_tensor() -> None:
    """Of 20M parameters in four tensors."""
    readings = stepped([5_000_000] * 4, fused=True)
    take_snapshot(0, readings)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    take_snapshot(0, readings)

    assert triton_kernel.load() is not None, triton_kernel._failures
    assert torch.cuda.max_memory_allocated() - before <= 4 * 5_000_000

"""What a GPU's host would wait for, seen without a GPU: fake tensors know their device and have no numbers to read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_adam.clipping import ClipNorm, norms_of_helper
from lightning_adam.moments import Moments
from lightning_adam.monitoring.guard import Guard
from lightning_adam.monitoring.parameters import NamedParameters
from lightning_adam.monitoring.signal_reader import MOST_AHEAD, SignalReader, StepInputs
from lightning_adam.statistics import TensorReading
from lightning_adam.statistics.columns import Columns
from lightning_adam.statistics.measure import measure

GPU = torch.device("cuda:0")


class Transfers(TorchDispatchMode):
    """Lists the copies between GPU and host, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.down: list[int] = []
        self.up: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, made = ([t for t in tree_leaves(x) if isinstance(t, Tensor)] for x in ((args, kwargs), result))
        devices = {t.device.type for t in given}
        if made and "cuda" in devices and made[0].device.type == "cpu":
            self.down.append(made[0].numel())
        if made and "cpu" in devices and made[0].device.type == "cuda":
            self.up.append(made[0].numel())
        return result


@pytest.fixture
def transfers() -> Iterator[Transfers]:
    """All tensors made here are fake; reading a number of one raises."""
    with FakeTensorMode(allow_non_fake_inputs=True), Transfers() as seen:
        yield seen


def reading(name: str, numel: int, **changed: Any) -> TensorReading:
    """As Adam leaves a tensor on a GPU."""
    p, g, m, v = (torch.empty(numel, device=GPU) for _ in range(4))
    of: dict[str, Any] = {"lr": 1e-3, "eps": 1e-8, "moments": Moments(m, v, v, 7, 0.9, 0.99)}
    return TensorReading(name, "all", p, g, **{**of, **changed})


def test_fake_tensors_refuse_to_be_read(transfers: Transfers) -> None:
    """Else the tests below could not fail."""
    for read in (float, bool, Tensor.tolist, lambda t: t.nonzero()):
        with pytest.raises((DataDependentOutputException, RuntimeError)):
            read(torch.empty((), device=GPU))
    assert torch.empty(5, device=GPU).cpu().numel() == 5
    assert transfers.down == [5]


@pytest.mark.parametrize("count", [3, 50])
def test_a_logged_step_reads_once(count: int, transfers: Transfers) -> None:
    """Nothing while it measures; the table and the numbers beside it come in one copy, however many tensors there are."""
    readings = [reading(f"p{i}", 1000 + i) for i in range(count)]
    readings += [reading("bf16", 3000, before=torch.empty(3000, device=GPU).bfloat16())]
    columns = Columns.of(readings)

    table = measure(readings, columns)
    assert transfers.down == []
    assert len(transfers.up) <= 8

    norm, skipped = torch.empty((), device=GPU), torch.empty((), dtype=torch.int64, device=GPU)
    with pytest.raises(DataDependentOutputException):
        table.on_host({"norm": norm, "skipped": skipped, "lr": 0.5})  # tolist() of what has arrived: fake, too
    assert len(transfers.down) == 1


class Arrival:
    """A CUDA event that never comes."""

    def record(self) -> None:
        """On the stream."""

    def query(self) -> bool:
        """Not yet."""
        return False

    def synchronize(self) -> None:
        """What a light step must not do."""
        raise AssertionError("the host waits for the device")


def light_reader(run: Any) -> SignalReader:
    """Of an optimizer that is past its first step, where no pass over all tensors is due."""
    quiet: Any = SimpleNamespace(wants_measurement=lambda *args, **kwargs: False)
    reader = SignalReader(run, 0, run.optimizers[0], NamedParameters({}), 100, quiet, lambda record: None, Guard())
    reader._has_begun = True
    return reader


def training(optimizer: Any, **changed: Any) -> SimpleNamespace:
    """What the reader asks of a run."""
    of = {"loss_scale": None, "clip_norm": 1.0, **changed}
    scale = 1.0 if of["loss_scale"] is None else of["loss_scale"]
    of |= {"module": nn.Module(), "gradient_scale": lambda _: scale, "norms_of_clipping": norms_of_helper}
    return SimpleNamespace(optimizers=[optimizer], step=lambda position: 40, **of)


def plain(optimizer: Any) -> SimpleNamespace:
    return training(optimizer)


def clipped_by_the_helper(optimizer: Any) -> SimpleNamespace:
    optimizer.adam_clip = ClipNorm(1.0)(optimizer.param_groups[0]["params"])
    return training(optimizer, clip_norm=math.nan)


def scaled(optimizer: Any) -> SimpleNamespace:
    optimizer.found_inf, optimizer._step_supports_amp_scaling = torch.empty((), device=GPU), True
    return training(optimizer, loss_scale=torch.empty((), device=GPU))


def rate_on_the_gpu(optimizer: Any) -> SimpleNamespace:
    optimizer.param_groups[0]["lr"] = torch.empty((), device=GPU)
    return training(optimizer)


@pytest.mark.parametrize("make", [plain, clipped_by_the_helper, scaled, rate_on_the_gpu], ids=lambda make: make.__name__)
def test_a_light_step_waits_for_nothing(make: Any, transfers: Transfers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signals of a step that does not measure go to pinned memory in one copy, and nobody waits for it."""
    monkeypatch.setattr(torch.cuda, "Event", Arrival)
    parameters = [torch.empty(size, device=GPU) for size in (300, 40, 7)]
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    optimizer = torch.optim.AdamW(parameters, foreach=True)
    reader = light_reader(make(optimizer))
    losses = [torch.empty((), device=GPU)]
    transfers.down.clear()

    for step in range(MOST_AHEAD - 1):
        reader.before_clipping(losses)
        reader.after_step(StepInputs(losses, batch_index=step))

    assert len(transfers.down) == MOST_AHEAD - 1
    assert len(reader._in_flight) == MOST_AHEAD - 1

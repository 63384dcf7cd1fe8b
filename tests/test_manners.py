"""What the monitors leave behind: nothing of the run, nothing on a quiet console, and plain data that can be copied."""

from __future__ import annotations

import copy
import gc
import io
import logging
import pickle
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import lightning_adam as la
from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
from lightning_adam.diagnosis import StepSignals
from lightning_adam.monitoring import Record
from tests.digits import Digits, digits_loader, trainer


def both() -> list[Any]:
    """As most users attach them."""
    return [OptimizerMonitor(), DivergenceMonitor()]


class Broken(Digits):
    """Ends with an exception in the middle."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Fails at the seventh batch."""
        if batch_idx == 6:
            raise RuntimeError("the cable was pulled")
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("kind", [Digits, Broken])
def test_nothing_of_the_run_is_held_after_it(kind: type[Digits], tmp_path: Path) -> None:
    """The trainer (and with it the data), the module, the optimizer and the last batch are free; the callbacks live on."""
    monitors = both()
    seen: list[weakref.ref[Any]] = []

    class Spy(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 5:
                seen.extend(weakref.ref(x) for x in (trainer, pl_module, trainer.optimizers[0], batch[0], pl_module.net))

    fit = trainer(max_steps=12, logger=TensorBoardLogger(tmp_path), callbacks=[*monitors, Spy()])
    module = kind()
    try:
        fit.fit(module, digits_loader())
    except RuntimeError:
        assert kind is Broken
    del fit, module
    gc.collect()

    assert len(seen) == 5
    assert [type(ref()).__name__ for ref in seen if ref() is not None] == []


def copies(thing: Any) -> dict[str, Any]:
    """As users and libraries copy: spawned processes pickle, darts saves, neuralforecast copies deeply."""
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    buffer.seek(0)
    return {
        "pickle": pickle.loads(pickle.dumps(thing)),
        "deepcopy": copy.deepcopy(thing),
        "torch.save": torch.load(buffer, weights_only=False),
    }


def test_monitors_can_be_copied_after_a_run_with_what_they_found() -> None:
    """Pickled, saved or copied: the findings go along."""
    monitors = both()
    trainer(max_steps=50, callbacks=monitors).fit(Digits(poison=(40,)), digits_loader())

    for statistics, divergence in copies(monitors).values():
        assert repr(divergence.findings) == repr(monitors[1].findings)
        assert [finding.rule for finding in divergence.findings] == ["NON-FINITE"]
        assert statistics.state_dict().keys() == monitors[0].state_dict().keys()


def test_monitors_can_be_copied_in_the_middle_of_a_run() -> None:
    """A copy made while another run goes on follows none."""
    made: list[dict[str, Any]] = []

    class Copying(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 20:
                monitors = [c for c in trainer.callbacks if isinstance(c, (OptimizerMonitor, DivergenceMonitor))]
                made.append(copies(monitors))

    trainer(max_steps=25, callbacks=[*both(), Copying()]).fit(Digits(poison=(10,)), digits_loader())

    for statistics, divergence in made[0].values():
        fit = trainer(max_steps=30, callbacks=[statistics, divergence])
        fit.fit(Digits(), digits_loader())
        assert divergence.findings == []
        assert statistics.failures | divergence.failures == set()


def test_a_trainer_with_monitors_can_be_copied() -> None:
    """As it is before a run, it trains afterwards."""
    for fit in copies(trainer(max_steps=5, callbacks=both())).values():
        module = Digits()
        fit.fit(module, digits_loader())
        assert module.seen == 5


def test_the_users_own_monitor_shows_what_its_deep_copy_found() -> None:
    """neuralforecast trains with a deep copy of the callbacks that it is given: the user holds the original."""
    mine = DivergenceMonitor()
    trainer(max_steps=50, callbacks=[copy.deepcopy(mine)]).fit(Digits(poison=(40,)), digits_loader())
    assert [finding.rule for finding in mine.findings] == ["NON-FINITE"]

    trainer(max_steps=20, callbacks=[mine]).fit(Digits(), digits_loader())
    assert mine.findings == []


def test_copies_of_copies_cost_nothing() -> None:
    """Some libraries copy the callbacks for each fold, trial or window."""
    mine = DivergenceMonitor()
    first = mine
    for _ in range(60):
        copy.deepcopy(mine)
        first = copy.deepcopy(first)

    assert len(pickle.dumps(mine)) < 5000
    trainer(max_steps=50, callbacks=[first]).fit(Digits(poison=(40,)), digits_loader())
    assert [finding.rule for finding in mine.findings] == ["NON-FINITE"]


def test_what_a_first_fit_found_stays_in_the_second_ones_log(tmp_path: Path) -> None:
    """A run that was sick live is not called healthy afterwards, though a second fit in the same folder is well."""
    module, monitor = Digits(poison=(20,), optimizer="sgd", lr=0.1), DivergenceMonitor()
    fit = trainer(max_steps=28, callbacks=[monitor], logger=CSVLogger(tmp_path), log_every_n_steps=5)
    fit.fit(module, digits_loader())
    torch.manual_seed(0)
    for layer in (module.net[0], module.net[2]):
        layer.reset_parameters()
    fit.fit_loop.epoch_loop.max_steps = 84
    fit.fit(module, digits_loader())

    assert next((f.rule, f.step, f.over) for f in monitor.findings) == ("NON-FINITE", 20, True)
    assert [f.finding.rule for f in la.report(tmp_path).findings] == [f.rule for f in monitor.findings]


class Warning_(Digits):
    """Warns in each step, as many libraries do."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """From one line."""
        warnings.warn("the user's own", UserWarning, stacklevel=1)
        return super().training_step(batch, batch_idx)


def test_a_once_warning_of_the_user_stays_a_once_warning(tmp_path: Path) -> None:
    """Leaving ``catch_warnings`` would arm it anew at each logged step."""

    def told(callbacks: list[Any], name: str) -> int:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            fit = trainer(max_steps=40, log_every_n_steps=1, logger=TensorBoardLogger(tmp_path, name), callbacks=callbacks)
            fit.fit(Warning_(optimizer="lion", lr=1e-3), digits_loader())
        return sum("the user's own" in str(w.message) for w in caught)

    assert told(both(), "watched") == told([], "bare") == 1


class Lora(Digits):
    """A low-rank pair on frozen weights, whose second factor begins at zero."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.net.requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(4, 64) * 0.3), nn.Parameter(torch.zeros(10, 4))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(self.net(batch[0]) + batch[0] @ self.down.T @ self.up.T, batch[1])


@pytest.mark.parametrize("module", [Lora, lambda: Digits(poison=(5,)), lambda: Digits(lr=1e30, warmup=0, clip=None)])
def test_no_warning_of_numpys_reaches_the_console(module: Callable[[], Digits], tmp_path: Path) -> None:
    """Zero weights, NaN and numbers without end are what a monitor is for."""
    monitors: list[Any] = [OptimizerMonitor(1), DivergenceMonitor()]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(max_steps=12, logger=TensorBoardLogger(tmp_path), callbacks=monitors).fit(module(), digits_loader())

    assert [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)] == []
    assert monitors[0].failures | monitors[1].failures == set()


def test_the_start_line_is_one_line_with_the_tabs_address(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At most 120 characters, however deep the folder."""
    deep = tmp_path / "an/experiment/whose/folder/lies/deep/below/many/others/so/that/its/path/is/long"
    with caplog.at_level(logging.INFO):
        logging.getLogger("lightning.pytorch.utilities.rank_zero").addHandler(caplog.handler)
        trainer(max_steps=2, logger=TensorBoardLogger(deep), callbacks=both()).fit(Digits(), digits_loader())
    logging.getLogger("lightning.pytorch.utilities.rank_zero").removeHandler(caplog.handler)

    lines = {r.getMessage() for r in caplog.records if "dam" in r.getMessage()}
    assert len(lines) == 1
    line = lines.pop()
    assert "#lightning_adam" in line
    assert "\n" not in line
    assert len(line) <= 120


class Validated(Digits):
    """With a validation loop."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Logs."""
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))


QUIET: dict[str, Callable[[], None]] = {
    "fast_dev_run": lambda: trainer(fast_dev_run=True, logger=True, callbacks=both()).fit(
        Validated(), digits_loader(), digits_loader()
    ),
    "barebones": lambda: L.Trainer(barebones=True, max_epochs=1, accelerator="cpu", callbacks=both()).fit(
        Digits(), digits_loader()
    ),
    "overfit_batches": lambda: trainer(overfit_batches=1, max_epochs=40, callbacks=both()).fit(
        Validated(), digits_loader(), digits_loader()
    ),
    "sanity checking": lambda: trainer(max_epochs=1, num_sanity_val_steps=2, callbacks=both()).fit(
        Validated(), digits_loader(), digits_loader()
    ),
    "validate": lambda: trainer(callbacks=both()).validate(Validated(), digits_loader(), verbose=False) and None,
}


@pytest.mark.parametrize("mode", QUIET)
def test_rehearsals_leave_nothing_on_the_console(
    mode: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither words nor warnings of ours, in the modes with which people try a program."""
    with caplog.at_level(logging.INFO, logger="lightning_adam"):
        QUIET[mode]()

    assert [r.getMessage() for r in caplog.records if r.name == "lightning_adam"] == []
    shown = capsys.readouterr()
    assert "dam" not in shown.out + shown.err


def test_fabric_is_told_how_to_do_it_right() -> None:
    """Fabric would take the callback in silence, and never tell it of a step."""
    fabric = L.Fabric(accelerator="cpu", devices=1, callbacks=[DivergenceMonitor()])
    net = nn.Linear(2, 1)

    with pytest.raises(
        la.ConfigError, match=r"DivergenceMonitor listens to Lightning's Trainer.*la\.watch\(module, optimizer"
    ):
        fabric.setup(net, torch.optim.AdamW(net.parameters()))


class Lazy(Digits):
    """Whose first layer learns its width from the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LazyLinear(32), nn.ReLU(), nn.Linear(32, 10))

    def configure_optimizers(self) -> Any:
        """torch's own takes lazy parameters."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def test_a_lazy_module_is_watched_from_its_first_step_on(tmp_path: Path) -> None:
    """Its parameters do not exist when training starts."""
    seen: list[Record] = []

    class Recording(DivergenceMonitor):
        def on_record(self, position: int, record: Record) -> None:
            seen.append(record)

    monitors: list[Any] = [OptimizerMonitor(1), Recording()]
    trainer(max_steps=3, logger=CSVLogger(tmp_path), callbacks=monitors).fit(Lazy(), digits_loader())

    assert [record.step for record in seen if isinstance(record, StepSignals)] == [0, 1, 2]
    assert monitors[0].failures | monitors[1].failures == set()


class Silent(Digits):
    """Gives no loss for some batches, as Lightning allows."""

    def __init__(self, silent: Callable[[int], bool]) -> None:
        super().__init__()
        self.silent = silent

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """None where there is nothing to learn."""
        return None if self.silent(batch_idx) else super().training_step(batch, batch_idx)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_without_a_loss_is_no_step_that_the_scaler_skipped(accumulate: int) -> None:
    """Its scale stays as it is: nothing was skipped, and no loss of that batch enters the next step's."""
    told: list[Record] = []

    class Recording(DivergenceMonitor):
        def on_record(self, position: int, record: Record) -> None:
            told.append(record)

    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    options: dict[str, Any] = {"plugins": [MixedPrecision("16-mixed", device="cpu", scaler=scaler)]}
    module = Silent(lambda index: index % 4 == 3)
    monitors: list[Any] = [OptimizerMonitor(1), Recording()]
    fit = trainer(max_epochs=1, accumulate_grad_batches=accumulate, callbacks=monitors, **options)
    fit.fit(module, digits_loader())

    steps = [record for record in told if isinstance(record, StepSignals)]
    assert scaler.get_scale() == 16.0
    assert len(steps) == (21 if accumulate == 1 else 7)
    assert not any(step.skipped for step in steps)
    assert monitors[0].state_dict()["statistics"]["adam"]["skipped"] == 0
    taken = module.losses if accumulate == 1 else [sum(module.losses[i : i + 2]) / 2 for i in range(0, 21, 3)]
    assert [step.loss for step in steps] == pytest.approx(taken, rel=1e-2)


def test_a_run_that_never_steps_says_how_many_were_skipped(tmp_path: Path) -> None:
    """Each second batch of two that are accumulated gives no loss: Lightning never steps, and no scaler is to blame."""
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    logger = TensorBoardLogger(tmp_path, name="", version="run")
    options: dict[str, Any] = {"plugins": [MixedPrecision("16-mixed", device="cpu", scaler=scaler)], "logger": logger}
    fit = trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=both(), **options)
    fit.fit(Silent(lambda index: index % 2 == 1), digits_loader())

    totals = EventAccumulator(logger.log_dir).Reload().Scalars("adam.amp/skipped_steps_total")
    assert [event.value for event in totals] == [0.0]


class FailsOnce(CSVLogger):
    """A logger whose server is away for one call."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.calls = 0

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Not the second time."""
        self.calls += 1
        if self.calls == 2:
            raise ConnectionError("the server is away")
        super().log_metrics(*args, **kwargs)


def test_a_logger_that_fails_once_loses_that_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The losses of the steps after it are theirs alone, the findings are made, and it is told once."""
    told: list[Record] = []

    class Recording(DivergenceMonitor):
        def on_record(self, position: int, record: Record) -> None:
            told.append(record)

    module, monitor = Digits(poison=(40,)), Recording()
    options: dict[str, Any] = {"log_every_n_steps": 5, "logger": FailsOnce(tmp_path)}
    with caplog.at_level(logging.WARNING, logger="lightning_adam"):
        trainer(max_steps=50, callbacks=[monitor], **options).fit(module, digits_loader())

    losses = [record.loss for record in told if isinstance(record, StepSignals)]
    assert losses == pytest.approx(module.losses, rel=1e-5, nan_ok=True)
    assert [finding.rule for finding in monitor.findings] == ["NON-FINITE"]
    assert sum("the server is away" in r.getMessage() for r in caplog.records) == 1


def test_a_checkpoint_of_the_first_version_is_taken_up(tmp_path: Path) -> None:
    """Its monitors' states had no number and other keys."""
    old = DivergenceMonitor()
    trainer(max_steps=50, callbacks=[old]).fit(Digits(poison=(40,)), digits_loader())
    state = old.state_dict()
    first_version = {
        "diagnoses": state["diagnoses"],
        "done": [],
        "taken": 1,
        "factor": 0.3,
        "last_action": 41,
    }
    new = DivergenceMonitor()
    new.load_state_dict(first_version)

    assert [finding.rule for finding in new.findings] == ["NON-FINITE"]
    assert new.state_dict()["actions"] == {"taken": 1, "factor": 0.3, "last": 41}

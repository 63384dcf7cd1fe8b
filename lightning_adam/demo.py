"""The main job, ``lightning-adam demo``: trains ``examples/char_gpt.py`` with the monitors attached, healthy or sick."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import TensorBoardLogger

    from lightning_adam.callbacks import DivergenceMonitor
    from lightning_adam.examples.char_gpt import Sick

SICK: dict[str, dict[str, Any]] = {
    "no-warmup": {"warmup": 0.0, "lr": 1e-2},
    "lr-high": {"lr": 0.3},
    "bad-batch": {},
    "nan": {},
}
"""What each ``--sick`` changes in the model's arguments, beside naming itself."""
SICK_AT = 3 / 5
"""Of the run: where the sick batch comes."""
TOLD = ("train_loss", "val_loss")


def demo(optimizer: str, steps: int, logdir: Path, sick: Sick | None) -> int:
    """Train, then say what was seen and where it is; 130 where the user interrupted it.

    Args:
        optimizer: a name from the catalogue.
        steps: optimizer steps.
        logdir: folder of the run's own folder.
        sick: how the run is broken: a key of :data:`SICK`; None for not at all.

    Raises:
        ConfigError: there is no optimizer of this name.
    """
    from lightning_adam.optimizers import get_optimizer

    get_optimizer(optimizer)
    print("loading torch and lightning ...", flush=True)
    import lightning as L
    from lightning.pytorch.loggers import TensorBoardLogger

    from lightning_adam.callbacks import DivergenceMonitor
    from lightning_adam.examples.char_gpt import CharGPT, loaders, standard_library_text, unigram_entropy

    _quieten()
    L.seed_everything(0, verbose=False)
    text, monitor = standard_library_text(), DivergenceMonitor()
    model = CharGPT(optimizer, sick=sick, sick_step=int(steps * SICK_AT), **(SICK[sick] if sick else {}))
    logger = TensorBoardLogger(logdir, name="", version=f"{optimizer}-{sick or 'healthy'}-{time.strftime('%H%M%S')}")
    trainer = _trainer(steps, logger, monitor)
    _say_where(Path(logger.log_dir), logdir)
    began = time.perf_counter()
    interrupted = _fit(trainer, model, *loaders(text, steps))
    logger.experiment.flush()
    losses = {name: float(value) for name, value in trainer.callback_metrics.items() if name in TOLD}
    _summarise(losses, unigram_entropy(text), monitor, time.perf_counter() - began)
    _say_where(Path(logger.log_dir), logdir)
    return 130 if interrupted else 0


def _trainer(steps: int, logger: TensorBoardLogger, monitor: DivergenceMonitor) -> Trainer:
    import lightning as L

    from lightning_adam.callbacks import OptimizerMonitor

    return L.Trainer(
        max_steps=steps,
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=logger,
        callbacks=[OptimizerMonitor(), monitor],
        log_every_n_steps=max(1, min(10, steps // 10)),
        val_check_interval=max(1, steps // 4),
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
    )


def _fit(trainer: Trainer, model: Any, train: Any, held_out: Any) -> bool:
    """Whether it was interrupted: what is there by then is told all the same."""
    try:
        trainer.fit(model, train, held_out)
    except (KeyboardInterrupt, SystemExit):
        return True
    return trainer.interrupted


def _quieten() -> None:
    """Lightning's advice on workers and loggers does not belong into a demo."""
    import logging

    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


def _say_where(run: Path, logdir: Path) -> None:
    print(f"logs    {run}\nopen    tensorboard --logdir {logdir}    (or: make tensorboard)")
    print(f"then    http://127.0.0.1:6006/#lightning_adam&p.lightning_adam.run={run.name}    (the Adam tab)")
    print(f"cards   lightning-adam link --run {run.name}    (an address with the headline cards pinned)\n", flush=True)


def _summarise(losses: Mapping[str, float], entropy: float, monitor: DivergenceMonitor, seconds: float) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.rule(f"trained for {seconds:.0f} s")
    for name, value in losses.items():
        console.print(f"{name:<24}{value:.3f} nats per character")
    console.print(f"{'unigram entropy':<24}{entropy:.3f} nats per character (only how frequent each one is)")
    console.print()
    for finding in monitor.findings:
        console.print(finding.line(), style="red" if finding.severity == "critical" else "yellow", markup=False)
    if not monitor.findings:
        console.print("The monitors had nothing to complain about.", style="green")
    console.print()

"""The command ``lightning-adam``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_adam import __version__
from lightning_adam.errors import ConfigError

if TYPE_CHECKING:
    from lightning_adam.callbacks import DivergenceMonitor
    from lightning_adam.diagnosis import Finding
    from lightning_adam.optimizers import OptimizerSpec

SICK: dict[str, dict[str, Any]] = {
    "no-warmup": {"warmup": 0.0, "lr": 1e-2},
    "lr-high": {"lr": 0.3},
    "bad-batch": {},
    "nan": {},
}
"""What each ``--sick`` changes in the model's arguments, beside naming itself."""


WIDE = 180
"""Columns of a terminal that shows the whole catalogue."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; 0 is success, 2 a wrong argument, 130 Ctrl-C."""
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show "→" shows "?" rather than a traceback
    try:
        return int(arguments.run(arguments))
    except ConfigError as error:
        print(f"lightning-adam: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lightning-adam", description=__doc__)
    parser.add_argument("--version", action="version", version=f"lightning-adam {__version__}")
    commands = parser.add_subparsers(required=True)
    demo = commands.add_parser("demo", help="train a small GPT with the monitors attached")
    demo.add_argument("--optimizer", default="adamw", help="a name from `lightning-adam optimizers`")
    demo.add_argument("--steps", type=_positive, default=400, help="optimizer steps (default 400)")
    demo.add_argument("--logdir", type=Path, default=Path("runs/demo"), help="default runs/demo")
    demo.add_argument("--sick", choices=sorted(SICK), help="break the run on purpose, to see the warnings fire")
    demo.set_defaults(run=demo_command)
    listing = commands.add_parser("optimizers", help="print the catalogue, or the page of one optimizer")
    listing.add_argument("name", nargs="?", help="a name of the catalogue, such as muon")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=optimizers_command)
    doctor = commands.add_parser("doctor", help="diagnose finished or running runs from their logs")
    doctor.add_argument(
        "logdir",
        type=Path,
        nargs="?",
        help="folder with runs, or one file: events, metrics.csv, findings.json, W&B's run or history",
    )
    doctor.add_argument("--format", choices=("text", "json", "markdown", "html"), default="text")
    doctor.add_argument("--output", type=Path, help="write the report to this file instead of the terminal")
    doctor.add_argument(
        "--fail-on",
        choices=("info", "warning", "critical"),
        default="warning",
        help="exit with 1 where a finding is at least so severe (default warning); 2 is unusable input",
    )
    doctor.add_argument(
        "--watch", action="store_true", help="follow running jobs and print each new finding; Ctrl-C ends it"
    )
    doctor.add_argument("--compare", nargs=2, metavar=("A", "B"), help="what differs between two runs")
    doctor.set_defaults(run=doctor_command)
    check = commands.add_parser("check", help="what is wrong before training: preflight of a class or a LightningCLI config")
    check.add_argument("target", help="module:Class, file.py:Class, or the YAML file of a LightningCLI's fit")
    check.add_argument("--data", help="module:Class of a datamodule (default: the module's own train_dataloader)")
    check.add_argument("--budget", type=_positive, default=60, help="seconds at most (default 60)")
    check.add_argument("--format", choices=("text", "json", "sarif"), default="text")
    check.add_argument("--baseline", type=Path, help="a file written by --format json: what it holds is silent")
    check.add_argument(
        "--fail-on", choices=("info", "warning", "critical"), default="warning", help="exit with 1 (default warning)"
    )
    check.set_defaults(run=check_command)
    explain = commands.add_parser("explain", help="what a finding's code means, why it happens, and what to do")
    explain.add_argument("code", nargs="?", help="such as LR-HIGH; without one all codes are listed")
    explain.set_defaults(run=explain_command)
    link = commands.add_parser("link", help="print a TensorBoard address with the headline cards pinned and smoothing off")
    link.add_argument(
        "--run", dest="run_name", default=".", help="the run as TensorBoard's list names it (default: the log folder itself)"
    )
    link.add_argument("--prefix", default="adam", help="of the optimizer's tags; for several such as adam-AdamW")
    link.add_argument("--port", type=_positive, default=6006, help="default 6006")
    link.set_defaults(run=link_command)
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def link_command(arguments: argparse.Namespace) -> int:
    """Print the address; TensorBoard itself is the user's to start."""
    from lightning_adam.tensorboard import deep_link

    print(deep_link(arguments.port, arguments.prefix, arguments.run_name))
    return 0


def check_command(arguments: argparse.Namespace) -> int:
    """Preflight; 1 where a new finding is as severe as ``--fail-on``."""
    from dataclasses import replace

    from lightning_adam.check import as_json, as_sarif, check, new_findings
    from lightning_adam.diagnosis.finding import reach

    report = check(arguments.target, arguments.data, arguments.budget)
    new = new_findings(report, arguments.baseline)
    forms = {
        "text": lambda: str(replace(report, findings=tuple(new))),
        "json": lambda: as_json(new, report),
        "sarif": lambda: as_sarif(new),
    }
    print(forms[arguments.format]())
    return int(reach(new, arguments.fail_on))


def explain_command(arguments: argparse.Namespace) -> int:
    """Print one explanation, or the table of all codes."""
    from rich.console import Console
    from rich.markdown import Markdown

    from lightning_adam.explain import codes, explanation, table

    text = explanation(arguments.code).text if arguments.code else table(codes())
    console = Console()
    console.print(Markdown(text), width=min(console.width, 100) if arguments.code else console.width)
    return 0


def optimizers_command(arguments: argparse.Namespace) -> int:
    """Print the catalogue as a table or as JSON, or one optimizer's page."""
    from lightning_adam.optimizers import available_optimizers

    if arguments.name is not None:
        from lightning_adam.optimizer_page import optimizer_page

        print(optimizer_page(arguments.name))
        return 0
    rows = available_optimizers()
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2, default=lambda function: function.__name__))
        return 0
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    console.print(_catalogue(rows, console.width >= WIDE))
    return 0


def _catalogue(rows: Sequence[OptimizerSpec], wide: bool) -> Any:
    """What fits: state and source only on a wide screen."""
    from rich import box
    from rich.table import Column, Table

    fixed = [Column(name, no_wrap=True) for name in ("name", "library", "bytes", "lr", "betas")]
    more = ["needs", "what", *(["state", "source"] if wide else [])]
    table = Table(*fixed, *more, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        what = f"{row.summary} (experimental)" if row.experimental else row.summary
        numbers = (f"{row.state_bytes:g}", f"{row.lr:g}", " ".join(f"{beta:g}" for beta in row.betas))
        rest = (", ".join(row.needs), what, *((row.state, row.source) if wide else ()))
        table.add_row(row.name, row.library, *numbers, *rest)
    return table


def doctor_command(arguments: argparse.Namespace) -> int:
    """Judge the runs below a folder; 1 where a finding is as severe as ``--fail-on``."""
    if arguments.compare is not None:
        first, second = arguments.compare
        return _compare(first, second, arguments.output)
    if arguments.logdir is None:
        raise ConfigError("doctor: give a log folder, or --compare A B.")
    if arguments.watch:
        return _watch(arguments.logdir, arguments.fail_on)
    from rich.console import Console

    from lightning_adam.doctor import report

    with Console(stderr=True).status("reading the logs ..."):
        found = report(arguments.logdir)
    if arguments.output is None and arguments.format == "text":
        from lightning_adam.doctor.terminal import show

        show(found)
    else:
        forms = {"text": found.to_text, "json": found.to_json, "markdown": found.to_markdown, "html": found.to_html}
        _write(forms[arguments.format](), arguments.output)
    return int(found.reaches(arguments.fail_on))


def _compare(first: str, second: str, output: Path | None) -> int:
    from lightning_adam.doctor.comparison import compare

    _write(compare(first, second).to_markdown(), output)
    return 0


def _watch(logdir: Path, fail_on: str) -> int:
    """Until Ctrl-C; what was found decides the exit status."""
    from lightning_adam.diagnosis.finding import reach
    from lightning_adam.doctor.terminal import show_finding
    from lightning_adam.doctor.watching import follow

    told: list[Finding] = []

    def say(run: str, finding: Finding) -> None:
        told.append(finding)
        show_finding(run, finding)

    print(f"watching {logdir}; Ctrl-C ends it", file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):
        follow(logdir, say)
    return int(reach(told, fail_on))


def _write(text: str, place: Path | None) -> None:
    if place is None:
        print(text)
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"--output {place} cannot be written: {error.strerror}.") from error
    print(f"report  {place}", file=sys.stderr)


def demo_command(arguments: argparse.Namespace) -> int:
    """Train the example, then say what was seen and where it is."""
    from lightning_adam.optimizers import get_optimizer

    get_optimizer(arguments.optimizer)
    print("loading torch and lightning ...", flush=True)
    import lightning as L
    from lightning.pytorch.loggers import TensorBoardLogger

    from lightning_adam.callbacks import DivergenceMonitor, OptimizerMonitor
    from lightning_adam.examples.char_gpt import CharGPT, loaders, standard_library_text, unigram_entropy

    _quieten()
    L.seed_everything(0, verbose=False)
    text = standard_library_text()
    model = _sick_model(CharGPT, arguments)
    name = arguments.sick or "healthy"
    logger = TensorBoardLogger(arguments.logdir, name="", version=f"{arguments.optimizer}-{name}-{time.strftime('%H%M%S')}")
    monitor = DivergenceMonitor()
    trainer = L.Trainer(
        max_steps=arguments.steps,
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        logger=logger,
        callbacks=[OptimizerMonitor(), monitor],
        log_every_n_steps=max(1, min(10, arguments.steps // 10)),
        val_check_interval=max(1, arguments.steps // 4),
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    _say_where(Path(logger.log_dir), arguments.logdir)
    started, interrupted = time.perf_counter(), False
    train, held_out = loaders(text, arguments.steps)
    try:
        trainer.fit(model, train, held_out)
    except (KeyboardInterrupt, SystemExit):
        interrupted = True
    interrupted = interrupted or trainer.interrupted
    logger.experiment.flush()
    seconds = time.perf_counter() - started
    losses = {loss: float(value) for loss, value in trainer.callback_metrics.items() if loss in ("train_loss", "val_loss")}
    _summarise(losses, unigram_entropy(text), monitor, seconds)
    _say_where(Path(logger.log_dir), arguments.logdir)
    return 130 if interrupted else 0


def _sick_model(model: Any, arguments: argparse.Namespace) -> Any:
    options = SICK[arguments.sick] if arguments.sick else {}
    return model(arguments.optimizer, sick=arguments.sick, sick_step=arguments.steps * 3 // 5, **options)


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


def _summarise(losses: dict[str, float], entropy: float, monitor: DivergenceMonitor, seconds: float) -> None:
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


if __name__ == "__main__":
    raise SystemExit(main())

"""The command ``lightning-adam``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_adam import __version__
from lightning_adam.demo import SICK
from lightning_adam.errors import ConfigError

if TYPE_CHECKING:
    from lightning_adam.diagnosis import Finding
    from lightning_adam.optimizers import OptimizerSpec

SEVERITIES = ("info", "warning", "critical")
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
    for name, (what, describe, run) in COMMANDS.items():
        command = commands.add_parser(name, help=what)
        describe(command)
        command.set_defaults(run=run)
    return parser


def _describe_demo(command: argparse.ArgumentParser) -> None:
    command.add_argument("--optimizer", default="adamw", help="a name from `lightning-adam optimizers`")
    command.add_argument("--steps", type=_positive, default=400, help="optimizer steps (default 400)")
    command.add_argument("--logdir", type=Path, default=Path("runs/demo"), help="default runs/demo")
    command.add_argument("--sick", choices=sorted(SICK), help="break the run on purpose, to see the warnings fire")


def _describe_optimizers(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", nargs="?", help="a name of the catalogue, such as muon")
    command.add_argument("--json", action="store_true")


def _describe_doctor(command: argparse.ArgumentParser) -> None:
    what = "folder with runs, or one file: events, metrics.csv, findings.json, W&B's run or history"
    command.add_argument("logdir", type=Path, nargs="?", help=what)
    command.add_argument("--format", choices=("text", "json", "markdown", "html"), default="text")
    command.add_argument("--output", type=Path, help="write the report to this file instead of the terminal")
    _describe_fail_on(command, "exit with 1 where a finding is at least so severe (default warning); 2 is unusable input")
    watching = "follow running jobs and print each new finding; Ctrl-C ends it"
    command.add_argument("--watch", action="store_true", help=watching)
    command.add_argument("--compare", nargs=2, metavar=("A", "B"), help="what differs between two runs")


def _describe_check(command: argparse.ArgumentParser) -> None:
    command.add_argument("target", help="module:Class, file.py:Class, or the YAML file of a LightningCLI's fit")
    command.add_argument("--data", help="module:Class of a datamodule (default: the module's own train_dataloader)")
    command.add_argument("--budget", type=_positive, default=60, help="seconds at most (default 60)")
    command.add_argument("--format", choices=("text", "json", "sarif"), default="text")
    command.add_argument("--baseline", type=Path, help="a file written by --format json: what it holds is silent")
    _describe_fail_on(command, "exit with 1 (default warning)")


def _describe_fail_on(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--fail-on", choices=SEVERITIES, default="warning", help=what)


def _describe_explain(command: argparse.ArgumentParser) -> None:
    command.add_argument("code", nargs="?", help="such as LR-HIGH; without one all codes are listed")


def _describe_link(command: argparse.ArgumentParser) -> None:
    which = "the run as TensorBoard's list names it (default: the log folder itself)"
    command.add_argument("--run", dest="run_name", default=".", help=which)
    command.add_argument("--prefix", default="adam", help="of the optimizer's tags; for several such as adam-AdamW")
    command.add_argument("--port", type=_positive, default=6006, help="default 6006")


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
    """Preflight; 1 where a new finding is as severe as ``--fail-on``, 2 where the training step raises."""
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
    return 2 if report.raised else int(reach(new, arguments.fail_on))


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
    """Train the example with the monitors attached."""
    from lightning_adam.demo import demo

    return demo(arguments.optimizer, arguments.steps, arguments.logdir, arguments.sick)


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = {
    "demo": ("train a small GPT with the monitors attached", _describe_demo, demo_command),
    "optimizers": ("print the catalogue, or the page of one optimizer", _describe_optimizers, optimizers_command),
    "doctor": ("diagnose finished or running runs from their logs", _describe_doctor, doctor_command),
    "check": (
        "what is wrong before training: preflight of a class or a LightningCLI config",
        _describe_check,
        check_command,
    ),
    "explain": ("what a finding's code means, why it happens, and what to do", _describe_explain, explain_command),
    "link": (
        "print a TensorBoard address with the headline cards pinned and smoothing off",
        _describe_link,
        link_command,
    ),
}
"""Of each command what it is for, its arguments, and what it does."""


if __name__ == "__main__":
    raise SystemExit(main())

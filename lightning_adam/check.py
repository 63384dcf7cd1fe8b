"""``lightning-adam check``: preflight from the command line, for a class or for a LightningCLI configuration."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_adam.diagnosis import Finding
from lightning_adam.errors import ConfigError
from lightning_adam.preflight import PreflightReport, preflight
from lightning_adam.quiet import without_warnings

CONFIGURATIONS = (".yaml", ".yml")
LEVELS = {"critical": "error", "warning": "warning", "info": "note"}
"""SARIF's names of our severities."""


def check(target: str, data: str | None = None, budget: float = 60) -> PreflightReport:
    """Preflight of what a command line can name.

    Args:
        target: ``module:Class`` or ``file.py:Class``, made without arguments; or a YAML file of ``LightningCLI``'s ``fit``.
        data: the same for a datamodule; without one the module's own ``train_dataloader`` is asked.
        budget: seconds.

    Raises:
        ConfigError: it is neither, it cannot be imported, or the class wants arguments.
    """
    if Path(target).suffix in CONFIGURATIONS:
        return _configured(target, budget)
    module = _made(target, "the module")
    return preflight(module, module if data is None else _made(data, "--data"), budget=budget)


def _made(target: str, what: str) -> Any:
    place, separator, name = target.rpartition(":")
    if not separator:
        raise ConfigError(f"{what} {target!r}: write module:Class, file.py:Class, or the YAML file of a LightningCLI.")
    kind = getattr(_imported(place, what), name, None)
    if kind is None:
        raise ConfigError(f"{what} {target!r}: {place} has no {name}.")
    try:
        return kind()
    except TypeError as error:
        raise ConfigError(f"{what} {target!r} cannot be made without arguments ({error}): name a class that can.") from error


def _can_import_from(folder: Path) -> None:
    """As ``python train.py`` can from its own folder, and ``python -m`` from where it is called; a command finds neither."""
    if (place := str(folder.resolve())) not in sys.path:
        sys.path.insert(0, place)


def _imported(place: str, what: str) -> Any:
    _can_import_from(Path.cwd())
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        _can_import_from(Path(place).parent)
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        if spec is None or spec.loader is None:
            raise ImportError(f"{place} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # what pickles and looks for its class finds it
        spec.loader.exec_module(module)
        return module
    except (ImportError, OSError) as error:
        raise ConfigError(f"{what} {place!r} could not be imported: {error}.") from error


def _configured(path: str, budget: float) -> PreflightReport:
    try:
        from lightning.pytorch.cli import LightningCLI
    except ImportError as error:
        raise ConfigError("a YAML file needs jsonargparse: pip install 'lightning-adam[cli]'.") from error
    _can_import_from(Path.cwd())
    try:
        with without_warnings("LightningCLI's args parameter"):
            cli = LightningCLI(
                subclass_mode_model=True, subclass_mode_data=True, run=False, save_config_callback=None,
                args=_fit_section(path),
            )  # fmt: skip
    except SystemExit as error:
        raise ConfigError(
            f"{path} is no configuration that LightningCLI takes by itself (see above): model and data need a class_path. "
            "Where a script gives the classes, name them: module:Class --data module:Class."
        ) from error
    return preflight(cli.model, cli.datamodule or cli.model, trainer=cli.trainer, budget=budget)


OF_FIT_ALONE = ("ckpt_path", "weights_only")
"""What ``fit`` takes, and writes into its ``config.yaml``, beside the classes and the trainer."""


def _fit_section(path: str) -> dict[str, Any]:
    """Of a file for all subcommands the part of ``fit``; of what ``fit`` has saved all that can be made without a run.

    Raises:
        ConfigError: the file cannot be read, or is no mapping.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} could not be read: {error}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is no configuration: LightningCLI's has entries such as model, data and trainer.")
    section = content["fit"] if isinstance(content.get("fit"), dict) else content
    return {name: value for name, value in section.items() if name not in OF_FIT_ALONE}


def new_findings(report: PreflightReport, baseline: Path | None) -> list[Finding]:
    """Findings that are not in the baseline: a file that ``--format json`` has written.

    Raises:
        ConfigError: the baseline cannot be read.
    """
    if baseline is None:
        return list(report.findings)
    try:
        known = {_identity(stored) for stored in json.loads(baseline.read_text(encoding="utf-8"))["findings"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--baseline {baseline} is not what --format json writes ({type(error).__name__}: {error})."
        ) from error
    return [finding for finding in report.findings if _identity(finding.to_dict()) not in known]


def _identity(stored: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Numbers and words differ from run to run; the code and whom it concerns do not."""
    return stored["rule"], tuple(stored["parameters"])


def as_json(findings: Iterable[Finding], report: PreflightReport) -> str:
    """What a program reads, and a later ``--baseline``."""
    from lightning_adam.doctor.machine import plain

    listed = [finding.to_dict() for finding in findings]
    content = {"findings": listed, "not_judged": report.not_judged, "raised": report.raised}
    return json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)


def as_sarif(findings: Iterable[Finding]) -> str:
    """Static Analysis Results Interchange Format 2.1.0 (OASIS), which code hosts show beside the lines."""
    listed = list(findings)
    rules = [{"id": code} for code in dict.fromkeys(finding.rule for finding in listed)]
    driver = {"name": "lightning-adam", "informationUri": "https://lightning-adam.readthedocs.io", "rules": rules}
    runs = [{"tool": {"driver": driver}, "results": [_result(finding) for finding in listed]}]
    return json.dumps(
        {"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0", "runs": runs}, indent=2
    )


def _result(finding: Finding) -> dict[str, Any]:
    text = f"{finding.message} {finding.remedy}".strip()
    result: dict[str, Any] = {"ruleId": finding.rule, "level": LEVELS[finding.severity], "message": {"text": text}}
    file, _, line = str(finding.evidence.get("at", "")).rpartition(":")
    if file and line.isdigit():
        place = {"artifactLocation": {"uri": file}, "region": {"startLine": int(line)}}
        result["locations"] = [{"physicalLocation": place}]
    return result

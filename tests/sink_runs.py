"""A run as a monitor tells a sink of it, and readers of what the logging libraries made of it."""

from __future__ import annotations

import json
import logging
import math
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups
from torch import nn

from lightning_adam.diagnosis import Finding, RunSignals, StepSignals, encode
from lightning_adam.diagnosis.archive import read_stretches
from lightning_adam.monitoring.heatmap import Heatmap
from lightning_adam.monitoring.sink import Sink
from lightning_adam.statistics import (
    Snapshot,
    copy_parameters,
    headline,
    read_optimizer,
    take_snapshot,
    tensor_names,
)

STEPS = (1, 3)
SLOW = Finding("LR-LOW", "warning", 1, "The steps are small.", remedy="Multiply the learning rate by 10.")
LR_HIGH = Finding("LR-HIGH", "critical", 3, "The loss rose.", {"loss": 2.5, "of": "net"}, ("0.weight",), "Divide it by 3.")
OURS = {"optimizer": "AdamW", "lr": 1e-3, "betas": "0.9, 0.999", "schedule": "cosine"}
SIGNALS = encode([RunSignals(optimizer="AdamW"), StepSignals(3, loss=2.5)])


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No network, nothing in the current folder, nothing on the console."""
    here = tmp_path / "current_folder"
    here.mkdir()
    monkeypatch.chdir(here)
    keep_offline(monkeypatch, tmp_path)
    yield
    assert not list(here.iterdir())
    assert capfd.readouterr() == ("", "")


def keep_offline(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """No network, nothing outside of the folder, few words."""
    for variable in ("HOME", "WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(variable, str(folder))
    for variable in ("WANDB_SILENT", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(variable, "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setenv("COMET_START_ONLINE", "false")
    monkeypatch.setenv("COMET_LOGGING_CONSOLE", "ERROR")
    monkeypatch.setattr(socket, "getaddrinfo", _only_local(socket.getaddrinfo))
    for name in ("mlflow", "alembic", "lightning.pytorch.loggers.mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _only_local(resolve: Any) -> Any:
    def resolved(host: Any, *args: Any, **kwargs: Any) -> Any:
        assert host in (None, "localhost", "127.0.0.1", "::1"), f"a test asked for {host}"
        return resolve(host, *args, **kwargs)

    return resolved


def snapshots() -> list[Snapshot]:
    """Two logged steps of AdamW on a small net."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    taken = []
    for step in STEPS:
        net(torch.randn(32, 8)).square().mean().backward()
        before = copy_parameters(optimizer)
        optimizer.step()
        taken.append(take_snapshot(step, read_optimizer(optimizer, tensor_names(net.named_parameters()), before)))
    return taken


def tell_a_run(sink: Sink, prefix: str = "adam", found: tuple[Finding, ...] = (SLOW, LR_HIGH)) -> None:
    """All that a monitor tells a sink of one optimizer's run."""
    heatmap = Heatmap()
    sink.hyperparameters(OURS)
    sink.configuration(prefix, 0, "| group | lr |")
    sink.layout([prefix], each_tensor=True)
    for snapshot in snapshots():
        heatmap.add(snapshot)
        values = {f"{prefix}/{name}": value for name, value in headline(snapshot).items()}
        odd = {f"{prefix}.groups/log10_lr/blocks[0]": -3.0, f"{prefix}/log10_nothing": math.nan}
        sink.snapshot(prefix, values | odd, snapshot, rows=[0], matrix=True)
    sink.heatmap(prefix, heatmap)
    sink.standouts(prefix, snapshot, 2)
    for index, finding in enumerate(found):
        sink.findings(prefix, finding.step, [finding], found[: index + 1])
    sink.records(prefix, 3, SIGNALS)
    sink.file(f"{prefix}_last_steps_3.json", "[]")
    sink.findings(prefix, 3, (), found)
    sink.end()


def signals_in(path: Path) -> list[bytes]:
    """The stretches of an ``adam_signals.jsonl``, each line of which can be read."""
    stretches, damaged = read_stretches(path.read_text().splitlines())
    assert damaged == 0
    return [stretch.payload for stretch in stretches]


def hparams_tab(logdir: Path) -> tuple[list[dict[str, Any]], set[str]]:
    """What TensorBoard's HParams tab shows, sorted by ``lr``: the values of each run, and the metrics' columns."""
    runs = EventMultiplexer()
    runs.AddRunsFromDirectory(str(logdir)).Reload()
    context = backend_context.Context(TBContext(data_provider=MultiplexerDataProvider(runs, str(logdir))))
    known = (RequestContext(), context, "")
    sorting = api_pb2.ColParams(hparam="lr", order=api_pb2.ORDER_ASC)
    statuses = [api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_RUNNING]
    request = api_pb2.ListSessionGroupsRequest(col_params=[sorting], allowed_statuses=statuses, slice_size=99)
    groups = list_session_groups.Handler(*known, request).run().session_groups
    experiment = get_experiment.Handler(*known, api_pb2.GetExperimentRequest()).run()
    columns = {info.name for info in experiment.hparam_infos}
    values = [{k: v.number_value or v.string_value for k, v in group.hparams.items()} for group in groups]
    shown = [{k: v for k, v in run.items() if k in columns} for run in values]
    return shown, {metric.name.tag for metric in experiment.metric_infos}


def wandb_records(run_folder: Path) -> dict[str, list[Any]]:
    """What an offline run will upload, by kind; the file is LevelDB's log format, and the records are wandb's own."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # its service has written the file to the end then
    data, at, whole = next(run_folder.glob("*.wandb")).read_bytes(), 7, b""
    found: dict[str, list[Any]] = {}
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, part = struct.unpack_from("<IHB", data, at)
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if part in (1, 4):  # a whole one, or the last part of one
            kind = (record := Record.FromString(whole)).WhichOneof("record_type")
            found.setdefault(kind, []).append(getattr(record, kind))
            whole = b""
    return found


def items(update: Any) -> dict[str, Any]:
    """The values of a history, configuration or summary record."""
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in update}


def wandb_policy(name: str) -> int:
    """When a file is uploaded: ``NOW``, ``LIVE`` or at the ``END``."""
    from wandb.proto.wandb_internal_pb2 import FilesItem

    return int(FilesItem.PolicyType.Value(name))

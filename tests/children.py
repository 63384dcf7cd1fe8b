"""Child processes that need not import torch and Lightning again: a server that has both forks them.

The server has trained nothing and keeps no thread, so that a child of it is as good as a new interpreter, but for what an
import does: tests of that start one of their own.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["tests.once", "lightning.pytorch", "torch.utils.tensorboard", "torch.distributed.fsdp", "bitsandbytes",
     "pytorch_optimizer", "lightning_adam.configure", "lightning_adam.optimizers", "lightning_adam.monitoring.monitor"]
)  # fmt: skip


@dataclass
class Child:
    """``python -m module arguments…`` at work.

    Attributes:
        process: its number is ``process.pid``.
        out: the file that has its standard output.
        err: the file that has its standard error.
    """

    process: BaseProcess
    out: Path
    err: Path

    def ended(self, timeout: float = 240.0) -> int:
        """Its exit status; a child that does not end in time is killed."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    def output(self) -> str:
        """What it has printed, once it has ended well."""
        assert self.ended() == 0, self.err.read_text()[-3000:]
        return self.out.read_text()


def start(folder: Path, module: str, *arguments: object, **environment: str) -> Child:
    """A child whose output goes to files in the folder, with these environment variables besides ours."""
    folder.mkdir(exist_ok=True)
    out, err = (folder / f"{module}.{environment.get('RANK', 0)}.{kind}" for kind in ("out", "err"))
    out.touch()
    err.touch()
    given = (module, [str(argument) for argument in arguments], {**os.environ, **environment}, out, err)
    process = CONTEXT.Process(target=_run, args=given)
    process.start()
    return Child(process, out, err)


def run_ranks(folder: Path, module: str, *arguments: object) -> None:
    """Two children of one group to their end."""
    with ranks(folder, module, *arguments):
        pass


@contextmanager
def ranks(folder: Path, module: str, *arguments: object) -> Iterator[None]:
    """Two children of one group, as torchrun starts them; both end well before the block does, or none outlives it."""
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": "0", "NODE_RANK": "0"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "GLOO_SOCKET_IFNAME": "lo"}
    started = [start(folder, module, *arguments, **group, **address, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")]
    try:
        yield
        for child in started:
            child.output()
    finally:
        for child in started:
            child.process.kill()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _run(module: str, arguments: list[str], environment: dict[str, str], out: Path, err: Path) -> None:
    import torch

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it where a shell started it so
    torch.set_num_threads(1)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

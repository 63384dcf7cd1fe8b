"""All sinks of a run as one: a logger that fails loses what it was told, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lightning_adam.diagnosis import Finding
from lightning_adam.monitoring.guard import Guard
from lightning_adam.monitoring.heatmap import Heatmap
from lightning_adam.monitoring.signals import signals_wait
from lightning_adam.monitoring.sink import Sink
from lightning_adam.statistics import Snapshot


class AllSinks(Sink):
    """Hands everything on to each sink, guarded.

    Args:
        sinks: of the run; none on ranks that do not write.
        guard: that catches what they raise.
    """

    def __init__(self, sinks: Sequence[Sink], guard: Guard) -> None:
        self.sinks, self._guard = sinks, guard

    @property
    def keeps_records(self) -> bool:
        """Whether any of them does."""
        return any(sink.keeps_records for sink in self.sinks)

    def addresses(self) -> Iterator[str]:
        """What to tell the user to open."""
        return (sink.address for sink in self.sinks if sink.address)

    def configuration(self, prefix: str, step: int, markdown: str) -> None:
        self._each("the configuration", lambda sink: sink.configuration(prefix, step, markdown))

    def layout(self, prefixes: Sequence[str], each_tensor: bool) -> None:
        self._each("the layout", lambda sink: sink.layout(prefixes, each_tensor))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._each("scalars", lambda sink: sink.scalars(step, values))

    def snapshot(
        self, prefix: str, values: Mapping[str, float], snapshot: Snapshot, rows: Sequence[int], matrix: bool
    ) -> None:
        self._each("a logged step", lambda sink: sink.snapshot(prefix, values, snapshot, rows, matrix))

    def heatmap(self, prefix: str, heatmap: Heatmap) -> None:
        self._each("the heatmap", lambda sink: sink.heatmap(prefix, heatmap))

    def standouts(self, prefix: str, snapshot: Snapshot, count: int) -> None:
        self._each("the tensors that stand out", lambda sink: sink.standouts(prefix, snapshot, count))

    def findings(self, prefix: str, step: int, fresh: Sequence[Finding], known: Sequence[Finding]) -> None:
        self._each("findings", lambda sink: sink.findings(prefix, step, fresh, known))

    def records(self, prefix: str, step: int, payload: bytes) -> None:
        self._each("recorded signals", lambda sink: sink.records(prefix, step, payload))

    def file(self, name: str, content: str) -> None:
        self._each(f"the file {name}", lambda sink: sink.file(name, content))

    def end(self) -> None:
        self._each("the end of its log", lambda sink: sink.end(), is_over=True)

    def _each(self, what: str, tell: Callable[[Sink], Any], is_over: bool = False) -> None:
        with signals_wait():
            for sink in self.sinks:
                self._tell(sink, what, tell, is_over)

    def _tell(self, sink: Sink, what: str, tell: Callable[[Sink], Any], is_over: bool) -> None:
        name = type(sink).__name__
        if not self._guard.run(f"{what} in {name}", tell, sink):
            self._guard.run(f"a new beginning of {name}", sink.has_failed, is_over)

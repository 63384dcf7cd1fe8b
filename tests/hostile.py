"""Logs as nobody's logger writes them: files of ``tests/corpus`` with bytes or values changed, and event files made up."""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

CORPUS = {path.name: path.read_bytes() for path in sorted((Path(__file__).parent / "corpus").iterdir())}
"""Of a small run that ended in NaN: what each kind of logger leaves; and histories as W&B exports them."""

EVIL_TEXT = (
    "\x1b]0;owned\x07\x9b31m\u202e<script>alert(1)</script><img src=x onerror=alert(1)>|`*[x](http://e)\r\n# h ../../x"
)
EXTREMES: list[Any] = [
    *(None, True, "", EVIL_TEXT, "x" * 600, "\ud800", "0.9.9", [], {}, [[]], {"a": {}}, [1, "a"]),
    *(0, -1, 1, 2**63 - 1, 2**63, -(2**63), 10**30, 10**4000),
    *(0.0, -0.0, 1.7e308, -1.7e308, 5e-324, math.nan, math.inf, -math.inf),
]
TOKENS = [
    *(b"\0" * 8, b"\xff" * 13, b"NaN", b"1e999", b"-1.7e308", b"9223372036854775808", b'"', b",", b"\n", b"{", b"[" * 2000),
    *(EVIL_TEXT.encode(), b"\xe9\xe8", b"Infinity", b"1e19", b"-", b"\x1b[2J"),
]


def frame(event: Event) -> bytes:
    """A record."""
    data = event.SerializeToString()
    return header(len(data)) + data + struct.pack("<I", masked_crc32c(data))


def header(length: int) -> bytes:
    """A length and its checksum."""
    number = struct.pack("<Q", length)
    return number + struct.pack("<I", masked_crc32c(number))


def scalar(step: int, tag: str, value: float, time: float = 1.0) -> bytes:
    """An event with a number."""
    return frame(Event(step=step, wall_time=time, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])))


def text(step: int, tag: str, content: bytes, time: float = 1.0) -> bytes:
    """An event with a string of ours."""
    tensor = TensorProto(dtype="DT_STRING", string_val=[content])
    value = Summary.Value(tag=tag, metadata=_ours(b""), tensor=tensor)
    return frame(Event(step=step, wall_time=time, summary=Summary(value=[value])))


def matrix(step: int, tag: str, names: bytes, row: list[float]) -> bytes:
    """An event with a row of a table."""
    tensor = TensorProto(dtype="DT_FLOAT", tensor_content=np.array(row, "<f4").tobytes())
    value = Summary.Value(tag=tag, metadata=_ours(names), tensor=tensor)
    return frame(Event(step=step, wall_time=1.0, summary=Summary(value=[value])))


def start(step: int) -> bytes:
    """Forget what is from this step on."""
    return frame(Event(step=step, wall_time=1.0, session_log=SessionLog(status=SessionLog.START)))


def _ours(content: bytes) -> SummaryMetadata:
    return SummaryMetadata(plugin_data={"plugin_name": "lightning_adam", "content": content}, data_class="DATA_CLASS_TENSOR")


def rows(names: list[Any]) -> bytes:
    """The names of a table's rows."""
    return json.dumps({"rows": names}).encode()


def leaves(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in JSON, containers included."""
    yield at
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in inside:
        yield from leaves(value, (*at, key))


def swapped(content: Any, at: tuple[Any, ...], value: Any) -> Any:
    """The same with another value there."""
    if not at:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[at[0]] = swapped(content[at[0]], at[1:], value)
    return copy


@st.composite
def changed_bytes(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file of the corpus with up to four injuries."""
    name = draw(st.sampled_from(sorted(CORPUS)))
    content = CORPUS[name]
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(("cut", "drop", "put", "over", "twice")))
        size = draw(st.integers(1, 200))
        token = draw(st.sampled_from(TOKENS) | st.binary(max_size=8))
        content = {
            "cut": content[:place],
            "drop": content[:place] + content[place + size :],
            "put": content[:place] + token + content[place:],
            "over": content[:place] + token + content[place + len(token) :],
            "twice": content[: place + size] + content[place:],
        }[kind]
    return name, content


SIGNALS = json.loads(zlib.decompress(base64.b64decode(json.loads(CORPUS["adam_signals.jsonl"].splitlines()[0])["payload"])))
FINDINGS = json.loads(CORPUS["findings.json"])
_LEAVES = {"signals": list(leaves(SIGNALS)), "findings": list(leaves(FINDINGS))}


@st.composite
def changed_values(draw: st.DrawFn) -> tuple[str, bytes]:
    """Recorded signals or findings in which up to three values are others."""
    kind = draw(st.sampled_from(("signals", "signals as events", "findings", "findings as events")))
    of = kind.split()[0]
    content = SIGNALS if of == "signals" else FINDINGS
    for _ in range(draw(st.integers(1, 3))):
        try:
            content = swapped(content, draw(st.sampled_from(_LEAVES[of])), draw(st.sampled_from(EXTREMES)))
        except (LookupError, TypeError):
            continue  # the place has gone with an earlier change
    if of == "findings":
        as_text = json.dumps(content if kind == "findings" else _told(content)).encode()
        return ("findings.json", as_text) if kind == "findings" else (EVENTS, text(1, "adam_events", as_text))
    stored = zlib.compress(json.dumps(content).encode())
    if kind == "signals":
        line = json.dumps({"version": 1, "prefix": "adam", "step": 43, "payload": base64.b64encode(stored).decode()})
        return "adam_signals.jsonl", line.encode()
    return EVENTS, text(43, "adam_signals", stored)


EVENTS = "events.out.tfevents.1"


def _told(content: Any) -> Any:
    try:
        return content["findings"]["adam"]
    except (LookupError, TypeError):
        return content


_STEPS = st.sampled_from((0, 1, 2, 10, 50, 2**31, 2**63 - 1, -1, -(2**63))) | st.integers(0, 60)
_VALUES = st.sampled_from([value for value in EXTREMES if isinstance(value, float)]) | st.floats(width=32)
_TAGS = st.sampled_from(
    (
        *("train_loss", "loss", "lr-Adam", "grad_norm", "adam/log10_lr", "adam/log10_gradient_norm", "adam/findings_total"),
        *(
            "adam/log10_update_ratio_p50",
            "adam/log10_update_ratio_p10",
            f"adam-{EVIL_TEXT}/log10_lr",
            EVIL_TEXT,
            "",
            "a" * 900,
        ),
    )
)
_TABLES = st.sampled_from(
    [f"adam_matrix/{name}" for name in ("update_ratio", "gradient_surprise", "eps_dominated", EVIL_TEXT)]
)
_NAMES = st.lists(st.sampled_from(("net.weight", "net.bias", EVIL_TEXT, "_" * 2000, 5, None)), max_size=4)
_CONFIG = (
    "**AdamW**\n\n| group | tensors | parameters | lr | weight decay | betas | eps |\n|---|---|---|---|---|---|---|\n| {} |"
)
_CELLS = st.lists(st.sampled_from(("0.9.9", "(0.9.9, 0.999)", "(0.9, 0.999)", "1e-8", "1e999", "nan", ".", "")), max_size=8)
_EVENT = (
    st.builds(scalar, _STEPS, _TAGS, _VALUES.filter(lambda value: not 3.4e38 < abs(value) < math.inf))
    | st.builds(
        matrix, _STEPS, _TABLES, st.builds(rows, _NAMES) | st.binary(max_size=9), st.lists(st.floats(width=32), max_size=5)
    )
    | st.builds(start, _STEPS)
    | st.builds(
        lambda step, cells: text(step, "adam/config/text_summary", _CONFIG.format(" | ".join(cells)).encode()),
        _STEPS,
        _CELLS,
    )
    | st.builds(text, _STEPS, st.sampled_from(("adam_events", "adam_signals", "adam-B_events")), st.binary(max_size=30))
    | st.binary(max_size=20)
    | st.builds(header, st.sampled_from((0, 1, 5, 2**20, 2**33, 2**63)))
)
made_up_events = st.lists(_EVENT, max_size=60).map(lambda events: (EVENTS, b"".join(events)))
"""Events that each make sense to somebody."""

_CELL = st.sampled_from(
    ("", "1", "-1", "1e19", "1.7e308", "-1.7e308", "nan", "inf", '"', "x", EVIL_TEXT, "1" * 400, "\0", "5e-324")
)
_HEADINGS = ("step", "train_loss", "lr-Adam", "_step", "Step", "a - loss", "grad_norm")
made_up_tables = st.builds(
    lambda columns, lines: ("metrics.csv", "\n".join(map(",".join, [columns, *lines])).encode("utf-8", "replace")),
    st.lists(st.sampled_from(_HEADINGS), min_size=1, max_size=5),
    st.lists(st.lists(_CELL, max_size=6), max_size=40),
)
"""CSV with whatever in its cells."""

hostile_files = changed_bytes() | changed_values() | made_up_events | made_up_tables
"""A file's name and its content."""

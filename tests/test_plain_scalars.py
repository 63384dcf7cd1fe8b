"""Numbers that are taken out of many events at once are those that the parser gives one by one."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from lightning_adam.tensorboard import event_records
from lightning_adam.tensorboard.event_records import WORTH_IT
from lightning_adam.tensorboard.plain_scalars import TagNumbers, plain_scalars
from lightning_adam.tensorboard.reader import RunLog, read_run
from tests import hostile

STEPS = (0, 1, 127, 128, 20_000, 2**31, 2**62, 2**63 - 1, -1, -(2**63))
TAGS = ("loss", "", "é/ü", "a" * 127, "b" * 128, "c" * 20_000)
VALUES = (0.0, -2.5, float("inf"), float("-inf"), 1e-45, 3.4e38, float("nan"))
PLAIN = st.builds(
    lambda step, tag, value, time: hostile.scalar(step, tag, value, time),
    st.sampled_from(STEPS) | st.integers(0, 2**63 - 1),
    st.sampled_from(TAGS),
    st.sampled_from(VALUES) | st.floats(width=32),
    st.sampled_from((0.0, 1.0, 1.7e9)),
)


@st.composite
def many_records(draw: st.DrawFn) -> bytes:
    """Enough of them that they are taken out at once, with other events among them and up to three injuries."""
    events = draw(st.lists(PLAIN | hostile.made_up_events.map(lambda made: made[1]), min_size=4, max_size=12))
    content = b"".join(events) * (2 * WORTH_IT // len(events) + 1)
    for _ in range(draw(st.integers(0, 3))):
        place, over = draw(st.integers(0, len(content))), draw(st.binary(min_size=1, max_size=3))
        content = content[:place] + over + content[place + len(over) :]
    return content


def read(content: bytes) -> RunLog:
    """Of one file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, hostile.EVENTS)
        file.write_bytes(content)
        return read_run("run", Path("run"), [file])


@given(many_records())
@settings(max_examples=80, deadline=None, suppress_health_check=[*HealthCheck])
def test_many_at_once_are_as_one_by_one(content: bytes) -> None:
    """Whatever the bytes are: every number, its place in its series, and what is said of damage."""
    at_once = read(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_records, "WORTH_IT", len(content) + 1)
        alone = read(content)

    assert at_once.notes == alone.notes and at_once.damaged == alone.damaged
    assert list(at_once.scalars) == list(alone.scalars)
    for tag, series in alone.scalars.items():
        np.testing.assert_array_equal(at_once.scalars[tag].steps, series.steps)
        np.testing.assert_array_equal(at_once.scalars[tag].values, series.values)
    assert at_once.texts == alone.texts and list(at_once.tables) == list(alone.tables)


def taken(*events: bytes) -> tuple[list[int], list[tuple[str, int, float]]]:
    """Which of these are plain, and their tags, steps and values."""
    ends = np.cumsum([len(event) for event in events])
    tags = TagNumbers()
    found = plain_scalars(b"".join(events), ends - [len(event) for event in events], ends, tags)
    columns = zip(found.tags.tolist(), found.steps.tolist(), found.values.tolist(), strict=True)
    return found.records.tolist(), [(tags.names[tag], step, value) for tag, step, value in columns]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("step", STEPS)
def test_what_loggers_write_is_plain(tag: str, step: int) -> None:
    """Any step but a negative one, and any tag: without this everything would be right, and slow."""
    event = Event(wall_time=1.0, step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=0.5)]))
    is_plain = step >= 0 and bool(tag) and len(tag) < 2**13

    assert taken(event.SerializeToString()) == (([0], [(tag, step, 0.5)]) if is_plain else ([], []))


def test_other_forms_are_left_to_the_parser() -> None:
    """Two values, a description, a tag that is no text (where the parser raises), an event that ends too early or late."""
    one = Summary.Value(tag="a", simple_value=1.0)
    two, told = Summary(value=[one, one]), Summary(value=[Summary.Value(tag="a", simple_value=1.0)])
    told.value[0].metadata.summary_description = "what it is"
    whole = Event(wall_time=1.0, step=3, summary=Summary(value=[one])).SerializeToString()
    no_text = whole.replace(b"a", b"\xff")
    with pytest.raises(DecodeError):
        Event.FromString(no_text)
    others = [Event(wall_time=1.0, summary=summary).SerializeToString() for summary in (two, told)]

    assert taken(whole, *others, no_text, whole[:-1], whole + b"\0", whole) == ([0, 6], [("a", 3, 1.0)] * 2)


@pytest.mark.parametrize("checksum", [True, False])
def test_damage_at_every_second_record_takes_linear_time(checksum: bool) -> None:
    """Each costs itself, not another look at all that follows: the bytes that are looked at are counted."""
    undecodable = b"\xff" * 40
    header = hostile.header(40) if checksum else struct.pack("<Q", 40) + b"\0" * 4
    pair = hostile.scalar(1, "loss", 0.5) + header + undecodable + b"\0" * 4
    looked_at, original = [0], event_records._borders

    def counted(held: bytes, begin: int, end: int, most: int) -> list[int]:
        borders = original(held, begin, end, most)
        looked_at[0] += borders[-1] - begin
        return borders

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(event_records, "_borders", counted)
        run = read(pair * 3000)

    assert f"{3000} damaged record(s)" in run.notes[0]
    assert looked_at[0] < (WORTH_IT + 2) * len(pair) * 3000

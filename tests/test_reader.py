"""The reader of event files: the same numbers as TensorBoard's own, also from damaged files and resumed runs."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c as reference_crc
from torch.utils.tensorboard import SummaryWriter

from lightning_adam.tensorboard import TensorBoardWriter
from lightning_adam.tensorboard.reader import RunLog, find_event_files, masked_crc32c, read_run
from lightning_adam.tensorboard.writer import matrix_row

ROOT = Path(__file__).resolve().parents[1]


def written(folder: Path, write: Callable[[SummaryWriter], None], suffix: str = "") -> Path:
    """A folder with an event file that torch's own writer wrote."""
    writer = SummaryWriter(folder, filename_suffix=suffix)
    write(writer)
    writer.close()
    return folder


def scalars(values: Iterable[float], tag: str = "loss", start: int = 0) -> Callable[[SummaryWriter], None]:
    """Write these values at successive steps."""

    def write(writer: SummaryWriter) -> None:
        for step, value in enumerate(values, start):
            writer.add_scalar(tag, value, step)

    return write


def read(folder: Path) -> RunLog:
    """The only run there."""
    ((path, files),) = find_event_files(folder).items()
    return read_run("run", path, files)


def points(run: RunLog, tag: str = "loss") -> list[tuple[int, float]]:
    """(step, value) of a scalar."""
    return list(zip(run.scalars[tag].steps.tolist(), run.scalars[tag].values.tolist(), strict=True))


def only_file(folder: Path) -> Path:
    """Its event file."""
    return next(folder.glob("*tfevents*"))


def test_scalars_are_those_that_tensorboard_reads(tmp_path: Path) -> None:
    """Every tag, step and value, NaN and infinities included, as EventAccumulator gives them."""
    values = [2.5, math.nan, math.inf, -math.inf, 1e-30, -3.0]
    written(tmp_path, lambda w: (scalars(values)(w), scalars([0.1, 0.2], "val/é <b>")(w)))
    expected = EventAccumulator(str(tmp_path)).Reload()
    run = read(tmp_path)

    assert set(run.scalars) == set(expected.Tags()["scalars"])
    for tag in run.scalars:
        np.testing.assert_array_equal(run.scalars[tag].values, [event.value for event in expected.Scalars(tag)])
        assert run.scalars[tag].steps.tolist() == [event.step for event in expected.Scalars(tag)]
    assert run.notes == []


def test_tables_carry_the_names_of_their_rows(tmp_path: Path) -> None:
    """A quantity of all tensors; a tensor that comes later is NaN before."""

    def write(writer: SummaryWriter) -> None:
        ours = TensorBoardWriter(writer)
        ours._add(0, [matrix_row("adam_matrix/update_ratio", np.array([0.5, 0.25], "f4"), ["a", "b"])])
        ours._add(9, [matrix_row("adam_matrix/update_ratio", np.array([1, 2, 3], "f4"), ["a", "new", "b"])])

    table = read(written(tmp_path, write)).tables["adam_matrix/update_ratio"]

    assert table.rows == ("a", "b", "new")
    assert table.steps.tolist() == [0, 9]
    np.testing.assert_array_equal(table.values, [[0.5, 0.25, math.nan], [1, 3, 2]])


def test_findings_are_read_as_text(tmp_path: Path) -> None:
    """What write_events wrote comes back, NaN included."""
    written(tmp_path, lambda w: TensorBoardWriter(w).write_events(7, [{"rule": "X", "evidence": {"loss": math.nan}}]))
    ((step, text),) = read(tmp_path).texts["adam_events"]

    assert step == 7
    assert math.isnan(json.loads(text)[0]["evidence"]["loss"])


@pytest.mark.parametrize("missing", [1, 4, 5, 20, 30])
def test_truncated_file_gives_all_that_is_whole(tmp_path: Path, missing: int) -> None:
    """A killed run's last record is cut anywhere: everything before it counts, and a note says so."""
    file = only_file(written(tmp_path, scalars(range(10))))
    file.write_bytes(file.read_bytes()[:-missing])
    run = read(tmp_path)

    assert points(run) == [(step, float(step)) for step in range(9)]
    assert "cut off" in run.notes[0]


@pytest.mark.parametrize("offset", [0, 1, 3, 7])
def test_damaged_length_costs_one_record(tmp_path: Path, offset: int) -> None:
    """A wrong byte in a record's length: the reader finds the next record by its checksum."""
    file = only_file(written(tmp_path, scalars(range(20))))
    content = bytearray(file.read_bytes())
    content[record_places(content)[10] + offset] ^= 0x55
    file.write_bytes(content)
    run = read(tmp_path)

    lost = {float(step) for step in range(20)} - {value for _, value in points(run)}
    assert len(lost) == 1
    assert "1 damaged record(s)" in run.notes[0]


def test_bytes_of_garbage_cost_what_they_overwrote(tmp_path: Path) -> None:
    """300 random bytes in the middle of a file of small records: the records before and after are read."""
    file = only_file(written(tmp_path, scalars(range(100))))
    content = bytearray(file.read_bytes())
    middle = record_places(content)[40] + 5
    content[middle : middle + 300] = np.random.default_rng(0).bytes(300)
    file.write_bytes(content)
    values = [value for _, value in points(read(tmp_path))]

    assert values[:38] == [float(step) for step in range(38)]
    assert values[-50:] == [float(step) for step in range(50, 100)]


def test_zeros_at_the_end_are_no_events(tmp_path: Path) -> None:
    """What a machine that lost its power leaves behind."""
    file = only_file(written(tmp_path, scalars(range(5))))
    file.write_bytes(file.read_bytes() + bytes(4096))

    assert len(points(read(tmp_path))) == 5


@pytest.mark.parametrize("content", [b"", b"\0", b"no event file at all, but text that is long enough", bytes(100)])
def test_file_that_is_no_event_file_gives_nothing(tmp_path: Path, content: bytes) -> None:
    """Nothing is read and nothing raised."""
    (tmp_path / "events.out.tfevents.1.host").write_bytes(content)

    assert read(tmp_path).scalars == {}


def test_several_files_are_one_run_in_their_order(tmp_path: Path) -> None:
    """A run that was resumed at step 6: what it wrote from there replaces what the first part wrote."""
    first = [1.0] * 10
    written(tmp_path, scalars(first), ".a")
    files = [only_file(tmp_path)]
    files[0].rename(tmp_path / "events.out.tfevents.1000000000.host")
    written(tmp_path, scalars([2.0] * 3, start=6), ".b")

    assert points(read(tmp_path)) == [(step, 1.0) for step in range(6)] + [(step, 2.0) for step in range(6, 9)]


def test_findings_of_an_abandoned_stretch_are_gone(tmp_path: Path) -> None:
    """The resumed part has no finding of its own, and the old one at step 8 belongs to steps that were done again."""

    def stretch(start: int, stop: int, finding: int | None) -> Callable[[SummaryWriter], None]:
        def write(writer: SummaryWriter) -> None:
            ours = TensorBoardWriter(writer)
            for step in range(start, stop):
                ours._add(step, [matrix_row("adam_matrix/update_ratio", np.ones(1, "f4"), ["w"])])
                if step == finding:
                    ours.write_events(step, [{"rule": "X"}])

        return write

    written(tmp_path, stretch(0, 10, finding=8), ".a")
    only_file(tmp_path).rename(tmp_path / "events.out.tfevents.1000000000.host")
    written(tmp_path, stretch(5, 12, finding=None), ".b")
    run = read(tmp_path)

    assert run.tables["adam_matrix/update_ratio"].steps.tolist() == list(range(12))
    assert run.texts["adam_events"] == []


def test_purge_step_is_obeyed(tmp_path: Path) -> None:
    """SummaryWriter(purge_step=4) says that everything from step 4 on is void, tags that never return included."""
    written(tmp_path, scalars(range(8)), ".a")
    only_file(tmp_path).rename(tmp_path / "events.out.tfevents.1000000000.host")
    SummaryWriter(tmp_path, purge_step=4).close()

    assert [step for step, _ in points(read(tmp_path))] == [0, 1, 2, 3]


def test_files_of_one_second_are_read_in_the_order_of_their_count(tmp_path: Path) -> None:
    """A process numbers its event files; a resume within the second may be the tenth."""
    for count in (9, 10):
        written(tmp_path, scalars([float(count)], start=count), f".{count}")
    for file in tmp_path.glob("*tfevents*"):
        file.rename(tmp_path / f"events.out.tfevents.1000000000.host.1{file.suffix}")

    (files,) = find_event_files(tmp_path).values()
    assert [file.suffix for file in files] == [".9", ".10"]


def test_runs_are_found_below_and_through_links(tmp_path: Path) -> None:
    """Any depth, links too, and a link back to the top is no endless way."""
    written(tmp_path / "logs/a/version_0", scalars([1.0]))
    written(tmp_path / "elsewhere", scalars([1.0]))
    (tmp_path / "logs/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "logs/a/up").symlink_to(tmp_path / "logs")

    found = {path.relative_to(tmp_path / "logs").as_posix() for path in find_event_files(tmp_path / "logs")}
    assert found == {"a/version_0", "linked"}


@pytest.mark.parametrize("data", [b"", b"123456789", struct.pack("<Q", 1234567)])
def test_checksum_is_tensorboards(data: bytes) -> None:
    """CRC-32C with TFRecord's mask."""
    assert masked_crc32c(np.frombuffer(data, np.uint8)[None]).tolist() == [reference_crc(data)]


def test_reader_needs_no_torch() -> None:
    """The doctor is to answer at once: torch alone takes more than a second to import."""
    code = "import sys, lightning_adam.doctor, lightning_adam.cli; print({'torch', 'lightning'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "set()"


def record_places(content: bytes | bytearray) -> list[int]:
    """Where each record begins."""
    places, place = [], 0
    while place < len(content):
        places.append(place)
        place += 16 + struct.unpack_from("<Q", content, place)[0]
    return places

"""What the doctor shows: text, JSON, a page and a table that hold every finding and run no foreign code."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from lightning_adam.cli import main
from lightning_adam.doctor import report
from lightning_adam.doctor.plots import thin
from tests.doctor_runs import event_run, falling, finding_event

SCRIPT = "<script>alert(1)</script>"

STRANGE: dict[str, list[float]] = {
    "one step": [1.0],
    "two equal": [1.0, 1.0],
    "all NaN": [math.nan] * 40,
    "one NaN": [math.nan],
    "infinite": [1.0, math.inf, -math.inf, 2.0],
    "zeros": [0.0] * 100,
    "negative": [-1.0 - step for step in range(100)],
    "huge": [1e38, -1e38, 3e38],
    "tiny": [1e-45] * 50,
}


@pytest.mark.parametrize("form", ["text", "json", "markdown", "html"])
@pytest.mark.parametrize("loss", STRANGE.values(), ids=STRANGE)
def test_strange_numbers_give_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], loss: list[float], form: str
) -> None:
    """Every form, whatever the loss was."""
    assert main(["doctor", str(event_run(tmp_path, loss)), "--format", form]) in (0, 1)
    assert "train_loss" in capsys.readouterr().out


def test_json_is_valid(tmp_path: Path) -> None:
    """Strict parsers accept it: NaN is a string."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    content = json.loads(report(finding_event(tmp_path)).to_json(), parse_constant=refuse)

    (run,) = content["runs"]
    assert run["findings"][0]["evidence"] == {"loss": "NaN", "first": "loss"}
    assert run["worst"] == "critical"


def test_page_shows_foreign_text_as_text(tmp_path: Path) -> None:
    """A script in a run's name, a tag, a message, a parameter or the evidence is not a script in the page."""
    place = tmp_path / f"run {SCRIPT.replace('/', '∕')}"
    texts = {"message": SCRIPT, "remedy": SCRIPT, "parameters": [SCRIPT], "evidence": {SCRIPT: SCRIPT}, "rule": SCRIPT}
    finding_event(place, **texts)
    event_run(place, falling(), f"train_loss{SCRIPT}")
    for page in (report(tmp_path).to_html(), report(tmp_path)._repr_html_(), report(tmp_path).to_markdown()):
        assert "<script" not in page
        assert page.count("&lt;script&gt;") >= 5


def test_terminal_shows_foreign_text_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither escape codes (that clear the screen) nor rich's markup of a log reach the terminal."""
    evil = "\x1b[2J[red]x[/blue]\x9b\x07"
    texts = dict.fromkeys(("message", "remedy", "rule", "optimizer"), evil)
    finding_event(tmp_path / "[bold]run", **texts, parameters=[evil, evil], evidence={evil: evil})
    finding_event(tmp_path / "other")
    main(["doctor", str(tmp_path)])
    shown = capsys.readouterr().out

    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)
    assert "[bold]run" in shown
    assert shown.count("[2J[red]x[/blue]") >= 5


def test_page_loads_nothing(tmp_path: Path) -> None:
    """No address, no script, no picture from elsewhere; both colour schemes are inside."""
    page = report(finding_event(tmp_path)).to_html()

    assert not re.search(r"https?:|src=|url\(|@import|<link|<script", page)
    assert "prefers-color-scheme:dark" in page
    assert page.count('class="la-chart"') == 1


def test_page_marks_the_findings(tmp_path: Path) -> None:
    """Each curve has a mark at the finding's step, with its text behind it."""
    page = report(finding_event(tmp_path)).to_html()

    (mark,) = re.findall(r'<g class="la-mark la-critical"><title>(.*?)</title><line x1="([\d.]+)"', page)
    assert mark[0] == "NON-FINITE, step 3: the loss became NaN."
    assert float(mark[1]) == pytest.approx(64 + (860 - 64 - 14) * 3 / 9, abs=0.06)


def test_thinned_curve_keeps_its_spikes() -> None:
    """100,000 points become a few hundred, the single highest and lowest among them."""
    values = np.random.default_rng(0).standard_normal(100_000)
    values[[777, 50_001]] = 1e6, -1e6
    kept = thin(values, 700)

    assert len(kept) <= 702
    assert {0, 777, 50_001, 99_999} <= set(kept.tolist())


def test_output_goes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--output makes the folder, and standard output stays empty for pipes."""
    place = tmp_path / "new/report.html"

    assert main(["doctor", str(finding_event(tmp_path / "run")), "--format", "html", "--output", str(place)]) == 1
    assert place.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert capsys.readouterr().out == ""


def test_output_that_cannot_be_written_exits_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file where a folder should be."""
    (tmp_path / "file").write_text("")
    status = main(["doctor", str(finding_event(tmp_path / "run")), "--output", str(tmp_path / "file/report.txt")])

    assert status == 2
    assert "--output" in capsys.readouterr().err


def test_colour_is_for_terminals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No escape codes in a pipe, and some where rich is told that it is a terminal."""
    finding_event(tmp_path)
    main(["doctor", str(tmp_path)])
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")
    main(["doctor", str(tmp_path)])
    assert "\x1b" in capsys.readouterr().out


def test_report_reads_as_text_and_as_a_page(tmp_path: Path) -> None:
    """In a console and in a notebook: message, evidence and remedy are there."""
    found = report(finding_event(tmp_path))

    for shown in (repr(found), found._repr_html_(), found.to_markdown()):
        for part in ("NON-FINITE", "the loss became NaN.", "Look at the batch.", "loss nan"):
            assert part in shown


def test_findings_as_a_data_frame(tmp_path: Path) -> None:
    """One row per finding, with its run."""
    pytest.importorskip("pandas")
    frame = report(finding_event(tmp_path / "run")).to_dataframe()

    assert frame[["run", "rule", "step"]].values.tolist() == [["run", "NON-FINITE", 3]]
    assert report(event_run(tmp_path / "calm", falling())).to_dataframe().empty


def test_data_frame_without_pandas_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clear error, and where the findings are without it."""
    monkeypatch.setitem(sys.modules, "pandas", None)

    with pytest.raises(ImportError, match="pip install pandas"):
        report(event_run(tmp_path, falling())).to_dataframe()


def test_each_finding_of_the_page_links_to_what_its_code_means(tmp_path: Path) -> None:
    page = report(finding_event(tmp_path)).to_html()
    links = set(re.findall(r'href="#(la-about-[A-Z0-9-]+)"', page))
    assert links and all(f'id="{link}"' in page for link in links)
    assert "<h2>What to do, in order</h2>" in page

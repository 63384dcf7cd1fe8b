"""The report as a page of its own: style and charts are inside, and no script."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from lightning_adam.diagnosis import Finding
from lightning_adam.doctor.judgement import RunReport
from lightning_adam.doctor.live import plural
from lightning_adam.doctor.plots import charts, escaped
from lightning_adam.doctor.wording import code, evidence_text, extent, gap_texts, headline, leading, loss_course, span, state
from lightning_adam.explain import codes, explanation

if TYPE_CHECKING:
    from lightning_adam.doctor.reporting import Report

LIGHT = (
    "--ink:#1b1f24;--soft:#59636e;--line:#d9dee3;--paper:#fff;--card:#f6f8fa;--curve:#0969da;--band:#0969da2e;"
    "--critical:#c4161c;--warning:#9a6700;--info:#0a6c74;--good:#1a7f37"
)
DARK = (
    "--ink:#e6edf3;--soft:#9aa4ae;--line:#343b43;--paper:#0d1117;--card:#161b22;--curve:#58a6ff;--band:#58a6ff38;"
    "--critical:#ff7b72;--warning:#e3b341;--info:#56d4dd;--good:#56d364"
)
NOTEBOOKS = {
    LIGHT: ("[data-jp-theme-light=true]", ".vscode-light", "html[theme=light]"),
    DARK: ("[data-jp-theme-light=false]", ".vscode-dark", "html[theme=dark]"),
}
"""How JupyterLab, VS Code and Colab say their theme, which need not be the system's."""
THEMES = "\n".join(
    f"{','.join(f'{theme} .la-report' for theme in themes)}{{{colours}}}" for colours, themes in NOTEBOOKS.items()
)

STYLE = (
    f"""
.la-report{{{LIGHT}}}
@media(prefers-color-scheme:dark){{.la-report{{{DARK}}}}}
{THEMES}"""
    + """
.la-report{color:var(--ink);background:var(--paper);font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:0 auto;
padding:24px}
.la-report tr{background:none!important}
.la-report h1{font-size:20px;margin:0 0 4px;overflow-wrap:anywhere}
.la-report h2{font-size:17px;margin:36px 0 4px;padding-top:16px;border-top:1px solid var(--line);overflow-wrap:anywhere}
.la-report p{margin:4px 0}.la-report a{color:inherit!important}
.la-soft{color:var(--soft);font-size:13px;overflow-wrap:anywhere}
.la-report table{border-collapse:collapse;width:100%;margin:16px 0 0;color:inherit}
.la-report th,.la-report td{text-align:left!important;padding:5px 12px 5px 0;border-bottom:1px solid var(--line);
vertical-align:top;overflow-wrap:anywhere;background:none;font-size:14px}
.la-report th{color:var(--soft);font-weight:500}
.la-finding{background:var(--card);border-left:4px solid var(--edge);border-radius:4px;padding:10px 14px;margin:12px 0;
overflow-wrap:anywhere}
.la-finding b{color:var(--edge)}.la-remedy{font-weight:600}
.la-report code{font:13px ui-monospace,monospace;background:none;color:inherit}
.la-critical{--edge:var(--critical)}.la-warning{--edge:var(--warning)}.la-info{--edge:var(--info)}.la-good{--edge:var(--good)}.la-open{--edge:var(--ink)}
.la-state{color:var(--edge);font-weight:600}
.la-chart{width:100%;height:auto;display:block;margin-top:10px;overflow:visible}
.la-chart text{font:11px system-ui,sans-serif;fill:var(--soft)}.la-chart .la-title{font-size:12.5px;fill:var(--ink)}
.la-chart .la-aside{font-size:11px;fill:var(--soft)}
.la-chart .la-tick{paint-order:stroke;stroke:var(--paper);stroke-width:3px}
.la-grid{stroke:var(--line)}.la-limit{stroke:var(--good);stroke-dasharray:2 4}
.la-line{fill:none;stroke:var(--curve);stroke-width:1.5;stroke-linejoin:round}
.la-dot{fill:var(--curve)}.la-band{fill:var(--band)}.la-chart .la-nan{fill:var(--critical);font-size:14px;font-weight:700}
.la-chart .la-code{fill:var(--edge);font-weight:600;paint-order:stroke;stroke:var(--paper);stroke-width:4px}
.la-mark line{stroke:var(--edge);stroke-width:1.5;stroke-dasharray:4 3}.la-mark circle{fill:var(--edge)}
.la-mark rect{fill:var(--edge);opacity:.08}
.la-mark:hover line{stroke-width:3;stroke-dasharray:none}
.la-about summary{cursor:pointer;padding:6px 0}.la-about div h2{font-size:15px;margin:14px 0 2px;padding:0;border:0}
.la-about details{border-bottom:1px solid var(--line)}.la-about figure{margin:8px 0}.la-about pre{overflow-x:auto}
.la-about [id]{scroll-margin-top:56px}
"""
)

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>body{{margin:0;background:#fff}}@media(prefers-color-scheme:dark){{body{{background:#0d1117}}}}</style>
</head>
<body>
{body}
</body>
</html>
"""


def as_page(report: Report) -> str:
    """A whole document."""
    return PAGE.format(title=escaped(f"{report.logdir}: {headline(report)}"), body=as_fragment(report))


def as_fragment(report: Report) -> str:
    """What goes into a page or a notebook's cell."""
    parts = [
        f"<style>{STYLE}</style>",
        '<div class="la-report">',
        f"<h1>{escaped(headline(report))}</h1>",
        f'<p class="la-soft">{escaped(report.logdir)} · lightning-adam doctor</p>',
        _overview(report) if len(report.runs) > 1 else "",
        *(_run(run) for run in report.runs),
        _explained(report),
        "</div>",
    ]
    return "\n".join(parts)


def _overview(report: Report) -> str:
    rows = []
    for run in report.runs:
        cells = (extent(run), loss_course(run), leading(run))
        told = "".join(f"<td>{escaped(cell)}</td>" for cell in cells)
        name = f'<td><a href="#{_anchor(run)}">{escaped(run.name)}</a></td>'
        rows.append(f"<tr>{name}<td>{_state(run)}</td>{told}</tr>")
    head = "".join(f"<th>{column}</th>" for column in ("run", "state", "steps", "loss", "gravest finding"))
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _anchor(run: RunReport) -> str:
    """The same run twice in a notebook is the same place, two runs never are."""
    return f"la-{zlib.crc32(f'{run.path} {run.name}'.encode(errors='replace')):08x}"


def _state(run: RunReport) -> str:
    return f'<span class="la-state la-{run.worst or ("open" if run.gaps else "good")}">{escaped(state(run))}</span>'


def _run(run: RunReport) -> str:
    parts = [
        f'<section id="{_anchor(run)}"><h2>{escaped(run.name)}</h2>',
        f'<p>{_state(run)} <span class="la-soft">judged by {escaped(run.basis)}</span></p>',
        *(_finding(finding) for finding in run.findings),
        *(f'<p class="la-soft">Note: {escaped(note)}</p>' for note in run.notes),
        *charts(run.curves, run.findings, run.steps),
        _gaps(run),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _finding(finding: Finding) -> str:
    evidence = escaped(evidence_text(finding.evidence))
    names = escaped(", ".join(finding.parameters[:8]) + (" …" if len(finding.parameters) > 8 else ""))
    whose = f" · {escaped(finding.optimizer)}" if finding.optimizer else ""
    return (
        f'<div class="la-finding la-{escaped(finding.severity)}">'
        f"<p>{_link_to_explanation(finding.rule)} {span(finding)} · {escaped(finding.severity)}{whose}</p>"
        f"<p>{escaped(finding.message)}</p>"
        f'<p class="la-remedy">→ {escaped(finding.remedy)}</p>{_code(finding)}'
        f'<p class="la-soft">{evidence}{f" · {names}" if names else ""}</p></div>'
    )


def _link_to_explanation(rule: str) -> str:
    """The code, linked to its explanation below; a log may hold one that this version does not know."""
    told = f"<b>{escaped(rule)}</b>"
    return f'<a href="#la-about-{rule}">{told}</a>' if rule in codes() else told


def _explained(report: Report) -> str:
    """What ``lightning-adam explain`` says of each code that was found, folded; a link to it unfolds it."""
    found = sorted({finding.rule for _, finding in report.findings} & {*codes()})
    if not found:
        return ""
    return f'<section class="la-about"><h2>What the codes mean</h2>{"".join(map(_about, found))}</section>'


def _about(rule: str) -> str:
    told = explanation(rule)
    summary = f"<summary><b>{rule}</b> {escaped(told.says)}</summary>"
    return f'<details>{summary}<div id="la-about-{rule}">{told.as_html()}</div></details>'


def _code(finding: Finding) -> str:
    return f"<p><code>la.configure_optimizers(…, {escaped(code(finding))})</code></p>" if finding.changes else ""


def _gaps(run: RunReport) -> str:
    if not run.gaps:
        return ""
    items = "".join(f"<li>{escaped(text)}</li>" for text in gap_texts(run))
    count = plural(sum(len(gap.rules) for gap in run.gaps), "rule")
    return (
        f'<details class="la-soft"><summary>{count} could not be judged for lack of data</summary><ul>{items}</ul></details>'
    )

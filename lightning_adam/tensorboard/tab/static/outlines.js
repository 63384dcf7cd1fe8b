// Findings drawn into a heatmap: hatched over the tensors that they concern, from the step where each was seen first to the
// last, over the cells that heatmap.js colours for them.

import {rowsOf} from './marks.js';

const LEAST = 5; // pixels: a finding of one step is still seen
const LABEL = 15;
const HATCH = 9; // pixels between two lines

/** rows: {node, isOpen} as shown; place: {offset, height, names}. */
export function outlines(panel, findings, rows, place) {
  const {g} = panel;
  g.save();
  let lane = 0;
  for (const finding of findings) {
    if (finding.severity === 'info') continue;
    const [from, to] = span(panel, finding);
    if (to < 0 || from > panel.width) continue;
    const stretches = concerned(finding, rows, place.names);
    for (const [first, last] of stretches)
      outline(panel, finding, [from, place.offset + first * place.height, to - from, (last - first) * place.height]);
    if (stretches.length) label(panel, finding, from, place.offset + stretches[0][0] * place.height + lane++ * LABEL);
  }
  g.restore();
}

function span(panel, finding) {
  const from = panel.x(finding.step - 0.5),
    to = panel.x(finding.last_step + 0.5);
  return to - from < LEAST ? [(from + to - LEAST) / 2, (from + to + LEAST) / 2] : [from, to];
}

/** Stretches [first, last) of shown rows. */
function concerned(finding, rows, names) {
  const wanted = rowsOf(finding, names);
  if (!wanted) return [[0, rows.length]];
  const flags = rows.map(({node, isOpen}) => !isOpen && (node.rows ?? [node.row]).some((row) => wanted.has(row)));
  const stretches = [];
  flags.forEach((yes, i) => {
    if (yes && stretches.at(-1)?.[1] === i) stretches.at(-1)[1] = i + 1;
    else if (yes) stretches.push([i, i + 1]);
  });
  return stretches;
}

function outline(panel, finding, [x, y, width, height]) {
  const {g} = panel;
  g.strokeStyle = panel.colour(finding.severity);
  hatch(g, Math.max(0, x), y, Math.min(width, panel.width), height);
  g.lineWidth = 2;
  g.strokeRect(x + 1, y + 1, Math.max(1, width - 2), height - 2);
}

function hatch(g, x, y, width, height) {
  g.save();
  g.beginPath();
  g.rect(x, y, width, height);
  g.clip();
  g.beginPath();
  for (let at = Math.floor((x - height) / HATCH) * HATCH; at < x + width; at += HATCH) {
    g.moveTo(at, y + height);
    g.lineTo(at + height, y);
  }
  g.lineWidth = 1;
  g.globalAlpha = 0.55;
  g.stroke();
  g.restore();
}

function label(panel, finding, x, y) {
  const {g} = panel;
  g.font = '600 12px Roboto, system-ui, Arial, sans-serif';
  const width = g.measureText(finding.rule).width + 8,
    left = Math.max(0, Math.min(x, panel.width - width)),
    top = Math.max(0, Math.min(y, panel.plotHeight - LABEL));
  g.fillStyle = panel.colour(finding.severity);
  g.fillRect(left, top, width, LABEL);
  g.fillStyle = panel.colour('card');
  g.textAlign = 'left';
  g.textBaseline = 'middle';
  g.fillText(finding.rule, left + 4, top + LABEL / 2 + 0.5);
}

// Tensors × steps of one quantity. Only the visible rows are drawn, so that a thousand tensors scroll smoothly.

import {el, hideTip, showTip} from './dom.js';
import {keptRows, visibleRows} from './modules.js';
import {format} from './numbers.js';
import {Panel} from './panel.js';
import {RowLabels} from './rowlabels.js';
import {markedColumns, marks, rulesAt} from './marks.js';
import {outlines} from './outlines.js';
import {quantity} from './quantities.js';
import {neverNumbers} from './scale.js';

const ROW = {least: 15, most: 20};
const AXIS = 20;

/** From where to where on the step axis a column reaches: half-way to its neighbours. */
export function edges({first, last}, c) {
  const n = first.length;
  const inner = (i) => first[i + 1] - last[i];
  const gap = (i) => (n < 2 ? 1 : inner(Math.min(Math.max(i, 0), n - 2)));
  return [first[c] - gap(c - 1) / 2, last[c] + gap(c) / 2];
}

/** Which tensors are folded away: shared by the heatmaps of two runs. */
export class Folding {
  constructor() {
    Object.assign(this, {open: new Set(), kept: null, tree: {children: []}, names: [], listeners: []});
  }

  changed() {
    for (const callback of this.listeners) callback();
  }

  toggle(path) {
    if (!this.open.delete(path)) this.open.add(path);
    this.changed();
  }
}

/** The column that a step lies in; none is -1. The last step of all belongs to the last column. */
function columnOf(matrix, step) {
  const end = matrix.first.length - 1;
  return matrix.first.findIndex((_, c) => {
    const [before, after] = edges(matrix, c);
    return step >= before && (step < after || (c === end && step === after));
  });
}

export class Heatmap {
  /** options: title, tallest (pixels), pick(row, step), chosen() (the picked row), findings(), watched(). */
  constructor(view, folding, options) {
    Object.assign(this, {view, folding, options, rows: [], matrix: null, scale: null, marks: []});
    Object.assign(this, {aggregates: new Map(), marked: new Map()});
    this.panel = new Panel(view, {
      height: 60,
      axis: true,
      label: `${options.title}: tensors by steps`,
      paint: () => this.#paint(),
      hover: (step, y, event) => this.#hover(step, y, event),
      read: (step) => this.#read(step),
      click: (step, y) => this.#click(step, y),
    });
    this.labels = new RowLabels({
      pick: (row) => options.pick(row, null),
      fold: (path) => folding.toggle(path),
      scroll: (by) => {
        this.scroller.scrollTop += by * this.height;
      },
    });
    this.spacer = el('div', {className: 'heat-spacer'});
    this.sticky = el('div', {className: 'heat-sticky'}, this.labels.element, this.panel.element);
    this.scroller = el(
      'div',
      {
        className: 'heat-scroll',
        onscroll: () => {
          hideTip();
          this.panel.draw();
          options.scrolled?.(this);
        },
      },
      this.sticky,
      this.spacer,
    );
    this.caption = el('div', {className: 'heat-caption'});
    this.element = el('div', {className: 'heat'}, this.caption, this.scroller);
    this.buffer = document.createElement('canvas');
    folding.listeners.push(() => this.layout());
  }

  /** matrix: see api.js; scale: a ColourScale. */
  set(matrix, scale, caption = '') {
    Object.assign(this, {matrix, scale});
    this.caption.textContent = caption;
    this.caption.hidden = !caption;
    this.#forget();
    this.never = neverNumbers(matrix);
    const spans = matrix.first.map((_, c) => edges(matrix, c));
    this.marks = marks(spans, this.options.findings(), this.folding.names);
    this.minded = this.options.watched() ? markedColumns(this.marks, spans.length) : spans.map(() => 1);
    this.layout();
  }

  /** All columns of a tensor in a plane: values, excess or worst. */
  plane(name, row) {
    return this.matrix[name]?.subarray(row * this.matrix.columns, (row + 1) * this.matrix.columns) ?? null;
  }

  layout() {
    const {folding} = this;
    this.#forget();
    this.rows = visibleRows(folding.tree, folding.open, folding.kept);
    this.height = Math.max(ROW.least, Math.min(ROW.most, Math.floor(this.options.tallest / Math.max(1, this.rows.length))));
    const total = this.height * this.rows.length,
      shown = Math.max(this.height, Math.min(total, this.options.tallest));
    this.panel.setHeight(shown);
    this.scroller.style.height = this.sticky.style.height = `${shown + AXIS}px`;
    this.labels.element.style.height = `${shown}px`;
    this.spacer.style.height = `${total - shown}px`;
    this.panel.draw();
  }

  #forget() {
    this.aggregates.clear();
    this.marked.clear();
  }

  /** A folded module shows, per column, its tensor that is farthest from healthy: {values, excess, worst, who}. */
  #aggregate(node) {
    if (node.row !== undefined) {
      const [values, excess, worst] = ['values', 'excess', 'worst'].map((name) => this.plane(name, node.row));
      return {values, excess, worst, who: null};
    }
    if (!this.aggregates.has(node.path)) this.aggregates.set(node.path, this.#worst(keptRows(node, this.folding.kept)));
    return this.aggregates.get(node.path);
  }

  #worst(rows) {
    const {columns} = this.matrix,
      values = new Float32Array(columns).fill(NaN),
      excess = new Float32Array(columns),
      worst = new Float32Array(columns),
      who = new Int32Array(columns).fill(-1);
    const badness = new Float64Array(columns).fill(-Infinity);
    for (const row of rows) {
      if (this.never.has(row)) continue;
      const [one, far, which] = ['values', 'excess', 'worst'].map((name) => this.plane(name, row));
      for (let c = 0; c < columns; c++) {
        const bad = this.scale.badness(one[c], far?.[c]);
        if (who[c] < 0 || bad > badness[c]) {
          badness[c] = bad;
          values[c] = one[c];
          excess[c] = far?.[c] ?? 0;
          worst[c] = which?.[c] ?? 0;
          who[c] = row;
        }
      }
    }
    return {values, excess, worst, who};
  }

  /** Of each column, whether a finding there concerns the tensor, or one of a folded module's. */
  #marked(node) {
    if (!this.marked.has(node.path))
      this.marked.set(node.path, markedColumns(this.marks, this.matrix.columns, keptRows(node, this.folding.kept)));
    return this.marked.get(node.path);
  }

  /** The column under every pixel, -1 where none is: a cell reaches half-way to its neighbours. */
  #columns(width) {
    const columns = new Int32Array(width).fill(-1);
    for (let c = 0; c < this.matrix.first.length; c++) {
      const [before, after] = edges(this.matrix, c);
      const from = Math.max(0, Math.round(this.panel.x(before))),
        to = Math.min(width, Math.max(from + 1, Math.round(this.panel.x(after))));
      for (let x = from; x < to; x++) columns[x] = c;
    }
    return columns;
  }

  #paint() {
    const {panel, matrix, scale, labels} = this,
      {g, width, plotHeight} = panel;
    g.fillStyle = panel.colour('plot');
    g.fillRect(0, 0, width, plotHeight);
    if (!matrix || !scale || !this.rows.length) return this.#nothing();
    const top = this.scroller.scrollTop,
      first = Math.floor(top / this.height),
      offset = first * this.height - top;
    const shown = this.rows.slice(first, first + Math.ceil(plotHeight / this.height) + 1);
    labels.show(shown, this.height, offset, this.folding.open, this.options.chosen());
    this.#image(shown, width);
    panel.clip(() => {
      g.imageSmoothingEnabled = false;
      g.drawImage(this.buffer, 0, offset, width, shown.length * this.height);
      g.fillStyle = panel.colour('plot');
      if (this.height >= 9)
        for (let i = 1; i < shown.length; i++) g.fillRect(0, Math.round(offset + i * this.height), width, 1);
      this.#frame(shown, offset, width);
      const rows = shown.map(({node}) => ({node, isOpen: node.row === undefined && this.folding.open.has(node.path)}));
      outlines(panel, this.options.findings(), rows, {offset, height: this.height, names: this.folding.names});
    });
  }

  #image(shown, width) {
    const {buffer, scale} = this,
      columns = this.#columns(width);
    buffer.width = width;
    buffer.height = shown.length;
    const context = buffer.getContext('2d'),
      image = context.createImageData(width, shown.length),
      pixels = new Uint32Array(image.data.buffer);
    shown.forEach(({node}, r) => {
      if (node.row === undefined && this.folding.open.has(node.path)) return;
      const never = !scale.judged && keptRows(node, this.folding.kept).every((row) => this.never.has(row));
      const {values, excess} = this.#aggregate(node);
      const marked = this.#marked(node);
      const colours = Uint32Array.from(values, (v, c) =>
        never ? scale.specialPixels.never : scale.pixel(v, excess?.[c] ?? 0, this.minded[c], marked[c]),
      );
      for (let x = 0; x < width; x++) if (columns[x] >= 0) pixels[r * width + x] = colours[columns[x]];
    });
    context.putImageData(image, 0, 0);
  }

  #frame(shown, offset, width) {
    const {panel} = this,
      at = shown.findIndex(({node}) => node.row !== undefined && node.row === this.options.chosen());
    if (at < 0) return;
    panel.g.strokeStyle = panel.colour('text');
    panel.g.lineWidth = 1.5;
    panel.g.strokeRect(0.75, offset + at * this.height + 0.75, width - 1.5, this.height - 0.5);
  }

  #nothing() {
    const {panel} = this;
    this.labels.show([], this.height, 0, this.folding.open, null);
    panel.g.fillStyle = panel.colour('muted');
    panel.g.textAlign = 'center';
    panel.g.textBaseline = 'middle';
    panel.g.fillText(this.matrix ? 'no tensor matches the filter' : 'loading …', panel.width / 2, panel.plotHeight / 2);
  }

  #at(step, y) {
    const {matrix} = this,
      entry = this.rows[Math.floor((y + this.scroller.scrollTop) / this.height)];
    if (!matrix || !entry || y < 0 || y > this.panel.plotHeight) return null;
    return {node: entry.node, column: columnOf(matrix, step)};
  }

  #hover(step, y, event) {
    const at = this.#at(step, y);
    if (at) showTip(this.#lines(at), event.clientX, event.clientY);
    else hideTip();
  }

  /** The picked tensor's cell, for who does not see it. */
  #read(step) {
    const picked = this.rows.find(({node}) => node.row === this.options.chosen());
    return picked && this.matrix ? this.#lines({node: picked.node, column: columnOf(this.matrix, step)}).join(', ') : '';
  }

  #lines({node, column}) {
    if (column < 0) return [node.path, 'not logged at this step'];
    const {first, last} = this.matrix,
      {values, excess, worst, who} = this.#aggregate(node);
    const when =
      first[column] === last[column] ? `step ${first[column]}` : `steps ${first[column]} to ${last[column]}, the worst`;
    const never = this.never.has(node.row) && !(excess?.[column] !== excess?.[column]);
    const value = never ? 'NaN at every step: not measured, or never finite' : this.#text(values[column]);
    const lines = [`${value}   ${when}`, node.path, ...this.#judgement(worst?.[column], excess?.[column], this.minded[column])];
    const rules = rulesAt(this.marks, column, keptRows(node, this.folding.kept));
    if (rules.length) lines.push(`concerned: ${rules.join(', ')}`);
    if (who)
      lines.push(`farthest from healthy of ${node.rows.length}: ${this.folding.names[who[column]] ?? 'none measured'}`);
    return lines;
  }

  /** What a cell is compared with, where it is judged. */
  #judgement(worst, excess, minded) {
    const {bands} = this.matrix,
      name = worst === undefined ? this.scale.spec.name : Object.keys(bands)[worst],
      band = bands?.[name];
    if (!this.scale.judged || !band) return [];
    const label = quantity(name).label;
    if (excess !== excess) return [`${label}: not finite`];
    if (excess === 0) return [worst === undefined ? 'within its limits, or not judged' : 'within all limits, or not judged'];
    const [side, limit] = excess > 0 ? ['over', band.high] : ['under', band.low];
    const harm = minded ? [] : ['no finding at this step says that it does harm'];
    return [`${label}: ${side} the limit of ${format(limit)} (${band[side].join(', ')})`, ...harm];
  }

  #text(value) {
    return this.scale.spec.decades && Number.isFinite(value) ? `×${format(10 ** value, 4)}` : format(value, 4);
  }

  #click(step, y) {
    if (y === null) return;
    const at = this.#at(step, y);
    if (!at) return;
    const logged = at.column < 0 ? Math.round(step) : this.matrix.last[at.column];
    if (at.node.row === undefined) this.folding.toggle(at.node.path);
    else this.options.pick(at.node.row, logged);
  }
}

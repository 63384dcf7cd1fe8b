// The histogram of one tensor's elements at one step, all tensors' outline behind it, the tensor's own numbers and the rules' limits on it.

import {el, perFrame} from './dom.js';
import {format} from './numbers.js';

const HEIGHT = 168,
  BOTTOM = 18,
  TOP = 36, // two rows of labels
  LIMIT_LABELS = 10,
  MARK_LABELS = 26,
  SIDE = 8;

export class Histogram {
  constructor(title) {
    this.name = title;
    this.canvas = el('canvas', {className: 'histogram', role: 'img', 'aria-label': title});
    this.title = el('div', {className: 'strip-title', textContent: title});
    this.note = el('div', {className: 'muted small-text'});
    this.element = el('div', {className: 'histogram-box'}, this.title, this.note, this.canvas);
    new ResizeObserver(perFrame(() => this.draw())).observe(this.element);
  }

  /**
   * own, all: {step, bins: [low, high, count]} of log10 values, of the tensor and of all of them together; own also has limits:
   * {value, code}, between which the rules find nothing in the rms of steps, or in the mean of rates. marks: {label: value} of
   * the tensor. In plain units both.
   */
  set(own, all, marks, colour) {
    Object.assign(this, {own: used(own.bins ?? []), all: used(all.bins), limits: own.limits ?? [], colour});
    this.marks = Object.entries(marks).filter(([, value]) => value > 0 && Number.isFinite(value));
    this.note.textContent = this.#note(own, all);
    this.canvas.setAttribute('aria-label', `${this.name}: ${this.#words()}`);
    this.draw();
  }

  #note(own, all) {
    if (own.step === null && all.step === null) return 'not written by this run';
    if (own.step === null) return `all tensors together, step ${all.step}; this run has no histograms of single tensors`;
    if (!this.own.length) return `step ${own.step}: no finite values of this tensor`;
    const counted = `step ${own.step}: ${total(this.own).toLocaleString('en')} elements of this tensor; line: all tensors`;
    const of = this.limits.some(({code}) => code === 'EPS-HIGH') ? 'mean' : 'rms';
    return this.limits.length ? `${counted}; dashed: limits of the ${of}` : counted;
  }

  #words() {
    const limits = this.limits.map(({value, code}) => `${code} beyond ${format(value)}`);
    return [...this.marks.map(([label, value]) => `${label} ${format(value)}`), ...limits].join(', ') || 'no values';
  }

  draw() {
    const width = this.element.clientWidth,
      ratio = devicePixelRatio || 1;
    if (!width || !this.own) return;
    this.canvas.width = width * ratio;
    this.canvas.height = HEIGHT * ratio;
    const g = this.canvas.getContext('2d');
    g.scale(ratio, ratio);
    g.font = '12px Roboto, system-ui, Arial, sans-serif';
    const shown = this.own.length ? this.own : this.all;
    if (!shown.length) return this.#nothing(g, width);
    const [low, high] = this.#range(shown);
    const x = (value) => SIDE + ((value - low) / (high - low)) * (width - 2 * SIDE);
    this.#bars(g, shown, x);
    if (shown !== this.all) this.#outline(g, x);
    this.#axis(g, low, high, x, width);
    this.#verticals(g, x, width);
  }

  /** Whole decades with everything in them but the outer bins of all tensors, which hold whatever lies beyond. */
  #range(shown) {
    const lines = [...this.marks.map(([, value]) => value), ...this.limits.map(({value}) => value)].filter((value) => value > 0);
    const ends = lines.map(Math.log10);
    const low = Math.floor(Math.min(shown[0][0], ...ends)),
      high = Math.ceil(Math.max(shown.at(-1)[1], ...ends));
    return [low, Math.max(high, low + 1)];
  }

  #colour(name) {
    return getComputedStyle(document.body).getPropertyValue(`--${name}`).trim();
  }

  #nothing(g, width) {
    g.fillStyle = this.#colour('muted');
    g.textAlign = 'center';
    g.fillText('no finite values at this step', width / 2, HEIGHT / 2);
  }

  #bars(g, bins, x) {
    g.fillStyle = this.#colour('bar');
    for (const [low, high, height] of heights(bins))
      g.fillRect(x(low) + 0.5, HEIGHT - BOTTOM - height, Math.max(1, x(high) - x(low) - 1), height);
  }

  #outline(g, x) {
    g.strokeStyle = this.#colour('muted');
    g.lineWidth = 1;
    g.save();
    g.beginPath();
    g.rect(SIDE, 0, this.element.clientWidth - 2 * SIDE, HEIGHT - BOTTOM);
    g.clip();
    g.beginPath();
    for (const [low, high, height] of heights(this.all)) {
      g.lineTo(x(low), HEIGHT - BOTTOM - height);
      g.lineTo(x(high), HEIGHT - BOTTOM - height);
    }
    g.stroke();
    g.restore();
  }

  #axis(g, low, high, x, width) {
    g.fillStyle = this.#colour('muted');
    g.fillRect(SIDE, HEIGHT - BOTTOM, width - 2 * SIDE, 1);
    g.textBaseline = 'top';
    g.textAlign = 'center';
    const every = Math.ceil((high - low) / Math.max(1, width / 50));
    for (let decade = low; decade <= high; decade += every)
      g.fillText(`1e${decade}`, inside(g, `1e${decade}`, x(decade), width), HEIGHT - BOTTOM + 4);
  }

  #verticals(g, x, width) {
    const at = (value) => x(Math.log10(value));
    g.textBaseline = 'alphabetic';
    g.setLineDash([4, 3]);
    this.#lines(g, this.limits.map(({value, code}) => [code, at(value)]), 'critical', LIMIT_LABELS, width);
    g.setLineDash([]);
    this.#lines(g, this.marks.map(([label, value]) => [label, at(value)]), this.colour, MARK_LABELS, width);
  }

  /** Each with its label above it; a label that has no room beside the one before moves to the right. */
  #lines(g, lines, colour, top, width) {
    g.strokeStyle = this.#colour(colour);
    g.lineWidth = 1.5;
    let free = 0;
    for (const [label, at] of [...lines].sort((a, b) => a[1] - b[1])) {
      g.beginPath();
      g.moveTo(at, top + 3);
      g.lineTo(at, HEIGHT - BOTTOM);
      g.stroke();
      const half = g.measureText(label).width / 2,
        middle = inside(g, label, Math.max(at, free + half), width);
      g.fillStyle = this.#colour('card'); // a line that passes behind a label would make it hard to read
      g.fillRect(middle - half - 1, top - 10, 2 * half + 2, 13);
      g.fillStyle = this.#colour(colour);
      g.fillText(label, middle, top);
      free = middle + half + 6;
    }
  }
}

function used(bins) {
  return bins.filter(([, , count]) => count > 0);
}

function total(bins) {
  return bins.reduce((sum, [, , count]) => sum + count, 0);
}

/** [low, high, pixels], the fullest bin as high as there is room; one of few elements is still to be seen. */
function heights(bins) {
  const most = Math.max(...bins.map(([, , count]) => count));
  return bins.map(([low, high, count]) => [low, high, Math.max(1.5, (count / most) * (HEIGHT - BOTTOM - TOP))]);
}

/** Where a centred text goes so that nothing of it is cut off: x, or as near to that as there is room. */
function inside(g, text, x, width) {
  const half = g.measureText(text).width / 2;
  return Math.min(width - half, Math.max(half, x));
}

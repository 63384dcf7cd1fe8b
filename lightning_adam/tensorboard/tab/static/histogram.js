// The pooled histogram of all elements at one step, with the chosen tensor's own numbers marked on it.

import {el, perFrame} from './dom.js';

const HEIGHT = 130,
  BOTTOM = 18,
  TOP = 20;

export class Histogram {
  constructor(title) {
    this.canvas = el('canvas', {className: 'histogram', role: 'img', 'aria-label': title});
    this.title = el('div', {className: 'strip-title', textContent: title});
    this.note = el('div', {className: 'muted small-text'});
    this.element = el('div', {className: 'histogram-box'}, this.title, this.note, this.canvas);
    new ResizeObserver(perFrame(() => this.draw())).observe(this.element);
  }

  /** answer: {step, bins: [low, high, count]} of log10 values; marks: {label: value} of the tensor, in plain units. */
  set(answer, marks, colour) {
    Object.assign(this, {answer, marks, colour});
    this.note.textContent =
      answer.step === null
        ? 'not written by this run'
        : `all tensors together, step ${answer.step}; outer bars hold what lies beyond; marks are this tensor's`;
    this.draw();
  }

  draw() {
    const width = this.element.clientWidth,
      ratio = devicePixelRatio || 1;
    if (!width || !this.answer) return;
    this.canvas.width = width * ratio;
    this.canvas.height = HEIGHT * ratio;
    const g = this.canvas.getContext('2d');
    g.scale(ratio, ratio);
    g.font = '12px Roboto, system-ui, Arial, sans-serif';
    const used = this.answer.bins.filter((bin) => bin[2] > 0);
    if (!used.length) return this.#nothing(g, width);
    const marked = Object.values(this.marks)
      .filter((v) => v > 0 && Number.isFinite(v))
      .map(Math.log10);
    const low = Math.floor(Math.min(used[0][0], ...marked)),
      high = Math.ceil(Math.max(used.at(-1)[1], ...marked));
    const x = (v) => 8 + ((v - low) / Math.max(1, high - low)) * (width - 16);
    this.#bars(g, used, x);
    this.#axis(g, low, high, x, width);
    this.#marks(g, x);
  }

  #colour(name) {
    return getComputedStyle(document.body).getPropertyValue(`--${name}`).trim();
  }

  #nothing(g, width) {
    if (this.answer.step === null) return;
    g.fillStyle = this.#colour('muted');
    g.textAlign = 'center';
    g.fillText('no finite values at this step', width / 2, HEIGHT / 2);
  }

  #bars(g, used, x) {
    const most = Math.max(...used.map((bin) => bin[2])),
      room = HEIGHT - BOTTOM - TOP;
    g.fillStyle = this.#colour('bar');
    for (const [low, high, count] of used) {
      const height = Math.max(1, (count / most) * room);
      g.fillRect(x(low) + 0.5, HEIGHT - BOTTOM - height, Math.max(1, x(high) - x(low) - 1), height);
    }
  }

  #axis(g, low, high, x, width) {
    g.fillStyle = this.#colour('muted');
    g.fillRect(8, HEIGHT - BOTTOM, width - 16, 1);
    g.textBaseline = 'top';
    g.textAlign = 'center';
    const every = Math.ceil((high - low) / Math.max(1, width / 50));
    for (let decade = low; decade <= high; decade += every) inside(g, `1e${decade}`, x(decade), HEIGHT - BOTTOM + 4, width);
  }

  #marks(g, x) {
    g.fillStyle = g.strokeStyle = this.#colour(this.colour);
    g.lineWidth = 1.5;
    g.textAlign = 'center';
    g.textBaseline = 'alphabetic';
    let last = -Infinity;
    for (const [label, value] of Object.entries(this.marks)) {
      if (!(value > 0 && Number.isFinite(value))) continue;
      const at = x(Math.log10(value));
      g.beginPath();
      g.moveTo(at, TOP - 4);
      g.lineTo(at, HEIGHT - BOTTOM);
      g.stroke();
      if (at - last > 30) {
        inside(g, label, at, TOP - 8, this.element.clientWidth);
        last = at;
      }
    }
  }
}

/** A text centred at x, or as near to that as there is room for it. */
function inside(g, text, x, y, width) {
  const half = g.measureText(text).width / 2;
  g.fillText(text, Math.min(width - half, Math.max(half, x)), y);
}

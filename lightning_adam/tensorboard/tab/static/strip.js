// One chart of the step axis: lines and bands of one quantity, with its name and its values before the plot.

import {el} from './dom.js';
import {format, linearTicks, logTicks, nearest} from './numbers.js';
import {Panel} from './panel.js';

/**
 * A series: {name, steps, values, colour (a CSS variable's name), dash, low, high, faint}; low and high are the values of a band
 * around it; faint is what a resumed run wrote over: drawn, and not read out.
 */
export class Strip {
  constructor(view, {title, note = '', height = 84, log = false, axis = false, control = null}) {
    Object.assign(this, {view, log, series: []});
    this.panel = new Panel(view, {
      height,
      axis,
      label: `${title} over the steps`,
      paint: (panel) => this.#paint(panel),
      read: (step) => this.#values(step).join(', '),
    });
    this.readout = el('div', {className: 'readout'});
    this.title = el('div', {className: 'strip-title', textContent: title});
    const small = note ? el('div', {className: 'muted small-text', textContent: note}) : null;
    this.label = el('div', {className: 'strip-label'}, this.title, control, small, this.readout);
    this.element = el('div', {className: 'strip'}, this.label, this.panel.element);
  }

  /** log: true, false, or 'auto' for a log axis where everything is positive and spans more than a decade. */
  set(series, log = this.log) {
    this.series = series;
    this.asked = log;
    this.panel.draw();
  }

  #visible() {
    const [low, high] = this.view.shown;
    const all = [];
    for (const s of this.series) {
      if (s.faint) continue;
      for (const values of [s.values, s.low, s.high]) {
        if (!values) continue;
        for (let i = 0; i < values.length; i++)
          if (s.steps[i] >= low && s.steps[i] <= high && Number.isFinite(values[i])) all.push(values[i]);
      }
    }
    return all;
  }

  #scale() {
    const visible = this.#visible();
    const positive = visible.filter((v) => v > 0);
    let low = Infinity,
      high = -Infinity;
    for (const v of visible) {
      if (v < low) low = v;
      if (v > high) high = v;
    }
    const log =
      this.asked === 'auto' ? positive.length > 0 && low > 0 && high / low > 10 : Boolean(this.asked) && positive.length > 0;
    if (log) [low, high] = [Math.log10(positive.reduce((a, b) => Math.min(a, b))), Math.log10(high)];
    if (!(high >= low)) [low, high] = [0, 1];
    const pad = (high - low) * 0.08 || Math.abs(high) * 0.1 || 0.5;
    return {low: low - pad, high: high + pad, log, empty: visible.length === 0};
  }

  #paint(panel) {
    const {g, width, plotHeight} = panel;
    const scale = this.#scale();
    const of = (v) => (scale.log ? (v > 0 ? Math.log10(v) : NaN) : v);
    const y = (v) => plotHeight - ((of(v) - scale.low) / (scale.high - scale.low)) * plotHeight;
    g.fillStyle = panel.colour('plot');
    g.fillRect(0, 0, width, plotHeight);
    this.#ticks(panel, scale);
    panel.clip(() => {
      for (const s of this.series) if (s.low) this.#band(panel, s, y);
      for (const s of this.series) this.#line(panel, s, y);
    });
    if (scale.empty) {
      g.fillStyle = panel.colour('muted');
      g.textAlign = 'center';
      g.textBaseline = 'middle';
      g.fillText(this.series.length ? 'no finite values here' : 'not in this run', width / 2, plotHeight / 2);
    }
    this.#read();
  }

  #ticks(panel, scale) {
    const {g, width, plotHeight} = panel,
      count = Math.max(2, plotHeight / 24);
    g.textAlign = 'right';
    g.textBaseline = 'middle';
    let last = Infinity,
      said = '';
    const ticks = scale.empty ? [] : (scale.log ? logTicks : linearTicks)(scale.low, scale.high, count);
    for (const tick of ticks) {
      const at = plotHeight - ((tick - scale.low) / (scale.high - scale.low)) * plotHeight;
      g.fillStyle = panel.colour('grid');
      g.fillRect(0, Math.round(at), width, 1);
      const middle = Math.min(plotHeight - 6, Math.max(7, at)); // nothing of a number is cut off
      const label = format(scale.log ? Number((10 ** tick).toPrecision(6)) : tick);
      if (last - middle < 13 || label === said) continue; // of one step, many ticks round to the same number
      [last, said] = [middle, label];
      g.fillStyle = panel.colour('muted');
      g.fillText(label, -8, middle);
    }
  }

  #line(panel, s, y) {
    const {g} = panel;
    g.strokeStyle = panel.colour(s.colour);
    g.fillStyle = g.strokeStyle;
    g.lineWidth = 1.6;
    g.globalAlpha = s.faint ? 0.35 : 1;
    g.lineJoin = 'round';
    g.setLineDash(s.dash ?? []);
    g.beginPath();
    let drawing = false;
    for (let i = 0; i < s.steps.length; i++) {
      const at = y(s.values[i]);
      if (!Number.isFinite(at)) {
        drawing = false;
        continue;
      }
      const x = panel.x(s.steps[i]);
      const alone = !drawing && !Number.isFinite(y(s.values[i + 1] ?? NaN));
      if (alone) g.rect(x - 1.5, at - 1.5, 3, 3);
      else if (drawing) g.lineTo(x, at);
      else g.moveTo(x, at);
      drawing = !alone;
    }
    g.stroke();
    g.setLineDash([]);
    g.globalAlpha = 1;
    if (!s.faint) this.#nonFinite(panel, s);
  }

  #nonFinite(panel, s) {
    if (!s.values.some(Number.isFinite)) return; // not measured, most likely: the text says it once
    const {g} = panel;
    g.fillStyle = panel.colour('nan');
    g.textAlign = 'center';
    g.textBaseline = 'top';
    let last = -Infinity;
    for (let i = 0; i < s.steps.length; i++) {
      if (Number.isFinite(s.values[i])) continue;
      const x = panel.x(s.steps[i]);
      if (x - last < 9) continue;
      g.fillText('×', x, 1);
      last = x;
    }
  }

  #band(panel, s, y) {
    const {g} = panel;
    g.fillStyle = panel.colour(s.colour);
    g.globalAlpha = 0.2;
    g.beginPath();
    const bottom = (v) => (v === 0 && !Number.isFinite(y(v)) ? panel.plotHeight : y(v)); // log of 0
    const points = [...s.steps.keys()].filter((i) => Number.isFinite(bottom(s.low[i])) && Number.isFinite(y(s.high[i])));
    for (const i of points) g.lineTo(panel.x(s.steps[i]), y(s.high[i]));
    for (const i of points.reverse()) g.lineTo(panel.x(s.steps[i]), bottom(s.low[i]));
    g.fill();
    g.globalAlpha = 1;
  }

  #values(at) {
    const steps = this.series.filter((s) => !s.faint).map((s) => [s, nearest(s.steps, at)]);
    return steps.map(([s, i]) => (i < 0 ? 'none' : format(s.values[i], 4)));
  }

  /** The values under the pointer, else at the chosen step, else the last ones. */
  #read() {
    const at = this.view.cursor ?? this.view.chosen ?? Infinity;
    this.readout.replaceChildren(
      ...this.series.filter((s) => !s.faint).map((s) => {
        const i = nearest(s.steps, at);
        const key = el('span', {className: 'key'});
        key.style.setProperty('--key', `var(--${s.colour})`);
        const value = el('span', {className: 'value', textContent: i < 0 ? 'none' : format(s.values[i], 4)});
        const band =
          s.low && i >= 0 && this.series.length === 1
            ? el('span', {className: 'band', textContent: `${format(s.low[i], 2)} … ${format(s.high[i], 2)}`})
            : null;
        return el('div', {title: i < 0 ? s.name : `${s.name}, step ${s.steps[i]}`}, key, value, band);
      }),
    );
  }
}

// From a value to a colour: the range of a quantity over one or two matrices, and the marks for what is no number.

import {SPECIAL, colourTable, css, pixel} from './colours.js';
import {el} from './dom.js';
import {format, quantiles} from './numbers.js';

const TRIMMED = [0.005, 0.995]; // outliers may saturate, so that the rest keeps its contrast
const MOST_DECADES = 3;

/** Rows without a single number: what this optimizer does not have, or a run that was NaN from the start. */
export function neverNumbers({rows, columns, values}) {
  const all = Array.from({length: columns ? rows : 0}, (_, row) => row);
  return new Set(all.filter((row) => values.subarray(row * columns, (row + 1) * columns).every((v) => v !== v)));
}

export class ColourScale {
  /** spec: see quantities.js; matrices: those that share the scale. */
  constructor(spec, matrices, dark) {
    this.spec = spec;
    this.special = SPECIAL[dark ? 'dark' : 'light'];
    this.table = colourTable(spec.centre !== undefined, dark);
    this.pixels = this.table.map(pixel);
    this.specialPixels = Object.fromEntries(Object.entries(this.special).map(([name, colour]) => [name, pixel(colour)]));
    [this.low, this.high] = this.#range(matrices);
  }

  #range(matrices) {
    const {spec} = this;
    if (spec.high !== undefined) return [spec.low, spec.high];
    const values = matrices
      .flatMap((m) => quantiles(spec.log ? m.values.map(Math.log10) : m.values, TRIMMED))
      .filter(Number.isFinite);
    let [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [-1, 1];
    if (spec.centre !== undefined) {
      const most = spec.log ? MOST_DECADES : Infinity;
      const far = Math.max(spec.atLeast, Math.abs(low - spec.centre), Math.abs(high - spec.centre));
      const reach = Math.min(most, spec.log || spec.decades ? Math.ceil(far * 2) / 2 : far);
      [low, high] = [spec.centre - reach, spec.centre + reach];
    }
    low = spec.low ?? low;
    return high > low ? [low, high] : [low - 0.5, low + 0.5];
  }

  /** The pixel of a value. */
  pixel(value) {
    if (value !== value) return this.specialPixels.nan;
    const at = this.spec.log ? Math.log10(value) : value;
    if (at === -Infinity) return this.specialPixels.zero;
    if (at === Infinity) return this.specialPixels.infinite;
    const share = (at - this.low) / (this.high - this.low);
    return this.pixels[share <= 0 ? 0 : share >= 1 ? 255 : (share * 255 + 0.5) | 0];
  }

  /** A strip of colours with its ends, its healthy middle, and the special colours that occur. */
  legend(matrices) {
    const stops = this.table.filter((_, i) => i % 15 === 0).map(css);
    const bar = el('span', {className: 'legend-bar'});
    bar.style.background = `linear-gradient(90deg, ${stops.join(', ')})`;
    const name = (at) =>
      this.spec.decades
        ? `${at > 0 ? '×' : at < 0 ? '÷' : ''}${format(10 ** Math.abs(at), 2)}`
        : format(this.spec.log ? 10 ** at : at, 2);
    const middle = this.spec.healthy ? el('span', {className: 'legend-middle', textContent: this.spec.healthy}) : null;
    const scale = el('span', {className: 'legend-scale'}, bar, middle);
    return el(
      'span',
      {className: 'legend'},
      el('span', {textContent: name(this.low)}),
      scale,
      el('span', {textContent: name(this.high)}),
      ...this.#swatches(matrices),
    );
  }

  #swatches(matrices) {
    const seen = {nan: false, infinite: false, zero: false, never: false};
    for (const matrix of matrices) {
      const never = neverNumbers(matrix);
      seen.never ||= never.size > 0;
      matrix.values.forEach((value, i) => {
        if (value !== value) seen.nan ||= !never.has(Math.floor(i / matrix.columns));
        else if (value === Infinity) seen.infinite = true;
        else if (value === 0 && this.spec.log) seen.zero = true;
      });
    }
    const texts = {nan: 'NaN', infinite: 'infinite', zero: 'exactly 0', never: 'NaN throughout'};
    return Object.keys(texts)
      .filter((name) => seen[name])
      .map((name) => {
        const swatch = el('span', {className: 'swatch'});
        swatch.style.background = css(this.special[name]);
        return el('span', {className: 'special'}, swatch, texts[name]);
      });
  }

  /** How far a value is from healthy: what a folded module shows of its tensors. Exact zeros count last, NaN first. */
  badness(value) {
    if (value !== value) return Infinity;
    const at = this.spec.log ? Math.log10(value) : value;
    if (at === -Infinity) return -Infinity;
    return this.spec.centre === undefined ? at : Math.abs(at - this.spec.centre);
  }
}

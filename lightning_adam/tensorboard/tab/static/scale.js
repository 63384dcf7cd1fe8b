// From a value to a colour. The scale is fixed: the same colour means the same in every run.

import {SPECIAL, colourTable, css, pixel} from './colours.js';
import {el} from './dom.js';
import {format} from './numbers.js';
import {OVERVIEW} from './quantities.js';

const EDGE = 0.3; // how much of the way to the full colour a cell begins with that is just outside of its limits
const FAINT = 0.25; // of that, where no finding says that it does harm: the rules raise no alarm before the loss agrees either

/** Rows without a single number: what this optimizer does not have, or a run that was NaN from the start. */
export function neverNumbers({rows, columns, values}) {
  const all = Array.from({length: columns ? rows : 0}, (_, row) => row);
  return new Set(all.filter((row) => values.subarray(row * columns, (row + 1) * columns).every((v) => v !== v)));
}

/** Where in a diverging colour table a cell lies that is so far outside of its limits; the middle is pale. */
function place(excess, minded = true) {
  if (excess === 0) return 0.5;
  const strength = (EDGE + (1 - EDGE) * Math.abs(excess)) * (minded ? 1 : FAINT);
  return 0.5 + 0.5 * Math.sign(excess) * strength;
}

export class ColourScale {
  /** spec: see quantities.js; judged: whether the cells come with their excess; bands: see limits.py. */
  constructor(spec, judged, bands, dark) {
    Object.assign(this, {spec, judged, band: bands?.[spec.name] ?? null});
    this.special = SPECIAL[dark ? 'dark' : 'light'];
    this.table = colourTable(judged || spec.centre !== undefined, dark);
    this.pixels = this.table.map(pixel);
    this.specialPixels = Object.fromEntries(Object.entries(this.special).map(([name, colour]) => [name, pixel(colour)]));
  }

  /**
   * The pixel of a cell. minded: whether a finding says that what is outside of its limits at this step does harm; marked: whether
   * one concerns this very tensor: then it is coloured though it is within all limits.
   */
  pixel(value, excess, minded = true, marked = false) {
    if (this.judged) return this.#judgedPixel(value, excess, minded, marked);
    if (value !== value) return this.specialPixels.nan;
    const at = this.spec.log ? Math.log10(value) : value;
    if (at === -Infinity) return this.specialPixels.zero;
    if (at === Infinity) return this.specialPixels.nan;
    return this.#at((at - this.spec.low) / (this.spec.high - this.spec.low));
  }

  #judgedPixel(value, excess, minded, marked) {
    if (excess !== excess) return this.specialPixels.nan;
    if (value !== value && excess === 0) return this.specialPixels.never;
    if (excess === 0 && marked) return this.specialPixels.marked;
    return this.#at(place(excess, minded));
  }

  #at(share) {
    return this.pixels[share <= 0 ? 0 : share >= 1 ? 255 : (share * 255 + 0.5) | 0];
  }

  /** A strip of colours with its ends, its pale middle, and the special colours that occur. */
  legend(matrices) {
    const plain = this.spec.ends ?? [this.spec.low, this.spec.high].map((at) => this.#name(at));
    const [low, high] = this.judged ? this.#limits() : plain;
    const bar = el('span', {className: 'legend-bar'});
    bar.stops = this.#stops();
    bar.style.background = `linear-gradient(90deg, ${bar.stops.map(([at, c]) => `${c} ${at * 100}%`).join(', ')})`;
    const text = this.judged ? 'no finding' : this.spec.healthy;
    const middle = text ? el('span', {className: 'legend-middle', textContent: text}) : null;
    const scale = el('span', {className: 'legend-scale'}, bar, middle);
    const ends = [low, high].map((textContent) => el('span', {textContent}));
    return el('span', {className: 'legend'}, ends[0], scale, ends[1], ...this.#swatches(matrices));
  }

  #stops() {
    const colour = (share) => css(this.table[Math.round(share * 255)]);
    if (!this.judged) return Array.from({length: 18}, (_, i) => [i / 17, colour(i / 17)]);
    const outside = [1, 0.75, 0.5, 0.25, 0.001].map((e, i) => [i * 0.075, e]);
    const below = this.#low() ? outside.map(([at, e]) => [at, colour(place(-e))]) : [];
    const above = outside.map(([at, e]) => [1 - at, colour(place(e))]).reverse();
    return [...below, [this.#low() ? 0.3 : 0, colour(0.5)], [0.7, colour(0.5)], ...above];
  }

  #low() {
    return this.spec.name === OVERVIEW || this.band?.low > 0;
  }

  #limits() {
    if (this.spec.name === OVERVIEW) return ['too small', 'too large'];
    const {low, high, usual} = this.band;
    const name = (limit) => `${usual ? '×' : ''}${format(limit, 2)}`;
    return [low > 0 ? `under ${name(low)}` : '', high === null ? '' : `over ${name(high)}`];
  }

  #name(at) {
    if (this.spec.decades) return `${at > 0 ? '×' : at < 0 ? '÷' : ''}${format(10 ** Math.abs(at), 2)}`;
    return format(this.spec.log ? 10 ** at : at, 2);
  }

  #swatches(matrices) {
    const seen = new Set();
    for (const matrix of matrices) for (const name of this.#specials(matrix)) seen.add(name);
    const texts = {
      nan: 'not finite',
      zero: 'exactly 0',
      never: this.judged ? 'no value' : 'NaN throughout',
    };
    return Object.keys(texts)
      .filter((name) => seen.has(name))
      .map((name) => {
        const swatch = el('span', {className: 'swatch'});
        swatch.style.background = css(this.special[name]);
        return el('span', {className: 'special'}, swatch, texts[name]);
      });
  }

  /** Which special colours a matrix shows. */
  *#specials(matrix) {
    const known = Object.entries(this.specialPixels),
      never = this.judged ? new Set() : neverNumbers(matrix);
    if (never.size) yield 'never';
    for (let i = 0; i < matrix.values.length; i++) {
      if (never.size && never.has(Math.floor(i / matrix.columns))) continue;
      const drawn = this.pixel(matrix.values[i], matrix.excess?.[i] ?? 0);
      for (const [name, of] of known) if (drawn === of) yield name;
    }
  }

  /** How far a cell is from healthy: what a folded module shows of its tensors. Exact zeros count last, NaN first. */
  badness(value, excess) {
    if (this.judged) return excess !== excess ? Infinity : Math.abs(excess);
    if (value !== value) return Infinity;
    const at = this.spec.log ? Math.log10(value) : value;
    return this.spec.centre === undefined ? at : Math.abs(at - this.spec.centre);
  }
}

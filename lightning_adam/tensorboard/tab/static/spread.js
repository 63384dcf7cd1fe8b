// How far the elements of one tensor are spread at the chosen step: a bar per quantity, on one scale of multiples of its middle.

import {el} from './dom.js';
import {format, nearest} from './numbers.js';

const FEWEST = 30; // elements

// Below, in and above the middle: what it is called, and where it is logged.
const QUANTITIES = {
  'Step size |Δθ|': [null, ['rms', 'step_size_rms'], ['largest', 'step_size_max']],
  'Effective learning rate': [['1st percentile', 'effective_lr_p01'], ['median', 'effective_lr_p50'], ['99th', 'effective_lr_p99']],
  'First moment |m̂|': [null, ['rms', 'first_moment_rms'], ['largest', 'first_moment_max']],
  'Second moment √v̂': [['smallest', 'second_moment_min'], ['rms', 'second_moment_rms'], ['largest', 'second_moment_max']],
};

/**
 * What the largest of n values, so many times their rms, says of their tails; nothing of a few values, whose largest is alike in all
 * distributions. Of normal values it is about √(2 ln n), and over √(2 ln 100n) once in 500 samples; of Laplace's about ln(n)/√2.
 */
export function tails(ratio, n) {
  if (!Number.isFinite(ratio) || !(n >= FEWEST)) return '';
  const rarely = Math.sqrt(2 * Math.log(100 * n)),
    laplace = Math.log(n) / Math.SQRT2;
  const kind = ratio <= rarely ? 'no heavy tails' : ratio <= laplace ? 'tails heavier than normal' : 'heavy tails';
  const [usual, heavy] = [Math.sqrt(2 * Math.log(n)), laplace].map((largest) => format(largest, 2));
  return `${kind} (of ${n.toLocaleString('en')} values it is about ${usual} × where they are normal, ${heavy} × where they are Laplace's)`;
}

export class Spread {
  constructor() {
    this.title = el('div', {className: 'strip-title'});
    this.verdict = el('div', {className: 'small-text'});
    this.note = el('div', {
      className: 'muted small-text',
      textContent: 'each bar on one logarithmic scale of multiples of its middle: how far the elements are spread, whatever their unit',
    });
    this.rows = el('div', {className: 'spread-rows', role: 'table', 'aria-label': 'spread of one tensor at the chosen step'});
    this.element = el('div', {className: 'spread'}, this.title, this.verdict, this.note, this.rows);
  }

  /** data: {quantity: [steps, values]} of the tensor; size: its elements, where they are known; run: its name, where there are two. */
  set(data, step, size, run = '') {
    const at = (name) => (data[name] ? data[name][1][nearest(data[name][0], step)] : NaN);
    const steps = data.step_size_rms?.[0] ?? [step];
    this.title.textContent = `All elements of this tensor${run && ` in ${run}`}, step ${steps[nearest(steps, step)]}`;
    const ratio = at('step_size_max') / at('step_size_rms'),
      said = tails(ratio, size);
    this.verdict.textContent = said ? `The largest step is ${format(ratio, 3)} × rms: ${said}` : '';
    const rows = Object.entries(QUANTITIES).map(([title, ends]) => measured(title, ends, at));
    this.#draw(rows.filter((row) => row.middle > 0 && Number.isFinite(row.middle)));
  }

  #draw(rows) {
    const low = Math.min(-1, ...rows.filter((row) => row.low > 0).map((row) => Math.log10(row.low))),
      high = Math.max(1, ...rows.map((row) => Math.log10(row.high)));
    const place = (factor) => `${(100 * (Math.max(low, Math.log10(factor)) - low)) / (high - low)}%`;
    this.rows.replaceChildren(...rows.map((row) => line(row, place)), axis(Math.ceil(low), Math.floor(high), place));
    this.rows.hidden = !rows.length;
  }
}

/** Ends in multiples of the middle; what is not known or not finite ends there, and zero lies beyond the scale. */
function measured(title, ends, at) {
  const [low, middle, high] = ends.map((end) => (end ? at(end[1]) : NaN));
  const factor = (end) => (end >= 0 && Number.isFinite(end / middle) ? end / middle : 1);
  const words = ends.filter(Boolean).map(([name, quantity]) => `${name} ${format(at(quantity), 3)}`);
  return {title, middle, low: Math.min(1, factor(low)), high: Math.max(1, factor(high)), words: words.join(', ')};
}

function line({title, words, low, high}, place) {
  const bar = el('span', {className: 'spread-bar'}),
    middle = el('span', {className: 'spread-middle'});
  bar.style.left = place(low);
  bar.style.right = `calc(100% - ${place(high)})`;
  middle.style.left = place(1);
  return el(
    'div',
    {role: 'row', className: 'spread-row'},
    el('span', {role: 'rowheader', textContent: title}),
    el('span', {role: 'cell', className: 'spread-track', 'aria-hidden': 'true'}, bar, middle),
    el('span', {role: 'cell', className: 'spread-words', textContent: words}),
  );
}

/** Powers of ten below the bars, at most seven. */
function axis(low, high, place) {
  const every = Math.max(1, Math.ceil((high - low) / 6)),
    track = el('span', {className: 'spread-track spread-axis'});
  for (let decade = Math.ceil(low / every) * every; decade <= high; decade += every) {
    const tick = el('span', {textContent: decade ? `×${format(10 ** decade)}` : '1'});
    tick.style.left = place(10 ** decade);
    track.append(tick);
  }
  return el('div', {className: 'spread-row', 'aria-hidden': 'true'}, el('span'), track, el('span'));
}

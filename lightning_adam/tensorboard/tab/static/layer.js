// One tensor over time: fan charts, moments, and at the chosen step how its elements are spread, in numbers and as histograms.

import * as api from './api.js';
import {el, setOptions} from './dom.js';
import {Histogram} from './histogram.js';
import {nearest} from './numbers.js';
import {Spread} from './spread.js';
import {Strip} from './strip.js';

// title; the line; what line and band are; the band's low and high
const CHARTS = [
  ['Effective learning rate', 'effective_lr_p50', 'p50, p01 … p99', 'effective_lr_p01', 'effective_lr_p99'],
  ['Step size |Δθ|', 'step_size_rms', 'rms, up to the largest', 'step_size_rms', 'step_size_max'],
  ['First moment m̂', 'first_moment_rms', 'rms, up to the largest', 'first_moment_rms', 'first_moment_max'],
  ['Second moment √v̂', 'second_moment_rms', 'rms, smallest … largest', 'second_moment_min', 'second_moment_max'],
  ['Update ratio', 'update_ratio', '‖Δθ‖/‖θ‖', null, null],
];
const QUANTITIES = [...new Set(CHARTS.flatMap(([, line, , low, high]) => [line, low, high]).filter(Boolean))];

export class LayerView {
  /** onPick(row): another tensor is wanted. */
  constructor(view, onPick) {
    Object.assign(this, {view, onPick, token: 0, data: [], runs: []});
    this.strips = CHARTS.map(
      ([title, , note], i) => new Strip(view, {title, note, height: 84, log: true, axis: i === CHARTS.length - 1}),
    );
    this.spread = new Spread();
    this.stepSizes = new Histogram('Step size |Δθ| at the chosen step');
    this.rates = new Histogram('Effective learning rate at the chosen step');
    this.element = el(
      'section',
      {className: 'card layer'},
      this.#toolbar(),
      ...this.strips.map((s) => s.element),
      el('div', {className: 'histograms'}, this.stepSizes.element, this.rates.element),
      this.spread.element,
    );
    view.onChange(() => this.#histograms());
  }

  #toolbar() {
    this.select = el('select', {'aria-label': 'tensor', onchange: () => this.onPick(Number(this.select.value))});
    return el(
      'div',
      {className: 'toolbar'},
      el('h2', {textContent: 'One tensor'}),
      this.#neighbour(-1, '‹', 'previous tensor'),
      this.select,
      this.#neighbour(1, '›', 'next tensor'),
      el('span', {className: 'muted', textContent: 'click a row or a step above; arrow keys move the step'}),
    );
  }

  #neighbour(by, textContent, title) {
    const onclick = () => this.onPick(Number(this.select.value) + by);
    return el('button', {type: 'button', textContent, title, 'aria-label': title, onclick});
  }

  /** runs: one or two of {name, colour, dash, optimizer}; row: the tensor's index in the first. */
  async show(runs, row) {
    const token = ++this.token,
      {names} = runs[0].optimizer;
    this.runs = runs;
    if (this.names !== names)
      setOptions(
        this.select,
        names.map((name, i) => [i, name]),
        row,
      );
    this.names = names;
    this.select.value = row;
    const data = await Promise.all(runs.map((run) => this.#read(run, names[row])));
    if (token !== this.token) return;
    this.data = data;
    this.#draw();
    await this.#histograms();
  }

  #read(run, name) {
    const row = run.optimizer.names.indexOf(name);
    return row < 0
      ? {}
      : api.rows(
          run.name,
          run.optimizer.prefix,
          row,
          QUANTITIES.filter((q) => run.optimizer.quantities.includes(q)),
        );
  }

  #draw() {
    CHARTS.forEach(([, line, , low, high], i) => {
      this.strips[i].set(
        this.data.flatMap((data, at) => {
          if (!data[line]) return [];
          const run = this.runs[at];
          const band = low && data[low] && data[high] ? {low: data[low][1], high: data[high][1]} : {};
          return [
            {name: run.name, steps: data[line][0], values: data[line][1], colour: run.colour, dash: run.dash, ...band},
          ];
        }),
      );
    });
  }

  async #histograms() {
    const [run] = this.runs,
      [data] = this.data,
      token = this.token;
    if (!run || !data?.update_ratio) return;
    const steps = data.update_ratio[0],
      step = this.view.chosen ?? steps.at(-1) ?? 0;
    this.spread.set(data, step, run.optimizer.sizes[Number(this.select.value)], this.runs.length > 1 ? run.name : '');
    const at = (q) => (data[q] ? data[q][1][nearest(data[q][0], step)] : NaN);
    const [sizes, rates] = await Promise.all(['step_size', 'effective_lr'].map((quantity) => this.#counted(run, quantity, step)));
    if (token !== this.token) return;
    this.stepSizes.set(...sizes, {rms: at('step_size_rms'), max: at('step_size_max')}, run.colour);
    const levels = Object.fromEntries(['p01', 'p50', 'p99'].map((level) => [level, at(`effective_lr_${level}`)]));
    this.rates.set(...rates, levels, run.colour);
  }

  /** Of the chosen tensor, and of all together. */
  #counted(run, quantity, step) {
    const {prefix, names} = run.optimizer,
      row = names.indexOf(this.names[Number(this.select.value)]);
    return Promise.all([
      api.ownHistogram(run.name, prefix, row, quantity, step),
      api.histogram(run.name, `${prefix}.dist/log10_${quantity}`, step),
    ]);
  }
}

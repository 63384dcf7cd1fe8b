// The card with the heatmap: quantity, folding, filter, legend; one run, two, or their difference.

import * as api from './api.js';
import {differenceMatrix} from './compare.js';
import {choice, el, setOptions, settled} from './dom.js';
import {isWatched} from './findings.js';
import {Folding, Heatmap, edges} from './heatmap.js';
import {defaultOpen, modulePaths, moduleTree} from './modules.js';
import {format} from './numbers.js';
import {OVERVIEW, difference, ordered, quantity} from './quantities.js';
import {csv, png, save} from './save.js';
import {ColourScale} from './scale.js';
import {isDark} from './tensorboard.js';

const TALLEST = {one: 1080, two: 1080};
const MOST_ROWS = 72;
const MODES = [
  ['both', 'Both', 'one above the other'],
  ['difference', 'Difference', 'the first run less the second'],
];
const WAIT = 120; // milliseconds after a zoom before finer data is asked for

export class Tensors {
  /** actions: pick(row, step), chosen(), report(promise), findings(), changed(). */
  constructor(view, actions) {
    Object.assign(this, {view, actions, token: 0, quantity: OVERVIEW, mode: 'both', rate: 'planned', runs: [], full: []});
    this.folding = new Folding();
    this.#controls();
    this.legend = el('span', {className: 'legend-box'});
    this.text = el('div', {className: 'explanation'});
    this.maps = [0, 1].map((i) => this.#map(i));
    const about = el('div', {className: 'about'}, this.text, this.legend);
    this.element = el('section', {className: 'card'}, this.#toolbar(), about, ...this.maps.map((map) => map.element));
    view.onChange(settled(() => actions.report(this.#tiles()), WAIT));
  }

  /** What is shown, and relative to what; which tensors; and two runs side by side or as a difference. */
  #controls() {
    this.pickQuantity = el('select', {
      id: 'quantity',
      'aria-label': 'quantity',
      onchange: () => this.#ask({quantity: this.pickQuantity.value}),
    });
    this.planned = el('input', {
      type: 'checkbox',
      onchange: () => this.#ask({rate: this.planned.checked ? 'planned' : 'plain'}),
    });
    const title = 'divides the decay of the schedule out of the update ratio: judged as if the rate were still at its peak';
    this.plannedLabel = el('label', {className: 'check', title}, this.planned, 'relative to the planned rate');
    this.filter = el('input', {
      type: 'search',
      placeholder: 'filter tensors',
      'aria-label': 'filter tensors (part of a name, or a regular expression)',
      oninput: settled(() => this.#filter(), 80),
    });
    this.modes = choice('comparison', MODES, 'both', (mode) => {
      this.mode = mode;
      this.actions.changed();
      this.#draw();
    });
  }

  /** Something else is wanted, which takes a request. */
  #ask(wanted) {
    Object.assign(this, wanted);
    this.actions.changed();
    this.actions.report(this.load());
  }

  #map(i) {
    return new Heatmap(this.view, this.folding, {
      title: i ? 'second run' : 'tensors',
      tallest: TALLEST.one,
      pick: this.actions.pick,
      chosen: this.actions.chosen,
      findings: () => (this.mode === 'difference' && this.runs.length > 1 ? [] : (this.runs[i]?.optimizer.findings ?? [])),
      watched: () => isWatched(this.runs[i]),
      scrolled: (from) => this.#follow(from),
    });
  }

  #toolbar() {
    return el(
      'div',
      {className: 'toolbar'},
      el('h2', {textContent: 'Tensors × steps'}),
      this.pickQuantity,
      this.#folder('Fold', () => new Set()),
      this.#folder('Unfold', () => new Set(modulePaths(this.folding.tree))),
      this.filter,
      this.modes,
      this.plannedLabel,
      save('PNG', 'the heatmap as a picture', () => png(this.element, this.#file('png'))),
      save('CSV', 'the numbers that the heatmap shows', () => csv(this.#table(), this.#file('csv'))),
    );
  }

  /** A button that says which modules are open. */
  #folder(textContent, open) {
    const onclick = () => {
      this.folding.open = open();
      this.folding.changed();
    };
    return el('button', {type: 'button', textContent, onclick});
  }

  /** Ask for what show() of the same runs will draw first. */
  ask(runs) {
    this.asked = null;
    if (!this.element.clientWidth) return; // how many columns there is room for is not known
    this.#choose(runs[0]);
    const {quantity, rate} = this;
    this.asked = {runs, quantity, rate, answer: this.#fetch(null, true, runs)};
    this.asked.answer.catch(() => {}); // it is told when load() waits for it
  }

  /** All quantities of a run; the one that is shown must be one of them. */
  #choose({optimizer}) {
    const all = [OVERVIEW, ...optimizer.quantities];
    if (!all.includes(this.quantity)) this.quantity = OVERVIEW;
    return all;
  }

  /** runs: one or two of {name, optimizer}. */
  async show(runs) {
    const {names} = runs[0].optimizer;
    if (String(names) !== String(this.folding.names)) {
      const tree = moduleTree(names);
      Object.assign(this.folding, {tree, names, open: defaultOpen(tree, MOST_ROWS), kept: null});
      this.filter.value = '';
    }
    this.runs = runs;
    const all = this.#choose(runs[0]);
    this.planned.checked = this.rate === 'planned';
    for (const button of this.modes.children) button.setAttribute('aria-pressed', String(button.dataset.value === this.mode));
    setOptions(
      this.pickQuantity,
      ordered(all).map((name) => [name, quantity(name).label]),
      this.quantity,
    );
    this.modes.hidden = runs.length < 2;
    await this.load();
  }

  /** The whole range of the quantity, then a finer tile where the view is zoomed. A sketch is drawn until all is read. */
  async load() {
    const token = ++this.token;
    this.plannedLabel.hidden = ![OVERVIEW, 'update_ratio'].includes(this.quantity);
    const first = await (this.#answer() ?? this.#fetch(null, true));
    await this.#take(first, token);
    if (first.some((m) => m.sketch)) this.actions.report(this.#whole(token));
  }

  /** What the sketch lacks, once it has been painted: reading it all keeps the server and the processor busy. */
  async #whole(token) {
    await new Promise((painted) => requestAnimationFrame(() => setTimeout(painted)));
    if (token === this.token) await this.#take(await this.#fetch(null), token);
  }

  async #take(full, token) {
    if (token !== this.token) return;
    this.full = full;
    this.shown = full;
    this.view.cover(full.filter((m) => m.columns).flatMap((m) => [edges(m, 0)[0], edges(m, m.columns - 1)[1]]));
    this.#draw();
    if (this.view.range) await this.#tiles();
  }

  /** What was asked for before, if it is still what is wanted; once. */
  #answer() {
    const {asked} = this;
    this.asked = null;
    return asked && ['runs', 'quantity', 'rate'].every((what) => asked[what] === this[what]) ? asked.answer : null;
  }

  #fetch(range, sketch = false, runs = this.runs) {
    const columns = Math.max(64, Math.floor(this.maps[0].panel.width));
    const {quantity: name, rate} = this;
    return Promise.all(runs.map((run) => api.matrix(run.name, run.optimizer.prefix, name, columns, range, rate, sketch)));
  }

  async #tiles() {
    if (!this.full.length) return;
    const token = this.token,
      range = this.view.range;
    const thinned = this.full.some((m) => m.first.some((step, c) => step !== m.last[c]));
    const shown = range && thinned ? await this.#fetch(range) : this.full;
    if (token !== this.token || range !== this.view.range || shown === this.shown) return;
    this.shown = shown;
    this.#draw();
  }

  #draw() {
    if (!this.full.length) return;
    const two = this.runs.length > 1,
      minus = two && this.mode === 'difference',
      of = quantity(this.quantity);
    const spec = minus ? difference(of) : of;
    const pictures = (matrices) =>
      minus ? [this.#difference(matrices, of)] : matrices.map((m, i) => (i ? this.#reordered(m) : m));
    const wholes = pictures(this.full),
      scale = new ColourScale(spec, Boolean(wholes[0].excess), wholes[0].bands, isDark());
    pictures(this.shown).forEach((matrix, i) => {
      this.maps[i].options.tallest = two && !minus ? TALLEST.two : TALLEST.one;
      this.maps[i].set(matrix, scale, two && !minus ? this.runs[i].name : '');
    });
    this.maps[1].element.hidden = !two || minus;
    const named = !minus && this.actions.findings().some((finding) => finding.severity !== 'info');
    this.legend.replaceChildren(scale.legend(wholes), ...(named ? [ofFindings()] : []));
    this.text.textContent = this.#explain(spec, minus);
    this.drawn = {spec, matrices: pictures(this.shown)};
  }

  #explain(spec, minus) {
    if (minus) return `${spec.label}. ${this.runs[0].name} against ${this.runs[1].name}.`;
    const {texts} = this.runs[0].info,
      columns = this.full[0].columns;
    if (!columns) return 'No step has been logged yet.';
    if (this.maps[0].never.size === this.full[0].rows)
      return `${spec.label}: no value at any step. Either this optimizer has no such quantity, or nothing was finite from the first logged step on.`;
    return [texts[this.quantity], this.#limits()].filter(Boolean).join('. ');
  }

  /** What grey means here; in the light theme it is next to white. */
  #limits() {
    const {bands} = this.full[0],
      band = bands?.[this.quantity];
    if (this.quantity === OVERVIEW) {
      const names = Object.keys(bands ?? {}).map((name) => quantity(name).label.split(/[,‖]| RMS/)[0].trim().toLowerCase());
      return `Grey: no rule objects to the tensor at this step. Coloured: ${names.join(', ')} outside its limit, faint while no finding says that it does harm; point at a cell to see which. Yellow: within all limits, but a finding concerns it.`;
    }
    if (!band) return 'No rule judges this quantity: colours only tell its size, the same in every run.';
    const early = band.early === null ? '' : `; in the first 30 steps only over ${format(band.early)}`;
    const who = band.matrices ? ' Biases and norms are not judged.' : '';
    return `Coloured where ${[...band.under, ...band.over].join(', ')} would object if it lasted${early}; faint while no finding says that it does harm.${who}`;
  }

  #file(kind) {
    return `${this.runs.map((run) => run.name).join('-')}-${this.quantity}.${kind}`;
  }

  /** What is drawn, in rows: a line per tensor and column. */
  #table() {
    const {names} = this.runs[0].optimizer,
      {matrices, spec} = this.drawn;
    const judged = Boolean(matrices[0].excess);
    const lines = matrices.flatMap((m, at) =>
      this.#drawnRows().flatMap((row) =>
        m.first.map((first, c) => {
          const i = row * m.columns + c;
          const run = matrices.length > 1 ? this.runs[at].name : this.runs.map((r) => r.name).join(' less ');
          return [run, names[row], first, m.last[c], m.values[i], ...(judged ? [m.excess[i]] : [])];
        }),
      ),
    );
    return [['run', 'tensor', 'first_step', 'last_step', spec.name, ...(judged ? ['outside_its_limits'] : [])], ...lines];
  }

  #drawnRows() {
    return [...(this.folding.kept ?? this.runs[0].optimizer.names.keys())];
  }

  #difference([a, b], of) {
    const names = this.runs.map((run) => run.optimizer.names);
    const plane = of.name === OVERVIEW ? 'excess' : 'values';
    return differenceMatrix(a, b, names[0], names[1], of.log && plane === 'values', plane);
  }

  /** The second run's rows in the order of the first's names; what it lacks stays empty. */
  #reordered(matrix) {
    const {names} = this.runs[1].optimizer,
      wanted = this.runs[0].optimizer.names;
    if (String(names) === String(wanted)) return matrix;
    const places = new Map(names.map((name, row) => [name, row]));
    const {columns} = matrix;
    const moved = (plane, fill) => {
      if (!plane) return null;
      const values = new Float32Array(wanted.length * columns).fill(fill);
      wanted.forEach((name, row) => {
        const from = places.get(name);
        if (from !== undefined) values.set(plane.subarray(from * columns, (from + 1) * columns), row * columns);
      });
      return values;
    };
    const [values, excess, worst] = [moved(matrix.values, NaN), moved(matrix.excess, 0), moved(matrix.worst, 0)];
    return {...matrix, rows: wanted.length, values, excess, worst};
  }

  #follow(from) {
    for (const map of this.maps)
      if (map !== from && map.scroller.scrollTop !== from.scroller.scrollTop)
        map.scroller.scrollTop = from.scroller.scrollTop;
  }

  only(names) {
    const escaped = names.map((name) => `^${name.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}$`);
    this.filter.value = escaped.join('|');
    this.#filter();
    this.element.scrollIntoView({behavior: 'smooth', block: 'start'});
  }

  #filter() {
    const {folding, filter} = this,
      text = filter.value;
    folding.kept = text ? new Set([...folding.names.keys()].filter((row) => matches(folding.names[row], text))) : null;
    if (text) folding.open = new Set(modulePaths(folding.tree));
    folding.changed();
  }
}

/** Part of a name, or a regular expression; one that is not finished yet counts as plain text. */
function matches(name, text) {
  if (name.includes(text)) return true;
  try {
    return new RegExp(text).test(name);
  } catch {
    return false;
  }
}

/** The legend's entry for the cells of marks.js. */
const ofFindings = () =>
  el('span', {className: 'legend named'}, el('span', {className: 'swatch marked'}), 'a finding concerns it');

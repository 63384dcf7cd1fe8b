// The Adam tab: puts the panels together, and keeps them up to date while training runs.

import * as api from './api.js';
import {el, setOptions} from './dom.js';
import {Findings} from './findings.js';
import {LayerView} from './layer.js';
import {addressed, isDark, onReload, onTheme} from './tensorboard.js';
import {Tensors} from './tensors.js';
import {Timeline, timelineTags} from './timeline.js';
import {View} from './view.js';

const POLL = 3000; // milliseconds
// The second run's lines are dashed: where the two agree, both stay visible.
const LOOKS = [{colour: 'first'}, {colour: 'second', dash: [7, 5]}];
const collator = new Intl.Collator('en', {numeric: true});

class App {
  constructor() {
    const asked = addressed();
    Object.assign(this, {
      names: {run: asked.run, other: asked.other ?? '', prefix: asked.optimizer},
      listing: {runs: {}, others: []},
      runs: [],
      row: null,
      loss: null,
      token: 0,
    });
    this.view = new View();
    this.tensors = new Tensors(this.view, {
      pick: (row, step) => this.pick(row, step),
      chosen: () => this.row,
      report: (work) => this.report(work),
    });
    if (asked.quantity) this.tensors.quantity = asked.quantity;
    this.timeline = new Timeline(this.view, (tag) => {
      this.loss = tag;
      this.report(this.load());
    });
    this.findings = new Findings(this.view, {
      pick: (name) => this.pick(this.runs[0].optimizer.names.indexOf(name), null),
      filter: (names) => this.tensors.only(names),
    });
    this.layer = new LayerView(this.view, (row) => this.pick(row, null));
    this.#build();
  }

  #build() {
    const select = (label, name) =>
      el('select', {
        'aria-label': label,
        onchange: (event) => {
          this.names[name] = event.target.value;
          this.report(this.load());
        },
      });
    this.pickRun = select('run', 'run');
    this.pickOther = select('run to compare with', 'other');
    this.pickPrefix = select('optimizer', 'prefix');
    this.optimizerLabel = el('label', {}, 'Optimizer', this.pickPrefix);
    this.live = el('input', {type: 'checkbox', checked: true});
    this.reset = el('button', {
      type: 'button',
      textContent: 'Show all steps',
      title: 'Escape or a double click does the same',
      onclick: () => this.view.zoom(null),
    });
    this.status = el('span', {className: 'muted status', role: 'status'});
    this.banner = el('div', {className: 'banner', role: 'alert', hidden: true});
    this.bar = el(
      'header',
      {className: 'bar'},
      el('label', {}, 'Run', this.pickRun),
      el('label', {}, 'Compare with', this.pickOther),
      this.optimizerLabel,
      el('label', {}, this.live, 'Live'),
      this.reset,
      this.status,
    );
    const timeline = el(
      'section',
      {className: 'card'},
      el(
        'div',
        {className: 'toolbar'},
        el('h2', {textContent: 'Run'}),
        el('span', {className: 'muted', textContent: 'drag over any chart to zoom all of them; click to choose a step'}),
      ),
      this.findings.strip,
      ...this.timeline.elements,
      this.findings.card,
    );
    this.page = el('main', {hidden: true}, timeline, this.tensors.element, this.layer.element);
    this.empty = el('div', {className: 'empty', hidden: true});
    document.body.append(this.bar, this.banner, this.empty, this.page);
    this.view.onDraw(() => {
      this.reset.disabled = !this.view.range;
    });
    this.view.redraw();
  }

  /** Await work; what goes wrong is told on the page. */
  async report(work) {
    this.busy = (this.busy ?? 0) + 1;
    document.body.setAttribute('aria-busy', 'true');
    try {
      await work;
      this.banner.hidden = true;
    } catch (error) {
      this.banner.textContent = `Something went wrong: ${error.message}`;
      this.banner.hidden = false;
    }
    this.busy -= 1;
    document.body.setAttribute('aria-busy', String(this.busy > 0));
  }

  async refresh() {
    this.listing = await api.runs();
    const names = Object.keys(this.listing.runs);
    this.bar.hidden = this.page.hidden = !names.length;
    this.empty.hidden = Boolean(names.length);
    if (!names.length) return this.#showEmpty();
    const newest = names.reduce((best, name) => (this.listing.runs[name] > this.listing.runs[best] ? name : best));
    if (!names.includes(this.names.run)) this.names.run = newest;
    if (!names.includes(this.names.other) || this.names.other === this.names.run) this.names.other = '';
    await this.load();
  }

  #offerRuns() {
    const pairs = Object.keys(this.listing.runs)
      .sort(collator.compare)
      .map((name) => [name, name]);
    const {run, other} = this.names;
    setOptions(this.pickRun, pairs, run);
    setOptions(this.pickOther, [['', 'no other run'], ...pairs.filter(([name]) => name !== run)], other);
    this.pickOther.parentElement.hidden = pairs.length < 2;
  }

  #showEmpty() {
    const others = this.listing.others.length;
    const why = others
      ? `${others} ${others === 1 ? 'run' : 'runs'} in this log folder, none with data for this tab.`
      : 'There is nothing in this log folder yet.';
    const line = (before, code) => el('p', {}, before, el('code', {textContent: code}));
    this.empty.replaceChildren(
      el('h1', {textContent: 'No Adam data here yet'}),
      el('p', {className: 'muted', textContent: `${why} The page fills by itself when data comes.`}),
      line('In your training: ', 'Trainer(callbacks=[OptimizerMonitor(), DivergenceMonitor()])'),
      line('Or see it now: ', 'lightning-adam demo --logdir runs/demo'),
    );
  }

  /** Load the chosen run or runs and draw them. */
  async load() {
    const token = ++this.token;
    if (this.names.other === this.names.run) this.names.other = '';
    this.#offerRuns();
    const wanted = [this.names.run, this.names.other].filter(Boolean);
    const runs = await Promise.all(wanted.map((name, i) => this.#read(name, LOOKS[i])));
    if (token !== this.token) return;
    this.runs = runs;
    const [first] = runs,
      {optimizers} = first.info;
    setOptions(
      this.pickPrefix,
      optimizers.map((o) => [o.prefix, o.prefix]),
      first.optimizer?.prefix,
    );
    this.optimizerLabel.hidden = optimizers.length < 2;
    this.bar.classList.toggle('two', runs.length > 1);
    this.timeline.set(runs);
    this.#steps();
    this.findings.set(
      first.optimizer?.findings ?? [],
      first.info.scalars.some((tag) => tag.endsWith('/findings_total')),
    );
    this.#say();
    await this.#drawTensors();
  }

  /** A run: its listing, its optimizer and the timeline's scalars. */
  async #read(name, look) {
    const info = await api.run(name);
    const optimizer = info.optimizers.find((o) => o.prefix === this.names.prefix) ?? info.optimizers[0];
    const run = {name, ...look, info, optimizer};
    if (optimizer?.quantities.length && !optimizer.names.length) await this.#number(run);
    run.tags = timelineTags(run);
    if (this.loss && run.tags.candidates.includes(this.loss)) run.tags.loss = this.loss;
    run.scalars = await api.scalars(name, [run.tags.loss, run.tags.rate, run.tags.norm].filter(Boolean));
    return run;
  }

  /** A file that does not name its tensors. */
  async #number({name, optimizer}) {
    const {rows} = await api.matrix(name, optimizer.prefix, optimizer.quantities[0], 1);
    optimizer.names = Array.from({length: rows}, (_, row) => `tensor ${row}`);
  }

  /** The step axis reaches over all that the runs have; while a run grows, it only grows. */
  #steps() {
    const asked = this.runs.map((run) => run.name).join();
    if (asked !== this.covered) this.view.clear();
    this.covered = asked;
    this.view.cover(this.runs.flatMap((run) => Object.values(run.scalars).flatMap(([steps]) => [steps[0], steps.at(-1)])));
    this.view.cover((this.runs[0].optimizer?.findings ?? []).map((finding) => finding.step));
  }

  async #drawTensors() {
    const {runs} = this,
      has = runs[0].optimizer?.names.length > 0;
    this.tensors.element.hidden = this.layer.element.hidden = !has;
    if (!has) return;
    const measured = runs.filter((run) => run.optimizer?.names.length);
    await this.tensors.show(measured);
    if (this.row === null || this.row >= runs[0].optimizer.names.length) this.row = this.#suspect(runs[0]);
    this.report(this.layer.show(measured, this.row)); // below the fold, and the largest of the requests
  }

  /** The tensor that a finding names, else the first weight matrix. */
  #suspect({optimizer}) {
    const named = this.findings.findings
      .flatMap((f) => f.parameters)
      .map((name) => optimizer.names.indexOf(name))
      .find((row) => row >= 0);
    return (
      named ??
      Math.max(
        0,
        optimizer.names.findIndex((name) => name.endsWith('weight')),
      )
    );
  }

  #say() {
    const {optimizer, name} = this.runs[0];
    this.status.textContent = optimizer?.names.length
      ? `${optimizer.names.length.toLocaleString('en')} tensors, last step ${optimizer.max_step.toLocaleString('en')}`
      : `${name} has findings, but no OptimizerMonitor data`;
  }

  /** Another tensor, and another step where one is given. */
  pick(row, step) {
    const count = this.runs[0]?.optimizer?.names.length ?? 0;
    if (!(row >= 0 && row < count)) return;
    this.row = row;
    if (step !== null) this.view.choose(step);
    else this.view.redraw();
    this.report(
      this.layer.show(
        this.runs.filter((run) => run.optimizer?.names.length),
        row,
      ),
    );
  }

  /** While the page is visible: is there anything new? */
  async poll() {
    if (!this.live.checked || document.hidden || !innerWidth) return;
    const listing = await api.runs();
    if (JSON.stringify(listing) !== JSON.stringify(this.listing)) await this.refresh();
  }
}

export async function render() {
  document.documentElement.lang = 'en';
  const style = el('link', {rel: 'stylesheet', href: new URL('style.css', import.meta.url).href});
  const styled = new Promise((resolve) => {
    style.onload = style.onerror = resolve;
  });
  document.head.append(el('meta', {name: 'viewport', content: 'width=device-width'}), style);
  const theme = () => document.documentElement.classList.toggle('dark', isDark());
  theme();
  const app = new App();
  const fail = (error) => app.report(Promise.reject(error));
  const guard = (event) => fail(event.reason ?? event.error ?? new Error(event.message));
  window.addEventListener('error', guard);
  window.addEventListener('unhandledrejection', guard);
  onTheme(() => {
    theme();
    if (app.runs.length) app.report(app.load());
  });
  onReload(() => app.report(app.refresh()));
  await Promise.all([styled, app.report(app.refresh())]);
  app.view.redraw();
  window.adamTab = app; // for the browser's console, and for tests
  document.body.dataset.ready = 'true';
  setInterval(() => app.poll().catch(fail), POLL);
}

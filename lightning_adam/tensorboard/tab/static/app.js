// The Adam tab: puts the panels together, and keeps them up to date while training runs.

import * as api from './api.js';
import {el, setOptions} from './dom.js';
import {Findings, isWatched, troubled} from './findings.js';
import {LayerView} from './layer.js';
import {OVERVIEW} from './quantities.js';
import {Runs} from './runs.js';
import {download, png, save} from './save.js';
import {address, addressed, isDark, onAddress, onReload, onTheme} from './tensorboard.js';
import {Tensors} from './tensors.js';
import {Timeline, timelineTags} from './timeline.js';
import {View} from './view.js';

const POLL = 3000; // milliseconds
// The second run's lines are dashed: where the two agree, both stay visible.
const LOOKS = [{colour: 'first'}, {colour: 'second', dash: [7, 5]}];
const collator = new Intl.Collator('en', {numeric: true});

class App {
  constructor() {
    Object.assign(this, {
      names: {run: '', other: '', prefix: undefined},
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
      findings: () => this.runs[0]?.optimizer?.findings ?? [],
      changed: () => this.#write(),
    });
    this.timeline = new Timeline(this.view, (tag) => {
      this.loss = tag;
      this.report(this.load());
    });
    this.findings = new Findings(this.view, {
      pick: (name) => this.pick(this.runs[0].optimizer.names.indexOf(name), null),
      filter: (names) => this.tensors.only(names),
      hasHeatmap: () => this.runs[0].optimizer?.names.length > 0,
    });
    this.layer = new LayerView(this.view, (row) => this.pick(row, null));
    this.table = new Runs((name) => this.open(name));
    this.#build();
    this.#obey(addressed());
    this.view.onChange(() => this.#write());
    onAddress(() => {
      this.#obey(addressed());
      this.report(this.refresh());
    });
  }

  #build() {
    const timeline = this.#timelineCard();
    this.page = el('main', {hidden: true}, timeline, this.tensors.element, this.layer.element);
    this.banner = el('div', {className: 'banner', role: 'alert', hidden: true});
    this.empty = el('div', {className: 'empty', hidden: true});
    this.gone = el('div', {className: 'notice', role: 'alert', hidden: true});
    document.body.append(this.#topBar(), this.banner, this.gone, this.empty, this.table.element, this.page);
    this.view.onDraw(() => {
      this.reset.disabled = !this.view.range;
    });
    this.view.redraw();
  }

  #topBar() {
    [this.pickRun, this.pickOther] = [this.#select('run', 'run'), this.#select('run to compare with', 'other')];
    this.pickPrefix = this.#select('optimizer', 'prefix');
    this.optimizerLabel = el('label', {}, 'Optimizer', this.pickPrefix);
    this.live = el('input', {type: 'checkbox', checked: true});
    this.reset = el('button', {
      type: 'button',
      textContent: 'Show all steps',
      title: 'Escape or a double click does the same',
      onclick: () => this.view.zoom(null),
    });
    this.status = el('span', {className: 'muted status', role: 'status'});
    this.bar = el(
      'header',
      {className: 'bar'},
      el('button', {type: 'button', textContent: '‹ All runs', onclick: () => this.open('')}),
      el('label', {}, 'Run', this.pickRun),
      el('label', {}, 'Compare with', this.pickOther),
      this.optimizerLabel,
      el('label', {}, this.live, 'Live'),
      this.reset,
      this.status,
    );
    return this.bar;
  }

  /** A list to choose one of the names from. */
  #select(label, name) {
    const onchange = (event) => {
      this.names[name] = event.target.value;
      if (name === 'run') this.names.prefix = undefined;
      this.#write(name === 'run');
      this.report(this.load());
    };
    return el('select', {'aria-label': label, onchange});
  }

  #timelineCard() {
    const card = el('section', {className: 'card'});
    const toolbar = el(
      'div',
      {className: 'toolbar'},
      el('h2', {textContent: 'Run'}),
      el('span', {className: 'muted', textContent: 'drag over any chart to zoom all of them; click to choose a step'}),
      save('PNG', 'these charts as a picture', () => png(card, `${this.names.run}-run.png`)),
      save('Report', "the doctor's report on this run as a page of its own", () => this.report(this.#export())),
    );
    card.append(toolbar, this.findings.strip, ...this.timeline.elements, this.findings.card);
    return card;
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
    this.empty.hidden = Boolean(names.length);
    if (!names.length) this.#showEmpty();
    this.#missing(names);
    if (names.length === 1 && !this.names.run && !this.all) this.names.run = names[0]; // a table of one would only be in the way
    if (!names.includes(this.names.other) || this.names.other === this.names.run) this.names.other = '';
    const isTable = !this.names.run;
    this.bar.hidden = this.page.hidden = isTable;
    this.table.element.hidden = !isTable || !names.length;
    if (!names.length) return;
    await (isTable ? this.#list() : this.load());
  }

  /** A link to a run that is gone says so, and shows what there is. */
  #missing(names) {
    const lost = [this.names.run, this.names.other].filter((name) => name && !names.includes(name));
    if (!lost.length) return;
    const others = this.listing.others.includes(lost[0]);
    this.gone.textContent = others
      ? `The run “${lost[0]}” has no data for this tab.`
      : `The run “${lost[0]}” is not in this log folder: it was deleted, renamed, or not read yet.`;
    this.gone.hidden = false;
    if (lost.includes(this.names.run)) this.names.run = '';
  }

  async #list() {
    this.runs = [];
    this.table.set(await api.table());
  }

  /** Open a run, or the table of all of them. */
  open(name) {
    Object.assign(this.names, {run: name, other: '', prefix: undefined});
    Object.assign(this, {row: null, all: !name});
    this.gone.hidden = true;
    this.view.range = this.view.chosen = null;
    this.#write(true);
    this.report(this.refresh());
  }

  /** What the address asks for. */
  #obey(asked) {
    this.names = {run: asked.run ?? '', other: asked.other ?? '', prefix: asked.optimizer};
    if (asked.quantity) this.tensors.quantity = asked.quantity;
    this.tensors.rate = asked.rate === 'plain' ? 'plain' : 'planned';
    this.tensors.mode = asked.mode === 'difference' ? 'difference' : 'both';
    this.asked = asked.tensor ?? null;
    this.row = null;
    const numbers = (text) => (text ?? '').split('_').map(Number);
    const [low, high] = numbers(asked.zoom);
    this.view.range = high > low ? [low, high] : null;
    this.view.chosen = asked.step && Number.isFinite(Number(asked.step)) ? Number(asked.step) : null;
  }

  /** Put what is shown into the address, so that it can be sent to somebody. */
  #write(isNewPage = false) {
    const {run, other, prefix} = this.names,
      {range, chosen} = this.view,
      {quantity, rate, mode} = this.tensors;
    if (!run) return address({}, isNewPage);
    const digits = (step) => Number(step.toFixed(1));
    address(
      {
        run,
        other,
        optimizer: prefix,
        quantity: quantity === OVERVIEW ? null : quantity,
        rate: rate === 'planned' ? null : rate,
        mode: other && mode !== 'both' ? mode : null,
        tensor: this.row === null ? this.asked : this.runs[0]?.optimizer?.names[this.row],
        zoom: range && range.map(digits).join('_'),
        step: chosen,
      },
      isNewPage,
    );
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
    const infos = await Promise.all(wanted.map(api.run));
    if (token !== this.token) return;
    const {optimizers: several} = infos[0];
    if (several.length > 1) this.names.prefix ??= troubled(several).prefix; // once: it does not change under the reader
    const runs = await Promise.all(wanted.map((name, i) => this.#read(name, infos[i], LOOKS[i])));
    if (token !== this.token) return;
    const measured = runs.filter((run) => run.optimizer?.names.length);
    if (runs[0].optimizer?.names.length) this.tensors.ask(measured); // what takes longest, while the timeline is read and drawn
    await Promise.all(runs.map((run) => this.#readScalars(run)));
    if (token !== this.token) return;
    this.runs = runs;
    const [first] = runs,
      {optimizers} = first.info;
    setOptions(
      this.pickPrefix,
      optimizers.map((o) => [o.prefix, o.findings.length ? `${o.prefix} (findings: ${o.findings.length})` : o.prefix]),
      first.optimizer?.prefix,
    );
    this.optimizerLabel.hidden = optimizers.length < 2;
    this.bar.classList.toggle('two', runs.length > 1);
    this.timeline.set(runs);
    this.#steps();
    this.findings.set(first.optimizer?.findings ?? [], isWatched(first), optimizers.length > 1 ? 'optimizer' : 'run');
    this.#say();
    await this.#drawTensors(measured);
  }

  /** A run: its listing and its optimizer. */
  async #read(name, info, look) {
    const optimizer = info.optimizers.find((o) => o.prefix === this.names.prefix) ?? info.optimizers[0];
    const run = {name, ...look, info, optimizer};
    if (optimizer?.quantities.length && !optimizer.names.length) await this.#number(run);
    return run;
  }

  async #readScalars(run) {
    run.tags = timelineTags(run);
    if (this.loss && run.tags.candidates.includes(this.loss)) run.tags.loss = this.loss;
    const tags = [run.tags.loss, run.tags.rate, run.tags.norm].filter(Boolean);
    [run.scalars, run.overwritten] = await Promise.all([api.scalars(run.name, tags), api.overwritten(run.name, tags)]);
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

  async #drawTensors(measured) {
    const {runs} = this,
      has = runs[0].optimizer?.names.length > 0;
    this.tensors.element.hidden = this.layer.element.hidden = !has;
    if (!has) return;
    await this.tensors.show(measured);
    if (this.row === null && this.asked) this.row = runs[0].optimizer.names.indexOf(this.asked);
    if (!(this.row >= 0 && this.row < runs[0].optimizer.names.length) || this.row === null) this.row = this.#suspect(runs[0]);
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
      : `${name} has no tensors to show: OptimizerMonitor was not attached, or has not logged a step yet`;
  }

  /** Another tensor, and another step where one is given. */
  pick(row, step) {
    const count = this.runs[0]?.optimizer?.names.length ?? 0;
    if (!(row >= 0 && row < count)) return;
    this.row = row;
    if (step !== null) this.view.choose(step);
    else this.view.redraw();
    this.#write();
    this.report(
      this.layer.show(
        this.runs.filter((run) => run.optimizer?.names.length),
        row,
      ),
    );
  }

  async #export() {
    const name = this.names.run;
    download(await api.report(name), `${name}-report.html`);
  }

  /** While the page is visible: is there anything new? */
  async poll() {
    if (!this.live.checked || document.hidden || !innerWidth) return;
    const listing = await api.runs();
    if (JSON.stringify(listing) !== JSON.stringify(this.listing)) await this.report(this.refresh());
    else if (!this.table.element.hidden) await this.#list(); // a run that stays silent has stopped
  }
}

/** styled: done when the style sheet has come. */
export async function render(styled) {
  document.documentElement.lang = 'en';
  document.head.append(el('meta', {name: 'viewport', content: 'width=device-width'}));
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

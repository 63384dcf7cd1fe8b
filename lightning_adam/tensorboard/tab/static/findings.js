// Findings: marks on the step axis, a list, and what one of them says.

import {explanation} from './api.js';
import {el, perFrame} from './dom.js';
import {format} from './numbers.js';

const RANK = {critical: 0, warning: 1, info: 2};
const SHAPE = {critical: '◆', warning: '▲', info: '●'};
const MARK = 16; // pixels
const LANES = 3;

/** A severity as a sign that differs in its shape, too, and has a name. */
export const sign = (severity) =>
  el('span', {className: `sign ${severity}`, textContent: SHAPE[severity], 'aria-label': severity, role: 'img'});

/** Whether a DivergenceMonitor was there at all. */
export const isWatched = ({info}) => info.scalars.some((tag) => tag.endsWith('/findings_total'));

/** The optimizer with the gravest finding, else the first: what is wrong must not wait behind a list. */
export const troubled = (optimizers) =>
  optimizers.reduce((worst, one) => (gravity(one) < gravity(worst) ? one : worst), optimizers[0]);

const gravity = ({findings}) => Math.min(...findings.map((f) => RANK[f.severity]), 3);

export class Findings {
  /** actions: pick(name) chooses a tensor, filter(names) shows only these, choose(finding). */
  constructor(view, actions) {
    Object.assign(this, {view, actions, findings: [], selected: -1});
    this.lane = el('div', {className: 'lane', role: 'group', 'aria-label': 'findings on the step axis'});
    this.count = el('div', {className: 'readout'});
    const label = el(
      'div',
      {className: 'strip-label'},
      el('div', {className: 'strip-title', textContent: 'Findings'}),
      this.count,
    );
    this.strip = el('div', {className: 'strip'}, label, this.lane);
    this.list = el('div', {className: 'finding-list'});
    this.detail = el('div', {'aria-live': 'polite'});
    this.about = new About();
    this.card = el(
      'div',
      {className: 'findings'},
      this.list,
      el('div', {className: 'finding-detail'}, this.detail, this.about.element),
    );
    view.onDraw(() => this.#place());
    new ResizeObserver(perFrame(() => this.#place())).observe(this.lane);
  }

  /** watched: whether a DivergenceMonitor was there at all; whose: what the findings are of, a run or one of its optimizers. */
  set(findings, watched, whose) {
    const kept = this.findings[this.selected];
    this.findings = this.view.marks = findings;
    this.count.textContent = findings.length || watched ? `${findings.length || 'none'} in this ${whose}` : 'not watched';
    this.lane.replaceChildren(...findings.map((f, i) => this.#mark(f, i)));
    this.list.replaceChildren(...findings.map((f, i) => this.#item(f, i)));
    this.list.hidden = !findings.length;
    const same = kept ? findings.findIndex((f) => f.rule === kept.rule && f.step === kept.step) : -1;
    this.select(same >= 0 ? same : gravest(findings));
    if (!findings.length) this.#tellNone(watched, whose);
    this.#place();
  }

  #tellNone(watched, whose) {
    const textContent = watched
      ? `No findings in this ${whose}: the monitor had nothing to complain about.`
      : 'DivergenceMonitor was not attached to this run: add it to Trainer(callbacks=[…]) to get findings.';
    this.detail.replaceChildren(el('p', {className: 'muted', textContent}));
    this.about.of('');
  }

  #mark(finding, i) {
    return el('button', {
      type: 'button',
      className: `mark ${finding.severity}`,
      textContent: SHAPE[finding.severity],
      title: `${finding.rule}, step ${finding.step}`,
      'aria-label': `${finding.severity}: ${finding.rule} at step ${finding.step}`,
      onclick: () => this.#go(i),
    });
  }

  #item(finding, i) {
    return el(
      'button',
      {type: 'button', className: 'finding-item', onclick: () => this.#go(i)},
      sign(finding.severity),
      el('span', {className: 'rule', textContent: finding.rule}),
      el('span', {className: 'when', textContent: `step ${finding.step.toLocaleString('en')}`}),
    );
  }

  #go(i) {
    this.select(i);
    this.view.choose(this.findings[i].step);
  }

  select(i) {
    this.selected = i;
    for (const [at, item] of [...this.list.children].entries()) item.setAttribute('aria-current', String(at === i));
    for (const [at, mark] of [...this.lane.children].entries()) mark.setAttribute('aria-pressed', String(at === i));
    if (this.findings[i]) this.#tell(this.findings[i]);
  }

  #tell(finding) {
    const {severity, message, remedy} = finding;
    const badge = el('span', {className: `badge ${severity}`, textContent: `${SHAPE[severity]} ${severity}`});
    const parts = [
      el('h3', {}, badge, `${finding.rule} ${when(finding)}`),
      el('p', {className: 'message', textContent: message}),
      remedy && el('p', {className: 'remedy'}, el('b', {textContent: 'What to do: '}), el('span', {textContent: remedy})),
      evidence(finding),
      this.#parameters(finding.parameters),
    ];
    this.detail.replaceChildren(...parts.filter(Boolean));
    this.about.of(finding.rule);
  }

  #parameters(names) {
    if (!names.length) return null;
    if (!this.actions.hasHeatmap()) return el('p', {className: 'parameters', textContent: names.slice(0, 6).join(', ')});
    const shown = names.slice(0, 6).map((name) =>
      el('button', {
        type: 'button',
        className: 'chip',
        textContent: name,
        title: `show ${name} below`,
        onclick: () => this.actions.pick(name),
      }),
    );
    const all = el('button', {
      type: 'button',
      className: 'link',
      textContent: names.length > 6 ? `show all ${names.length} in the heatmap` : 'show only these in the heatmap',
      onclick: () => this.actions.filter(names),
    });
    return el('p', {className: 'parameters'}, ...shown, all);
  }

  /** Marks that would cover each other go into lanes. */
  #place() {
    const [low, high] = this.view.shown,
      width = this.lane.clientWidth,
      ends = [];
    for (const [i, mark] of [...this.lane.children].entries()) {
      const x = ((this.findings[i].step - low) / (high - low)) * width;
      mark.hidden = x < -1 || x > width + 1;
      if (mark.hidden) continue;
      let lane = ends.findIndex((end) => x - end >= MARK);
      if (lane < 0) lane = ends.length < LANES ? ends.length : ends.indexOf(Math.min(...ends));
      ends[lane] = x;
      mark.style.transform = `translate(${x - MARK / 2}px, ${lane * MARK}px)`;
    }
    this.lane.style.height = `${Math.max(1, ends.length) * MARK + 4}px`;
  }
}

/** The place of the first of those that weigh most; -1 of none. */
function gravest(findings) {
  const ranks = findings.map(({severity}) => RANK[severity]);
  return ranks.indexOf(Math.min(...ranks));
}

/** The numbers that a finding rests on; null where it has none. */
function evidence(finding) {
  const pairs = Object.entries(finding.evidence).flatMap(([name, value]) => [
    el('dt', {textContent: name.replaceAll('_', ' ')}),
    el('dd', {textContent: format(asNumber(value))}),
  ]);
  return pairs.length ? el('dl', {className: 'evidence'}, ...pairs) : null;
}

/** Since when, until when, and whether it is still there. */
function when({step, last_step, over}) {
  const [from, to] = [step, last_step].map((at) => at.toLocaleString('en'));
  if (last_step === step) return `at step ${from}`;
  return `from step ${from} to ${to}${over ? ', not since' : ''}`;
}

/** What `lightning-adam explain` says of a code, folded; it is asked for when it is unfolded, and stays so for the next code. */
class About {
  constructor() {
    this.summary = el('summary');
    this.body = el('div', {className: 'about-code'});
    this.element = el('details', {hidden: true, ontoggle: () => this.#fill()}, this.summary, this.body);
  }

  of(code) {
    if (code === this.code) return;
    this.code = code;
    this.element.hidden = !code;
    this.summary.textContent = `What ${code} means, how it is decided, how often it is right`;
    this.body.replaceChildren();
    this.#fill();
  }

  async #fill() {
    const {code} = this;
    if (!this.element.open || !code || this.body.childElementCount) return;
    const {html} = await explanation(code);
    // The one place where the page takes HTML: it is made from the package's own files, never from a log.
    if (code === this.code) this.body.innerHTML = html || '<p>This version does not know the code.</p>';
  }
}

/** JSON cannot carry NaN: TensorBoard writes it as a string. */
const asNumber = (value) => (['NaN', 'Infinity', '-Infinity'].includes(value) ? Number(value) : value);

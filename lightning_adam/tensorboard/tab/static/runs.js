// All runs in one table, the sickest first: what a broken night begins with.

import {el, settled} from './dom.js';
import {sign} from './findings.js';
import {format} from './numbers.js';

const RANK = {critical: 0, warning: 1, info: 2, '': 3};
const CONDITIONS = {diverged: '✗', sick: '▲', 'was sick': '△', '': ''}; // see condition.py, the gravest first
const GRAVITY = Object.keys(CONDITIONS);
const ALWAYS = ['optimizer', 'lr', 'warmup', 'clip'];
const STATES = {running: '▶', finished: '✓', stopped: '■'};
const collator = new Intl.Collator('en', {numeric: true});

export class Runs {
  /** open(name): a run was clicked. */
  constructor(open) {
    Object.assign(this, {open, lines: []});
    this.filter = el('input', {
      type: 'search',
      placeholder: 'search runs',
      'aria-label': 'search runs by name, finding, state or setting',
      oninput: settled(() => this.#draw(), 80),
    });
    this.count = el('span', {className: 'muted', role: 'status'});
    this.table = el('table', {className: 'runs'});
    this.element = el(
      'section',
      {className: 'card runs-card', hidden: true},
      el('div', {className: 'toolbar'}, el('h2', {textContent: 'All runs, the sickest first'}), this.filter, this.count),
      el('div', {className: 'runs-scroll'}, this.table),
    );
  }

  /** lines: see overview.py. */
  set(lines) {
    const key = JSON.stringify(lines);
    if (key === this.key) return;
    this.key = key;
    this.lines = [...lines].sort(byTrouble);
    this.#draw();
  }

  #draw() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = this.lines.filter((line) => words.every((word) => spoken(line).includes(word)));
    const columns = settingColumns(this.lines);
    const focused = document.activeElement?.dataset?.run;
    const all = `${this.lines.length} ${this.lines.length === 1 ? 'run' : 'runs'}`;
    this.count.textContent = shown.length === this.lines.length ? all : `${shown.length} of ${all}`;
    this.table.replaceChildren(
      el('caption', {className: 'hidden-text', textContent: 'Runs, the sickest first; ≠ marks settings that differ between runs'}),
      el('thead', {}, el('tr', {}, ...this.#heads(columns))),
      el('tbody', {}, ...shown.map((line) => this.#line(line, columns))),
    );
    if (focused) [...this.table.querySelectorAll('[data-run]')].find((b) => b.dataset.run === focused)?.focus();
  }

  #heads(columns) {
    const words = ['Run', 'State', 'Gravest finding'].map((text) => head(text)),
      numbers = ['Last loss', 'Steps'].map((text) => head(text, '', 'number'));
    return [...words, ...numbers, ...columns.map(({name, differs}) => head(differs ? `${name} ≠` : name, differs ? 'differs between runs' : ''))];
  }

  #line(line, columns) {
    const go = () => this.open(line.run);
    const name = el('button', {type: 'button', className: 'link run-name', textContent: line.run, 'data-run': line.run});
    const cells = [
      el('th', {scope: 'row'}, name),
      el('td', {}, ...state(line)),
      el('td', {}, ...gravest(line)),
      el('td', {className: 'number', title: line.loss_tag, textContent: format(asNumber(line.loss), 4)}),
      el('td', {className: 'number', textContent: steps(line)}),
      ...columns.map((column) => setting(line, column)),
    ];
    return el('tr', {onclick: go}, ...cells);
  }
}

const head = (textContent, title, className) => el('th', {scope: 'col', textContent, title, className});

/** The sickest first; of equally sick ones those with the earlier finding, then by name. */
function byTrouble(a, b) {
  return (
    GRAVITY.indexOf(a.condition) - GRAVITY.indexOf(b.condition) ||
    RANK[a.severity] - RANK[b.severity] ||
    (a.step ?? 0) - (b.step ?? 0) ||
    b.findings - a.findings ||
    collator.compare(a.run, b.run)
  );
}

/** The columns of settings, with whether runs differ there and what most of them have. */
function settingColumns(lines) {
  const names = new Set([...ALWAYS, ...lines.flatMap((line) => Object.keys(line.settings))]);
  return [...names]
    .map((name) => {
      const values = lines.map((line) => line.settings[name] ?? '');
      const counts = new Map();
      for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
      const most = [...counts].sort((a, b) => b[1] - a[1]);
      const usual = most.length > 1 && most[0][1] > most[1][1] ? most[0][0] : null;
      return {name, differs: counts.size > 1, usual};
    })
    .filter(({name, differs}) => differs || ALWAYS.includes(name));
}

function setting(line, {name, differs, usual}) {
  const value = line.settings[name] ?? '',
    isOther = differs && value !== usual;
  const title = isOther && usual !== null ? `most runs: ${usual || 'none'}` : undefined;
  return el('td', {className: isOther ? 'differs' : '', title, textContent: value || '–'});
}

/** How it fares, and whether it goes on: a run that ended is not well for that. */
function state({state, condition}) {
  if (!condition) return [el('span', {className: `state ${state}`, textContent: `${STATES[state]} ${state}`})];
  const mark = el('span', {textContent: CONDITIONS[condition], 'aria-hidden': 'true'});
  return [
    el('span', {className: `condition ${condition.replace(' ', '-')}`}, mark, ` ${condition}`),
    el('span', {className: `state ${state}`, textContent: `, ${state}`}),
  ];
}

function gravest(line) {
  if (!line.rule) return [el('span', {className: 'muted', textContent: line.watched ? 'none' : 'not watched'})];
  const more = line.findings > 1 ? ` +${line.findings - 1}` : '';
  return [
    sign(line.severity),
    ' ',
    el('span', {className: 'rule', textContent: line.rule}),
    ' ',
    el('span', {className: 'muted', textContent: `step ${line.step.toLocaleString('en')}${more}`}),
  ];
}

function steps(line) {
  const done = line.steps.toLocaleString('en');
  return line.total && line.total > line.steps ? `${done} of ${line.total.toLocaleString('en')}` : done;
}

const spoken = (line) =>
  [line.run, line.condition, line.state, line.severity, line.rule, ...Object.entries(line.settings).map(([k, v]) => `${k}=${v}`)]
    .join(' ')
    .toLowerCase();

/** JSON cannot carry NaN: TensorBoard writes it as a string. */
const asNumber = (value) => (typeof value === 'string' ? Number(value) : value);

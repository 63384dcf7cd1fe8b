// Loss, learning rate and gradient norm on one step axis, of one run or of two.

import {el, setOptions} from './dom.js';
import {Strip} from './strip.js';

const RATES = [/^lr(-|$)/, /learning_rate/i];
const NORMS = [/grad.*norm/i];

const firstMatch = (tags, patterns) => patterns.map((p) => tags.find((tag) => p.test(tag))).find(Boolean) ?? null;

/** Which scalars of a run the timeline shows: {loss, rate, norm} and what else may be asked for as a loss. */
export function timelineTags(run) {
  const {scalars, recorded} = run.info,
    prefix = run.optimizer?.prefix ?? 'adam';
  const foreign = scalars.filter((tag) => !/^adam[^/]*\//.test(tag)).sort();
  const candidates = run.info.losses;
  const own = (name) => (scalars.includes(`${prefix}/${name}`) ? `${prefix}/${name}` : null);
  return {
    candidates,
    loss: candidates[0] ?? null,
    rate: own('log10_lr') ?? firstMatch(foreign, RATES) ?? recorded.lr ?? null,
    norm: own('log10_gradient_norm') ?? firstMatch(foreign, NORMS) ?? recorded.gradient_norm ?? null,
  };
}

export class Timeline {
  /** onLoss(tag): the user wants another scalar as the loss. */
  constructor(view, onLoss) {
    this.pickLoss = el('select', {
      'aria-label': 'scalar shown as the loss',
      className: 'small',
      onchange: () => onLoss(this.pickLoss.value),
    });
    this.loss = new Strip(view, {title: 'Loss', height: 110, log: 'auto', control: this.pickLoss});
    this.rate = new Strip(view, {title: 'Learning rate', height: 72, log: 'auto'});
    this.norm = new Strip(view, {title: 'Gradient norm', height: 84, log: true, axis: true});
    this.elements = [this.loss.element, this.rate.element, this.norm.element];
  }

  /** runs: one or two of {name, colour, dash, tags, scalars}. */
  set(runs) {
    const [{tags}] = runs;
    const choices = runs.flatMap((run) => run.tags.candidates);
    setOptions(
      this.pickLoss,
      [...new Set(choices)].map((tag) => [tag, tag]),
      tags.loss,
    );
    this.pickLoss.hidden = !choices.length;
    const series = (role) =>
      runs.flatMap((run) => {
        const tag = run.tags[role],
          found = tag && run.scalars[tag];
        if (!found) return [];
        const plain = ([steps, values]) => ({steps, values: tag.includes('log10') ? values.map((v) => 10 ** v) : values});
        const look = {name: `${run.name}: ${tag}`, colour: run.colour, dash: run.dash};
        const lost = run.overwritten?.[tag];
        return [...(lost?.[0].length ? [{...look, ...plain(lost), faint: true}] : []), {...look, ...plain(found)}];
      });
    this.loss.set(series('loss'), 'auto');
    this.rate.set(series('rate'), 'auto');
    this.norm.set(series('norm'), true);
  }
}

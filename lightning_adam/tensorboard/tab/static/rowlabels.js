// The names before a heatmap's rows: modules fold, tensors can be picked; arrow keys move between them.

import {el} from './dom.js';

export class RowLabels {
  /** actions: pick(row), fold(path), scroll(rows). */
  constructor(actions) {
    this.actions = actions;
    this.element = el('div', {
      className: 'row-labels',
      role: 'tree',
      'aria-label': 'tensors',
      onkeydown: (event) => this.#key(event),
    });
  }

  /** rows: {node, depth} to show; offset: pixels of the first one's top; chosen: the picked tensor's index. */
  show(rows, height, offset, open, chosen) {
    while (this.element.children.length < rows.length) this.element.append(this.#label());
    while (this.element.children.length > rows.length) this.element.lastChild.remove();
    rows.forEach(({node, depth}, i) => {
      const label = this.element.children[i],
        isModule = node.row === undefined;
      label.style.transform = `translateY(${offset + i * height}px)`;
      label.style.height = `${height}px`;
      label.style.lineHeight = `${height}px`;
      label.style.paddingLeft = `${8 + depth * 12}px`;
      label.classList.toggle('module', isModule);
      label.tabIndex = i ? -1 : 0;
      const text = isModule ? `${open.has(node.path) ? '▾' : '▸'} ${node.label}` : node.label;
      if (label.firstChild.textContent !== text) label.firstChild.textContent = text;
      label.lastChild.textContent = isModule ? node.rows.length : '';
      label.title = isModule ? `${node.path}: ${node.rows.length} tensors` : node.path;
      label.setAttribute('aria-label', label.title);
      label.setAttribute('aria-level', String(depth + 1));
      label.node = node;
      label.setAttribute('aria-selected', String(!isModule && node.row === chosen));
      if (isModule) label.setAttribute('aria-expanded', String(open.has(node.path)));
      else label.removeAttribute('aria-expanded');
    });
  }

  #label() {
    const label = el(
      'button',
      {type: 'button', className: 'row-label', role: 'treeitem'},
      el('span', {className: 'text'}),
      el('span', {className: 'count'}),
    );
    label.onclick = () =>
      label.node.row === undefined ? this.actions.fold(label.node.path) : this.actions.pick(label.node.row);
    return label;
  }

  #key(event) {
    const by = {ArrowDown: 1, ArrowUp: -1}[event.key];
    const node = event.target.node;
    if (by) {
      const next = by > 0 ? event.target.nextSibling : event.target.previousSibling;
      if (next) next.focus({preventScroll: true});
      else this.actions.scroll(by);
    } else if (node?.row === undefined && ['ArrowLeft', 'ArrowRight'].includes(event.key)) {
      const isOpen = event.target.getAttribute('aria-expanded') === 'true';
      if (isOpen === (event.key === 'ArrowLeft')) this.actions.fold(node.path);
    } else return;
    event.preventDefault();
  }
}

// Panels as pictures, and what they draw as numbers.

import {el} from './dom.js';

const SKIPPED = 'select, input, button:not(.row-label), label, .choice, .tip';

/** A button that saves. */
export function save(text, title, onclick) {
  return el('button', {type: 'button', className: 'save', textContent: text, title: `save ${title}`, 'aria-label': `${text}: save ${title}`, onclick});
}

/** A table, rows of cells, as CSV. */
export function csv(rows, name) {
  const cell = (value) => (/[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  download(new Blob([rows.map((row) => row.map(cell).join(',')).join('\n'), '\n'], {type: 'text/csv'}), name);
}

/** A card as it is on the page: its canvases, the texts beside them, and the legend's colours. */
export function png(card, name) {
  const box = card.getBoundingClientRect(),
    ratio = devicePixelRatio || 1;
  const canvas = el('canvas', {width: Math.ceil(box.width * ratio), height: Math.ceil(box.height * ratio)});
  const g = canvas.getContext('2d');
  g.scale(ratio, ratio);
  g.fillStyle = getComputedStyle(card).backgroundColor;
  g.fillRect(0, 0, box.width, box.height);
  const place = (of) => {
    const {left, top, width, height} = of.getBoundingClientRect();
    return [left - box.left, top - box.top, width, height];
  };
  const shown = [...card.querySelectorAll('*')].filter((one) => one.checkVisibility() && !one.closest(SKIPPED));
  for (const one of shown) if (one.tagName === 'CANVAS') g.drawImage(one, ...place(one));
  for (const one of shown) if (one.matches('.legend-bar, .swatch, .key')) patch(g, one, place(one));
  for (const one of shown) if (one.tagName !== 'CANVAS') texts(g, one, box);
  canvas.toBlob((blob) => download(blob, name));
}

function patch(g, one, [x, y, width, height]) {
  const gradient = g.createLinearGradient(x, 0, x + width, 0);
  for (const [at, colour] of one.stops ?? []) gradient.addColorStop(at, colour);
  g.fillStyle = one.stops ? gradient : getComputedStyle(one).backgroundColor;
  g.fillRect(x, y, width, height);
}

/** The text that an element itself holds, line by line as it is wrapped. */
function texts(g, one, box) {
  const style = getComputedStyle(one);
  g.font = style.font;
  g.fillStyle = style.color;
  g.textBaseline = 'middle';
  g.textAlign = 'left';
  for (const node of one.childNodes) if (node.nodeType === Node.TEXT_NODE) lines(node, (text, x, y) => g.fillText(text, x - box.left, y - box.top));
}

function lines(node, draw) {
  const range = document.createRange();
  let text = '',
    at = null;
  for (let i = 0; i < node.length; i++) {
    range.setStart(node, i);
    range.setEnd(node, i + 1);
    const place = range.getBoundingClientRect();
    if (at && place.top > at.top + 2) {
      draw(text, at.left, at.top + at.height / 2);
      [text, at] = ['', place];
    }
    at ??= place;
    text += node.data[i];
  }
  if (text.trim()) draw(text, at.left, at.top + at.height / 2);
}

/** Any file. */
export function download(blob, name) {
  const link = el('a', {href: URL.createObjectURL(blob), download: name.replace(/[^\w.-]+/g, '_')});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

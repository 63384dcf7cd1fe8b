// A canvas on the shared step axis: sizes, pointer, brush and keys. What is drawn on it is the caller's.

import {el, hideTip, perFrame} from './dom.js';
import {format, stepTicks} from './numbers.js';
import {LEFT, RIGHT} from './view.js';

const DRAG = 4; // pixels before a press becomes a brush
const KEYS = 'ArrowLeft ArrowRight Shift+ArrowLeft Shift+ArrowRight + - Escape';

/**
 * options: height (pixels), label and read(step) (for screen readers), paint(panel), hover(step, y, event), click(step, y), axis (draw
 * step numbers).
 * The panel offers: g (context), width and height of the plot, x(step), step(x), colour(name).
 */
export class Panel {
  constructor(view, options) {
    Object.assign(this, {view, options, plotHeight: options.height});
    this.canvas = el('canvas', {className: 'plot', tabIndex: 0, role: 'slider', 'aria-label': options.label, 'aria-keyshortcuts': KEYS});
    this.element = el('div', {className: 'panel'}, this.canvas);
    this.g = this.canvas.getContext('2d');
    this.draw = perFrame(() => this.#draw());
    view.onDraw(this.draw);
    new ResizeObserver(this.draw).observe(this.element);
    this.#listen();
  }

  get width() {
    return Math.max(50, this.element.clientWidth - LEFT - RIGHT);
  }

  x(step) {
    const [low, high] = this.view.shown;
    return ((step - low) / (high - low)) * this.width;
  }

  step(x) {
    const [low, high] = this.view.shown;
    return low + (x / this.width) * (high - low);
  }

  colour(name) {
    return getComputedStyle(document.body).getPropertyValue(`--${name}`).trim();
  }

  setHeight(height) {
    if (height === this.plotHeight) return;
    this.plotHeight = height;
    this.draw();
  }

  #draw() {
    if (!this.element.clientWidth) return;
    const ratio = devicePixelRatio || 1,
      axis = this.options.axis ? 20 : 0;
    const width = this.element.clientWidth,
      height = this.plotHeight + axis;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
      this.canvas.style.height = `${height}px`;
    }
    const {g} = this;
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, width, height);
    g.font = '12px Roboto, system-ui, Arial, sans-serif';
    g.translate(LEFT, 0);
    this.options.paint(this);
    this.#overlay();
    if (axis) this.#axis();
    this.#tell();
  }

  /** The arrow keys move the step as they move a slider: that is how it is announced, with the values there. */
  #tell() {
    const {chosen} = this.view,
      [low, high] = this.view.shown;
    const said = chosen === null ? '' : this.options.read?.(chosen);
    const words = chosen === null ? 'no step chosen' : `step ${format(chosen, 7)}`;
    const told = {valuemin: low, valuemax: high, valuenow: Math.min(high, Math.max(low, chosen ?? low))};
    told.valuetext = said ? `${words}: ${said}` : words;
    for (const [name, value] of Object.entries(told)) this.canvas.setAttribute(`aria-${name}`, value);
  }

  #overlay() {
    const {g, view, plotHeight} = this;
    this.clip(() => {
      for (const mark of view.marks ?? []) this.vertical(mark.step, this.colour(mark.severity), [3, 3]);
      if (view.chosen !== null) this.vertical(view.chosen, this.colour('text'), []);
      if (view.cursor !== null) this.vertical(view.cursor, this.colour('muted'), [2, 2]);
      if (view.brush) {
        const [low, high] = view.brush.map((s) => this.x(s));
        g.globalAlpha = 0.2;
        g.fillStyle = this.colour('accent');
        g.fillRect(low, 0, high - low, plotHeight);
        g.globalAlpha = 1;
      }
    });
  }

  vertical(step, colour, dash) {
    const {g} = this,
      x = Math.round(this.x(step)) + 0.5;
    g.strokeStyle = colour;
    g.lineWidth = 1;
    g.setLineDash(dash);
    g.beginPath();
    g.moveTo(x, 0);
    g.lineTo(x, this.plotHeight);
    g.stroke();
    g.setLineDash([]);
  }

  /** Draw inside of the plot only. */
  clip(draw) {
    this.g.save();
    this.g.beginPath();
    this.g.rect(0, 0, this.width, this.plotHeight);
    this.g.clip();
    draw();
    this.g.restore();
  }

  #axis() {
    const {g} = this;
    g.fillStyle = this.colour('muted');
    g.textBaseline = 'top';
    for (const tick of stepTicks(...this.view.shown, this.width / 90)) {
      const x = this.x(tick);
      g.textAlign = x < 12 ? 'left' : x > this.width - 12 ? 'right' : 'center';
      g.fillText(tick.toLocaleString('en'), x, this.plotHeight + 6);
      g.fillRect(Math.round(x), this.plotHeight, 1, 4);
    }
    g.textAlign = 'right';
    g.fillText('step', -8, this.plotHeight + 6);
  }

  #listen() {
    this.pressed = null; // where, while the button is down
    const actions = {
      pointerdown: (event) => this.#press(event),
      pointermove: (event) => this.#move(event),
      pointerup: (event) => this.#release(event),
      pointercancel: () => (this.pressed = this.view.brush = null),
      pointerleave: () => this.#leave(),
      dblclick: () => this.view.zoom(null),
      keydown: (event) => this.#key(event),
    };
    for (const [name, action] of Object.entries(actions)) this.canvas.addEventListener(name, action);
  }

  /** Where in the plot an event is, and whether it is on it. */
  #where(event) {
    const box = this.canvas.getBoundingClientRect(),
      x = event.clientX - box.left - LEFT;
    return {x, y: event.clientY - box.top, inside: x >= 0 && x <= this.width};
  }

  #press(event) {
    const {x, inside} = this.#where(event);
    if (event.button !== 0 || !inside) return;
    this.pressed = x;
    this.canvas.setPointerCapture(event.pointerId);
  }

  #move(event) {
    const {x, y, inside} = this.#where(event),
      {pressed} = this;
    if (pressed !== null && Math.abs(x - pressed) > DRAG)
      this.view.brush = [Math.max(0, Math.min(pressed, x)), Math.min(this.width, Math.max(pressed, x))].map((at) => this.step(at));
    this.view.point(inside ? this.step(x) : null);
    if (inside && !this.view.brush) this.options.hover?.(this.step(x), y, event);
    else hideTip();
  }

  #release(event) {
    const {x, y, inside} = this.#where(event),
      {brush} = this.view,
      wasPressed = this.pressed !== null;
    this.pressed = this.view.brush = null;
    if (brush) this.view.zoom(brush);
    else if (wasPressed && inside) (this.options.click ?? ((step) => this.view.choose(Math.round(step))))(this.step(x), y);
  }

  #leave() {
    hideTip();
    this.view.point(null);
  }

  #key(event) {
    const {view} = this,
      [low, high] = view.shown;
    const clamp = (step) => Math.min(Math.floor(high), Math.max(Math.ceil(low), 0, Math.round(step)));
    const move = (by) => view.choose(clamp((view.chosen ?? low) + by));
    const actions = {
      ArrowLeft: () => (event.shiftKey ? view.zoomBy(1, -0.25) : move(-Math.max(1, (high - low) / 100))),
      ArrowRight: () => (event.shiftKey ? view.zoomBy(1, 0.25) : move(Math.max(1, (high - low) / 100))),
      '+': () => view.zoomBy(0.5),
      '-': () => view.zoomBy(2),
      Escape: () => view.zoom(null),
      Enter: () => view.chosen !== null && this.options.click?.(view.chosen, null),
    };
    if (!actions[event.key]) return;
    actions[event.key]();
    event.preventDefault();
  }
}

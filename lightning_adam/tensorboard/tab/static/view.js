// The step axis that all panels share: what is shown, where the pointer is, which step is chosen.

export const LEFT = 216; // width of the labels before every plot, so that all step axes line up
export const RIGHT = 14;

export class View {
  #listeners = new Set();
  #late = new Set();

  constructor() {
    this.full = null; // first and last step of the runs
    this.range = null; // zoomed to; null shows all
    this.cursor = null; // step under the pointer
    this.brush = null; // being dragged over
    this.chosen = null; // step of the histograms
  }

  get shown() {
    return this.range ?? this.full ?? [0, 1];
  }

  /** Listen to anything that needs a redraw. */
  onDraw(callback) {
    this.#listeners.add(callback);
  }

  /** Listen to changes of what is shown or chosen: these may need new data. */
  onChange(callback) {
    this.#late.add(callback);
  }

  redraw() {
    for (const callback of this.#listeners) callback();
  }

  #changed() {
    this.redraw();
    for (const callback of this.#late) callback();
  }

  /** Forget the steps of the run before. */
  clear() {
    this.full = null;
  }

  /** All steps of the runs lie between these. */
  cover(steps) {
    const known = [...steps, ...(this.full ?? [])].filter(Number.isFinite);
    if (!known.length) return;
    const [low, high] = [Math.min(...known), Math.max(...known)];
    this.full = high > low ? [low, high] : [low - 0.5, low + 0.5];
    if (this.range && (this.range[1] <= this.full[0] || this.range[0] >= this.full[1])) this.range = null;
    this.redraw();
  }

  zoom(range) {
    if (range && this.full) {
      const least = Math.min(2, this.full[1] - this.full[0]);
      let [low, high] = range.map((s) => Math.min(this.full[1], Math.max(this.full[0], s)));
      if (high - low < least) [low, high] = [(low + high - least) / 2, (low + high + least) / 2];
      range = low <= this.full[0] && high >= this.full[1] ? null : [low, high];
    }
    this.range = range;
    this.#changed();
  }

  /** Zoom by a factor around the pointer, or shift by a share of what is shown. */
  zoomBy(factor, shift = 0) {
    const [low, high] = this.shown,
      middle = this.cursor ?? (low + high) / 2,
      move = shift * (high - low);
    this.zoom([middle + (low - middle) * factor + move, middle + (high - middle) * factor + move]);
  }

  point(step) {
    this.cursor = step;
    this.redraw();
  }

  choose(step) {
    this.chosen = step;
    this.#changed();
  }
}

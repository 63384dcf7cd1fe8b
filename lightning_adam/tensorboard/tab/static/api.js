// Requests to the plugin's server side; nothing else is ever asked.

async function request(route, parameters = {}) {
  const url = new URL(`../${route}`, import.meta.url);
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value])
      if (one !== undefined && one !== null) url.searchParams.append(name, one);
  }
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw new Error('TensorBoard does not answer: is it still running?');
  }
  if (response.ok) return response;
  let reason = response.statusText;
  try {
    reason = (await response.json()).error;
  } catch {
    /* not ours */
  }
  throw new Error(`${route}: ${reason}`);
}

const json = async (route, parameters) => (await request(route, parameters)).json();

// TensorBoard writes NaN and infinities as strings into JSON.
const numbers = (series) => [series[0], Float64Array.from(series[1], Number)];
const allNumbers = (answer) => Object.fromEntries(Object.entries(answer).map(([name, series]) => [name, numbers(series)]));

export const runs = () => json('runs');
export const table = () => json('table');
export const run = (name) => json('run', {run: name});
export const scalars = async (name, tags) => (tags.length ? allNumbers(await json('scalars', {run: name, tag: tags})) : {});
/** What a resumed run wrote over, of each tag that has such a stretch. */
export const overwritten = async (name, tags) =>
  tags.length ? allNumbers(await json('scalars', {run: name, tag: tags, overwritten: 1})) : {};
export const rows = async (name, prefix, row, quantity) =>
  allNumbers(await json('rows', {run: name, prefix, row, quantity}));
/** Of all tensors together, and of one of them: what was logged nearest to the step. */
export const histogram = (name, tag, step) => json('histogram', {run: name, tag, step});
export const ownHistogram = (name, prefix, row, quantity, step) =>
  json('own_histogram', {run: name, prefix, row, quantity, step});

export const explanation = (code) => json('explanation', {code});
/** The doctor's report on a run, as a page of its own. */
export const report = async (name) => (await request('report', {run: name})).blob();

/**
 * One quantity of all tensors: {rows, columns, first, last, bands, sketch, values, excess, worst}; the last three are Float32Array
 * [rows × columns], excess and worst null where nothing is judged. rate: 'planned' divides the schedule's decay out. With
 * sketch the answer may be one: made of some of the steps, because reading them all takes a while.
 */
export async function matrix(name, prefix, quantity, columns, range, rate = 'planned', sketch = false) {
  const [first, last] = range ? [Math.floor(range[0]), Math.ceil(range[1])] : [];
  const asked = {run: name, prefix, quantity, columns, first, last, rate, sketch: sketch ? 1 : undefined};
  const buffer = await (await request('matrix', asked)).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const size = header.rows * header.columns;
  const plane = (i) => (i < header.planes ? new Float32Array(buffer, 4 + length + 4 * size * i, size) : null);
  return {...header, values: plane(0), excess: plane(1), worst: plane(2)};
}

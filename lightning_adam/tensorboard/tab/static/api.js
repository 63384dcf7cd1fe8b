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
export const run = (name) => json('run', {run: name});
export const scalars = async (name, tags) => (tags.length ? allNumbers(await json('scalars', {run: name, tag: tags})) : {});
export const rows = async (name, prefix, row, quantity) =>
  allNumbers(await json('rows', {run: name, prefix, row, quantity}));
export const histogram = (name, tag, step) => json('histogram', {run: name, tag, step});

/** One quantity of all tensors: {rows, columns, first, last, values: Float32Array [rows × columns]}. */
export async function matrix(name, prefix, quantity, columns, range) {
  const [first, last] = range ? [Math.floor(range[0]), Math.ceil(range[1])] : [];
  const buffer = await (await request('matrix', {run: name, prefix, quantity, columns, first, last})).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return {...header, values: new Float32Array(buffer, 4 + length)};
}

// Two runs in one picture.

import {nearest} from './numbers.js';

/**
 * First less second in a plane, at the first one's steps, tensors matched by name: decades for magnitudes. NaN where one is
 * missing.
 */
export function differenceMatrix(a, b, namesA, namesB, log, plane = 'values') {
  const values = new Float32Array(a.rows * a.columns).fill(NaN);
  const places = new Map(namesB.map((name, row) => [name, row]));
  const columns = a.first.map((step) => nearest(b.first, step));
  const inside = a.first.map((step, c) => a.last[c] >= (b.first[0] ?? Infinity) && step <= (b.last.at(-1) ?? -Infinity));
  for (let row = 0; row < a.rows; row++) {
    const other = places.get(namesA[row]);
    if (other === undefined) continue;
    for (let c = 0; c < a.columns; c++) {
      if (!inside[c]) continue;
      const one = a[plane][row * a.columns + c],
        two = b[plane][other * b.columns + columns[c]];
      values[row * a.columns + c] = !log ? one - two : one === two ? 0 : Math.log10(one / two);
    }
  }
  const kept = inside.reduce((n, yes) => n + yes, 0);
  return trim({...a, values}, inside, kept);
}

/** Only the columns that both runs have. */
function trim(matrix, inside, kept) {
  const pick = (list) => list.filter((_, c) => inside[c]);
  const values = new Float32Array(matrix.rows * kept);
  for (let row = 0, at = 0; row < matrix.rows; row++) {
    for (let c = 0; c < matrix.columns; c++) if (inside[c]) values[at++] = matrix.values[row * matrix.columns + c];
  }
  return {rows: matrix.rows, columns: kept, first: pick(matrix.first), last: pick(matrix.last), values, excess: null, worst: null};
}

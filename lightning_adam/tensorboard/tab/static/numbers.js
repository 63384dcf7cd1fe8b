// Formatting, ticks, searching.

/** Three to four significant digits, as a person writes them. */
export function format(value, digits = 3) {
  if (value === null || value === undefined) return 'none';
  if (typeof value !== 'number') return String(value);
  if (Number.isNaN(value)) return 'NaN';
  if (!Number.isFinite(value)) return value > 0 ? '+Inf' : '-Inf';
  if (value === 0) return '0';
  const size = Math.abs(value);
  if (size >= 1e-2 && size < 1e5) return String(Number(value.toPrecision(digits)));
  const [mantissa, exponent] = value.toExponential(digits - 1).split('e');
  return `${mantissa.includes('.') ? mantissa.replace(/\.?0+$/, '') : mantissa}e${Number(exponent)}`;
}

/** 1, 2 or 5 times a power of ten. */
function niceStep(span, count) {
  const raw = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((m) => m * power).find((step) => step >= raw * 0.999);
}

export function linearTicks(low, high, count) {
  if (!(high > low)) return [low];
  const step = niceStep(high - low, count);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++)
    ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

/** Ticks for steps: whole numbers only. */
export function stepTicks(low, high, count) {
  return linearTicks(low, high, Math.min(count, Math.max(1, Math.floor(high - low)))).filter(Number.isInteger);
}

/** Ticks of a log axis, given and returned as log10: decades, or finer where less than two decades show. */
export function logTicks(low, high, count) {
  const span = high - low;
  if (span >= 1.8) {
    const every = Math.ceil(span / count),
      first = Math.ceil(low / every) * every;
    return Array.from({length: Math.floor((high - first) / every) + 1}, (_, i) => first + i * every);
  }
  const fine = [];
  for (let decade = Math.floor(low); decade <= high; decade++) {
    for (const m of [1, 2, 5]) fine.push(decade + Math.log10(m));
  }
  const inside = fine.filter((tick) => tick >= low && tick <= high);
  if (inside.length >= 2) return inside;
  return linearTicks(10 ** low, 10 ** high, count)
    .filter((t) => t > 0)
    .map(Math.log10);
}

/** Index of the entry nearest to value in an ascending array; -1 where it is empty. */
export function nearest(ascending, value) {
  let low = 0,
    high = ascending.length - 1;
  if (high < 0) return -1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ascending[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low > 0 && value - ascending[low - 1] <= ascending[low] - value ? low - 1 : low;
}

/** Quantiles of the finite entries of an array of numbers, from at most 20,000 of them. */
export function quantiles(values, at) {
  const stride = Math.max(1, Math.floor(values.length / 20000));
  const finite = [];
  for (let i = 0; i < values.length; i += stride) if (Number.isFinite(values[i])) finite.push(values[i]);
  finite.sort((a, b) => a - b);
  return at.map((q) => finite[Math.round(q * (finite.length - 1))]);
}

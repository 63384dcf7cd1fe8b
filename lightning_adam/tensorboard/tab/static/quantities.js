// How each quantity of the matrix is shown: on a log scale or not, and between which fixed ends.

export const OVERVIEW = 'all_limits';

const SHARE = {log: false, low: 0, high: 1};
const magnitude = (label, low, high) => ({label, log: true, low, high}); // ends as log10
const RATE = [-6, 5],
  MOMENT = [-10, 2],
  STEP = [-9, 0];

const KNOWN = {
  [OVERVIEW]: {label: 'All limits: the worst of each cell', log: true},
  update_ratio: {label: 'Update ratio ‖Δθ‖/‖θ‖', log: true},
  gradient_surprise: {label: 'Gradient surprise RMSₜ', log: true},
  gradient_norm: {label: 'Gradient norm, times its usual', log: true},
  eps_dominated: {label: 'Share of ε in the denominator', ...SHARE},
  signal_to_noise: {label: 'Signal to noise', log: true},
  effective_lr_p50: magnitude('Effective learning rate, median', ...RATE),
  first_moment_rms: magnitude('First moment, rms of m̂', ...MOMENT),
  second_moment_rms: magnitude('Second moment, rms of √v̂', ...MOMENT),
  step_size_rms: magnitude('Step size, rms of |Δθ|', ...STEP),
  step_size_max: magnitude('Step size, largest |Δθ|', ...STEP),
  clipped_share: {label: 'Share clipped', ...SHARE},
  effective_lr_p01: magnitude('Effective learning rate, 1st percentile', ...RATE),
  effective_lr_p99: magnitude('Effective learning rate, 99th percentile', ...RATE),
  first_moment_max: magnitude('First moment, largest |m̂|', ...MOMENT),
  second_moment_min: magnitude('Second moment, smallest √v̂', ...MOMENT),
  second_moment_max: magnitude('Second moment, largest √v̂', ...MOMENT),
};

/** The settings of a quantity; one that is not known here is a share if its name says so, else a magnitude. */
export function quantity(name) {
  const label = name.replaceAll('_', ' ');
  const guess = /share|fraction|clipped/.test(name) ? {label, ...SHARE} : magnitude(label, ...MOMENT);
  return {name, ...(KNOWN[name] ?? guess)};
}

/** In the order of the table above, then what else the data has. */
export function ordered(names) {
  const known = Object.keys(KNOWN);
  const place = (name) => (known.includes(name) ? known.indexOf(name) : known.length);
  return [...names].sort((a, b) => place(a) - place(b) || a.localeCompare(b));
}

const SAME = {centre: 0, low: -1, high: 1, healthy: 'the same', ends: ['less far', 'farther']};

/** The difference of two runs in a quantity: decades where it is a magnitude. */
export function difference(of) {
  if (of.name === OVERVIEW)
    return {...of, label: 'How much farther outside its limits', log: false, ...SAME};
  const label = of.log ? `${of.label}: log10 of the first over the second` : `${of.label}: the first less the second`;
  const reach = of.log ? 2 : 0.5;
  return {name: of.name, label, log: false, centre: 0, low: -reach, high: reach, healthy: 'the same', decades: of.log};
}

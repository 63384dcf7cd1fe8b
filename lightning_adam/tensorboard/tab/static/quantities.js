// How each quantity of the matrix is shown: on a log scale or not, and around which healthy value.

const MAGNITUDE = {log: true};
const SHARE = {log: false, low: 0, high: 1};

const KNOWN = {
  update_ratio: {label: 'Update ratio ‖Δθ‖/‖θ‖', log: true, centre: -3, atLeast: 1.5, healthy: 'healthy: about 1e-3'},
  effective_lr_p50: {label: 'Effective learning rate, median', log: true},
  first_moment_rms: {label: 'First moment, rms of m̂', log: true},
  second_moment_rms: {label: 'Second moment, rms of √v̂', log: true},
  gradient_surprise: {label: 'Gradient surprise RMSₜ', log: true, centre: 0, atLeast: 0.6, healthy: 'healthy: about 1'},
  signal_to_noise: {label: 'Signal to noise', log: false, low: 0},
  clipped_share: {label: 'Share clipped', ...SHARE},
  gradient_norm: {label: 'Gradient norm ‖g‖', ...MAGNITUDE},
  step_size_rms: {label: 'Step size, rms of |Δθ|', ...MAGNITUDE},
  step_size_max: {label: 'Step size, largest |Δθ|', ...MAGNITUDE},
  eps_dominated: {label: 'Share of ε in the denominator', ...SHARE},
  effective_lr_p01: {label: 'Effective learning rate, 1st percentile', ...MAGNITUDE},
  effective_lr_p99: {label: 'Effective learning rate, 99th percentile', ...MAGNITUDE},
  first_moment_max: {label: 'First moment, largest |m̂|', ...MAGNITUDE},
  second_moment_min: {label: 'Second moment, smallest √v̂', ...MAGNITUDE},
  second_moment_max: {label: 'Second moment, largest √v̂', ...MAGNITUDE},
};

/** The settings of a quantity; one that is not known here is a share if its name says so, else a magnitude. */
export function quantity(name) {
  const guess = /share|fraction|clipped/.test(name) ? SHARE : MAGNITUDE;
  return {name, ...(KNOWN[name] ?? {label: name.replaceAll('_', ' '), ...guess})};
}

/** In the order of the table above, then what else the data has. */
export function ordered(names) {
  const known = Object.keys(KNOWN);
  const place = (name) => (known.includes(name) ? known.indexOf(name) : known.length);
  return [...names].sort((a, b) => place(a) - place(b) || a.localeCompare(b));
}

/** The difference of two runs in a quantity: decades where it is a magnitude. */
export function difference(of) {
  const label = of.log ? `${of.label}: log10 of the first over the second` : `${of.label}: the first less the second`;
  return {name: of.name, label, log: false, centre: 0, atLeast: of.log ? 0.5 : 0.1, healthy: 'the same', decades: of.log};
}

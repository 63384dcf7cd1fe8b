// Two colour maps that people with colour-vision deficiency can read: viridis (sequential, perceptually uniform), and
// blue - neutral - orange around a healthy value, interpolated in OKLab (Ottosson 2020) so that equal steps look equal.

const VIRIDIS = ['440154', '482878', '3e4989', '31688e', '26828e', '1f9e89', '35b779', '6ece58', 'b5de2b', 'fde725'];
const AROUND = {
  light: ['08306b', '2171b5', '85bcdc', 'f3f1ec', 'f2a35e', 'd25c12', '7a2403'],
  dark: ['a8d4ff', '4a9be8', '2a5f96', '34363a', '9a5418', 'ea8a33', 'ffd9a8'],
};
const ENTRIES = 256;

// Black is the one colour that stays far from all of both scales under every colour-vision deficiency: a pink, which it was,
// is to a protanope exactly the blue of steps that are too small (tests/test_tab_limits.py measures it).
const NOT_FINITE = [0, 0, 0];
// A text marker's yellow keeps clear of the light scale for every eye; on the dark one it is near the orange of a protanope, and the
// hatching of outlines.js tells the two apart.
export const SPECIAL = {
  light: {nan: NOT_FINITE, zero: [205, 208, 212], never: [243, 226, 237], marked: [255, 216, 77]},
  dark: {nan: NOT_FINITE, zero: [92, 96, 102], never: [66, 50, 60], marked: [122, 106, 30]},
};

const bytes = (hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
const toLinear = (c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
const toByte = (c) =>
  Math.round(255 * Math.min(1, Math.max(0, c <= 0.0031308 ? 12.92 * c : 1.055 * c ** (1 / 2.4) - 0.055)));

function toLab(hex) {
  const [r, g, b] = bytes(hex).map(toLinear);
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

function fromLab([lightness, a, b]) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map(toByte);
}

function table(anchors) {
  const labs = anchors.map(toLab);
  return Array.from({length: ENTRIES}, (_, i) => {
    const at = (i / (ENTRIES - 1)) * (labs.length - 1),
      k = Math.min(labs.length - 2, Math.floor(at));
    return fromLab(labs[k].map((v, j) => v + (labs[k + 1][j] - v) * (at - k)));
  });
}

const TABLES = {light: table(AROUND.light), dark: table(AROUND.dark), sequential: table(VIRIDIS)};

/** 256 colours [r, g, b], from low to high. */
export function colourTable(diverging, dark) {
  return diverging ? TABLES[dark ? 'dark' : 'light'] : TABLES.sequential;
}

/** A colour as a little-endian pixel of ImageData. */
export const pixel = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
export const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

// What TensorBoard loads. It asks at once for all modules, and for the answer that they will need first: found one behind the
// other, they would take a round trip for each level of imports, while TensorBoard itself is still starting.

const MODULES = [
  ...['api', 'app', 'colours', 'compare', 'dom', 'findings', 'heatmap', 'histogram', 'layer', 'marks', 'modules', 'numbers', 'outlines'],
  ...['panel', 'quantities', 'rowlabels', 'runs', 'save', 'scale', 'spread', 'strip', 'tensorboard', 'tensors', 'timeline', 'view'],
];

const link = (rel, path, more) =>
  Object.assign(document.createElement('link'), {rel, href: new URL(path, import.meta.url).href, ...more});

const style = link('stylesheet', 'style.css');
const styled = new Promise((resolve) => {
  style.onload = style.onerror = resolve;
});
const first = link('preload', '../runs', {as: 'fetch', crossOrigin: 'anonymous'});
document.head.append(style, first, ...MODULES.map((name) => link('modulepreload', `${name}.js`)));

export async function render() {
  const app = await import('./app.js');
  await app.render(styled);
}

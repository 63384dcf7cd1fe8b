// What TensorBoard's page around us offers: reload events, the theme, the address.

const EXPERIMENTAL = 'experimental';

/** Call back when TensorBoard reloads its data (its button or its timer); its plugin protocol is JSON over a MessagePort. */
export function onReload(callback) {
  const channel = new MessageChannel();
  channel.port1.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.isReply) return;
    if ([`${EXPERIMENTAL}.DataReloaded`, `${EXPERIMENTAL}.RunsChanged`].includes(message.type)) callback();
    channel.port1.postMessage(JSON.stringify({...message, payload: null, error: null, isReply: true}));
  };
  window.parent.postMessage(`${EXPERIMENTAL}.bootstrap`, '*', [channel.port2]);
}

/** TensorBoard gives its frames no theme: read the class of the page around us. */
export function isDark() {
  try {
    if (window.parent !== window) return window.parent.document.body.classList.contains('dark-mode');
  } catch {
    /* another origin */
  }
  return matchMedia('(prefers-color-scheme: dark)').matches;
}

export function onTheme(callback) {
  try {
    new MutationObserver(callback).observe(window.parent.document.body, {attributes: true, attributeFilter: ['class']});
  } catch {
    /* another origin */
  }
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', callback);
}

const prefix = 'p.lightning_adam.';

/** Choices in TensorBoard's address: #lightning_adam&p.lightning_adam.run=… */
export function addressed() {
  try {
    const pairs = [...new URLSearchParams(window.parent.location.hash.slice(1))];
    return Object.fromEntries(pairs.filter(([k]) => k.startsWith(prefix)).map(([k, v]) => [k.slice(prefix.length), v]));
  } catch {
    return {};
  }
}

/** Write choices into the address; those that are null or empty are left out. A new page can be gone back from. */
export function address(choices, isNewPage = false) {
  const pairs = Object.entries(choices).filter(([, value]) => value !== null && value !== undefined && value !== '');
  const hash = ['#lightning_adam', ...pairs.map(([name, value]) => `${prefix}${name}=${encodeURIComponent(value)}`)].join('&');
  try {
    const {history, location} = window.parent;
    if (location.hash !== hash) history[isNewPage ? 'pushState' : 'replaceState'](history.state, '', hash);
  } catch {
    /* another origin */
  }
}

/** Call back when the user goes back or forward, or writes another address. */
export function onAddress(callback) {
  try {
    for (const kind of ['popstate', 'hashchange']) window.parent.addEventListener(kind, callback);
  } catch {
    /* another origin */
  }
}

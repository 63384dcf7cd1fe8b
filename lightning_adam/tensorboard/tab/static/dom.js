// Small helpers for the page. Text from event files only ever goes through textContent.

/** An element with properties, attributes (aria-*, data-*, role, for) and children. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.includes('-') || name === 'role' || name === 'for') element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Replace the options of a select by [value, text] pairs; one that is open stays as it is while nothing changes. */
export function setOptions(select, pairs, chosen) {
  const key = JSON.stringify(pairs);
  if (select.dataset.pairs !== key)
    select.replaceChildren(...pairs.map(([value, textContent]) => el('option', {value, textContent})));
  select.dataset.pairs = key;
  if (select.value !== String(chosen)) select.value = chosen;
}

/** A group of buttons of which one is pressed. */
export function choice(label, pairs, chosen, onChoose) {
  const group = el('span', {className: 'choice', role: 'group', 'aria-label': label});
  const press = (value) => {
    for (const button of group.children) button.setAttribute('aria-pressed', String(button.dataset.value === value));
  };
  group.append(
    ...pairs.map(([value, textContent, title]) =>
      el('button', {
        type: 'button',
        textContent,
        title,
        'data-value': value,
        onclick: () => {
          press(value);
          onChoose(value);
        },
      }),
    ),
  );
  press(chosen);
  return group;
}

/** Call at most once per frame. */
export function perFrame(callback) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      callback();
    });
  };
}

/** Call when nothing more comes for a while. */
export function settled(callback, milliseconds) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(callback, milliseconds, ...values);
  };
}

const tip = el('div', {className: 'tip', role: 'tooltip', hidden: true});

/** Show lines of text beside the pointer; the first one is strong. */
export function showTip(lines, clientX, clientY) {
  if (!tip.isConnected) document.body.append(tip);
  tip.replaceChildren(...lines.map((textContent, i) => el('div', {textContent, className: i ? '' : 'strong'})));
  tip.hidden = false;
  const {width, height} = tip.getBoundingClientRect();
  const left = clientX + 16 + width > innerWidth ? clientX - width - 12 : clientX + 16;
  const top = clientY + 18 + height > innerHeight ? clientY - height - 10 : clientY + 18;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

export function hideTip() {
  tip.hidden = true;
}

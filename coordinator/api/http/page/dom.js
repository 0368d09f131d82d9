// Makes and changes what is on the page. Text goes in as text only: a name from a file can never be markup.

/** A new element; attributes by name, `text` is its text, functions are listeners. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Sets a text, where it is another: what stays keeps its selection, and costs nothing. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets an attribute, where it is another. */
export function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

const kept = new WeakMap();

/**
 * One child of `parent` for each item, in their order. What has the key of an item before keeps its node.
 * `create` makes {node, update} for the first sight of a key; update(item) is called every time.
 */
export function keep(parent, items, keyOf, create) {
  const before = kept.get(parent) ?? new Map();
  const now = new Map();
  let place = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    const child = before.get(key) ?? create(item);
    now.set(key, child);
    child.update(item);
    if (child.node === place) place = place.nextSibling;
    else parent.insertBefore(child.node, place);
  }
  for (const [key, child] of before) if (!now.has(key)) child.node.remove();
  kept.set(parent, now);
}

/** Pairs of a list of facts: [["step", fact], ...] as <dl>. */
export function facts(pairs) {
  return element("dl", { class: "facts" }, ...pairs.map(([name, value]) =>
    element("div", {}, element("dt", { text: name }), value)));
}

"use strict";
// Making and changing elements. Text is always set as text, never as HTML: most of it comes from others.

const Dom = (() => {
  const $ = (id) => document.getElementById(id);

  // Properties of the element; those with a hyphen are attributes.
  function make(name, properties = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(properties)) {
      if (key.includes("-") || key === "role") made.setAttribute(key, value);
      else made[key] = value;
    }
    made.append(...children);
    return made;
  }

  // Untouched where it is the same already: a selection in it stays, and no screen reader says it again.
  function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  // One child for each item, in order. A child that is there is kept, with the focus that may be in it.
  function keyed(parent, items, keyOf, create, update = () => {}) {
    const old = new Map([...parent.children].map((each) => [each.dataset.key, each]));
    let before = parent.firstElementChild;
    for (const item of items) {
      const key = String(keyOf(item));
      let child = old.get(key);
      if (!child) {
        child = create(item);
        child.dataset.key = key;
      }
      old.delete(key);
      update(child, item);
      if (child === before) before = before.nextElementSibling;
      else parent.insertBefore(child, before);
    }
    for (const each of old.values()) each.remove();
  }

  function pill(target, state, text = state) {
    target.classList.add("pill");
    if (target.dataset.state !== state) target.dataset.state = state;
    setText(target, text);
    return target;
  }

  // The options of a <select>, with the choice kept where it still is one.
  function choose(select, names, preferred, labelOf = (name) => name) {
    const now = [...select.options].map((each) => each.value);
    if (now.join("\n") === names.join("\n")) return;
    const kept = names.includes(select.value) ? select.value : preferred;
    select.replaceChildren(...names.map((each) => make("option", { value: each, textContent: labelOf(each) })));
    if (names.includes(kept)) select.value = kept;
  }

  // A list of terms and values, changed in place.
  function facts(list, pairs) {
    const create = ([name]) => make("div", {}, make("dt", { textContent: name }), make("dd"));
    keyed(list, pairs, ([name]) => name, create, (child, [, value]) => setText(child.lastChild, value));
  }

  // A message under a form: `fault` or what was done; empty text hides it.
  function tell(element, text, isFault = false) {
    element.classList.toggle("fault", isFault);
    element.hidden = !text;
    setText(element, text);
  }

  return { $, make, setText, keyed, pill, choose, facts, tell };
})();
const { $, make, setText } = Dom;

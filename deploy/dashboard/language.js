"use strict";
// The language of the page: the browser's, until the user chooses. English texts are the keys of the other languages'
// tables (words.js). What daemons publish is shown as it is.

const Language = (() => {
  const LOCALES = { en: "en", zh: "zh-CN" };
  const kept = Remember.get("language");
  let now = kept in LOCALES ? kept : navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";

  // The text in the language of the page; {name} in it becomes values.name.
  function t(text, values = {}) {
    const words = now === "en" ? text : (Words[now][text] ?? text);
    return words.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
  }

  // Translates what index.html has. `data-t` names what of an element: `text`, or an attribute.
  function apply() {
    document.documentElement.lang = LOCALES[now];
    for (const element of document.querySelectorAll("[data-t]")) {
      for (const name of element.dataset.t.split(" ")) {
        const key = `english${name.replace(/\W/g, "")}`;
        if (name === "text") {
          element.dataset.english ??= element.textContent.trim();
          element.textContent = t(element.dataset.english);
        } else {
          element.dataset[key] ??= element.getAttribute(name);
          element.setAttribute(name, t(element.dataset[key]));
        }
      }
    }
  }

  function toggle() {
    now = now === "en" ? "zh" : "en";
    Remember.set("language", now);
    apply();
  }

  // Marks a text that stands in a table and is translated where it is shown.
  const term = (text) => text;

  return { t, term, apply, toggle, locale: () => LOCALES[now] };
})();
const { t, term } = Language;

"use strict";
// What the page keeps in this browser between visits. A browser that keeps nothing (private windows) is no fault.

const Remember = (() => {
  const key = (name) => `edged.${name}`;

  function get(name) {
    try {
      return localStorage.getItem(key(name));
    } catch {
      return null;
    }
  }

  // Gives whether it was kept: the browser's room may be full.
  function set(name, text) {
    try {
      localStorage.setItem(key(name), text);
      return true;
    } catch {
      return false;
    }
  }

  function forget(name) {
    try {
      localStorage.removeItem(key(name));
    } catch {
      // then nothing was kept
    }
  }

  return { get, set, forget };
})();

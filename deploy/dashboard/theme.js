"use strict";
// Light or dark: as the system has it, until the user chooses. Loaded before the page is drawn, so that it never flashes.

const Theme = (() => {
  const CHOICES = ["auto", "light", "dark"];
  const system = matchMedia("(prefers-color-scheme: dark)");
  let choice = CHOICES.includes(Remember.get("theme")) ? Remember.get("theme") : "auto";

  function apply() {
    const isDark = choice === "auto" ? system.matches : choice === "dark";
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
  }

  // The next choice; gives its name.
  function next() {
    choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
    Remember.set("theme", choice);
    apply();
    return choice;
  }

  system.addEventListener("change", apply);
  apply();
  return { next, choice: () => choice };
})();

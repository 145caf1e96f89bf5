"use strict";
// The tabs: by pointer, and by keyboard as screen readers expect it (arrows, Home, End).

const Tabs = (() => {
  const tabs = () => [...$("tabs").children];

  const current = () => tabs().find((each) => each.getAttribute("aria-selected") === "true").getAttribute("aria-controls");

  function select(name, onChange) {
    for (const tab of tabs()) {
      const isChosen = tab.getAttribute("aria-controls") === name;
      tab.setAttribute("aria-selected", isChosen);
      tab.tabIndex = isChosen ? 0 : -1;
      $(tab.getAttribute("aria-controls")).hidden = !isChosen;
      if (isChosen) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
    Remember.set("tab", name);
    onChange(name);
  }

  function start(onChange) {
    const goTo = (tab) => {
      select(tab.getAttribute("aria-controls"), onChange);
      tab.focus();
    };
    for (const tab of tabs()) tab.addEventListener("click", () => goTo(tab));
    $("tabs").addEventListener("keydown", (event) => {
      const all = tabs();
      const at = all.findIndex((each) => each.getAttribute("aria-selected") === "true");
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      goTo(all[(to + all.length) % all.length]);
    });
    const kept = Remember.get("tab");
    select(tabs().some((each) => each.getAttribute("aria-controls") === kept) ? kept : "overview", onChange);
  }

  return { start, current };
})();

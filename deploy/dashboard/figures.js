"use strict";
// Figures as people read them, in the language of the page. Touches no element.

const Figures = (() => {
  const known = (value) => value !== null && value !== undefined;
  const formats = new Map();

  function format(value) {
    const locale = Language.locale();
    if (!formats.has(locale)) formats.set(locale, new Intl.NumberFormat(locale, { maximumFractionDigits: 1 }));
    return formats.get(locale).format(value);
  }

  const number = (value, unit = "") => (known(value) ? `${format(value)}${unit && ` ${unit}`}` : "–");
  const percent = (value) => number(value, "%");
  const megabytes = (value) => (known(value) && value >= 1024 ? number(value / 1024, "GB") : number(value, "MB"));
  const milliseconds = (value) => (known(value) && value >= 1000 ? number(value / 1000, "s") : number(value, "ms"));

  function span(seconds) {
    const units = [[term("d"), 86400], [term("h"), 3600], [term("min"), 60], [term("s"), 1]];
    const [unit, size] = units.find(([, each]) => seconds >= each) ?? ["s", 1];
    return `${Math.max(0, Math.floor(seconds / size))} ${t(unit)}`;
  }

  const sameDay = (a, b) => new Date(a).toDateString() === new Date(b).toDateString();

  // The time of day; with the date where that is another day.
  function clock(at) {
    const options = sameDay(at, Date.now()) ? {} : { month: "short", day: "numeric" };
    return new Date(at).toLocaleString(Language.locale(), { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", ...options });
  }

  return { known, number, percent, megabytes, milliseconds, span, clock };
})();

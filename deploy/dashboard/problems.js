"use strict";
// A list of what went wrong: states with their reasons, errors that requests got, warnings of the logs. Touches no page.

const Problems = (() => {
  const KEPT = 200;
  const BAD = new Set(["offline", "degraded"]);
  const LEVELS = new Set(["warning", "error"]);
  const LOG_FIELDS = new Set(["time", "level", "logger", "event", "dropped"]);

  class List {
    #counts = new Map(); // node -> how many errors its reports count, and how many were seen as answers
    #count = 0;

    constructor() {
      this.entries = []; // newest first: {number, at, node, level, kind, text}, or {…, code, more} in place of text
      this.unseen = 0;
    }

    #add(entry) {
      this.entries.unshift({ number: (this.#count += 1), ...entry });
      this.entries.length = Math.min(this.entries.length, KEPT);
      this.unseen += 1;
    }

    hearStatus(node, before, now, at) {
      const reasons = Array.isArray(now.reasons) ? now.reasons.map(String) : [];
      const state = String(now.state);
      const isSame = before.state === now.state && JSON.stringify(before.reasons ?? []) === JSON.stringify(reasons);
      if (!BAD.has(state) || isSame) return;
      this.#add({ at, node, level: state === "offline" ? "error" : "warning", kind: "state", text: [state, reasons.join("; ")].filter(Boolean).join(": ") });
    }

    hearError(node, task, error, at) {
      const code = String(error?.code ?? "error");
      const counts = this.#counts.get(node);
      if (counts) counts.seen[code] = (counts.seen[code] ?? 0) + 1;
      const text = `${code}: ${error?.message ?? ""}`;
      this.#add({ at, node, level: "error", kind: "request", text: task ? `${task}: ${text}` : text });
    }

    // Errors that this user could not see as answers: the reports count more. An answer may come after the report that
    // counts it, so an error is told with the next report.
    hearHealth(node, report, at) {
      const now = Fleet.table(report.requests?.errors);
      const counts = this.#counts.get(node);
      if (counts?.boot !== report.boot_id) {
        this.#counts.set(node, { boot: report.boot_id, first: now, seen: {}, unseen: {}, told: {} });
        return;
      }
      for (const [code, count] of Object.entries(now)) {
        const unseen = count - (counts.first[code] ?? 0) - (counts.seen[code] ?? 0);
        const certain = Math.min(unseen, counts.unseen[code] ?? 0);
        const more = certain - (counts.told[code] ?? 0);
        counts.unseen[code] = unseen;
        if (more <= 0) continue;
        counts.told[code] = certain;
        this.#add({ at, node, level: "error", kind: "request", code, more });
      }
    }

    // Gives whether the line is a problem.
    hearLog(node, line, at) {
      if (!LEVELS.has(line.level)) return false;
      const fields = Object.entries(line).filter(([name]) => !LOG_FIELDS.has(name));
      const text = [line.event, ...fields.map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`)].join(" ");
      this.#add({ at, node, level: line.level, kind: "log", text });
      return true;
    }
  }

  return { List };
})();

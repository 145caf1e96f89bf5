"use strict";
// A list of what went wrong: states with their reasons, errors that requests got, warnings of the logs. Touches no page.

const Problems = (() => {
  const KEPT = 200;
  const BAD = new Set(["offline", "degraded"]);
  const LEVELS = new Set(["warning", "error"]);
  const LOG_FIELDS = new Set(["time", "level", "logger", "event", "dropped"]);

  class List {
    #answered = new Map(); // node -> {code: errors that were seen as answers since the last report}
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
      const seen = this.#answered.get(node) ?? {};
      seen[code] = (seen[code] ?? 0) + 1;
      this.#answered.set(node, seen);
      const text = `${code}: ${error?.message ?? ""}`;
      this.#add({ at, node, level: "error", kind: "request", text: task ? `${task}: ${text}` : text });
    }

    // Errors that this user could not see as answers: the report's counts have grown by more.
    hearHealth(node, before, now, at) {
      const seen = this.#answered.get(node) ?? {};
      this.#answered.delete(node);
      if (before === null || before.boot_id !== now.boot_id) return;
      const old = Fleet.table(before.requests?.errors);
      for (const [code, count] of Object.entries(Fleet.table(now.requests?.errors))) {
        const more = count - (old[code] ?? 0) - (seen[code] ?? 0);
        if (more > 0) this.#add({ at, node, level: "error", kind: "request", code, more });
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

"use strict";
// Keeps what the daemons below a prefix have published. Touches no page and no network.

const Fleet = (() => {
  const REPORTS = 360; // of one node: three hours at an interval of 30 s
  const ANSWERS = 100;
  const NODES = 1000; // a broker that is full of nonsense must not fill the browser
  const STALE_AFTER = 3; // reports that did not come
  const GONE = new Set(["offline", "stopped"]);

  const SERIES = {
    p50: (h) => h.latency_ms?.total?.p50,
    p95: (h) => h.latency_ms?.total?.p95,
    first: (h) => h.latency_ms?.first_token?.p50,
    speed: (h) => h.tokens?.completion_per_s,
    queue: (h) => h.queue?.depth,
    memory: (h) => h.system?.memory_rss_mb,
    cpu: (h) => h.system?.cpu_percent,
    heat: (h) => h.system?.temperature_c,
  };

  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

  function parse(text) {
    try {
      const body = JSON.parse(text);
      return isObject(body) ? body : null;
    } catch {
      return null;
    }
  }

  class Node {
    constructor(name) {
      this.name = name;
      this.status = {};
      this.health = null;
      this.info = null;
      this.model = null; // R/model
      this.reports = []; // {at, <series>: number | null}, oldest first
    }

    get state() {
      return String(this.status.state ?? this.health?.state ?? "unknown");
    }

    get reasons() {
      return Array.isArray(this.status.reasons) ? this.status.reasons.map(String) : [];
    }

    get tasks() {
      return Object.keys(table(this.info?.tasks));
    }

    get lives() {
      return !GONE.has(this.state);
    }

    // Milliseconds between reports, as they came.
    get interval() {
      const gaps = this.reports.slice(-6).map((each, i, all) => (i ? each.at - all[i - 1].at : Infinity));
      const gap = Math.min(...gaps.filter((each) => each > 900));
      return Number.isFinite(gap) ? gap : 30000;
    }

    isStale(now) {
      const last = this.reports.at(-1);
      return this.lives && last !== undefined && now - last.at > STALE_AFTER * Math.max(this.interval, 10000);
    }

    report(body, at) {
      this.health = body;
      const figures = { at };
      for (const [name, read] of Object.entries(SERIES)) {
        const value = read(body);
        figures[name] = Number.isFinite(value) ? value : null;
      }
      // A report that the broker kept may be older than one that was heard before a reconnection.
      if (this.reports.length && at <= this.reports.at(-1).at) return null;
      this.reports.push(figures);
      if (this.reports.length > REPORTS) this.reports.shift();
      return figures;
    }
  }

  class Fleet {
    // `onFigures(node, figures)` gets each new report's figures.
    constructor(prefix, onFigures = () => {}) {
      this.prefix = prefix;
      this.nodes = new Map();
      this.answers = []; // newest first: {node, task, session, at, body}
      this.problems = new Problems.List();
      this.onFigures = onFigures;
    }

    get filters() {
      return ["status", "health", "info"].map((each) => `${this.prefix}/+/${each}`);
    }

    // What not every user may read.
    get extraFilters() {
      return ["out/#", "model", "log"].map((each) => `${this.prefix}/+/${each}`);
    }

    sorted() {
      return [...this.nodes.values()].sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
    }

    // Gives what changed: "node", "answer", "log" or null.
    hear(topic, text, retained, now) {
      if (!topic.startsWith(`${this.prefix}/`)) return null;
      const [name, kind, ...tail] = topic.slice(this.prefix.length + 1).split("/");
      if (kind === "status" && text === "") return this.nodes.delete(name) ? "node" : null; // its owner removed it
      const body = parse(text);
      if (body === null) return null;
      if (kind === "out") return this.#answer(name, tail, body, now);
      if (!["status", "health", "info", "model", "log"].includes(kind) || tail.length) return null;
      const node = this.#node(name);
      if (node === null) return null;
      if (kind === "log") return this.problems.hearLog(name, body, now) ? "log" : null;
      if (kind === "status") {
        this.problems.hearStatus(name, node.status, body, now);
        node.status = body;
      }
      if (kind === "info") node.info = body;
      if (kind === "model") node.model = body;
      if (kind === "health") this.#report(node, body, retained, now);
      return "node";
    }

    #report(node, body, retained, now) {
      this.problems.hearHealth(node.name, body, now);
      // A kept report is as old as it says; the box's clock may be wrong, so what comes now is of now.
      const figures = node.report(body, retained ? Math.min(Date.parse(body.time) || now, now) : now);
      if (figures) this.onFigures(node.name, figures);
    }

    #node(name) {
      if (!this.nodes.has(name) && this.nodes.size >= NODES) return null;
      if (!this.nodes.has(name)) this.nodes.set(name, new Node(name));
      return this.nodes.get(name);
    }

    #answer(name, tail, body, now) {
      if (body.status !== "ok" && body.status !== "error") return null; // a chunk of a stream
      const session = String(body.session ?? tail[1] ?? "");
      this.answers.unshift({ node: name, task: tail[0] ?? "", session, at: now, body });
      this.answers.length = Math.min(this.answers.length, ANSWERS);
      if (body.status === "error") this.problems.hearError(name, tail[0] ?? "", body.error, now);
      return "answer";
    }
  }

  // What an answer holds: verdicts with a label, texts that were written.
  function parts(body) {
    const verdicts = [];
    const texts = [];
    for (const [name, value] of Object.entries(body)) {
      if (value === null || typeof value !== "object") continue;
      if (typeof value.label === "string") verdicts.push({ part: name, ...value });
      if (typeof value.text === "string") texts.push(value.text);
      if (value.data !== null && typeof value.data === "object") texts.push(JSON.stringify(value.data)); // an extraction
    }
    return { verdicts, texts };
  }

  // An object of what should be one.
  function table(value) {
    return isObject(value) ? value : {};
  }

  return { Fleet, parts, parse, table };
})();

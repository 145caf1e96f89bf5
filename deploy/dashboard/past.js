"use strict";
// The figures of the last two days, kept in this browser: means of five minutes, of a bounded number of nodes. Touches
// no page.

const Past = (() => {
  const STEP_MS = 5 * 60 * 1000;
  const STEPS = (48 * 3600 * 1000) / STEP_MS;
  const NODES = 20; // the ones heard last; each takes some 30 kB
  const NAMES = ["p50", "p95", "first", "speed", "queue", "memory", "cpu", "heat"];

  const round = (value) => (Number.isFinite(value) ? Number(value.toPrecision(4)) : null);

  class Node {
    constructor(kept = []) {
      this.rows = kept; // [step, value, …] in the order of NAMES, oldest first
      this.step = null;
      this.sums = null; // name -> [sum, count] of the step that is not over
    }

    // Gives whether a step has ended.
    add(figures) {
      const step = Math.floor(figures.at / STEP_MS);
      const hasEnded = this.step !== null && step > this.step;
      if (hasEnded) this.close();
      if (this.sums === null) {
        this.step = step;
        this.sums = new Map(NAMES.map((name) => [name, [0, 0]]));
      }
      for (const [name, sum] of this.sums) {
        if (figures[name] === null) continue;
        sum[0] += figures[name];
        sum[1] += 1;
      }
      return hasEnded;
    }

    #mean() {
      return [this.step, ...NAMES.map((name) => this.sums.get(name)).map(([sum, count]) => round(sum / count))];
    }

    close() {
      if (this.sums === null) return;
      // After a reload of the page the step may be there: the newer part of it stands for all.
      this.rows = this.rows.filter((row) => row[0] !== this.step && row[0] > this.step - STEPS);
      this.rows.push(this.#mean());
      this.sums = null;
      this.step = null;
    }

    // Figures as a report has them, one for each step since `since`; steps without a report have none.
    since(since) {
      const rows = this.sums === null ? this.rows : [...this.rows.filter((row) => row[0] !== this.step), this.#mean()];
      const found = [];
      for (const [step, ...values] of rows) {
        const at = (step + 0.5) * STEP_MS;
        if (at < since) continue;
        const last = found.at(-1);
        if (last && at - last.at > 1.5 * STEP_MS) found.push(blank(last.at + STEP_MS));
        found.push(Object.assign(blank(at), Object.fromEntries(NAMES.map((name, i) => [name, values[i] ?? null]))));
      }
      return found;
    }
  }

  const blank = (at) => ({ at, ...Object.fromEntries(NAMES.map((name) => [name, null])) });

  class Store {
    // `place` tells brokers and prefixes apart.
    constructor(place) {
      this.place = place;
      this.nodes = new Map(); // name -> Node; the one heard last is last
    }

    #key(name) {
      return `history ${this.place} ${name}`;
    }

    #node(name) {
      const node = this.nodes.get(name) ?? new Node(read(this.#key(name)));
      this.nodes.delete(name);
      this.nodes.set(name, node);
      return node;
    }

    add(name, figures) {
      if (this.#node(name).add(figures)) this.#keep(name);
    }

    since(name, since) {
      return this.#node(name).since(since);
    }

    // Writes what is not written yet.
    close() {
      for (const [name, node] of this.nodes) {
        node.close();
        this.#keep(name);
      }
    }

    #keep(name) {
      const kept = index().filter((each) => each !== this.#key(name));
      kept.push(this.#key(name));
      while (kept.length > NODES) Remember.forget(kept.shift());
      // A full browser: the longest unheard node gives way.
      while (!Remember.set(this.#key(name), JSON.stringify(this.nodes.get(name).rows)) && kept.length > 1) Remember.forget(kept.shift());
      Remember.set("history", JSON.stringify(kept));
    }
  }

  function list(text) {
    try {
      const found = JSON.parse(text ?? "[]");
      return Array.isArray(found) ? found : [];
    } catch {
      return [];
    }
  }

  const index = () => list(Remember.get("history")).filter((each) => typeof each === "string");
  const read = (key) => list(Remember.get(key)).filter((row) => Array.isArray(row) && row.every((each) => each === null || Number.isFinite(each)));

  return { Store };
})();

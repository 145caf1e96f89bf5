"use strict";
// The nodes at a glance, and the figures of the one that is chosen: now, or over hours.

const Nodes = (() => {
  const { number, percent, megabytes, milliseconds, span, clock, known } = Figures;
  const HOUR_MS = 3600 * 1000;

  const CHARTS = [
    [term("Latency p50, ┄ p95"), ["p50", "p95"], milliseconds],
    [term("First token p50"), ["first"], milliseconds],
    [term("Tokens per second"), ["speed"], number],
    [term("Queue"), ["queue"], number],
    [term("Memory"), ["memory"], megabytes],
    [term("CPU"), ["cpu"], percent],
    [term("Temperature"), ["heat"], (value) => number(value, "°C")],
  ];

  // ---------------------------------------------------------------------------------------------------- the cards

  function drawCards(app, nodes, now) {
    Dom.keyed($("cards"), nodes, (node) => node.name, (node) => newCard(app, node.name), (card, node) => {
      card.setAttribute("aria-pressed", node.name === app.chosen);
      const isStale = node.isStale(now);
      Dom.pill(card.querySelector(".pill"), isStale ? "lost" : node.state, isStale ? t("silent") : t(node.state));
      const health = node.lives ? node.health : null;
      const [latency, speed, queue] = card.querySelectorAll("b");
      setText(latency, milliseconds(health?.latency_ms?.total?.p50));
      setText(speed, number(health?.tokens?.completion_per_s));
      setText(queue, number(health?.queue?.depth));
      setText(card.querySelector(".why"), node.lives ? node.reasons.join("; ") : "");
      const series = node.reports.slice(-60);
      Charts.draw(card.querySelector("svg"), series.map((each) => each.at), [series.map((each) => each.p50)]);
    });
  }

  function newCard(app, name) {
    const figure = (label) => make("span", {}, make("b"), label);
    const card = make(
      "button", { className: "card", type: "button" },
      make("span", { className: "head" }, make("span", { className: "name", textContent: name, title: name }), make("span", { className: "pill" })),
      make("span", { className: "trio" }, figure(t("latency p50")), figure(t("tokens/s")), figure(t("queue"))),
      Charts.svg(),
      make("span", { className: "why" }),
    );
    card.addEventListener("click", () => app.choose(name));
    return card;
  }

  // --------------------------------------------------------------------------------------------- the one that is chosen

  function drawDetail(app, node, now) {
    $("detail").hidden = !node;
    if (!node) return;
    setText($("node"), node.name);
    Dom.pill($("state"), node.state, t(node.state));
    const last = node.reports.at(-1);
    const overdue = node.isStale(now) ? t(": overdue") : "";
    setText($("age"), last ? t("last report {span} ago", { span: span((now - last.at) / 1000) }) + overdue : t("no report yet"));
    Dom.keyed($("reasons"), node.lives ? node.reasons : [], (each) => each, (each) => make("li", { textContent: each }));
    drawCharts(app, node, now);
    Dom.facts($("facts"), facts(node));
  }

  function drawCharts(app, node, now) {
    const hours = Number($("range").value);
    const reports = hours ? app.past.since(node.name, now - hours * HOUR_MS) : node.reports;
    const told = CHARTS.filter(([, [first]]) => reports.some((each) => each[first] !== null));
    $("nothing-yet").hidden = told.length > 0 || !hours;
    Dom.keyed($("charts"), told, ([title]) => title, ([title]) => newFigure(title), (figure, [title, names, format]) => {
      const times = reports.map((each) => each.at);
      const lines = names.map((name) => reports.map((each) => each[name]));
      figure.shown = { times, lines, format };
      Charts.draw(figure.querySelector("svg"), times, lines);
      setText(figure.querySelector(".ends").firstChild, times.length > 1 ? t("{span} ago", { span: span((now - times[0]) / 1000) }) : "");
      tellFigure(figure);
      const values = lines[0].filter((each) => each !== null);
      const summary = t("{title}: now {last}, lowest {low}, highest {high}", { title: t(title), last: format(values.at(-1)), low: format(Math.min(...values)), high: format(Math.max(...values)) });
      figure.querySelector(".plot").setAttribute("aria-label", summary);
    });
  }

  // The last value; where the pointer is on the chart, the value there.
  function tellFigure(figure) {
    const { times, lines, format } = figure.shown;
    const at = figure.share === undefined || times.length < 2 ? times.length - 1 : Charts.nearest(times, figure.share);
    const isNow = at === times.length - 1;
    const values = isNow ? lines.slice(0, 1) : lines;
    setText(figure.querySelector("b"), values.map((line) => format(line[at])).join(" · "));
    setText(figure.querySelector(".ends").lastChild, isNow ? t("now") : clock(times[at]));
  }

  function newFigure(title) {
    const plot = make("div", { className: "plot", role: "img", "aria-label": t(title) }, Charts.svg());
    const figure = make(
      "figure", {},
      make("figcaption", {}, make("span", { textContent: t(title) }), make("b")),
      plot,
      make("div", { className: "ends" }, make("span"), make("span", { textContent: t("now") })),
    );
    plot.addEventListener("pointermove", (event) => {
      const box = plot.getBoundingClientRect();
      figure.share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
      tellFigure(figure);
    });
    plot.addEventListener("pointerleave", () => {
      figure.share = undefined;
      tellFigure(figure);
    });
    return figure;
  }

  function facts(node) {
    const h = node.health ?? {};
    const errors = Object.entries(Fleet.table(h.requests?.errors)).map(([code, count]) => `${count} ${code}`).join(", ");
    const took = known(h.probe?.ms) ? `, ${milliseconds(h.probe.ms)}` : "";
    const probe = h.probe ? (h.probe.ok ? t("a token was decoded") : t("failed")) + took : "–";
    const runs = h.model && t("{format} on {device}, threads: {threads}", h.model);
    const pairs = [
      [term("Model"), h.model?.id ?? node.info?.model?.id ?? "–"],
      [term("Runs as"), runs ?? "–"],
      [term("Up for"), known(h.uptime_s) && node.lives ? span(h.uptime_s) : "–"],
      [term("Version"), node.status.version ?? "–"],
      [term("Answered"), number(h.requests?.answered)],
      [term("Errors"), errors || t("none")],
      [term("Prompt tokens from the cache"), h.tokens?.prompt_total ? percent((100 * h.tokens.cached_total) / h.tokens.prompt_total) : "–"],
      [term("Last probe"), probe],
      [term("Memory free"), megabytes(h.system?.memory_available_mb)],
      [term("Disk free"), megabytes(h.system?.disk_free_mb)],
      [term("Throttled"), known(h.system?.throttled) ? h.system.throttled ? t("yes") : t("no") : "–"],
      [term("Broker"), h.mqtt ? t("MQTT {protocol}, {reconnects} reconnections", h.mqtt) : "–"],
    ];
    return pairs.map(([name, value]) => [t(name), String(value)]);
  }

  function draw(app, now) {
    const nodes = app.fleet.sorted();
    $("nobody").hidden = nodes.length > 0;
    drawCards(app, nodes, now);
    drawDetail(app, app.node(), now);
  }

  function reset() {
    for (const each of ["cards", "charts", "facts"]) $(each).replaceChildren();
  }

  function start(app) {
    $("range").addEventListener("change", app.show);
  }

  return { draw, reset, start };
})();

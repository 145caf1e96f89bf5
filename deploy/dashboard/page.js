"use strict";
// The page: the connection to the broker, and what of the fleet is shown where. All text of others is set as text.

(() => {
  const $ = (id) => document.getElementById(id);
  const MAX_WAIT_MS = 120000;
  const REMEMBERED = ["url", "user", "prefix"]; // never the password
  const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

  let client = null;
  let fleet = null;
  let own = null; // {user, inbox}: as whom we ask, and where we are answered
  let chosen = null; // the node whose details are shown
  let asked = null; // the request in hand
  let isDue = false;

  // ------------------------------------------------------------------------------------------------ small helpers

  function make(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  const known = (value) => value !== null && value !== undefined;
  const number = (value, unit = "") => (known(value) ? `${NUMBER.format(value)}${unit && ` ${unit}`}` : "–");
  const megabytes = (value) => (known(value) && value >= 1024 ? number(value / 1024, "GB") : number(value, "MB"));
  const milliseconds = (value) => (known(value) && value >= 1000 ? number(value / 1000, "s") : number(value, "ms"));

  function span(seconds) {
    const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
    const [unit, size] = units.find(([, each]) => seconds >= each) ?? ["s", 1];
    return `${Math.max(0, Math.floor(seconds / size))} ${unit}`;
  }

  function pill(target, state, text = state) {
    target.className = "pill";
    target.dataset.state = state;
    target.textContent = text;
    return target;
  }

  function refuse(text) {
    $("fault").textContent = text;
    $("fault").hidden = !text;
  }

  // --------------------------------------------------------------------------------------------------- connection

  function connect(url, user, password, prefix) {
    leave();
    refuse("");
    pill($("link"), "connecting", "connecting");
    fleet = new Fleet.Fleet(prefix);
    const name = user || "dashboard";
    const id = `${name}-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
    own = { user: name, inbox: (node) => `${prefix}/${node}/reply/${name}/${id}` };
    let wasConnected = false;
    try {
      client = mqtt.connect(url, {
        protocolVersion: 5, clientId: id, username: user || undefined, password: user ? password : undefined,
        connectTimeout: 10000, reconnectPeriod: 2000, keepalive: 30,
      });
    } catch (error) {
      return giveUp(`${url} is no address of a broker: it begins with ws:// or wss:// (${error.message})`);
    }
    client.on("connect", () => {
      wasConnected = true;
      pill($("link"), "on", "connected");
      $("entry").hidden = true;
      $("main").hidden = $("leave").hidden = false;
      client.subscribe([...fleet.filters, `${own.inbox("+")}/#`], { qos: 1 }, (error) => error && giveUp(error.message));
      show();
    });
    client.on("message", (topic, payload, packet) => hear(topic, new TextDecoder().decode(payload), packet.retain));
    client.on("close", () => client && pill($("link"), "lost", wasConnected ? "connection lost, trying again" : "no answer"));
    client.on("error", (error) => {
      // 4, 5: MQTT 3.1.1; 134, 135: MQTT 5. After a refusal another attempt does not help.
      if ([4, 5, 134, 135].includes(error.code)) giveUp("The broker refuses this user or password.");
      else if (!wasConnected) giveUp(`The broker cannot be reached: ${error.message || "is the address right?"}`);
    });
    client.on("close", () => {
      // Browsers show the reason in their console only, and do not tell it to the page.
      if (client && !wasConnected) {
        const hint = url.startsWith("wss:") ? ` If its certificate is your own authority's, open ${url.replace(/^wss/, "https")} once and accept it.` : "";
        giveUp(`No broker answers at ${url}.${hint}`);
      }
    });
    return undefined;
  }

  function giveUp(reason) {
    leave();
    refuse(reason);
  }

  function leave() {
    const old = client;
    client = null;
    if (old) old.end(true);
    settle("");
    chosen = null;
    $("entry").hidden = false;
    $("main").hidden = $("leave").hidden = true;
    $("summary").textContent = "";
    pill($("link"), "off", "not connected");
  }

  function hear(topic, text, retained) {
    const levels = topic.slice(fleet.prefix.length + 1).split("/");
    if (levels[1] === "reply") hearReply(text);
    else if (fleet.hear(topic, text, retained, Date.now()) !== null) show();
  }

  // ------------------------------------------------------------------------------------------------- what is shown

  // Many messages, one drawing.
  function show() {
    if (isDue) return;
    isDue = true;
    setTimeout(() => {
      isDue = false;
      if (client) draw();
    }, 100);
  }

  function draw() {
    const nodes = fleet.sorted();
    const now = Date.now();
    if (!fleet.nodes.has(chosen)) chosen = nodes.length ? nodes[0].name : null;
    const well = nodes.filter((each) => each.state === "ready" && !each.isStale(now)).length;
    $("summary").textContent = nodes.length ? `${well} of ${nodes.length} ready` : "";
    $("nobody").hidden = nodes.length > 0;
    drawCards(nodes, now);
    drawDetail(fleet.nodes.get(chosen), now);
    drawChoices(nodes);
    drawFeed(now);
  }

  function drawCards(nodes, now) {
    const cards = new Map([...$("cards").children].map((each) => [each.dataset.node, each]));
    for (const node of nodes) {
      const card = cards.get(node.name) ?? newCard(node.name);
      cards.delete(node.name);
      card.setAttribute("aria-pressed", node.name === chosen);
      pill(card.querySelector(".pill"), node.isStale(now) ? "lost" : node.state, node.isStale(now) ? "silent" : node.state);
      const health = node.lives ? node.health : null;
      const [latency, speed, queue] = card.querySelectorAll("b");
      latency.textContent = milliseconds(health?.latency_ms?.total?.p50);
      speed.textContent = number(health?.tokens?.completion_per_s);
      queue.textContent = number(health?.queue?.depth);
      card.querySelector(".why").textContent = node.lives ? node.reasons.join("; ") : "";
      const series = node.reports.slice(-60);
      Charts.draw(card.querySelector("svg"), series.map((each) => each.at), [series.map((each) => each.p50)]);
      $("cards").append(card); // in order; one that is there is moved
    }
    for (const each of cards.values()) each.remove();
  }

  function newCard(name) {
    const figure = (label) => make("span", {}, make("b"), label);
    const card = make(
      "button", { className: "card", type: "button" },
      make("span", { className: "head" }, make("span", { className: "name", textContent: name, title: name }), make("span")),
      make("span", { className: "trio" }, figure("latency p50"), figure("tokens/s"), figure("queue")),
      Charts.svg(),
      make("span", { className: "why" }),
    );
    card.querySelector(".head").lastChild.className = "pill";
    card.dataset.node = name;
    card.addEventListener("click", () => {
      chosen = name;
      draw();
    });
    return card;
  }

  const CHARTS = [
    ["Latency p50, ┄ p95", ["p50", "p95"], milliseconds],
    ["First token p50", ["first"], milliseconds],
    ["Tokens per second", ["speed"], number],
    ["Queue", ["queue"], number],
    ["Memory", ["memory"], megabytes],
    ["CPU", ["cpu"], (value) => number(value, "%")],
    ["Temperature", ["heat"], (value) => number(value, "°C")],
  ];

  function drawDetail(node, now) {
    $("detail").hidden = !node;
    if (!node) return;
    $("node").textContent = node.name;
    pill($("state"), node.state);
    const last = node.reports.at(-1);
    $("age").textContent = last ? `last report ${span((now - last.at) / 1000)} ago${node.isStale(now) ? ": overdue" : ""}` : "no report yet";
    $("reasons").replaceChildren(...(node.lives ? node.reasons : []).map((each) => make("li", { textContent: each })));
    drawCharts(node, now);
    $("facts").replaceChildren(...facts(node).flatMap(([name, value]) => [make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))]));
  }

  function drawCharts(node, now) {
    const times = node.reports.map((each) => each.at);
    const told = CHARTS.filter(([, [first]]) => node.reports.some((each) => each[first] !== null));
    const figures = new Map([...$("charts").children].map((each) => [each.dataset.title, each]));
    for (const [title, names, format] of told) {
      const figure = figures.get(title) ?? newFigure(title);
      figures.delete(title);
      const lines = names.map((name) => node.reports.map((each) => each[name]));
      figure.querySelector("b").textContent = format(lines[0].at(-1));
      Charts.draw(figure.querySelector("svg"), times, lines);
      figure.querySelector(".ends").firstChild.textContent = times.length > 1 ? `${span((now - times[0]) / 1000)} ago` : "";
      $("charts").append(figure);
    }
    for (const each of figures.values()) each.remove();
  }

  function newFigure(title) {
    const figure = make(
      "figure", {},
      make("figcaption", {}, make("span", { textContent: title }), make("b")),
      Charts.svg(),
      make("div", { className: "ends" }, make("span"), make("span", { textContent: "now" })),
    );
    figure.dataset.title = title;
    return figure;
  }

  function facts(node) {
    const h = node.health ?? {};
    const errors = Object.entries(h.requests?.errors ?? {}).map(([code, count]) => `${count} ${code}`).join(", ");
    const probe = h.probe ? `${h.probe.ok ? "a token was decoded" : "failed"}${known(h.probe.ms) ? `, ${number(h.probe.ms, "ms")}` : ""}` : "–";
    return [
      ["Model", h.model?.id ?? node.info?.model?.id ?? "–"],
      ["Runs as", h.model ? `${h.model.format} on ${h.model.device}, ${h.model.threads} threads` : "–"],
      ["Up for", known(h.uptime_s) && node.lives ? span(h.uptime_s) : "–"],
      ["Version", node.status.version ?? "–"],
      ["Answered", number(h.requests?.answered)],
      ["Errors", errors || "none"],
      ["Prompt tokens from the cache", h.tokens?.prompt_total ? `${number((100 * h.tokens.cached_total) / h.tokens.prompt_total, "%")}` : "–"],
      ["Last probe", probe],
      ["Memory free", megabytes(h.system?.memory_available_mb)],
      ["Disk free", megabytes(h.system?.disk_free_mb)],
      ["Throttled", known(h.system?.throttled) ? (h.system.throttled ? "yes" : "no") : "–"],
      ["Broker", h.mqtt ? `MQTT ${h.mqtt.protocol}, ${number(h.mqtt.reconnects)} reconnections` : "–"],
    ];
  }

  function drawFeed() {
    $("silence").hidden = fleet.answers.length > 0;
    const shown = fleet.answers.map((answer) => {
      answer.item ??= newAnswer(answer);
      return answer.item;
    });
    if (shown[0] !== $("feed").firstChild) $("feed").replaceChildren(...shown);
  }

  function newAnswer({ node, task, at, body }) {
    const { verdicts, texts } = Fleet.parts(body);
    const isError = body.status === "error";
    const text = isError ? `${body.error?.code}: ${body.error?.message}` : texts.join("\n") || verdicts.map((each) => each.name ?? each.label).join(", ");
    const about = [new Date(at).toLocaleTimeString(), node, task, body.session, body.timings && milliseconds(body.timings.total_ms)];
    return make(
      "li", {},
      make("span", { textContent: isError ? "⚠" : verdicts[0]?.emoji || "·", title: verdicts[0]?.label ?? body.status }),
      make("span", { textContent: text, className: isError ? "error" : "" }),
      make("span", { className: "muted", textContent: about.filter(Boolean).join(" · ") }),
    );
  }

  // -------------------------------------------------------------------------------------------------- try a message

  function drawChoices(nodes) {
    const able = nodes.filter((each) => each.lives);
    choose($("to"), able.map((each) => each.name), chosen);
    const tasks = fleet.nodes.get($("to").value)?.tasks ?? [];
    choose($("task"), tasks, "message");
    $("send").disabled = asked !== null || !able.length || !tasks.length;
  }

  // Options, with the choice kept where it still is one.
  function choose(select, names, preferred) {
    const now = [...select.options].map((each) => each.value);
    if (now.join("\n") === names.join("\n")) return;
    const kept = names.includes(select.value) ? select.value : preferred;
    select.replaceChildren(...names.map((each) => make("option", { value: each, textContent: each })));
    if (names.includes(kept)) select.value = kept;
  }

  function ask() {
    const [node, task] = [$("to").value, $("task").value];
    const id = crypto.getRandomValues(new Uint32Array(4)).join("-");
    asked = { id, begin: performance.now(), timer: setTimeout(() => settle("no answer"), MAX_WAIT_MS) };
    $("answer").hidden = false;
    $("refused").hidden = true;
    $("said").textContent = $("figures").textContent = "";
    $("said").className = "open";
    $("verdicts").replaceChildren();
    $("progress").textContent = "asked";
    $("send").disabled = true;
    // In a session of the user's own name: the access list of deploy/mosquitto lets a user speak there.
    const topic = `${fleet.prefix}/${node}/in/${task}/${own.user}`;
    const body = { id, text: $("text").value, stream: true, reply_to: own.inbox(node) };
    client.publish(topic, JSON.stringify(body), { qos: 1 }, (error) => {
      if (error && asked?.id === id) settle(`the broker refuses it: ${error.message}`);
    });
  }

  function hearReply(text) {
    const body = Fleet.parse(text);
    if (!asked || body?.id !== asked.id) return;
    const seconds = (performance.now() - asked.begin) / 1000;
    if (body.status === undefined) {
      for (const [part, value] of Object.entries(body)) {
        if (typeof value?.delta === "string") $("said").textContent += value.delta;
        if (typeof value?.label === "string") drawVerdicts([{ part, ...value }]);
      }
      $("progress").textContent = `${number(seconds, "s")} …`;
    } else if (body.status === "error") {
      settle(`${body.error?.code}: ${body.error?.message}`);
    } else {
      const { verdicts, texts } = Fleet.parts(body);
      drawVerdicts(verdicts);
      $("said").textContent = texts.join("\n");
      const t = body.timings ?? {};
      const told = [`first token ${milliseconds(t.first_token_ms)}`, `all ${milliseconds(t.total_ms)}`, `${number(body.usage?.completion_tokens)} tokens`, `${number(t.tokens_per_second)} tokens/s`];
      $("figures").textContent = told.join(" · ");
      settle("");
    }
  }

  function settle(fault) {
    if (!asked) return;
    clearTimeout(asked.timer);
    asked = null;
    $("said").className = "";
    $("progress").textContent = "";
    $("refused").textContent = fault;
    $("refused").hidden = !fault;
    show();
  }

  function drawVerdicts(verdicts) {
    const drawn = verdicts.map(({ label, name, emoji, scores }) => {
      const bars = Object.entries(scores ?? {}).flatMap(([each, score]) => {
        const fill = make("i");
        fill.style.width = `${100 * score}%`;
        return [make("span", { textContent: each }), make("span", { className: "bar" }, fill), make("span", { textContent: number(100 * score, "%") })];
      });
      return make("div", { className: "verdict" }, make("b", { textContent: `${emoji ?? ""} ${label}${name && name !== label ? ` (${name})` : ""}` }), make("div", { className: "bars" }, ...bars));
    });
    $("verdicts").replaceChildren(...drawn);
  }

  // ---------------------------------------------------------------------------------------------------------- start

  $("entry").addEventListener("submit", (event) => {
    event.preventDefault();
    for (const each of REMEMBERED) localStorage.setItem(`edged.${each}`, $(each).value);
    connect($("url").value.trim(), $("user").value, $("password").value, $("prefix").value.trim());
  });
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (client && !asked) ask();
  });
  $("leave").addEventListener("click", leave);
  $("to").addEventListener("change", show);
  $("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
  });
  setInterval(() => client && show(), 1000); // ages

  // A web server that serves this page leads to the broker too (nginx.conf); a page from the disk knows of none.
  const isServed = location.protocol.startsWith("http");
  const here = new URL("mqtt", location.href); // beside the page, which may be below a path (Home Assistant's ingress)
  here.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  const given = new URLSearchParams(location.hash.slice(1));
  $("url").value = isServed ? here.href : "ws://localhost:9001/mqtt";
  for (const each of REMEMBERED) $(each).value = given.get(each) ?? localStorage.getItem(`edged.${each}`) ?? $(each).value;
})();

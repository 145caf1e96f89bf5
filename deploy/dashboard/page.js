"use strict";
// The page as a whole: who logs in where, which node is chosen, and when the views are drawn.

(() => {
  const REMEMBERED = ["url", "user", "prefix"]; // never the password

  // What the views share.
  const app = {
    broker: null, // the connection; null while there is none
    fleet: null,
    past: null,
    chosen: null, // the name of the node whose details are shown
    node: () => app.fleet?.nodes.get(app.chosen),
    choose: (name) => {
      app.chosen = name;
      draw();
    },
    draw,
    show,
  };

  // What is drawn while which tab is open.
  const VIEWS = {
    overview: [Nodes, Ask, Answers],
    traffic: [Traffic],
    tasks: [TaskView],
    model: [ModelView],
    talks: [Talks],
    problems: [Troubles],
  };
  const ALL_VIEWS = Object.values(VIEWS).flat();

  // --------------------------------------------------------------------------------------------------- connection

  function connect(url, user, password, prefix) {
    leave();
    Dom.tell($("fault"), "");
    Dom.pill($("link"), "connecting", t("connecting"));
    app.past = new Past.Store(`${url} ${prefix}`);
    app.fleet = new Fleet.Fleet(prefix, (node, figures) => app.past.add(node, figures));
    const { filters, extraFilters } = app.fleet;
    try {
      app.broker = new Broker.Connection({ url, user, password, prefix, filters, extraFilters }, { connected, heard, lost, failed });
    } catch (error) {
      failed(t("{url} is no address of a broker: it begins with ws:// or wss:// ({why})", { url, why: error.message }));
    }
  }

  function connected() {
    Dom.pill($("link"), "on", t("connected"));
    $("entry").hidden = true;
    $("main").hidden = $("leave").hidden = false;
    show();
  }

  function lost() {
    Dom.pill($("link"), "lost", t("connection lost, trying again"));
  }

  function failed(reason) {
    leave();
    Dom.tell($("fault"), reason, true);
  }

  function leave() {
    const old = app.broker;
    app.broker = null;
    if (old) old.end();
    app.past?.close();
    Ask.settle("");
    app.chosen = null;
    for (const view of ALL_VIEWS) view.reset?.(app);
    $("entry").hidden = false;
    $("main").hidden = $("leave").hidden = true;
    setText($("summary"), "");
    Dom.pill($("link"), "off", t("not connected"));
  }

  function heard(topic, text, retained) {
    const levels = topic.slice(app.fleet.prefix.length + 1).split("/");
    if (levels[1] === "reply") Ask.hear(Fleet.parse(text));
    else if (app.fleet.hear(topic, text, retained, Date.now()) !== null) show();
  }

  // ------------------------------------------------------------------------------------------------- what is shown

  let isDue = false;

  // Many messages, one drawing.
  function show() {
    if (isDue) return;
    isDue = true;
    setTimeout(() => {
      isDue = false;
      if (app.broker) draw();
    }, 100);
  }

  function draw() {
    if (!app.broker) return;
    const nodes = app.fleet.sorted();
    const now = Date.now();
    if (!app.fleet.nodes.has(app.chosen)) app.chosen = nodes.length ? nodes[0].name : null;
    const ready = nodes.filter((each) => each.state === "ready" && !each.isStale(now)).length;
    setText($("summary"), nodes.length ? t("{ready} of {all} ready", { ready, all: nodes.length }) : "");
    // Beside the cards no other choice is needed, and of one node there is none.
    $("which").hidden = nodes.length < 2 || Tabs.current() === "overview";
    Dom.choose($("to"), nodes.map((each) => each.name), app.chosen);
    $("to").value = app.chosen ?? "";
    for (const view of VIEWS[Tabs.current()]) view.draw(app, now);
    Troubles.badge(app);
  }

  function nameSwitches() {
    const names = { auto: term("Colours: as the system has them"), light: term("Colours: light"), dark: term("Colours: dark") };
    const name = t(names[Theme.choice()]);
    $("theme").setAttribute("aria-label", name);
    $("theme").title = name;
    $("theme").dataset.choice = Theme.choice();
  }

  // ---------------------------------------------------------------------------------------------------------- start

  $("entry").addEventListener("submit", (event) => {
    event.preventDefault();
    for (const each of REMEMBERED) Remember.set(each, $(each).value);
    connect($("url").value.trim(), $("user").value, $("password").value, $("prefix").value.trim());
  });
  $("leave").addEventListener("click", leave);
  $("to").addEventListener("change", () => app.choose($("to").value));
  $("theme").addEventListener("click", () => {
    Theme.next();
    nameSwitches();
  });
  $("language").addEventListener("click", () => {
    Language.toggle();
    nameSwitches();
    for (const view of ALL_VIEWS) view.reset?.(app);
    if (app.broker) Dom.pill($("link"), $("link").dataset.state, t("connected"));
    else Dom.pill($("link"), "off", t("not connected"));
    draw();
  });
  addEventListener("pagehide", () => app.past?.close());
  setInterval(() => app.broker && show(), 1000); // ages
  Language.apply();
  nameSwitches();
  Dom.pill($("link"), "off", t("not connected"));
  for (const view of ALL_VIEWS) view.start?.(app);
  Tabs.start(draw);

  // A web server that serves this page leads to the broker too (nginx.conf); a page from the disk knows of none.
  const isServed = location.protocol.startsWith("http");
  const here = new URL("mqtt", location.href); // beside the page, which may be below a path (Home Assistant's ingress)
  here.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  const given = new URLSearchParams(location.hash.slice(1));
  $("url").value = isServed ? here.href : "ws://localhost:9001/mqtt";
  for (const each of REMEMBERED) $(each).value = given.get(each) ?? Remember.get(each) ?? $(each).value;
})();

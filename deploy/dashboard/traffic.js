"use strict";
// Who sends what: the senders with their shares of the model's time, and the routes.

const Traffic = (() => {
  const { number, percent } = Figures;

  function draw(app) {
    const node = app.node();
    const h = Fleet.table(node?.health);
    Dom.facts($("request-facts"), requestFacts(Fleet.table(h.requests)));
    drawSenders(Fleet.table(h.senders));
    drawRoutes(Fleet.table(node?.info?.routes), Fleet.table(h.requests?.route_errors));
  }

  const requestFacts = (r) =>
    [
      [term("Came"), r.received], [term("By routes"), r.routed], [term("By the group's queue"), r.shared], [term("Skipped by routes"), r.skipped],
      [term("Sent again by the broker"), r.redelivered], [term("Duplicates"), r.duplicates], [term("Expired"), r.expired], [term("Cancelled"), r.cancelled],
    ].map(([name, value]) => [t(name), number(value)]);

  function drawSenders(senders) {
    const tokens = Fleet.table(senders.tokens);
    const names = [...new Set(["tokens", "requests", "in_hand", "refused"].flatMap((each) => Object.keys(Fleet.table(senders[each]))))];
    const total = Object.values(tokens).reduce((sum, each) => sum + each, 0);
    names.sort((a, b) => (tokens[b] ?? 0) - (tokens[a] ?? 0));
    $("no-sender").hidden = names.length > 0;
    $("senders").hidden = names.length === 0;
    Dom.keyed($("senders").tBodies[0], names, (name) => name, newSender, (row, name) => {
      const share = total ? (100 * (tokens[name] ?? 0)) / total : 0;
      row.querySelector("i").style.width = `${share}%`;
      const of = (figure) => number(Fleet.table(senders[figure])[name] ?? 0);
      [of("requests"), of("in_hand"), of("refused"), of("tokens"), percent(share)].forEach((text, i) => setText(row.querySelectorAll(".number")[i], text));
    });
  }

  function newSender(name) {
    const figure = () => make("td", { className: "figure" }, make("span", { className: "number" }));
    const share = make("td", { className: "figure" }, make("span", { className: "number" }), make("div", { className: "bar" }, make("i")));
    return make("tr", {}, make("th", { scope: "row", textContent: name }), figure(), figure(), figure(), figure(), share);
  }

  function drawRoutes(routes, errors) {
    const names = Object.keys(routes);
    $("no-route").hidden = names.length > 0;
    $("routes").hidden = names.length === 0;
    Dom.keyed($("routes").tBodies[0], names, (name) => name, newRoute, (row, name) => {
      const { subscribe, task, publish } = Fleet.table(routes[name]);
      const filters = Array.isArray(subscribe) ? subscribe.join("\n") : String(subscribe);
      const texts = [filters, String(task), String(publish), number(errors[name] ?? 0)];
      texts.forEach((text, i) => setText(row.querySelectorAll(".value")[i], text));
    });
  }

  function newRoute(name) {
    const cell = (properties = {}) => make("td", properties, make("code", { className: "value" }));
    return make("tr", {}, make("th", { scope: "row", textContent: name }), cell(), cell(), cell(), make("td", { className: "figure" }, make("span", { className: "value" })));
  }

  function reset() {
    $("request-facts").replaceChildren();
  }

  return { draw, reset };
})();

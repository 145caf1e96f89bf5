"use strict";
// The list of what went wrong, and how many entries came since it was looked at.

const Troubles = (() => {
  const { clock, number } = Figures;
  const KINDS = { state: term("state"), request: term("request"), log: term("log") };

  function draw(app) {
    const { problems } = app.fleet;
    problems.unseen = 0;
    const wanted = $("problem-kind").value;
    const shown = problems.entries.filter((each) => !wanted || each.kind === wanted || each.level === wanted);
    $("no-problem").hidden = shown.length > 0;
    Dom.keyed($("problem-list"), shown, (each) => each.number, newEntry);
    const node = app.node();
    const counts = Object.entries(Fleet.table(node?.health?.requests?.errors)).filter(([, count]) => count > 0);
    $("error-part").hidden = !counts.length;
    if (node) setText($("error-node"), t("Errors of {node} since its start", { node: node.name }));
    Dom.keyed($("error-counts"), counts, ([code]) => code, () => make("span", { className: "tag" }), (tag, [code, count]) => setText(tag, `${number(count)} × ${code}`));
  }

  function newEntry({ at, node, level, kind, text, code, more }) {
    const said = text ?? t("{more} × {code}, in answers that did not come by here", { more: number(more), code });
    return make(
      "li", {},
      Dom.pill(make("span"), level, t(level)),
      make("span", { textContent: said }),
      make("span", { className: "muted", textContent: [clock(at), node, t(KINDS[kind])].join(" · ") }),
    );
  }

  // On the tab itself, whichever is open.
  function badge(app) {
    const unseen = app.fleet?.problems.unseen ?? 0;
    $("unseen").hidden = unseen === 0;
    setText($("unseen"), unseen ? number(unseen) : "");
  }

  function reset() {
    Dom.tell($("log-told"), "");
    $("problem-list").replaceChildren();
  }

  function start(app) {
    $("problem-kind").addEventListener("change", app.show);
    $("log-on").addEventListener("click", async () => {
      const data = await Commands.give(app, { name: "options", body: { options: { log: { mqtt: "warning" } } }, button: $("log-on"), note: $("log-told") });
      if (data) Dom.tell($("log-told"), t("Warnings and errors of the log come here from now on."));
    });
  }

  return { draw, badge, reset, start };
})();

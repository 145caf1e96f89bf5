"use strict";
// Conversations by session: those whose answers went by here, and any other by its name. The turns come from the daemon
// where this user may ask for them; else the answers that were seen are shown.

const Talks = (() => {
  const { clock, number } = Figures;

  let picked = null; // {node, session, owner}
  let turns = null; // what the daemon told: [{role, content}]; null where it did not
  let askedFor = null; // the answer after which the turns were asked for

  const isPicked = (session) => picked?.session === session;

  function draw(app) {
    const node = app.node();
    $("talk-part").hidden = !node;
    if (!node) return;
    if (picked?.node !== node.name) picked = turns = null;
    const answers = app.fleet.answers.filter((each) => each.node === node.name && each.session);
    const sessions = new Map();
    for (const each of answers) if (!sessions.has(each.session)) sessions.set(each.session, { newest: each, count: answers.filter((other) => other.session === each.session).length });
    $("no-talk").hidden = sessions.size > 0;
    Dom.keyed($("talk-list"), [...sessions], ([session]) => session, ([session]) => newChoice(app, session), (item, [session, { newest, count }]) => {
      item.firstChild.setAttribute("aria-pressed", isPicked(session));
      setText(item.querySelector(".muted"), `${t("answers: {count}", { count: number(count) })} · ${clock(newest.at)}`);
    });
    $("talk").hidden = !picked;
    $("no-pick").hidden = Boolean(picked);
    if (!picked) return;
    const newest = sessions.get(picked.session)?.newest ?? null;
    if (turns !== null && newest !== askedFor) ask(app, newest);
    drawTurns(answers.filter((each) => isPicked(each.session)));
  }

  function newChoice(app, session) {
    const button = make("button", { type: "button" }, make("b", { textContent: session }), make("span", { className: "muted" }));
    button.addEventListener("click", () => pick(app, session, ""));
    return make("li", {}, button);
  }

  function pick(app, session, owner) {
    picked = { node: app.chosen, session, owner };
    turns = null;
    Dom.tell($("talk-told"), "");
    ask(app, app.fleet.answers.find((each) => isPicked(each.session)) ?? null);
    app.draw();
  }

  // The user's own conversations are at a topic of its name, where sessions belong to users.
  async function command(app, name, { node, session, owner }) {
    try {
      return await app.broker.command(node, name, { session, ...(owner ? { owner } : {}) });
    } catch (error) {
      if (!error.notAllowed) throw error;
      return app.broker.command(node, `${name}/${app.broker.user}`, { session }).catch(() => {
        throw error;
      });
    }
  }

  async function ask(app, newest) {
    const of = picked;
    askedFor = newest;
    try {
      const found = await command(app, "session", of);
      if (picked === of) turns = Array.isArray(found.turns) ? found.turns : [];
    } catch (error) {
      if (picked === of) Dom.tell($("talk-told"), Commands.reason(error));
    }
    app.show();
  }

  function drawTurns(answers) {
    setText($("talk-name"), picked.owner ? `${picked.owner} / ${picked.session}` : picked.session);
    $("forget").hidden = turns === null || !turns.length;
    $("no-turn").hidden = turns === null || turns.length > 0;
    const seen = [...answers].reverse().map((each) => ({ role: "assistant", content: Answers.said(each.body), at: each.at }));
    const shown = (turns ?? seen).map((turn, i) => ({ ...turn, i }));
    Dom.keyed($("turns"), shown, (turn) => `${turn.i} ${turn.role} ${turn.content}`, newTurn);
  }

  function newTurn({ role, content, at }) {
    const who = [role === "user" ? t("User") : t("Model"), at && clock(at)].filter(Boolean).join(" · ");
    return make("li", { className: role === "user" ? "user" : "" }, make("span", { className: "muted", textContent: who }), String(content));
  }

  async function forget(app) {
    const of = picked;
    if (!(await Commands.sure(t("Have {session} forgotten? Its turns are deleted on {node}.", of), t("Forget")))) return;
    try {
      const { turns: gone } = await command(app, "forget", of);
      Dom.tell($("talk-told"), t("Forgotten: {gone} turns.", { gone: number(gone) }));
      if (picked === of) turns = [];
    } catch (error) {
      Dom.tell($("talk-told"), Commands.reason(error), true);
    }
    app.show();
  }

  function reset() {
    picked = turns = null;
    Dom.tell($("talk-told"), "");
    $("talk-list").replaceChildren();
    $("turns").replaceChildren();
  }

  function start(app) {
    $("open-talk").addEventListener("submit", (event) => {
      event.preventDefault();
      pick(app, $("talk-session").value.trim(), $("talk-owner").value.trim());
    });
    $("forget").addEventListener("click", () => forget(app));
  }

  return { draw, reset, start };
})();

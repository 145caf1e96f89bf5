"use strict";
// A message is tried: sent to the chosen node, and the answer shown while it is written.

const Ask = (() => {
  const { number, percent, milliseconds } = Figures;
  const MAX_WAIT_MS = 120000;

  let asked = null; // the request in hand: {id, begin, timer}

  function draw(app) {
    const node = app.node();
    const tasks = node?.lives ? node.tasks : [];
    Dom.choose($("task"), tasks, "message");
    $("send").disabled = asked !== null || !tasks.length;
  }

  function ask(app) {
    $("answer").hidden = false;
    $("refused").hidden = true;
    $("said").textContent = $("figures").textContent = "";
    $("said").className = "open";
    $("answer").setAttribute("aria-busy", "true"); // screen readers say the whole answer, not each word
    $("verdicts").replaceChildren();
    $("progress").textContent = t("asked");
    $("send").disabled = true;
    const refused = (id, reason) => asked?.id === id && settle(t("the broker refuses it: {reason}", { reason }));
    const id = app.broker.ask(app.chosen, $("task").value, $("text").value, refused);
    asked = { id, begin: performance.now(), timer: setTimeout(() => settle(t("no answer")), MAX_WAIT_MS) };
  }

  function hear(body) {
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
      const timings = body.timings ?? {};
      $("figures").textContent = t("first token {first} · all {all} · {tokens} tokens · {speed} tokens/s", {
        first: milliseconds(timings.first_token_ms), all: milliseconds(timings.total_ms),
        tokens: number(body.usage?.completion_tokens), speed: number(timings.tokens_per_second),
      });
      settle("");
    }
  }

  function settle(fault) {
    if (!asked) return;
    clearTimeout(asked.timer);
    asked = null;
    $("said").className = "";
    $("answer").removeAttribute("aria-busy");
    $("progress").textContent = "";
    Dom.tell($("refused"), fault, true);
    $("send").disabled = false;
  }

  function drawVerdicts(verdicts) {
    const drawn = verdicts.map(({ label, name, emoji, scores }) => {
      const bars = Object.entries(Fleet.table(scores)).flatMap(([each, score]) => {
        const fill = make("i");
        fill.style.width = `${100 * score}%`;
        return [make("span", { textContent: each }), make("span", { className: "bar" }, fill), make("span", { textContent: percent(100 * score) })];
      });
      return make("div", { className: "verdict" }, make("b", { textContent: `${emoji ?? ""} ${label}${name && name !== label ? ` (${name})` : ""}` }), make("div", { className: "bars" }, ...bars));
    });
    $("verdicts").replaceChildren(...drawn);
  }

  function start(app) {
    $("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      if (app.broker && !asked) ask(app);
    });
    $("text").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
    });
  }

  return { draw, hear, settle, start };
})();

"use strict";
// Answers as they go out, newest first.

const Answers = (() => {
  const { milliseconds, clock } = Figures;

  function draw(app) {
    const answers = app.fleet.answers;
    $("silence").hidden = answers.length > 0;
    const shown = answers.map((answer) => {
      answer.item ??= newAnswer(answer);
      return answer.item;
    });
    if (shown[0] !== ($("feed").firstChild ?? undefined)) $("feed").replaceChildren(...shown);
  }

  // What an answer says in a line.
  function said(body) {
    const { verdicts, texts } = Fleet.parts(body);
    if (body.status === "error") return `${body.error?.code}: ${body.error?.message}`;
    return texts.join("\n") || verdicts.map((each) => each.name ?? each.label).join(", ");
  }

  function newAnswer({ node, task, at, body }) {
    const { verdicts } = Fleet.parts(body);
    const isError = body.status === "error";
    const about = [clock(at), node, task, body.session, body.timings && milliseconds(body.timings.total_ms)];
    return make(
      "li", {},
      make("span", { textContent: isError ? "⚠" : verdicts[0]?.emoji || "·", title: verdicts[0]?.label ?? body.status }),
      make("span", { textContent: said(body), className: isError ? "error" : "" }),
      make("span", { className: "muted", textContent: about.filter(Boolean).join(" · ") }),
    );
  }

  // After a change of the language.
  function reset(app) {
    for (const each of app.fleet?.answers ?? []) delete each.item;
    $("feed").replaceChildren();
  }

  return { draw, reset, said };
})();

"use strict";
// The settings that were changed over MQTT, and a form to change one.

const Options = (() => {
  // What came of a change, in words.
  function outcome({ changed = [], restart_required: later = [] }) {
    const told = [];
    if (changed.length) told.push(t("In force now: {names}.", { names: changed.join(", ") }));
    if (later.length) told.push(t("After a restart: {names}.", { names: later.join(", ") }));
    return told.join(" ") || t("Nothing is different from before.");
  }

  // Shows options; null where this user may not see them.
  function draw(app, options) {
    $("option-part").hidden = options === null;
    if (options === null) return;
    const settings = Patch.flat(options);
    $("no-option").hidden = settings.length > 0;
    Dom.keyed($("option-list"), settings, ([name]) => name, ([name]) => newOption(app, name), (row, [, value]) => {
      setText(row.children[1].firstChild, JSON.stringify(value));
    });
  }

  function newOption(app, name) {
    const back = make("button", { type: "button", className: "quiet", textContent: t("Take back"), "aria-label": t("Take back {name}", { name }) });
    back.addEventListener("click", () => send(app, Patch.of(name, null), back));
    return make("tr", {}, make("th", { scope: "row", textContent: name }), make("td", {}, make("code")), make("td", { className: "figure" }, back));
  }

  async function send(app, options, button) {
    const data = await Commands.give(app, { name: "options", body: { options }, button, note: $("option-told") });
    if (data === null) return false;
    await TaskView.ask(app);
    Dom.tell($("option-told"), outcome(data));
    return true;
  }

  // JSON, or else text as it is: a language need not stand in quotation marks.
  function valueOf(text) {
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  }

  function reset() {
    Dom.tell($("option-told"), "");
    $("option-list").replaceChildren();
  }

  function start(app) {
    $("option-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      const options = Patch.of($("option-name").value.trim(), valueOf($("option-value").value));
      if (await send(app, options, $("option-save"))) $("option-form").reset();
    });
  }

  return { draw, outcome, reset, start };
})();

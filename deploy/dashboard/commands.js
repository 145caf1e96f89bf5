"use strict";
// What the views with commands share: whether this user may give any, how a refusal reads, and the question before what
// is not taken back easily.

const Commands = (() => {
  const NEEDS = term("This user may not give this daemon commands. The broker decides that: log in as one who may (operator).");

  // Text for the user about what a command was refused for.
  const reason = (error) => (error.notAllowed ? t(NEEDS) : error.message);

  // Gives a command for a form: the button waits, and `note` tells a refusal. A promise of the answer's data, or null.
  async function give(app, { name, body, button, note, node = app.chosen }) {
    button.disabled = true;
    Dom.tell(note, t("asked"));
    try {
      const data = await app.broker.command(node, name, body);
      Dom.tell(note, "");
      return data;
    } catch (error) {
      Dom.tell(note, reason(error), true);
      return null;
    } finally {
      button.disabled = false;
      app.show();
    }
  }

  // A promise of whether the user is sure.
  function sure(question, go) {
    const dialog = $("sure");
    setText($("question"), question);
    setText($("go"), go);
    dialog.returnValue = "";
    return new Promise((resolve) => {
      dialog.addEventListener("close", () => resolve(dialog.returnValue === "go"), { once: true });
      dialog.showModal();
    });
  }

  return { give, reason, sure };
})();

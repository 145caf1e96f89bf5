"use strict";
// The model in use, and its change: fetch another one, switch to it, go back.

const ModelView = (() => {
  const { number, known } = Figures;

  const STATES = {
    idle: term("nothing is being done"), pulling: term("is being fetched"), loading: term("is being loaded"), judging: term("is being judged"),
    switched: term("switched"), refused: term("refused"),
  };

  let status = null; // {node, body}: where R/model may not be read, the answer to `status`
  let askedOf = null; // the node that was asked

  async function ask(app, name) {
    askedOf = name;
    try {
      status = { node: name, body: await app.broker.command(name, "model", { action: "status" }) };
      Dom.tell($("model-right"), "");
    } catch (error) {
      Dom.tell($("model-right"), Commands.reason(error));
    }
    app.show();
  }

  function draw(app) {
    const node = app.node();
    $("model-part").hidden = !node;
    if (!node) return;
    if (askedOf !== node.name && node.lives) ask(app, node.name);
    const report = node.model ?? (status?.node === node.name ? status.body : null);
    const mayChange = status?.node === node.name;
    Dom.facts($("model-facts"), facts(node, report));
    drawProgress(report);
    $("model-form").hidden = !mayChange;
    if (!mayChange) return;
    const isBusy = report?.in_progress === true;
    for (const each of ["pull", "switch", "rollback"]) $(each).disabled = isBusy;
    $("rollback").hidden = !report?.previous;
    setText($("rollback"), t("Go back to {id}", { id: short(report?.previous) ?? "" }));
  }

  // A model of a file is told by its path.
  const short = (id) => (known(id) && id.startsWith("/") ? id.split("/").at(-1) : id);

  function facts(node, report) {
    const info = Fleet.table(node.info?.model);
    const health = Fleet.table(node.health?.model);
    return [
      [term("In use"), short(report?.installed_version ?? info.id) ?? "–"],
      [term("Fetched last"), short(report?.latest_version) ?? "–"],
      [term("Before it"), short(report?.previous) ?? "–"],
      [term("Architecture"), info.architecture ?? "–"],
      [term("Parameters"), number(known(info.parameters) ? info.parameters / 1e6 : undefined, t("million"))],
      [term("Weights"), known(health.weight_bytes) ? Figures.megabytes(health.weight_bytes / 2 ** 20) : "–"],
      [term("Runs as"), info.format ? t("{format} on {device}, threads: {threads}", info) : "–"],
      [term("Compiled for"), info.kernels || "–"],
      [term("Took to load"), number(health.load_s, "s")],
    ].map(([name, value]) => [t(name), String(value)]);
  }

  function drawProgress(report) {
    const state = report?.state;
    const isBusy = report?.in_progress === true;
    $("model-progress").hidden = !isBusy;
    if (isBusy) {
      if (Number.isFinite(report.update_percentage)) $("model-progress").value = report.update_percentage;
      else $("model-progress").removeAttribute("value");
    }
    const text = !report || state === "idle" ? "" : t("Last change: {state}", { state: t(STATES[state] ?? String(state)) });
    const now = isBusy ? t("A model {state}.", { state: t(STATES[state] ?? String(state)) }) : text;
    const reason = state === "refused" && report.reason ? `: ${report.reason}` : "";
    Dom.tell($("model-state"), now + reason, state === "refused");
  }

  async function change(app, action, button) {
    const id = $("model-id").value.trim() || undefined;
    const report = app.node()?.model ?? status?.body;
    const wanted = action === "rollback" ? report?.previous : (id ?? report?.latest_version);
    const question = t("Use the model {id} from now on? It is judged first, and refused if it is worse; requests go on meanwhile.", { id: short(wanted) ?? "" });
    const back = t("Go back to the model {id}? Requests go on meanwhile.", { id: short(wanted) ?? "" });
    if (action !== "pull" && !(await Commands.sure(action === "switch" ? question : back, t("Switch")))) return;
    const body = { action, ...(id && action !== "rollback" ? { id } : {}) };
    const data = await Commands.give(app, { name: "model", body, button, note: $("model-told") });
    if (data) Dom.tell($("model-told"), t("Begun: {action} {id}", { action: t(data.started), id: short(data.id) }));
    askedOf = null;
  }

  function reset() {
    for (const each of ["model-told", "model-right"]) Dom.tell($(each), "");
    status = askedOf = null;
    $("model-facts").replaceChildren();
  }

  function start(app) {
    for (const action of ["pull", "switch", "rollback"]) $(action).addEventListener("click", () => change(app, action, $(action)));
    $("model-form").addEventListener("submit", (event) => event.preventDefault());
  }

  return { draw, reset, start };
})();

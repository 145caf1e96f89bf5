"use strict";
// The tasks with their prompts, which may be changed while the daemon runs.

const TaskView = (() => {
  const PROMPTS = { generate: "system", extract: "system", classify: "role" };
  const NEW = {
    generate: { kind: "generate", system: "", max_tokens: 60 },
    classify: { kind: "classify", labels: ["yes", "no"], role: "", examples: [] },
  };

  let known = null; // {node, boot, tasks, options}: what the daemon has told; tasks is null where it may not be asked
  let asked = 0; // the number of the last question; answers to earlier ones are void
  let isWaiting = false;
  let picked = null; // the name of the task that is edited
  let edited = null; // what the editor was made of: name and definition as text

  // ------------------------------------------------------------------------------------------------- asking for them

  async function ask(app) {
    const question = (asked += 1);
    isWaiting = true;
    const node = app.node();
    const found = { node: node.name, info: node.info, tasks: null, options: {} };
    try {
      found.tasks = Fleet.table((await app.broker.command(node.name, "tasks")).tasks);
      found.options = Fleet.table((await app.broker.command(node.name, "options", { options: {} })).options);
      found.right = "";
    } catch (error) {
      found.right = Commands.reason(error);
    }
    if (question !== asked) return;
    isWaiting = false;
    known = found;
    Dom.tell($("task-right"), found.right);
    app.draw();
  }

  function draw(app) {
    const node = app.node();
    $("task-part").hidden = !node;
    if (!node) return;
    // Told anew by R/info after each change, whoever made it.
    if (!isWaiting && node.info && (known?.node !== node.name || known.info !== node.info)) ask(app);
    const names = known?.node === node.name && known.tasks ? Object.keys(known.tasks) : node.tasks;
    if (!names.includes(picked) && edited?.isNew !== true) picked = names[0] ?? null;
    Dom.keyed($("task-list"), names, (name) => name, (name) => newChoice(app, name), (item, name) => {
      item.firstChild.setAttribute("aria-pressed", name === picked);
      setText(item.querySelector(".muted"), summary(node, name));
    });
    $("new-part").hidden = !mayEdit();
    drawEditor(app, node);
    Options.draw(app, known?.node === node.name && known.tasks ? known.options : null);
  }

  const mayEdit = () => Boolean(known?.tasks);

  function newChoice(app, name) {
    const button = make("button", { type: "button" }, make("b", { textContent: name }), make("span", { className: "muted" }));
    button.addEventListener("click", () => {
      if (picked === name && !edited?.isNew) return;
      picked = name;
      edited = null;
      Dom.tell($("task-told"), "");
      app.draw();
    });
    return make("li", {}, button);
  }

  const KINDS = {
    classify: term("gives a label"), generate: term("writes"), extract: term("finds data"), compose: term("several tasks on one message"),
  };

  function summary(node, name) {
    const kind = Fleet.table(node.info?.tasks?.[name]).kind ?? known?.tasks?.[name]?.kind;
    const isOwn = known?.tasks?.[name]?.source === "settings";
    return [t(KINDS[kind] ?? String(kind)), isOwn && t("own")].filter(Boolean).join(" · ");
  }

  // ------------------------------------------------------------------------------------------------------ the editor

  // Made anew only for another task or definition: what is being typed stays.
  function drawEditor(app, node) {
    if (edited?.isNew) return;
    const task = known?.node === node.name ? known.tasks?.[picked] : undefined;
    const text = JSON.stringify([node.name, picked, isOption(picked), task ?? node.info?.tasks?.[picked] ?? null]);
    if (edited?.text === text) return;
    edited = { text, isNew: false };
    if (task?.definition) edit(app, picked, task.definition, task);
    else look(node, picked, task);
  }

  // A task that cannot be changed here, or not by this user.
  function look(node, name, task) {
    const about = Fleet.table(node.info?.tasks?.[name]);
    const shown = [];
    if (Array.isArray(about.labels)) shown.push(tags(t("Labels"), about.labels.map((each) => `${each.emoji ?? ""} ${each.label}`.trim())));
    if (Array.isArray(about.parts)) shown.push(tags(t("Parts"), about.parts));
    if (about.schema) shown.push(make("pre", { className: "code", textContent: JSON.stringify(about.schema, null, 2) }));
    for (const [language, prompt] of Object.entries(Fleet.table(task?.prompts))) {
      shown.push(make("h3", { textContent: t("Prompt ({language})", { language }) }), make("pre", { textContent: prompt, tabIndex: 0 }));
    }
    if (task) shown.push(make("p", { className: "muted", textContent: t("The prompts of this task were measured as they are, and cannot be changed one by one. A new task of the same name takes its place.") }));
    $("task-edit").replaceChildren(heading(name, task), ...shown);
  }

  const tags = (title, names) => make("div", {}, make("h3", { textContent: title }), make("div", { className: "tags" }, ...names.map((each) => make("span", { className: "tag", textContent: each }))));

  function heading(name, task) {
    const source = task && (isOption(name) ? t("changed over MQTT") : task.source === "settings" ? t("of the settings file") : t("built in"));
    return make("div", { className: "title" }, make("h2", { textContent: name }), make("span", { className: "muted", textContent: source ?? "" }));
  }

  const isOption = (name) => name in Fleet.table(known?.options.tasks);

  function edit(app, name, definition, task) {
    const key = PROMPTS[definition.kind];
    const fields = key ? promptFields(definition[key]) : [];
    const save = make("button", { textContent: t("Save") });
    const form = make("form", { className: "edit" }, ...fields.map((each) => each.label), make("div", { className: "row" }, save));
    form.hidden = !fields.length;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const value = typeof definition[key] === "string" ? fields[0].area.value : Object.fromEntries(fields.map((each) => [each.language, each.area.value]));
      // Of a task of the settings only the prompt becomes an option; a built-in or new one becomes one as a whole.
      const base = task?.source === "settings" ? Fleet.table(Fleet.table(known.options.tasks)[name]) : definition;
      keep(app, name, { ...base, [key]: value }, save);
    });
    const back = make("button", { type: "button", className: "quiet", textContent: t("Take back what was changed over MQTT") });
    back.hidden = !isOption(name);
    back.addEventListener("click", async () => {
      if (await Commands.sure(t("Take back all changes of the task {name} that were made over MQTT?", { name }), t("Take back"))) send(app, { tasks: { [name]: null } }, back);
    });
    $("task-edit").replaceChildren(heading(name, task), form, wholeForm(app, name, definition, !key), make("div", { className: "row" }, back));
  }

  function promptFields(prompt) {
    const byLanguage = typeof prompt === "string" ? [["", prompt]] : Object.entries(Fleet.table(prompt));
    return byLanguage.map(([language, words]) => {
      const area = make("textarea", { rows: 5, value: words, required: true });
      const title = language ? t("Prompt ({language})", { language }) : t("Prompt");
      return { language, area, label: make("label", {}, make("span", { textContent: title }), area) };
    });
  }

  // The whole definition as JSON, for what has no field.
  function wholeForm(app, name, definition, isOpen) {
    const rows = Math.min(20, JSON.stringify(definition, null, 2).split("\n").length + 1);
    const area = make("textarea", { className: "code", rows, spellcheck: false, value: JSON.stringify(definition, null, 2) });
    const save = make("button", { textContent: t("Save all") });
    const form = make("form", { className: "edit" }, make("label", {}, make("span", { textContent: t("Definition, as JSON") }), area), make("div", { className: "row" }, save));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const wanted = Fleet.parse(area.value);
      if (wanted) keep(app, name, wanted, save);
      else Dom.tell($("task-told"), t("This is no JSON object."), true);
    });
    return make("details", { open: isOpen }, make("summary", { textContent: t("All of its definition") }), form);
  }

  function begin(app) {
    const name = $("new-name").value.trim();
    edited = { text: "", isNew: true };
    picked = name;
    edit(app, name, NEW[$("new-kind").value], null);
    Dom.tell($("task-told"), "");
    $("task-edit").querySelector("textarea").focus();
    app.show();
  }

  // ---------------------------------------------------------------------------------------------------------- saving

  function keep(app, name, wanted, button) {
    const patch = Patch.between(Fleet.table(Fleet.table(known.options.tasks)[name]), wanted);
    send(app, { tasks: { [name]: patch } }, button);
  }

  async function send(app, options, button) {
    const data = await Commands.give(app, { name: "options", body: { options }, button, note: $("task-told") });
    if (data === null) return;
    edited = null;
    await ask(app);
    Dom.tell($("task-told"), Options.outcome(data));
  }

  function reset() {
    asked += 1;
    isWaiting = false;
    edited = known = picked = null;
    for (const each of ["task-told", "task-right"]) Dom.tell($(each), "");
    for (const each of ["task-list", "task-edit"]) $(each).replaceChildren();
    Options.reset();
  }

  function start(app) {
    $("new-task").addEventListener("submit", (event) => {
      event.preventDefault();
      begin(app);
      $("new-task").reset();
      $("new-part").open = false;
    });
    Options.start(app);
  }

  return { draw, reset, start, ask };
})();

"use strict";
// JSON Merge Patches (RFC 7396), the form in which R/request/options takes changes. Touches no page.

const Patch = (() => {
  const isTable = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

  // The patch that makes `wanted` of `now`; both without null.
  function between(now, wanted) {
    const patch = {};
    for (const name of Object.keys(now)) if (!(name in wanted)) patch[name] = null;
    for (const [name, value] of Object.entries(wanted)) {
      if (isTable(value) && isTable(now[name])) {
        const inner = between(now[name], value);
        if (Object.keys(inner).length) patch[name] = inner;
      } else if (JSON.stringify(value) !== JSON.stringify(now[name])) {
        patch[name] = value;
      }
    }
    return patch;
  }

  // A patch of one setting by its dotted name.
  function of(name, value) {
    return name.split(".").reduceRight((inner, part) => ({ [part]: inner }), value);
  }

  // The settings of nested tables: [dotted name, value]; a task or route is one setting.
  function flat(table, above = "") {
    return Object.entries(table).flatMap(([name, value]) => {
      const isEntry = above === "tasks" || above === "routes";
      const path = above ? `${above}.${name}` : name;
      return isTable(value) && !isEntry ? flat(value, path) : [[path, value]];
    });
  }

  return { between, of, flat };
})();

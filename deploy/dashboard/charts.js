"use strict";
// Draws series of figures as lines in an SVG. Knows no topic and no daemon.

const Charts = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const WIDTH = 300;
  const HEIGHT = 100;

  function element(name, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  // The pieces of a line: runs of points without a gap.
  function runs(points) {
    const found = [[]];
    for (const [x, y] of points) {
      if (y === null) found.push([]);
      else found.at(-1).push([x, y]);
    }
    return found.filter((run) => run.length);
  }

  function path(run) {
    // One point alone is drawn as a short stroke.
    const points = run.length > 1 ? run : [[run[0][0] - 2, run[0][1]], run[0]];
    return points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  }

  // `lines`: arrays of numbers or null, as long as `times`; the first is the one that is filled.
  function draw(svg, times, lines) {
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.replaceChildren();
    const top = Math.max(...lines.flat().filter((each) => each !== null), 0) * 1.08 || 1;
    const [begin, end] = [times[0], times.at(-1)];
    const x = (at) => (end > begin ? ((at - begin) / (end - begin)) * WIDTH : WIDTH);
    const y = (value) => (value === null ? null : HEIGHT - (value / top) * (HEIGHT - 4) - 1);
    for (const share of [0.25, 0.5, 0.75]) svg.append(element("path", { class: "grid", d: `M0 ${HEIGHT * share}H${WIDTH}` }));
    lines.forEach((values, index) => {
      for (const run of runs(values.map((value, i) => [x(times[i]), y(value)]))) {
        const line = path(run);
        if (index === 0) {
          const [first, last] = [run[0][0], run.at(-1)[0]];
          svg.append(element("path", { class: "area", d: `${line}L${last} ${HEIGHT}L${first} ${HEIGHT}Z` }));
        }
        svg.append(element("path", { class: index ? "second" : "line", d: line }));
      }
    });
  }

  // The index of the time that is nearest to a share (0 to 1) of the width.
  function nearest(times, share) {
    const wanted = times[0] + share * (times.at(-1) - times[0]);
    let best = 0;
    times.forEach((at, i) => {
      if (Math.abs(at - wanted) < Math.abs(times[best] - wanted)) best = i;
    });
    return best;
  }

  return { draw, nearest, svg: () => element("svg", { "aria-hidden": "true" }) };
})();

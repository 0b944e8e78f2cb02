// Line charts: means over seeds, with bands or whiskers; arms can be switched off in the legend.

const MARKERS = {
  "": "",
  circle: "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
  square: "M-3-3h6v6h-6z",
  diamond: "M0-4.4L4.4 0L0 4.4L-4.4 0z",
  triangle: "M0-4.2L4.2 3.2H-4.2z",
  down: "M0 4.2L4.2-3.2H-4.2z",
  cross: "M-3.6-2L-2-3.6L0-1.6L2-3.6L3.6-2L1.6 0L3.6 2L2 3.6L0 1.6L-2 3.6L-3.6 2L-1.6 0z",
  plus: "M-1.2-4h2.4v2.8h2.8v2.4h-2.8v2.8h-2.4v-2.8h-2.8v-2.4h2.8z",
};

const hidden = new Set(); // names of arms that are switched off, in all charts
const charts = [];

/** Round numbers from lo to hi, about `most` of them. */
function ticks(lo, hi, most) {
  const rough = (hi - lo) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= rough);
  const found = [];
  for (let k = Math.ceil(lo / step - 1e-9); k * step <= hi + step * 1e-9; k++) found.push(k * step);
  return found;
}

/** Powers of ten and, where they are few, multiples of them. */
function logTicks(lo, hi) {
  const found = [];
  const decades = Math.log10(hi / lo);
  const factors = decades < 1 ? [1, 1.5, 2, 3, 5, 7] : decades < 2.5 ? [1, 2, 5] : [1];
  for (let p = Math.floor(Math.log10(lo)); p <= Math.log10(hi); p++) {
    for (const f of factors) if (f * 10 ** p >= lo * 0.999 && f * 10 ** p <= hi * 1.001) found.push(f * 10 ** p);
  }
  return found;
}

function swatch(arm) {
  const colour = `var(--${arm.colour})`;
  return svg("svg", { viewBox: "0 0 30 14", "aria-hidden": "true" },
    svg("path", { d: "M1 7H29", "stroke-width": 2, "stroke-dasharray": arm.dash, style: { stroke: colour } }),
    svg("path", { d: MARKERS[arm.marker], transform: "translate(15 7)", style: { fill: colour } }));
}

/**
 * Draws into `host`. `spec` says what:
 *   label, xTitle, yTitle; series() -> [{arm, mean, half}]; xText(i) names a position;
 *   domain: [lo, hi], or null to fit; log() -> true for a logarithmic axis;
 *   whiskers: true for whiskers instead of bands; parts: [{at, text}] sets stretches of x apart;
 *   format(value); value(series) -> the number in the legend.
 */
function lineChart(host, spec) {
  const legend = node("ul", { class: "legend", "aria-label": "Arms: switch on and off" });
  const drawing = svg("svg", { role: "img", tabindex: 0, "aria-label": `${spec.label}. Arrow keys read the values.` });
  const table = node("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-label": `${spec.label}, numbers` });
  const details = node("details", { ontoggle: () => details.open && fillTable() }, node("summary", {}, "Numbers"), table);
  host.append(legend, drawing, details);
  let width = 0;
  let cursor = null; // index of the position under the pointer or the arrow keys
  let geometry = null;
  let lit = null; // name of the arm that is pointed at in the legend

  const visible = () => spec.series().filter(({ arm }) => !hidden.has(arm.name));
  const positions = () => Math.max(...spec.series().map(({ mean }) => mean.length));
  const interval = (s, i) => spec.format(s.mean[i]) + (s.half ? ` ± ${spec.format(s.half[i])}` : "");

  function fillLegend() {
    const sorted = [...spec.series()].sort((a, b) => spec.value(b) - spec.value(a));
    const focused = legend.contains(document.activeElement) && document.activeElement.value;
    legend.replaceChildren(...sorted.map((s) => node("li", {},
      node("button", {
        type: "button", value: s.arm.name, "aria-pressed": String(!hidden.has(s.arm.name)),
        onclick: () => {
          if (!hidden.delete(s.arm.name)) hidden.add(s.arm.name);
          charts.forEach((chart) => chart.redraw());
        },
        onpointerenter: () => light(s.arm.name), onpointerleave: () => light(null),
        onfocus: () => light(s.arm.name), onblur: () => light(null),
      }, swatch(s.arm), s.arm.name, node("b", {}, spec.format(spec.value(s)))))));
    [...legend.querySelectorAll("button")].find((button) => button.value === focused)?.focus();
  }

  function light(name) {
    lit = hidden.has(name) ? null : name;
    drawCurves();
  }

  function fillTable() {
    const series = spec.series();
    table.replaceChildren(node("table", { class: "numbers grid" },
      node("caption", {}, spec.label),
      node("thead", {}, node("tr", {}, node("th", { scope: "col" }, spec.xTitle),
        ...series.map(({ arm }) => node("th", { scope: "col" }, arm.name)))),
      node("tbody", {}, ...Array.from({ length: positions() }, (_, i) => node("tr", {},
        node("th", { scope: "row" }, spec.xText(i)),
        ...series.map((s) => node("td", {}, i < s.mean.length ? interval(s, i) : "")))))));
  }

  function scale(shown, count) {
    const log = spec.log?.() ?? false;
    const low = shown.flatMap((s) => s.mean.map((m, i) => (log ? m : m - (s.half?.[i] ?? 0))));
    const high = shown.flatMap((s) => s.mean.map((m, i) => m + (s.half?.[i] ?? 0)));
    const positive = low.filter((v) => v > 0);
    let [lo, hi] = spec.domain ?? (log ? [Math.min(...positive, 1), Math.max(...high, 1)] : [Math.min(0, ...low), Math.max(0, ...high)]);
    if (!spec.domain && spec.limits) [lo, hi] = [Math.max(lo, spec.limits[0]), Math.min(hi, spec.limits[1])];
    if (!(hi > lo)) hi = lo + 1;
    const height = Math.round(Math.min(400, Math.max(250, width * 0.5)));
    const box = { left: 44, right: 14, top: spec.parts ? 24 : 12, bottom: 42 };
    const plot = { x0: box.left, x1: width - box.right, y0: box.top, y1: height - box.bottom };
    const pad = count > 1 ? (spec.whiskers ? 0.5 : 0.02 * (count - 1)) : 0.5;
    const x = (i) => plot.x0 + ((i + pad) / (count - 1 + 2 * pad)) * (plot.x1 - plot.x0);
    const part = (v) => (log ? Math.log(Math.max(v, lo) / lo) / Math.log(hi / lo) : (v - lo) / (hi - lo));
    const y = (v) => plot.y1 - part(v) * (plot.y1 - plot.y0);
    return { lo, hi, log, height, plot, x, y, pad };
  }

  function axes({ lo, hi, log, height, plot, x, y }, count) {
    const made = [];
    if (spec.whiskers) {
      for (let i = 1; i < count; i += 2) made.push(svg("rect", { class: "stripe", x: x(i - 0.5), y: plot.y0, width: x(i) - x(i - 1), height: plot.y1 - plot.y0 }));
    }
    for (const v of log ? logTicks(lo, hi) : ticks(lo, hi, 5)) {
      made.push(svg("line", { class: v === 0 && lo < 0 ? "zero" : "rule", x1: plot.x0, x2: plot.x1, y1: y(v), y2: y(v) }),
        svg("text", { x: plot.x0 - 7, y: y(v) + 4, "text-anchor": "end" }, minus(String(Number(v.toPrecision(6))))));
    }
    const step = spec.parts ? Infinity : Math.ceil((count * 34) / (plot.x1 - plot.x0));
    for (let i = 0; i < count; i++) {
      if (i % step === 0 && step < Infinity) made.push(svg("text", { x: x(i), y: plot.y1 + 18, "text-anchor": "middle" }, String(i + 1)));
    }
    if (spec.parts) made.push(...parts(plot, x, count));
    made.push(svg("text", { x: (plot.x0 + plot.x1) / 2, y: height - 6, "text-anchor": "middle" }, spec.xTitle),
      svg("text", { transform: `translate(11 ${(plot.y0 + plot.y1) / 2}) rotate(-90)`, "text-anchor": "middle" }, spec.yTitle));
    return made;
  }

  function parts(plot, x, count) {
    const made = [];
    let labelled = -Infinity;
    spec.parts.forEach(({ at: start, text }) => {
      const edge = start ? (x(start - 1) + x(start)) / 2 : plot.x0;
      if (start) made.push(svg("line", { class: "rule", x1: edge, x2: edge, y1: plot.y0 - 8, y2: plot.y1 }));
      if (edge > labelled) {
        made.push(svg("text", { x: edge + 4, y: plot.y0 - 10 }, text));
        labelled = edge + 52;
      }
    });
    for (const v of ticks(1, count, Math.max(2, (plot.x1 - plot.x0) / 90)).filter((v) => v >= 1 && Number.isInteger(v))) {
      made.push(svg("text", { x: x(v - 1), y: plot.y1 + 18, "text-anchor": "middle" }, String(v)));
    }
    return made;
  }

  function curves(shown, { plot, x, y, pad }, count) {
    const whiskers = spec.whiskers || count === 1; // one point has no band
    const unit = (plot.x1 - plot.x0) / (count - 1 + 2 * pad);
    const gap = whiskers ? Math.min(12, (unit * 0.7) / shown.length) : 0;
    const sparse = unit > 24;
    const parts = shown.map((s, order) => {
      const bands = svg("g");
      const lines = svg("g");
      const shift = gap * (order - (shown.length - 1) / 2);
      const colour = `var(--${s.arm.colour})`;
      const points = s.mean.map((m, i) => [x(i) + shift, y(m)]);
      if (s.half && !whiskers) {
        const up = s.mean.map((m, i) => `${x(i)} ${y(m + s.half[i])}`);
        const down = s.mean.map((m, i) => `${x(i)} ${y(m - s.half[i])}`).reverse();
        bands.append(svg("path", { class: "band", d: `M${[...up, ...down].join("L")}Z`, style: { fill: colour } }));
      }
      lines.append(svg("path", { class: whiskers ? "line thin" : "line", d: `M${points.map((p) => p.join(" ")).join("L")}`, "stroke-dasharray": s.arm.dash, style: { stroke: colour } }));
      if (s.half && whiskers) {
        const d = s.mean.map((m, i) => `M${points[i][0]} ${y(m - s.half[i])}V${y(m + s.half[i])}`).join("");
        lines.append(svg("path", { class: "whisker", d, style: { stroke: colour } }));
      }
      const shape = MARKERS[s.arm.marker || (whiskers ? "circle" : "")];
      if (shape && sparse) for (const [px, py] of points) lines.append(svg("path", { d: shape, transform: `translate(${px} ${py})`, style: { fill: colour } }));
      if (lit) for (const group of [bands, lines]) group.setAttribute("class", lit === s.arm.name ? "lit" : "faded");
      return [bands, lines];
    });
    return [...parts.map(([bands]) => bands), ...parts.map(([, lines]) => lines)];
  }

  function redraw() {
    fillLegend();
    drawCurves();
  }

  function drawCurves() {
    if (!width) return;
    const count = positions();
    const shown = visible();
    geometry = scale(shown, count);
    const { height, plot, x } = geometry;
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    drawing.setAttribute("height", height);
    const id = `clip-${charts.indexOf(api)}`;
    const clip = svg("clipPath", { id }, svg("rect", { x: plot.x0, y: plot.y0 - 4, width: plot.x1 - plot.x0, height: plot.y1 - plot.y0 + 8 }));
    drawing.replaceChildren(clip, ...axes(geometry, count), svg("g", { "clip-path": `url(#${id})` }, ...curves(shown, geometry, count)));
    if (cursor !== null) drawing.append(svg("line", { class: "cursor", x1: x(cursor), x2: x(cursor), y1: plot.y0, y2: plot.y1 }));
  }

  function point(index) {
    cursor = index;
    drawCurves();
    const rows = visible().filter((s) => index < s.mean.length).sort((a, b) => b.mean[index] - a.mean[index]);
    const title = spec.xText(index);
    const from = drawing.getBoundingClientRect();
    showTip(from.left + geometry.x(index), Math.max(from.top + 10, 10), node("strong", {}, title),
      node("table", {}, ...rows.map((s) => node("tr", {},
        node("td", {}, node("i", { class: "swatch", style: { background: `var(--${s.arm.colour})` } }), s.arm.name),
        node("td", {}, interval(s, index))))));
    return `${title}: ${rows.map((s) => `${s.arm.name} ${interval(s, index)}`).join(", ")}`;
  }

  function leave() {
    if (cursor === null) return;
    cursor = null;
    hideTip();
    drawCurves();
  }

  function nearest(event) {
    const from = drawing.getBoundingClientRect();
    const count = positions();
    const inside = (event.clientX - from.left - geometry.plot.x0) / (geometry.plot.x1 - geometry.plot.x0);
    const index = Math.round(inside * (count - 1 + 2 * geometry.pad) - geometry.pad);
    return Math.max(0, Math.min(count - 1, index));
  }

  drawing.addEventListener("pointermove", (event) => { if (nearest(event) !== cursor) point(nearest(event)); });
  drawing.addEventListener("pointerdown", (event) => point(nearest(event)));
  drawing.addEventListener("pointerleave", leave);
  drawing.addEventListener("blur", leave);
  drawing.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") leave();
    if (!move) return;
    event.preventDefault();
    const next = cursor === null ? (move > 0 ? 0 : positions() - 1) : cursor + move;
    announce(point(Math.max(0, Math.min(positions() - 1, next))));
  });

  const api = { redraw: () => { redraw(); if (details.open) fillTable(); } };
  charts.push(api);
  responsive(drawing, (w) => { width = w; redraw(); });
  return api;
}

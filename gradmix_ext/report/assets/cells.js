// Maps of classes by classes on a canvas, tasks set apart, in the colours of the page.

const probe = node("i", { hidden: true });
document.body.append(probe);

/** A colour variable of the page as [red, green, blue]. */
function rgb(name) {
  probe.style.color = `var(--${name})`;
  return getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
}

const mix = (from, to, share) => from.map((v, k) => v + (to[k] - v) * share);
const css = (colour) => `rgb(${colour.map(Math.round).join(" ")})`;

/** Relative luminance (WCAG). */
function luminance(colour) {
  const [r, g, b] = colour.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** How well two colours are told apart, from 1 to 21 (WCAG). */
function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

/** `steps` + 1 colours from one variable to another. */
function blend(from, to, steps) {
  const [start, end] = [rgb(from), rgb(to)];
  return Array.from({ length: steps + 1 }, (_, k) => mix(start, end, k / steps));
}

/** 2 `steps` + 1 colours from harm over neutral to help. */
function diverging(steps) {
  return [...blend("harm", "neutral", steps), ...blend("neutral", "help", steps).slice(1)];
}

/**
 * A map in `host`; `spec.label`, `spec.rows` and `spec.columns` name it and its axes. draw(state)
 * shows
 *   sizes: classes of each task; names: of all classes; shown: how many classes have come;
 *   colour(r, c) -> [r, g, b]; texts(r, c) -> what a cell may say, from long to short;
 *   describe(r, c) -> one line.
 */
function cellMap(host, readout, spec) {
  const canvas = node("canvas", { role: "img", tabindex: 0, "aria-label": spec.label });
  host.append(canvas);
  const context = canvas.getContext("2d");
  let width = 0;
  let state = null;
  let chosen = null; // [row, column] under the pointer or the arrow keys
  let layout = null;

  function measure() {
    const { sizes, names } = state;
    context.font = "12px system-ui, sans-serif";
    const longest = Math.min(84, Math.max(...names.map((name) => context.measureText(name).width)));
    const gap = names.length > 40 || sizes.length > 10 ? 2 : 4;
    const outer = 38; // axis title and task numbers
    const fits = (width - outer - longest - 8 - gap * sizes.length) / names.length >= 12;
    const inner = fits ? longest + 8 : 4;
    const start = outer + inner;
    const cell = (width - start - gap * (sizes.length - 1) - 1) / names.length;
    const task = sizes.flatMap((size, t) => Array(size).fill(t));
    const edge = names.map((_, k) => start + k * cell + gap * task[k]);
    const rotated = fits && longest > cell - 4;
    return { start, cell, edge, task, labels: fits, rotated, inner };
  }

  function draw() {
    if (!width || !state) return;
    layout = measure();
    const { edge, cell } = layout;
    const size = edge.at(-1) + cell + 1;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(size * ratio);
    canvas.style.height = `${size}px`;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, size);
    drawCells();
    drawLabels(size);
    if (chosen) {
      context.strokeStyle = css(rgb("ink"));
      context.lineWidth = 2;
      context.strokeRect(edge[chosen[1]] - 0.5, edge[chosen[0]] - 0.5, cell + 1, cell + 1);
    }
  }

  function drawCells() {
    const { edge, cell } = layout;
    const inset = cell > 9 ? 0.5 : 0;
    const [ink, paper, line, raised] = ["ink", "paper", "line", "raised"].map(rgb);
    context.font = `${Math.min(14, Math.round(cell * 0.42 + 1))}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    const wording = chooseWording();
    for (let r = 0; r < edge.length; r++) {
      for (let c = 0; c < edge.length; c++) {
        if (Math.max(r, c) >= state.shown) {
          const size = cell > 9 ? 2 : cell; // a dot for what is still to come
          context.fillStyle = css(cell > 9 ? line : raised);
          context.fillRect(edge[c] + (cell - size) / 2, edge[r] + (cell - size) / 2, size, size);
          continue;
        }
        const colour = state.colour(r, c);
        context.fillStyle = css(colour);
        context.fillRect(edge[c] + inset, edge[r] + inset, cell - 2 * inset, cell - 2 * inset);
        if (wording >= 0) {
          context.fillStyle = css(contrast(colour, ink) >= contrast(colour, paper) ? ink : paper);
          context.fillText(state.texts(r, c)[wording], edge[c] + cell / 2, edge[r] + cell / 2 + 0.5);
        }
      }
    }
  }

  /** Which of the texts of a cell is the first that fits into all cells; -1 if none does. */
  function chooseWording() {
    const cells = Array.from({ length: state.shown ** 2 }, (_, k) => [Math.floor(k / state.shown), k % state.shown]);
    const fits = (text) => context.measureText(text).width <= layout.cell - 2;
    if (layout.cell < 15) return -1;
    return state.texts(0, 0).findIndex((_, k) => cells.every(([r, c]) => fits(state.texts(r, c)[k])));
  }

  function drawLabels(size) {
    const { edge, cell, task, labels, rotated, start } = layout;
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = css(rgb("soft"));
    context.strokeStyle = css(rgb("line"));
    context.lineWidth = 1;
    if (labels) state.names.forEach((name, k) => {
      const middle = edge[k] + cell / 2;
      text(clip(name, 84), start - 5, middle, 0, "right");
      if (rotated) text(clip(name, 84), middle, start - 5, -90, "left");
      else text(name, middle, start - 9, 0, "center");
    });
    state.sizes.forEach((count, t) => {
      const first = task.indexOf(t);
      const [from, to] = [edge[first], edge[first + count - 1] + cell];
      if (to - from < 12) return;
      context.beginPath();
      context.moveTo(from + 1, 34.5);
      context.lineTo(to - 1, 34.5);
      context.moveTo(34.5, from + 1);
      context.lineTo(34.5, to - 1);
      context.stroke();
      const name = to - from > 44 ? `task ${t + 1}` : String(t + 1);
      text(name, (from + to) / 2, 26, 0, "center");
      text(name, 26, (from + to) / 2, -90, "center");
    });
    text(spec.columns, (start + size) / 2, 7, 0, "center");
    text(spec.rows, 7, (start + size) / 2, -90, "center");
  }

  function clip(name, most) {
    let kept = name;
    while (kept.length > 1 && context.measureText(kept).width > most) kept = `${kept.slice(0, -2)}…`;
    return kept;
  }

  function text(what, x, y, degrees, align) {
    context.save();
    context.translate(x, y);
    context.rotate((degrees * Math.PI) / 180);
    context.textAlign = align;
    context.textBaseline = "middle";
    context.fillText(what, 0, 0);
    context.restore();
  }

  function choose(cell) {
    chosen = cell && Math.max(...cell) < state.shown ? cell : null;
    readout.textContent = chosen ? state.describe(...chosen) : spec.hint;
    draw();
  }

  function under(event) {
    const from = canvas.getBoundingClientRect();
    const find = (position) => layout.edge.findIndex((e) => position >= e && position < e + layout.cell);
    const cell = [find(event.clientY - from.top), find(event.clientX - from.left)];
    return Math.min(...cell) < 0 ? null : cell;
  }

  canvas.addEventListener("pointermove", (event) => choose(under(event)));
  canvas.addEventListener("pointerdown", (event) => choose(under(event)));
  canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && choose(null));
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (event.key === "Escape") choose(null);
    if (!move || !state) return;
    event.preventDefault();
    const next = chosen ? chosen.map((v, k) => Math.max(0, Math.min(state.shown - 1, v + move[k]))) : [0, 0];
    choose(next);
    announce(state.describe(...next));
  });

  responsive(canvas, (w) => { width = w; draw(); });
  return {
    draw(next) {
      state = next;
      canvas.setAttribute("aria-label", `${spec.label}, ${next.title}. Arrow keys read single cells.`);
      choose(chosen);
    },
    redraw: draw,
  };
}

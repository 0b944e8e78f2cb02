// Elements, controls, the tooltip and what screen readers hear.

const SVG = "http://www.w3.org/2000/svg";

function node(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Text is always set as text, so nothing in a run can become markup. */
function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, to] of Object.entries(value)) made.style.setProperty(key, to);
    else if (typeof value === "boolean") made.toggleAttribute(name, value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** A number with a true minus sign, and never "−0". */
const minus = (text) => (Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−"));
const percent = (value, digits = 1) => minus(value.toFixed(digits));
const short = (value, digits = 2) => minus(String(Number(value.toPrecision(digits))));
const sign = (value) => (value > 0 ? "+" : value < 0 ? "−" : "");
const seedName = (seed) => `seed ${seed}`;

/** A drop-down; `options` are texts, `change` gets the index. */
function choice(label, options, change) {
  const select = node("select", { onchange: () => change(select.selectedIndex) },
    ...options.map((text) => node("option", {}, text)));
  return node("label", {}, label, select);
}

let groups = 0;

/** Two or three alternatives side by side; `options` are [value, text], the first is chosen. */
function alternatives(label, options, change) {
  const name = `alternatives-${++groups}`;
  return node("fieldset", { "aria-label": label }, ...options.map(([value, text], index) =>
    node("label", {},
      node("input", { type: "radio", name, value, checked: index === 0, onchange: () => change(value) }),
      text)));
}

/** A slider with a play button; `say` names a position, `change` shows it. */
function player(label, count, say, change) {
  const output = node("output");
  const slider = node("input", { type: "range", min: 0, max: count - 1, value: count - 1, "aria-label": label, oninput: show });
  const button = node("button", { type: "button", onclick: () => (timer ? stop() : play()) }, "▶ Play");
  let timer = 0;

  function show() {
    const text = say(Number(slider.value));
    output.textContent = text;
    slider.setAttribute("aria-valuetext", text);
    change(Number(slider.value));
  }
  function stop() {
    clearInterval(timer);
    timer = 0;
    button.textContent = "▶ Play";
  }
  function play() {
    if (Number(slider.value) === count - 1) slider.value = 0;
    else slider.value = Number(slider.value) + 1;
    show();
    button.textContent = "⏸ Pause";
    timer = setInterval(() => {
      slider.value = Number(slider.value) + 1;
      show();
      if (Number(slider.value) === count - 1) stop();
    }, 350);
  }
  slider.addEventListener("pointerdown", stop);
  return { element: node("div", { class: "player" }, output, button, slider), show, stop };
}

const tip = document.getElementById("tip");

function showTip(clientX, clientY, ...children) {
  tip.replaceChildren(...children);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const right = clientX + 14 + width < document.documentElement.clientWidth;
  const left = Math.max(4, right ? clientX + 14 : clientX - 14 - width);
  const top = Math.max(4, Math.min(clientY + 14, window.innerHeight - height - 4));
  tip.style.left = `${left + window.scrollX}px`;
  tip.style.top = `${top + window.scrollY}px`;
}

function hideTip() { tip.hidden = true; }

/** Says something to screen readers. */
function announce(text) { document.getElementById("live").textContent = text; }

/** Calls `draw(width)` now and whenever the width of `element` changes. */
function responsive(element, draw) {
  let last = 0;
  new ResizeObserver(([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (width && width !== last) draw(last = width);
  }).observe(element);
}

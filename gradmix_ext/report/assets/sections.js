// The sections of the report, each from the data to its chart.

const SETTINGS = [["class_il", "Class-IL"], ["task_il", "Task-IL"]];

function absent(host, text) { host.append(node("p", { class: "absent" }, text)); }

/** Accuracy or forgetting over tasks. */
function taskChart(host, arms, field, { label, xTitle, yTitle, ...rest }) {
  let setting = "class_il";
  const controls = node("div", { class: "controls" }, alternatives("Setting", SETTINGS, (value) => { setting = value; chart.redraw(); }));
  host.append(controls);
  const shown = arms.filter((arm) => arm[field].class_il.mean.length);
  const chart = lineChart(host, {
    label, xTitle, yTitle,
    series: () => shown.map((arm) => ({ arm, ...arm[field][setting] })),
    format: (value) => percent(value),
    ...rest,
  });
}

function accuracySection(arms) {
  taskChart(document.getElementById("accuracy-chart"), arms, "accuracy", {
    label: "Accuracy after each task", xTitle: "after task", yTitle: "accuracy (%)",
    xText: (i) => `after task ${i + 1}`, domain: [0, 100], value: (s) => s.mean.at(-1),
  });
}

function forgettingSection(arms) {
  const host = document.getElementById("forgetting-chart");
  if (!host) return;
  taskChart(host, arms, "forgetting", {
    label: "Forgetting by task", xTitle: "task", yTitle: "forgetting (points)",
    xText: (i) => `task ${i + 1}`, whiskers: true, limits: [-100, 100],
    value: (s) => s.mean.reduce((sum, v) => sum + v, 0) / s.mean.length,
  });
}

function lossSection(arms) {
  const host = document.getElementById("loss-chart");
  const shown = arms.filter((arm) => arm.loss);
  const without = arms.filter((arm) => !arm.loss).map((arm) => arm.name);
  if (without.length) absent(host, `No loss of every epoch and seed in the log of: ${without.join(", ")}.`);
  if (!shown.length) return;
  let log = true;
  const longest = shown.map((arm) => arm.loss.task).sort((a, b) => b.length - a.length)[0];
  // Tasks can be told apart if they have as many epochs in all arms.
  const aligned = shown.every(({ loss }) => loss.task.every((task, i) => task === longest[i]));
  const parts = longest.flatMap((task, i) => (!aligned || task === longest[i - 1] ? [] : [{ at: i, text: `task ${task}` }]));
  host.append(node("div", { class: "controls" }, node("label", {},
    node("input", { type: "checkbox", checked: true, onchange: (event) => { log = event.target.checked; chart.redraw(); } }), "Logarithmic")));
  const chart = lineChart(host, {
    label: "Training loss", xTitle: "epoch, counted over all tasks", yTitle: "loss (nats)",
    series: () => shown.map((arm) => ({ arm, ...arm.loss })),
    xText: (i) => `epoch ${i + 1}${aligned ? `, task ${longest[i]}` : ""}`,
    domain: null, log: () => log, parts, format: (value) => short(value, 3),
    value: (s) => s.mean.at(-1),
  });
}

/** The accuracy matrices of all arms, as tables. */
function matrixSection(arms) {
  const host = document.getElementById("matrix-chart");
  let setting = "class_il";
  let view = 0;
  const seeds = [...new Set(arms.flatMap((arm) => arm.matrices.seeds))].sort((a, b) => a - b);
  const widest = Math.max(...arms.map((arm) => arm.sizes.length));
  const panels = node("div", { class: widest > 10 ? "panels wide" : "panels" });
  const controls = node("div", { class: "controls" }, alternatives("Setting", SETTINGS, (value) => { setting = value; show(); }));
  if (seeds.length > 1) controls.append(choice("Show", ["mean over seeds", ...seeds.map(seedName)], (index) => { view = index; show(); }));
  host.append(controls, panels);

  function table(arm) {
    const values = arm.matrices[setting];
    const T = arm.sizes.length;
    const index = view === 0 ? 0 : arm.matrices.seeds.indexOf(seeds[view - 1]) + 1;
    if (view > 0 && index === 0) return node("div", {}, node("h3", {}, arm.name), node("p", { class: "absent" }, `No ${seedName(seeds[view - 1])}.`));
    const value = (t, j) => values[at(values, index, t, j)] / 100;
    const head = ["after", ...Array.from({ length: T }, (_, j) => `${j + 1}`), "mean"];
    return node("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Accuracy matrix of ${arm.name}` }, node("table", { class: "matrix" },
      node("caption", {}, arm.name),
      node("thead", {}, node("tr", {}, ...head.map((text) => node("th", { scope: "col" }, text)))),
      node("tbody", {}, ...Array.from({ length: T }, (_, t) => {
        let sum = 0;
        const cells = Array.from({ length: T }, (_, j) => {
          if (j <= t) sum += value(t, j);
          if (j > t && setting === "class_il") return node("td", { class: "future" });
          return node("td", { style: { "--v": value(t, j) } }, percent(value(t, j), T > 6 ? 0 : 1));
        });
        return node("tr", {}, node("th", { scope: "row" }, `${t + 1}`), ...cells, node("td", { class: "mean" }, percent(sum / (t + 1))));
      }))));
  }
  function show() { panels.replaceChildren(...arms.map(table)); }
  show();
}

/** A map of classes by classes with a choice of arm and seed, and a slider. */
function mapSection(host, arms, { content, label, rows, columns, hint, together, extra, slider, say, state, key }) {
  let [arm, view, position] = [arms[0], 0, 0];
  let current = null;
  const seedSlot = node("span");
  const sliderSlot = node("div");
  const keyBox = node("div", { class: "key" });
  const readout = node("p", { class: "readout" }, hint);
  const left = node("div");
  const controls = node("div", { class: "controls" });
  if (arms.length > 1) controls.append(choice("Arm", arms.map((each) => each.name), (index) => { arm = arms[index]; view = 0; setUp(); }));
  controls.append(seedSlot, ...(extra ? [extra(() => show())] : []));
  host.append(controls, sliderSlot, node("div", { class: "map" }, left, node("div", {}, readout, keyBox)));
  const map = cellMap(left, readout, { label, rows, columns, hint });

  function views() {
    const { seeds } = content(arm);
    const all = arm.seeds.length > 1 ? [together(arm)] : [];
    return [...all, ...seeds.map(seedName)];
  }
  function setUp() {
    const options = views();
    seedSlot.replaceChildren(...(options.length > 1 ? [choice("Seed", options, (index) => { view = index; show(); })] : []));
    current?.stop();
    const count = slider(arm);
    current = player(`${label}: position`, count, (index) => say(arm, index), (index) => { position = index; show(); });
    sliderSlot.replaceChildren(...(count > 1 ? [current.element] : []));
    current.show();
  }
  function show() {
    // The first view is that of all seeds together; a single seed is the same and is shown by name.
    const together = arm.seeds.length > 1 && view === 0;
    const seed = together ? null : arm.seeds.indexOf(content(arm).seeds[arm.seeds.length > 1 ? view - 1 : 0]);
    const orders = together ? arm.orders : [arm.orders[seed]];
    const same = orders.every((order) => order.every((name, k) => name === orders[0][k]));
    const names = same ? orders[0] : orders[0].map((_, k) => `#${k + 1}`);
    const made = state(arm, { view, together, position, names });
    map.draw({ sizes: arm.sizes, names, title: say(arm, position), ...made });
    keyBox.replaceChildren(...key(arm, { view, together, position, same }));
  }
  setUp();
  redraws.push(() => { map.redraw(); show(); });
}

const redraws = []; // of what does not follow the page's colours by itself

/** A colour ramp with words at its ends. */
function ramp(colours, ends) {
  return [node("div", { class: "ramp", style: { background: `linear-gradient(to right, ${colours.map((c) => `var(--${c})`).join(", ")})` } }),
    node("div", { class: "ends" }, ...ends.map((text) => node("span", {}, text)))];
}

const ORDER_NOTE = "Seeds differ in class order: #1 is the class that came first, whichever it was.";

function seenAfter(arm, task) { return arm.sizes.slice(0, task + 1).reduce((a, b) => a + b, 0); }

/** By who chose the pairs: what a chosen one and the others are called, in a cell and in the key. */
const CHOICES = {
  scores: {
    title: "Helpful or not", yes: "helpful", no: "detrimental", colours: ["harm", "neutral", "help"], signs: ["+", "−"],
    ends: ["− detrimental", "+ helpful"], all: ["detrimental in all seeds", "helpful in all"], note: "",
  },
  mask: {
    title: "Mixed or not", yes: "mixed", no: "not mixed", random: ", chosen at random", colours: ["neutral", "full"], signs: ["✓", ""],
    ends: ["not mixed", "✓ mixed"], all: ["mixed in no seed", "mixed in all"],
    note: "A control: which pairs are mixed is chosen at random, whatever their scores.",
  },
  odds: {
    title: "Chosen or not", yes: "chosen", no: "not chosen", random: " (at random, without effect)", colours: ["neutral", "full"], signs: ["✓", ""],
    ends: ["not chosen", "✓ chosen"], all: ["chosen in no seed", "chosen in all"],
    note: "A control that may mix every pair, at odds dealt out to the pairs at random. The pairs shown as chosen, at random and as many as GradMix would find helpful, decide nothing.",
  },
};

/** By criterion: what the score of a pair is. */
const SCORES = {
  mixed: "inner product of the mean gradient of the pair's mixed samples with that of the buffer",
  linear: "mean of the scores of its two classes, the inner products of their own mean gradients with that of the buffer",
  gram: "inner product of the mean gradients of its two classes",
  online: "moving average of the inner products of the gradients of mixed samples, as training forwards them, with that of the buffer",
};

function pairsSection(arms) {
  const host = document.getElementById("pairs-chart");
  const large = arms.filter((arm) => arm.pairs?.too_large).map((arm) => arm.name);
  if (large.length) absent(host, `Too many classes to embed the maps of: ${large.join(", ")}. They are in the run folder, in class_pairs.`);
  // First those that choose by the scores: the controls do not use what they say.
  const control = (arm) => arm.rule.choice !== "scores";
  const judged = arms.filter((arm) => arm.pairs?.allowed).sort((a, b) => control(a) - control(b));
  if (!judged.length) {
    if (!large.length) absent(host, arms.every((arm) => arm.sizes.length === 1)
      ? "Nothing to show: with one task there are no earlier classes to protect."
      : "Nothing to show: no arm here judges class pairs (gradmix and its controls do), or its maps are not in the run folder.");
    return;
  }
  let mode = "choice";
  let modes = null;
  const entry = (arm, array, view, position) => at(array, view, position);
  mapSection(host, judged, {
    content: (arm) => arm.pairs,
    label: "Class-pair map", rows: "class", columns: "partner's class",
    hint: "Point at a cell, or use the arrow keys, to read it.",
    together: (arm) => `all ${arm.seeds.length} seeds`,
    extra: (show) => (modes = alternatives("Colour by", [["choice", ""], ["scores", "Score"]], (value) => { mode = value; show(); })),
    slider: (arm) => arm.pairs.task.length,
    say: ({ pairs }, i) => `Task ${pairs.task[i] + 1}, after epoch ${pairs.epoch[i] + 1} of ${pairs.epochs}`,
    state(arm, { view, together, position, names }) {
      const { allowed, scores, scale, task } = arm.pairs;
      const { title, yes, no, random = "", colours, signs } = CHOICES[arm.rule.choice];
      modes.querySelector("label").lastChild.textContent = title;
      const C = names.length;
      const first = entry(arm, allowed, view, position);
      const of = together ? arm.seeds.length : 1;
      const share = (r, c) => allowed[first + r * C + c] / of;
      const score = (r, c) => scores[first + r * C + c] / 127;
      const largest = scale[view][position];
      const words = (r, c) => (together ? `${yes} in ${share(r, c) * of} of ${of} seeds${random}, mean score`
        : `${share(r, c) ? yes : no}${random}, score`);
      // Only what the scores chose is coloured as help and harm.
      const palette = mode === "scores" || colours.length > 2 ? diverging(127) : blend(...colours, 254);
      const value = mode === "scores" ? score : (r, c) => 2 * share(r, c) - 1;
      return {
        shown: seenAfter(arm, task[position]),
        colour: (r, c) => palette[Math.round(value(r, c) * 127) + 127],
        texts: (r, c) => (mode === "scores" ? [...[2, 1].map((digits) => short(score(r, c) * largest, digits)), sign(score(r, c))]
          : [together ? percent(100 * share(r, c), 0) : signs[share(r, c) ? 0 : 1]]),
        describe: (r, c) => `${names[r]} with ${names[c]}: ${words(r, c)} ${short(score(r, c) * largest, 3)}`,
      };
    },
    key(arm, { view, together, position, same }) {
      const largest = short(arm.pairs.scale[view][position], 3);
      const note = together && !same ? [node("p", {}, ORDER_NOTE)] : [];
      const left = arm.seeds.length - arm.pairs.seeds.length;
      const kept = left ? [node("p", {}, `To keep the page small, ${arm.pairs.seeds.length} of ${arm.seeds.length} seeds can be chosen alone.`)] : [];
      if (new Set(arm.pairs.epoch).size < arm.pairs.epochs) kept.push(node("p", {}, `To keep the page small, ${new Set(arm.pairs.epoch).size} of ${arm.pairs.epochs} epochs of each task are shown.`));
      const { yes, colours, ends, all, note: rule } = CHOICES[arm.rule.choice];
      if (rule) note.unshift(node("p", {}, rule));
      return mode === "scores"
        ? [...ramp(["harm", "neutral", "help"], [`−${largest}`, "0", `+${largest}`]),
          node("p", {}, `Score of a pair: ${SCORES[arm.rule.score]}. The scale is that of the epoch shown; 0 also where a pair was not scored.`), ...note, ...kept]
        : [...ramp(colours, together ? all : ends), ...(together ? [node("p", {}, `Numbers: percent of the seeds in which the pair is ${yes}.`)] : []), ...note, ...kept];
    },
  });
}

function confusionSection(arms) {
  const host = document.getElementById("confusion-chart");
  const large = arms.filter((arm) => arm.confusion?.too_large).map((arm) => arm.name);
  if (large.length) absent(host, `Too many classes to embed the confusion of: ${large.join(", ")}.`);
  const known = arms.filter((arm) => arm.confusion?.counts);
  const without = arms.filter((arm) => !arm.confusion).map((arm) => arm.name);
  if (without.length) absent(host, `Not saved for: ${without.join(", ")} (runs of an earlier version have no confusion matrices).`);
  if (!known.length) return;
  mapSection(host, known, {
    content: (arm) => arm.confusion,
    label: "Confusion", rows: "true class", columns: "predicted class",
    hint: "Point at a cell, or use the arrow keys, to read it.",
    together: (arm) => `all ${arm.seeds.length} seeds`,
    slider: (arm) => arm.sizes.length,
    say: (arm, t) => `After task ${t + 1} of ${arm.sizes.length}`,
    state(arm, { view, position, names }) {
      const { counts } = arm.confusion;
      const C = names.length;
      const first = at(counts, view, position);
      const totals = names.map((_, r) => counts.subarray(first + r * C, first + (r + 1) * C).reduce((a, b) => a + b, 0));
      const share = (r, c) => (totals[r] ? counts[first + r * C + c] / totals[r] : 0);
      const palette = blend("neutral", "help", 100);
      return {
        shown: seenAfter(arm, position),
        colour: (r, c) => palette[Math.round(100 * share(r, c))],
        texts: (r, c) => [share(r, c) >= 0.005 ? percent(100 * share(r, c), 0) : ""],
        describe: (r, c) => `${names[r]} taken for ${names[c]}: ${percent(100 * share(r, c))} % (${counts[first + r * C + c]} of ${totals[r]})`,
      };
    },
    key: (arm, { together, same }) => [...ramp(["neutral", "help"], ["0 %", "100 %"]), ...(together && !same ? [node("p", {}, ORDER_NOTE)] : []),
      ...(together ? [node("p", {}, "Test samples of all seeds together.")] : [])],
  });
}

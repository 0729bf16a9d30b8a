"use strict";
// The page: a point in the space of latents, and what the decoder makes of it.

const held = JSON.parse(document.getElementById("held").textContent);
const byId = (id) => document.getElementById(id);
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#a89900", "#7f7f7f"];
const ON_DARK = ["#3f97d3", "#e69f00", "#12b886", "#cc79a7", "#8fd0f5", "#e8743b", "#d6c52b", "#a6a6a6"];
const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
const SHAPES = ["circle", "square", "triangle"];
const SLIDERS = 12;  // shown at first
const NEAR = { mouse: 10, touch: 18 };  // pixels from a datum that a click means
const BEHIND = 11;  // pictures behind the plane, in each direction
const FAINT = 0.35;  // how much of them is seen
const AT_ONCE = 12;  // milliseconds that the page computes without a pause
const LISTED = 6;  // categories of a column

const names = held.latents.names, size = names.length;
const codes = unpack(held.codes), drawn = unpack(held.drawn);
const given = held.given ? unpack(held.given) : null;
const drawnGiven = held.drawnGiven ? unpack(held.drawnGiven) : null;
const count = held.rows.length, context = given ? given.length / count : 0;
const network = compileNetwork(held.graph);
const order = names.map((_, i) => i).sort((a, b) => held.latents.kl[b] - held.latents.kl[a]);
const scores = Object.entries(held.scores).map(([name, values]) => [name, unpack(values)]);
for (const panel of held.panels) panel.values = unpack(panel.data);

const state = {
  z: new Float64Array(size), c: new Float64Array(context),
  across: Math.min(order[0], order[1] ?? order[0]), up: size > 1 ? Math.max(order[0], order[1]) : -1,
  datum: -1, hidden: new Set(),
};

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element && typeof value !== "string") element[key] = value;
    else if (key === "text") element.textContent = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

function short(value) {
  if (!Number.isFinite(value)) return "—";
  if (value === 0) return "0";
  const a = Math.abs(value);
  if (a >= 1e6 || a < 1e-3) return value.toExponential(2).replace("-", "−");
  const digits = a >= 1000 ? 0 : a >= 100 ? 1 : a >= 1 ? 2 : 3;
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "−");
}

const codeOf = (i) => codes.subarray(i * size, (i + 1) * size);
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Labels and their colours.

const labels = held.labels;
const labelIndex = labels && labels.index ? unpack(labels.index) : null;
const labelNumbers = labels && labels.numbers ? unpack(labels.numbers) : null;
const numberEnds = labelNumbers ? ends(labelNumbers) : null;

function ends(values) {
  let low = Infinity, high = -Infinity;
  for (const v of values) if (Number.isFinite(v)) { low = Math.min(low, v); high = Math.max(high, v); }
  return [low, high];
}

const isDark = matchMedia("(prefers-color-scheme: dark)");
const colourOf = (k) => (isDark.matches ? ON_DARK : COLOURS)[k % COLOURS.length];

function ramp(t) {
  const at = Math.min(Math.max(t, 0), 1) * (RAMP.length - 1), i = Math.min(Math.floor(at), RAMP.length - 2);
  const mix = RAMP[i].map((v, k) => Math.round(v + (RAMP[i + 1][k] - v) * (at - i)));
  return `rgb(${mix.join(",")})`;
}

function looks(i) {
  if (labelIndex && labelIndex[i] >= 0) return kindLooks(labelIndex[i]);
  if (labelNumbers && Number.isFinite(labelNumbers[i])) {
    return [ramp((labelNumbers[i] - numberEnds[0]) / (numberEnds[1] - numberEnds[0] || 1)), "circle"];
  }
  return [labels ? "#9aa0a6" : colourOf(0), "circle"];
}

const kindLooks = (k) => [colourOf(k), SHAPES[Math.floor(k / COLOURS.length) % SHAPES.length]];

function labelOf(i) {
  if (labelIndex) return labelIndex[i] >= 0 ? labels.kinds[labelIndex[i]] : "";
  if (labelNumbers) return short(labelNumbers[i]);
  return labels && labels.texts ? labels.texts[i] : "";
}

function trace(pen, shape, x, y, r) {
  pen.beginPath();
  if (shape === "circle") pen.arc(x, y, r, 0, 2 * Math.PI);
  else if (shape === "square") pen.rect(x - 0.88 * r, y - 0.88 * r, 1.76 * r, 1.76 * r);
  else { pen.moveTo(x, y - 1.2 * r); pen.lineTo(x + 1.1 * r, y + 0.8 * r); pen.lineTo(x - 1.1 * r, y + 0.8 * r); pen.closePath(); }
}

function symbol(colour, shape) {
  const space = "http://www.w3.org/2000/svg", svg = document.createElementNS(space, "svg");
  const mark = document.createElementNS(space, "path");
  const paths = { circle: "M5 .8a4.2 4.2 0 1 0 .01 0z", square: "M1.2 1.2h7.6v7.6h-7.6z", triangle: "M5 .8l4.4 8h-8.8z" };
  svg.setAttribute("viewBox", "0 0 10 10"); svg.setAttribute("aria-hidden", "true");
  mark.setAttribute("d", paths[shape]); mark.setAttribute("fill", colour);
  svg.append(mark);
  return svg;
}

function makeLegend() {
  const legend = byId("legend");
  legend.replaceChildren();
  if (!labels || labels.texts) { legend.hidden = true; return; }
  legend.append(make("span", { text: labels.name + ": " }));
  if (labelNumbers) {
    const scale = make("span", { class: "scale" });
    scale.style.background = `linear-gradient(to right, ${RAMP.map((c) => `rgb(${c.join(",")})`).join(",")})`;
    legend.append(make("span", { text: short(numberEnds[0]) }), scale, make("span", { text: short(numberEnds[1]) }));
    return;
  }
  labels.kinds.forEach((kind, k) => {
    const button = make("button", { type: "button", "aria-pressed": String(!state.hidden.has(k)), title: "show or hide" }, symbol(...kindLooks(k)), kind);
    button.addEventListener("click", () => {
      const shown = state.hidden.delete(k) || !state.hidden.add(k);
      button.setAttribute("aria-pressed", String(shown));
      refresh();
    });
    legend.append(button);
  });
}

// The plane.

const plane = byId("plane");
const EDGE = { left: 44, right: 12, top: 12, bottom: 34 };
const heights = Float64Array.from({ length: count }, (_, i) => ((i * 0.6180339887) % 1) * 2 - 1);

function axisEnds(latent) {
  return latent < 0 ? [-1.2, 1.2] : [held.latents.low[latent], held.latents.high[latent]];
}

function scales() {
  const box = plane.getBoundingClientRect();
  const [lowX, highX] = axisEnds(state.across), [lowY, highY] = axisEnds(state.up);
  const width = box.width - EDGE.left - EDGE.right, height = box.height - EDGE.top - EDGE.bottom;
  return {
    box, width, height,
    x: (v) => EDGE.left + (v - lowX) / (highX - lowX) * width,
    y: (v) => EDGE.top + (highY - v) / (highY - lowY) * height,
    atX: (p) => lowX + (p - EDGE.left) / width * (highX - lowX),
    atY: (p) => highY - (p - EDGE.top) / height * (highY - lowY),
    ends: [[lowX, highX], [lowY, highY]],
  };
}

const upOf = (i) => (state.up < 0 ? heights[i] : codes[i * size + state.up]);
const isHidden = (i) => labelIndex !== null && state.hidden.has(labelIndex[i]);

function ticks(low, high, most) {
  const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + 1e-9; v += step) found.push(Math.abs(v) < step / 1e6 ? 0 : v);
  return found;
}

function penOf(canvas) {
  const box = canvas.getBoundingClientRect(), dots = window.devicePixelRatio || 1;
  canvas.width = Math.round(box.width * dots); canvas.height = Math.round(box.height * dots);
  const pen = canvas.getContext("2d");
  pen.setTransform(dots, 0, 0, dots, 0, 0);
  pen.font = "12px system-ui, sans-serif";
  return [pen, box.width, box.height];
}

function drawAxes(pen, s) {
  pen.strokeStyle = style("--rule"); pen.fillStyle = style("--soft"); pen.lineWidth = 1;
  pen.textAlign = "center"; pen.textBaseline = "top";
  for (const v of ticks(...s.ends[0], s.width / 70)) {
    const x = s.x(v);
    pen.beginPath(); pen.moveTo(x, EDGE.top); pen.lineTo(x, EDGE.top + s.height); pen.stroke();
    pen.fillText(String(+v.toPrecision(3)).replace("-", "−"), x, EDGE.top + s.height + 4);
  }
  pen.fillText(names[state.across], EDGE.left + s.width / 2, EDGE.top + s.height + 18);
  if (state.up < 0) return;
  pen.textAlign = "right"; pen.textBaseline = "middle";
  for (const v of ticks(...s.ends[1], s.height / 60)) {
    const y = s.y(v);
    pen.beginPath(); pen.moveTo(EDGE.left, y); pen.lineTo(EDGE.left + s.width, y); pen.stroke();
    pen.fillText(String(+v.toPrecision(3)).replace("-", "−"), EDGE.left - 5, y);
  }
  pen.save(); pen.translate(8, EDGE.top + s.height / 2); pen.rotate(-Math.PI / 2);
  pen.textAlign = "center"; pen.fillText(names[state.up], 0, 0); pen.restore();
}

function drawPlane() {
  const [pen] = penOf(plane), s = scales(), paper = style("--faint"), ink = style("--ink");
  drawAxes(pen, s);
  pen.save(); pen.beginPath(); pen.rect(EDGE.left, EDGE.top, s.width, s.height); pen.clip();
  drawBehind(pen, s);
  const r = count > 600 ? 3 : 3.8;
  pen.lineWidth = 0.7; pen.strokeStyle = paper; pen.globalAlpha = 0.85;
  for (let i = 0; i < count; i++) {
    if (isHidden(i)) continue;
    const [colour, shape] = looks(i);
    pen.fillStyle = colour;
    trace(pen, shape, s.x(codes[i * size + state.across]), s.y(upOf(i)), r);
    pen.fill(); pen.stroke();
  }
  pen.globalAlpha = 1; pen.strokeStyle = ink;
  if (state.datum >= 0) {
    pen.lineWidth = 2;
    trace(pen, "circle", s.x(codes[state.datum * size + state.across]), s.y(upOf(state.datum)), 11);
    pen.stroke();
  }

  // The point.
  const x = s.x(state.z[state.across]), y = s.y(state.up < 0 ? 0 : state.z[state.up]);
  pen.lineWidth = 1; pen.globalAlpha = 0.5;
  pen.beginPath(); pen.moveTo(x, EDGE.top); pen.lineTo(x, EDGE.top + s.height);
  if (state.up >= 0) { pen.moveTo(EDGE.left, y); pen.lineTo(EDGE.left + s.width, y); }
  pen.stroke(); pen.globalAlpha = 1;
  trace(pen, "circle", x, y, 6.5);
  pen.fillStyle = style("--paper"); pen.fill(); pen.lineWidth = 2.5; pen.stroke();
  pen.restore();
}

// Pictures behind the plane: what the decoder makes across it, with all other latents as they are at the point.

const behind = { panel: held.panels.find((panel) => panel.kind === "picture"), key: "", made: 0, grid: document.createElement("canvas"), tile: document.createElement("canvas"), timer: 0 };
const hasBehind = () => behind.panel !== undefined && state.up >= 0 && byId("behind").checked;

function tendBehind() {
  byId("behind-box").hidden = behind.panel === undefined || state.up < 0;
  if (!hasBehind()) { clearTimeout(behind.timer); behind.key = ""; behind.made = 0; return; }
  const others = Array.from(state.z, (v, i) => (i === state.across || i === state.up ? 0 : v));
  const key = [state.across, state.up, ...others, ...state.c].join();
  if (key === behind.key) return;
  clearTimeout(behind.timer);
  behind.timer = setTimeout(() => makeBehind(key), behind.key === "" ? 0 : 250);
}

// The middle of a cell, from the left or from below.
function middle(latent, i) {
  const [low, high] = axisEnds(latent);
  return low + (i + 0.5) / BEHIND * (high - low);
}

function makeBehind(key) {
  const [, height, width] = behind.panel.shape, planes = behind.panel.shape[0], wide = planes === 3 ? width : width * planes;
  behind.key = key; behind.made = 0;
  behind.grid.width = BEHIND * wide; behind.grid.height = BEHIND * height;
  const pen = behind.grid.getContext("2d"), z = Float64Array.from(state.z), c = Float64Array.from(state.c);
  const some = () => {
    const until = performance.now() + AT_ONCE;
    while (behind.made < BEHIND * BEHIND && performance.now() < until) {
      const column = behind.made % BEHIND, row = Math.floor(behind.made / BEHIND);
      z[state.across] = middle(state.across, column); z[state.up] = middle(state.up, BEHIND - 1 - row);
      paint(behind.tile, behind.panel, network.run([z, c])[behind.panel.outputs.mean]);
      pen.drawImage(behind.tile, column * wide, row * height);
      behind.made++;
    }
    drawPlane();
    if (behind.made < BEHIND * BEHIND) behind.timer = setTimeout(some, 0);
  };
  some();
}

function drawBehind(pen, s) {
  if (!hasBehind() || behind.made === 0) return;
  const wide = behind.grid.width / BEHIND, high = behind.grid.height / BEHIND;
  const cell = [s.width / BEHIND, s.height / BEHIND], scale = 0.94 * Math.min(cell[0] / wide, cell[1] / high);
  pen.globalAlpha = FAINT; pen.imageSmoothingEnabled = false;
  for (let i = 0; i < behind.made; i++) {
    const column = i % BEHIND, row = Math.floor(i / BEHIND);
    const x = EDGE.left + (column + 0.5) * cell[0], y = EDGE.top + (row + 0.5) * cell[1];
    pen.drawImage(behind.grid, column * wide, row * high, wide, high, x - scale * wide / 2, y - scale * high / 2, scale * wide, scale * high);
  }
  pen.globalAlpha = 1;
}

function nearest(px, py, near = NEAR.mouse) {
  const s = scales();
  let best = -1, least = near * near;
  for (let i = 0; i < count; i++) {
    if (isHidden(i)) continue;
    const dx = s.x(codes[i * size + state.across]) - px, dy = s.y(upOf(i)) - py, d = dx * dx + dy * dy;
    if (d < least) { least = d; best = i; }
  }
  return best;
}

const within = (v, [low, high]) => Math.min(Math.max(v, low), high);

function moveTo(px, py) {
  const s = scales();
  state.z[state.across] = within(s.atX(px), s.ends[0]);
  if (state.up >= 0) state.z[state.up] = within(s.atY(py), s.ends[1]);
  refresh();
}

function listenToPlane() {
  let start = null;
  const at = (event) => { const box = plane.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  plane.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !event.isPrimary) return;
    start = [...at(event), false];
    try { plane.setPointerCapture(event.pointerId); } catch { /* a pointer that is gone already */ }
  });
  plane.addEventListener("pointermove", (event) => {
    if (!start || !event.isPrimary) return;
    const [x, y] = at(event);
    start[2] ||= Math.hypot(x - start[0], y - start[1]) > 4;
    if (start[2]) { stop(); moveTo(x, y); }
  });
  plane.addEventListener("pointerup", (event) => {
    if (!start || !event.isPrimary) return;
    const [x, y] = at(event), datum = nearest(x, y, event.pointerType === "touch" ? NEAR.touch : NEAR.mouse);
    stop();
    if (!start[2] && datum >= 0) choose(datum); else moveTo(x, y);
    start = null;
  });
  plane.addEventListener("pointercancel", () => { start = null; });
  plane.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!move) return;
    event.preventDefault(); stop();
    const far = event.shiftKey ? 8 : 40;
    [[state.across, move[0]], [state.up, move[1]]].forEach(([latent, step]) => {
      if (latent < 0) return;
      const [low, high] = axisEnds(latent);
      state.z[latent] = within(state.z[latent] + step * (high - low) / far, [low, high]);
    });
    refresh();
  });
}

// Panels.

function makePanel(panel, place) {
  const box = make("div", { class: "panel" });
  if (panel.name) box.append(make("h3", { text: panel.name }));
  const maker = { picture: makePicture, lines: makeLines, table: makeTable }[panel.kind];
  panel.show = maker(panel, box);
  byId("panels").append(box);
}

function valuesOf(panel, i) {
  const length = product(panel.shape), values = panel.values.subarray(i * length, (i + 1) * length);
  if (!(values instanceof Uint8Array)) return values;
  const [low, high] = panel.scale;
  return Float64Array.from(values, (v) => low + v / 255 * (high - low));
}

function paint(canvas, panel, values) {
  const [planes, height, width] = panel.shape, colour = planes === 3, beside = colour ? 1 : planes;
  canvas.width = width * beside; canvas.height = height;
  const pen = canvas.getContext("2d"), image = pen.createImageData(width * beside, height);
  const [low, high] = panel.scale, area = width * height;
  const level = (v) => (Number.isFinite(v) ? 255 * (v - low) / (high - low) : 127);
  for (let p = 0; p < beside; p++) for (let i = 0; i < area; i++) {
    const to = 4 * (Math.floor(i / width) * width * beside + p * width + i % width);
    for (let k = 0; k < 3; k++) image.data[to + k] = level(values[(colour ? k : p) * area + i]);
    image.data[to + 3] = 255;
  }
  pen.putImageData(image, 0, 0);
}

function makePicture(panel, box) {
  const figures = ["at the point", "datum", "its reconstruction"].map((words) => {
    const canvas = make("canvas", { role: "img", "aria-label": words });
    return { canvas, figure: make("figure", {}, canvas, make("figcaption", { text: words })) };
  });
  const empty = make("p", { class: "empty", text: "No datum is chosen." });
  box.append(make("div", { class: "pictures" }, figures[0].figure, make("div", { class: "side" }, empty, figures[1].figure, figures[2].figure)));
  return (outputs, again) => {
    const chosen = state.datum >= 0;
    paint(figures[0].canvas, panel, outputs[panel.outputs.mean]);
    empty.hidden = chosen; figures[1].figure.hidden = figures[2].figure.hidden = !chosen;
    if (!chosen) return;
    paint(figures[1].canvas, panel, valuesOf(panel, state.datum));
    paint(figures[2].canvas, panel, again[panel.outputs.mean]);
  };
}

function line(pen, values, x, y) {
  let down = false;
  pen.beginPath();
  values.forEach((v, i) => {
    if (!Number.isFinite(v)) { down = false; return; }
    if (down) pen.lineTo(x(i), y(v)); else pen.moveTo(x(i), y(v));
    down = true;
  });
  pen.stroke();
}

function makeLines(panel, box) {
  const [channels, length] = panel.shape;
  const canvas = make("canvas", { role: "img", "aria-label": "mean of p(x | z) as lines" });
  const said = channels > 1 ? " One colour for each channel." : "";
  const caption = make("figcaption");
  box.append(make("div", { class: "lines" }, make("figure", {}, canvas, caption)));
  const [least, most] = panel.scale, room = 0.08 * (most - least || 1), low = least - room, high = most + room;
  return (outputs) => {
    const [pen, width, height] = penOf(canvas), left = 44, bottom = 22, top = 6;
    const x = (i) => left + i / Math.max(length - 1, 1) * (width - left - 8);
    const y = (v) => top + (high - v) / (high - low) * (height - top - bottom);
    pen.strokeStyle = style("--rule"); pen.fillStyle = style("--soft"); pen.textBaseline = "middle"; pen.textAlign = "right";
    for (const v of ticks(low, high, 5)) {
      pen.beginPath(); pen.moveTo(left, y(v)); pen.lineTo(width, y(v)); pen.stroke();
      pen.fillText(String(+v.toPrecision(3)).replace("-", "−"), left - 6, y(v));
    }
    pen.textAlign = "center"; pen.textBaseline = "top";
    for (const v of ticks(0, length - 1, 6)) if (Number.isInteger(v)) pen.fillText(String(v), x(v), height - bottom + 6);
    const mean = outputs[panel.outputs.mean], std = panel.outputs.std === undefined ? null : outputs[panel.outputs.std];
    const datum = state.datum >= 0 ? valuesOf(panel, state.datum) : null;
    pen.save(); pen.beginPath(); pen.rect(left, 0, width - left, height - bottom); pen.clip();
    for (let k = 0; k < channels; k++) {
      const of = (values) => Array.from(values.subarray(k * length, (k + 1) * length));
      const m = of(mean), colour = colourOf(k);
      if (std) {
        const s = of(std);
        pen.fillStyle = colour; pen.globalAlpha = 0.18; pen.beginPath();
        m.forEach((v, i) => pen.lineTo(x(i), y(v + s[i])));
        for (let i = length - 1; i >= 0; i--) pen.lineTo(x(i), y(m[i] - s[i]));
        pen.fill(); pen.globalAlpha = 1;
      }
      if (datum) { pen.strokeStyle = style("--ink"); pen.globalAlpha = 0.7; pen.lineWidth = 1; pen.setLineDash([4, 3]); line(pen, of(datum), x, y); pen.setLineDash([]); pen.globalAlpha = 1; }
      pen.strokeStyle = colour; pen.lineWidth = 2; line(pen, m, x, y);
    }
    pen.restore();
    caption.textContent = `Mean of p(x | z)${std ? " ± one standard deviation" : ""}.${said}${datum ? " Dashed: the datum." : ""}`;
  };
}

function makeTable(panel, box) {
  const body = make("tbody");
  const head = make("tr", {}, ...["column", "mean, or most probable", "datum"].map((text) => make("th", { scope: "col", text })));
  const table = make("table", {}, make("caption", { class: "sr", text: "p(x | z), column by column" }), make("thead", {}, head), body);
  box.append(make("div", { class: "rows", tabindex: "0", role: "region", "aria-label": "columns" }, table));
  let start = 0;
  const rows = panel.columns.map((column, j) => {
    const first = start;
    if (column.categories) start += column.categories.length;
    const cell = make("td"), datum = make("td", { class: "number" });
    body.append(make("tr", {}, make("th", { scope: "row", text: column.name }), cell, datum));
    const show = column.categories ? showCategories(column, cell, datum) : showNumber(column, cell, datum);
    return (outputs, values) => show(outputs, values ? values[j] : NaN, j, first);
  });
  return (outputs) => {
    const values = state.datum >= 0 ? valuesOf(panel, state.datum) : null;
    const of = (name) => (panel.outputs[name] === undefined ? null : outputs[panel.outputs[name]]);
    const found = { mean: of("mean"), std: of("std"), probabilities: of("probabilities") };
    for (const row of rows) row(found, values);
  };
}

function showNumber(column, cell, datum) {
  const text = make("span", { class: "number" }), spread = make("span", { class: "number soft" });
  const [band, mark, there] = ["band", "mark", "there"].map((name) => make("i", { class: name }));
  cell.append(text, spread, make("div", { class: "bar", "aria-hidden": "true" }, band, mark, there));
  const low = column.low ?? 0, high = column.high ?? 1, share = (v) => 100 * within((v - low) / (high - low || 1), [0, 1]);
  return (found, value, j) => {
    const mean = found.mean[j], std = found.std ? found.std[j] : NaN;
    text.textContent = short(mean);
    spread.textContent = Number.isFinite(std) ? ` ± ${short(std)}` : "";
    mark.style.left = `${share(mean)}%`;
    band.hidden = !Number.isFinite(std);
    if (!band.hidden) { band.style.left = `${share(mean - std)}%`; band.style.width = `${share(mean + std) - share(mean - std)}%`; }
    there.hidden = !Number.isFinite(value);
    if (!there.hidden) there.style.left = `${share(value)}%`;
    const whole = column.kind === "count" || column.kind === "levels";
    datum.textContent = state.datum < 0 ? "" : whole && Number.isFinite(value) ? value.toLocaleString("en") : short(value);
  };
}

function showCategories(column, cell, datum) {
  const list = make("ul", { class: "choices" });
  cell.append(list);
  return (found, value, j, first) => {
    const p = column.categories.map((name, k) => [name, found.probabilities[first + k], k]);
    const ordered = column.kind === "category" && p.length > LISTED ? [...p].sort((a, b) => b[1] - a[1]).slice(0, LISTED) : p;
    const most = ordinalOrMode(column, p);
    list.replaceChildren(...ordered.map(([name, probability, k]) => {
      const bar = make("i"); bar.style.width = `${100 * probability}%`;
      const kind = k === most ? "chosen" : "";
      return make("li", {}, make("span", { class: kind, text: name }), make("span", { class: `number soft ${kind}`, text: `${(100 * probability).toFixed(0)} %` }), make("div", { class: "bar", "aria-hidden": "true" }, bar));
    }));
    datum.textContent = state.datum < 0 ? "" : Number.isFinite(value) ? column.categories[Math.round(value)] : "—";
  };
}

// What stands for a column: of an ordered scale the median, else the most probable.
function ordinalOrMode(column, p) {
  if (column.kind === "ordinal") {
    let sum = 0;
    return p.findIndex(([, probability]) => (sum += probability) >= 0.5);
  }
  return p.reduce((best, entry) => (entry[1] > p[best][1] ? entry[2] : best), 0);
}

// Sliders, conditions, data.

const sliders = new Map();

function makeSlider(latent) {
  const low = held.latents.low[latent], high = held.latents.high[latent], id = `latent-${latent}`;
  const input = make("input", { type: "range", id, min: String(low), max: String(high), step: String((high - low) / 200) });
  const output = make("output", { for: id });
  input.title = `KL ${held.latents.kl[latent].toFixed(2)} nats`;
  input.addEventListener("input", () => { stop(); state.z[latent] = Number(input.value); refresh(); });
  byId("sliders").append(make("div", { class: "slider" }, make("label", { for: id, text: names[latent] }), input, output));
  sliders.set(latent, [input, output]);
}

function makeSliders() {
  (size > 2 ? order.slice(0, SLIDERS) : [...names.keys()]).forEach(makeSlider);
  const more = byId("more"), left = size - SLIDERS;
  byId("sliders-help").textContent = size > 2 ? "the latents that say most of the data first" : "";
  if (left <= 0) return;
  more.hidden = false; more.textContent = `Show ${left} more`;
  more.addEventListener("click", () => { order.slice(SLIDERS).forEach(makeSlider); more.hidden = true; refresh(); });
}

const conditionInputs = [];

function makeConditions() {
  for (const column of held.conditions) {
    const { start, categories } = column;
    const input = categories ? make("select", {}, ...categories.map((name, k) => make("option", { value: String(k), text: name }))) : make("input", { type: "number", step: "any" });
    byId("conditions").append(make("label", {}, column.name + " ", input));
    const read = () => {
      if (categories) categories.forEach((_, k) => { state.c[start + k] = +(k === Number(input.value)); });
      else if (input.value !== "" && Number.isFinite(Number(input.value))) state.c[start] = (Number(input.value) - column.mean) / column.std;
    };
    input.addEventListener("input", () => { stop(); read(); refresh(); });
    input.value = categories ? String(column.usual) : String(+column.mean.toPrecision(6));
    read();
    conditionInputs.push(() => {
      if (document.activeElement === input) return;
      if (categories) input.value = String(categories.findIndex((_, k) => state.c[start + k] === 1));
      else input.value = String(+(state.c[start] * column.std + column.mean).toPrecision(6));
    });
  }
}

function choose(datum) {
  state.datum = datum;
  if (datum >= 0) {
    state.z.set(codeOf(datum));
    if (given) state.c.set(given.subarray(datum * context, (datum + 1) * context));
  }
  refresh();
}

function about(i) {
  const parts = [held.names ? held.names[i] : `row ${held.rows[i]} of the file`];
  if (labelOf(i) !== "") parts.push(`${labels.name} ${labelOf(i)}`);
  for (const [name, values] of scores) if (Number.isFinite(values[i])) parts.push(`${name} ${values[i].toFixed(2).replace("-", "−")} nats`);
  return parts.join(", ");
}

const wholeOf = (input) => { const v = Number(input.value); return input.value !== "" && Number.isInteger(v) && v >= 0 && v < count ? v : -1; };
let playing = 0;

function stop() {
  cancelAnimationFrame(playing); playing = 0;
  byId("play").setAttribute("aria-pressed", "false"); byId("play").textContent = "Play";
}

function between(t) {
  const a = wholeOf(byId("from")), b = wholeOf(byId("to"));
  if (a < 0 || b < 0) return;
  for (let i = 0; i < size; i++) state.z[i] = codes[a * size + i] * (1 - t) + codes[b * size + i] * t;
  if (given) state.c.set(given.subarray(a * context, (a + 1) * context));
  refresh();
}

function listenToData() {
  const way = byId("way");
  for (const id of ["datum", "from", "to"]) byId(id).max = String(count - 1);
  byId("from").value = "0"; byId("to").value = String(count - 1);
  byId("datum").addEventListener("input", () => { stop(); choose(wholeOf(byId("datum"))); });
  byId("forget").addEventListener("click", () => { byId("datum").value = ""; choose(-1); });
  way.addEventListener("input", () => { stop(); between(Number(way.value)); });
  for (const id of ["from", "to"]) byId(id).addEventListener("change", () => { stop(); between(Number(way.value)); });
  byId("play").addEventListener("click", () => {
    if (playing) { stop(); return; }
    const began = performance.now(), first = Number(way.value) >= 1 ? 0 : Number(way.value);
    const step = (now) => {
      const t = Math.min(1, first + (now - began) / 3000);
      way.value = String(t); between(t);
      if (t < 1) playing = requestAnimationFrame(step); else stop();
    };
    byId("play").setAttribute("aria-pressed", "true"); byId("play").textContent = "Pause";
    playing = requestAnimationFrame(step);
  });
  byId("draw").addEventListener("click", () => {
    stop();
    const i = Math.floor(Math.random() * drawn.length / size);
    state.z.set(drawn.subarray(i * size, (i + 1) * size));
    if (drawnGiven) state.c.set(drawnGiven.subarray(i * context, (i + 1) * context));
    refresh();
  });
  byId("centre").addEventListener("click", () => { stop(); state.z.fill(0); refresh(); });
}

function listenToAxes() {
  if (size <= 2) { byId("axes").hidden = true; return; }
  for (const [id, key] of [["across", "across"], ["up", "up"]]) {
    const select = byId(id);
    for (const latent of order) select.append(make("option", { value: String(latent), text: `${names[latent]} (KL ${held.latents.kl[latent].toFixed(2)})` }));
    select.addEventListener("change", () => {
      const other = key === "across" ? "up" : "across";
      if (Number(select.value) === state[other]) state[other] = state[key];
      state[key] = Number(select.value);
      refresh();
    });
  }
}

// The state in the address.

let waiting = 0;

function keepAddress() {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    const parts = [`z=${Array.from(state.z, (v) => +v.toFixed(4)).join(",")}`];
    if (state.datum >= 0) parts.push(`datum=${state.datum}`);
    if (context) parts.push(`c=${Array.from(state.c, (v) => +v.toFixed(6)).join(",")}`);
    if (size > 2) parts.push(`axes=${state.across},${state.up}`);
    try { history.replaceState(null, "", `#${parts.join("&")}`); } catch { /* where a browser keeps no address of a file */ }
  }, 250);
}

function readAddress() {
  const words = new URLSearchParams(location.hash.slice(1));
  const numbers = (key, length) => {
    const found = (words.get(key) ?? "").split(",").map(Number);
    return words.has(key) && found.length === length && found.every(Number.isFinite) ? found : null;
  };
  const datum = numbers("datum", 1), z = numbers("z", size), c = numbers("c", context), axes = numbers("axes", 2);
  if (datum && Number.isInteger(datum[0]) && datum[0] >= 0 && datum[0] < count) choose(datum[0]);
  if (z) state.z.set(z);
  if (c) state.c.set(c);
  if (axes && axes[0] !== axes[1] && axes.every((a) => Number.isInteger(a) && a >= 0 && a < size)) [state.across, state.up] = axes;
}

// All that is shown.

let due = 0, again = null, againOf = -1;

function show() {
  due = 0;
  if (state.datum >= 0 && againOf !== state.datum) {
    const c = given ? given.subarray(state.datum * context, (state.datum + 1) * context) : [];
    again = network.run([codeOf(state.datum), c]).map((values) => Float64Array.from(values));
    againOf = state.datum;
  }
  const outputs = network.run([state.z, state.c]);
  for (const panel of held.panels) panel.show(outputs, again);
  tendBehind();
  drawPlane();
  for (const [latent, [input, output]] of sliders) {
    input.value = String(state.z[latent]);
    output.textContent = (+state.z[latent].toFixed(2) || 0).toFixed(2).replace("-", "−");
  }
  for (const update of conditionInputs) update();
  for (const key of ["across", "up"]) byId(key).value = String(state[key]);
  if (document.activeElement !== byId("datum")) byId("datum").value = state.datum < 0 ? "" : String(state.datum);
  byId("about").textContent = state.datum < 0 ? `of 0 to ${count - 1}, or click one` : about(state.datum);
  const shown = order.slice(0, 2).map((i) => `${names[i]} ${state.z[i].toFixed(2)}`);
  byId("live").textContent = shown.join(", ");
  keepAddress();
}

function refresh() {
  if (!due) due = requestAnimationFrame(show);
}

function begin() {
  byId("title").textContent = held.title;
  byId("run").textContent = held.run;
  byId("formula").textContent = held.formula;
  byId("count").textContent = `${count} ${held.split} data`;
  makeLegend(); listenToPlane(); held.panels.forEach(makePanel);
  makeSliders(); makeConditions(); listenToData(); listenToAxes(); readAddress();
  byId("behind").addEventListener("change", refresh);
  window.addEventListener("resize", refresh);
  window.addEventListener("hashchange", () => { readAddress(); refresh(); });
  isDark.addEventListener("change", () => { makeLegend(); refresh(); });
  show();
}

try {
  begin();
} catch (error) {
  byId("failure").hidden = false;
  byId("failure").textContent = `The page could not be shown: ${error.message}`;
}

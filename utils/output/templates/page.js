"use strict";
const root = document.documentElement;
const one = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
root.classList.add("script");

// Light and dark: the system's, until the switch says otherwise.

const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
const showTheme = () => one("#theme").setAttribute("aria-pressed", isDark());
try {
  const saved = localStorage.getItem("theme");
  if (saved) root.dataset.theme = saved;
} catch {} // a browser may refuse to remember for files
one("#theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch {}
  showTheme();
});
system.addEventListener("change", showTheme);
showTheme();

// Search and filter.

const form = one(".tools");
const plain = (text) => text.toLowerCase().replaceAll("_", " ");
const entries = all("nav li");
const cards = all(".card").map((card, index) => ({
  card,
  entry: entries[index],
  text: plain(card.textContent),
  section: card.closest("section").dataset.section,
}));

function filter() {
  const words = plain(one("#search").value).split(/\s+/);
  const section = form.elements.section.value;
  let count = 0;
  for (const { card, entry, text, section: its } of cards) {
    const hit = (!section || section === its) && words.every((word) => text.includes(word));
    card.hidden = !hit;
    entry.hidden = !hit;
    count += hit;
  }
  for (const part of all("main > section")) part.hidden = !one(".card:not([hidden])", part);
  one("#count").value = `${count} of ${cards.length} shown`;
}
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
filter();

// Figures enlarged: Esc closes (as for every dialog), the arrows go on.

const viewer = one("dialog");
let figures = [], current = 0;

function show(index) {
  current = (index + figures.length) % figures.length;
  const image = one("img", figures[current]), large = one("img", viewer);
  large.src = image.src;
  large.alt = image.alt;
  const card = figures[current].closest(".card");
  const name = one("figcaption", figures[current].closest("figure")).textContent;
  one("figcaption", viewer).textContent =
    `${one("h3", card).textContent} ${name} (${current + 1} of ${figures.length})`;
}

for (const figure of all(".figure")) {
  figure.addEventListener("click", () => {
    figures = all(".card:not([hidden]) .figure");
    show(figures.indexOf(figure));
    viewer.showModal();
  });
}
viewer.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step) show(current + step);
});
one(".next", viewer).addEventListener("click", () => show(current + 1));
one(".previous", viewer).addEventListener("click", () => show(current - 1));
viewer.addEventListener("click", (event) => {
  if (!event.target.closest(".next, .previous")) viewer.close();
});
viewer.addEventListener("close", () => figures[current].focus());

// Curves: drawn when they come into view, and again when their width changes.

const MARGIN = { left: 58, right: 14, top: 30, bottom: 44 };
const DASHES = ["", "7 4", "2 4", "9 3 2 3"];
const short = (value) => String(Number(value.toPrecision(4)));

function html(name, text, parent) {
  const element = document.createElement(name);
  element.textContent = text;
  parent.append(element);
  return element;
}

function svg(name, attributes, parent, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  parent.append(element);
  return element;
}

// From values to pixels: logarithmic where the middle value is nearer the geometric mean.
function scale(values, from, to) {
  values.sort((a, b) => a - b);
  let low = values[0], high = values.at(-1);
  const off = (mean) => Math.abs(Math.log(values[values.length >> 1] / mean));
  const log = low > 0 && high > 20 * low && off(Math.sqrt(low * high)) < off((low + high) / 2);
  if (low === high) {
    low -= Math.abs(low) / 2 || 1;
    high += Math.abs(high) / 2 || 1;
  }
  const turn = log ? Math.log10 : (value) => value;
  const unit = (to - from) / (turn(high) - turn(low));
  const place = (value) => from + (turn(value) - turn(low)) * unit;
  return { place, log, ticks: log ? decades(low, high) : steps(low, high) };
}

function steps(low, high) {
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.ceil(low / step - 1e-9), last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, k) => (first + k) * step);
}

function decades(low, high) {
  const span = Math.log10(high / low), every = Math.ceil(span / 8), ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += every)
    for (const factor of span < 3 ? [1, 2, 5] : [1]) ticks.push(factor * 10 ** power);
  return ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
}

function draw(box, width) {
  const { x_label, y_label, curves } = JSON.parse(box.dataset.plot);
  for (const curve of curves)
    curve.points = curve.points
      .map(([x, y, std]) => ({ x, y, std }))
      .filter(({ x, y }) => x !== null && y !== null);
  const points = curves.flatMap((curve) => curve.points);
  box.replaceChildren();
  if (!points.length) return void html("p", `${y_label}: no finite values`, box);

  const height = Math.max(220, Math.min(340, width * 0.55));
  const right = width - MARGIN.right, bottom = height - MARGIN.bottom;
  const positive = points.every(({ y }) => y > 0);
  const ends = points.flatMap(({ y, std }) => [y, y + std, positive && std >= y ? y : y - std]);
  const X = scale(points.map(({ x }) => x), MARGIN.left, right);
  const Y = scale(ends, bottom, MARGIN.top);
  const label = `${y_label} over ${x_label}, ${curves.length} curves; the arrow keys read values`;
  const about = { role: "img", "aria-label": label, tabindex: 0 };
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, ...about }, box);
  drawAxes(chart, X, Y, right, bottom);
  svg("text", { class: "title", x: 0, y: 14 }, chart, y_label);
  const under = { class: "title", x: right, y: height - 6, "text-anchor": "end" };
  svg("text", under, chart, x_label);

  const help = "Point at the curves, or use the arrow keys, to read values.";
  const where = html("p", help, box), legend = html("ul", "", box);
  legend.setAttribute("aria-live", "polite");
  const cursor = svg("line", { class: "grid", y1: MARGIN.top, y2: bottom, x1: -9, x2: -9 }, chart);
  const shown = curves.map((curve, index) => drawCurve(chart, legend, curve, index, X, Y));
  const places = [...new Set(points.map(({ x }) => x))].sort((a, b) => a - b);
  let position = -1;

  function read(index) {
    position = Math.max(0, Math.min(places.length - 1, index));
    const x = places[position];
    cursor.setAttribute("x1", X.place(x));
    cursor.setAttribute("x2", X.place(x));
    where.textContent = `${x_label}: ${short(x)}`;
    for (const show of shown) show(x);
  }
  chart.addEventListener("pointermove", (event) => {
    const mouse = event.clientX - chart.getBoundingClientRect().left;
    read(places.indexOf(nearest(places, (x) => Math.abs(X.place(x) - mouse))));
  });
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    read(position + step);
  });
}

const nearest = (items, distance) =>
  items.reduce((best, item) => (distance(item) < distance(best) ? item : best));

function drawAxes(chart, X, Y, right, bottom) {
  for (const tick of Y.ticks) {
    const y = Y.place(tick);
    svg("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y, y2: y }, chart);
    svg("text", { x: MARGIN.left - 8, y: y + 4, "text-anchor": "end" }, chart, short(tick));
  }
  for (const tick of X.ticks) {
    const x = X.place(tick);
    svg("line", { class: "grid", x1: x, x2: x, y1: bottom, y2: bottom + 5 }, chart);
    svg("text", { x, y: bottom + 18, "text-anchor": "middle" }, chart, short(tick));
  }
}

// A curve, the band of one standard deviation, and its legend; returns what shows its value at x.
function drawCurve(chart, legend, { name, n, points }, index, X, Y) {
  const stroke = `var(--c${index % 8})`, dashes = DASHES[(index + (index >> 3)) % 4];
  const line = { stroke, "stroke-width": 2, "stroke-dasharray": dashes, fill: "none" };
  const place = (x, y) => `${X.place(x).toFixed(1)},${Y.place(y).toFixed(1)}`;
  const spread = points.filter(({ y, std }) => std !== null && (!Y.log || y > std));
  const upper = spread.map(({ x, y, std }) => place(x, y + std));
  const lower = spread.map(({ x, y, std }) => place(x, y - std)).reverse();
  svg("polygon", { points: [...upper, ...lower].join(" "), fill: stroke, opacity: 0.14 }, chart);
  svg("polyline", { points: points.map(({ x, y }) => place(x, y)).join(" "), ...line }, chart);
  if (points.length < 40)
    for (const { x, y } of points)
      svg("circle", { cx: X.place(x), cy: Y.place(y), r: 2.5, fill: stroke }, chart);
  const dot = svg("circle", { r: 5, cx: -9, cy: -9, fill: stroke }, chart);

  const item = html("li", "", legend);
  const swatch = svg("svg", { "aria-hidden": true }, item);
  svg("line", { x1: 0, x2: 26, y1: 6, y2: 6, ...line }, swatch);
  const runs = spread.length ? ` (± std, n = ${n})` : n > 1 ? ` (n = ${n})` : "";
  html("span", name.replaceAll("_", " ") + runs, item);
  const value = html("output", "", item);
  return (at) => {
    if (!points.length) return;
    const { x, y, std } = nearest(points, (point) => Math.abs(X.place(point.x) - X.place(at)));
    dot.setAttribute("cx", X.place(x));
    dot.setAttribute("cy", Y.place(y));
    value.value = short(y) + (std === null ? "" : ` ± ${short(std)}`)
      + (x === at ? "" : ` at ${short(x)}`);
  };
}

const widths = new ResizeObserver((entries) => {
  for (const { target, contentRect: { width } } of entries)
    if (width && target.dataset.width !== String(width)) {
      target.dataset.width = width;
      draw(target, width);
    }
});
for (const box of all(".plot")) widths.observe(box);

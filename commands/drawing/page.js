// The pen draws on a canvas; the server is sent the ink, and what it answers is shown.
"use strict";

const PEN = 22, STEP = 8; // pixels of the canvas: the pen's width, and how far a key moves it
const PAUSE = 60; // milliseconds from a change of the drawing to the question about it
const GREY = (v) => [v, v, v];

const find = (id) => document.getElementById(id);
const canvas = find("drawing");
const ink = canvas.getContext("2d", { willReadFrequently: true });
const bars = Array.from({ length: 10 }, (_, digit) => addBar(digit));

// --- drawing -------------------------------------------------------------------------------

let last = null; // where the pen touched the paper last; null while it is lifted
let sheet = 0; // of paper: what was asked about an older one is no longer shown

function line(from, to) {
  ink.lineWidth = PEN;
  ink.lineCap = ink.lineJoin = "round";
  ink.beginPath();
  ink.moveTo(from.x, from.y);
  ink.lineTo(to.x, to.y);
  ink.stroke();
  askSoon();
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return {
    x: (event.clientX - box.left) * canvas.width / box.width,
    y: (event.clientY - box.top) * canvas.height / box.height,
  };
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || !event.isPrimary) return;
  canvas.setPointerCapture(event.pointerId);
  lift();
  last = place(event);
  line(last, last);
});

canvas.addEventListener("pointermove", (event) => {
  if (!canvas.hasPointerCapture(event.pointerId)) return;
  const between = event.getCoalescedEvents?.() ?? [];
  for (const one of between.length ? between : [event]) {
    const to = place(one);
    line(last, to);
    last = to;
  }
});

// --- drawing by keys -----------------------------------------------------------------------

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const at = { x: canvas.width / 2, y: canvas.height / 4 };
let down = false;

function showPen(shown) {
  const pen = find("pen");
  pen.hidden = !shown;
  pen.classList.toggle("down", down);
  pen.style.left = `${100 * at.x / canvas.width}%`;
  pen.style.top = `${100 * at.y / canvas.height}%`;
}

function lift() {
  down = false;
  showPen(false);
}

canvas.addEventListener("keydown", (event) => {
  if (event.key === " ") {
    down = !down;
    if (down) line(at, at);
  } else if (event.key in MOVES) {
    const [dx, dy] = MOVES[event.key], from = { ...at };
    at.x = Math.min(Math.max(at.x + STEP * dx, 0), canvas.width);
    at.y = Math.min(Math.max(at.y + STEP * dy, 0), canvas.height);
    if (down) line(from, at);
  } else if (event.key === "Delete" || event.key === "Backspace") {
    clear();
  } else {
    return;
  }
  event.preventDefault();
  showPen(true);
});
canvas.addEventListener("blur", lift);

// --- asking --------------------------------------------------------------------------------

let timer = null, asking = false;

function askSoon() {
  timer ??= setTimeout(ask, PAUSE);
}

async function ask() {
  timer = null;
  if (asking) return askSoon(); // one question at a time
  const asked = sheet, drawing = rowsOfInk();
  if (!drawing.some((row) => row.some(Boolean))) return;
  asking = true;
  try {
    const answer = await post({ drawing });
    if (asked === sheet) show(answer);
  } catch (error) {
    say(`No answer (${error.message}). Is "python main.py draw" still running?`);
  } finally {
    asking = false;
  }
}

async function post(question) {
  const response = await fetch("answer", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(question),
  });
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

function rowsOfInk() {
  const { data, width, height } = ink.getImageData(0, 0, canvas.width, canvas.height);
  const opacity = Array.from({ length: width * height }, (_, k) => data[4 * k + 3]);
  return Array.from({ length: height }, (_, y) => opacity.slice(y * width, (y + 1) * width));
}

// --- showing -------------------------------------------------------------------------------

function addBar(digit) {
  const item = document.createElement("li");
  const [name, track, percent] = ["span", "div", "span"].map((kind) => {
    return item.appendChild(document.createElement(kind));
  });
  name.textContent = digit;
  track.className = "track";
  const bar = track.appendChild(document.createElement("div"));
  bar.className = "bar";
  find("bars").append(item);
  return { item, bar, percent };
}

function say(words) {
  if (find("answer").textContent !== words) find("answer").textContent = words;
}

function setBars(probabilities) {
  const best = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : -1;
  bars.forEach(({ item, bar, percent }, digit) => {
    const p = probabilities?.[digit] ?? 0;
    item.classList.toggle("best", digit === best);
    bar.style.width = `${100 * p}%`;
    percent.textContent = probabilities ? `${(100 * p).toFixed(1)}%` : "";
  });
  return best;
}

function show(answer) {
  const best = setBars(answer.probabilities);
  say(`The network says ${best}, sure to ${bars[best].percent.textContent}`);
  paint(find("picture"), answer.picture, GREY);
  paint(find("saliency"), answer.saliency, (slope, y, x) => {
    const grey = 0.6 * answer.picture[y][x], share = slope / 255;
    return [255, 140, 0].map((colour) => share * colour + (1 - share) * grey);
  });
  find("saliency-says").textContent =
    `Saliency: the more orange a pixel, the more a change of it would change the score of ${best}.`;
  find("layers").replaceChildren(...answer.layers.map(figureOf));
  find("looking").hidden = find("layers").hidden = false;
}

function figureOf({ filters, size, largest, tiles }, number) {
  const figure = document.createElement("figure");
  const picture = figure.appendChild(document.createElement("canvas"));
  const caption = figure.appendChild(document.createElement("figcaption"));
  const name = ["First", "Second"][number];
  caption.textContent =
    `${name} convolution: ${filters} filters, each with a map of ${size.join("×")} after ReLU; ` +
    `white is ${largest.toFixed(1)}, the largest output, and black 0.`;
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", `Feature maps of the ${name.toLowerCase()} convolution`);
  paint(picture, tiles, GREY);
  return figure;
}

// Rows of numbers, pixel by pixel; null stays transparent.
function paint(target, rows, colour) {
  [target.width, target.height] = [rows[0].length, rows.length];
  const context = target.getContext("2d");
  const image = context.createImageData(target.width, target.height);
  rows.flat().forEach((value, k) => {
    if (value === null) return;
    const x = k % target.width, y = (k - x) / target.width;
    image.data.set([...colour(value, y, x), 255], 4 * k);
  });
  context.putImageData(image, 0, 0);
}

function clear() {
  ink.clearRect(0, 0, canvas.width, canvas.height);
  sheet += 1;
  clearTimeout(timer);
  timer = null;
  lift();
  setBars(null);
  find("looking").hidden = find("layers").hidden = true;
  say("Nothing drawn yet");
}

find("clear").addEventListener("click", clear);
clear();
fetch("network")
  .then((response) => response.json())
  .then(({ about }) => { find("about").textContent = about; })
  .catch(() => say("The server does not answer."));

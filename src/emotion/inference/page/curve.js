// The curve of the largest face of the webcam over the last minute.

import { element, percent } from "./elements.js";
import { about } from "./service.js";

const DASHES = [[], [7, 3], [2, 3], [10, 3, 2, 3]]; // tell lines apart whose colours look alike
const OWN_DASHES = new Map(Object.entries({ angry: 0, disgust: 1, fear: 2, happy: 0, neutral: 1, sad: 0, surprise: 3 }));
const [SHORTEST_S, LONGEST_S] = [10, 60];
const MOST_LINES = 12; // of more classes, those that were most probable are drawn

const dashesOf = (name) => DASHES[OWN_DASHES.get(name) ?? about.classes.indexOf(name) % DASHES.length];

/**
 * Draws the curve, from the left edge on; once it is a minute long, it moves.
 *
 * @param history { second, probabilities } by time; `probabilities` is null without a face.
 * @param names classes to draw.
 */
export function drawCurve(canvas, history, names) {
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  Object.assign(canvas, { width: width * ratio, height: height * ratio });
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  drawGrid(pen, width, height);
  if (!history.length) return;
  const end = history.at(-1).second;
  const from = Math.max(history[0].second, end - LONGEST_S);
  const span = Math.max(SHORTEST_S, end - from);
  for (const name of names) {
    drawLine(pen, name, history, (second) => (width * (second - from)) / span, (share) => height * (0.98 - 0.96 * share));
  }
}

function drawGrid(pen, width, height) {
  const colour = (name) => getComputedStyle(document.body).getPropertyValue(name);
  pen.font = "12px system-ui, sans-serif";
  for (const share of [0.25, 0.5, 0.75]) {
    const y = height * (0.98 - 0.96 * share);
    pen.fillStyle = colour("--line");
    pen.fillRect(0, y, width, 1);
    pen.fillStyle = colour("--soft");
    pen.fillText(percent(share), 6, y - 4);
  }
}

function drawLine(pen, name, history, x, y) {
  pen.lineWidth = 2;
  pen.lineJoin = "round";
  pen.strokeStyle = about.colours[name];
  pen.setLineDash(dashesOf(name));
  pen.beginPath();
  let drawing = false;
  for (const { second, probabilities } of history) {
    if (probabilities) {
      if (drawing) pen.lineTo(x(second), y(probabilities[name]));
      else pen.moveTo(x(second), y(probabilities[name]));
    }
    drawing = Boolean(probabilities);
  }
  pen.stroke();
}

/** Returns the classes whose lines are worth drawing, in their order. */
export function drawnClasses(history) {
  if (about.classes.length <= MOST_LINES) return about.classes;
  const seen = history.map(({ probabilities }) => probabilities).filter(Boolean);
  const highest = new Map(about.classes.map((name) => [name, seen.reduce((most, shares) => Math.max(most, shares[name]), 0)]));
  const first = [...about.classes].sort((one, other) => highest.get(other) - highest.get(one)).slice(0, MOST_LINES);
  return about.classes.filter((name) => first.includes(name));
}

/** Fills a list with names of expressions, a sample of the line of each, and the probabilities if there are any. */
export function showLegend(list, names, probabilities) {
  if (list.dataset.names !== JSON.stringify(names)) {
    list.dataset.names = JSON.stringify(names);
    list.replaceChildren(...names.map((name) => {
      const value = element("b");
      value.dataset.name = name;
      return element("li", "", swatch(about.colours[name], dashesOf(name)), name, value);
    }));
  }
  for (const value of list.querySelectorAll("b")) value.textContent = probabilities ? percent(probabilities[value.dataset.name]) : "";
}

function swatch(colour, dashes) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  for (const [stroke, width] of [[about.ink, 5], [colour, 3]]) {
    const line = document.createElementNS(space, "line");
    const attributes = { x2: 28, y1: 3, y2: 3, "stroke-dasharray": dashes.join(" "), stroke, "stroke-width": width };
    for (const [name, value] of Object.entries(attributes)) line.setAttribute(name, value);
    svg.append(line);
  }
  return svg;
}

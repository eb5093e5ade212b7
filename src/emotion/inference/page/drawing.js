// Boxes, numbers, labels and heatmaps on pictures.

import { isUnsure, labelOf, titleOf } from "./faces.js";
import { about } from "./service.js";

const FONT = 13; // pixels of the screen
const UNSURE_COLOUR = "#c3c9d0";
const MOST_HEIGHT = 0.72; // of a picture, as a share of the window's height
const MOST_ENLARGED = 3;

/** Returns a canvas of a size in pixels. */
export function newCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width));
  canvas.height = Math.max(1, Math.round(height));
  return canvas;
}

/** Returns a copy of a picture whose longer side has at most so many pixels. */
export function smallCopy(picture, side) {
  const scale = Math.min(1, side / Math.max(picture.width, picture.height));
  const copy = newCanvas(picture.width * scale, picture.height * scale);
  const pen = copy.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture, 0, 0, copy.width, copy.height);
  return copy;
}

/**
 * Draws the faces of a picture.
 *
 * @param pen of the canvas, whose unit is a pixel of the screen.
 * @param size [width, height] of the canvas in that unit.
 * @param faces with `number`, `label`, `score` and, to be shown, `heatmap`.
 * @param factor units for a pixel of the boxes.
 * @param active number of the face that stands out, or null.
 */
export function drawFaces(pen, size, faces, factor, { active = null, heatmaps = false } = {}) {
  const placed = faces.map((face) => ({ face, box: face.box.map((value) => value * factor) }));
  if (heatmaps) for (const { face, box } of placed) if (face.heatmap) drawHeatmap(pen, face.heatmap, box);
  const order = placed.sort((one, other) => (one.face.number === active) - (other.face.number === active));
  for (const { face, box } of order) {
    pen.globalAlpha = active === null || face.number === active ? 1 : 0.4;
    drawBox(pen, face, box, face.number === active);
  }
  for (const { face, box } of order) {
    pen.globalAlpha = active === null || face.number === active ? 1 : 0.4;
    drawLabel(pen, size, face, box, faces.length === 1 || face.number === active);
  }
  pen.globalAlpha = 1;
}

/** Returns the colour of a face's box and label. */
export const colourOf = (face) => (isUnsure(face) ? UNSURE_COLOUR : about.colours[face.label]);

function drawBox(pen, face, [left, top, width, height], active) {
  const line = Math.max(1.5, Math.min(3, width / 20)) + (active ? 1.5 : 0);
  for (const [colour, thickness, dashes] of [[about.ink, line + 2, []], [colourOf(face), line, isUnsure(face) ? [6, 4] : []]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = thickness;
    pen.setLineDash(dashes);
    pen.strokeRect(left, top, width, height);
  }
  pen.setLineDash([]);
}

/** Writes number, label and probability above the box; where many faces have no room for it, the number alone. */
function drawLabel(pen, [canvasWidth], face, [left, top, width], whole) {
  const number = String(face.number);
  const texts = whole ? [`${number}  ${titleOf(face)}`] : [`${number}  ${titleOf(face)}`, `${number}  ${labelOf(face)}`, number];
  pen.font = `600 ${FONT}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  let text = texts.find((candidate) => pen.measureText(candidate).width + 10 <= width + 4) ?? texts.at(-1);
  while (pen.measureText(text).width + 10 > canvasWidth && text.length > 2) text = `${text.slice(0, -2)}…`;
  const [labelWidth, labelHeight] = [pen.measureText(text).width + 10, FONT + 6];
  const x = Math.max(0, Math.min(left - 1, canvasWidth - labelWidth));
  const y = top >= labelHeight ? top - labelHeight : Math.max(0, top);
  pen.fillStyle = about.ink;
  pen.fillRect(x - 1, y - 1, labelWidth + 2, labelHeight + 2);
  pen.fillStyle = colourOf(face);
  pen.fillRect(x, y, labelWidth, labelHeight);
  pen.fillStyle = about.ink;
  pen.fillText(text, x + 5, y + labelHeight / 2 + 0.5);
}

function drawHeatmap(pen, rows, [left, top, width, height]) {
  const small = newCanvas(rows[0].length, rows.length);
  const image = new ImageData(rows[0].length, rows.length);
  rows.flat().forEach((value, index) => {
    image.data.set([255, Math.round(220 * value), 0, Math.round(190 * value)], 4 * index);
  });
  small.getContext("2d").putImageData(image, 0, 0);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(small, left, top, width, height);
}

/** Sets the size of a canvas in pixels of the screen, and returns its pen with that unit. */
export function fitCanvas(canvas, width, height) {
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  return pen;
}

/**
 * A picture with the boxes of its faces on a canvas, as large as its parent allows. Letters have the same size on every
 * screen.
 *
 * @param canvas in an element whose width counts.
 * @param onPoint called with the number of the face under the pointer, or null.
 * @param onPick called with the number of a face that is clicked.
 */
export class Picture {
  constructor(canvas, { onPoint, onPick }) {
    Object.assign(this, { canvas, source: null, answer: null, active: null, heatmaps: false });
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
    canvas.addEventListener("pointermove", (event) => onPoint(this.faceAt(event)));
    canvas.addEventListener("pointerleave", () => onPoint(null));
    canvas.addEventListener("click", (event) => {
      const number = this.faceAt(event);
      if (number !== null) onPick(number);
    });
  }

  /** Shows a picture, and the faces of an answer if there is one. */
  show(source, answer) {
    const active = answer?.faces.some(({ number }) => number === this.active) ? this.active : null;
    Object.assign(this, { source, answer, active });
    this.resize();
  }

  resize() {
    const room = this.canvas.parentElement.clientWidth;
    if (!this.source || !room) return;
    const { width, height } = this.source;
    const scale = Math.min(room / width, (MOST_HEIGHT * innerHeight) / height, MOST_ENLARGED);
    this.size = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
    this.pen = fitCanvas(this.canvas, ...this.size);
    this.copy = newCanvas(this.canvas.width, this.canvas.height);
    const pen = this.copy.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(this.source, 0, 0, this.copy.width, this.copy.height);
    this.draw();
  }

  draw() {
    if (!this.source || !this.pen) return;
    this.pen.drawImage(this.copy, 0, 0, ...this.size);
    if (this.answer) drawFaces(this.pen, this.size, this.answer.faces, this.factor, this);
  }

  get factor() {
    return this.size[0] / this.answer.width;
  }

  activate(number) {
    if (this.active === number) return;
    this.active = number;
    this.draw();
  }

  /** Returns the number of the smallest face under a pointer, or null. */
  faceAt({ offsetX, offsetY }) {
    const hit = (this.answer?.faces ?? []).filter(({ box }) => {
      const [left, top, width, height] = box.map((value) => value * this.factor);
      return offsetX >= left && offsetX <= left + width && offsetY >= top && offsetY <= top + height;
    });
    const smallest = hit.sort((one, other) => one.box[2] - other.box[2])[0];
    this.canvas.style.cursor = smallest ? "pointer" : "";
    return smallest?.number ?? null;
  }
}

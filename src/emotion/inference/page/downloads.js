// Results to take away.

import { ranked } from "./faces.js";
import { about, fetchFile } from "./service.js";

const BOX = ["left", "top", "width", "height"];
const FACE = [...BOX, "confidence", "label"];
const FRAME = ["file", "frame", "second", "person"];

/** Saves a text or a blob as a file. */
export function save(name, content, type = "text/plain") {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Returns the name of a file without its suffix. */
export const stem = (name) => name.replace(/\.[^.]*$/, "") || name;

/** Returns the faces of photographs as CSV, with the columns of `emotion predict --csv`. */
export function imageTable(photos) {
  const columns = classColumns();
  const rows = photos.flatMap(({ name, answer }) => rowsOf({ file: noFormula(name) }, answer.faces, columns));
  return csv(["file", ...FACE, ...columns.values()], rows);
}

/**
 * Returns the faces of frames as CSV, with the columns of `emotion predict --csv` for films.
 *
 * @param frames with `frame`, `second` and `faces`, which have `person` and `raw`.
 */
export function filmTable(name, frames) {
  const columns = classColumns();
  const rows = frames.flatMap(({ frame, second, faces }) => rowsOf({ file: noFormula(name), frame, second }, faces, columns));
  const own = [...columns.values()];
  return csv([...FRAME, ...FACE, ...own, "raw_label", ...own.map((column) => `raw_${column}`)], rows);
}

/** Returns the columns of the probabilities, by class, as `columns_of` in records.py names them. */
function classColumns() {
  const taken = new Set([...FRAME, ...FACE, "raw_label"]);
  return new Map(about.classes.map((name) => {
    let column = name;
    while (taken.has(column) || taken.has(`raw_${column}`) || (column !== name && about.classes.includes(column))) column = `class_${column}`;
    taken.add(column).add(`raw_${column}`);
    return [name, column];
  }));
}

function rowsOf(place, faces, columns) {
  if (!faces.length) return [new Map(Object.entries(place))];
  return faces.map(({ box, person, confidence, label, probabilities, raw }) => {
    const row = new Map(Object.entries({ ...place, person, confidence, label: noFormula(label) }));
    BOX.forEach((side, index) => row.set(side, box[index]));
    for (const [name, column] of columns) row.set(column, rounded(probabilities[name]));
    if (raw) row.set("raw_label", noFormula(ranked(raw)[0][0]));
    for (const [name, column] of raw ? columns : []) row.set(`raw_${column}`, rounded(raw[name]));
    return row;
  });
}

/** Keeps a spreadsheet from taking the name of a class or file for a formula; -1, +0.5, -3e-05 and -1 to 2 are numbers. */
const noFormula = (name) => (/^([=@]|[+-](?!$|[\d.]+(e[+-]?\d+)?( to -?[\d.]+(e[+-]?\d+)?)?$))/.test(name) ? `'${name}` : name);

/**
 * Returns the page of a film's timeline, as `emotion predict --timeline` writes it; it asks for the film.
 *
 * @param film what `timeline_data` of the service returns.
 */
export async function timelinePage(film) {
  const names = ["timeline.html", "timeline.css", "timeline.js", "timeline-page.js"];
  const [template, style, ...scripts] = await Promise.all(names.map(async (name) => (await fetchFile(`/page/${name}`)).text()));
  const script = scripts.join("");
  const policy = `default-src 'none'; script-src '${await digest(script)}'; style-src '${await digest(style)}'; img-src data:; `
    + "media-src 'self' file: blob:; base-uri 'none'; form-action 'none'";
  const data = JSON.stringify({ timeline: film, address: null }).replaceAll("<", "\\u003c"); // cannot end its element
  const parts = { policy, title: escaped(film.name), style, data, script };
  return template.replace(/\$(\w+)/g, (_, name) => parts[name]);
}

const escaped = (text) => text.replace(/[&<>"']/g, (char) => `&#${char.codePointAt(0)};`);

async function digest(text) {
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)));
  return `sha256-${btoa(String.fromCharCode(...bytes))}`;
}

const rounded = (value) => Math.round(1e4 * value) / 1e4;

function csv(columns, rows) {
  const lines = rows.map((row) => columns.map((column) => quoted(row.get(column))).join(","));
  return [columns.map((column) => quoted(noFormula(column))).join(","), ...lines, ""].join("\n");
}

function quoted(value) {
  const text = String(value ?? "");
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

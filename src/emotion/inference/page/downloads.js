// Results to take away.

import { about } from "./service.js";

const BOX = ["left", "top", "width", "height"];

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
  const rows = photos.flatMap(({ name, answer }) => rowsOf({ file: name }, answer.faces));
  return csv(["file", ...faceColumns()], rows);
}

/**
 * Returns the faces of frames as CSV, with the columns of `emotion predict --csv` for films.
 *
 * @param frames with `frame`, `second` and `faces`, which have `person` and `raw`.
 */
export function filmTable(name, frames) {
  const rows = frames.flatMap(({ frame, second, faces }) => rowsOf({ file: name, frame, second }, faces));
  const classes = Object.keys(about.colours);
  return csv(["file", "frame", "second", "person", ...faceColumns(), "raw_label", ...classes.map((label) => `raw_${label}`)], rows);
}

const faceColumns = () => [...BOX, "confidence", "label", ...Object.keys(about.colours)];

function rowsOf(place, faces) {
  if (!faces.length) return [place];
  return faces.map(({ box, person, confidence, label, probabilities, raw }) => {
    const row = { ...place, person, confidence, label };
    BOX.forEach((side, index) => (row[side] = box[index]));
    for (const [name, value] of Object.entries(probabilities)) row[name] = rounded(value);
    if (raw) row.raw_label = Object.keys(raw).reduce((best, name) => (raw[name] > raw[best] ? name : best));
    for (const [name, value] of Object.entries(raw ?? {})) row[`raw_${name}`] = rounded(value);
    return row;
  });
}

/**
 * Returns the page of a film's timeline, as `emotion predict --timeline` writes it; it asks for the film.
 *
 * @param film what `timeline_data` of the service returns.
 */
export async function timelinePage(film) {
  const names = ["timeline.html", "timeline.css", "timeline.js", "timeline-page.js"];
  const [template, style, ...scripts] = await Promise.all(names.map(async (name) => (await fetch(`/page/${name}`)).text()));
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
  const lines = rows.map((row) => columns.map((column) => quoted(row[column])).join(","));
  return [columns.join(","), ...lines, ""].join("\n");
}

function quoted(value) {
  const text = String(value ?? "");
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

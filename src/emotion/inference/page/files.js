// Photographs and films that were chosen, dropped or pasted, their answers, and the list of them.

import { drawFaces, newCanvas, smallCopy } from "./drawing.js";
import { imageTable, save, stem } from "./downloads.js";
import { byId, counted, element, percent, scrollToResults, showMessage, showParts } from "./elements.js";
import { joined, titleOf } from "./faces.js";
import { pauseFilm, runFilm, showFilm } from "./film.js";
import { showHeatmaps, showResult } from "./result.js";
import { about, askAll } from "./service.js";

const AT_ONCE = 2; // photographs that are sent at the same time
const SIDE = 1600; // most pixels of the copies on the page
const TILE = 320;
const PRINTED = 900; // a saved picture has letters as on a screen of so many pixels
const LESS_SURE = 0.3; // confidence of a second search for faces
const FILMS = /\.(mp4|m4v|mov|qt|avi|mkv|webm|mpe?g|m[12]v|vob|wmv|asf|3g[p2]|flv|m?ts|m2ts|mxf|ogv|divx)$/i;

let entries = []; // see `newEntry`
let open = null; // the entry that is shown
let abort = new AbortController(); // ends the requests for these films
let abortPhotos = new AbortController(); // ends those for these photographs

/** Takes files in place of those before; the first one is shown. */
export function takeFiles(files, credit = "") {
  if (!files.length) return;
  clear();
  entries = [...files].map((file) => newEntry(file, credit));
  byId("files").hidden = entries.length < 2;
  byId("grid").replaceChildren(...entries.map(({ tile }) => tile.item));
  show(entries[0]);
  work(entries.filter(({ isFilm }) => !isFilm), AT_ONCE, abortPhotos.signal, askPhoto);
  work(entries.filter(({ isFilm }) => isFilm), 1, abort.signal, askFilm);
  updateStatus();
  scrollToResults();
}

/** Ends the requests, and forgets the files. */
export function clear() {
  abort.abort();
  abortPhotos.abort();
  abort = new AbortController();
  abortPhotos = new AbortController();
  entries = [];
  open = null;
  showMessage("");
  byId("files").hidden = true;
  showParts();
}

function newEntry(file, credit) {
  const isFilm = file.type.startsWith("video/") || FILMS.test(file.name);
  const entry = { name: file.name, blob: file, isFilm, credit, state: "waiting", error: "", source: null, small: null, preview: "",
    answers: [], answer: null, question: null, confidence: null, asked: 0, rows: [], film: null, share: 0 };
  return Object.assign(entry, { tile: newTile(entry) });
}

/** Works on entries one after the other, some at the same time. */
function work(waiting, atOnce, signal, ask) {
  const queue = [...waiting];
  const next = async () => {
    for (let entry = queue.shift(); entry && !signal.aborted; entry = queue.shift()) await ask(entry, signal);
  };
  for (let index = 0; index < atOnce; index++) next();
}

// Photographs.

async function askPhoto(entry, signal) {
  const number = ++entry.asked; // answers to older questions are dropped
  const isOld = () => signal.aborted || number !== entry.asked;
  entry.state = "busy";
  updateTile(entry);
  try {
    if (!entry.small) keep(entry, await pictureOf(entry));
    if (entry === open && !isOld()) showEntry(entry);
    entry.question = questionFor(entry);
    const answers = await askAll(entry, entry.question, signal);
    if (!entry.small) {
      entry.preview = answers[0].preview;
      keep(entry, await pictureOf(entry));
    }
    if (isOld()) return;
    Object.assign(entry, { state: "done", error: "", answers: answers.map(({ preview, ...answer }) => answer), answer: joined(answers) });
    noteHeatmaps(entry);
  } catch (error) {
    if (isOld()) return;
    Object.assign(entry, { state: "failed", error: error.message });
  }
  updateTile(entry);
  updateStatus();
  if (entry === open) showEntry(entry);
}

/** Returns the picture of an entry, or null for a format that this browser does not show, before it has the answer. */
async function pictureOf({ source, preview, blob }) {
  return source ?? (preview ? pictureAt(preview) : decode(blob));
}

/** Keeps the picture of the open entry, and of others a small copy: a large one takes megabytes. */
function keep(entry, picture) {
  if (!picture) return;
  entry.small ??= smallCopy(picture, TILE);
  entry.source = entry === open ? picture : null;
}

function questionFor({ small, confidence }) {
  const asked = { detect: !byId("single-face").checked, heatmap: byId("heatmap").checked };
  return { ...asked, ...(small ? {} : { preview: true }), ...(confidence === null ? {} : { confidence }) };
}

/** Returns the picture of a file, upright, or null for a format that this browser does not show. */
async function decode(blob, side = SIDE) {
  try {
    if (await mayBeTurned(blob)) return null;
    const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
    const copy = smallCopy(bitmap, side);
    bitmap.close();
    return copy;
  } catch {
    return null;
  }
}

/** Tells whether a file is WebP with EXIF data, which may say that the picture lies on its side; browsers ignore it. */
async function mayBeTurned(blob) {
  const start = new Uint8Array(await blob.slice(0, 21).arrayBuffer());
  return String.fromCharCode(...start.slice(8, 16)) === "WEBPVP8X" && (start[20] & 8) !== 0;
}

async function pictureAt(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  return smallCopy(image, SIDE);
}

function noteHeatmaps({ answers, question }) {
  const faces = answers.flatMap((answer) => answer.faces);
  const lacking = question.heatmap && faces.length > 0 && !faces.some(({ heatmap }) => heatmap);
  byId("heatmap").disabled ||= lacking;
  byId("no-heatmap").hidden = !byId("heatmap").disabled;
}

/** Asks again for all photographs, as after a change of the options. */
export function askAgain() {
  const photos = entries.filter(({ isFilm }) => !isFilm);
  if (!photos.length) return;
  abortPhotos.abort();
  abortPhotos = new AbortController();
  for (const entry of photos) Object.assign(entry, { answer: null, error: "", state: "waiting" });
  if (open && !open.isFilm) showEntry(open);
  updateStatus();
  work([...photos].sort((one, other) => (other === open) - (one === open)), AT_ONCE, abortPhotos.signal, askPhoto);
}

/** Shows the heatmaps or hides them; they are asked for when they are first wanted. */
export function changeHeatmaps() {
  const wanted = byId("heatmap").checked;
  showHeatmaps(wanted);
  if (wanted && entries.some(({ question }) => question && !question.heatmap)) askAgain();
}

/** Searches the photograph that is shown for faces that the detector is less sure of. */
export function lookCloser() {
  open.confidence = LESS_SURE;
  open.answer = null;
  showEntry(open);
  askPhoto(open, abortPhotos.signal);
}

// Films.

async function askFilm(entry, signal) {
  entry.state = "busy";
  await runFilm(entry, signal, () => {
    updateTile(entry);
    if (entry === open) showEntry(entry);
  });
  if (!signal.aborted) updateStatus();
}

// The list.

function newTile(entry) {
  const canvas = newCanvas(TILE, TILE);
  canvas.setAttribute("aria-hidden", "true");
  const text = element("span", "text", "waiting");
  const choose = element("button", "tile", canvas, element("b", "", entry.name), text);
  choose.type = "button";
  choose.addEventListener("click", () => show(entry));
  return { canvas, text, choose, item: element("li", "", choose) };
}

function updateTile(entry) {
  const { tile, small, answer, state, isFilm } = entry;
  tile.text.textContent = stateOf(entry);
  tile.choose.classList.toggle("failed", state === "failed");
  tile.choose.classList.toggle("is-busy", state === "busy");
  if (isFilm) return drawFilmTile(entry);
  if (!small) return undefined;
  const scale = Math.min(TILE / small.width, TILE / small.height);
  const size = [small.width * scale, small.height * scale];
  Object.assign(tile.canvas, { width: Math.round(size[0]), height: Math.round(size[1]) });
  const pen = tile.canvas.getContext("2d");
  pen.drawImage(small, 0, 0, ...size);
  if (answer) drawFaces(pen, size, answer.faces, size[0] / answer.width);
  return undefined;
}

function drawFilmTile({ tile, share, state }) {
  const pen = tile.canvas.getContext("2d");
  pen.fillStyle = about.ink;
  pen.fillRect(0, 0, TILE, TILE);
  pen.fillStyle = "#ffffff";
  pen.beginPath();
  pen.moveTo(130, 110);
  pen.lineTo(210, 160);
  pen.lineTo(130, 210);
  pen.fill();
  if (state === "busy") pen.fillRect(0, TILE - 12, TILE * share, 12);
}

function stateOf({ name, state, answer, isFilm, share, film, error }) {
  if (state === "failed") return error.replace(`${name}: `, "");
  if (state === "waiting") return "waiting";
  if (state === "busy") return isFilm ? percent(share) : "looking …";
  if (isFilm) return film ? counted(film.persons.length, "person") : "stopped";
  const { faces, found } = answer;
  return faces.length === 1 ? titleOf(faces[0]) : found ? counted(found, "face") : "no face";
}

function updateStatus() {
  const done = entries.filter(({ state }) => state === "done" || state === "failed").length;
  byId("status").textContent = done < entries.length ? `${done} of ${entries.length} done` : `${entries.length} files`;
  const photos = entries.some(({ answer }) => answer);
  for (const id of ["csv", "json"]) byId(id).disabled = !photos;
}

async function show(entry) {
  if (open) open.source = null;
  open = entry;
  for (const { tile } of entries) tile.choose.setAttribute("aria-current", String(tile === entry.tile));
  if (entry.small) keep(entry, await pictureOf(entry));
  if (entry === open) showEntry(entry);
}

function showEntry(entry) {
  byId("png").disabled = !entry.answer;
  showMessage(entry.error && (entry.state === "failed" || entry.isFilm) ? entry.error : "");
  if (entry.state === "failed" || !entry.isFilm) pauseFilm();
  if (entry.state === "failed") return showParts();
  if (entry.isFilm) {
    showParts("film");
    return showFilm(entry);
  }
  showParts("result");
  showHeatmaps(byId("heatmap").checked);
  return showResult(entry.source ?? entry.small ?? newCanvas(480, 320), entry.answer, entry.credit);
}

// Downloads.

const answered = () => entries.filter(({ answer }) => answer);
const nameFor = (suffix) => `${entries.length === 1 ? stem(entries[0].name) : "faces"}.${suffix}`;

export function saveTable() {
  save(nameFor("csv"), imageTable(answered()), "text/csv");
}

/** Saves the answers of the service; those of several networks by their names. */
export function saveAnswers() {
  const objects = entries.filter(({ isFilm, answer, error }) => !isFilm && (answer || error)).map(({ name, answers, error }) => {
    if (error) return { file: name, detail: error };
    if (answers.length === 1) return { file: name, ...answers[0] };
    return { file: name, networks: Object.fromEntries(about.networks.map((network, index) => [network, answers[index]])) };
  });
  save(nameFor("json"), `${JSON.stringify(objects, null, 1)}\n`, "application/json");
}

/** Saves the photograph that is shown, in its own size, with boxes and labels. */
export async function savePicture() {
  const entry = open;
  const { answer, name, blob } = entry;
  const own = await decode(blob, Infinity);
  const small = async () => annotated(smallCopy(await pictureOf(entry), SIDE), answer);
  save(`${stem(name)}-faces.png`, (own && (await annotated(own, answer))) ?? (await small()));
}

/** Draws the faces on a picture, and returns it as PNG; null if it is too large for this browser. */
function annotated(canvas, answer) {
  const unit = Math.max(1, Math.max(canvas.width, canvas.height) / PRINTED);
  const pen = canvas.getContext("2d");
  pen.scale(unit, unit);
  const size = [canvas.width / unit, canvas.height / unit];
  drawFaces(pen, size, answer.faces, size[0] / answer.width, { heatmaps: byId("heatmap").checked });
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

// Films: their progress, the film with boxes on it, and the timeline of its persons.

import { filmTable, save, stem, timelinePage } from "./downloads.js";
import { drawFaces, fitCanvas } from "./drawing.js";
import { byId, counted, element, percent, show, showMessage } from "./elements.js";
import { titleOf } from "./faces.js";
import { askFilm } from "./service.js";
import { drawTimeline } from "./timeline.js";

const ROWS = 5; // that are listed while a film is read
const LOOK_MS = 700; // between two pictures of a film that is read

let shown = null; // the film on the page: see `newEntry` in files.js
let video = null;
let stopFilm = () => {}; // of the film that is read
let looked = 0; // when `lookAt` last moved the film, ms

/** Reads a film: fills its `rows`, `share` and `film`. `onChange` is called after each row. */
export async function runFilm(entry, signal, onChange) {
  const own = new AbortController();
  signal.addEventListener("abort", () => own.abort());
  stopFilm = () => own.abort();
  onChange();
  try {
    for await (const row of askFilm(entry, own.signal)) {
      if (row.film) entry.film = row.film;
      else entry.rows.push(row);
      entry.share = row.share ?? entry.share;
      onChange();
    }
  } catch (error) {
    if (!own.signal.aborted) entry.error = error.message;
  }
  if (signal.aborted) return;
  entry.state = entry.error && !entry.rows.length ? "failed" : "done";
  onChange();
}

/** Shows a film, or what has changed of it. */
export function showFilm(entry) {
  if (shown !== entry) open(entry);
  const busy = entry.state !== "done";
  byId("film").setAttribute("aria-busy", String(busy));
  show("progress", busy, "film-name");
  byId("film-downloads").hidden = busy || !entry.rows.length;
  byId("film-timeline").disabled = !entry.film;
  if (busy) return showProgress(entry);
  byId("film-summary").textContent = entry.film ? "Done." : `Stopped: ${counted(entry.rows.length, "frame")} are classified.`;
  if (entry.film && !byId("timeline").childElementCount) {
    if (video.paused) video.currentTime = entry.film.lead;
    drawTimeline(byId("timeline"), entry.film, { video });
  }
  return drawBoxes();
}

function open(entry) {
  shown = entry;
  byId("film-name").textContent = entry.name;
  byId("film-summary").textContent = "";
  byId("timeline").replaceChildren();
  byId("rows").replaceChildren();
  if (video) unload(video);
  video = element("video"); // a timeline listens to its video for good, so that each film gets a new one
  Object.assign(video, { controls: true, playsInline: true, preload: "auto", muted: true });
  video.setAttribute("aria-label", entry.name);
  byId("film-stage").replaceChildren(video, element("canvas"));
  byId("film-stage").hidden = false;
  byId("unplayable").hidden = true;
  const own = video;
  const cannotPlay = () => {
    if (own !== video) return;
    byId("film-stage").hidden = true;
    byId("unplayable").hidden = false;
  };
  video.addEventListener("error", cannotPlay);
  video.addEventListener("loadedmetadata", () => video.videoWidth || cannotPlay()); // the sound alone can be played
  for (const name of ["loadeddata", "seeked", "pause"]) video.addEventListener(name, drawBoxes);
  video.addEventListener("play", follow);
  new ResizeObserver(drawBoxes).observe(video);
  video.src = URL.createObjectURL(entry.blob);
}

/** Frees the memory of a film, and ends its sound. */
function unload(old) {
  old.pause();
  URL.revokeObjectURL(old.src);
  old.removeAttribute("src");
  old.load();
}

function showProgress({ rows, share, state }) {
  const bar = byId("progress-bar");
  if (share) bar.value = share;
  else bar.removeAttribute("value");
  byId("percent").textContent = share ? percent(share) : "";
  const last = rows.at(-1);
  const waits = state === "waiting" ? "waits for the film before it" : "sending the film …";
  byId("progress-text").textContent = last ? `${last.second.toFixed(1)} s are done` : waits;
  byId("stop").hidden = state === "waiting";
  byId("rows").replaceChildren(...rows.slice(-ROWS).reverse().map(line));
  if (last) lookAt(last.second + last.lead);
}

function line({ second, faces }) {
  const text = faces.map((face) => `${face.person} ${titleOf(face)}`).join(", ") || "no face";
  return element("tr", "", element("td", "", `${second.toFixed(1)} s`), element("td", "", text));
}

/** Shows the picture of a film at a second while it is read, unless the user plays it. */
function lookAt(second) {
  const now = performance.now();
  if (!video.paused || video.seeking || now - looked < LOOK_MS || video.readyState < 1) return;
  looked = now;
  video.currentTime = second;
}

// Boxes.

function follow() {
  drawBoxes();
  if (video?.paused === false) requestAnimationFrame(follow);
}

function drawBoxes() {
  const canvas = byId("film-stage").querySelector("canvas");
  if (!shown || !video.videoWidth || !video.clientWidth) return;
  const scale = Math.min(video.clientWidth / video.videoWidth, video.clientHeight / video.videoHeight);
  const size = [video.videoWidth * scale, video.videoHeight * scale];
  const pen = fitCanvas(canvas, ...size);
  canvas.style.left = `${video.offsetLeft + (video.clientWidth - size[0]) / 2}px`;
  canvas.style.top = `${video.offsetTop + (video.clientHeight - size[1]) / 2}px`;
  drawFaces(pen, size, facesAt(shown.rows, video.currentTime - (shown.rows[0]?.lead ?? 0)), scale);
}

/** Returns the faces at a second; boxes move evenly between two classified frames. */
function facesAt(rows, second) {
  const after = rows.findIndex((row) => row.second > second + 1e-3);
  const before = rows[after < 0 ? rows.length - 1 : after - 1];
  const next = rows[after];
  if (!before || (!next && second > before.second + 1)) return [];
  const share = next ? (second - before.second) / (next.second - before.second) : 0;
  return before.faces.map((face) => {
    const later = next?.faces.find(({ person }) => person === face.person) ?? face;
    return { ...face, number: face.person, box: face.box.map((value, side) => value + share * (later.box[side] - value)) };
  });
}

// Buttons.

export function listen() {
  byId("stop").addEventListener("click", () => stopFilm());
  byId("film-csv").addEventListener("click", () => {
    save(`${stem(shown.name)}.csv`, filmTable(shown.name, shown.rows), "text/csv");
  });
  byId("film-timeline").hidden = !globalThis.crypto?.subtle; // only on this machine and with HTTPS
  byId("film-timeline").addEventListener("click", async () => {
    const { name, film } = shown;
    try {
      save(`${stem(name)}.html`, await timelinePage(film), "text/html");
    } catch (error) {
      showMessage(error.message);
    }
  });
  byId("film-jsonl").addEventListener("click", () => {
    const lines = shown.rows.map(({ frame, second, faces }) => `${JSON.stringify({ file: shown.name, frame, second, faces })}\n`);
    save(`${stem(shown.name)}.jsonl`, lines.join(""), "application/jsonl");
  });
}

/** Ends the playing of a film that is not shown now. */
export const pauseFilm = () => video?.pause();

/** Forgets the film. */
export function closeFilm() {
  if (video) unload(video);
  video = shown = null;
}

// The webcam: its pictures go to the service one after the other. It is shown as a mirror.

import { drawCurve, drawnClasses, showLegend } from "./curve.js";
import { filmTable, save } from "./downloads.js";
import { newCanvas } from "./drawing.js";
import { byId, counted, element, scrollToResults, showMessage, showParts } from "./elements.js";
import { joined, largest } from "./faces.js";
import { showHeatmaps, showResult } from "./result.js";
import { askAll } from "./service.js";
import { Tracks } from "./tracks.js";

const WIDTH = 640; // of the pictures that are sent, pixels
const KEPT_S = 60; // of the curve
const SPOKEN_MS = 3000; // a screen reader would never finish a summary that changes several times a second
const PROBLEMS = {
  NotFoundError: "No webcam was found.",
  NotAllowedError: "The browser does not allow this page to use the webcam. Allow it beside the address of the page.",
  NotReadableError: "Another program is using the webcam.",
  OverconstrainedError: "This camera is gone. Choose another one.",
};

const INSECURE = "Browsers allow the webcam on secure pages only: open this page on the machine of the service, or over HTTPS.";

let stream = null;
let abort = new AbortController(); // ends the requests of the camera that was ended
let run = 0; // number of the newest start: answers for older ones are dropped
let paused = false;
let history = []; // { second, probabilities } of the largest face
let recording = null; // { from, frames } while the user records
let recorded = []; // frames of the last recording

/** Starts the webcam, or ends it; `onStart` is called once there is a camera. */
export async function toggleWebcam(onStart) {
  if (stream) return stopWebcam();
  return start({ onStart });
}

async function start({ camera = null, onStart = () => {} }) {
  showMessage("");
  if (!navigator.mediaDevices) return showMessage(INSECURE);
  const number = ++run;
  const video = { width: { ideal: WIDTH }, ...(camera ? { deviceId: { exact: camera } } : {}) };
  let opened;
  try {
    opened = await navigator.mediaDevices.getUserMedia({ video, audio: false });
  } catch (error) {
    if (number !== run) return undefined;
    return showMessage(PROBLEMS[error.name] ?? `The webcam cannot be used (${error.name}).`);
  }
  if (number !== run) return opened.getTracks().forEach((track) => track.stop());
  onStart();
  stream = opened;
  opened.getVideoTracks()[0].addEventListener("ended", () => {
    if (stream !== opened) return;
    stopWebcam();
    showMessage(PROBLEMS.OverconstrainedError);
  });
  history = [];
  setPaused(false);
  showParts("live");
  byId("video").srcObject = stream;
  await byId("video").play();
  await listCameras(opened);
  if (number !== run) return undefined; // the user has ended it meanwhile
  byId("webcam").textContent = "Stop the webcam";
  byId("webcam").setAttribute("aria-pressed", "true");
  scrollToResults();
  return watch(number);
}

/** Names the cameras, which browsers tell only once one of them may be used. */
async function listCameras(opened) {
  const devices = await navigator.mediaDevices.enumerateDevices();
  const cameras = devices.filter(({ kind }) => kind === "videoinput");
  const used = opened.getVideoTracks()[0].getSettings().deviceId;
  byId("camera").replaceChildren(...cameras.map(({ deviceId, label }, index) => {
    const option = element("option", "", label || `Camera ${index + 1}`);
    return Object.assign(option, { value: deviceId, selected: deviceId === used });
  }));
  byId("camera").parentElement.hidden = cameras.length < 2;
}

/** Ends the webcam; its last picture and its curve stay on the page. */
export function stopWebcam() {
  release();
  if (recording) toggleRecording();
  setPaused(false);
  byId("pause").disabled = byId("record").disabled = true;
  byId("webcam").textContent = "Start the webcam";
  byId("webcam").setAttribute("aria-pressed", "false");
}

function release() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  abort.abort();
  abort = new AbortController();
  run++;
}

async function watch(number) {
  const video = byId("video");
  const tracks = new Tracks();
  const begin = performance.now();
  let spoken = -Infinity;
  byId("pause").disabled = byId("record").disabled = false;
  while (stream && number === run) {
    if (paused) {
      await new Promise((done) => setTimeout(done, 100));
      continue;
    }
    const second = (performance.now() - begin) / 1000;
    const [picture, mirror] = picturesOf(video);
    const blob = await new Promise((done) => picture.toBlob(done, "image/jpeg", 0.85));
    try {
      const asked = { detect: !byId("single-face").checked, heatmap: byId("heatmap").checked };
      const answer = joined(await askAll({ blob, name: "webcam" }, asked, abort.signal, 1));
      if (!stream || number !== run || paused) continue;
      const faces = tracks.update(answer.faces, second, Number(byId("smooth").value));
      const speaks = performance.now() - spoken > SPOKEN_MS;
      byId("summary").setAttribute("aria-live", speaks ? "polite" : "off");
      if (speaks) spoken = performance.now();
      showLive({ ...answer, faces }, mirror, second);
      if (recording) record(second, faces);
      showMessage("");
    } catch (error) {
      if (number !== run) break;
      showMessage(error.message);
      await new Promise((done) => setTimeout(done, 1000));
    }
  }
  byId("summary").setAttribute("aria-live", "polite");
}

/** Returns the picture of the camera to send, and its mirror image to show. */
function picturesOf(video) {
  const scale = Math.min(1, WIDTH / video.videoWidth);
  const picture = newCanvas(video.videoWidth * scale, video.videoHeight * scale);
  picture.getContext("2d").drawImage(video, 0, 0, picture.width, picture.height);
  const mirror = newCanvas(picture.width, picture.height);
  const pen = mirror.getContext("2d");
  pen.scale(-1, 1);
  pen.drawImage(picture, -picture.width, 0);
  return [picture, mirror];
}

function showLive(answer, mirror, second) {
  showParts("live", "result", "history");
  showHeatmaps(byId("heatmap").checked);
  showResult(mirror, mirrored(answer));
  byId("hints").hidden = true;
  const face = largest(answer.faces);
  history = history.filter((entry) => second - entry.second <= KEPT_S);
  history.push({ second, probabilities: face?.probabilities ?? null });
  showLegend(byId("legend"), drawnClasses(history), face?.probabilities);
  drawCurve(byId("curve"), history, drawnClasses(history));
}

/** Mirrors the places of faces, but no letters. */
function mirrored(answer) {
  const faces = answer.faces.map((face) => {
    const [left, top, width, height] = face.box;
    return { ...face, box: [answer.width - left - width, top, width, height], heatmap: face.heatmap?.map((row) => [...row].reverse()) };
  });
  return { ...answer, faces: faces.reverse() }; // faces of one row are still ordered from left to right
}

// Controls.

function setPaused(value) {
  paused = value;
  if (paused && history.length) history.push({ second: history.at(-1).second, probabilities: null }); // a gap in the curve
  byId("pause").textContent = paused ? "Go on" : "Pause";
  byId("pause").setAttribute("aria-pressed", String(paused));
}

function toggleRecording() {
  if (recording) recorded = recording.frames;
  recording = recording ? null : { from: null, frames: [] };
  byId("record").setAttribute("aria-pressed", String(Boolean(recording)));
  byId("record").textContent = recording ? "Stop recording" : "Record";
  byId("live-csv").disabled = !recorded.length;
  byId("recorded").textContent = !recording && recorded.length ? `${counted(recorded.length, "picture")} recorded` : "";
}

function record(second, faces) {
  recording.from ??= second;
  const passed = second - recording.from;
  const kept = faces.map(({ box, person, confidence, label, probabilities, raw }) => ({ box, person, confidence, label, probabilities, raw }));
  recording.frames.push({ frame: recording.frames.length, second: Math.round(1000 * passed) / 1000, faces: kept });
  byId("recorded").textContent = `recording: ${Math.floor(passed)} s`;
}

export function listen() {
  showLegend(byId("legend"), drawnClasses(history));
  byId("pause").addEventListener("click", () => setPaused(!paused));
  byId("record").addEventListener("click", toggleRecording);
  byId("live-csv").addEventListener("click", () => save("webcam.csv", filmTable("webcam", recorded), "text/csv"));
  byId("smooth").addEventListener("input", showSmooth);
  byId("camera").addEventListener("change", () => {
    const camera = byId("camera").value;
    stopWebcam();
    start({ camera });
  });
  showSmooth();
  new ResizeObserver(() => history.length && drawCurve(byId("curve"), history, drawnClasses(history))).observe(byId("history"));
}

function showSmooth() {
  byId("smooth-value").textContent = `${Number(byId("smooth").value).toFixed(1)} s`;
}

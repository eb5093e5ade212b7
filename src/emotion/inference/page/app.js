// Starts the page: files and the webcam go to the service that it comes from, which answers with the classified faces.

import { byId, showMessage } from "./elements.js";
import { askAgain, changeHeatmaps, clear, lookCloser, saveAnswers, savePicture, saveTable, takeFiles } from "./files.js";
import * as film from "./film.js";
import { addSamples } from "./samples.js";
import { about, loadAbout } from "./service.js";
import * as webcam from "./webcam.js";

const MOST_LISTED = 30; // classes

let ready = null;
let takes = 0;

/** Says what the service is, once; a service that did not answer is asked again. */
function begin() {
  ready ??= loadAbout().then(() => {
    introduce();
    webcam.listen();
  }).catch((error) => {
    ready = null;
    throw error;
  });
  return ready;
}

const tell = (error) => showMessage(error.message);

/** Takes files, or the promise of some, in place of all that is on the page. */
async function take(files, credit) {
  const number = ++takes;
  const [chosen] = await Promise.all([files, begin()]).catch((error) => [tell(error)]);
  if (!chosen || number !== takes) return; // others were chosen meanwhile
  webcam.stopWebcam();
  film.closeFilm();
  takeFiles(chosen, credit);
}

function listenForFiles() {
  byId("file").addEventListener("change", (event) => {
    take([...event.target.files]);
    event.target.value = "";
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) take([...event.clipboardData.files]);
  });
  let depth = 0; // of the elements that a dragged file has entered
  const shade = (change) => {
    depth = change === 0 ? 0 : Math.max(0, depth + change);
    byId("shade").hidden = depth === 0;
  };
  const hasFiles = (event) => event.dataTransfer.types.includes("Files");
  document.addEventListener("dragenter", (event) => hasFiles(event) && shade(1));
  document.addEventListener("dragleave", (event) => hasFiles(event) && shade(-1));
  // Without this, the browser would leave the page for a file that is dropped beside its place.
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    shade(0);
    if (event.dataTransfer.files.length) take([...event.dataTransfer.files]);
  });
}

function listenForOptions() {
  byId("webcam").addEventListener("click", () => {
    takes++; // drops a sample that is on its way
    const started = () => webcam.toggleWebcam(() => {
      film.closeFilm();
      clear();
    });
    begin().then(started, tell);
  });
  byId("heatmap").addEventListener("change", changeHeatmaps);
  byId("single-face").addEventListener("change", askAgain);
  byId("cropped").addEventListener("click", () => byId("single-face").click());
  byId("closer").addEventListener("click", lookCloser);
  byId("csv").addEventListener("click", saveTable);
  byId("json").addEventListener("click", saveAnswers);
  byId("png").addEventListener("click", savePicture);
}

function introduce() {
  const local = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  byId("where").textContent = local ? "on this machine" : `at ${location.host}`;
  byId("version").textContent = about.version;
  for (const part of document.querySelectorAll(".of-small")) part.hidden = !about.networks.includes("small");
  const longest = Math.max(...about.classes.map((name) => name.length));
  if (longest > 9) document.documentElement.style.setProperty("--name", `${Math.min(0.5 * longest, 11)}rem`); // of the tables of cards
  const more = about.classes.length - MOST_LISTED;
  const classes = `${about.classes.slice(0, MOST_LISTED).join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
  byId("used").textContent = `${about.networks.length > 1 ? `Networks: ${about.networks.join(", ")}. Films are classified by the first.`
    : `Network: ${about.networks[0]}.`} Expressions: ${classes}.`;
}

listenForFiles(); // at once: a file may be dropped before the service has answered
listenForOptions();
addSamples(take);
film.listen();
begin().catch(tell);

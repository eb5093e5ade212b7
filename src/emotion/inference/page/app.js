// Sends images to the service that the page comes from, and shows the classified faces.

const SAMPLES = [
  { file: "collins.jpg", name: "Photograph of a smiling astronaut", singleFace: false },
  { file: "drawn-surprise.png", name: "Drawn face, surprised", singleFace: true },
  { file: "drawn-angry.png", name: "Drawn face, angry", singleFace: true },
  { file: "drawn-happy.png", name: "Drawn face, happy", singleFace: true },
];
const DASHES = { angry: [], disgust: [7, 3], fear: [2, 3], happy: [], neutral: [7, 3], sad: [], surprise: [10, 3, 2, 3] };
const MINUTE = 60_000;
const WEBCAM_WIDTH = 640;

const byId = (id) => document.getElementById(id);
let networks = [];
let colours = {}; // colours of boxes and curves, by class
let ink = ""; // colour of text and outlines on these colours
let shown = null; // the image on the page: { bitmap, answers }, and { blob, name, credit } unless from the webcam
let userSingleFace = false; // the user's own choice: samples set the checkbox, too, but leave this as it is
let latest = 0; // number of the newest request: answers to older ones are dropped
let stream = null; // of the webcam
let history = []; // { time, probabilities } of the largest face of the webcam

function element(name, text = "", className = "") {
  const created = document.createElement(name);
  created.textContent = text;
  if (className) created.className = className;
  return created;
}

function showMessage(message) {
  byId("message").textContent = message;
  byId("message").hidden = !message;
}

async function requestFaces({ blob, name }, network, heatmap) {
  const form = new FormData();
  form.append("image", blob, "image");
  const query = new URLSearchParams({ network, detect: String(!byId("single-face").checked), heatmap: String(heatmap) });
  let answer;
  try {
    answer = await fetch(`/predict?${query}`, { method: "POST", body: form });
  } catch {
    throw new Error("The service does not answer: check that `emotion app` is still running.");
  }
  const content = await answer.json().catch(() => ({}));
  if (answer.ok) return content;
  throw new Error(String(content.detail ?? `status ${answer.status}`).replace(/^image(?=:)/, () => name));
}

async function requestAll(image, heatmap) {
  return Promise.all(networks.map((network, index) => requestFaces(image, network, heatmap && index === 0)));
}

async function decode({ blob, name }) {
  try {
    return await createImageBitmap(blob, { imageOrientation: "from-image" });
  } catch {
    throw new Error(`${name}: this browser cannot display this image format`);
  }
}

async function show(image) {
  const number = ++latest;
  showMessage("");
  try {
    const answers = await requestAll(image, true);
    const bitmap = await decode(image);
    if (number !== latest) return;
    shown = { ...image, bitmap, answers };
    byId("credit").textContent = image.credit;
    byId("heatmap").disabled = answers[0].faces.some((face) => !face.heatmap); // some networks give no heatmaps
    draw();
  } catch (error) {
    if (number !== latest) return;
    hide();
    showMessage(error.message);
  }
}

function hide() {
  shown = null;
  byId("result").hidden = true;
}

function draw() {
  const { bitmap, answers } = shown;
  const canvas = byId("image");
  const longer = Math.max(bitmap.width, bitmap.height);
  const scale = Math.min(1600 / longer, Math.max(1, 800 / longer)); // enlarges small images, so that labels stay legible
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const pen = canvas.getContext("2d");
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const factor = canvas.width / answers[0].width;
  for (const face of answers[0].faces) drawFace(pen, face, factor);
  byId("result").hidden = false;
  describe(answers);
}

function drawFace(pen, face, factor) {
  const [left, top, width, height] = face.box.map((value) => value * factor);
  if (byId("heatmap").checked && face.heatmap) drawHeatmap(pen, face.heatmap, left, top, width, height);
  const unit = Math.max(pen.canvas.width, pen.canvas.height) / 400;
  const size = Math.max(12, Math.min(width / 7, 14 * unit), 6 * unit);
  const line = Math.max(2, Math.min(2 * unit, width / 20)); // thinner around small faces
  for (const [colour, thickness] of [[ink, 2 * line], [colours[face.label], line]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = thickness;
    pen.strokeRect(left, top, width, height);
  }
  pen.font = `${size}px system-ui, sans-serif`;
  const text = `${face.label} ${Math.round(100 * face.probabilities[face.label])} %`;
  const labelWidth = pen.measureText(text).width + size / 2;
  const x = Math.max(0, Math.min(left, pen.canvas.width - labelWidth));
  const y = top >= 1.4 * size ? top - 1.4 * size : Math.max(0, top);
  pen.fillStyle = ink;
  pen.fillRect(x - line / 2, y - line / 2, labelWidth + line, 1.4 * size + line);
  pen.fillStyle = colours[face.label];
  pen.fillRect(x, y, labelWidth, 1.4 * size);
  pen.fillStyle = ink;
  pen.textBaseline = "middle";
  pen.fillText(text, x + size / 4, y + 0.72 * size);
}

function drawHeatmap(pen, rows, left, top, width, height) {
  const small = new OffscreenCanvas(rows[0].length, rows.length);
  const image = new ImageData(rows[0].length, rows.length);
  rows.flat().forEach((value, index) => {
    image.data.set([255, Math.round(220 * value), 0, Math.round(190 * value)], 4 * index);
  });
  small.getContext("2d").putImageData(image, 0, 0);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(small, left, top, width, height);
}

function describe(answers) {
  const { faces, found } = answers[0];
  const labels = faces.map((face) => `${face.label} ${Math.round(100 * face.probabilities[face.label])} %`);
  const all = found === 1 ? "One face" : `${found} faces`;
  const count = found > faces.length ? `The ${faces.length} largest of ${all} are classified` : all;
  byId("summary").textContent = faces.length
    ? `${count}: ${labels.join(", ")}.`
    : "No face detected. If the image shows one face and nothing else, tick the first box above.";
  byId("faces").replaceChildren(...faces.map((face, index) => describeFace(answers.map((answer) => answer.faces[index]), index)));
}

function describeFace(predictions, index) {
  const box = element("article", "", "face");
  const heading = element("h2", `${predictions[0].label} `);
  heading.append(element("small", `face ${index + 1}`));
  box.append(heading);
  if (predictions.length > 1) box.append(networkLegend());
  const bars = element("dl", "", "bars");
  for (const name of Object.keys(predictions[0].probabilities)) {
    const values = predictions.map((face) => face.probabilities[name]);
    const bar = element("dd", "", "bar");
    bar.setAttribute("aria-hidden", "true");
    for (const value of values) {
      const line = element("i");
      line.style.width = `${100 * value}%`;
      bar.append(line);
    }
    const top = name === predictions[0].label ? "top" : "";
    bars.append(element("dt", name, top), bar, element("dd", values.map((value) => `${Math.round(100 * value)} %`).join(" · "), top));
  }
  box.append(bars);
  return box;
}

function networkLegend() {
  const line = element("p", "", "key");
  for (const name of networks) {
    const entry = element("span");
    entry.append(element("i"), name);
    line.append(entry);
  }
  return line;
}

async function toggleWebcam() {
  if (stream) return stopWebcam();
  showMessage("");
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: WEBCAM_WIDTH }, audio: false });
  } catch (error) {
    const missing = error.name === "NotFoundError";
    return showMessage(missing ? "No webcam was found."
      : `The webcam cannot be used (${error.name}): allow it for this page, which must be on localhost.`);
  }
  byId("single-face").checked = userSingleFace;
  history = [];
  byId("video").srcObject = stream;
  await byId("video").play();
  byId("webcam").textContent = "Stop the webcam";
  byId("webcam").setAttribute("aria-pressed", "true");
  byId("live").hidden = false;
  byId("credit").textContent = "";
  watchWebcam(++latest);
}

function stopWebcam() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  latest++;
  byId("webcam").textContent = "Start the webcam";
  byId("webcam").setAttribute("aria-pressed", "false");
}

async function watchWebcam(number) {
  const video = byId("video");
  const frame = document.createElement("canvas");
  let announced = 0; // when a screen reader last read the summary
  while (stream && number === latest) {
    const scale = Math.min(1, WEBCAM_WIDTH / video.videoWidth);
    frame.width = Math.round(video.videoWidth * scale);
    frame.height = Math.round(video.videoHeight * scale);
    frame.getContext("2d").drawImage(video, 0, 0, frame.width, frame.height);
    const blob = await new Promise((done) => frame.toBlob(done, "image/jpeg", 0.85));
    try {
      const answers = await requestAll({ blob, name: "webcam" }, byId("heatmap").checked);
      if (!stream || number !== latest) return;
      shown = { bitmap: frame, answers };
      // A screen reader would never finish a summary that changes several times a second.
      const announces = performance.now() - announced > 3000;
      byId("summary").setAttribute("aria-live", announces ? "polite" : "off");
      if (announces) announced = performance.now();
      draw();
      updateHistory(answers[0].faces);
      showMessage("");
    } catch (error) {
      showMessage(error.message);
      await new Promise((done) => setTimeout(done, 1000));
    }
  }
}

function updateHistory(faces) {
  const now = performance.now();
  const largest = faces.reduce((best, face) => (best && best.box[2] >= face.box[2] ? best : face), null);
  history.push({ time: now, probabilities: largest?.probabilities ?? null });
  history = history.filter((entry) => now - entry.time <= MINUTE);
  for (const number of byId("legend").querySelectorAll("b")) {
    number.textContent = largest ? `${Math.round(100 * largest.probabilities[number.dataset.name])} %` : "";
  }
  drawCurve(now);
}

function drawCurve(now) {
  const canvas = byId("curve");
  canvas.width = canvas.clientWidth * devicePixelRatio;
  canvas.height = canvas.clientHeight * devicePixelRatio;
  const pen = canvas.getContext("2d");
  const colour = (name) => getComputedStyle(document.body).getPropertyValue(name);
  const [gridColour, textColour] = [colour("--line"), colour("--soft")];
  pen.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
  for (const share of [0.25, 0.5, 0.75]) {
    pen.fillStyle = gridColour;
    pen.fillRect(0, (1 - share) * canvas.height, canvas.width, devicePixelRatio);
    pen.fillStyle = textColour;
    pen.fillText(`${100 * share} %`, 6 * devicePixelRatio, (1 - share) * canvas.height - 4 * devicePixelRatio);
  }
  pen.lineWidth = 2 * devicePixelRatio;
  pen.lineJoin = "round";
  for (const [name, stroke] of Object.entries(colours)) {
    pen.strokeStyle = stroke;
    pen.setLineDash(DASHES[name].map((length) => length * devicePixelRatio));
    pen.beginPath();
    let drawing = false;
    for (const entry of history) {
      if (entry.probabilities) {
        const x = canvas.width * (1 - (now - entry.time) / MINUTE);
        const y = canvas.height * (0.98 - 0.96 * entry.probabilities[name]);
        drawing ? pen.lineTo(x, y) : pen.moveTo(x, y);
      }
      drawing = Boolean(entry.probabilities);
    }
    pen.stroke();
  }
}

function selectImage(image, singleFace) {
  stopWebcam();
  byId("live").hidden = true;
  byId("single-face").checked = singleFace;
  return show(image);
}

function selectFile([file]) {
  if (file) selectImage({ blob: file, name: file.name, credit: "" }, userSingleFace);
}

function addSamples() {
  for (const { file, name, singleFace } of SAMPLES) {
    const button = element("button");
    button.type = "button";
    const thumbnail = element("img");
    thumbnail.src = `/page/samples/${file}`;
    thumbnail.alt = name;
    button.append(thumbnail);
    button.addEventListener("click", async () => {
      const blob = await (await fetch(thumbnail.src)).blob();
      selectImage({ blob, name, credit: name }, singleFace);
    });
    const entry = element("li");
    entry.append(button);
    byId("samples").append(entry);
  }
}

function addListeners() {
  byId("file").addEventListener("change", (event) => {
    selectFile(event.target.files);
    event.target.value = "";
  });
  byId("webcam").addEventListener("click", toggleWebcam);
  byId("heatmap").addEventListener("change", () => shown && draw());
  byId("single-face").addEventListener("change", () => {
    userSingleFace = byId("single-face").checked;
    if (shown?.blob) show(shown);
  });
  const drop = byId("drop");
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    selectFile(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => selectFile(event.clipboardData.files));
}

function swatch(colour, dashes) {
  const space = "http://www.w3.org/2000/svg";
  const [svg, outline, line] = ["svg", "line", "line"].map((name) => document.createElementNS(space, name));
  const shared = { x2: 28, y1: 3, y2: 3, "stroke-dasharray": dashes.join(" ") };
  const layers = [[outline, { stroke: ink, "stroke-width": 5 }], [line, { stroke: colour, "stroke-width": 3 }]];
  for (const [part, attributes] of layers) {
    for (const [name, value] of Object.entries({ ...shared, ...attributes })) part.setAttribute(name, value);
    svg.append(part);
  }
  return svg;
}

function addLegend() {
  for (const [name, colour] of Object.entries(colours)) {
    const entry = element("li");
    const number = element("b");
    number.dataset.name = name;
    entry.append(swatch(colour, DASHES[name]), name, number);
    byId("legend").append(entry);
  }
}

const local = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
byId("where").textContent = local ? "on this machine" : `at ${location.host}`;
addSamples();
addListeners();
({ networks, colours, ink } = await (await fetch("/health")).json());
addLegend();

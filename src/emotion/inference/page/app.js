// The page: sends pictures to the service it came from and shows the answers.

const SAMPLES = [
  { file: "collins.jpg", name: "Photograph of a smiling astronaut", whole: false },
  { file: "drawn-surprise.png", name: "Drawn face, surprised", whole: true },
  { file: "drawn-angry.png", name: "Drawn face, angry", whole: true },
  { file: "drawn-happy.png", name: "Drawn face, happy", whole: true },
];
const DASHES = { angry: [], disgust: [7, 3], fear: [2, 3], happy: [], neutral: [7, 3], sad: [], surprise: [10, 3, 2, 3] };
const MINUTE = 60_000;
const WEBCAM_WIDTH = 640;

const at = (id) => document.getElementById(id);
let networks = [];
let colours = {}; // of the boxes and curves, by class
let ink = ""; // of letters and outlines on them
let shown = null; // { bitmap, answers } of the picture on the page, and from which { blob, name, credit }
let ownWhole = false; // what the user says of own pictures: samples set the checkbox for themselves
let latest = 0; // number of the newest question: older answers are dropped
let stream = null;
let history = []; // { time, probabilities } of the largest face

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function complain(sentence) {
  at("message").textContent = sentence;
  at("message").hidden = !sentence;
}

async function ask({ blob, name }, network, heatmap) {
  const form = new FormData();
  form.append("image", blob, "picture");
  const query = new URLSearchParams({ network, detect: String(!at("whole").checked), heatmap: String(heatmap) });
  let answer;
  try {
    answer = await fetch(`/predict?${query}`, { method: "POST", body: form });
  } catch {
    throw new Error("The program behind this page does not answer; is it still running?");
  }
  const content = await answer.json().catch(() => ({}));
  if (answer.ok) return content;
  throw new Error(String(content.detail ?? `status ${answer.status}`).replace(/^image(?=:)/, () => name));
}

async function askAll(picture, heatmap) {
  return Promise.all(networks.map((network, index) => ask(picture, network, heatmap && index === 0)));
}

async function decode({ blob, name }) {
  try {
    return await createImageBitmap(blob, { imageOrientation: "from-image" });
  } catch {
    throw new Error(`${name}: this browser cannot show such a picture`);
  }
}

async function show(picture) {
  const number = ++latest;
  complain("");
  try {
    const answers = await askAll(picture, true);
    const bitmap = await decode(picture);
    if (number !== latest) return;
    shown = { ...picture, bitmap, answers };
    at("credit").textContent = picture.credit;
    at("heatmap").disabled = answers[0].faces.some((face) => !face.heatmap); // some networks cannot tell
    draw();
  } catch (error) {
    if (number !== latest) return;
    hide();
    complain(error.message);
  }
}

function hide() {
  shown = null;
  at("result").hidden = true;
}

function draw() {
  const { bitmap, answers } = shown;
  const canvas = at("picture");
  const longer = Math.max(bitmap.width, bitmap.height);
  const scale = Math.min(1600 / longer, Math.max(1, 800 / longer)); // letters on small pictures need pixels too
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const pen = canvas.getContext("2d");
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const factor = canvas.width / answers[0].width;
  for (const face of answers[0].faces) drawFace(pen, face, factor);
  at("result").hidden = false;
  describe(answers);
}

function drawFace(pen, face, factor) {
  const [left, top, width, height] = face.box.map((value) => value * factor);
  if (at("heatmap").checked && face.heatmap) drawHeatmap(pen, face.heatmap, left, top, width, height);
  const unit = Math.max(pen.canvas.width, pen.canvas.height) / 400;
  const size = Math.max(12, Math.min(width / 7, 14 * unit), 6 * unit);
  const line = Math.max(2, Math.min(2 * unit, width / 20)); // thinner on the faces of a crowd
  for (const [colour, thickness] of [[ink, 2 * line], [colours[face.label], line]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = thickness;
    pen.strokeRect(left, top, width, height);
  }
  pen.font = `${size}px system-ui, sans-serif`;
  const text = `${face.label} ${Math.round(100 * face.probabilities[face.label])} %`;
  const wide = pen.measureText(text).width + size / 2;
  const x = Math.max(0, Math.min(left, pen.canvas.width - wide));
  const y = top >= 1.4 * size ? top - 1.4 * size : Math.max(0, top);
  pen.fillStyle = ink;
  pen.fillRect(x - line / 2, y - line / 2, wide + line, 1.4 * size + line);
  pen.fillStyle = colours[face.label];
  pen.fillRect(x, y, wide, 1.4 * size);
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
  const words = faces.map((face) => `${face.label} ${Math.round(100 * face.probabilities[face.label])} %`);
  const all = found === 1 ? "One face" : `${found} faces`;
  const count = found > faces.length ? `The ${faces.length} largest of ${all} are judged` : all;
  at("summary").textContent = faces.length
    ? `${count}: ${words.join(", ")}.`
    : "No face found. If the picture shows nothing but a face, say so above.";
  at("faces").replaceChildren(...faces.map((face, index) => describeFace(answers.map((answer) => answer.faces[index]), index)));
}

function describeFace(versions, index) {
  const box = element("article", "", "face");
  const heading = element("h2", `${versions[0].label} `);
  heading.append(element("small", `face ${index + 1}`));
  box.append(heading);
  if (versions.length > 1) box.append(key());
  const bars = element("dl", "", "bars");
  for (const name of Object.keys(versions[0].probabilities)) {
    const values = versions.map((face) => face.probabilities[name]);
    const bar = element("dd", "", "bar");
    bar.setAttribute("aria-hidden", "true");
    for (const value of values) {
      const line = element("i");
      line.style.width = `${100 * value}%`;
      bar.append(line);
    }
    const top = name === versions[0].label ? "top" : "";
    bars.append(element("dt", name, top), bar, element("dd", values.map((value) => `${Math.round(100 * value)} %`).join(" · "), top));
  }
  box.append(bars);
  return box;
}

function key() {
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
  complain("");
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: WEBCAM_WIDTH }, audio: false });
  } catch (error) {
    const missing = error.name === "NotFoundError";
    return complain(missing ? "No webcam was found."
      : `The webcam cannot be used (${error.name}). It needs your permission and a page on localhost.`);
  }
  at("whole").checked = ownWhole;
  history = [];
  at("video").srcObject = stream;
  await at("video").play();
  at("webcam").textContent = "Stop the webcam";
  at("webcam").setAttribute("aria-pressed", "true");
  at("live").hidden = false;
  at("credit").textContent = "";
  watch(++latest);
}

function stopWebcam() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  latest++;
  at("webcam").textContent = "Start the webcam";
  at("webcam").setAttribute("aria-pressed", "false");
}

async function watch(number) {
  const video = at("video");
  const frame = document.createElement("canvas");
  let spoken = 0;
  while (stream && number === latest) {
    const scale = Math.min(1, WEBCAM_WIDTH / video.videoWidth);
    frame.width = Math.round(video.videoWidth * scale);
    frame.height = Math.round(video.videoHeight * scale);
    frame.getContext("2d").drawImage(video, 0, 0, frame.width, frame.height);
    const blob = await new Promise((done) => frame.toBlob(done, "image/jpeg", 0.85));
    try {
      const answers = await askAll({ blob, name: "webcam" }, at("heatmap").checked);
      if (!stream || number !== latest) return;
      shown = { bitmap: frame, answers };
      // A screen reader would not get to the end of a sentence that changes many times a second.
      const speaks = performance.now() - spoken > 3000;
      at("summary").setAttribute("aria-live", speaks ? "polite" : "off");
      if (speaks) spoken = performance.now();
      draw();
      remember(answers[0].faces);
      complain("");
    } catch (error) {
      complain(error.message);
      await new Promise((done) => setTimeout(done, 1000));
    }
  }
}

function remember(faces) {
  const now = performance.now();
  const largest = faces.reduce((best, face) => (best && best.box[2] >= face.box[2] ? best : face), null);
  history.push({ time: now, probabilities: largest?.probabilities ?? null });
  history = history.filter((entry) => now - entry.time <= MINUTE);
  for (const number of at("legend").querySelectorAll("b")) {
    number.textContent = largest ? `${Math.round(100 * largest.probabilities[number.dataset.name])} %` : "";
  }
  drawCurve(now);
}

function drawCurve(now) {
  const canvas = at("curve");
  canvas.width = canvas.clientWidth * devicePixelRatio;
  canvas.height = canvas.clientHeight * devicePixelRatio;
  const pen = canvas.getContext("2d");
  const colour = (name) => getComputedStyle(document.body).getPropertyValue(name);
  const [soft, text] = [colour("--line"), colour("--soft")];
  pen.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
  for (const share of [0.25, 0.5, 0.75]) {
    pen.fillStyle = soft;
    pen.fillRect(0, (1 - share) * canvas.height, canvas.width, devicePixelRatio);
    pen.fillStyle = text;
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

function choose(picture, whole) {
  stopWebcam();
  at("live").hidden = true;
  at("whole").checked = whole;
  return show(picture);
}

function chooseOwn([file]) {
  if (file) choose({ blob: file, name: file.name, credit: "" }, ownWhole);
}

function offerSamples() {
  for (const { file, name, whole } of SAMPLES) {
    const button = element("button");
    button.type = "button";
    const image = element("img");
    image.src = `/page/samples/${file}`;
    image.alt = name;
    button.append(image);
    button.addEventListener("click", async () => {
      const blob = await (await fetch(image.src)).blob();
      choose({ blob, name, credit: name }, whole);
    });
    const entry = element("li");
    entry.append(button);
    at("samples").append(entry);
  }
}

function listen() {
  at("file").addEventListener("change", (event) => {
    chooseOwn(event.target.files);
    event.target.value = "";
  });
  at("webcam").addEventListener("click", toggleWebcam);
  at("heatmap").addEventListener("change", () => shown && draw());
  at("whole").addEventListener("change", () => {
    ownWhole = at("whole").checked;
    if (shown?.blob) show(shown);
  });
  const drop = at("drop");
  drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    chooseOwn(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => chooseOwn(event.clipboardData.files));
}

function swatch(colour, dashes) {
  const space = "http://www.w3.org/2000/svg";
  const [picture, outline, line] = ["svg", "line", "line"].map((name) => document.createElementNS(space, name));
  const shared = { x2: 28, y1: 3, y2: 3, "stroke-dasharray": dashes.join(" ") };
  const own = [[outline, { stroke: ink, "stroke-width": 5 }], [line, { stroke: colour, "stroke-width": 3 }]];
  for (const [part, attributes] of own) {
    for (const [name, value] of Object.entries({ ...shared, ...attributes })) part.setAttribute(name, value);
    picture.append(part);
  }
  return picture;
}

function explainColours() {
  for (const [name, colour] of Object.entries(colours)) {
    const entry = element("li");
    const number = element("b");
    number.dataset.name = name;
    entry.append(swatch(colour, DASHES[name]), name, number);
    at("legend").append(entry);
  }
}

const local = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
at("where").textContent = local ? "on this machine" : `at ${location.host}`;
offerSamples();
listen();
({ networks, colours, ink } = await (await fetch("/health")).json());
explainColours();

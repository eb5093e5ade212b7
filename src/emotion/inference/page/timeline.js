// Draws the timeline of a film: how probable each expression of each person is over time.
// `data` is what `emotion.inference.timeline.timeline_data` returns.

const [WIDTH, HEIGHT] = [1000, 100]; // of the charts, in units of their own
const TICKS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600]; // seconds between two labels of the time axis
const MOST_TICKS = 10;
const MOST_ROWS = 40; // of a table
const THUMBNAIL = 32; // width of the portraits along a chart, pixels
const [STEP, STEPS] = [1, 10]; // an arrow key moves by so many seconds; Page Up and Down by a tenth of the film
const NAMED_FROM = 0.005; // smaller shares would read as 0 %
const MOST_NAMED = 12; // classes in the legend: of more, those with the largest areas
const NAME_HEIGHT = 0.2; // least height of an area with a name on it, of the height of its chart
const TRIMS = [0.1, 0.2, 0.3, 0.4]; // shares at the ends of a stretch over which its name need not fit

/**
 * Fills an element with the timeline of a film.
 *
 * @param root the element; it gets the class `timeline`, which timeline.css styles.
 * @param data names, colours, times, and the probabilities of each person.
 * @param video a `<video>` of the film, which the timeline follows and moves, or null.
 */
export function drawTimeline(root, data, { video = null } = {}) {
  const view = { data, video, charts: [], position: null, pointer: null };
  root.classList.add("timeline");
  root.replaceChildren(introduction(data));
  if (!data.persons.length) return;
  root.append(legend(data), ...data.persons.map((person) => drawPerson(view, person)), timeAxis(data));
  const observer = new ResizeObserver(() => view.charts.forEach((chart) => spread(chart.thumbnails)));
  observer.observe(root.firstChild); // as wide as the root, which may outlive this timeline
  if (video) follow(view);
}

// Texts.

/** Returns a time as 1:05, or as 1:01:05 from an hour on; with `digits` 1 as 1:05.2. */
function clock(second, digits = 0) {
  const unit = 10 ** digits;
  const whole = Math.floor(second * unit + 1e-6) / unit; // 0:59.96 is not yet 1:00
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const seconds = (whole % 60).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${seconds}` : `${minutes}:${seconds}`;
}

const lengthOf = (seconds) => (seconds < 100 ? `${seconds.toFixed(1)} s` : clock(seconds));
const percent = (share) => `${Math.round(100 * share)} %`;
const counted = (number, noun) => (number ? `${number} ${noun}${number === 1 ? "" : "s"}` : `no ${noun}s`);

/** Returns [class, share] of the shares worth naming, the largest first. */
function largest(classes, shares) {
  const pairs = classes.map((name, index) => [name, shares[index]]);
  return pairs.filter(([, share]) => share >= NAMED_FROM).sort((one, other) => other[1] - one[1]);
}

const inWords = (pairs) => pairs.map(([name, share]) => `${name} ${percent(share)}`).join(", ");

function introduction({ duration, persons, left_out: leftOut, brief }) {
  const moments = leftOut ? `; ${leftOut} more ${leftOut === 1 ? "is" : "are"} seen for less than ${brief} s` : "";
  const text = persons.length ? `${counted(persons.length, "person")}${moments}`
    : leftOut ? `no person is seen for ${brief} s or longer; ${leftOut} for less` : "no person is seen";
  return element("p", "introduction", `${clock(duration)} long; ${text}.`);
}

// Elements.

function element(name, className = "", ...content) {
  const created = document.createElement(name);
  if (className) created.className = className;
  created.append(...content);
  return created;
}

function shape(name, attributes, ...content) {
  const created = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) created.setAttribute(key, value);
  created.append(...content);
  return created;
}

function legend({ classes, colours, ink, persons }) {
  const points = persons.flatMap(({ probabilities }) => probabilities);
  const areas = new Map(classes.map((name, index) => [name, points.reduce((sum, shares) => sum + shares[index], 0)]));
  const largestAreas = [...classes].sort((one, other) => areas.get(other) - areas.get(one)).slice(0, MOST_NAMED);
  const names = classes.filter((name) => largestAreas.includes(name)).map((name) => {
    const entry = element("li", "", name);
    Object.assign(entry.style, { backgroundColor: colours[name], color: ink });
    return entry;
  });
  const list = element("ul", "legend", ...names);
  list.setAttribute("aria-label", "Expressions");
  const few = classes.length > MOST_NAMED ? ` Of ${classes.length} expressions, the ${MOST_NAMED} with the largest areas are named.` : "";
  const text = `The height of a colour is the probability of the expression.${few} A chart is empty while the person is not seen.`;
  return element("div", "key", list, element("p", "hint", text));
}

/** Returns names and shares, each with a dot in its colour. */
function dotted({ colours }, pairs, separator) {
  return pairs.map(([name, share], index) => {
    const dot = element("i", "dot");
    dot.style.backgroundColor = colours[name];
    return element("span", "", dot, `${name} ${percent(share)}${index < pairs.length - 1 ? separator : ""}`);
  });
}

function timeAxis({ duration }) {
  const axis = element("div", "axis");
  axis.setAttribute("aria-hidden", "true");
  for (const second of ticks(duration)) {
    const label = element("span", "", clock(second));
    label.style.left = `${(100 * second) / duration}%`;
    if (second / duration > 0.98) label.classList.add("end");
    axis.append(label);
  }
  return element("div", "foot", axis);
}

function ticks(duration) {
  const hours = 3600 * Math.ceil(duration / MOST_TICKS / 3600);
  const step = TICKS.find((seconds) => duration / seconds <= MOST_TICKS) ?? hours;
  return Array.from({ length: Math.floor(duration / step) + 1 }, (_, index) => index * step);
}

/** Places an element at a share of its parent's width, within its edges. */
function place(item, share) {
  item.style.left = `${100 * share}%`;
  item.style.transform = `translateX(${-100 * share}%)`;
}

// A person.

function drawPerson(view, person) {
  const name = `Person ${person.person}`;
  const series = seriesOf(view.data, person);
  const chart = drawChart(view, person, series);
  view.charts.push(chart);
  const row = element("article", "person", about(view, person), element("div", "chart", chart.readout, chart.track),
    table(view.data, series, name));
  row.setAttribute("aria-label", name);
  return row;
}

function about(view, person) {
  const { data } = view;
  const shares = largest(data.classes, data.classes.map((name) => person.shares[name]));
  const { label, start, seconds } = person.longest;
  const jump = element("button", "jump", `${label} ${lengthOf(seconds)} from ${clock(start)}`);
  jump.type = "button";
  jump.addEventListener("click", () => seek(view, start));
  return element("div", "about", portrait(person),
    element("h2", "", `Person ${person.person}`, element("small", "", `, seen ${lengthOf(person.seconds)}`)),
    element("p", "shares", ...dotted(data, shares, ", ")),
    element("p", "hint", element("span", "", `${counted(person.changes, "change")}; `), element("span", "", "longest: ", jump)));
}

function portrait({ person, portraits }) {
  if (!portraits.length) return element("div", "portrait", String(person));
  const image = element("img", "portrait");
  image.src = portraits[Math.floor(portraits.length / 2)].image;
  image.alt = `Face of person ${person}`;
  return image;
}

/**
 * Returns the points in time at which a person is seen, in runs without a gap: { from, to, shares } each, with cumulated
 * probabilities in `levels`.
 */
function seriesOf({ seconds, duration, classes }, person) {
  const runs = [];
  person.frames.forEach((frame, index) => {
    const shares = person.probabilities[index];
    const total = shares.reduce((sum, share) => sum + share, 0) || 1; // rounding keeps it from being 1
    let level = 0;
    const levels = classes.map((_, position) => (level += shares[position] / total));
    const point = { from: seconds[frame], to: seconds[frame + 1] ?? duration, shares, levels };
    if (frame - 1 === person.frames[index - 1]) runs.at(-1).push(point);
    else runs.push([point]);
  });
  return { runs, points: runs.flat() };
}

/** Returns the probabilities at a second, or null while the person is not seen. */
function sharesAt({ points }, second) {
  let [low, high] = [0, points.length]; // the point before `low` has begun, and that at `high` has not
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle].from <= second) low = middle + 1;
    else high = middle;
  }
  const point = points[low - 1];
  return point && second <= point.to ? point.shares : null;
}

// A chart.

function drawChart(view, person, series) {
  const chart = { series, track: element("div", "track"), readout: element("div", "readout"),
    position: element("i", "line position"), pointer: element("i", "line pointer"), thumbnails: element("div", "thumbnails") };
  const areas = element("div", "areas", drawAreas(view.data, series), ...names(view.data, series));
  chart.thumbnails.append(...thumbnails(view.data, person));
  chart.track.append(areas, chart.thumbnails, chart.position, chart.pointer);
  chart.position.hidden = chart.pointer.hidden = chart.readout.hidden = true;
  chart.readout.setAttribute("aria-hidden", "true"); // the value of the slider says the same
  const attributes = { role: "slider", tabindex: 0, "aria-label": `Time, with the expressions of person ${person.person}`,
    "aria-valuemin": 0, "aria-valuemax": view.data.duration, "aria-valuenow": 0, "aria-valuetext": clock(0) };
  for (const [key, value] of Object.entries(attributes)) chart.track.setAttribute(key, value);
  listen(view, chart, person);
  return chart;
}

/** Draws each class from the bottom up to its level, the last class first, so that no gap shows between two areas. */
function drawAreas({ classes, colours, duration }, { runs }) {
  const picture = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const x = (second) => ((WIDTH * second) / duration).toFixed(2);
  const y = (level) => (HEIGHT * (1 - level)).toFixed(2);
  for (let index = classes.length - 1; index >= 0; index--) {
    const parts = runs.map((run) => {
      const last = run.at(-1);
      const top = run.map((point) => `L${x(point.from)} ${y(point.levels[index])}`).join("");
      return `M${x(run[0].from)} ${HEIGHT}${top}L${x(last.to)} ${y(last.levels[index])}V${HEIGHT}Z`;
    });
    picture.append(shape("path", { d: parts.join(""), fill: colours[classes[index]] }));
  }
  const lines = ticks(duration).slice(1).map((second) => `M${x(second)} 0V${HEIGHT}`);
  picture.append(shape("path", { d: lines.join(""), class: "grid" }));
  return picture;
}

/** Returns the names of the expressions to write on their areas; the style sheet hides those that have no room. */
function names({ classes, duration, ink }, { runs }) {
  return runs.flatMap((run) => stretches(run)).flatMap((stretch) => {
    const room = TRIMS.map((trim) => roomFor(stretch, trim)).find(({ low, high }) => high - low >= NAME_HEIGHT);
    if (!room) return [];
    const label = element("div", "name", element("span", "", classes[stretch.index]));
    Object.assign(label.style, { left: `${(100 * room.from) / duration}%`, width: `${(100 * (room.to - room.from)) / duration}%`,
      top: `${100 * (1 - room.high)}%`, height: `${100 * (room.high - room.low)}%`, color: ink });
    return [label];
  });
}

/** Returns the largest rectangle on the area of a stretch without a share `trim` of its points at each end. */
function roomFor({ index, points }, trim) {
  const inner = points.slice(Math.floor(trim * points.length), Math.ceil((1 - trim) * points.length));
  return { from: inner[0].from, to: inner.at(-1).to,
    low: Math.max(...inner.map((point) => point.levels[index - 1] ?? 0)),
    high: Math.min(...inner.map((point) => point.levels[index])) };
}

/** Splits a run where the most probable class changes. */
function stretches(run) {
  const parts = [];
  for (const point of run) {
    const index = point.shares.indexOf(Math.max(...point.shares));
    if (parts.at(-1)?.index === index) parts.at(-1).points.push(point);
    else parts.push({ index, points: [point] });
  }
  return parts;
}

function thumbnails({ duration }, { portraits }) {
  return portraits.map(({ second, image }) => {
    const small = element("img");
    small.src = image;
    small.alt = "";
    small.draggable = false;
    place(small, second / duration);
    return small;
  });
}

/** Hides the portraits that would overlap the one before. */
function spread(strip) {
  let free = 0;
  for (const image of strip.children) {
    const left = (parseFloat(image.style.left) / 100) * (strip.clientWidth - THUMBNAIL);
    image.hidden = left < free;
    if (!image.hidden) free = left + THUMBNAIL + 4;
  }
}

// Time.

function listen(view, { track }, person) {
  const { duration } = view.data;
  const secondAt = (event) => {
    const { left, width } = track.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - left) / width)) * duration;
  };
  track.addEventListener("pointerdown", (event) => track.setPointerCapture(event.pointerId));
  track.addEventListener("pointermove", (event) => {
    view.pointer = secondAt(event);
    if (track.hasPointerCapture(event.pointerId)) seek(view, view.pointer);
    else showTime(view);
  });
  for (const name of ["pointerleave", "pointercancel"]) {
    track.addEventListener(name, () => { view.pointer = null; showTime(view); });
  }
  track.addEventListener("click", (event) => seek(view, secondAt(event)));
  track.addEventListener("focus", () => {
    view.position ??= person.first;
    showTime(view);
  });
  track.addEventListener("keydown", (event) => {
    const now = view.position ?? 0;
    const targets = { ArrowRight: now + STEP, ArrowUp: now + STEP, ArrowLeft: now - STEP, ArrowDown: now - STEP,
      PageUp: now + duration / STEPS, PageDown: now - duration / STEPS, Home: 0, End: duration };
    if (!(event.key in targets) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    view.pointer = null; // the pointer may still lie on a chart
    seek(view, targets[event.key]);
  });
}

function seek(view, second) {
  view.position = Math.min(view.data.duration, Math.max(0, second));
  if (view.video) view.video.currentTime = view.position + view.data.lead;
  showTime(view);
}

/** Moves the lines with the video: at each picture while it plays, since it reports its time only now and then. */
function follow(view) {
  const { video, data } = view;
  const update = () => {
    view.position = Math.min(Math.max(0, video.currentTime - data.lead), data.duration);
    showTime(view);
    if (!video.paused && !video.ended) requestAnimationFrame(update);
  };
  for (const name of ["play", "pause", "seeked"]) video.addEventListener(name, update);
}

/** Shows the position, the place of the pointer, and the expressions at the place of the pointer, or else the position. */
function showTime(view) {
  const { data, position, pointer, video, charts } = view;
  const second = pointer ?? position;
  const plays = video && !video.paused;
  for (const chart of charts) {
    moveLine(chart.position, position, data);
    moveLine(chart.pointer, pointer, data);
    chart.readout.hidden = second === null;
    if (second === null) continue;
    const shares = sharesAt(chart.series, second);
    const pairs = shares ? largest(data.classes, shares).slice(0, 3) : null;
    chart.readout.replaceChildren(element("b", "", clock(second, 1)), ...(pairs ? dotted(data, pairs, "") : ["not seen"]));
    place(chart.readout, second / data.duration);
    if (!plays) describeTime(chart, position ?? 0, data); // a screen reader would never finish values of a film that plays
  }
}

function moveLine(line, second, { duration }) {
  line.hidden = second === null;
  if (second !== null) line.style.left = `${(100 * second) / duration}%`;
}

function describeTime({ series, track }, second, { classes }) {
  const shares = sharesAt(series, second);
  track.setAttribute("aria-valuenow", second.toFixed(3));
  track.setAttribute("aria-valuetext",
    `${clock(second, 1)}: ${shares ? inWords(largest(classes, shares).slice(0, 3)) : "not seen"}`);
}

// The table, for those who do not see the chart.

function table(data, series, name) {
  const box = element("details", "", element("summary", "", `Table of ${name.toLowerCase()}`));
  box.addEventListener("toggle", () => {
    if (box.children.length === 1) box.append(tableOf(data, series, name));
  });
  return box;
}

function tableOf({ classes, duration }, { points }, name) {
  const step = Math.max(1, Math.ceil(duration / MOST_ROWS));
  const rows = new Map(points.map((point) => [Math.floor(point.from / step), []]));
  for (const point of points) rows.get(Math.floor(point.from / step)).push(point);
  const header = (scope, text) => Object.assign(element("th", "", text), { scope });
  const body = [...rows].map(([index, members]) => {
    const means = classes.map((_, position) => members.reduce((sum, { shares }) => sum + shares[position], 0) / members.length);
    return element("tr", "", header("row", clock(index * step)), ...means.map((mean) => element("td", "", percent(mean))));
  });
  const caption = `${name}: mean probabilities over ${step === 1 ? "each second" : `${step} seconds each`}, while seen`;
  const scroller = element("div", "scroller",
    element("table", "", element("caption", "", caption),
      element("thead", "", element("tr", "", ...["from", ...classes].map((text) => header("col", text)))),
      element("tbody", "", ...body)));
  const attributes = { tabindex: 0, role: "region", "aria-label": `Table of ${name.toLowerCase()}` };
  for (const [key, value] of Object.entries(attributes)) scroller.setAttribute(key, value);
  return scroller;
}

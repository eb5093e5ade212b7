// The service that the page comes from.

const MILLION = 1e6;
const MOST_TRIES = 10;
const GONE = "The service does not answer. Check that `emotion app` is still running.";
const LONGEST_WAIT_S = 4; // a service that asks for more had no time for this request, or is busy for long

/** What the service says about itself; filled by `loadAbout`. */
export const about = { networks: [], classes: [], colours: {}, ink: "", version: "", megabytes: 0, film_megabytes: 0 };

export async function loadAbout() {
  const told = await (await fetchFile("/health")).json();
  Object.assign(about, told, { classes: told.classes[told.networks[0]] }); // `emotion app` has the same for all networks
}

/**
 * Returns the answers of all networks for a photograph.
 *
 * @param image its `blob` and `name`.
 * @param question `detect`, `heatmap`, `preview`, and `confidence` if it is not that of the service.
 * @param signal ends the requests.
 * @param tries how often a busy service is asked.
 */
export function askAll(image, question, signal, tries = MOST_TRIES) {
  return Promise.all(about.networks.map((network) => ask(image, { network, ...question }, signal, tries)));
}

async function ask({ blob, name }, question, signal, tries) {
  await check(blob, name, about.megabytes);
  const form = new FormData();
  form.append("image", blob, "image");
  const answer = await send(`/predict?${new URLSearchParams(question)}`, form, signal, tries);
  if (!answer.ok) throw await problem(answer, name);
  return answer.json();
}

/** Yields what the service says about a film: a row for each classified frame, then the persons. */
export async function* askFilm({ blob, name }, signal) {
  await check(blob, name, about.film_megabytes);
  const form = new FormData();
  form.append("video", blob, name);
  const answer = await send("/film", form, signal);
  if (!answer.ok) throw await problem(answer, name);
  for await (const line of linesOf(answer.body)) {
    const row = JSON.parse(line);
    if (row.detail) throw new Error(renamed(row.detail, name));
    yield row;
  }
}

/** Refuses a file that is too large or cannot be read, such as one that has changed since it was chosen. */
async function check(blob, name, megabytes) {
  if (blob.size > megabytes * MILLION) throw new Error(`${name}: more than ${megabytes} MB`);
  await blob.slice(0, 1).arrayBuffer().catch(() => {
    throw new Error(`${name}: cannot be read; choose it again, and the files of a folder in place of the folder`);
  });
}

/** Returns the answer for a file of the page. */
export async function fetchFile(address) {
  const answer = await fetch(address).catch(() => null);
  if (!answer?.ok) throw new Error(GONE);
  return answer;
}

/** Sends a form; while the service has too much to do for a moment, it is sent again. */
async function send(address, body, signal, tries = MOST_TRIES) {
  for (let left = tries - 1; ; left--) {
    const answer = await post(address, body, signal);
    const seconds = Number(answer.headers.get("Retry-After") ?? NaN);
    if (answer.status !== 503 || !(seconds <= LONGEST_WAIT_S) || !left) return answer;
    await new Promise((done) => setTimeout(done, 1000 * seconds));
  }
}

async function post(address, body, signal) {
  try {
    return await fetch(address, { method: "POST", body, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Error(GONE);
  }
}

async function problem(answer, name) {
  const content = await answer.json().catch(() => ({}));
  return new Error(renamed(String(content.detail ?? `status ${answer.status}`), name));
}

/** The service does not know the names of files. */
const renamed = (text, name) => text.replace(/^(image|video)(?=:)/, () => name);

async function* linesOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(() => {
        throw new Error(GONE);
      });
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      yield* lines;
    }
  } finally {
    reader.cancel().catch(() => {}); // an aborted stream cannot be cancelled
  }
}

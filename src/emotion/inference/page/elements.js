// Elements of the page, and texts on them.

export const byId = (id) => document.getElementById(id);
export const percent = (share) => `${Math.round(100 * share)} %`;
export const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

export function element(name, className = "", ...content) {
  const created = document.createElement(name);
  if (className) created.className = className;
  created.append(...content);
  return created;
}

export function showMessage(text) {
  byId("message").textContent = text;
  byId("message").hidden = !text;
}

/** Shows a part of the page or hides it; if the keyboard was in it, it goes on from another part. */
export function show(part, visible, next) {
  const holds = byId(part).contains(document.activeElement);
  byId(part).hidden = !visible;
  if (holds && !visible) byId(next).focus();
}

/** Scrolls to the first result if it begins below the middle of the window, as on a phone. */
export function scrollToResults() {
  const first = ["files", "live", "result", "film"].map(byId).find((part) => !part.hidden);
  if (first?.getBoundingClientRect().top > innerHeight / 2) first.scrollIntoView();
}

/** Shows the parts of the page that are named, and hides its other results. */
export function showParts(...names) {
  for (const name of ["live", "result", "film", "history"]) byId(name).hidden = !names.includes(name);
}

// A picture beside the cards of its faces, of a photograph or of the webcam.

import { Cards } from "./cards.js";
import { Picture } from "./drawing.js";
import { byId, show } from "./elements.js";
import { summary } from "./faces.js";

const picture = new Picture(byId("image"), { onPoint: activate, onPick: (number) => cards.focus(number) });
const cards = new Cards(byId("faces"), activate);

/** Lights up the box and the card of a face; null lights up none. */
function activate(number) {
  picture.activate(number);
  cards.activate(number);
}

/**
 * Shows a picture and its faces.
 *
 * @param source a canvas.
 * @param answer joined by `faces.js`, or null while it is awaited.
 * @param credit who made the picture.
 */
export function showResult(source, answer, credit = "") {
  setBusy(!answer);
  picture.show(source, answer);
  cards.show(source, answer ?? { width: source.width, faces: [] });
  byId("summary").textContent = answer ? summary(answer) : "Looking for faces …";
  byId("credit").textContent = credit;
  show("hints", answer?.faces.length === 0, "summary");
  byId("networks").hidden = !answer?.faces.some(({ members }) => members.length > 1);
}

function setBusy(busy) {
  byId("result").setAttribute("aria-busy", String(busy));
  byId("spinner").hidden = !busy;
}

export function showHeatmaps(wanted) {
  picture.heatmaps = wanted;
  picture.draw();
}

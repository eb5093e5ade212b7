// Cards: one for each face, with its number, a small copy of it, and its most probable expressions.

import { element, percent } from "./elements.js";
import { colourOf, newCanvas } from "./drawing.js";
import { isUnsure, labelOf, ranked } from "./faces.js";
import { about } from "./service.js";

const TOP = 2; // expressions that are not folded
const MOST_FOLDED = 24; // expressions that are folded; of more, none are in the page until they are unfolded
const THUMBNAIL = 112; // pixels, shown at half the size

/**
 * The cards of a picture's faces. They stay the same elements while their number stays, so that the focus and what is
 * unfolded stay, too.
 *
 * @param root the list that holds the cards.
 * @param onPoint called with the number of the face whose card has the pointer or the focus, or null.
 */
export class Cards {
  constructor(root, onPoint) {
    Object.assign(this, { root, onPoint, cards: [] });
  }

  show(source, { width, faces }) {
    while (this.cards.length > faces.length) this.cards.pop().item.remove();
    while (this.cards.length < faces.length) {
      const card = new Card(this.onPoint);
      this.cards.push(card);
      this.root.append(card.item);
    }
    faces.forEach((face, index) => this.cards[index].show(source, source.width / width, face));
    this.root.classList.toggle("compared", about.networks.length > 1);
  }

  /** Lights up the card of a face, and no other. */
  activate(number) {
    for (const { item, face } of this.cards) item.classList.toggle("active", face.number === number);
  }

  focus(number) {
    this.cards.find(({ face }) => face.number === number)?.item.focus();
  }
}

class Card {
  constructor(onPoint) {
    this.thumbnail = newCanvas(THUMBNAIL, THUMBNAIL);
    this.thumbnail.setAttribute("aria-hidden", "true");
    this.badge = element("span", "badge");
    this.name = element("span", "name");
    this.unsure = element("span", "unsure", "unsure");
    this.share = element("span", "share");
    this.confidence = element("small", "confidence");
    this.top = element("table", "bars");
    this.more = element("table", "bars");
    this.summary = element("summary");
    this.details = element("details", "", this.summary, this.more);
    this.details.addEventListener("toggle", () => this.unfold());
    const title = element("div", "title", element("h3", "", this.name, " ", this.share, this.unsure), this.confidence);
    this.item = element("li", "face", element("div", "card", element("div", "thumbnail", this.thumbnail, this.badge), title,
      this.top, this.details));
    this.item.tabIndex = 0;
    for (const name of ["pointerenter", "focusin"]) this.item.addEventListener(name, () => onPoint(this.face.number));
    for (const name of ["pointerleave", "focusout"]) this.item.addEventListener(name, () => onPoint(null));
  }

  show(source, factor, face) {
    this.face = face;
    this.drawThumbnail(source, face.box.map((value) => value * factor));
    this.badge.textContent = face.number;
    this.badge.style.backgroundColor = colourOf(face);
    this.badge.style.color = about.ink;
    this.name.textContent = labelOf(face);
    this.share.textContent = percent(face.score);
    this.unsure.hidden = !isUnsure(face);
    this.item.classList.toggle("is-unsure", isUnsure(face));
    this.item.setAttribute("aria-label", `Face ${face.number}`);
    this.confidence.textContent = face.confidence === null ? "cropped face" : `face ${percent(face.confidence)}`;
    this.confidence.title = face.confidence === null ? "" : "How sure the detector is that this is a face";
    const names = ranked(face.probabilities).map(([name]) => name);
    this.fill(this.top, names.slice(0, TOP));
    this.rest = names.slice(TOP);
    this.unfold();
    this.summary.textContent = `${this.rest.length} more`;
    this.details.hidden = !this.rest.length;
  }

  /** Fills the table of the further expressions; hundreds of them only once they are seen. */
  unfold() {
    this.fill(this.more, this.details.open || this.rest.length <= MOST_FOLDED ? this.rest : []);
  }

  drawThumbnail(source, [left, top, width, height]) {
    const pen = this.thumbnail.getContext("2d");
    pen.clearRect(0, 0, THUMBNAIL, THUMBNAIL);
    pen.imageSmoothingQuality = "high";
    pen.drawImage(source, left, top, width, height, 0, 0, THUMBNAIL, THUMBNAIL);
  }

  /** Returns a row of a table: the expression, a bar, and the probabilities: the mean, then that of each network. */
  row(name) {
    const { probabilities, members } = this.face;
    const bar = element("i");
    bar.style.width = `${100 * probabilities[name]}%`;
    bar.style.backgroundColor = about.colours[name];
    const heading = element("th", "", name);
    heading.scope = "row";
    heading.title = name;
    const values = members.length > 1 ? members.map((member) => element("td", "member", percent(member[name]))) : [];
    const cell = element("td", "gauge", bar);
    cell.setAttribute("aria-hidden", "true");
    return element("tr", "", heading, cell, element("td", "mean", percent(probabilities[name])), ...values);
  }

  fill(table, classes) {
    const parts = [element("tbody", "", ...classes.map((name) => this.row(name)))];
    if (this.face.members.length > 1) {
      const names = ["mean", ...about.networks].map((name) => Object.assign(element("th", "", name), { scope: "col", title: name }));
      parts.unshift(element("thead", "", element("tr", "", element("td"), element("td", "gauge"), ...names)));
    }
    table.replaceChildren(...parts);
  }
}

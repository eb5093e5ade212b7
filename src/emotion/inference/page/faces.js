// Classified faces, as the page shows them.

import { percent } from "./elements.js";
import { about } from "./service.js";

const [UNSURE, UNSURE_OF_TWO] = [0.5, 2 / 3]; // labels of a lower probability are marked as unsure

export const isUnsure = ({ score }) => score < (about.classes.length === 2 ? UNSURE_OF_TWO : UNSURE);
export const labelOf = (face) => (isUnsure(face) ? `${face.label}?` : face.label);
export const titleOf = (face) => `${labelOf(face)} ${percent(face.score)}`;

/** Returns [class, probability], the most probable first. */
export function ranked(probabilities) {
  return about.classes.map((name) => [name, probabilities[name]]).sort((one, other) => other[1] - one[1]);
}

/** Replaces the label of a face by that of its probabilities. */
export function labelled(face) {
  const [label, score] = ranked(face.probabilities)[0];
  return { ...face, label, score };
}

/**
 * Joins the answers of all networks for a picture to one with numbered faces.
 *
 * The probabilities of a face are the mean over the networks; `members` holds those of each network, in their order. Its
 * heatmap is the mean over the networks that give heatmaps and the same label, which a heatmap explains.
 */
export function joined(answers) {
  const [first] = answers;
  const faces = first.faces.map((face, index) => {
    const members = answers.map((answer) => answer.faces[index].probabilities);
    // The label of one network stays: its probabilities are rounded, so that two of them may be equal here.
    const joint = answers.length === 1 ? face : labelled({ ...face, probabilities: mean(members) });
    const own = answers.map((answer) => answer.faces[index]).filter(({ label, heatmap }) => heatmap && label === joint.label);
    const heatmap = own.length ? meanMap(own.map((one) => one.heatmap)) : null;
    return { ...joint, number: index + 1, members, heatmap };
  });
  return { ...first, faces };
}

const average = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function mean(members) {
  return Object.fromEntries(about.classes.map((name) => [name, average(members.map((member) => member[name]))]));
}

function meanMap(maps) {
  return maps[0].map((row, y) => row.map((_, x) => average(maps.map((map) => map[y][x]))));
}

/** Returns the face whose box is largest, or null. */
export function largest(faces) {
  return faces.reduce((best, face) => (best && best.box[2] >= face.box[2] ? best : face), null);
}

/** Says in a sentence which faces a picture shows. */
export function summary({ faces, found }) {
  if (!faces.length) return "No face was found.";
  if (found === 1) return `One face: ${titleOf(faces[0])}.`;
  const count = found > faces.length ? `The ${faces.length} largest of ${found} faces are classified` : `${found} faces`;
  return `${count}: ${counts(faces).map(([label, number]) => `${number} ${label}`).join(", ")}.`;
}

/** Returns [label, number of faces], the most frequent first; unsure labels are counted apart. */
function counts(faces) {
  const numbers = new Map();
  for (const face of faces) {
    const label = isUnsure(face) ? "unsure" : face.label;
    numbers.set(label, (numbers.get(label) ?? 0) + 1);
  }
  return [...numbers].sort((one, other) => other[1] - one[1]);
}

// Follows the faces of the webcam from picture to picture, and averages their probabilities over time.

import { labelled } from "./faces.js";
import { about } from "./service.js";

const LONGEST_GAP_S = 1.5; // for which a face may be out of sight without becoming a new one
const FARTHEST = 1; // a face moves at most so many of its sides between two pictures

export class Tracks {
  constructor() {
    this.tracks = []; // { number, second, box, probabilities }
    this.count = 0;
  }

  /**
   * Returns the faces with the numbers of their tracks and averaged probabilities; the newest count most.
   *
   * @param faces joined by faces.js.
   * @param second of the picture.
   * @param smooth seconds over which probabilities are averaged; 0 for none.
   */
  update(faces, second, smooth) {
    this.tracks = this.tracks.filter((track) => second - track.second <= LONGEST_GAP_S);
    const found = matches(faces, this.tracks);
    return faces.map((face, index) => {
      const track = found.get(index) ?? this.begin(face);
      const weight = track.second === null || smooth === 0 ? 1 : 1 - Math.exp(-(second - track.second) / smooth);
      const names = about.classes;
      const mixed = names.map((name) => [name, track.probabilities[name] + weight * (face.probabilities[name] - track.probabilities[name])]);
      Object.assign(track, { second, box: face.box, probabilities: Object.fromEntries(mixed) });
      return labelled({ ...face, number: track.number, person: track.number, raw: face.probabilities, probabilities: track.probabilities });
    });
  }

  begin({ box, probabilities }) {
    const track = { number: ++this.count, second: null, box, probabilities };
    this.tracks.push(track);
    return track;
  }
}

/** Returns the track of each face, by the index of the face; the closest pairs are matched first. */
function matches(faces, tracks) {
  const pairs = faces.flatMap(({ box }, index) => tracks.map((track) => ({ index, track, apart: distance(box, track.box) })));
  const found = new Map();
  const taken = new Set();
  for (const { index, track, apart } of pairs.sort((one, other) => one.apart - other.apart)) {
    if (apart > FARTHEST || found.has(index) || taken.has(track)) continue;
    found.set(index, track);
    taken.add(track);
  }
  return found;
}

/** Returns the distance of the centres of two boxes, in sides of the larger one. */
function distance(box, other) {
  const apart = [0, 1].map((axis) => box[axis] + box[axis + 2] / 2 - other[axis] - other[axis + 2] / 2);
  return Math.hypot(...apart) / Math.max(box[2], other[2]);
}

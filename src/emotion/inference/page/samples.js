// Sample photographs, whose origins are listed in CREDITS.md.

import { byId, element } from "./elements.js";
import { fetchFile } from "./service.js";

const SAMPLES = [
  { file: "collins.jpg", name: "Eileen Collins, astronaut", credit: "Photograph: NASA, in the public domain." },
  { file: "hopper.jpg", name: "Grace Hopper, computer scientist", credit: "Photograph: US Navy, in the public domain." },
  { file: "thompson.jpg", name: "Florence Owens Thompson, “Migrant Mother”, 1936",
    credit: "Photograph: Dorothea Lange, Farm Security Administration, in the public domain." },
  { file: "einstein.jpg", name: "Albert Einstein, physicist, 1921", credit: "Photograph: Ferdinand Schmutzer, in the public domain." },
];

/** Fills the list of samples; `take` is called with the promise of a file and who made it. */
export function addSamples(take) {
  for (const { file, name, credit } of SAMPLES) {
    const thumbnail = element("img");
    Object.assign(thumbnail, { src: `/page/samples/${file}`, alt: name });
    const choose = element("button", "", thumbnail);
    choose.type = "button";
    choose.title = name;
    choose.addEventListener("click", () => take(load(thumbnail.src, file), `${name}. ${credit}`));
    byId("samples").append(element("li", "", choose));
  }
}

async function load(address, name) {
  const blob = await (await fetchFile(address)).blob();
  return [new File([blob], name, { type: blob.type })];
}

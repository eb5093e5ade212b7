// Sample photographs, whose origins are listed in CREDITS.md.

import { byId, element, showMessage } from "./elements.js";

const SAMPLES = [
  { file: "collins.jpg", name: "Eileen Collins, astronaut", credit: "Photograph: NASA, in the public domain." },
  { file: "hopper.jpg", name: "Grace Hopper, computer scientist", credit: "Photograph: US Navy, in the public domain." },
  { file: "thompson.jpg", name: "Florence Owens Thompson, “Migrant Mother”, 1936",
    credit: "Photograph: Dorothea Lange, Farm Security Administration, in the public domain." },
  { file: "einstein.jpg", name: "Albert Einstein, physicist, 1921", credit: "Photograph: Ferdinand Schmutzer, in the public domain." },
];

/** Fills the list of samples; `take` is called with a file and who made it. */
export function addSamples(take) {
  for (const { file, name, credit } of SAMPLES) {
    const thumbnail = element("img");
    Object.assign(thumbnail, { src: `/page/samples/${file}`, alt: name });
    const choose = element("button", "", thumbnail);
    choose.type = "button";
    choose.title = name;
    choose.addEventListener("click", async () => {
      try {
        const blob = await (await fetch(thumbnail.src)).blob();
        take([new File([blob], file, { type: blob.type })], `${name}. ${credit}`);
      } catch {
        showMessage("The service does not answer. Check that `emotion app` is still running.");
      }
    });
    byId("samples").append(element("li", "", choose));
  }
}

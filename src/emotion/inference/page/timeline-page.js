// Starts the page of a timeline. It follows timeline.js in the one script of that page.

const { timeline, address } = JSON.parse(document.getElementById("data").textContent);
const [film, video, missing, file] = ["film", "video", "missing", "file"].map((id) => document.getElementById(id));

/** Shows either the film, or a text and the button that opens it. */
function showFilm(found, text = "") {
  video.hidden = !found;
  missing.hidden = found;
  missing.querySelector("p").textContent = text;
}

function openFilm(source) {
  showFilm(true);
  video.src = source;
}

function cannotPlay() {
  showFilm(false, file.files.length ? "This browser cannot play this film. An MP4 file (H.264) can be played."
    : "The film is not where it was, or this browser cannot play it.");
}

video.addEventListener("error", cannotPlay);
video.addEventListener("loadedmetadata", () => video.videoWidth || cannotPlay()); // the sound alone can be played
file.addEventListener("change", () => {
  if (file.files.length) openFilm(URL.createObjectURL(file.files[0]));
});
if (address) openFilm(address);
else showFilm(false, "Open the film to watch it along with its timeline. It stays on this device.");
film.hidden = !timeline.persons.length;
drawTimeline(document.getElementById("timeline"), timeline, { video });
